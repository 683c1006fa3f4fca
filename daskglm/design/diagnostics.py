"""How well a design can tell its columns apart, and how much hangs on single rows."""

import numpy as np
import pandas as pd

from daskglm.design.matrix import check_values, design_array
from daskglm.kernels.basis import orthonormal_basis


def variance_inflation_factors(design: pd.DataFrame) -> pd.Series:
    """Variance of each coefficient over what it would be, were its column unrelated to the others.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design matrix.

    Returns
    -------
    (p,) Series
        By column: ``1 / (1 - R2)``, R2 that of the column regressed on the others, about its mean where they span the
        constant. At least 1; infinite for a column that the others explain; NaN for a constant column.

    Raises
    ------
    DesignError
        Where a column repeats a name or is not finite numbers.

    Notes
    -----
    Factors above 5 or 10 are customarily called large.
    """
    check_values(design)
    values = design_array(design)
    factors = np.full(values.shape[1], np.nan)
    for index, column in enumerate(values.T):
        if np.ptp(column) == 0:
            continue
        others = np.delete(values, index, axis=1)
        basis = orthonormal_basis(others)
        regressors = others @ basis.to_basis
        centred = column - column.mean() if basis.constant is not None else column
        left = centred - regressors @ (regressors.T @ centred)
        share = float(left @ left) / float(centred @ centred)
        # The rounding of an exact fit is no variance.
        factors[index] = np.inf if share < 1e-14 else 1.0 / share
    return pd.Series(factors, index=design.columns, name="variance_inflation_factor")


def leverage(design: pd.DataFrame) -> pd.Series:
    """How far the fit follows each row: the diagonal of the hat matrix.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design matrix.

    Returns
    -------
    (n,) Series
        By row, 0 to 1; their sum is the rank of the design. A row of 1 is fitted exactly, whatever its value.

    Raises
    ------
    DesignError
        Where a column repeats a name or is not finite numbers.
    """
    check_values(design)
    values = design_array(design)
    regressors = values @ orthonormal_basis(values).to_basis
    return pd.Series((regressors**2).sum(axis=1), index=design.index, name="leverage")
