"""NIfTI files, read to their end and checked on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from daskglm.errors import CorruptImageError, ParameterError, StorageError
from daskglm.io import files

try:  # two to three times the standard library's speed, with the same interface and checks
    _zlib: Any = import_module("isal.isal_zlib")
except ImportError:
    _zlib = import_module("zlib")

_HEADER_BYTES = 352
_GZIP_WRAPPER = 31
# DEFLATE cannot expand its input more than this.
_MAX_EXPANSION = 1032
_READ_BYTES = 2**22
# Integers this short are exact in float32, without scaling (nilearn's rule for masked data).
_EXACT_IN_FLOAT32 = (np.uint8, np.int8, np.int16, np.uint16)


@dataclass(frozen=True)
class NiftiHeader:
    """What is needed of a header to read the values of an image.

    Attributes
    ----------
    shape : tuple of int
        Shape, trailing dimensions of one dropped beyond the third.
    affine : (4, 4) float64
        Voxel indices to mm.
    on_disk, in_memory : numpy.dtype
        Type of the stored values, and float32 or float64, of the scaled ones.
    slope, intercept : float
        Scaling; 1 and 0 where the header has none.
    offset : int
        Bytes before the values.
    raw : bytes
        The header's first 348 bytes.
    crc32 : int or None
        CRC-32 of the file as it is on disk, where reading the values met every byte of it.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    on_disk: np.dtype[Any]
    in_memory: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    raw: bytes
    crc32: int | None = None

    @property
    def n_bytes(self) -> int:
        """Length of a whole file with this header, decompressed."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.on_disk.itemsize


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
    """Read and check the header of a NIfTI file.

    Parameters
    ----------
    path : str
        A .nii or .nii.gz file.

    Returns
    -------
    NiftiHeader

    Raises
    ------
    CorruptImageError
        Where the file is empty or missing, is no NIfTI, or is too short for the size its header promises.
    """
    with _faults(path), files.open_binary(path) as file:
        size = _size(file)
        stream, is_gzip = _stream(file, _HEADER_BYTES * 8)
        return _parse_header(stream.read(_HEADER_BYTES), size, is_gzip)


def read_values(path: str, volumes: slice = slice(None)) -> tuple[NiftiHeader, NDArray[Any]]:
    """Read the values of an image, verified.

    Parameters
    ----------
    path : str
        A .nii or .nii.gz file or URL. A compressed one is read to its end: the CRC and length in the gzip
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
    with _faults(path), files.open_binary(path) as file:
        size = _size(file)
        stream, is_gzip = _stream(file, min(size, _READ_BYTES))
        head = stream.read(_HEADER_BYTES)
        header = _parse_header(head, size, is_gzip)
        n_volumes = header.shape[3] if len(header.shape) > 3 else 1
        volume_size = int(np.prod(header.shape[:3]))
        first, last, _ = volumes.indices(n_volumes)
        if is_gzip:
            stored = _read_volumes(stream, header, volume_size, first, last)
            header = replace(header, crc32=stream.crc32)
        elif files.is_url(path):
            n_bytes = volume_size * header.on_disk.itemsize
            file.seek(header.offset + first * n_bytes)
            data = file.read((last - first) * n_bytes)
            stored = np.frombuffer(data, header.on_disk).reshape(last - first, volume_size)
            if last - first == n_volumes and header.offset == len(head):
                header = replace(header, crc32=_zlib.crc32(data, _zlib.crc32(head)))
        else:
            whole: NDArray[Any] = np.memmap(path, header.on_disk, "r", header.offset, (n_volumes, volume_size))
            stored = whole[first:last]
    return header, _scale(stored, header)


