"""Images as lazy (sample, voxel) arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from daskglm.errors import CorruptImageError, ImageError, MissingDependencyError, SpaceError, listing
from daskglm.graph.compute import shared
from daskglm.io.files import each
from daskglm.io.formats import NiftiHeader
from daskglm.io.nifti import checksum, read_header, read_values
from daskglm.kernels.smoothing import smooth
from daskglm.schema.space import VolumeSpace

# Values read by one task: 32 images of 145,000 voxels are 18 MB of float32. Fewer images than 32 a block would
# make its moments (p numbers a voxel, p^2 / 2 where data are missing) larger than its data.
_BLOCK_VALUES = 2**22
_BLOCK_SAMPLES = (32, 64)
_REMEDY = "restore the image or drop its subject"
_FAULTS_SHOWN = 20


# Of an image: where it is zero and where it has data, a bit a voxel; and whether it has other than whole numbers.
Look = tuple[NDArray[np.uint8], NDArray[np.uint8], bool]


@dataclass(frozen=True)
class Preparation:
    """What is done to each image on its way from file to vector.

    Attributes
    ----------
    space : VolumeSpace
        Grid and voxels that the vector has.
    missing_zero : bool
        Count exact zeros as missing, besides non-finite values.
    smoothing_fwhm : float, tuple of 3 float or None
        Full width at half maximum of a Gaussian, in mm, applied on the whole grid before masking.
    target_affine, target_shape : array or None
        Grid to resample to before smoothing, by nilearn; `space` is on that grid.
    coverage : bool
        Give 1 where an image has data before any of this, finite and not zero, and else 0: what a mask is made of.
    """

    space: VolumeSpace
    missing_zero: bool = False
    smoothing_fwhm: Any = None
    target_affine: Any = None
    target_shape: Any = None
    coverage: bool = False

    @property
    def treats(self) -> bool:
        """Whether voxels get other values than the image has."""
        return self.coverage or self.smoothing_fwhm is not None or self.target_affine is not None


def prepare(
    values: NDArray[Any], shape: tuple[int, ...], affine: NDArray[np.float64], name: str, how: Preparation
) -> NDArray[Any]:
    """Take an image's values (m, X * Y * Z), in file order, to vectors (m, V).

    Parameters
    ----------
    values : (m, X * Y * Z) array
        Values in the order of the file, in image units.
    shape : tuple of int
        Grid.
    affine : (4, 4) float64
        Voxel indices to mm.
    name : str
        What the image is, for messages.
    how : Preparation
        What happens to it.

    Returns
    -------
    (m, V) array

    Raises
    ------
    SpaceError
        Where the image is on another grid and none to resample to is given.
    """
    space = how.space
    if how.target_affine is None:
        space.check_same_grid(shape, affine, name)
    if how.coverage:
        values = (np.isfinite(values) & (values != 0)).astype(np.float32)
    if how.target_affine is not None:
        values = _on_grid(values, shape, affine, how) if how.coverage else _resample(values, shape, affine, how)
    if how.smoothing_fwhm is not None and not how.coverage:
        values = _smooth(values, how)
    if space.voxels.size < values.shape[1]:
        # One copy of the analysed voxels; np.take reads the file's order from start to end.
        values = np.take(values, space.voxels, axis=1)
    if how.missing_zero and not how.coverage:
        values = np.where(values == 0, np.nan, values)
    return values


def check_any_finite(values: NDArray[Any], name: str, remedy: str = _REMEDY) -> None:
    """Raise where an image has no finite value.

    Parameters
    ----------
    values : (m, V) array
        Values of an image in the mask.
    name : str
        What it is, for the message.
    remedy : str
        What to do.

    Raises
    ------
    ImageError
        Naming it.
    """
    if not np.isfinite(values).any(axis=1).all():
        raise ImageError(f"{name} has no finite value in the mask; {remedy}")


def check_varies(values: NDArray[Any], name: str, remedy: str = _REMEDY) -> None:
    """Raise where an image has one and the same value everywhere: it failed to be made, and says nothing.

    Parameters
    ----------
    values : (m, V) array
        Values of an image in the mask; a single voxel, or finite value, cannot vary.
    name : str
        What it is, for the message.
    remedy : str
        What to do.

    Raises
    ------
    ImageError
        Naming it.
    """
    for row in values:
        # Most images vary from one voxel to the next: only the others are looked through.
        if row.size > 1 and np.isfinite(row[:2]).all() and row[0] != row[1]:
            continue
        finite = row[np.isfinite(row)]
        if finite.size > 1 and (finite == finite[0]).all():
            raise ImageError(
                f"an image varies within the mask, but {name} is {finite[0]:g} in all {finite.size:,} voxels; {remedy}"
            )


def own_values(values: NDArray[Any], prepared: NDArray[Any], how: Preparation) -> NDArray[Any]:
    """Values of an image before it is treated: what is asked of its data is asked of these.

    Parameters
    ----------
    values : (m, X * Y * Z) array
        Values as :func:`prepare` takes them.
    prepared : (m, V) array
        What it made of them.
    how : Preparation
        What happened to them.

    Returns
    -------
    (m, V) or (m, X * Y * Z) array
        In the mask; of the whole grid where the mask is on another one.
    """
    if how.target_affine is not None:
        return values
    return np.take(values, how.space.voxels, axis=1) if how.treats else prepared


def look_for_zeros(row: NDArray[Any]) -> Look:
    """Where an image is exactly zero, where it has data, and whether these are other than whole numbers.

    Parameters
    ----------
    row : (V,) array
        Values of an image before it is treated: smoothing leaves no zeros.

    Returns
    -------
    zero, data : (V / 8,) uint8
        A bit a voxel.
    fractions : bool
    """
    finite = np.isfinite(row)
    observed = row[finite]
    return np.packbits(row == 0), np.packbits(finite & (row != 0)), bool((observed != np.floor(observed)).any())


def part_of_zeros(looks: Sequence[Look], n_voxels: int) -> list[float]:
    """Part of the voxels at which an image is exactly zero and another is not; none of counts and labels.

    Parameters
    ----------
    looks : sequence of n looks
        From :func:`look_for_zeros`.
    n_voxels : int
        V.

    Returns
    -------
    list of n float
    """
    if not any(fractions for _, _, fractions in looks):
        return [0.0] * len(looks)
    anywhere = np.bitwise_or.reduce([data for _, data, _ in looks])
    return [int(np.unpackbits(anywhere & zero).sum()) / n_voxels for zero, _, _ in looks]


def read_prepared(path: str, how: Preparation, volumes: slice = slice(None)) -> NDArray[Any]:
    """Read one file, verified, as vectors (m, V): one row a volume.

    Parameters
    ----------
    path : str
        A file.
    how : Preparation
        What happens to the image.
    volumes : slice
        Volumes of a 4-D file.

    Returns
    -------
    (m, V) array
        Float32 or float64, in image units.

    Raises
    ------
    ImageError
        Where the file is damaged, on another grid, nowhere finite, or the same everywhere; it is named.
    """
    return _read(path, how, volumes)[0]


def read_with_checksum(path: str, how: Preparation) -> tuple[NDArray[Any], int, Look]:
    """As :func:`read_prepared` of a 3-D file, and the CRC-32 of the file as it is on disk; a URL is read once for both.

    Parameters
    ----------
    path, how
        As :func:`read_prepared`.

    Returns
    -------
    values : (1, V) array
    crc32 : int
    look : look
        Of :func:`look_for_zeros`, at the image as it is in the file.
    """
    prepared, own, header = _read(path, how, slice(None))
    crc32 = checksum(path) if header.crc32 is None else header.crc32
    return prepared, crc32, look_for_zeros(own[0])


def _read(path: str, how: Preparation, volumes: slice) -> tuple[NDArray[Any], NDArray[Any], NiftiHeader]:
    """Read one file, verified, as vectors, treated and not, and its header."""
    header, values = read_values(path, volumes)
    prepared = prepare(values, header.shape, header.affine, path, how)
    own = own_values(values, prepared, how)
    check_any_finite(own, path)
    check_varies(own, path)
    return prepared, own, header


def scan_headers(paths: Sequence[str], how: Preparation) -> tuple[list[NiftiHeader | None], dict[str, Exception]]:
    """Read all headers before any work and compare them with the space.

    Parameters
    ----------
    paths : sequence of str
        3-D images (a 4-D one only alone).
    how : Preparation
        Gives the space; grids are not compared where images will be resampled.

    Returns
    -------
    headers : list of NiftiHeader or None
        One a path.
    faults : dict
        Path to what is wrong with it.
    """
    scanned = each(lambda path: _scan(path, how, alone=len(paths) == 1), paths)
    faults = {path: error for path, (_, error) in zip(paths, scanned, strict=True) if error is not None}
    return [header for header, _ in scanned], faults


def raise_faults(faults: Mapping[str, Exception]) -> None:
    """Raise where files cannot be used: the first, with what is wrong with the others.

    Parameters
    ----------
    faults : mapping of str to Exception
        Path to what is wrong with it.

    Raises
    ------
    ImageError
        Of the class of the first.
    """
    if not faults:
        return
    first, *others = faults.values()
    if not others:
        raise first
    told = listing((str(error).partition(";")[0] for error in others), _FAULTS_SHOWN)
    raise type(first)(f"{first}. {len(others)} more cannot be used: {told}")


def _scan(path: str, how: Preparation, alone: bool) -> tuple[NiftiHeader | None, Exception | None]:
    """The header of one file, or what is wrong with it."""
    try:
        header = read_header(path)
        if how.target_affine is None:
            how.space.check_same_grid(header.shape, header.affine, path)
        if len(header.shape) > 3 and not alone:
            raise SpaceError(f"several images are 3-D each, but {path} has shape {header.shape}; split it")
    except (CorruptImageError, SpaceError) as error:
        return None, error
    return header, None


def array_from_files(paths: Sequence[str], headers: Sequence[NiftiHeader], how: Preparation) -> da.Array:
    """Lazy (n, V) array of 3-D files, one row a file, or of the volumes of one 4-D file.

    Parameters
    ----------
    paths : sequence of str
        Files.
    headers : sequence of NiftiHeader
        Their headers.
    how : Preparation
        What happens to each image.

    Returns
    -------
    dask.array.Array
        Float32, or float64 where any image is scaled, float64 or resampled. A block is at most 64 images. A
        block of a compressed 4-D file reads the file from its start, for a gzip stream cannot seek.
    """
    if len(headers) == 1 and len(headers[0].shape) == 4:
        rows: list[tuple[str, slice]] = [(paths[0], slice(k, k + 1)) for k in range(headers[0].shape[3])]
        reader: Callable[..., Any] = _read_volumes
    else:
        rows = [(path, slice(None)) for path in paths]
        reader = _read_block
    double = how.target_affine is not None or any(header.in_memory == np.float64 for header in headers)
    return _array_of_rows(reader, rows, how, np.dtype(np.float64 if double else np.float32))


def array_from_images(images: Sequence[Any], how: Preparation) -> da.Array:
    """Lazy (n, V) array of images in memory: 3-D ones, or one 4-D.

    Parameters
    ----------
    images : sequence of nibabel image
        3-D images, or a single 4-D one.
    how : Preparation
        What happens to each image.

    Returns
    -------
    dask.array.Array
        As :func:`array_from_files`; an image that is still a proxy is read by the task and not kept.
    """
    if len(images) == 1 and len(images[0].shape) == 4:
        rows = [(images[0], slice(k, k + 1), k) for k in range(images[0].shape[3])]
    else:
        rows = [(image, slice(None), k) for k, image in enumerate(images)]
    kinds = {np.asanyarray(image.dataobj[:1, :1, :1]).dtype for image in images}
    double = how.target_affine is not None or not kinds <= {np.dtype(t) for t in ("f4", "i2", "u1", "i1", "u2")}
    return _array_of_rows(_mask_block, rows, how, np.dtype(np.float64 if double else np.float32))


def lazy_array(variable: xr.DataArray) -> da.Array:
    """The dask array of a variable.

    Parameters
    ----------
    variable : xarray.DataArray
        Lazy or in memory.

    Returns
    -------
    dask.array.Array
        Around a NumPy array it is made in blocks of 64 samples, or of one object.
    """
    if variable.chunks is not None:
        return variable.data
    values = variable.values
    # Named at random: a name made of the values would hash them all.
    return da.from_array(values, chunks=(64, -1) if values.ndim == 2 else 1, name=False)


def resample(image: Any, target_affine: Any, target_shape: Any, interpolation: str) -> Any:
    """Put an image on another grid, by nilearn.

    Parameters
    ----------
    image : nibabel image
        3-D image.
    target_affine, target_shape : array
        The grid, as nilearn's ``resample_img`` takes it.
    interpolation : str
        "continuous" or "nearest".

    Returns
    -------
    nibabel image

    Raises
    ------
    MissingDependencyError
        Where nilearn is not installed.
    """
    try:
        from nilearn.image import resample_img
    except ImportError as error:
        raise MissingDependencyError(
            "target_affine resamples with nilearn, which is not installed; pip install 'daskglm[nilearn]'"
        ) from error
    return resample_img(
        image, target_affine=target_affine, target_shape=target_shape, interpolation=interpolation, copy_header=True,
        force_resample=False,
    )  # fmt: skip


def _array_of_rows(
    reader: Callable[..., Any], rows: Sequence[tuple[Any, ...]], how: Preparation, dtype: np.dtype[Any]
) -> da.Array:
    """Blocks of rows, each made by one call of the reader."""
    n_voxels = how.space.voxels.size
    size = int(np.clip(_BLOCK_VALUES // max(n_voxels, 1), *_BLOCK_SAMPLES))
    # At least four blocks where there are samples enough, for the cores of a small machine.
    size = min(size, max(1, -(-len(rows) // 4)))
    sizes = [min(size, len(rows) - start) for start in range(0, len(rows), size)]
    keys = np.empty(len(rows), dtype=object)
    keys[:] = list(rows)
    blocks = da.from_array(keys, chunks=(tuple(sizes),))
    # The space travels once, not with every task.
    once = shared("preparation", how)
    return da.map_blocks(
        reader, blocks, once, dtype, dtype=dtype, chunks=(tuple(sizes), (n_voxels,)), new_axis=1,
        meta=np.empty((0, 0), dtype), name=f"read-images-{dask.base.tokenize(rows, how, dtype)}",
    )  # fmt: skip


def _read_block(rows: NDArray[Any], how: Preparation, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read some 3-D files: (m, V)."""
    block = np.empty((len(rows), how.space.voxels.size), dtype)
    for index, (path, _) in enumerate(rows):
        block[index] = read_prepared(path, how)[0]
    return block


