"""How a vector of voxels becomes an image again. Nothing else knows."""

import base64
from dataclasses import dataclass
from typing import Any, Self

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from daskglm.errors import SpaceError, option

# Affines are stored as float32 in NIfTI headers: two programs rarely agree beyond this, in mm.
_AFFINE_TOLERANCE = 1e-3


def one_volume(grid: NDArray[Any]) -> NDArray[Any]:
    """Drop the dimensions of one beyond the third, where a 4-D image is one volume.

    Parameters
    ----------
    grid : array
        Values of an image.

    Returns
    -------
    array
        3-D where it is one volume; else as it is.

    Examples
    --------
    >>> one_volume(np.ones((4, 5, 6, 1))).shape, one_volume(np.ones((4, 5, 6, 2))).shape
    ((4, 5, 6), (4, 5, 6, 2))
    """
    return grid.reshape(grid.shape[:3]) if grid.ndim > 3 and set(grid.shape[3:]) == {1} else grid


@dataclass(frozen=True)
class VolumeSpace:
    """Voxels of a volume: a grid, its affine and the voxels of it that are analysed.

    Voxels are in the order of the file (Fortran order: x runs fastest), so that masking a file is one
    sequential read.

    Attributes
    ----------
    shape : tuple of 3 int
        Grid.
    affine : (4, 4) float64
        Voxel indices to mm.
    voxels : (V,) int64
        Flat Fortran-order indices into the grid, ascending.
    header : bytes
        The raw NIfTI-1 header that written maps take their units and codes from.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    voxels: NDArray[np.int64]
    header: bytes

    @classmethod
    def from_image(cls, image: Any, mask: NDArray[np.bool_] | None = None) -> Self:
        """Make the space of an image.

        Parameters
        ----------
        image : nibabel image
            Gives the grid, the affine and the header.
        mask : 3-D bool array, optional
            Voxels of the grid to keep; all of them by default.

        Returns
        -------
        VolumeSpace

        Raises
        ------
        SpaceError
            Where the mask keeps no voxel or has another shape than the grid.
        """
        x, y, z = (int(size) for size in image.shape[:3])
        shape = (x, y, z)
        keep = np.ones(shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if keep.shape != shape:
            raise SpaceError(f"a mask has the shape of its images; the mask is {keep.shape}, the images {shape}")
        if not keep.any():
            raise SpaceError("a mask keeps at least one voxel, but this one is empty; give another mask")
        header = nib.Nifti1Header.from_header(image.header, check=False)
        voxels = np.flatnonzero(keep.ravel(order="F"))
        return cls(shape, np.asarray(image.affine, dtype=np.float64), voxels, header.binaryblock)

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any], voxels: NDArray[np.int64]) -> Self:
        """Restore a space from what :meth:`attributes` gave and the voxel coordinate of its dataset.

        Parameters
        ----------
        attributes : dict
            From :meth:`attributes`.
        voxels : (V,) int64
            Flat Fortran-order indices.

        Returns
        -------
        VolumeSpace
        """
        x, y, z = (int(size) for size in attributes["shape"])
        affine = np.array(attributes["affine"], dtype=np.float64)
        header = base64.b64decode(attributes["header"])
        return cls((x, y, z), affine, np.asarray(voxels, dtype=np.int64), header)

    def attributes(self) -> dict[str, Any]:
        """JSON-ready description, all but the voxels: those are the coordinate of a dataset.

        Returns
        -------
        dict
        """
        return {
            "kind": "volume",
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "header": base64.b64encode(self.header).decode("ascii"),
        }

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The analysed voxels as a 3-D bool array."""
        return self._grid(np.ones(self.voxels.size, dtype=bool), False)

    @property
    def c_order(self) -> NDArray[np.int64]:
        """The order in which NumPy meets the voxels in the grid (the last axis first), and nilearn with it."""
        return np.argsort(np.ravel_multi_index(np.unravel_index(self.voxels, self.shape, order="F"), self.shape))

    def mask_image(self) -> Any:
        """The analysed voxels as a ``Nifti1Image`` of 0 and 1 (uint8).

        Returns
        -------
        Nifti1Image
        """
        return self._image(self.mask.astype(np.uint8))

    def to_image(self, values: NDArray[Any], outside: float = np.nan) -> Any:
        """Put values back on the grid.

        Parameters
        ----------
        values : (V,) or (m, V) array
            One number a voxel; m rows become the fourth dimension.
        outside : float
            Value of the voxels outside the mask.

        Returns
        -------
        Nifti1Image
            Of the dtype of `values` where that is float32 or an integer, else float64. Of the header of the images
            it keeps where voxels are and no more: what their values were says nothing of these.
        """
        if values.ndim == 1:
            return self._image(self._grid(values, outside))
        return self._image(np.stack([self._grid(row, outside) for row in values], axis=-1))

    def select(self, keep: NDArray[np.bool_]) -> "VolumeSpace":
        """The space of some of the voxels, `keep` (V,) bool.

        Parameters
        ----------
        keep : (V,) bool
            Voxels to keep.

        Returns
        -------
        VolumeSpace
        """
        return VolumeSpace(self.shape, self.affine, self.voxels[keep], self.header)

    def coordinates(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions (k, 3) in mm of some voxels, given as positions (k,) in the vector.

        Parameters
        ----------
        indices : (k,) int64
            Positions in the vector of voxels.

        Returns
        -------
        (k, 3) float64
            In mm.
        """
        grid = np.unravel_index(self.voxels[indices], self.shape, order="F")
        return np.stack(grid, axis=-1) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def check_same_grid(self, shape: tuple[int, ...], affine: NDArray[np.float64], name: str) -> None:
        """Raise unless something has this grid.

        Parameters
        ----------
        shape : tuple of int
            Shape to compare, the first three dimensions.
        affine : (4, 4) float64
            Affine to compare.
        name : str
            What it is, for the message.

        Raises
        ------
        SpaceError
            Naming it and both values.
        """
        if tuple(shape[:3]) != self.shape:
            raise SpaceError(
                f"all images share one grid, but {name} has shape {tuple(shape[:3])} where {self.shape} is due; "
                f"resample it{_to_a_grid()}"
            )
        if not np.allclose(affine, self.affine, atol=_AFFINE_TOLERANCE, rtol=0):
            raise SpaceError(
                f"all images share one grid, but {name} has the affine {np.round(affine, 4).tolist()} where "
                f"{np.round(self.affine, 4).tolist()} is due; resample it{_to_a_grid()}"
            )

    def _grid(self, values: NDArray[Any], outside: Any) -> NDArray[Any]:
        dtype = values.dtype if values.dtype.kind in "iub" or values.dtype == np.float32 else np.float64
        flat = np.full(int(np.prod(self.shape)), 0 if np.dtype(dtype).kind in "iub" else outside, dtype=dtype)
        flat[self.voxels] = values
        return flat.reshape(self.shape, order="F")

    def _image(self, grid: NDArray[Any]) -> Any:
        header = nib.Nifti1Header(self.header, check=False)
        header.set_data_dtype(grid.dtype)
        header.set_slope_inter(1, 0)
        header.set_intent("none")
        for name in ("cal_min", "cal_max", "toffset", "slice_code", "slice_start", "slice_end", "slice_duration"):
            header[name] = 0
        header["pixdim"][4:] = 1
        header["aux_file"] = header["intent_name"] = b""
        image = nib.Nifti1Image(grid, self.affine, header)
        image.header["descrip"] = b""
        return image


def _to_a_grid() -> str:
    """The remedy that models in Python have besides."""
    return option(", or give target_affine and target_shape to SecondLevelModel or FirstLevelModel", "")
