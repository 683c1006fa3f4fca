"""Image files, read to their end and checked on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from daskglm.errors import CorruptImageError, ImageError, ParameterError, StorageError
from daskglm.io import files
from daskglm.io.formats import NiftiHeader, check_size, header_apart, parse_header
from daskglm.io.objects import check_bucket

try:  # two to three times the standard library's speed, with the same interface and checks
    _zlib: Any = import_module("isal.isal_zlib")
except ImportError:
    _zlib = import_module("zlib")

_GZIP_WRAPPER = 31
_READ_BYTES = 2**22
_REMEDY = "restore the file or drop its subject (daskglm convert --on-error quarantine leaves such files out)"


class _GzipStream:
    """Bytes of a gzip file, in order; each member's CRC and length are checked as it ends."""

    def __init__(self, file: BinaryIO, read_bytes: int) -> None:
        self._file = file
        self._read_bytes = read_bytes
        self._decoder = _zlib.decompressobj(_GZIP_WRAPPER)
        self._input = b""
        self.crc32 = 0

    def read(self, n_bytes: int) -> bytes:
        """Up to `n_bytes`; fewer only at the end of the file."""
        parts: list[bytes] = []
        while n_bytes > 0:
            if not self._input:
                self._input = self._file.read(self._read_bytes)
                self.crc32 = _zlib.crc32(self._input, self.crc32)
            if self._decoder.eof:
                if not self._input.strip(b"\0"):
                    self._input = b""
                    if not self._file.peek(1):  # type: ignore[attr-defined]
                        break
                    continue
                self._decoder = _zlib.decompressobj(_GZIP_WRAPPER)
            elif not self._input:
                raise EOFError("the compressed stream ends too early")
            part = self._decoder.decompress(self._input, n_bytes)
            self._input = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            parts.append(part)
            n_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def read_header(path: str) -> NiftiHeader:
    """Read and check the header of an image.

    Parameters
    ----------
    path : str
        A file that nibabel reads, or a URL of one in a single file.

    Returns
    -------
    NiftiHeader

    Raises
    ------
    CorruptImageError
        Where the file is empty or missing, is no NIfTI, or is too short for the size its header promises.
    """
    with _faults(path), _opened(path, 4096) as opened:
        return opened.header


def read_values(path: str, volumes: slice = slice(None)) -> tuple[NiftiHeader, NDArray[Any]]:
    """Read the values of an image, verified.

    Parameters
    ----------
    path : str
        A file that nibabel reads, or URL. A compressed one is read to its end: the CRC and length in the gzip
        trailer and the length that the header promises are all checked, before any value is returned. A URL is
        read once, in order, and not kept on disk.
    volumes : slice
        Volumes of a 4-D image to keep; memory holds only those.

    Returns
    -------
    header : NiftiHeader
    values : (n_volumes, X * Y * Z) array
        Float32 or float64, scaled, voxels in the order of the file; a memory map's view where the file is on
        disk, uncompressed and unscaled.

    Raises
    ------
    CorruptImageError
        Naming the file and the fault.
    """
    with _faults(path), _opened(path) as opened:
        header, file = opened.header, opened.file
        n_volumes, volume_size = _n_volumes(header), int(np.prod(header.shape[:3]))
        first, last, _ = volumes.indices(n_volumes)
        if header.foreign:
            return header, _read_foreign(path, first, last)
        if opened.is_gzip:
            stored = _read_volumes(opened, volume_size, first, last)
            header = replace(header, crc32=None if header.data else opened.stream.crc32)
        elif files.is_url(path):
            n_bytes = volume_size * header.on_disk.itemsize
            file.seek(header.offset + first * n_bytes)
            data = file.read((last - first) * n_bytes)
            stored = np.frombuffer(data, header.on_disk).reshape(last - first, volume_size)
            if last - first == n_volumes and header.offset == len(opened.head) and header.whole:
                header = replace(header, crc32=_zlib.crc32(data, _zlib.crc32(opened.head)))
        else:
            whole: NDArray[Any] = np.memmap(
                header.data or path, header.on_disk, "r", header.offset, (n_volumes, volume_size)
            )
            stored = whole[first:last]
    return header, _scale(stored, header)