def _read_volumes(rows: NDArray[Any], how: Preparation, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read consecutive volumes of one 4-D file: (m, V)."""
    (path, first), (_, last) = rows[0], rows[-1]
    return read_prepared(path, how, slice(first.start, last.stop)).astype(dtype, copy=False)


def _mask_block(rows: NDArray[Any], how: Preparation, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Take some images in memory to vectors: (m, V)."""
    block = np.empty((len(rows), how.space.voxels.size), dtype)
    for index, (image, volume, number) in enumerate(rows):
        if len(image.shape) == 4:
            grid = np.asanyarray(image.dataobj[..., volume])[..., 0]
        else:
            grid = np.asanyarray(image.dataobj)
        values = grid.reshape(1, -1, order="F").astype(dtype, copy=False)
        prepared = prepare(values, grid.shape, image.affine, f"image {number}", how)
        own = own_values(values, prepared, how)
        check_any_finite(own, f"image {number}")
        check_varies(own, f"image {number}")
        block[index] = prepared[0]
    return block


def _smooth(values: NDArray[Any], how: Preparation) -> NDArray[Any]:
    """Smooth each volume on the whole grid, among the voxels that it has; the others are missing."""
    space = how.space
    smoothed = np.empty_like(values)
    for index, row in enumerate(values):
        seen = np.isfinite(row) & (row != 0 if how.missing_zero else True)
        grid, there = (item.reshape(space.shape, order="F") for item in (row, seen))
        smoothed[index] = smooth(grid, space.affine, how.smoothing_fwhm, there).ravel(order="F")
    return smoothed


def _resample(
    values: NDArray[Any], shape: tuple[int, ...], affine: NDArray[np.float64], how: Preparation
) -> NDArray[Any]:
    """Resample each volume as nilearn's maskers do; voxels without data, or outside its grid, are missing."""
    seen = np.isfinite(values) & (values != 0 if how.missing_zero else True)
    filled = np.stack([_filled(*pair, shape[:3]) for pair in zip(values, seen, strict=True)])
    resampled = _on_grid(filled, shape, affine, how, "continuous")
    resampled[_on_grid(seen.astype(np.float32), shape, affine, how) == 0] = np.nan
    return resampled


def _filled(row: NDArray[Any], seen: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[Any]:
    """A volume whose missing voxels have the value of the nearest: splines reach beyond the voxels about a point."""
    if seen.all() or not seen.any():
        return row
    gaps = ~seen.reshape(shape, order="F")
    nearest = distance_transform_edt(gaps, return_distances=False, return_indices=True)
    return row.reshape(shape, order="F")[tuple(nearest)].ravel(order="F")


def _on_grid(
    values: NDArray[Any], shape: tuple[int, ...], affine: NDArray[np.float64], how: Preparation,
    interpolation: str = "nearest",
) -> NDArray[Any]:  # fmt: skip
    """Values (m, X * Y * Z) of each volume on the target grid; 0 outside its own."""
    images = (nib.Nifti1Image(row.reshape(shape[:3], order="F"), affine) for row in values)
    resampled = (resample(image, how.target_affine, how.target_shape, interpolation) for image in images)
    return np.stack([np.asanyarray(image.dataobj).ravel(order="F") for image in resampled])
