"""SecondLevelModel: nilearn's estimator, in one pass over the images."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from daskglm.design.matrix import check_design, design_array, make_second_level_design_matrix
from daskglm.errors import ContrastError, DesignError, check_choice, listing, nearest
from daskglm.graph.compute import compute
from daskglm.graph.glm import fewest
from daskglm.graph.samples import match_design, warn_of_repeats
from daskglm.inference.permutation import permutation_test
from daskglm.io.tables import as_table
from daskglm.kernels.basis import orthonormal_basis
from daskglm.models.array_glm import RegressionResults, labelled
from daskglm.models.doubts import warn_of_doubts
from daskglm.models.estimator import VoxelwiseModel, wanted_outputs
from daskglm.models.first_level_input import are_models, contrast_key, effects_of_models, subjects_of_models
from daskglm.models.functional import check_any_fitted, compute_contrasts, design_of_formula, map_image
from daskglm.models.group_fit import images_read, lazy_fit
from daskglm.models.inputs import Loaded, load_images, load_maps
from daskglm.models.options import Options
from daskglm.models.parameters import check_fraction, warn_of_confounds
from daskglm.models.permutation import contrast_of, images_of, permutation_images, seed_of
from daskglm.schema.datasets import sample_names, space_of
from daskglm.schema.headers import describe


class SecondLevelModel(VoxelwiseModel):
    """Linear model across subjects at every voxel, with nilearn's interface.

    Parameters
    ----------
    mask_img : image, path, fitted masker, False or None
        Voxels to analyse. None: those that are finite and not zero in at least `min_coverage` of the images,
        found by one more pass. False: all voxels.
    target_affine, target_shape : array, optional
        Grid to resample images and mask to, by nilearn (the ``[nilearn]`` extra).
    smoothing_fwhm : float, 3 floats or None
        Full width at half maximum of a Gaussian, in mm, applied to each image before masking.
    memory : path or joblib.Memory, optional
        Folder where the moments of a fit are kept, keyed by images, design and parameters: the same fit
        again reads no image.
    memory_level : int
        0 switches `memory` off.
    verbose : int
        1 and more: a progress bar, on standard error.
    n_jobs : int
        Threads in this process when no ``distributed.Client`` is active; -1: all cores (nilearn's default is
        1). Results do not depend on it.
    minimize_memory : bool
        False keeps hold of the images, lazily, for `residuals_`, `predicted_` and `r_square_`.
    reports : bool
        Accepted as nilearn does.
    missing : {"nan", "zero"}
        What is a missing observation: non-finite values, or those and exact zeros.
    min_coverage : float
        Voxels observed in a smaller fraction of the images give NaN.
    allow_rank_deficient : bool
        Fit a rank-deficient design; only contrasts that it determines can be tested.

    Attributes
    ----------
    design_matrix_ : DataFrame
        Design in the order of the samples.
    mask_img_ : Nifti1Image
        Voxels analysed.
    n_elements_ : int
        Their number.
    fits_ : dict of str or None to xarray.Dataset
        The fit dataset (``beta``, ``residual_variance``, ``degrees_of_freedom``, ``n``), by first-level
        contrast; the key is None where the input had no names of contrasts.
    second_level_input_, confounds_
        What `fit` was given.

    Notes
    -----
    `fit` makes the one pass over the images; every contrast after it is free. With an active
    ``distributed.Client`` it runs there, else on threads.
    """

    def __init__(
        self,
        mask_img: Any = None,
        target_affine: Any = None,
        target_shape: Any = None,
        smoothing_fwhm: Any = None,
        memory: Any = None,
        memory_level: int = 1,
        verbose: int = 0,
        n_jobs: int | None = -1,
        minimize_memory: bool = True,
        reports: bool = True,
        *,
        missing: str = "nan",
        min_coverage: float = 0.5,
        allow_rank_deficient: bool = False,
    ) -> None:
        self.mask_img = mask_img
        self.target_affine = target_affine
        self.target_shape = target_shape
        self.smoothing_fwhm = smoothing_fwhm
        self.memory = memory
        self.memory_level = memory_level
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.minimize_memory = minimize_memory
        self.reports = reports
        self.missing = missing
        self.min_coverage = min_coverage
        self.allow_rank_deficient = allow_rank_deficient

    def fit(
        self,
        second_level_input: Any,
        confounds: Any = None,
        design_matrix: Any = None,
        *,
        formula: str | None = None,
    ) -> Self:
        """Read the images once and fit the model at every voxel.

        Parameters
        ----------
        second_level_input : list of FirstLevelModel, paths or images, glob, 4-D image, DataFrame, store, ...
            A DataFrame has columns subject_label, map_name and effects_map_path and is sorted by subject. Maps of
            first-level models are those of the `first_level_contrast` that is asked for.
        confounds : DataFrame or path, optional
            Table with a column subject_label or participant_id: the covariates of an automatic design
            (DataFrame input), or the participants of `formula`. A store brings its own. Not used beside
            `design_matrix`, as in nilearn, but with a warning.
        design_matrix : DataFrame or path, optional
            Design; its rows are matched to images by subject id where its index holds ids, else by order.
        formula : str, optional
            Design from the participants: "~ age + C(site)".

        Returns
        -------
        SecondLevelModel
            Itself.

        Raises
        ------
        DesignError, ImageError, SpaceError, CorruptImageError
            Before the pass, wherever it can be known.
        """
        self._models = list(second_level_input) if are_models(second_level_input) else None
        warn_of_confounds(confounds, design_matrix)
        given = (as_table(confounds), as_table(design_matrix), formula)
        if self._models is not None:
            loaded: dict[str | None, Loaded] = {None: subjects_of_models(self._models)}
        elif isinstance(second_level_input, pd.DataFrame):
            loaded = load_maps(second_level_input, self._options())
        else:
            loaded = {
                None: load_images(second_level_input, self._options(), lambda found: self._design(found, None, *given))
            }
        first = next(iter(loaded.values()))
        subjects = sample_names(first.images) if self._models is not None or None not in loaded else None
        design = self._design(first, subjects, *given)
        self.design_matrix_ = design
        self.second_level_input_, self.confounds_ = second_level_input, confounds
        self.fits_: dict[str | None, xr.Dataset] = {}
        self._keep(first)
        self._names = sample_names(first.images)
        if self._models is None:
            for item in loaded.values():
                warn_of_doubts(item, self._options())
            self._fit_loaded(loaded)
        return self

    def _fit_loaded(self, loaded: Mapping[str | None, Loaded]) -> None:
        """Fit images, by first-level contrast."""
        lazy = {name: self._lazy_fit(item, self.design_matrix_) for name, item in loaded.items()}
        progress = images_read("Reading images" if self.verbose else None, len(self._names) * len(lazy))
        computed = compute(*lazy.values(), n_jobs=self.n_jobs, progress=progress)
        fits = dict(zip(lazy, computed, strict=True))
        for name, item in fits.items():
            if orthonormal_basis(design_array(self.design_matrix_)).rank < len(self._names):
                check_any_fitted(item, "" if name is None else f" of {name}")
        self.fits_ |= fits

    def _keep(self, loaded: Loaded) -> None:
        """Keep the space of images, and hold of them where that was asked for."""
        self.space_ = space_of(loaded.images)
        self.mask_img_ = self.space_.mask_image()
        self.n_elements_ = int(self.space_.voxels.size)
        self._images = None if self.minimize_memory else loaded.images

    def compute_contrast(
        self,
        second_level_contrast: Any = None,
        first_level_contrast: str | None = None,
        second_level_stat_type: str | None = None,
        output_type: str = "z_score",
    ) -> Any:
        """Map a contrast; no image is read.

        Parameters
        ----------
        second_level_contrast : str, array or list, optional
            An expression of regressors ("age - sex"), a vector, or for an F contrast a matrix or a list of
            expressions; may be left out where the design has one column.
        first_level_contrast : str, optional
            Which maps, where the input named several.
        second_level_stat_type : {"t", "F"}, optional
            By default t for one row, F for several.
        output_type : {"z_score", "stat", "p_value", "effect_size", "effect_variance", "all"}
            Which map.

        Returns
        -------
        Nifti1Image, or dict of them for "all"
            NaN where a voxel cannot be tested; outside the mask 0, as in nilearn, but 1 in maps of p.

        Raises
        ------
        ContrastError
            Where the contrast is unknown, null or not estimable, or the output type unknown.
        """
        check_is_fitted(self)
        second_level_contrast = contrast_of(self.design_matrix_, second_level_contrast)
        name = second_level_contrast if isinstance(second_level_contrast, str) else "contrast"
        outputs = self.compute_contrasts(
            {name: second_level_contrast}, first_level_contrast, second_level_stat_type, output_type
        )
        return outputs[name]

    def compute_contrasts(
        self,
        contrasts: Mapping[str, Any],
        first_level_contrast: str | None = None,
        second_level_stat_type: str | None = None,
        output_type: str = "z_score",
    ) -> dict[str, Any]:
        """Map several contrasts at once.

        Parameters
        ----------
        contrasts : mapping of str to contrast
            Name to definition, as in :meth:`compute_contrast`.
        first_level_contrast, second_level_stat_type, output_type
            As in :meth:`compute_contrast`.

        Returns
        -------
        dict
            Name to what :meth:`compute_contrast` returns.

        Raises
        ------
        ContrastError
            As :meth:`compute_contrast`.
        """
        wanted = wanted_outputs(output_type)
        lazy = compute_contrasts(self._fit_of(first_level_contrast), contrasts, second_level_stat_type)
        (maps,) = compute(lazy, n_jobs=self.n_jobs, here=True)
        images = {}
        for name in contrasts:
            chosen = {kind: map_image(maps, name, kind) for kind in wanted}
            images[name] = chosen if output_type == "all" else chosen[output_type]
        return images

    def compute_contrast_permutations(
        self,
        second_level_contrast: Any = None,
        first_level_contrast: str | None = None,
        n_perm: int = 10_000,
        output_type: str = "cor_z_score",
        two_sided_test: bool = True,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        """Test a contrast by permutation; the images are read again.

        Parameters
        ----------
        second_level_contrast, first_level_contrast
            As in :meth:`compute_contrast`.
        n_perm : int
            Rearrangements.
        output_type : str
            One of the names of :func:`~daskglm.non_parametric_inference`'s dictionary: "cor_z_score" (z of the
            corrected p), "logp_max_t", "tfce", "logp_max_mass", ...; or "all" for the dictionary.
        two_sided_test : bool
            Either sign counts.
        random_state : int, RandomState or None
            Rearrangement i depends on it and i alone.
        **options
            Further arguments of :func:`~daskglm.permutation_test`: ``threshold``, ``tfce``, ``scheme``, ...

        Returns
        -------
        Nifti1Image, or dict for "all"

        Raises
        ------
        ContrastError, ParameterError
            Before the work, wherever it can be known.
        """
        check_is_fitted(self)
        contrast = contrast_of(self.design_matrix_, second_level_contrast)
        loaded = images_of(self.second_level_input_, first_level_contrast, self._options())
        # The design is in the order of the images already.
        maps = permutation_test(
            loaded.images.assign_attrs(sorted_by=""), self.design_matrix_, {"contrast": contrast},
            n_perm=n_perm, two_sided=two_sided_test,
            random_state=seed_of(random_state), min_coverage=check_fraction(self.min_coverage),
            allow_rank_deficient=self.allow_rank_deficient, n_jobs=self.n_jobs,
            progress=self.verbose > 0, **options,
        )  # fmt: skip
        images = permutation_images(maps, "contrast")
        check_choice("output_type", output_type, (*images, "all"), ContrastError)
        return images if output_type == "all" else images[output_type]

    @property
    def labels_(self) -> NDArray[Any]:
        """Label of each voxel of the last fit, as of :func:`~daskglm.run_glm`: all 0.0."""
        return self._labelled()[0]

    @property
    def results_(self) -> dict[Any, RegressionResults]:
        """Results of the last fit by label, as of :func:`~daskglm.run_glm`."""
        return self._labelled()[1]

    def _labelled(self) -> tuple[NDArray[Any], dict[Any, RegressionResults]]:
        """Labels and results of the last fit."""
        check_is_fitted(self)
        if not self.fits_:
            raise ContrastError("first-level models have no maps of their own; compute a contrast first")
        solution = next(reversed(self.fits_.values()))["solution"].values
        return labelled(solution, orthonormal_basis(design_array(self.design_matrix_)))

    @property
    def predicted_(self) -> Any:
        """Fitted values, one volume a sample: X beta, in image units."""
        return describe(self.space_.to_image(self._predicted(), outside=0), "fitted values")

    @property
    def residuals_(self) -> Any:
        """Images minus fitted values, one volume a sample; NaN where a value is missing."""
        (data,) = compute(self._kept_images()["data"].data, n_jobs=self.n_jobs)
        return describe(self.space_.to_image(data - self._predicted(), outside=0), "residuals")

    @property
    def r_square_(self) -> Any:
        """Variance of the fitted values over that of the images, per voxel."""
        (data,) = compute(self._kept_images()["data"].data, n_jobs=self.n_jobs)
        data = data.astype(np.float64)
        predicted = np.where(np.isfinite(data), self._predicted(), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.nanvar(predicted, axis=0) / np.nanvar(data, axis=0)
        return describe(self.space_.to_image(share, outside=0), "r square")

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` was called."""
        return hasattr(self, "fits_")

    def _options(self) -> Options:
        names = ("mask_img", "missing", "min_coverage", "smoothing_fwhm", "target_affine", "target_shape", "n_jobs")
        return Options(**{name: getattr(self, name) for name in names}, memory=self._cache_folder())

    def _coefficients(self) -> tuple[list[str], NDArray[np.float64]]:
        beta = self._fit_of(None)["beta"]
        return [str(name) for name in beta["regressor"].values], beta.values

    def _design(
        self, loaded: Loaded, subjects: list[str] | None, confounds: Any, design: Any, formula: str | None
    ) -> pd.DataFrame:
        """The design matrix, in the order of the samples, checked."""
        if design is not None and formula is not None:
            raise DesignError("a design comes from design_matrix or from formula; give one of them")
        if formula is not None:
            made = design_of_formula(formula, confounds, loaded.images)
        elif design is not None:
            made = match_design(design, loaded.images)
        elif subjects is not None:
            made = make_second_level_design_matrix(subjects, confounds)
        else:
            raise DesignError(
                "images as second_level_input need a design: give design_matrix, or formula and confounds"
            )
        n_samples = loaded.images.sizes["sample"]
        check_design(made, n_samples, allow_rank_deficient=self.allow_rank_deficient, allow_saturated=True)
        warn_of_repeats(loaded.images, made)
        return made

    def _lazy_fit(self, loaded: Loaded, design: pd.DataFrame) -> xr.Dataset:
        """The fit, lazily; its moments come from the cache where they are in it."""
        min_count = fewest(check_fraction(self.min_coverage), len(design))
        treatment = (self.missing, self.smoothing_fwhm, self.target_affine, self.target_shape)
        progress = "Reading images" if self.verbose else None
        return lazy_fit(loaded, design, min_count, self._cache_folder(), treatment, self.n_jobs, progress)

    def _fit_of(self, first_level_contrast: str | None) -> xr.Dataset:
        """The fit of one first-level contrast; the only one where none is named."""
        check_is_fitted(self)
        first_level_contrast = contrast_key(first_level_contrast)
        if self._models is not None and first_level_contrast not in self.fits_:
            effects = effects_of_models(self._models, first_level_contrast, self._options(), self._names)
            self._keep(effects)
            self._fit_loaded({first_level_contrast: effects})
        if first_level_contrast in self.fits_:
            return self.fits_[first_level_contrast]
        if len(self.fits_) == 1 and (first_level_contrast is None or None in self.fits_):
            return next(iter(self.fits_.values()))
        raise ContrastError(
            f"the input has maps of {listing(map(str, self.fits_))}, but first_level_contrast is "
            f"{first_level_contrast!r}{nearest(first_level_contrast, self.fits_) or '; name one of them'}"
        )

    def _kept_images(self) -> xr.Dataset:
        check_is_fitted(self)
        if self._images is None:
            raise AttributeError("the images were let go after the fit; fit again with minimize_memory=False")
        return self._images

    def _predicted(self) -> NDArray[np.float64]:
        self._kept_images()
        predicted: NDArray[np.float64] = design_array(self.design_matrix_) @ self._fit_of(None)["beta"].values
        return predicted
