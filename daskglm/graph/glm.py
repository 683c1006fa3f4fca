"""The one pass: blocks of images -> summed moments -> fit -> contrasts."""

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskglm.kernels.basis import Basis
from daskglm.kernels.contrasts import ContrastMaps, Solution, f_contrast, t_contrast
from daskglm.kernels.moments import Array, block_moments
from daskglm.kernels.solve import solve

# Moments added together by one task of the sum: two, so that few are alive at a time.
SUM_TOGETHER = 2


def sum_moments(data: da.Array, basis: Basis, design: Array, weights: Any = None) -> da.Array:
    """Sum the moments of images over the samples, in any chunking of both axes.

    Parameters
    ----------
    data : (n, V) dask array
        Images; NaN = missing.
    basis : Basis
        Basis of the design.
    design : (n, p) float64
        Design matrix, in the order of the samples.
    weights : (n,) array or (n, V) dask array, optional
        Non-negative observation weights.

    Returns
    -------
    dask.array.Array
        (v,) objects: the :class:`Moments` of each chunk of voxels. Reading a block and summing it is one
        task; no data travels.
    """
    return total_moments(block_sums(data, basis, design, weights))


def block_sums(data: da.Array, basis: Basis, design: Array, weights: Any = None) -> da.Array:
    """Moments of each block of images, as :func:`sum_moments` adds them.

    Parameters
    ----------
    data, basis, design, weights
        As for :func:`sum_moments`.

    Returns
    -------
    dask.array.Array
        (b, v) objects: the :class:`Moments` of each chunk of samples and voxels.
    """
    by_voxel = weights is not None and weights.ndim == 2
    rows = _rows_of_blocks(data.chunks[0], design @ basis.to_basis, None if by_voxel else weights)
    arguments = [data, "ij", rows, "i", basis.constant, None]
    if by_voxel:
        lazy = weights if isinstance(weights, da.Array) else da.from_array(weights, data.chunks)
        arguments += [lazy.rechunk(data.chunks), "ij"]
    # Without contraction of an index Dask fuses this with the reading of the block.
    return da.blockwise(
        _moments_of_block,
        "ij",
        *arguments,
        align_arrays=False,
        dtype=object,
        meta=np.empty((0, 0), dtype=object),
        adjust_chunks={"i": 1, "j": 1},
        token="block-moments",
    )


def total_moments(blocks: da.Array) -> da.Array:
    """Add moments over the samples.

    Parameters
    ----------
    blocks : (b, v) dask array of Moments
        From :func:`block_sums`.

    Returns
    -------
    dask.array.Array
        (v,) objects.
    """
    return _summed(blocks, object, "sum-moments")


def solve_moments(moments: da.Array, min_count: int, dtype: DTypeLike) -> da.Array:
    """Solve each chunk's normal equations.

    Parameters
    ----------
    moments : (v,) dask array of Moments
        From :func:`sum_moments`.
    min_count : int
        Fewest observations of a voxel that is tested.
    dtype : dtype
        Of the images.

    Returns
    -------
    dask.array.Array
        (v,) objects: the :class:`Fit` of each chunk of voxels.
    """
    meta = np.empty(0, dtype=object)
    return da.map_blocks(_solve_block, moments, min_count, np.dtype(dtype), dtype=object, meta=meta, token="solve")


def coverage(data: da.Array) -> da.Array:
    """Number of samples in which each voxel is observed and not zero.

    Parameters
    ----------
    data : (n, V) dask array
        Images.

    Returns
    -------
    dask.array.Array
        (V,) int64. Outside the brain images hold NaN or exact zeros.
    """
    chunks = ((1,) * len(data.chunks[0]), data.chunks[1])
    seen = da.map_blocks(_seen_in_block, data, dtype=np.int64, chunks=chunks, token="block-observed")
    return _summed(seen, np.int64, "count-observed")


def fewest(min_coverage: float, n_samples: int) -> int:
    """Fewest observations of a voxel that is used.

    Parameters
    ----------
    min_coverage : float
        Fraction of the samples.
    n_samples : int
        Number of samples.

    Returns
    -------
    int
        At least one; 0.55 of 100 is 55, whatever floating point makes of it.
    """
    return max(1, int(np.ceil(min_coverage * n_samples - 1e-9)))


def contrast_maps(fit: Solution, basis: Basis, contrasts: Mapping[str, tuple[Array, str]]) -> dict[str, ContrastMaps]:
    """Evaluate contrasts of one fit.

    Parameters
    ----------
    fit : Solution
        Fit of V voxels.
    basis : Basis
        Basis of the design it was made with.
    contrasts : mapping of str to ((q, p) float64, "t" or "F")
        Contrast weights and type, by name.

    Returns
    -------
    dict of str to ContrastMaps
    """
    return {
        name: t_contrast(fit, (weights @ basis.to_basis)[0]) if kind == "t" else f_contrast(fit, weights, basis)
        for name, (weights, kind) in contrasts.items()
    }


def _summed(blocks: da.Array, dtype: Any, name: str) -> da.Array:
    """The sum over the first axis, under a name: ``sum`` of an array gives none."""
    return da.reduction(
        blocks, np.sum, np.sum, axis=0, dtype=dtype, split_every=SUM_TOGETHER, name=name, meta=np.empty(0, dtype)
    )


def _rows_of_blocks(chunks: tuple[int, ...], regressors: Array, weights: Array | None) -> da.Array:
    """The regressors and weights of each block of samples, one object a block."""
    rows = np.empty(len(chunks), dtype=object)
    stops = np.cumsum(chunks)
    for index, (start, stop) in enumerate(zip(stops - chunks, stops, strict=True)):
        rows[index] = (regressors[start:stop], None if weights is None else weights[start:stop])
    return da.from_array(rows, chunks=1)


def _moments_of_block(
    data: NDArray[Any], rows: NDArray[Any], constant: Array | None, weights: Array | None = None
) -> NDArray[Any]:
    """Moments of one block, as a (1, 1) object array so that ``sum`` can add them."""
    regressors, sample_weights = rows[0]
    moments = np.empty((1, 1), dtype=object)
    moments[0, 0] = block_moments(data, regressors, constant, sample_weights if weights is None else weights)
    return moments


def _solve_block(moments: NDArray[Any], min_count: int, images: np.dtype[Any]) -> NDArray[Any]:
    """Fit of each Moments in a block."""
    fits = np.empty(moments.shape, dtype=object)
    for index, item in enumerate(moments):
        fits[index] = solve(item, min_count, images)
    return fits


def _seen_in_block(data: NDArray[Any]) -> NDArray[np.int64]:
    """Finite non-zero values in each column of a block: (1, V)."""
    seen: NDArray[np.int64] = np.count_nonzero(np.isfinite(data) & (data != 0), axis=0, keepdims=True)
    return seen
