"""Runs: volumes -> lagged moments -> whitened fit, each file read once from its start to its end."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import Any, TypeVar
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskglm.errors import ImageError, listing
from daskglm.graph.compute import shared, task
from daskglm.graph.images import Preparation, check_any_finite, check_varies, own_values, prepare
from daskglm.io.nifti import read_header, stream_volumes
from daskglm.kernels.basis import with_constant
from daskglm.kernels.lagged import LaggedMoments, Lags, plan_lags, select, sum_lagged
from daskglm.kernels.moments import Array
from daskglm.kernels.noise import autoregression, fit_run, of_design, quantise
from daskglm.kernels.scaling import Scaling, below_one, percent_of_volume, run_mean, scale_run

# Values of a slab of volumes: 57 volumes of 145,000 voxels are 33 MB of float32.
_SLAB_VALUES = 2**23
_SLAB_VOLUMES = (16, 128)
# A part of an uncompressed file has at least as many volumes, or its moments outweigh its data.
_PART_VOLUMES = 64
_EXACT_IN_FLOAT32 = (np.float32, np.float16, np.uint8, np.int8, np.int16, np.uint16)
_EMPTY = np.empty(0, dtype=object)
# A volume is suspect where it is zero at more of the voxels, beyond those that every volume lacks.
_EMPTY_PART = 0.05
_REMEDY = "restore the run, or leave such volumes (sample_masks) or the run out"
T = TypeVar("T")


@dataclass(frozen=True)
class RunImages:
    """The volumes of a run, and what is done to each.

    Attributes
    ----------
    source : str or nibabel image
        A file, streamed; or an image in memory.
    how : Preparation
        Grid, mask, smoothing.
    volumes : (n,) int64
        The volumes that are analysed, ascending.
    by_volume : bool
        Scale each volume to percent of its mean over the mask.
    """

    source: Any
    how: Preparation
    volumes: NDArray[np.int64]
    by_volume: bool = False

    @property
    def compressed(self) -> bool:
        """Whether the source is a file that can only be read from its start."""
        return isinstance(self.source, str) and self.source.endswith(".gz")


@dataclass(frozen=True)
class NoiseModel:
    """An autoregression of the noise.

    Attributes
    ----------
    order : int
        0: ordinary least squares.
    bins : int or None
        Steps to which coefficients are rounded (order 1) or clusters of them (higher); None: each voxel has
        its own.
    seed : int or None
        Of the clusters.
    """

    order: int
    bins: int | None = None
    seed: int | None = None


def sum_run(
    run: RunImages, regressors: Array, order: int, parts: int = 1, ahead: bool = False, contiguous: bool = False
) -> da.Array:
    """Sum a run from its file.

    Parameters
    ----------
    run : RunImages
        n volumes of V voxels.
    regressors : (n, r) float64
        Orthonormal basis of the design at those volumes.
    order : int
        Order of the autoregression.
    parts : int
        Stretches that are read in parallel, if the file is not compressed.
    ahead : bool
        Decompress the next slab while one is added: a second thread a task.
    contiguous : bool
        Lags reach across volumes that are left out.

    Returns
    -------
    dask.array.Array
        (parts, 1) objects: the :class:`LaggedMoments` of each stretch. A task holds two slabs at a time,
        whatever the number of volumes.
    """
    basis, _ = with_constant(regressors)
    lags = shared("lags", plan_lags(basis, order, None if contiguous else run.volumes))
    parts = 1 if run.compressed else max(1, min(parts, len(run.volumes) // _PART_VOLUMES))
    bounds = np.linspace(0, len(run.volumes), parts + 1).astype(int)
    # Named at random: an image in memory would be hashed whole.
    once = dask.delayed(run, name=f"run-{uuid4().hex}", traverse=False)
    ahead = ahead and run.compressed
    sums = [
        task("sum-run", _sum_part, once, lags, start, stop, ahead)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    boxes = [da.from_delayed(task("sum-run-part", _boxed, item), (1,), object, _EMPTY)[:, None] for item in sums]
    return da.concatenate(boxes)


def sum_blocks(data: da.Array, regressors: Array, order: int, volumes: NDArray[np.int64] | None = None) -> da.Array:
    """Sum a run from a lazy array, in any chunking of both axes.

    Parameters
    ----------
    data : (n, V) dask array
        Volumes.
    regressors : (n, r) float64
        Orthonormal basis of the design.
    order : int
        Order of the autoregression.
    volumes : (n,) int64, optional
        Their numbers in the run, where some were left out.

    Returns
    -------
    dask.array.Array
        (v,) objects: the :class:`LaggedMoments` of each chunk of voxels.
    """
    basis, _ = with_constant(regressors)
    lags = shared("lags", plan_lags(basis, order, volumes))
    starts = da.from_array(np.cumsum([0, *data.chunks[0][:-1]]), chunks=1)
    blocks = da.blockwise(
        _sum_block, "ij", data, "ij", starts, "i", data[0], "j", lags, None, align_arrays=False, dtype=object,
        meta=np.empty((0, 0), dtype=object), adjust_chunks={"i": 1, "j": 1}, token="block-moments",
    )  # fmt: skip
    return da.reduction(blocks, np.sum, np.sum, axis=0, dtype=object, split_every=2, name="sum-moments", meta=_EMPTY)


def solve_run(
    moments: da.Array, regressors: Array, noise: NoiseModel, scaling: Scaling, chunks: tuple[int, ...],
    order_of_clusters: NDArray[np.int64] | None = None,
) -> da.Array:  # fmt: skip
    """Fit a run from its moments.

    Parameters
    ----------
    moments : (parts, 1) or (v,) dask array of LaggedMoments
        From :func:`sum_run`: stretches of a run, all voxels; or from :func:`sum_blocks`: chunks of voxels.
    regressors : (n, r) float64
        Orthonormal basis of the design.
    noise : NoiseModel
        Of the order the moments were summed for.
    scaling : Scaling
        What is done to the values; percent of the mean of a run needs all voxels.
    chunks : tuple of int
        Voxels that are solved together; those of each moments from :func:`sum_blocks`.
    order_of_clusters : (V,) int64, optional
        The order in which voxels enter the search for clusters.

    Returns
    -------
    dask.array.Array
        (v,) objects: the :class:`WhitenedFit` of each chunk of voxels.
    """
    constant, rank = with_constant(regressors)[1], regressors.shape[1]
    mean = None
    if moments.ndim == 2:
        stretches = moments.to_delayed()[:, 0].tolist()
        mean = task("mean-of-run", _mean_of_run, stretches, constant) if scaling.percent_of == "run" else None
        pieces = [
            task("cut-moments", _piece, stretches, slice(*pair)) for pair in pairwise(np.cumsum([0, *chunks]).tolist())
        ]
        moments = da.concatenate([da.from_delayed(piece, (1,), object, _EMPTY) for piece in pieces])
    if noise.order < 2 or noise.bins is None:
        return _map("solve-run", _solve_block, moments, constant, rank, scaling, mean, noise)
    scaled = _map("scale-run", _scale_block, moments, constant, scaling, mean)
    rho = da.map_blocks(
        _autoregression_block, scaled[None], constant, rank, dtype=float, chunks=((noise.order,), chunks),
        meta=np.empty((0, 0)), token="autoregression",
    )  # fmt: skip
    # Clusters are of all voxels together: q numbers a voxel are gathered for them.
    clustered = da.map_blocks(
        _cluster, rho.rechunk((-1, -1)), noise, order_of_clusters, dtype=float, token="cluster-noise"
    )
    low = da.map_blocks(
        _below_one_block, moments, constant, scaling, mean, dtype=bool, chunks=(chunks,), meta=np.empty(0, bool),
        token="below-one",
    )  # fmt: skip
    return da.map_blocks(
        _solve_clustered, scaled[None], clustered.rechunk((-1, chunks)), low[None], constant, rank, dtype=object,
        chunks=((1,), (1,) * len(chunks)), meta=_EMPTY[None], token="solve-run",
    )[0]  # fmt: skip


def read_run(run: RunImages, voxels: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """Read a whole run.

    Parameters
    ----------
    run : RunImages
        n analysed volumes of V voxels.
    voxels : (k,) int64, optional
        Keep these of the V voxels only; by default all.

    Returns
    -------
    (n, V) array
        In image units, or in percent where `by_volume`.
    """
    kept = slice(None) if voxels is None else voxels
    return np.concatenate([slab[:, kept].copy() for slab in _slabs(run, 0, len(run.volumes))])


def mean_of_run(source: Any, how: Preparation) -> Any:
    """The mean of a run, lazily.

    Parameters
    ----------
    source : str or nibabel image
        A file, streamed; or an image in memory.
    how : Preparation
        Grid and voxels.

    Returns
    -------
    dask.delayed.Delayed
        (V,) float64; a value that is not finite counts as zero, as in nilearn.
    """
    return task("mean-of-run", _mean, source, how)


def _volumes(source: Any, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any], Any, Any, str]]:
    """Number, values (X * Y * Z,), shape, affine and name of consecutive volumes."""
    if isinstance(source, str):
        header = read_header(source)
        for number, values in enumerate(stream_volumes(source, start, stop), start):
            yield number, values, header.shape, header.affine, source
        return
    for number in range(start, stop):
        grid = np.asanyarray(source.dataobj[..., number] if len(source.shape) > 3 else source.dataobj)
        values = grid.reshape(-1, order="F")
        kind = np.float32 if grid.dtype in _EXACT_IN_FLOAT32 else np.float64
        yield number, values.astype(kind, copy=False), grid.shape, source.affine, "an image in memory"


def _slabs(run: RunImages, start: int, stop: int, n_buffers: int = 1) -> Iterator[NDArray[Any]]:
    """Slabs (m, V) of the rows `start` to `stop` of a run; a slab is overwritten `n_buffers` slabs later."""
    wanted = run.volumes[start:stop]
    n_voxels = run.how.space.voxels.size
    size = min(int(np.clip(_SLAB_VALUES // max(n_voxels, 1), *_SLAB_VOLUMES)), len(wanted))
    numbers, filled = set(wanted.tolist()), 0
    buffers: list[NDArray[Any]] = []
    watch = _Watch(_run_name(run), run.by_volume)
    for number, values, shape, affine, name in _volumes(run.source, int(wanted[0]), int(wanted[-1]) + 1):
        if number not in numbers:
            continue
        row = prepare(values[None], shape, affine, name, run.how)
        if not watch.passes(number, row, own_values(values[None], row, run.how)):
            continue
        row = percent_of_volume(row) if run.by_volume else row
        if not buffers:  # made once: fresh memory costs more than the arithmetic
            buffers = [np.empty((size, n_voxels), row.dtype) for _ in range(1 if size == len(wanted) else n_buffers)]
        buffers[0][filled] = row[0]
        filled += 1
        if filled == size:
            yield buffers[0]
            buffers, filled = [*buffers[1:], buffers[0]], 0
    watch.tell(n_voxels)
    if filled:
        yield buffers[0][:filled]


class _Watch:
    """What is wrong with the volumes of a run, found as they are read and told when all were."""

    def __init__(self, name: str, by_volume: bool) -> None:
        self._name, self._by_volume = name, by_volume
        self._faults: dict[int, ImageError] = {}
        self._low: list[int] = []
        self._zeros: dict[int, int] = {}

    def passes(self, number: int, row: NDArray[Any], own: NDArray[Any]) -> bool:
        """Whether a volume (1, V), before `own`, is used; after one that is not, the others are only looked at."""
        try:
            check_any_finite(own, f"volume {number} of {self._name}", _REMEDY)
            check_varies(own, f"volume {number} of {self._name}", _REMEDY)
        except ImageError as error:
            self._faults[number] = error
        self._zeros[number] = own.size - int(np.count_nonzero(own))
        if self._by_volume and not np.mean(row, where=np.isfinite(row), dtype=np.float64) >= 1:
            self._low.append(number)
        return not self._faults

    def tell(self, n_voxels: int) -> None:
        """Raise where volumes say nothing; warn where they say less than others."""
        if self._faults:
            more = list(self._faults)[1:]
            others = f" (and so are volumes {listing(more, 20)})" if more else ""
            raise ImageError(f"{next(iter(self._faults.values()))}{others}")
        fewest = min(self._zeros.values())
        empty = {
            k: count - fewest for k, count in self._zeros.items() if count - fewest > max(_EMPTY_PART * n_voxels, 8)
        }
        messages = {
            f"volumes {listing(empty)} of {self._name} are exactly 0 at up to {max(empty.values(), default=0):,} of "
            f"{n_voxels:,} voxels where other volumes are not, as where an acquisition was cut short; {_REMEDY}": empty,
            "signal_scaling=1 makes values percent of the mean of their volume, but it is below 1 in volumes "
            f"{listing(self._low)} of {self._name} and counts as 1: these are no percent; give images that were not "
            "demeaned, or another signal_scaling (--signal-scaling)": self._low,
        }
        for message, volumes in messages.items():
            if volumes:
                warnings.warn(message, UserWarning, stacklevel=3)


def _run_name(run: RunImages) -> str:
    """A run for a message."""
    return run.source if isinstance(run.source, str) else "an image in memory"


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by a second thread while the one before it is used."""
    nothing = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = pool.submit(next, items, nothing)
            yield item  # type: ignore[misc]


