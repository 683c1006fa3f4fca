"""nilearn's function of permutation tests on arrays."""

import warnings
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskglm.design.matching import are_ids, label_text, match_rows
from daskglm.errors import DesignError, DesignTypeError, ImageError, NothingToTestError, check_choice
from daskglm.inference.permutation import permutation_test
from daskglm.kernels.moments import Array
from daskglm.models.permutation import MAP_NAMES, NULL_NAMES, seed_of
from daskglm.schema.datasets import images_dataset
from daskglm.schema.space import VolumeSpace


def permuted_ols(
    tested_vars: ArrayLike,
    target_vars: ArrayLike,
    confounding_vars: ArrayLike | None = None,
    model_intercept: bool = True,
    n_perm: int = 10_000,
    two_sided_test: bool = True,
    random_state: Any = None,
    n_jobs: int | None = -1,
    verbose: int = 0,
    masker: Any = None,
    tfce: bool | str = False,
    threshold: float | None = None,
    output_type: str = "dict",
    **options: Any,
) -> Any:
    """Test each of some variables by permutation, on arrays, as nilearn's function of this name.

    Parameters
    ----------
    tested_vars : (n, R) or (n,) array-like
        Variables, each tested by itself.
    target_vars : (n, V) array-like
        Data; what is not finite is missing. Of what comes as a Series or DataFrame rows are matched by index.
    confounding_vars : (n, q) array-like, optional
        Nuisance of all tests.
    model_intercept : bool
        Add a constant to it, but where the tested variable is one.
    n_perm, two_sided_test, random_state, n_jobs, verbose, tfce, threshold
        As for :func:`non_parametric_inference`; n_perm of 0 gives ``t`` alone.
    masker : fitted masker or VolumeSpace, optional
        Where the V voxels are: needed for `tfce` and `threshold`.
    output_type : {"dict", "legacy"}
        "legacy", deprecated as in nilearn: a tuple of ``logp_max_t``, ``t`` and ``h0_max_t``.
    **options
        Further arguments of :func:`permutation_test`.

    Returns
    -------
    dict of str to array, or tuple of arrays
        nilearn's keys: ``t, logp_max_t (R, V)``, ``h0_max_t (R, n_perm)``, and those of clusters and TFCE. NaN, with a
        warning, for a tested variable whose design explains every voxel.

    Raises
    ------
    DesignError, ImageError, ParameterError
        Where shapes do not fit, or the space of the voxels is needed and not given.
    """
    target_vars, tested_vars, confounding_vars, names = _in_one_order(target_vars, tested_vars, confounding_vars)
    values, tested, nuisance = _checked(target_vars, tested_vars, confounding_vars)
    check_choice("output_type", output_type, ("dict", "legacy"))
    if output_type == "legacy":
        warnings.warn(
            "output_type='legacy' is deprecated, as in nilearn; take the dictionary", FutureWarning, stacklevel=2
        )
        if tfce or threshold is not None:
            warnings.warn("a legacy tuple has no place for clusters and TFCE: the dictionary is given", stacklevel=2)
            output_type = "dict"
    if (tfce or threshold is not None) and masker is None:
        raise ImageError("clusters and TFCE need to know where voxels are; give masker")
    _warn_of_constants(values, nuisance)
    space, order = _space_of_masker(masker, values.shape[1])
    names = names or [str(row) for row in range(len(values))]
    images = images_dataset(values[:, order], names, space)
    seed, alone = seed_of(random_state), n_perm == 0
    arguments = {"min_coverage": 0.0, "allow_rank_deficient": True, "threshold": threshold, "tfce": tfce, **options}
    made: list[xr.Dataset | None] = []
    for number, column in enumerate(tested.T):
        design = _design_of_arrays(column, nuisance, model_intercept).set_axis(names, axis=0)
        try:
            maps = permutation_test(
                images, design, {"tested": np.eye(design.shape[1])[0]}, n_perm=1 if alone else n_perm,
                two_sided=two_sided_test, random_state=seed, n_jobs=n_jobs, progress=verbose > 0, **arguments,
            )  # fmt: skip
        except NothingToTestError as error:
            if not np.isfinite(values).any():
                raise
            warnings.warn(
                f"nothing is permuted, and all maps of tested variable {number} are NaN: {error}", stacklevel=2
            )
            maps = None
        made.append(maps)
    width = next((maps.sizes["permutation"] for maps in made if maps is not None), n_perm)
    nothing = _of_nothing(values.shape[1], width, threshold is not None, bool(tfce))
    found = [nothing if maps is None else maps for maps in made]
    given = np.argsort(order)
    kept = {name: ours for name, ours in MAP_NAMES.items() if ours in found[0] and (not alone or name in ("t", "tfce"))}
    result = {name: np.concatenate([maps[ours].values for maps in found])[:, given] for name, ours in kept.items()}
    nulls = {} if alone else {name: ours for name, ours in NULL_NAMES.items() if ours in found[0]}
    result |= {name: np.concatenate([maps[ours].values for maps in found]) for name, ours in nulls.items()}
    if output_type == "dict":
        return result
    return result.get("logp_max_t", np.empty(0)), result["t"], result.get("h0_max_t", np.empty(0))


