"""Formats of images: what their headers say, and where in a file the values are."""

import os
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from daskglm.errors import CorruptImageError
from daskglm.io import files

# DEFLATE cannot expand its input more than this.
_MAX_EXPANSION = 1032
# Integers this short are exact in float32, without scaling (nilearn's rule for masked data).
_EXACT_IN_FLOAT32 = (np.uint8, np.int8, np.int16, np.uint16)
# Files of which another has the header, or whose layout nibabel alone knows; all others begin with their header.
_APART = (".hdr", ".img", ".head", ".brik", ".par", ".rec", ".mnc", ".v")
_COMPRESSED = (".gz", ".bz2", ".zst")
_MGH = b"\x00\x00\x00\x01"
# First four bytes of a header -> its length, and the least offset of values.
_LENGTHS = {_MGH: (284, 284), (540).to_bytes(4, "little"): (540, 544), (540).to_bytes(4, "big"): (540, 544)}
_NIFTI1 = (348, 352)


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
        A NIfTI-1 header that says the same, 348 bytes.
    data : str
        File of the values, where it is another than that of the header.
    whole : bool
        Whether the file ends with the values.
    foreign : bool
        Whether nibabel reads the values, which are not in one piece.
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
    data: str = ""
    whole: bool = True
    foreign: bool = False
    crc32: int | None = None

    @property
    def n_bytes(self) -> int:
        """Length of a whole file with this header, decompressed."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.on_disk.itemsize


def header_apart(path: str) -> NiftiHeader | None:
    """The header of an image that nibabel has to find: of a pair of files, or of a format of many pieces.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    NiftiHeader or None
        None where the file begins with its header.

    Raises
    ------
    CorruptImageError
        Where nibabel cannot read it, or it is behind a URL.
    """
    bare, end = os.path.splitext(path.lower())
    if end in _COMPRESSED:
        foreign, end = end != ".gz", os.path.splitext(bare)[1]
    else:
        foreign = False
    if not foreign and end not in _APART:
        return None
    if files.is_url(path):
        raise CorruptImageError("an image behind a URL must be a single file (.nii, .nii.gz, .mgh, .mgz); convert it")
    try:
        image: Any = nib.load(path)
    except ImageFileError as error:
        if not os.path.exists(path):
            raise FileNotFoundError(path) from error
        raise CorruptImageError(f"nibabel cannot read it: {error}") from error
    shape, proxy = getattr(image, "shape", ()), getattr(image, "dataobj", None)
    place = image.file_map["image"].filename if "image" in image.file_map else path
    if proxy is None or len(shape) < 3:
        raise CorruptImageError(f"images must be volumes, got a {type(image).__name__} of shape {tuple(shape)}")
    if not os.path.isfile(place):
        raise CorruptImageError(f"its values are in {place}, and there is no such file")
    header, plain = image.header, type(proxy) is ArrayProxy and not foreign
    slope, intercept = (proxy.slope, proxy.inter) if plain else (np.nan, np.nan)
    return _described(
        shape, image.affine, header.get_data_dtype(), slope, intercept, proxy.offset if plain else 0, _as_nifti(image),
        place, False, not plain,
    )  # fmt: skip


def parse_header(stream: Any, file_size: int, is_gzip: bool) -> tuple[NiftiHeader, bytes]:
    """Read and check the header that a file begins with: NIfTI-1, NIfTI-2 or FreeSurfer's MGH.

    Parameters
    ----------
    stream : binary file
        Decompressed, at its beginning.
    file_size : int
        Bytes on disk.
    is_gzip : bool
        Whether these are compressed.

    Returns
    -------
    header : NiftiHeader
    head : bytes
        What was read.

    Raises
    ------
    CorruptImageError
        Where it is no such image, or the file cannot hold what the header promises.
    """
    head = stream.read(4)
    length, offset = _LENGTHS.get(head, _NIFTI1)
    head += stream.read(offset - 4)
    if len(head) < length:
        raise CorruptImageError("the file is shorter than a NIfTI header")
    header = _mgh(head) if head[:4] == _MGH else _nifti(head, length, offset)
    check_size(header, file_size, is_gzip)
    return header, head


def check_size(header: NiftiHeader, file_size: int, is_gzip: bool) -> None:
    """Raise where a file cannot hold what its header promises.

    Parameters
    ----------
    header : NiftiHeader
        Of the file.
    file_size : int
        Bytes on disk.
    is_gzip : bool
        Whether these are compressed.

    Raises
    ------
    CorruptImageError
        With both sizes.
    """
    possible = file_size * _MAX_EXPANSION if is_gzip else file_size
    if header.n_bytes > possible or (header.whole and not is_gzip and header.n_bytes != file_size):
        raise CorruptImageError(
            f"its header promises {header.n_bytes:,} bytes {header.shape}, but the file has {file_size:,}"
            + (" compressed" if is_gzip else "")
        )


def _nifti(head: bytes, length: int, offset: int) -> NiftiHeader:
    """What a NIfTI header says."""
    raw, kind = head[:length], nib.Nifti1Header if length == _NIFTI1[0] else nib.Nifti2Header
    if length == _NIFTI1[0]:
        order = ">" if raw[40:42] != raw[40:42][::-1] and not 1 <= int.from_bytes(raw[40:42], "little") <= 7 else "<"
    else:
        order = "<" if raw[:4] == length.to_bytes(4, "little") else ">"
    fields = kind(raw, endianness=order, check=False)
    if bytes(fields["magic"])[:3] not in (b"n+1", b"n+2") or not 1 <= fields["dim"][0] <= 7:
        raise CorruptImageError("it is not a single-file image (.nii, .nii.gz, .mgh, .mgz)")
    slope, intercept = fields.get_slope_inter()
    offset = max(int(fields["vox_offset"]), offset)
    affine = fields.get_best_affine()
    shape = fields.get_data_shape()
    found = _described(shape, affine, fields.get_data_dtype(), slope, intercept, offset, raw)
    if length == _NIFTI1[0]:
        return found
    empty = nib.Nifti2Image(np.broadcast_to(np.float32(0), found.shape), affine, fields)
    return replace(found, raw=_as_nifti(empty))


def _mgh(head: bytes) -> NiftiHeader:
    """What a header of FreeSurfer's MGH format says; after the values come times and tags."""
    fields = MGHHeader(head)
    try:
        shape, dtype = fields.get_data_shape(), fields.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise CorruptImageError(f"its MGH header is damaged: {error}") from error
    empty = nib.MGHImage(np.broadcast_to(np.float32(0), shape), fields.get_affine(), fields)
    raw = _as_nifti(empty)
    return _described(shape, fields.get_affine(), dtype, None, None, fields.get_data_offset(), raw, whole=False)


