"""Design matrices: made, and checked before any image is read."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import DesignError, listing, option
from daskglm.kernels.basis import orthonormal_basis

# Squares of what lies outside are zero or infinite in float64.
_SMALLEST, _LARGEST = 1e-140, 1e140

# Values further from the median than so many standard deviations are told, and refused.
_FAR, _TOO_FAR = 50.0, 1e6
# They are so many different ones at most, and so many times as far as any other.
_SENTINELS, _ALONE = 3, 10.0


def make_second_level_design_matrix(
    subjects_label: Sequence[str], confounds: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Design of confounds and an intercept, as nilearn makes it.

    Parameters
    ----------
    subjects_label : sequence of n str
        Subjects, in the order of the images.
    confounds : DataFrame, optional
        A column subject_label, one row a subject, and numeric columns.

    Returns
    -------
    (n, p) DataFrame
        Columns of the confounds, then "intercept"; float64.

    Raises
    ------
    DesignError
        Where a subject has no row or several, a value is missing (of any subject, as in nilearn), or a confound
        is called intercept; where there are no subjects.
    """
    if not len(subjects_label):
        raise DesignError("a design has one row a subject, but there are no subjects; give their labels")
    if confounds is None:
        return pd.DataFrame({"intercept": np.ones(len(subjects_label))})
    if "subject_label" not in confounds.columns or confounds.shape[1] < 2:
        raise DesignError(
            f"confounds have a column subject_label and at least one other, but these have {listing(confounds.columns)}"
        )
    if "intercept" in confounds.columns:
        raise DesignError("the design adds a column intercept, but the confounds have one; drop it from them")
    missing = [str(name) for name, column in confounds.items() if column.isna().any()]
    if missing:
        raise DesignError(
            f"confounds have no missing values, but {listing(missing)} have; fill them in, or drop the rows"
        )
    labels = [str(label) for label in subjects_label]
    table = confounds.set_index(confounds["subject_label"].map(str)).drop(columns="subject_label")
    counts = [int((table.index == label).sum()) for label in labels]
    wrong = [f"{label} ({count})" for label, count in zip(labels, counts, strict=True) if count != 1]
    if wrong:
        raise DesignError(f"confounds have one row a subject, but the rows of {listing(wrong)} are not one")
    design = table.loc[labels].assign(intercept=1.0)
    check_values(design)
    if orthonormal_basis(design_array(design)).rank < design.shape[1]:
        warnings.warn(f"the confounds {_dependent(design)}, with the intercept, are linearly dependent", stacklevel=2)
    return design.astype(np.float64).reset_index(drop=True)


def check_design(
    design: pd.DataFrame, n_samples: int, *, allow_rank_deficient: bool = False, allow_saturated: bool = False
) -> None:
    """Raise unless a design can be fitted to a number of images.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design matrix.
    n_samples : int
        Number of images.
    allow_rank_deficient : bool
        Accept linearly dependent columns.
    allow_saturated : bool
        Warn where no residual degree of freedom is left.

    Raises
    ------
    DesignError
        Where rows and images differ in number; a column repeats a name, is not numeric, holds NaN or infinity,
        is zero throughout or constant beside another constant; columns are linearly dependent; or no residual
        degree of freedom is left.
    """
    if len(design) != n_samples:
        raise DesignError(
            f"a design has one row an image, but it has {len(design)} rows and there are {n_samples} images; "
            "add or drop rows"
        )
    if n_samples < 2:
        raise DesignError(f"a model across subjects needs at least two images, but there is {n_samples}")
    if design.shape[1] == 0:
        raise DesignError("a design has at least one column, but this has none; an intercept is a column of ones")
    check_values(design)
    values = design_array(design)
    zero = [str(name) for name, column in zip(design.columns, values.T, strict=True) if not column.any()]
    if zero:
        raise DesignError(f"columns {listing(zero)} of the design are zero throughout; drop them")
    _check_outliers(design, values)
    constant = [str(name) for name, column in zip(design.columns, values.T, strict=True) if np.ptp(column) == 0]
    if len(constant) > 1 and not allow_rank_deficient:
        raise DesignError(f"columns {listing(constant)} of the design are all constant; keep one as the intercept")
    rank = orthonormal_basis(values).rank
    if n_samples <= rank and allow_saturated:
        warnings.warn(
            f"a design of rank {rank} saturates {n_samples} images: no degrees of freedom are left, and all statistics "
            "are NaN; add images or drop columns",
            stacklevel=4,
        )
    elif n_samples <= rank:
        raise DesignError(
            f"a model needs more images than columns, but there are {n_samples} images and {design.shape[1]} columns "
            f"(rank {rank}); add images or drop columns"
        )
    if rank < design.shape[1] and not allow_rank_deficient:
        how = option("allow_rank_deficient=True", "--allow-rank-deficient")
        raise DesignError(
            f"columns {_dependent(design)} of the design are linearly dependent (rank {rank} of {design.shape[1]}); "
            f"drop one of them, or give {how} to test what is determined all the same"
        )