def stream_volumes(path: str, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
    """Read the volumes of a 4-D image one after the other; memory holds one.

    Parameters
    ----------
    path : str
        A file that nibabel reads, or URL. A compressed one is read from its beginning to its end, whatever is asked
        for, and its CRC and length are checked after the last volume was given out: what was made of the volumes
        counts only once the stream has ended without an error.
    start, stop : int
        The volumes to give out; all by default.

    Yields
    ------
    (X * Y * Z,) array
        Float32 or float64, scaled, voxels in the order of the file.

    Raises
    ------
    CorruptImageError
        Naming the file and the fault.
    """
    with _faults(path), _opened(path) as opened:
        header, stream = opened.header, opened.stream
        n_volumes = _n_volumes(header)
        stop = n_volumes if stop is None else stop
        if header.foreign:
            yield from (row for volume in range(start, stop) for row in _read_foreign(path, volume, volume + 1))
            return
        n_bytes = int(np.prod(header.shape[:3])) * header.on_disk.itemsize
        if opened.is_gzip:
            _skip(stream, header.offset - len(opened.head) + start * n_bytes)
        else:
            opened.file.seek(header.offset + start * n_bytes)
        for volume in range(start, stop):
            data = stream.read(n_bytes)
            if len(data) < n_bytes:
                raise CorruptImageError(f"it ends in volume {volume} of {n_volumes}")
            yield _scale(np.frombuffer(data, dtype=header.on_disk), header)
        if opened.is_gzip:
            _check_end(stream, header, (n_volumes - stop) * n_bytes)


def read_mask(path: str) -> tuple[NiftiHeader, NDArray[np.bool_]]:
    """Read a mask: 0 outside, one other value inside.

    Parameters
    ----------
    path : str
        A 3-D image.

    Returns
    -------
    header : NiftiHeader
    mask : 3-D bool array

    Raises
    ------
    CorruptImageError
        As :func:`read_values`, and where the image is not 3-D.
    ImageError
        As :func:`mask_of_values`.
    """
    try:
        header, values = read_values(path)
    except CorruptImageError as error:
        raise CorruptImageError(str(error).replace(_REMEDY, "restore it or give another mask")) from error
    if len(header.shape) != 3:
        raise CorruptImageError(f"a mask is 3-D, but {path} has shape {header.shape}; take one volume of it")
    return header, mask_of_values(values[0].reshape(header.shape, order="F"), f"the mask {path}")


def mask_of_values(values: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """The voxels that a mask keeps: NaN and 0 are outside.

    Parameters
    ----------
    values : array
        Of the mask.
    name : str
        What it is, for messages.

    Returns
    -------
    bool array
        Of the same shape.

    Raises
    ------
    ImageError
        Where it has several values besides 0, as label images and probability maps have.
    """
    finite = np.nan_to_num(values)
    inside = finite[finite != 0]
    if inside.size and (inside != inside[0]).any():
        raise ImageError(
            f"a mask has 0 outside and one other value inside, but {name} has several, from {inside.min():g} to "
            f"{inside.max():g}, as label images and probability maps have; threshold it, or choose a label"
        )
    return finite != 0


def checksum(path: str) -> int:
    """CRC-32 of the bytes of an image as they are on disk.

    Parameters
    ----------
    path : str
        A file; of a pair the bytes of both.

    Returns
    -------
    int
    """
    value = 0
    for part in files.parts(path):
        with files.open_binary(part) as file:
            while block := file.read(_READ_BYTES):
                value = _zlib.crc32(block, value)
    return value


def write_image(image: Any, path: str) -> None:
    """Write an image whole or not at all.

    Parameters
    ----------
    image : nibabel image
        What to write.
    path : str
        Target, a path or URL; .nii or .nii.gz.

    Raises
    ------
    OSError
        Where it cannot be written.
    """
    data = image.to_bytes()
    # No time in the header: equal images make equal files.
    files.write_bytes(path, _zlib.compress(data, 1, wbits=_GZIP_WRAPPER) if path.endswith(".gz") else data)


def _size(file: BinaryIO) -> int:
    """Length of an open file, which is then at its beginning."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _stream(file: BinaryIO, read_bytes: int) -> tuple[Any, bool]:
    """The decompressed stream of an open file, and whether it is compressed: by content, not by name."""
    start = file.peek(2)[:2]  # type: ignore[attr-defined]
    if not start:
        raise CorruptImageError("the file is empty")
    return (_GzipStream(file, read_bytes), True) if start == b"\x1f\x8b" else (file, False)


@dataclass(frozen=True)
class _Opened:
    """An open image: its header, and the stream of the file of its values, of which `head` was read."""

    header: NiftiHeader
    stream: Any
    is_gzip: bool
    file: BinaryIO
    head: bytes


@contextmanager
def _opened(path: str, read_bytes: int = _READ_BYTES) -> Iterator[_Opened]:
    """Open an image and check its header."""
    apart = header_apart(path)
    with files.open_binary(path if apart is None else apart.data) as file:
        size = _size(file)
        stream, is_gzip = _stream(file, min(size, read_bytes))
        if apart is None:
            header, head = parse_header(stream, size, is_gzip)
        else:
            header, head = apart, b""
            if not header.foreign:
                check_size(header, size, is_gzip)
        yield _Opened(header, stream, is_gzip, file, head)


def _n_volumes(header: NiftiHeader) -> int:
    """Number of volumes of an image."""
    return header.shape[3] if len(header.shape) > 3 else 1


def _read_foreign(path: str, first: int, last: int) -> NDArray[Any]:
    """Read volumes of an image as nibabel does; what is compressed is read to its end, and its CRC checked."""
    image: Any = nib.load(path)
    for holder in image.file_map.values():
        if os.path.isfile(holder.filename):
            with ImageOpener(holder.filename) as file:
                while file.read(_READ_BYTES):
                    pass
    values = image.dataobj[..., first:last] if len(image.shape) > 3 else image.dataobj
    return np.asarray(values, np.float64).reshape(-1, last - first, order="F").T


def _read_volumes(opened: _Opened, size: int, first: int, last: int) -> NDArray[Any]:
    """Read volumes `first` to `last` of a stream past its header, and the stream to its end."""
    stream, header = opened.stream, opened.header
    _skip(stream, header.offset - len(opened.head))
    _skip(stream, first * size * header.on_disk.itemsize)
    wanted = (last - first) * size * header.on_disk.itemsize
    data = stream.read(wanted)
    rest = header.n_bytes - header.offset - last * size * header.on_disk.itemsize
    _check_end(stream, header, rest + wanted - len(data))
    return np.frombuffer(data, dtype=header.on_disk).reshape(last - first, size)


def _check_end(stream: _GzipStream, header: NiftiHeader, rest: int) -> None:
    """Read a stream to its end, which is due after `rest` bytes; its CRC is checked on the way."""
    if _skip(stream, rest) < rest:
        raise CorruptImageError(f"it decodes to fewer than the {header.n_bytes:,} bytes its header promises")
    if not header.whole:
        while stream.read(_READ_BYTES):
            pass
    elif stream.read(1):
        raise CorruptImageError(f"it decodes to more than the {header.n_bytes:,} bytes its header promises")


def _skip(stream: _GzipStream, n_bytes: int) -> int:
    """Read and drop up to `n_bytes`; return how many there were."""
    done = 0
    while done < n_bytes:
        part = stream.read(min(_READ_BYTES, n_bytes - done))
        if not part:
            break
        done += len(part)
    return done


def _scale(stored: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    """Stored values in image units."""
    values = stored.astype(header.in_memory, copy=False)
    if header.slope == 1.0 and header.intercept == 0.0:
        return values
    return values * header.slope + header.intercept


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turn whatever goes wrong while reading a file into one error that names it."""
    try:
        yield
    except (StorageError, ParameterError):  # say nothing of the file
        raise
    except (OSError, EOFError, _zlib.error, ValueError, LookupError, ArithmeticError, HeaderDataError) as error:
        fault, remedy = _explained(path, error)
        raise CorruptImageError(f"cannot read {path}: {fault}; {remedy}") from error


def _explained(path: str, error: Exception) -> tuple[str, str]:
    """What is wrong with a file, and what to do."""
    if isinstance(error, IsADirectoryError):
        return "it is a folder", f"name the images in it, as in '{files.join(path, '*.nii.gz')}'"
    absent = files.absent(path)
    if absent:
        return absent
    if files.is_url(path) and isinstance(error, FileNotFoundError):
        check_bucket(path)
    fault = "no such file" if isinstance(error, FileNotFoundError) else str(error)
    return fault, _REMEDY
