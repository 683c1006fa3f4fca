"""The layout of every dataset, in one place: an images dataset is checked here before it is used.

=========  ==========================================================================================
dataset    variables (dimensions)
=========  ==========================================================================================
images     ``data (sample, voxel)`` float32 or float64, NaN = missing; coordinates ``sample`` (subject
           ids) and ``voxel`` (Fortran-order index into the grid); columns of the participants table and
           of the sources are further variables ``(sample,)``; attribute ``space``
fit        ``beta (regressor, voxel)``, ``residual_variance``, ``degrees_of_freedom``, ``n (voxel)``, and
           ``theta``, ``reference``, ``covariance``: the same in the orthonormal basis that contrasts use
maps       ``effect_size (contrast, component, voxel)``: one component for t, as many as rows for F, as
           nilearn has it; ``effect_variance, stat, p_value, z_score (contrast, voxel)``
=========  ==========================================================================================
"""

import re
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.errors import ImageError, StoreError, listing
from daskglm.schema.names import check_unique
from daskglm.schema.space import VolumeSpace

FORMAT_VERSION = 1
# What Zarr takes for the name of an array.
_ARRAY_NAME = re.compile(r"(?!__)(?!\.+$)[^/]+", re.DOTALL)
SOURCE_COLUMNS = ("source", "source_size", "source_mtime", "source_crc32")
"""Per-sample variables of a store that are not columns of the participants table."""


def images_dataset(data: Any, ids: list[str], space: VolumeSpace) -> xr.Dataset:
    """Label an array of images.

    Parameters
    ----------
    data : (n, V) dask or NumPy array
        Images, in image units.
    ids : list of n str
        Names of the samples, all different.
    space : VolumeSpace
        Where the V voxels are.

    Returns
    -------
    xarray.Dataset
        An images dataset.
    """
    return xr.Dataset(
        {"data": (("sample", "voxel"), data)},
        coords={"sample": ("sample", np.array(ids, dtype=object)), "voxel": ("voxel", space.voxels)},
        attrs={"space": space.attributes(), "format_version": FORMAT_VERSION},
    )


def check_images(images: xr.Dataset) -> None:
    """Raise unless a dataset is an images dataset whose every sample is there.

    Parameters
    ----------
    images : xarray.Dataset
        What a user, ``xarray.open_zarr`` or a function of daskglm made.

    Raises
    ------
    ImageError
        Where a variable, dimension or attribute is missing, or a sample is named twice.
    StoreError
        Where samples were never written: a conversion that was interrupted, or files in quarantine.
    """
    if "data" not in images or images["data"].dims != ("sample", "voxel"):
        found = {name: variable.dims for name, variable in images.data_vars.items()}
        raise ImageError(f"an images dataset has a variable data (sample, voxel), but this one has {found}")
    if images["data"].dtype.kind not in "biuf":
        raise ImageError(f"images hold real numbers, but data of the images dataset is {images['data'].dtype}")
    if "space" not in images.attrs or "voxel" not in images.coords or "sample" not in images.coords:
        raise ImageError(
            "an images dataset has coordinates sample and voxel and an attribute space; "
            "make one with daskglm.convert, daskglm.open_images or daskglm.images_dataset"
        )
    if (np.diff(images["voxel"].values) <= 0).any():
        raise ImageError("voxels of an images dataset ascend, but these do not; the store is damaged, or was reordered")
    ids = sample_names(images)
    missing = sum(name == "" for name in ids)
    if missing:
        raise StoreError(
            f"{missing} of {len(ids)} samples of this store were never written; run the same convert again to "
            "finish it, or open it with daskglm.open_images, which leaves them out"
        )
    check_unique(ids, "sample names are unique, but the images dataset repeats")


def sample_names(images: xr.Dataset) -> list[str]:
    """Names of the samples of an images dataset.

    Parameters
    ----------
    images : xarray.Dataset
        An images dataset.

    Returns
    -------
    list of str
        One a sample; empty where a store has not written it.
    """
    return [str(name) for name in images["sample"].values]


def space_of(images: xr.Dataset) -> VolumeSpace:
    """The space of an images dataset, or of a fit or maps made from one.

    Parameters
    ----------
    images : xarray.Dataset
        Images, fit or maps: what has a coordinate voxel and an attribute space.

    Returns
    -------
    VolumeSpace
    """
    return VolumeSpace.from_attributes(images.attrs["space"], images["voxel"].values)


def participants_of(images: xr.Dataset) -> pd.DataFrame | None:
    """The participants table inside an images dataset, indexed by sample; None where it has none.

    Parameters
    ----------
    images : xarray.Dataset
        An images dataset.

    Returns
    -------
    DataFrame or None
    """
    names = [
        name
        for name, variable in images.data_vars.items()
        if variable.dims == ("sample",) and name not in SOURCE_COLUMNS
    ]
    if not names:
        return None
    columns = {str(name): _column(images[name].values) for name in names}
    return pd.DataFrame(columns, index=pd.Index(sample_names(images), name="participant_id"))


def _column(values: Any) -> Any:
    """Values of a column as pandas takes them; an empty string is a missing one."""
    if values.dtype.kind in "fiub":
        return values
    return [None if str(value) == "" else str(value) for value in values]


def participant_columns(participants: pd.DataFrame) -> dict[str, Any]:
    """Columns of a participants table as arrays a store can hold: float64 or text.

    Parameters
    ----------
    participants : (n, k) DataFrame
        One row a sample.

    Returns
    -------
    dict of str to (n,) array
        float64, or text with an empty string for a missing value.

    Raises
    ------
    ImageError
        Where a column's name is taken by the images dataset itself, or is no name of a Zarr array.
    """
    taken = {"data", "sample", "voxel", *SOURCE_COLUMNS} & {str(name) for name in participants.columns}
    if taken:
        raise ImageError(f"columns {listing(sorted(taken))} of the participants table are reserved; rename them")
    wrong = [name for name in map(str, participants.columns) if not _ARRAY_NAME.fullmatch(name)]
    if wrong:
        raise ImageError(
            "columns of the participants table become arrays of a store, whose names have no slash and do not begin "
            f"with two underscores, but there are {listing(map(repr, wrong))}; rename them"
        )
    columns: dict[str, Any] = {}
    for name, column in participants.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            columns[str(name)] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            text = ["" if pd.isna(value) else str(value) for value in column]
            columns[str(name)] = np.array(text, dtype=object)
    return columns
