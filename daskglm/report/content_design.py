"""The design in a report: its picture, and what regressors share."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.design.diagnostics import leverage, variance_inflation_factors
from daskglm.design.matrix import design_array
from daskglm.report.document import Block, Figure, Section, Table, Text
from daskglm.report.pictures import correlation_picture, design_picture, leverage_picture

# More regressors than this have no table of their own.
_ROWS = 60
_LEVERAGES = 5
# Common advice: the estimate of a regressor with a larger variance inflation factor is poorly determined.
_INFLATED = 10.0


def design_section(designs: Mapping[str, pd.DataFrame]) -> Section:
    """The design, or the first of several.

    Parameters
    ----------
    designs : mapping of str to (n, p) DataFrame
        By the name of the run.

    Returns
    -------
    Section
    """
    name, design = next(iter(designs.items()))
    blocks: list[Block] = []
    if len(designs) > 1:
        blocks.append(Text(f"{len(designs)} runs have a design each; this is that of {name}."))
    shape = f"{design.shape[0]} rows and {design.shape[1]} regressors"
    shown = [str(column) for column in design.columns[:_ROWS]]
    blocks.append(
        Figure(
            design_picture(design),
            f"Design matrix of {shape}: {', '.join(shown)}",
            f"Design matrix: {shape}, each column over its length.",
        )
    )
    return Section("Design", [*blocks, *_shared_variance(design), *_leverage(design)])


def regressor_correlations(design: pd.DataFrame) -> pd.DataFrame:
    """Correlations of the regressors that vary.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design.

    Returns
    -------
    (k, k) DataFrame
    """
    names = [design.columns[index] for index in _varying(design_array(design))]
    return design[names].astype(float).corr()


def _shared_variance(design: pd.DataFrame) -> list[Block]:
    """Correlations and variance inflation factors, where there is more than one regressor that varies."""
    correlations = regressor_correlations(design)
    if len(correlations) < 2:
        return [Text("One regressor at most varies: there are no correlations of regressors to show.")]
    between = correlations.to_numpy(copy=True)
    np.fill_diagonal(between, 0.0)
    row, column = np.unravel_index(np.abs(between).argmax(), between.shape)
    highest = f"{correlations.index[row]} and {correlations.columns[column]}: {between[row, column]:.2f}"
    factors = variance_inflation_factors(design).dropna().sort_values(ascending=False)
    rows = [(str(name), float(value)) for name, value in factors.items()]
    blocks: list[Block] = [
        Figure(
            correlation_picture(correlations),
            f"Correlations of {len(correlations)} regressors; the strongest is of {highest}",
            f"Correlations of the regressors that vary. The strongest is of {highest}.",
        ),
        Table("Variance inflation factors", ("Regressor", "Variance inflation factor"), rows[:_ROWS]),
    ]
    inflated = [str(name) for name, value in factors.items() if value > _INFLATED]
    if inflated:
        text = (
            f"A variance inflation factor above {_INFLATED:g} says that other regressors explain most of one: "
            f"{', '.join(inflated[:_ROWS])}. Contrasts of these are poorly determined."
        )
        blocks.append(Text(text, "note"))
    return blocks


def _leverage(design: pd.DataFrame) -> list[Block]:
    """The rows that pull most at the fit."""
    values = leverage(design).sort_values(ascending=False, kind="stable")
    mean = float(values.mean())
    rows = [(str(name), float(value), float(value) / mean) for name, value in values.head(_LEVERAGES).items()]
    caption = f"Rows of highest leverage (mean {mean:.3f}; 1: the fit goes through the row whatever its value)"
    alt = f"Leverage of {len(values)} rows, of which {rows[0][0]} has the highest, {rows[0][1]:.3f}"
    picture = Figure(leverage_picture(design), alt, "How far the fit follows each row.")
    return [picture, Table(caption, ("Row", "Leverage", "Times the mean"), rows)]


def _varying(matrix: NDArray[np.float64]) -> list[int]:
    """Numbers of the columns that are not constant."""
    return [int(index) for index in np.flatnonzero(np.ptp(matrix, axis=0) > 0)]
