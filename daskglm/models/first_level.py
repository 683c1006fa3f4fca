"""FirstLevelModel: nilearn's estimator of runs, each read once."""

import warnings
from functools import partial
from typing import Any, Self

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from daskglm.design.matching import check_pairs
from daskglm.design.matrix import design_array
from daskglm.errors import NothingToTestError
from daskglm.graph.compute import compute, n_workers
from daskglm.graph.runs import RunImages, read_run
from daskglm.io.cache import file_states, kept, load_runs, save_runs
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.scaling import Scaling, scale_values
from daskglm.models.array_glm import RegressionResults, labelled
from daskglm.models.doubts import warn_of_equal_runs
from daskglm.models.estimator import VoxelwiseModel, wanted_outputs
from daskglm.models.fixed_effects import contrast_over_runs, warn_of_other_columns
from daskglm.models.functional import map_image
from daskglm.models.options import Options, checked
from daskglm.models.parameters import parse_noise_model, parse_scaling
from daskglm.models.run_fits import check_any_varies, label_run, lazy_solution
from daskglm.models.runs import (
    RunDesign,
    check_repetition_times,
    masks_of_runs,
    run_designs,
    run_preparation,
    run_repetition_time,
    run_shape,
    run_sources,
)
from daskglm.schema.headers import describe

DESIGN_PARAMETERS = (
    "hrf_model", "drift_model", "high_pass", "drift_order", "fir_delays", "min_onset", "oversampling", "modulators",
    "duration_modulation", "drop_early_events", "impulse",
)  # fmt: skip


