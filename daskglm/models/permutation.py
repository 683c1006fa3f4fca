"""nilearn's function of permutation tests on images, and what is shared with that on arrays."""

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.design.contrasts import contrast_matrix
from daskglm.design.matrix import check_design, design_array
from daskglm.errors import (
    ContrastError,
    DesignError,
    ImageTypeError,
    NothingToTestError,
    ParameterError,
    listing,
    nearest,
)
from daskglm.graph.samples import match_design
from daskglm.inference.permutation import permutation_test
from daskglm.io.tables import as_table
from daskglm.kernels.basis import orthonormal_basis
from daskglm.models.doubts import warn_of_doubts
from daskglm.models.first_level_input import are_models, effects_of_models, subjects_of_models
from daskglm.models.inputs import Loaded, load_images, load_maps
from daskglm.models.options import Options
from daskglm.models.parameters import warn_of_confounds
from daskglm.schema.datasets import sample_names, space_of
from daskglm.schema.headers import describe_map

# nilearn's names of maps and ours.
MAP_NAMES = {
    "t": "stat",
    "logp_max_t": "logp_max_stat",
    "logp_t": "logp_stat",
    "logq_t": "logq_stat",
    "cor_z_score": "z_max_stat",
    "tfce": "tfce",
    "logp_max_tfce": "logp_max_tfce",
    "logp_tfce": "logp_tfce",
    "size": "size",
    "logp_max_size": "logp_max_size",
    "mass": "mass",
    "logp_max_mass": "logp_max_mass",
}
NULL_NAMES = {
    "h0_max_t": "h0_max_stat",
    "h0_max_tfce": "h0_max_tfce",
    "h0_max_size": "h0_max_size",
    "h0_max_mass": "h0_max_mass",
}


def non_parametric_inference(
    second_level_input: Any,
    confounds: Any = None,
    design_matrix: Any = None,
    second_level_contrast: Any = None,
    first_level_contrast: str | None = None,
    mask: Any = None,
    smoothing_fwhm: Any = None,
    model_intercept: bool = True,
    n_perm: int = 10_000,
    two_sided_test: bool = False,
    random_state: Any = None,
    n_jobs: int | None = -1,
    verbose: int = 0,
    threshold: float | None = None,
    tfce: bool | str = False,
    *,
    missing: str = "nan",
    **options: Any,
) -> Any:
    """Test a contrast across subjects by permutation, as nilearn's function of this name.

    Parameters
    ----------
    second_level_input : list of FirstLevelModel, paths, images, glob, store, images dataset, or DataFrame
        As for :meth:`SecondLevelModel.fit <daskglm.SecondLevelModel.fit>`.
    confounds : DataFrame, optional
        Not used beside `design_matrix`, as in nilearn, but with a warning.
    design_matrix : (n, p) DataFrame
        Design in the order of the samples.
    second_level_contrast : str, array or list, optional
        Contrast of its columns; may be left out where there is one. Several rows are an F contrast.
    first_level_contrast : str, optional
        Which maps: of models always, of a DataFrame where it names several.
    mask : image, path, fitted masker, False or None
        Voxels to analyse.
    smoothing_fwhm : float, 3 floats or None
        Smoothing of each image, in mm.
    model_intercept : bool
        Add a constant to the nuisance, where the design has none and a constant is not what is tested.
    n_perm : int
        Rearrangements.
    two_sided_test : bool
        Either sign counts.
    random_state : int, RandomState or None
        Rearrangement i depends on it and i alone.
    n_jobs : int or None
        Threads in this process, where no ``distributed.Client`` is active. Results do not depend on it.
    verbose : int
        1 and more: a progress bar.
    threshold : float, optional
        Cluster-forming p: cluster size and mass are tested too.
    tfce : bool or "stepwise"
        Threshold-free cluster enhancement too; "stepwise" with nilearn's sum.
    missing : {"nan", "zero"}
        What is a missing observation: non-finite values, or those and exact zeros.
    **options
        Further arguments of :func:`permutation_test`: ``scheme``, ``rearrangement``, ``within``, ``whole``,
        ``min_coverage``, ``allow_rank_deficient``, ...

    Returns
    -------
    Nifti1Image or dict
        An image of -log10 corrected p, or with `threshold` or `tfce` nilearn's dictionary of images (``t``,
        ``logp_max_t``, ``tfce``, ``logp_max_tfce``, ``size``, ``logp_max_size``, ``mass``, ``logp_max_mass``). It holds
        uncorrected ``logp_t``, false discovery rates ``logq_t``, corrected z ``cor_z_score``, and the nulls
        ``h0_max_...`` as arrays besides.

    Raises
    ------
    ContrastError, DesignError, ImageError, ParameterError
        Before the work, wherever it can be known.
    """
    coverage = options.get("min_coverage", 0.5)
    reading = Options(mask, missing, min_coverage=coverage, smoothing_fwhm=smoothing_fwhm, n_jobs=n_jobs)
    loaded = images_of(second_level_input, first_level_contrast, reading)
    n_samples = loaded.images.sizes["sample"]
    if n_samples < 2:
        raise ImageTypeError(f"a permutation test needs at least two images, but there is {n_samples}")
    if design_matrix is None:
        raise DesignError("a permutation test needs a design; give design_matrix, a row an image")
    design = match_design(as_table(design_matrix), loaded.images)
    warn_of_confounds(confounds, design_matrix)
    contrast = contrast_of(design, second_level_contrast)
    deficient = options.get("allow_rank_deficient", False)
    check_design(design, n_samples, allow_rank_deficient=deficient, allow_saturated=True)
    if model_intercept:
        design, contrast = _with_intercept(design, contrast)
    if orthonormal_basis(design_array(design)).rank >= n_samples:
        why = f"the design saturates {n_samples} images; add images or drop columns (model_intercept adds one)"
        return _of_nothing(loaded.images, threshold is not None, bool(tfce), why)
    try:
        maps = permutation_test(
            loaded.images, design, {"contrast": contrast}, n_perm=n_perm, two_sided=two_sided_test,
            random_state=seed_of(random_state), n_jobs=n_jobs, threshold=threshold, tfce=tfce, progress=verbose > 0,
            **options,
        )  # fmt: skip
    except NothingToTestError as error:
        return _of_nothing(loaded.images, threshold is not None, bool(tfce), str(error))
    # Images are read for it: not before all that can be refused was.
    warn_of_doubts(loaded, reading)
    images = permutation_images(maps, "contrast")
    return images if threshold is not None or tfce else images["logp_max_t"]


