"""Writing a cohort store: rows given out, written whole by one task each, and declared complete."""

import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from daskglm.errors import OutputError, StorageError, StoreError, listing
from daskglm.io.store import LABELS, SAMPLES_PER_CHUNK, VOXELS_PER_CHUNK, array_of, is_store, open_group
from daskglm.io.store_files import ARRAYS, array_names, remove_array, remove_store
from daskglm.io.store_metadata import arrays_of
from daskglm.io.urls import storage_faults
from daskglm.io.zarr_stores import store_at
from daskglm.schema.datasets import FORMAT_VERSION
from daskglm.schema.space import VolumeSpace

P = ParamSpec("P")
T = TypeVar("T")


def _writes(function: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    """Let the errors of object stores that a function meets name its first argument, the store."""

    @wraps(function)
    def wrapped(path: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with storage_faults(path, "written"):
            return function(path, *args, **kwargs)

    return wrapped


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


@_writes
def create_store(
    path: str, space: VolumeSpace, attributes: Mapping[str, Any], overwrite: bool = False,
    dtype: Any = np.float32,
) -> None:  # fmt: skip
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
    dtype : numpy dtype
        Float32, or float64.

    Raises
    ------
    OutputError
        Where there is a store already, or it cannot be written.
    """
    try:
        if overwrite and is_store(path):
            remove_store(path)
        # The names of the arrays are there before any of them is.
        about = {"format_version": FORMAT_VERSION, ARRAYS: ["data", *LABELS], "space": space.attributes()}
        group = zarr.create_group(
            store_at(path, read_only=False), attributes={**about, "finished": False, **attributes}
        )
        _create(group, "data", np.dtype(dtype), len(space.voxels))
        _create(group, "sample", np.dtypes.StringDType())
        group.create_array(
            "voxel", shape=space.voxels.shape, chunks=space.voxels.shape, dtype="int64",
            compressors=_codecs(8), dimension_names=("voxel",),
        )  # fmt: skip
        array_of(group, "voxel")[:] = space.voxels
    except StorageError:
        raise
    except (OSError, zarr.errors.ContainsGroupError) as error:
        raise OutputError(f"cannot create the store {path}: {error}; choose another output") from error


@_writes
def allocate(path: str, n_samples: int, columns: Mapping[str, NDArray[Any]]) -> list[Rows]:
    """Make room for samples: in rows that nothing was written to, then at the end.

    Parameters
    ----------
    path : str
        A store.
    n_samples : int
        How many are to come.
    columns : mapping of str to (n_samples,) array
        Per-sample columns they will bring, float64, int64 or text. While the store has no sample, columns that were
        made for others, who never came, are made anew.

    Returns
    -------
    list of Rows
        For each chunk the rows in it, in order: the first sample takes the first row.

    Raises
    ------
    StoreError
        Where the store already has samples with other columns.
    """
    group = open_group(path, "r+")
    names = np.array([str(name) for name in group["sample"][:]], dtype=object)
    stored = {name for name, array in arrays_of(group).items() if array.ndim == 1} - set(LABELS)
    kinds = {name: "numbers" if np.asarray(x).dtype.kind in "fiu" else "text" for name, x in columns.items()}
    before = {name: "numbers" if array_of(group, name).dtype.kind in "fiu" else "text" for name in stored}
    changed = sorted(name for name in before.keys() | kinds if before.get(name) != kinds.get(name))
    if changed and (names != "").any():
        raise StoreError(
            f"samples of one store have the same columns of the same kind, but {listing(changed)} in {path} are "
            f"{listing(str(before.get(name, 'absent')) for name in changed)} and now "
            f"{listing(str(kinds.get(name, 'absent')) for name in changed)}; give participants with the same columns"
        )
    free = np.flatnonzero(names == "")[:n_samples]
    rows = np.concatenate([free, np.arange(names.size, names.size + n_samples - free.size)]).astype(np.int64)
    recorded = set(array_names(path))
    if recorded != {"data", *LABELS, *kinds}:
        group.attrs[ARRAYS] = sorted(recorded.union({"data", *LABELS}, kinds))
    for name in stored.intersection(changed):
        remove_array(path, name)
    for name, values in columns.items():
        if name not in stored or name in changed:
            _create(group, name, values.dtype if values.dtype.kind in "fi" else np.dtypes.StringDType())
    size = max(names.size, int(rows[-1]) + 1 if rows.size else 0)
    _resize(group, size)
    conversion = secrets.token_hex(8)
    group.attrs.update({"finished": False, "conversion": conversion})
    chunks = rows // SAMPLES_PER_CHUNK
    return [Rows(int(chunk), rows[chunks == chunk], conversion) for chunk in np.unique(chunks)]


@_writes
def write_samples(
    path: str, target: Rows, data: NDArray[Any], names: Sequence[str], columns: Mapping[str, Any]
) -> None:
    """Write some samples of one chunk; nothing else may write that chunk meanwhile.

    Parameters
    ----------
    path : str
        A store.
    target : Rows
        Where, from :func:`allocate`.
    data : (m, V) float32 or float64
        Images, of the type of the store; NaN = missing.
    names : sequence of m str
        Names of the samples; an empty one leaves its row unwritten.
    columns : mapping of str to (m,) array
        Per-sample columns.

    Raises
    ------
    StoreError
        Where another conversion was started since the rows were allocated.
    """
    group = open_group(path, "r+")
    if group.attrs["conversion"] != target.conversion:
        raise StoreError(f"another conversion to {path} was started meanwhile, so this one stops; run one at a time")
    array = array_of(group, "data")
    start = target.chunk * SAMPLES_PER_CHUNK
    stop = min(start + SAMPLES_PER_CHUNK, array.shape[0])
    written = [index for index, name in enumerate(names) if name]
    inside = target.rows[written] - start
    whole = inside.size == stop - start
    chunk = np.empty((stop - start, array.shape[1]), array.dtype) if whole else array[start:stop]
    chunk[inside] = data[written]
    array[start:stop] = chunk
    # Names last: a sample is there once its name is.
    for name, values in [*columns.items(), ("sample", np.array(names, dtype=object))]:
        column = array_of(group, name)
        part = column[start:stop]
        part[inside] = np.asarray(values)[written]
        column[start:stop] = part


@_writes
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
    group = open_group(path, "r+")
    named = np.array([str(name) != "" for name in array_of(group, "sample")[:]], dtype=bool)
    _write_unused(group, named)
    size = int(np.flatnonzero(named).max(initial=-1)) + 1
    _resize(group, size)
    group.attrs.update({**attributes, "finished": True, "left_out": size - int(named.sum())})
    with warnings.catch_warnings():
        # Zarr v3 calls consolidated metadata an extension, which xarray reads; files of others are left alone.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(store_at(path, read_only=False))


def _write_unused(group: zarr.Group, named: NDArray[np.bool_]) -> None:
    """Write the chunks between others that no task came to: what a store lacks is lost, and no store is opened so."""
    last = int(np.flatnonzero(named).max(initial=-1))
    for start in range(0, last, SAMPLES_PER_CHUNK):
        if named[start : start + SAMPLES_PER_CHUNK].any():
            continue
        for name in [name for name, array in arrays_of(group).items() if _is_of_samples(array)]:
            array = array_of(group, name)
            array[start : start + SAMPLES_PER_CHUNK] = array[start : start + SAMPLES_PER_CHUNK]


def _is_of_samples(array: Any) -> bool:
    """Whether an array has a row a sample."""
    return bool(array.metadata.dimension_names[0] == "sample")


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
    )


def _resize(group: zarr.Group, n_samples: int) -> None:
    """Give every per-sample array room for `n_samples`."""
    for array in arrays_of(group).values():
        if _is_of_samples(array):
            array.resize((n_samples, *array.shape[1:]))