def _sum_part(run: RunImages, lags: Lags, start: int, stop: int, ahead: bool) -> LaggedMoments:
    """Sum the rows `start` to `stop` of a run, relative to its first one."""
    slabs = _slabs(run, start, stop, 2 if ahead else 1)
    reference = None if start == 0 else next(_slabs(run, 0, 1))[0]
    return sum_lagged(_ahead(slabs) if ahead else slabs, lags, reference, start)


def _boxed(item: Any) -> NDArray[Any]:
    """One object in an array, so that Dask can label it."""
    box = np.empty(1, dtype=object)
    box[0] = item
    return box


def _sum_block(data: NDArray[Any], start: NDArray[Any], reference: NDArray[Any], lags: Lags) -> NDArray[Any]:
    """Moments of one block, as a (1, 1) object array so that ``sum`` can add them."""
    return _boxed(sum_lagged([data], lags, reference, int(start[0])))[None]


def _piece(stretches: list[NDArray[Any]], voxels: slice) -> NDArray[Any]:
    """Moments of some voxels, over all stretches: added here, where they are few."""
    return _boxed(reduce(add, (select(item[0, 0], voxels) for item in stretches)))


def _mean_of_run(stretches: list[NDArray[Any]], constant: Array) -> float:
    """Mean of a run over volumes and voxels."""
    return run_mean([item[0, 0] for item in stretches], constant)