def check_values(design: pd.DataFrame) -> None:
    """Raise DesignError unless every column has a name of its own and finite numbers.

    Parameters
    ----------
    design : DataFrame
        Design matrix.

    Raises
    ------
    DesignError
        Naming the columns, and the rows with missing values.
    """
    repeated = list(dict.fromkeys(design.columns[design.columns.duplicated()]))
    if repeated:
        raise DesignError(f"columns of a design have different names, but {listing(repeated)} occur more than once")
    numeric, is_complex = pd.api.types.is_numeric_dtype, pd.api.types.is_complex_dtype
    other = [str(name) for name, column in design.items() if not numeric(column) or is_complex(column)]
    if other:
        raise DesignError(f"columns {listing(other)} of the design are not numeric; code them, or use a formula")
    for name, column in design.items():
        missing = design.index[~np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))]
        if len(missing):
            raise DesignError(
                f"a design has no missing values, but column {str(name)!r} has in rows {listing(missing)}; "
                "fill them in, or drop those subjects and their images"
            )
        largest = np.abs(column.to_numpy(dtype=np.float64)).max(initial=0.0)
        if largest and not _SMALLEST <= largest <= _LARGEST:
            raise DesignError(
                f"values of a design are between {_SMALLEST:g} and {_LARGEST:g} in size, but column {str(name)!r} has "
                f"{largest:.3g} at most; change its unit"
            )


def design_array(design: pd.DataFrame) -> NDArray[np.float64]:
    """Values (n, p) of a design, float64.

    Parameters
    ----------
    design : (n, p) DataFrame
        Numeric columns.

    Returns
    -------
    (n, p) float64
    """
    return np.asarray(design.to_numpy(dtype=np.float64), dtype=np.float64)


def _dependent(design: pd.DataFrame) -> str:
    """Names of the columns that take part in a linear dependency."""
    values = design_array(design)
    norms = np.linalg.norm(values, axis=0)
    _, _, right = np.linalg.svd(values / np.where(norms > 0, norms, 1), full_matrices=True)
    rank = orthonormal_basis(values).rank
    involved = np.abs(right[rank:]).max(axis=0) > 1e-8
    return listing([name for name, part in zip(design.columns, involved, strict=True) if part], 12)


def _check_outliers(design: pd.DataFrame, values: NDArray[np.float64]) -> None:
    """Warn of values that may stand for missing ones; raise where they leave the others no digits."""
    center = np.median(values, axis=0)
    # The standard deviation of normal values, from the median distance: outliers do not change it.
    spread = 1.4826 * np.median(np.abs(values - center), axis=0)
    distance = np.abs(values - center) / np.where(spread > 0, spread, np.inf)
    for column in np.flatnonzero(distance.max(axis=0) > _FAR):
        name, far = str(design.columns[column]), distance[:, column]
        # Columns of a spline or with a long tail lead up to their largest values; sentinels are few, and far from all.
        found = np.unique(values[far > _FAR, column])
        if found.size > _SENTINELS or far[far > _FAR].min() < _ALONE * far[far <= _FAR].max():
            continue
        shown = listing(f"{value:g}" for value in found)
        what = (
            f"column {name!r} of the design has values far from the others: {shown}, {far.max():,.0f} standard "
            "deviations from the median"
        )
        remedy = "if they stand for missing values, write n/a or leave those subjects out"
        if far.max() > _TOO_FAR:
            raise DesignError(f"{what}, which leave the differences between the others no digits; {remedy}")
        warnings.warn(f"{what}; {remedy}, else transform the column", stacklevel=5)
