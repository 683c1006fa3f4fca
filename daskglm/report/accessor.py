"""``dataset.glm``: from a labelled dataset to images, pictures and a few facts about it.

xarray knows it as soon as a public name of daskglm that works with datasets is used; after ``import xarray`` alone,
``import daskglm.report.accessor`` makes it known.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from daskglm.errors import ContrastError, DaskGLMError, ImageError, ParameterError, check_choice, listing, nearest
from daskglm.schema.datasets import participants_of, sample_names, space_of
from daskglm.schema.headers import describe_map


@xr.register_dataset_accessor("glm")  # type: ignore[no-untyped-call]
class GLMAccessor:
    """Images, pictures and facts of an images dataset, a fit or maps.

    Parameters
    ----------
    dataset : xarray.Dataset
        From :func:`~daskglm.open_images`, :func:`~daskglm.fit_glm`, :func:`~daskglm.compute_contrasts`,
        :func:`~daskglm.permutation_test`, or what `sel` leaves of one.

    Examples
    --------
    >>> import nibabel as nib, numpy as np
    >>> from daskglm import VolumeSpace, images_dataset
    >>> space = VolumeSpace.from_image(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)))
    >>> images = images_dataset(np.arange(16.0).reshape(2, 8), ["sub-01", "sub-02"], space)
    >>> float(images.glm.to_nifti("data", sample="sub-02").dataobj[1, 0, 0])
    9.0
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def to_nifti(self, variable: str, **labels: Any) -> Any:
        """Put a variable back onto its grid.

        Parameters
        ----------
        variable : str
            One that has voxels: "z_score", "beta", "data", ...
        **labels
            One label for each further dimension: ``contrast="age"``, ``sample="sub-01"``, ``regressor="age"``;
            may be left out where the dimension has one. All effects of an F contrast come together.

        Returns
        -------
        Nifti1Image
            As written by the analyses: 3-D (4-D for the effects of an F contrast, one volume a row), outside the
            mask 0, but 1 in maps of p.

        Raises
        ------
        ContrastError, ParameterError
            Where there is no such variable, dimension or label; the nearest name is given.
        ImageError
            Where the dataset has no voxels of a known space.
        """
        from daskglm.graph.compute import compute

        chosen = self._chosen(variable, labels)
        (values,) = compute(chosen.data)
        # Few programs read images of 64-bit integers.
        values = np.asarray(values, dtype=np.int32 if chosen.dtype.kind in "iu" else None)
        if chosen.dims[0] == "component":
            used = int((~np.isnan(values)).any(axis=1).sum())
            values = values[: max(1, used)] if str(chosen["stat_type"].values) == "F" else values[0]
        image = space_of(self._dataset).to_image(values, outside=1 if variable == "p_value" else 0)
        several = "contrast" in chosen.coords and "contrast" in self._dataset.dims
        maps = self._dataset.sel(contrast=chosen["contrast"].item()) if several else self._dataset
        return describe_map(image, maps, variable)

    def plot(
        self,
        variable: str,
        *,
        plot_type: str = "slice",
        threshold: float = 1e-6,
        bg_img: Any = "MNI152",
        title: str | None = None,
        **labels: Any,
    ) -> Any:
        """Draw a variable with nilearn.

        Parameters
        ----------
        variable : str
            As for :meth:`to_nifti`.
        plot_type : {"slice", "glass"}
            Slices over a background, or a glass brain.
        threshold : float
            Values below it, of either sign, are not drawn.
        bg_img : Nifti1Image, path, "MNI152" or None
            Background of slices; None: none, for images that are not in MNI space.
        title : str, optional
            By default the variable and the labels.
        **labels
            As for :meth:`to_nifti`.

        Returns
        -------
        nilearn display
            With ``savefig(path)``, ``add_contours(image)``, ``close()``.

        Raises
        ------
        DaskGLMError
            As :meth:`to_nifti`; also where nilearn is not installed, or there is no such `plot_type`.
        """
        from daskglm.plotting.canvas import nilearn_plotting, plain
        from daskglm.report.content import PLOT_TYPES
        from daskglm.report.viewer import drawable

        check_choice("plot_type", plot_type, PLOT_TYPES)
        plotting, image = nilearn_plotting(), drawable(self.to_nifti(variable, **labels))
        shown = plain(_title(variable, labels) if title is None else title)
        if plot_type == "glass":
            return plotting.plot_glass_brain(image, threshold=threshold, title=shown, colorbar=True, plot_abs=False)
        behind = {} if isinstance(bg_img, str) and bg_img == "MNI152" else {"bg_img": bg_img}
        return plotting.plot_stat_map(image, threshold=threshold, title=shown, **behind)

    def view(
        self,
        variable: str,
        *,
        threshold: float = 1e-6,
        bg_img: Any = "MNI152",
        title: str | None = None,
        **labels: Any,
    ) -> Any:
        """Make an interactive viewer of a variable.

        Parameters
        ----------
        variable : str
            As for :meth:`to_nifti`.
        threshold, bg_img, title
            As for :meth:`plot`.
        **labels
            As for :meth:`to_nifti`.

        Returns
        -------
        nilearn.plotting.html_stat_map.StatMapView
            As :func:`~daskglm.report.viewer.view` gives it.

        Raises
        ------
        DaskGLMError
            As :meth:`plot`.
        """
        from daskglm.report.viewer import view

        image = self.to_nifti(variable, **labels)
        return view(image, threshold, bg_img, _title(variable, labels) if title is None else title)

    def __repr__(self) -> str:
        facts = _facts(self._dataset)
        width = max(len(name) for name, _ in facts)
        return "\n".join([_kind(self._dataset), *(f"  {name:<{width}}  {value}" for name, value in facts)])

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from daskglm.models.notebook import facts_html

        return facts_html(_kind(self._dataset), _facts(self._dataset))

    def _chosen(self, variable: str, labels: dict[str, Any]) -> xr.DataArray:
        """A variable (voxel), or (component, voxel), at some labels."""
        maps = _maps(self._dataset)
        if variable not in maps:
            raise _unknown(ParameterError, "variable with voxels", variable, maps)
        array = self._dataset[variable]
        dimensions = [str(name) for name in array.dims if name != "voxel"]
        for name in labels:
            if name not in dimensions:
                raise _unknown(ParameterError, f"dimension of {variable}", name, dimensions)
        for name in dimensions:
            if name in labels or name != "component":
                array = array.isel({name: _position(array, name, labels.get(name))})
        return array.transpose(..., "voxel")