def _of_nothing(n_voxels: int, n_perm: int, clusters: bool, tfce: bool) -> xr.Dataset:
    """What a test gives where no voxel can be tested: NaN."""
    maps = {name: (("contrast", "voxel"), np.full((1, n_voxels), np.nan)) for name in MAP_NAMES.values()}
    nulls = {name: (("contrast", "permutation"), np.full((1, n_perm), np.nan)) for name in NULL_NAMES.values()}
    left_out = [*(() if clusters else ("size", "mass")), *(() if tfce else ("tfce",))]
    kept = {name: item for name, item in {**maps, **nulls}.items() if not name.endswith(tuple(left_out))}
    return xr.Dataset(kept)


def _in_one_order(target_vars: Any, tested_vars: Any, confounding_vars: Any) -> tuple[Any, Any, Any, list[str]]:
    """Data, tested variables and nuisance, those of pandas in the order of the first of them; and its labels."""
    given = {"target_vars": target_vars, "tested_vars": tested_vars, "confounding_vars": confounding_vars}
    indexed = {name: item for name, item in given.items() if isinstance(item, (pd.Series, pd.DataFrame))}
    if not indexed:
        return target_vars, tested_vars, confounding_vars, []
    first = next(iter(indexed.values())).index
    names = [label_text(label) for label in first]
    named_by = "id" if are_ids(first) or not first.equals(pd.RangeIndex(len(first))) else "order"
    for name, item in indexed.items():
        rows = match_rows(item.index, names, named_by, table=name)
        given[name] = item if rows is None else item.iloc[rows]
    return given["target_vars"], given["tested_vars"], given["confounding_vars"], names


def _checked(target_vars: Any, tested_vars: Any, confounding_vars: Any) -> tuple[NDArray[Any], Array, Array]:
    """Data (n, V), tested variables (n, R) and nuisance (n, q): finite real numbers of the same n."""
    values = np.asarray(target_vars)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise DesignError(f"target_vars is real numbers (n, V), but it is {values.dtype} of shape {values.shape}")
    found = []
    for name, given in (("tested_vars", tested_vars), ("confounding_vars", confounding_vars)):
        try:
            array = np.empty((len(values), 0)) if given is None else np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DesignTypeError(f"{name} is numbers, but {error}") from error
        if array.ndim not in (1, 2) or len(array) != len(values):
            raise DesignError(f"{name} has a row for each of the {len(values)} of target_vars, but is {array.shape}")
        if not np.isfinite(array).all():
            raise DesignError(f"{name} is finite numbers, but has NaN or infinity; drop those rows")
        found.append(array.reshape(len(values), -1))
    return (values, *found)  # type: ignore[return-value]


def _warn_of_constants(values: NDArray[Any], nuisance: Array) -> None:
    """Warn of data that do not vary, and of several constants in the nuisance."""
    flat = int((np.ptp(values, axis=0) == 0).sum())
    if flat:
        warnings.warn(
            f"{flat} of {values.shape[1]} columns of target_vars do not vary: nothing is tested there, and t is NaN",
            stacklevel=3,
        )
    constant = int((np.ptp(nuisance, axis=0) == 0).sum())
    if constant > 1:
        warnings.warn(
            f"{constant} columns of confounding_vars are constant; keep one as the intercept",
            stacklevel=3,
        )


def _space_of_masker(masker: Any, n_voxels: int) -> tuple[VolumeSpace, NDArray[np.int64]]:
    """Where voxels are, in a row where nobody says, and their order in the space: nilearn's maskers have another."""
    if isinstance(masker, VolumeSpace):
        return _fitting(masker, n_voxels), np.arange(n_voxels)
    if masker is None:
        row = nib.Nifti1Image(np.empty((n_voxels, 1, 1), dtype=np.uint8), np.eye(4))
        return VolumeSpace.from_image(row), np.arange(n_voxels)
    image = getattr(masker, "mask_img_", None)
    if image is None:
        raise ImageError(f"masker is a fitted masker or a VolumeSpace, but it is {masker!r}; call its fit first")
    space = VolumeSpace.from_image(image, np.asanyarray(image.dataobj) != 0)
    return _fitting(space, n_voxels), np.argsort(space.c_order)


def _fitting(space: VolumeSpace, n_voxels: int) -> VolumeSpace:
    """A space, of as many voxels as the data."""
    if space.voxels.size != n_voxels:
        raise ImageError(f"masker has the voxels of target_vars, but it has {space.voxels.size} for {n_voxels}")
    return space


def _design_of_arrays(tested: Array, nuisance: Array, model_intercept: bool) -> pd.DataFrame:
    """Design of one tested variable and its nuisance."""
    columns = {"tested": tested, **{f"confound_{number}": column for number, column in enumerate(nuisance.T)}}
    constant = any(np.ptp(column) == 0 for column in columns.values())
    if model_intercept and not constant:
        columns["intercept"] = np.ones(len(tested))
    return pd.DataFrame(columns)