def _of_nothing(images: xr.Dataset, clusters: bool, tfce: bool, why: str) -> Any:
    """The maps where nothing can be tested: NaN, with a warning."""
    warnings.warn(f"nothing is permuted, and all maps are NaN: {why}", stacklevel=3)
    space = space_of(images)
    nothing = space.to_image(np.full(space.voxels.size, np.nan), outside=0)
    names = ["t", "logp_max_t", *(["size", "logp_max_size", "mass", "logp_max_mass"] if clusters else [])]
    names += ["tfce", "logp_max_tfce"] if tfce else []
    return dict.fromkeys(names, nothing) if clusters or tfce else nothing


def permutation_images(maps: xr.Dataset, contrast: str) -> dict[str, Any]:
    """Maps of one contrast as images, by nilearn's names, and its nulls as arrays.

    Parameters
    ----------
    maps : xarray.Dataset
        From :func:`permutation_test`.
    contrast : str
        Name of the contrast.

    Returns
    -------
    dict
        Images, outside the mask 0; ``h0_max_...`` of m numbers.
    """
    space, chosen = space_of(maps), maps.sel(contrast=contrast)
    images: dict[str, Any] = {
        name: describe_map(space.to_image(np.asarray(chosen[ours].values), outside=0), chosen, ours)
        for name, ours in MAP_NAMES.items()
        if ours in chosen
    }
    return images | {name: np.asarray(chosen[ours].values) for name, ours in NULL_NAMES.items() if ours in chosen}


def seed_of(random_state: Any) -> int:
    """A seed from what nilearn takes as random_state.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        None: another one each time.

    Returns
    -------
    int

    Raises
    ------
    ParameterError
        Where it is none of these.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    if isinstance(random_state, bool) or not isinstance(random_state, Integral) or random_state < 0:
        raise ParameterError(
            f"random_state is a whole number from 0, a RandomState, a Generator or None, but it is {random_state!r}"
        )
    return int(random_state)


def images_of(given: Any, first_level_contrast: str | None, options: Options) -> Loaded:
    """Images of a second level, of one first-level contrast.

    Parameters
    ----------
    given : list of FirstLevelModel, paths, images, glob, store, images dataset, or DataFrame
        Input of a second level.
    first_level_contrast : str or None
        Which maps: of models always, of a DataFrame where it names several.
    options : Options
        Mask, smoothing, resampling.

    Returns
    -------
    Loaded

    Raises
    ------
    ContrastError
        Where the input has no such maps.
    """
    if are_models(given):
        return effects_of_models(given, first_level_contrast, options, sample_names(subjects_of_models(given).images))
    if not isinstance(given, pd.DataFrame):
        return load_images(given, options)
    loaded: Mapping[str | None, Loaded] = load_maps(given, options)
    if first_level_contrast in loaded:
        return loaded[first_level_contrast]
    if len(loaded) == 1 and first_level_contrast is None:
        return next(iter(loaded.values()))
    raise ContrastError(
        f"the input has maps of {listing(map(str, loaded))}, but first_level_contrast is {first_level_contrast!r}"
        f"{nearest(first_level_contrast, loaded) or '; name one of them'}"
    )


def contrast_of(design: pd.DataFrame, contrast: Any) -> Any:
    """A contrast; the only column where none is given.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design.
    contrast : str, array, list or None
        Contrast.

    Returns
    -------
    str, array or list

    Raises
    ------
    ContrastError
        Where none is given and the design has several columns.
    """
    if contrast is not None:
        return contrast
    if design.shape[1] != 1:
        raise ContrastError(f"a contrast is needed where the design has several columns: {listing(design.columns)}")
    return str(design.columns[0])


def _with_intercept(design: pd.DataFrame, contrast: Any) -> tuple[pd.DataFrame, Any]:
    """A design that spans the constant, and the contrast for it."""
    matrix = design.to_numpy(dtype=np.float64)
    left = np.ones(len(matrix)) - matrix @ np.linalg.lstsq(matrix, np.ones(len(matrix)), rcond=None)[0]
    if np.abs(left).max() < 1e-10:
        return design, contrast
    wider = design.assign(**{"intercept" if "intercept" not in design else "_intercept": 1.0})
    if not isinstance(contrast, (str, pd.Series, pd.DataFrame)) and not _is_texts(contrast):
        weights = contrast_matrix(contrast, [str(name) for name in design.columns])
        contrast = np.pad(weights, ((0, 0), (0, wider.shape[1] - weights.shape[1])))
    return wider, contrast


def _is_texts(contrast: Any) -> bool:
    """Whether a contrast is a list of expressions."""
    return isinstance(contrast, (list, tuple)) and all(isinstance(row, str) for row in contrast)
