"""Objects as files that are read in order: memory holds one block, disks nothing."""

import io
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from daskglm.io.urls import storage_faults

# A header is read with the first request, the rest with few.
_FIRST_BLOCK, _BLOCK = 2**14, 2**23


def buffered(url: str, size: int, blocks: Callable[[int], Iterator[bytes]]) -> BinaryIO:
    """An object as a binary file; seeking costs a request at the next read.

    Parameters
    ----------
    url : str
        URL, for messages.
    size : int
        Bytes of the object.
    blocks : callable
        Blocks from an offset on.

    Returns
    -------
    binary file
    """
    return io.BufferedReader(_ObjectReader(url, size, blocks))


def range_blocks(store: Any, key: str, meta: Any, start: int) -> Iterator[bytes]:
    """Blocks of one version of an object, each asked for, and if need be asked for again, by itself.

    Parameters
    ----------
    store, key : obstore store and str
        Where it is.
    meta : obstore ObjectMeta
        Its size and ETag.
    start : int
        Offset of the first byte.

    Yields
    ------
    bytes
    """
    import obstore

    step = _FIRST_BLOCK
    while start < meta["size"]:
        stop = min(start + step, meta["size"])
        options = {"range": (start, stop)} | ({"if_match": meta["e_tag"]} if meta["e_tag"] else {})
        yield bytes(obstore.get(store, key, options=options).bytes())
        start, step = stop, _BLOCK


def http_blocks(store: Any, key: str, _meta: Any, start: int) -> Iterator[bytes]:
    """Blocks of one answer: not every web server knows ranges.

    Parameters
    ----------
    store, key : obstore store and str
        Where it is.
    _meta : obstore ObjectMeta
        As :func:`range_blocks`.
    start : int
        Offset of the first byte.

    Yields
    ------
    bytes
    """
    import obstore

    passed = 0
    for block in obstore.get(store, key).stream(min_chunk_size=_BLOCK // 8):
        data = bytes(block)
        if passed + len(data) > start:
            yield data[max(start - passed, 0) :]
        passed += len(data)


def fsspec_blocks(system: Any, path: str, start: int, size: int) -> Iterator[bytes]:
    """Blocks of a file of fsspec.

    Parameters
    ----------
    system, path : fsspec file system and str
        Where it is.
    start, size : int
        Offset of the first byte, and bytes of the file.

    Yields
    ------
    bytes
    """
    step = _FIRST_BLOCK
    while start < size:
        stop = min(start + step, size)
        yield system.cat_file(path, start=start, end=stop)
        start, step = stop, _BLOCK


class _ObjectReader(io.RawIOBase):
    """Bytes of an object, in order."""

    def __init__(self, url: str, size: int, blocks: Callable[[int], Iterator[bytes]]) -> None:
        self._url, self._size, self._blocks = url, size, blocks
        self._position = 0
        self._parts: Iterator[bytes] | None = None
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position != self._position:
            self._position, self._parts, self._rest = position, None, memoryview(b"")
        return position

    def readinto(self, buffer: Any) -> int:
        with storage_faults(self._url, "read"):
            if self._parts is None:
                self._parts = self._blocks(self._position)
            while not self._rest:
                part = next(self._parts, None)
                if part is None:
                    return 0
                self._rest = memoryview(part)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._position += count
        return count