def stream_volumes(path: str, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
    """Read the volumes of a 4-D image one after the other; memory holds one.

    Parameters
    ----------
    path : str
        A .nii or .nii.gz file or URL. A compressed one is read from its beginning to its end, whatever is asked for,
        and its CRC and length are checked after the last volume was given out: what was made of the volumes
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
    with _faults(path), files.open_binary(path) as file:
        size = _size(file)
        stream, is_gzip = _stream(file, min(size, _READ_BYTES))
        header = _parse_header(stream.read(_HEADER_BYTES), size, is_gzip)
        n_volumes = header.shape[3] if len(header.shape) > 3 else 1
        stop = n_volumes if stop is None else stop
        n_bytes = int(np.prod(header.shape[:3])) * header.on_disk.itemsize
        if is_gzip:
            _skip(stream, header.offset - _HEADER_BYTES + start * n_bytes)
        else:
            file.seek(header.offset + start * n_bytes)
        for volume in range(start, stop):
            data = stream.read(n_bytes)
            if len(data) < n_bytes:
                raise CorruptImageError(f"it ends in volume {volume} of {n_volumes}")
            yield _scale(np.frombuffer(data, dtype=header.on_disk), header)
        if is_gzip:
            _check_end(stream, header, (n_volumes - stop) * n_bytes)


def read_mask(path: str) -> tuple[NiftiHeader, NDArray[np.bool_]]:
    """Read a mask: non-zero voxels are kept.

    Parameters
    ----------
    path : str
        A 3-D .nii or .nii.gz file.

    Returns
    -------
    header : NiftiHeader
    mask : 3-D bool array

    Raises
    ------
    CorruptImageError
        As :func:`read_values`, and where the image is not 3-D.
    """
    header, values = read_values(path)
    if len(header.shape) != 3:
        raise CorruptImageError(f"a mask is 3-D, but {path} has shape {header.shape}; take one volume of it")
    finite = np.nan_to_num(values[0])
    return header, (finite != 0).reshape(header.shape, order="F")


def checksum(path: str) -> int:
    """CRC-32 of the bytes of a file as they are on disk.

    Parameters
    ----------
    path : str
        A file.

    Returns
    -------
    int
    """
    value = 0
    with files.open_binary(path) as file:
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


def _parse_header(head: bytes, file_size: int, is_gzip: bool) -> NiftiHeader:
    """Check a header against the size of its file and take what reading needs from it."""
    if len(head) < _HEADER_BYTES - 4:
        raise CorruptImageError("the file is shorter than a NIfTI header")
    raw = head[:348]
    order = ">" if raw[40:42] != raw[40:42][::-1] and not 1 <= int.from_bytes(raw[40:42], "little") <= 7 else "<"
    fields = nib.Nifti1Header(raw, endianness=order, check=False)
    if bytes(fields["magic"])[:3] not in (b"n+1",) or not 1 <= fields["dim"][0] <= 7:
        raise CorruptImageError("it is not a single-file NIfTI-1 image (.nii or .nii.gz)")
    shape = tuple(int(size) for size in fields.get_data_shape())
    if len(shape) < 3 or min(shape) < 1 or any(size != 1 for size in shape[4:]):
        raise CorruptImageError(f"images are 3-D or 4-D with sizes of 1 or more, but the header says {shape}")
    shape = shape[:4] if len(shape) > 3 and shape[3] > 1 else shape[:3]
    dtype = fields.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CorruptImageError(f"images hold real numbers, but the header says {dtype}")
    slope, intercept = fields.get_slope_inter()
    scaled = slope not in (None, 1.0) or intercept not in (None, 0.0)
    single = not scaled and (dtype in _EXACT_IN_FLOAT32 or (dtype.itemsize <= 4 and dtype.kind == "f"))
    header = NiftiHeader(
        shape=shape,
        affine=np.asarray(fields.get_best_affine(), dtype=np.float64),
        on_disk=dtype,
        in_memory=np.dtype(np.float32 if single else np.float64),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        offset=max(int(fields["vox_offset"]), _HEADER_BYTES),
        raw=raw,
    )
    possible = file_size * _MAX_EXPANSION if is_gzip else file_size
    if header.n_bytes > possible or (not is_gzip and header.n_bytes != file_size):
        raise CorruptImageError(
            f"its header promises {header.n_bytes:,} bytes {shape}, but the file has {file_size:,}"
            + (" compressed" if is_gzip else "")
        )
    return header


def _read_volumes(stream: _GzipStream, header: NiftiHeader, size: int, first: int, last: int) -> NDArray[Any]:
    """Read volumes `first` to `last` of a stream past its first 352 bytes, and the stream to its end."""
    _skip(stream, header.offset - _HEADER_BYTES)
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
    if stream.read(1):
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
        fault = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        remedy = "restore the file or drop its subject (daskglm convert --on-error quarantine leaves such files out)"
        raise CorruptImageError(f"cannot read {path}: {fault}; {remedy}") from error
