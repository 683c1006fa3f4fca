"""Cohort stores: one Zarr group that ``xarray.open_zarr`` opens as an images dataset.

A row of ``data`` belongs to one sample. The task that owns a chunk of samples writes its data first and its
``sample`` names last, so the names are the manifest: a sample whose name is empty is not there, whatever
interrupted the writing.
"""

import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from daskglm.errors import OutputError, SpaceError, StoreError, listing
from daskglm.schema.datasets import FORMAT_VERSION, check_images
from daskglm.schema.space import VolumeSpace

# 64 samples x 16,384 voxels of float32 are 4 MB a chunk: 10,000 x 200,000 is 2,041 objects.
SAMPLES_PER_CHUNK = 64
VOXELS_PER_CHUNK = 16_384
# Data read by one task at most, in bytes; a task holds this and its moments.
_BLOCK_BYTES = 2**25
_LABELS = ("sample", "voxel")


@dataclass(frozen=True)
class Rows:
    """Samples to write into one chunk of a store.

    Attributes
    ----------
    chunk : int
        Which chunk of samples: rows ``chunk * SAMPLES_PER_CHUNK`` onwards.
    rows : (m,) int64
        Rows within the store, all in that chunk.
    conversion : str
        The conversion that the rows were given to; a later one takes the store over.
    """

    chunk: int
    rows: NDArray[np.int64]
    conversion: str


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
    StoreError
        Where the object store cannot be reached.
    """
    if "://" not in path:
        return os.path.exists(os.path.join(path, "zarr.json"))
    try:
        zarr.open_group(path, mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return False
    except Exception as error:  # every object store has its own
        raise StoreError(f"cannot open {path}: {' '.join(str(error).split())}") from error
    return True


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
    """
    if "://" in path:
        return
    held = os.listdir(path) if os.path.isdir(path) else []
    if (os.path.exists(path) and not os.path.isdir(path)) or (held and "zarr.json" not in held):
        raise OutputError(f"{path} holds other files and is no store; choose another --output")
    if held:
        group = _open(path, "r")
        foreign = [
            name for name in held if name != "zarr.json" and not os.path.isfile(os.path.join(path, name, "zarr.json"))
        ]
        if foreign or "format_version" not in group.attrs:
            raise OutputError(
                f"{path} is not a store of daskglm, or holds other files ({listing(foreign) or 'no format'}), "
                f"so it is not {'overwritten' if overwrite else 'appended to'}; choose another --output"
            )


def create_store(path: str, space: VolumeSpace, attributes: Mapping[str, Any], overwrite: bool = False) -> None:
    """Create a store with no samples.

    Parameters
    ----------
    path : str
        Folder or URL.
    space : VolumeSpace
        Space of all images.
    attributes : mapping
        Further attributes: parameters and software versions.
    overwrite : bool
        Replace a store that is there, which :func:`check_target` accepted.

    Raises
    ------
    OutputError
        Where there is a store already, or it cannot be written.
    """
    try:
        group = zarr.create_group(path, overwrite=overwrite and is_store(path))
        group.attrs.update(
            {"format_version": FORMAT_VERSION, "space": space.attributes(), "finished": False, **attributes}
        )
        _create(group, "data", np.dtype(np.float32), len(space.voxels))
        _create(group, "sample", np.dtypes.StringDType())
        voxel = group.create_array(
            "voxel", shape=space.voxels.shape, chunks=space.voxels.shape, dtype="int64",
            compressors=_codecs(8), dimension_names=("voxel",),
        )  # fmt: skip
        voxel[:] = space.voxels
    except (OSError, zarr.errors.ContainsGroupError) as error:
        raise OutputError(f"cannot create the store {path}: {error}; choose another --output") from error


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
    group = _open(path, "r")
    attributes = dict(group.attrs)
    return VolumeSpace.from_attributes(attributes["space"], _array(group, "voxel")[:]), attributes


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
            f"{space.voxels.size:,}; leave out --mask to append in the mask of the store"
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
        group = _open(path, "r")
        names = [str(name) for name in _array(group, "sample")[:]]
        columns = {name: array[:] for name, array in group.arrays() if array.ndim == 1 and name not in _LABELS}
        return cls(names, columns, dict(group.attrs))