def _below_one_block(moments: NDArray[Any], constant: Array, scaling: Scaling, mean: float | None) -> NDArray[np.bool_]:
    """Whether the voxels of the one run in a block become percent of a mean below one."""
    return below_one(moments[0], constant, scaling, np.nan if mean is None else mean)


def _scale_block(moments: NDArray[Any], constant: Array, scaling: Scaling, mean: float | None) -> NDArray[Any]:
    """Scaled moments of the one run in a block."""
    return _boxed(scale_run(moments[0], constant, scaling, np.nan if mean is None else mean))


def _solve_block(
    moments: NDArray[Any], constant: Array, rank: int, scaling: Scaling, mean: float | None, noise: NoiseModel
) -> NDArray[Any]:
    """Fit of the one run in a block, scaled."""
    adjust = None if noise.bins is None or noise.order != 1 else partial(quantise, bins=noise.bins)
    fit = fit_run(_scale_block(moments, constant, scaling, mean)[0], constant, rank, adjust)
    return _boxed(replace(fit, below_one=_below_one_block(moments, constant, scaling, mean)))


def _autoregression_block(moments: NDArray[Any], constant: Array, rank: int) -> Array:
    """Coefficients (q, V) of the one run in a block."""
    return autoregression(of_design(moments[0, 0], constant, rank))