def _position(array: xr.DataArray, dimension: str, label: Any) -> int:
    """Position of a label along a dimension, found by its text."""
    known = [str(value) for value in array[dimension].values]
    if label is None and len(known) == 1:
        return 0
    error = ContrastError if dimension == "contrast" else ParameterError
    if label is None:
        raise error(
            f"an image of {array.name} is that of one {dimension}; add {dimension}={known[0]!r}, or another of "
            f"{listing(known)}"
        )
    if str(label) not in known:
        raise _unknown(error, dimension, str(label), known)
    return known.index(str(label))


def _unknown(error: type[DaskGLMError], what: str, name: str, known: Sequence[str]) -> DaskGLMError:
    """The error about a name that is not there, with the nearest one that is."""
    hint = nearest(name, known) or "."
    return error(f"no {what} is called {name!r}{hint} There is {listing(known, 30) or 'none'}")


def _maps(dataset: xr.Dataset) -> list[str]:
    """Variables that can be put onto the grid."""
    if "space" not in dataset.attrs or "voxel" not in dataset.coords:
        raise ImageError(
            "a dataset of daskglm has a coordinate voxel and an attribute space, but this one has not; take it from "
            "daskglm, and keep its attributes (xarray.set_options(keep_attrs=True))"
        )
    return [str(name) for name, array in dataset.data_vars.items() if "voxel" in array.dims]


def _title(variable: str, labels: dict[str, Any]) -> str:
    """What a picture is of."""
    return ", ".join([variable, *(f"{name} {label}" for name, label in labels.items())])


def _kind(dataset: xr.Dataset) -> str:
    """What a dataset is."""
    kinds = {"data": "Images", "beta": "Fit", "effect_size": "Maps", "h0_max_stat": "Maps of a permutation test"}
    return next((kind for name, kind in kinds.items() if name in dataset), "Dataset of daskglm")


def _facts(dataset: xr.Dataset) -> list[tuple[str, str]]:
    """What a dataset holds, and what can be asked of it; no value is read."""
    from daskglm.models.notebook import voxels_text
    from daskglm.models.plan import size_text

    names = _maps(dataset)
    facts = [("voxels", voxels_text(space_of(dataset))), ("variables", listing(names, 30))]
    if "sample" in dataset.dims:
        facts.insert(0, ("images", f"{dataset.sizes['sample']:,}: {listing(sample_names(dataset))}"))
        table = participants_of(dataset)
        facts.append(("participants", "none" if table is None else listing(table.columns, 30)))
    elif "n_samples" in dataset.attrs:
        facts.insert(0, ("images", f"{dataset.attrs['n_samples']:,}"))
    if "regressor" in dataset.coords:
        facts.append(("regressors", listing(np.atleast_1d(dataset["regressor"].values), 30)))
    if "contrast" in dataset.coords:
        pairs = zip(*(np.atleast_1d(dataset[name].values) for name in ("contrast", "stat_type")), strict=True)
        facts.append(("contrasts", listing([f"{name} ({kind})" for name, kind in pairs], 30)))
    if "n_perm" in dataset.attrs:
        which = "all that are distinct" if dataset.attrs["exhaustive"] else "random"
        facts.append(("rearrangements", f"{dataset.attrs['n_perm']:,}, {which}"))
    if dataset.attrs.get("quarantined"):
        facts.append(("left out", listing(dataset.attrs["quarantined"])))
    size = size_text(sum(dataset[name].nbytes for name in names))
    return [*facts, ("size", f"{size}, {_chunks(dataset, names)}")]


def _chunks(dataset: xr.Dataset, names: list[str]) -> str:
    """How the values are held."""
    lazy = next((dataset[name] for name in names if dataset[name].chunks is not None), None)
    if lazy is None or lazy.chunks is None:
        return "in memory"
    counts = " x ".join(f"{len(sizes):,}" for sizes in lazy.chunks)
    largest = " x ".join(f"{max(sizes):,}" for sizes in lazy.chunks)
    return f"not computed yet: {lazy.name} has {counts} chunks of up to {largest}"