class FirstLevelModel(VoxelwiseModel):
    """Linear model of the runs of one subject at every voxel, with nilearn's interface and results.

    Parameters
    ----------
    t_r : float, optional
        Repetition time in seconds; needed unless `design_matrices` are given.
    slice_time_ref : float
        Fraction of `t_r` to which the volumes are aligned, 0 to 1.
    hrf_model : str, callable, list of callable or None
        "spm", "glover", either with " + derivative" and " + dispersion", "fir", or kernels.
    drift_model : {"cosine", "polynomial"} or None
        Slow drifts.
    high_pass : float
        Highest frequency of cosine drifts, in Hz.
    drift_order : int
        Highest power of polynomial drifts.
    fir_delays : sequence of int, optional
        Delays of "fir", in volumes.
    min_onset : float
        Events are laid out from this many seconds before the first volume.
    mask_img : image, path, fitted masker, False or None
        Voxels to analyse. None: nilearn's EPI mask of all runs, which takes one more pass. False: all voxels.
    target_affine, target_shape : array, optional
        Grid to resample images and mask to, by nilearn (the ``[nilearn]`` extra).
    smoothing_fwhm : float, 3 floats or None
        Full width at half maximum of a Gaussian, in mm, applied to each volume before masking.
    memory : path or joblib.Memory, optional
        Folder where fits are kept, keyed by images, designs and parameters.
    memory_level : int
        0 switches `memory` off.
    standardize : bool
        Subtract the mean of each voxel and divide by its standard deviation; with `signal_scaling` False.
    signal_scaling : {0, 1, (0, 1), False}
        Percent of the mean of each voxel (0), of each volume (1), of the whole run ((0, 1)), or no scaling.
    noise_model : str
        "ols" or "arN".
    verbose : int
        1 and more: a progress bar, on standard error.
    n_jobs : int
        Threads in this process when no ``distributed.Client`` is active; -1: all cores.
    minimize_memory : bool
        Accepted as nilearn does; nothing needs it: `predicted_`, `residuals_` read the images again.
    subject_label : str, optional
        Name of the subject, for the second level.
    random_state : int, optional
        Seed of nilearn's clusters of coefficients (orders above 1 with `bins`).
    reports : bool
        Accepted as nilearn does.
    oversampling : int
        Samples a repetition time at which events are laid out.
    modulators, duration_modulation, drop_early_events, impulse
        As in :func:`~daskglm.design.first_level.make_first_level_design_matrix`.
    contiguous : bool
        True: volumes that `sample_masks` keeps count as consecutive for the autoregression, as in nilearn.
        False: lags never reach across volumes that were left out.
    sample_masks : mapping of path to mask, or list of masks, optional
        The volumes that `fit` keeps where it is given no others: of each run by its path, as
        :func:`first_level_from_bids` finds them, or one mask a run. A run that a mapping does not name is refused.

    Attributes
    ----------
    design_matrices_ : list of DataFrame
        One a run, of the analysed volumes.
    fits_ : list of xarray.Dataset
        The fit dataset of each run.
    mask_img_ : Nifti1Image
        Voxels analysed.
    n_elements_ : int
        Their number.

    Notes
    -----
    `fit` reads each run once, from its start to its end, a slab of volumes at a time; contrasts read nothing.
    A voxel that does not vary in a run, or has a value that is not finite, has NaN there and touches no other; a run in
    which none varies is warned of.
    """

    def __init__(
        self,
        t_r: float | None = None,
        slice_time_ref: float = 0.0,
        hrf_model: Any = "glover",
        drift_model: str | None = "cosine",
        high_pass: float = 0.01,
        drift_order: int = 1,
        fir_delays: Any = None,
        min_onset: float = -24,
        mask_img: Any = None,
        target_affine: Any = None,
        target_shape: Any = None,
        smoothing_fwhm: Any = None,
        memory: Any = None,
        memory_level: int = 1,
        standardize: bool = False,
        signal_scaling: Any = 0,
        noise_model: str = "ar1",
        verbose: int = 0,
        n_jobs: int | None = -1,
        minimize_memory: bool = True,
        subject_label: str | None = None,
        random_state: int | None = None,
        reports: bool = True,
        *,
        oversampling: int = 50,
        modulators: str = "raw",
        duration_modulation: bool = False,
        drop_early_events: bool = False,
        contiguous: bool = False,
        sample_masks: Any = None,
        impulse: str = "sample",
    ) -> None:
        self.t_r = t_r
        self.slice_time_ref = slice_time_ref
        self.hrf_model = hrf_model
        self.drift_model = drift_model
        self.high_pass = high_pass
        self.drift_order = drift_order
        self.fir_delays = fir_delays
        self.min_onset = min_onset
        self.mask_img = mask_img
        self.target_affine = target_affine
        self.target_shape = target_shape
        self.smoothing_fwhm = smoothing_fwhm
        self.memory = memory
        self.memory_level = memory_level
        self.standardize = standardize
        self.signal_scaling = signal_scaling
        self.noise_model = noise_model
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.minimize_memory = minimize_memory
        self.subject_label = subject_label
        self.random_state = random_state
        self.reports = reports
        self.oversampling = oversampling
        self.modulators = modulators
        self.duration_modulation = duration_modulation
        self.drop_early_events = drop_early_events
        self.contiguous = contiguous
        self.sample_masks = sample_masks
        self.impulse = impulse

    def fit(
        self,
        run_imgs: Any,
        events: Any = None,
        confounds: Any = None,
        sample_masks: Any = None,
        design_matrices: Any = None,
        bins: int | str | None = "auto",
    ) -> Self:
        """Read the runs once and fit the model of each at every voxel.

        Parameters
        ----------
        run_imgs : path, glob, image, or list of them
            4-D images, one a run, on one grid.
        events : DataFrame or path, or list of them, optional
            Columns onset, duration (seconds), trial_type, modulation.
        confounds : DataFrame, array or path, or list of them, optional
            A row a volume.
        sample_masks : array or list of arrays, optional
            Numbers of the volumes to keep, or one bool a volume; None in a list keeps all. By default those
            that the model holds: ``sample_masks``, which :func:`first_level_from_bids` sets where it scrubs.
        design_matrices : DataFrame or path, or list of them, optional
            Designs, in place of events and confounds.
        bins : int, None or "auto"
            Steps to which coefficients of "ar1" are rounded, or clusters of those of higher orders, as in
            nilearn; None: each voxel has its own. "auto": 100 for "ar1" (nilearn's results), else None.

        Returns
        -------
        FirstLevelModel
            Itself.

        Raises
        ------
        DesignError, ImageError, SpaceError, CorruptImageError, ParameterError
            Before the pass, wherever it can be known.
        """
        scaling, by_volume = parse_scaling(self.signal_scaling, self.standardize)
        noise = parse_noise_model(self.noise_model, bins, self.random_state)
        sources = run_sources(run_imgs)
        check_repetition_times(sources, self.t_r if design_matrices is None else None)
        shapes = [run_shape(source)[0] for source in sources]
        sample_masks = masks_of_runs(sources, self.sample_masks) if sample_masks is None else sample_masks
        parameters = {name: getattr(self, name) for name in DESIGN_PARAMETERS}
        given = {"events": events, "confounds": confounds, "design matrices": design_matrices}
        for what, tables in given.items():
            check_pairs(tables if isinstance(tables, (list, tuple)) else [tables], sources, f"{what} and runs")
        designs = run_designs(
            shapes, events, confounds, sample_masks, design_matrices, self.t_r, self.slice_time_ref, parameters
        )
        warn_of_equal_runs(sources)
        how = run_preparation(sources, self._options())
        runs = [RunImages(source, how, item.volumes, by_volume) for source, item in zip(sources, designs, strict=True)]
        self.fits_ = self._fit_runs(runs, designs, noise, scaling)
        self.design_matrices_ = [item.design for item in designs]
        self.space_ = how.space
        self.mask_img_ = how.space.mask_image()
        self.n_elements_ = int(how.space.voxels.size)
        self._runs, self._scaled, self._noise = runs, scaling, noise
        # What designs were made of; None where they were given.
        self._made_of = None if design_matrices is not None else (events is not None, confounds is not None)
        return self

    def compute_contrast(
        self,
        contrast_def: Any,
        stat_type: str | None = None,
        output_type: str = "z_score",
        *,
        precision_weighted: bool = False,
        approximate_f: bool = False,
    ) -> Any:
        """Map a contrast, over all runs; no image is read.

        Parameters
        ----------
        contrast_def : str, array, or list with one of them a run, or one for all
            An expression of regressors, a vector, or for an F contrast an expression with commas or a matrix. A
            list holds contrasts, as in nilearn: its length is 1 or the number of runs, and only a list of numbers
            is itself a vector. A run whose weights are all zero, or that lacks a condition of the contrast, is
            left out with a warning. Weights without names serve runs in which they are of the same regressors.
        stat_type : {"t", "F"}, optional
            By default t for one row, F for several.
        output_type : {"z_score", "stat", "p_value", "effect_size", "effect_variance", "all"}
            Which map.
        precision_weighted : bool
            Weigh runs by the inverse of their variance (F: covariance); by default they weigh equally, as in
            nilearn.
        approximate_f : bool
            F over runs: the mean of the whitened effects, nilearn's approximation, which depends on how the runs
            differ. By default the joint (Wald) test of the mean over runs, from their covariances; of one row it
            is the square of t.

        Returns
        -------
        Nifti1Image, or dict of them for "all"
            NaN where no run has the voxel; outside the mask 0, but 1 in maps of p.

        Raises
        ------
        ContrastError
            Where the contrast is unknown, null in all runs or not estimable, or the output type unknown.
        """
        wanted = wanted_outputs(output_type)
        maps = self.contrast_maps(
            contrast_def, stat_type, precision_weighted=precision_weighted, approximate_f=approximate_f
        )
        images = {kind: map_image(maps, str(maps["contrast"].values[0]), kind) for kind in wanted}
        return images if output_type == "all" else images[output_type]

    def contrast_maps(
        self, contrast_def: Any, stat_type: str | None = None, *, precision_weighted: bool = False,
        approximate_f: bool = False,
    ) -> xr.Dataset:  # fmt: skip
        """Maps of a contrast as a dataset.

        Parameters
        ----------
        contrast_def, stat_type, precision_weighted, approximate_f
            As in :meth:`compute_contrast`.

        Returns
        -------
        xarray.Dataset
            ``effect_size (contrast, component, voxel)`` and ``effect_variance, stat, p_value, z_score
            (contrast, voxel)``, of one contrast.

        Raises
        ------
        ContrastError
            As :meth:`compute_contrast`.
        """
        check_is_fitted(self)
        if self._made_of is None:  # confounds and drifts of designs that are made here differ as they should
            warn_of_other_columns(self.fits_, contrast_def, stacklevel=4)
        run = partial(compute, n_jobs=self.n_jobs)
        return contrast_over_runs(self.fits_, contrast_def, stat_type, precision_weighted, run, approximate_f)

    @property
    def labels_(self) -> list[NDArray[Any]]:
        """Of each run the label of each voxel, as of :func:`~daskglm.run_glm`."""
        check_is_fitted(self)
        return [self._labelled(k)[0] for k in range(len(self.fits_))]

    @property
    def results_(self) -> list[dict[Any, RegressionResults]]:
        """Of each run the results by label, as of :func:`~daskglm.run_glm`."""
        check_is_fitted(self)
        return [self._labelled(k)[1] for k in range(len(self.fits_))]

    def _labelled(self, run: int) -> tuple[NDArray[Any], dict[Any, RegressionResults]]:
        """Labels and results of a run."""
        return labelled(self.fits_[run]["solution"].values, orthonormal_basis(design_array(self.design_matrices_[run])))

    @property
    def predicted_(self) -> list[Any]:
        """Fitted values of each run, X beta, in the (scaled) units of the data: 4-D images."""
        check_is_fitted(self)
        return [self._volumes(k, self._predicted(k), "fitted values") for k in range(len(self.fits_))]

    @property
    def residuals_(self) -> list[Any]:
        """Scaled data minus fitted values of each run, not whitened: 4-D images; the runs are read again."""
        check_is_fitted(self)
        return [
            self._volumes(k, scale_values(read_run(run), self._scaled) - self._predicted(k), "residuals")
            for k, run in enumerate(self._runs)
        ]

    @property
    def r_square_(self) -> list[Any]:
        """Variance of the fitted values over that of the data, both unwhitened, of each run: one volume each."""
        check_is_fitted(self)
        return [
            describe(
                self.space_.to_image(
                    np.concatenate([item.r_square for item in fit["solution"].values])[None], outside=0
                ),
                "r square",
                f"run {run + 1}",
            )
            for run, fit in enumerate(self.fits_)
        ]

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` was called."""
        return hasattr(self, "fits_")

    def _options(self) -> Options:
        names = ("mask_img", "smoothing_fwhm", "target_affine", "target_shape", "n_jobs")
        return checked(Options(**{name: getattr(self, name) for name in names}))

    def _fit_runs(
        self, runs: list[RunImages], designs: list[RunDesign], noise: Any, scaling: Scaling
    ) -> list[xr.Dataset]:
        """The fits of all runs, computed together."""
        threads = n_workers(self.n_jobs)
        lazy = [
            lazy_solution(
                run, item, noise, scaling, contiguous=self.contiguous, parts=max(1, threads // len(runs)),
                ahead=len(runs) < threads,
            )
            for run, item in zip(runs, designs, strict=True)
        ]  # fmt: skip
        found = self._computed(lazy, runs, designs, (noise, scaling))
        for k, fits in enumerate(found):
            try:
                check_any_varies(fits, f"run {k + 1}")
            except NothingToTestError as error:
                warnings.warn(f"nothing is fitted, and all maps of the run are NaN: {error}", stacklevel=3)
        return [label_run(*parts, f"run {k + 1}") for k, parts in enumerate(zip(found, runs, designs, strict=True))]

    def _computed(
        self, lazy: list[da.Array], runs: list[RunImages], designs: list[RunDesign], how: tuple[Any, ...]
    ) -> list[NDArray[Any]]:
        """Fits of each run, one object a chunk of voxels; from the cache where they are in it."""
        progress = "Reading runs" if self.verbose else None
        folder = self._cache_folder()
        if folder is None or not all(isinstance(run.source, str) for run in runs):
            return list(compute(*lazy, n_jobs=self.n_jobs, progress=progress))
        found = []
        for solution, run, item in zip(lazy, runs, designs, strict=True):
            key = [
                file_states([run.source]), run.how.space.voxels, run.how.smoothing_fwhm, run.how.target_affine,
                run.how.target_shape, item.volumes, design_array(item.design), run.by_volume, self.contiguous, how,
            ]  # fmt: skip

            def make(solution: da.Array = solution) -> list[Any]:
                return list(compute(solution, n_jobs=self.n_jobs, progress=progress)[0])

            items = kept(folder, "fit", key, make, save_runs, load_runs)
            objects = np.empty(len(items), dtype=object)
            objects[:] = items
            found.append(objects)
        return found

    def _volumes(self, run: int, values: NDArray[Any], kind: str) -> Any:
        """Values (n, V) of a run as an image with its repetition time."""
        image = self.space_.to_image(values, outside=0)
        return describe(image, kind, f"run {run + 1}", t_r=self.t_r or run_repetition_time(self._runs[run].source))

    def _predicted(self, run: int) -> NDArray[np.float64]:
        """Fitted values (n, V) of a run."""
        predicted: NDArray[np.float64] = design_array(self.design_matrices_[run]) @ self.fits_[run]["beta"].values
        return predicted

    def _coefficients(self) -> tuple[list[str], NDArray[np.float64]]:
        names = [
            f"run-{index + 1} {name}" if len(self.fits_) > 1 else str(name)
            for index, fit in enumerate(self.fits_)
            for name in fit["regressor"].values
        ]
        return names, np.concatenate([fit["beta"].values for fit in self.fits_])