def allocate(path: str, n_samples: int, columns: Mapping[str, NDArray[Any]]) -> list[Rows]:
    """Make room for samples: in rows that nothing was written to, then at the end.

    Parameters
    ----------
    path : str
        A store.
    n_samples : int
        How many are to come.
    columns : mapping of str to (n_samples,) array
        Per-sample columns they will bring, float64, int64 or text; created where the store is still empty.

    Returns
    -------
    list of Rows
        For each chunk the rows in it, in order: the first sample takes the first row.

    Raises
    ------
    StoreError
        Where the store already has samples with other columns.
    """
    group = _open(path, "r+")
    names = np.array([str(name) for name in group["sample"][:]], dtype=object)
    stored = {name for name, array in group.arrays() if array.ndim == 1} - set(_LABELS)
    kinds = {name: "numbers" if np.asarray(x).dtype.kind in "fiu" else "text" for name, x in columns.items()}
    before = {name: "numbers" if _array(group, name).dtype.kind in "fiu" else "text" for name in stored}
    if stored and before != kinds:
        changed = sorted(name for name in before.keys() | kinds if before.get(name) != kinds.get(name))
        raise StoreError(
            f"samples of one store have the same columns of the same kind, but {listing(changed)} in {path} are "
            f"{listing(str(before.get(name, 'absent')) for name in changed)} and now "
            f"{listing(str(kinds.get(name, 'absent')) for name in changed)}; give --participants with the same columns"
        )
    free = np.flatnonzero(names == "")[:n_samples]
    rows = np.concatenate([free, np.arange(names.size, names.size + n_samples - free.size)]).astype(np.int64)
    for name, values in columns.items():
        if name not in stored:
            _create(group, name, values.dtype if values.dtype.kind in "fi" else np.dtypes.StringDType())
    size = max(names.size, int(rows[-1]) + 1 if rows.size else 0)
    _resize(group, size)
    conversion = secrets.token_hex(8)
    group.attrs.update({"finished": False, "conversion": conversion})
    chunks = rows // SAMPLES_PER_CHUNK
    return [Rows(int(chunk), rows[chunks == chunk], conversion) for chunk in np.unique(chunks)]


def write_samples(
    path: str, target: Rows, data: NDArray[np.float32], names: Sequence[str], columns: Mapping[str, Any]
) -> None:
    """Write some samples of one chunk; nothing else may write that chunk meanwhile.

    Parameters
    ----------
    path : str
        A store.
    target : Rows
        Where, from :func:`allocate`.
    data : (m, V) float32
        Images; NaN = missing.
    names : sequence of m str
        Names of the samples; an empty one leaves its row unwritten.
    columns : mapping of str to (m,) array
        Per-sample columns.

    Raises
    ------
    StoreError
        Where another conversion was started since the rows were allocated.
    """
    group = _open(path, "r+")
    if group.attrs["conversion"] != target.conversion:
        raise StoreError(f"another conversion to {path} was started meanwhile, so this one stops; run one at a time")
    array = _array(group, "data")
    start = target.chunk * SAMPLES_PER_CHUNK
    stop = min(start + SAMPLES_PER_CHUNK, array.shape[0])
    written = [index for index, name in enumerate(names) if name]
    inside = target.rows[written] - start
    whole = inside.size == stop - start
    chunk = np.empty((stop - start, array.shape[1]), np.float32) if whole else array[start:stop]
    chunk[inside] = data[written]
    array[start:stop] = chunk
    # Names last: a sample is there once its name is.
    for name, values in [*columns.items(), ("sample", np.array(names, dtype=object))]:
        column = _array(group, name)
        part = column[start:stop]
        part[inside] = np.asarray(values)[written]
        column[start:stop] = part