def _solve_clustered(
    moments: NDArray[Any], rho: Array, low: NDArray[np.bool_], constant: Array, rank: int
) -> NDArray[Any]:
    """Fit of the one run in a block, with given coefficients (q, V)."""
    return _boxed(replace(fit_run(moments[0, 0], constant, rank, lambda _: rho), below_one=low[0]))[None]


def _cluster(rho: Array, noise: NoiseModel, order: NDArray[np.int64] | None) -> Array:
    """Coefficients (q, V) of the cluster of each voxel, by nilearn's rule.

    Clusters whose centres agree to two decimals become one, with the centre of its first voxel.
    """
    from sklearn.cluster import KMeans

    order = np.arange(rho.shape[1]) if order is None else order
    order = order[np.isfinite(rho[:, order]).all(axis=0)]
    if not order.size:
        return rho
    search = KMeans(n_clusters=min(noise.bins or 1, order.size), n_init=10, random_state=noise.seed)
    centres = search.fit(rho[:, order].T).cluster_centers_[search.labels_]
    _, first, names = np.unique(centres.round(2) + 0.0, axis=0, return_index=True, return_inverse=True)
    clustered = np.full_like(rho, np.nan)
    clustered[:, order] = centres[first][names.reshape(-1)].T
    return clustered


def _mean(source: Any, how: Preparation) -> Array:
    """Mean of the volumes of a run."""
    n_volumes = (read_header(source).shape if isinstance(source, str) else source.shape)[3]
    total = np.zeros(how.space.voxels.size)
    for _, values, shape, affine, name in _volumes(source, 0, n_volumes):
        total += np.nan_to_num(prepare(values[None], shape, affine, name, how)[0], posinf=0.0, neginf=0.0)
    return total / n_volumes


def _map(name: str, function: Any, blocks: da.Array, *arguments: Any) -> da.Array:
    """One object in, one out."""
    return da.map_blocks(function, blocks, *arguments, dtype=object, meta=_EMPTY, token=name)
