"""What the metadata of a store may say: checked before a chunk is read, for a store may come from anywhere."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import zarr

from daskglm.errors import StoreError, listing

# Codecs that only compute; one that unpickles would run whatever is in a chunk.
_CODECS = ("blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-utf8", "zstd")
_TYPES = ("bool", "string", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16",
          "float32", "float64")  # fmt: skip
# Names of samples and numbers of voxels are read whole, and a chunk is decoded whole, whatever is on disk of it.
_LONGEST = {"sample": 10_000_000, "voxel": 2**28}
_LARGEST_CHUNK = 2**31


def check_metadata(path: str, group: zarr.Group) -> None:
    """Raise unless every array of a group can be read without harm.

    Parameters
    ----------
    path : str
        The store, for messages.
    group : zarr.Group
        Opened; no chunk of it is read.

    Raises
    ------
    StoreError
        Where metadata cannot be read, are not of Zarr 3, name a codec or type that daskglm does not read, or a
        size that no store has.
    """
    try:
        found = {name: array.metadata.to_dict() for name, array in arrays_of(group).items()}
    except Exception as error:  # zarr has an error of its own for every way in which metadata can be wrong
        raise StoreError(
            f"cannot read the metadata of {path}: {' '.join(str(error).split())}; restore the store, or convert its "
            "images again"
        ) from error
    lost = sorted({"data", "sample", "voxel"} - set(found))
    if lost and "format_version" in group.attrs:  # zarr passes over an array whose metadata it cannot read
        raise StoreError(
            f"{listing(lost)} of the store {path} cannot be read; restore the store, or convert its images again"
        )
    for name, metadata in found.items():
        fault = _fault(metadata)
        if fault:
            raise StoreError(f"{name} of the store {path} {fault}; do not use a store that you do not trust")


def arrays_of(group: zarr.Group) -> dict[str, Any]:
    """The arrays of a group; files that are no part of it are passed over.

    Parameters
    ----------
    group : zarr.Group
        A store.

    Returns
    -------
    dict of str to zarr.Array
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(group.arrays())


def _fault(metadata: Mapping[str, Any]) -> str | None:
    """What is wrong with an array; None where nothing is."""
    if metadata.get("zarr_format") != 3:
        return f"is of Zarr format {metadata.get('zarr_format')}, and stores are of format 3"
    kind = metadata["data_type"]
    if str(kind) not in _TYPES:
        return f"is of type {kind}, and stores hold numbers and text"
    unknown = sorted(set(_codecs(metadata["codecs"])) - set(_CODECS))
    if unknown:
        return f"is encoded by {listing(unknown)}, and stores by {listing(_CODECS)}"
    names = metadata.get("dimension_names") or [None] * len(metadata["shape"])
    for dimension, size in zip(names, metadata["shape"], strict=True):
        most = _LONGEST.get(dimension, max(_LONGEST.values()))
        if not 0 <= size <= most:
            return f"has {size:,} entries of {dimension}, and stores have up to {most:,}"
    if metadata["chunk_grid"]["name"] != "regular":
        return f"has a {metadata['chunk_grid']['name']} grid of chunks, and stores have a regular one"
    n_bytes = 8
    for size in metadata["chunk_grid"]["configuration"]["chunk_shape"]:
        n_bytes *= int(size)
    if n_bytes > _LARGEST_CHUNK:
        return f"has chunks of {n_bytes:,} bytes, and stores of up to {_LARGEST_CHUNK:,}"
    return None


def _codecs(given: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of codecs, and of those within shards."""
    names = []
    for codec in given:
        names.append(str(codec["name"]))
        inner = codec.get("configuration", {})
        names += [name for key in ("codecs", "index_codecs") for name in _codecs(inner.get(key, ()))]
    return names