def finish_store(path: str, attributes: Mapping[str, Any]) -> None:
    """Declare a store complete for the samples it names.

    Rows at the end that nothing was written to are dropped, and all metadata is gathered in one object, so
    that the store opens in one read.

    Parameters
    ----------
    path : str
        A store.
    attributes : mapping
        Attributes to update.
    """
    group = _open(path, "r+")
    named = np.array([str(name) != "" for name in _array(group, "sample")[:]], dtype=bool)
    size = int(np.flatnonzero(named).max(initial=-1)) + 1
    _resize(group, size)
    group.attrs.update({**attributes, "finished": True, "left_out": size - int(named.sum())})
    with warnings.catch_warnings():
        # Zarr v3 calls consolidated metadata an extension; xarray reads it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


def open_images(path: str) -> xr.Dataset:
    """Open a store as a lazy images dataset; ``xarray.open_zarr`` does the same without the checks.

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
    group = _open(path, "r")
    if group.attrs.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} is not a store of format {FORMAT_VERSION}, but of {group.attrs.get('format_version')}; "
            "convert its images with this version of daskglm"
        )
    _check_complete(path, group)
    array = _array(group, "data")
    chunks = _task_chunks(array.shape, array.chunks)
    images = xr.open_zarr(path, chunks=chunks)
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
    for name, array in group.arrays():
        expected = int(np.prod(array.cdata_shape))
        if array.nchunks_initialized < expected:
            raise StoreError(
                f"{path} has {array.nchunks_initialized} of {expected} chunks of {name}: objects were lost after the "
                "conversion; restore them, or convert again with --overwrite"
            )


def _task_chunks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> dict[str, int]:
    """Multiples of the store's chunks that make a block of at most 32 MB, up to four chunks tall."""
    n_samples, n_voxels = chunks
    budget = max(1, _BLOCK_BYTES // (4 * n_samples * n_voxels))
    tall = min(budget, 4, -(-shape[0] // n_samples))
    wide = max(1, budget // tall)
    return {"sample": n_samples * tall, "voxel": n_voxels * wide}


def _codecs(itemsize: int) -> list[Any]:
    """Blosc(lz4, bitshuffle), then CRC32C: without the checksum flipped bits are read as data."""
    blosc = zarr.codecs.BloscCodec(typesize=itemsize, cname="lz4", clevel=5, shuffle="bitshuffle")
    return [blosc, zarr.codecs.Crc32cCodec()]


def _create(group: zarr.Group, name: str, dtype: Any, n_voxels: int | None = None) -> None:
    """Create an empty per-sample array: a column, or the images where `n_voxels` is given."""
    is_float = dtype.kind == "f"
    width = () if n_voxels is None else (n_voxels,)
    group.create_array(
        name,
        shape=(0, *width),
        chunks=(SAMPLES_PER_CHUNK, *(min(VOXELS_PER_CHUNK, size) for size in width)),
        dtype="string" if dtype.kind == "T" else dtype,
        fill_value=np.nan if is_float else "" if dtype.kind == "T" else 0,
        compressors=_codecs(dtype.itemsize) if dtype.kind != "T" else [zarr.codecs.Crc32cCodec()],
        dimension_names=("sample", "voxel")[: 1 + len(width)],
        config={"write_empty_chunks": True},
    )


def _resize(group: zarr.Group, n_samples: int) -> None:
    """Give every per-sample array room for `n_samples`."""
    for _, array in group.arrays():
        if array.metadata.dimension_names[0] == "sample":
            array.resize((n_samples, *array.shape[1:]))


def _open(path: str, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open a group by the metadata of each array: the consolidated copy is stale while samples are added."""
    try:
        return zarr.open_group(path, mode=mode, use_consolidated=False)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise StoreError(f"there is no Zarr store at {path}; make one with daskglm convert") from error
    except Exception as error:  # damaged metadata, and every object store, have errors of their own
        raise StoreError(f"cannot open {path} as a store: {' '.join(str(error).split())}") from error


def _array(group: zarr.Group, name: str) -> Any:
    """An array of a group."""
    return group[name]