def _as_nifti(image: Any) -> bytes:
    """A NIfTI-1 header that says what the header of any image does."""
    header = nib.Nifti1Header()
    shape = tuple(int(size) for size in image.shape[:4])
    if max(shape, default=0) > np.iinfo(np.int16).max:
        raise CorruptImageError(f"volumes have up to 32,767 voxels along an axis, but the shape is {shape}")
    header.set_data_shape(shape)
    header.set_zooms(tuple(float(size) for size in image.header.get_zooms()[: len(shape)]))
    if isinstance(image.header, nib.Nifti1Header):  # NIfTI-2 is one
        codes = (int(image.header["sform_code"]), int(image.header["qform_code"]))
        header.set_xyzt_units(*image.header.get_xyzt_units())
    else:
        codes = (2, 0)
        header.set_xyzt_units("mm", "unknown")
    header.set_sform(image.affine, codes[0])
    header.set_qform(image.affine, codes[1])
    return bytes(header.binaryblock)


def _described(
    shape: Any, affine: Any, dtype: Any, slope: Any, intercept: Any, offset: int, raw: bytes, data: str = "",
    whole: bool = True, foreign: bool = False,
) -> NiftiHeader:  # fmt: skip
    """A header whose shape and type can be analysed."""
    shape, dtype = tuple(int(size) for size in shape), np.dtype(dtype)
    if len(shape) < 3 or min(shape) < 1 or any(size != 1 for size in shape[4:]):
        raise CorruptImageError(f"images are 3-D or 4-D with sizes of 1 or more, but the header says {shape}")
    shape = shape[:4] if len(shape) > 3 and shape[3] > 1 else shape[:3]
    if dtype.kind not in "iuf":
        raise CorruptImageError(f"images hold real numbers, but the header says {dtype}")
    scaled = slope not in (None, 1.0) or intercept not in (None, 0.0)
    single = not scaled and (dtype in _EXACT_IN_FLOAT32 or (dtype.itemsize <= 4 and dtype.kind == "f"))
    return NiftiHeader(
        shape=shape,
        affine=np.asarray(affine, dtype=np.float64),
        on_disk=dtype,
        in_memory=np.dtype(np.float32 if single else np.float64),
        slope=1.0 if slope is None or foreign else float(slope),
        intercept=0.0 if intercept is None or foreign else float(intercept),
        offset=offset,
        raw=raw,
        data=data,
        whole=whole,
        foreign=foreign,
    )
