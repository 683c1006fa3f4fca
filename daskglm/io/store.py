"""Cohort stores: one Zarr group that ``xarray.open_zarr`` opens as an images dataset.

A row of ``data`` belongs to one sample. The task that owns a chunk of samples writes its data first and its
``sample`` names last, so the names are the manifest: a sample whose name is empty is not there, whatever
interrupted the writing.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import dask
import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from daskglm.errors import OutputError, SpaceError, StorageError, StoreError, listing, option
from daskglm.io import files
from daskglm.io.objects import check_bucket
from daskglm.io.store_files import array_names
from daskglm.io.store_metadata import arrays_of, check_metadata
from daskglm.io.urls import check_url, storage_faults
from daskglm.io.zarr_stores import store_at
from daskglm.schema.datasets import FORMAT_VERSION, check_images
from daskglm.schema.space import VolumeSpace

# 64 samples x 16,384 voxels of float32 are 4 MB a chunk, of float64 8 MB: 10,000 x 200,000 is 2,041 objects.
SAMPLES_PER_CHUNK = 64
VOXELS_PER_CHUNK = 16_384
# Data read by one task at most, in bytes; a task holds this and its moments.
_BLOCK_BYTES = 2**25
_READ_ONLY = ("http://", "https://")
LABELS = ("sample", "voxel")


def is_store(path: str) -> bool:
    """Tell whether there is a Zarr group at a path or URL.

    Parameters
    ----------
    path : str
        Folder or URL.

    Returns
    -------
    bool

    Raises
    ------
    StorageError
        Where the object store cannot be reached.
    """
    return files.exists(files.join(path, "zarr.json"))


def check_target(path: str, overwrite: bool) -> None:
    """Raise, before any work, where a store cannot be written.

    Parameters
    ----------
    path : str
        Folder or URL.
    overwrite : bool
        Whether a store that is there is to be replaced.

    Raises
    ------
    OutputError
        Where there is something else than a store of daskglm, or, to be replaced, a store with other things in it.
    StorageError
        Where the object store cannot be reached.
    """
    if path.startswith(_READ_ONLY):
        raise OutputError(f"https:// is only read, so {path} cannot be written; choose another output")
    held = files.list_names(path)
    if files.exists(path) or (held and "zarr.json" not in held):
        raise OutputError(f"{path} holds other files and is no store; choose another output")
    if held:
        group = open_group(path, "r")
        foreign = sorted(set(held) - {"zarr.json", *array_names(path)})
        if foreign or "format_version" not in group.attrs:
            raise OutputError(
                f"{path} is not a store of daskglm, or holds other files ({listing(foreign) or 'no format'}), "
                f"so it is not {'overwritten' if overwrite else 'appended to'}; choose another output"
            )


def stored_space(path: str) -> tuple[VolumeSpace, dict[str, Any]]:
    """Space and attributes of a store, finished or not.

    Parameters
    ----------
    path : str
        A store.

    Returns
    -------
    tuple of VolumeSpace and dict
    """
    group = open_group(path, "r")
    attributes = dict(group.attrs)
    return VolumeSpace.from_attributes(attributes["space"], array_of(group, "voxel")[:]), attributes


def stored_type(path: str) -> np.dtype[Any]:
    """Type of the values of a store: float32, or float64 where the images have more digits.

    Parameters
    ----------
    path : str
        A store.

    Returns
    -------
    numpy.dtype
    """
    return np.dtype(array_of(open_group(path, "r"), "data").dtype)


def check_store(path: str, space: VolumeSpace) -> None:
    """Raise SpaceError unless the images of a store are in a space.

    Parameters
    ----------
    path : str
        A store.
    space : VolumeSpace
        Space of images to append.

    Raises
    ------
    SpaceError
        Naming what differs.
    """
    stored, _ = stored_space(path)
    stored.check_same_grid(space.shape, space.affine, "an image to append")
    if not np.array_equal(stored.voxels, space.voxels):
        raise SpaceError(
            f"a store keeps one mask, but {path} has {stored.voxels.size:,} voxels and the mask given "
            f"{space.voxels.size:,}; leave the mask out to append in the mask of the store"
        )


@dataclass(frozen=True)
class StoredSamples:
    """What a store says of its samples, finished or not.

    Attributes
    ----------
    names : list of n str
        Names of the samples; empty where a row was not written.
    columns : dict of str to (n,) array
        Per-sample columns: of the participants table, and of the sources.
    attributes : dict
        Attributes of the store.
    """

    names: list[str]
    columns: dict[str, NDArray[Any]]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, path: str) -> Self:
        """Read them from the store at a path or URL.

        Parameters
        ----------
        path : str
            A store.

        Returns
        -------
        StoredSamples
        """
        group = open_group(path, "r")
        names = [str(name) for name in array_of(group, "sample")[:]]
        columns = {name: array[:] for name, array in arrays_of(group).items() if array.ndim == 1 and name not in LABELS}
        return cls(names, columns, dict(group.attrs))


def open_images(path: str) -> xr.Dataset:
    """Open a store as a lazy images dataset; ``xarray.open_zarr`` does much the same without the checks.

    The tasks hold the path or URL alone: each opens the store for itself, with the credentials of its own
    environment.

    Parameters
    ----------
    path : str
        Folder or URL.

    Returns
    -------
    xarray.Dataset
        An images dataset, chunked so that a task reads at most 32 MB. Samples in quarantine are left out.

    Raises
    ------
    StoreError
        Where the path is no store of daskglm, its conversion was not finished, or chunks are missing (Zarr
        reads those as NaN without a word).
    """
    group = open_group(path, "r")
    if group.attrs.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} is not a store of format {FORMAT_VERSION}, but of {group.attrs.get('format_version')}; "
            "convert its images with this version of daskglm"
        )
    _check_complete(path, group)
    array = array_of(group, "data")
    with storage_faults(path, "read"), warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # of files that are no part of the store
        # Not by the consolidated copy: only what was checked above is read.
        place, by_copy = store_at(path, read_only=True), path.startswith(_READ_ONLY)
        images = xr.open_zarr(place, chunks=None, drop_variables="data", consolidated=by_copy, zarr_format=3).load()
    stored = _StoredArray(path, "data", group.attrs.get("conversion"), array.shape, array.dtype)
    token = dask.base.tokenize(path, stored.conversion, array.shape, files.state(files.join(path, "zarr.json")))
    chunks = tuple(_task_chunks(array.shape, array.chunks, array.dtype.itemsize).values())
    lazy = da.from_array(
        stored, chunks, name=f"images-{token}", lock=False, asarray=False, fancy=False,
        meta=np.empty((0, 0), array.dtype),
    )  # fmt: skip
    # Zarr lists arrays as the file system does, in any order.
    columns = sorted(map(str, images.data_vars))
    images = images.assign(data=(("sample", "voxel"), lazy))[["data", *columns]]
    named = np.array([str(name) != "" for name in images["sample"].values], dtype=bool)
    if not named.all():
        images = images.isel(sample=np.flatnonzero(named))
    check_images(images)
    return images


def _check_complete(path: str, group: zarr.Group) -> None:
    """Compare the names of the samples with the chunks that exist and with what was announced."""
    names = [str(name) for name in group["sample"][:]]
    empty = names.count("")
    if not group.attrs.get("finished") or empty != group.attrs.get("left_out"):
        raise StoreError(
            f"the conversion to {path} was not finished ({len(names) - empty} of {len(names)} samples are "
            "complete); run the same convert command again and it continues"
        )
    if empty == len(names):
        raise StoreError(f"{path} holds no sample, for every image was left out; convert images that can be used to it")
    for name, array in arrays_of(group).items():
        expected = int(np.prod(array.cdata_shape))
        found = _n_chunks(path, name, array)
        if found < expected:
            raise StoreError(
                f"{path} has {found} of {expected} chunks of {name}: objects were lost after the "
                f"conversion; restore them, or convert again with {option('overwrite=True', '--overwrite')}"
            )


def _n_chunks(path: str, name: str, array: Any) -> int:
    """How many chunks of an array are there."""
    if not path.startswith(_READ_ONLY):
        return array.nchunks_initialized
    # A web server has no lists: ask for each.
    keys = [array.metadata.encode_chunk_key(where) for where in np.ndindex(array.cdata_shape)]
    return sum(files.each(files.exists, [files.join(path, name, key) for key in keys]))


@dataclass(frozen=True)
class _StoredArray:
    """An array as its tasks know it: opened where it is read."""

    path: str
    name: str
    conversion: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with storage_faults(self.path, "read"):
            return _open_array(self.path, self.name, self.conversion)[index]


@lru_cache(maxsize=8)
def _open_array(path: str, name: str, _conversion: str | None) -> Any:
    """An array, opened once by each process; another conversion is another array."""
    return array_of(open_group(path, "r"), name)


def _task_chunks(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> dict[str, int]:
    """Multiples of the store's chunks that make a block of at most 32 MB, up to four chunks tall."""
    n_samples, n_voxels = chunks
    budget = max(1, _BLOCK_BYTES // (itemsize * n_samples * n_voxels))
    tall = min(budget, 4, -(-shape[0] // n_samples))
    wide = max(1, budget // tall)
    return {"sample": n_samples * tall, "voxel": n_voxels * wide}


def open_group(path: str, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open a group by the metadata of each array: the consolidated copy is stale while samples are added.

    Parameters
    ----------
    path : str
        Folder or URL.
    mode : {"r", "r+"}
        To read, or to read and write.

    Returns
    -------
    zarr.Group

    Raises
    ------
    StoreError
        Where there is none, or it cannot be read.
    """
    check_url(path)
    try:
        with storage_faults(path, "opened"):
            # Only of format 3 where each question takes time.
            form: Literal[3] | None = 3 if files.is_url(path) else None
            place, by_copy = store_at(path, mode == "r"), path.startswith(_READ_ONLY)
            group = zarr.open_group(place, mode=mode, use_consolidated=by_copy, zarr_format=form)
    except StorageError:
        raise
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        if files.is_url(path):
            check_bucket(path)
        raise StoreError(f"there is no Zarr store at {path}; make one with daskglm convert") from error
    except Exception as error:  # damaged metadata, and every object store, have errors of their own
        raise StoreError(f"cannot open {path} as a store: {' '.join(str(error).split())}") from error
    if mode == "r":  # whoever writes has read before
        check_metadata(path, group)
    return group


def array_of(group: zarr.Group, name: str) -> Any:
    """An array of a group.

    Parameters
    ----------
    group : zarr.Group
        A store.
    name : str
        Variable.

    Returns
    -------
    zarr.Array
    """
    # As an array was made, not as zarr opens it: a chunk of nothing but missing values is written, too.
    array: Any = group[name]
    return array.with_config({"write_empty_chunks": True})
