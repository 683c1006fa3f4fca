"""Which rows of a design may change places or signs under the null hypothesis: every rearrangement by its number."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import factorial, prod
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from daskglm.errors import DesignError, ParameterError, ParameterTypeError, check_choice

KINDS = ("permutation", "sign_flip", "both")


@dataclass(frozen=True)
class Rearrangements:
    """Rearrangements of n rows; number i is a function of i and the seed alone.

    Attributes
    ----------
    n_rows : int
        n.
    groups : tuple of (u, k) int64
        Rows by exchangeable unit: in each group u units of k rows each, of which the order stays.
    kind : {"permutation", "sign_flip", "both"}
        What happens to units: they change places in their group, signs, or both.
    labels : (n,) int64
        Rows of the design that are equal have one label: exchanging them changes nothing.
    seed : int
        Of the draws.
    exhaustive : bool
        Number i is the i-th of all distinct rearrangements, not a draw.
    count : int
        How many there are to do, besides the data as they are.
    """

    n_rows: int
    groups: tuple[NDArray[np.int64], ...]
    kind: str
    labels: NDArray[np.int64]
    seed: int
    exhaustive: bool
    count: int

    def take(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rearrangements by number.

        Parameters
        ----------
        start, stop : int
            Numbers, from 0.

        Returns
        -------
        index : (stop - start, n) int64
            Which row of the regressors comes to each place.
        sign : (stop - start, n) float64
            1 or -1, by which it is multiplied there.
        """
        if self.exhaustive:
            chosen = list(islice(self._all(), start, stop))
        else:
            chosen = [self._draw(np.random.default_rng([self.seed, number])) for number in range(start, stop)]
        index = np.array([item[0] for item in chosen], dtype=np.int64).reshape(-1, self.n_rows)
        return index, np.array([item[1] for item in chosen], dtype=np.float64).reshape(-1, self.n_rows)

    @property
    def invariant(self) -> NDArray[np.float64]:
        """Orthonormal vectors (n, b) that no rearrangement changes; none where signs are flipped."""
        if self.kind != "permutation":
            return np.empty((self.n_rows, 0))
        columns = [rows for group in self.groups for rows in group.T]
        basis = np.zeros((self.n_rows, len(columns)))
        for number, rows in enumerate(columns):
            basis[rows, number] = len(rows) ** -0.5
        return basis

    def _draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """One at random."""
        index, sign = np.arange(self.n_rows), np.ones(self.n_rows)
        for group in self.groups:
            if self.kind != "sign_flip":
                index[group] = rng.permutation(group)
            if self.kind != "permutation":
                sign[group] = rng.choice([-1.0, 1.0], size=(len(group), 1))
        return index, sign

    def _all(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """All distinct ones but the first, which leaves everything as it is."""
        n_units = sum(map(len, self.groups))
        flips = product(*[(1.0, -1.0)] * n_units) if self.kind != "permutation" else [(1.0,) * n_units]
        units = [unit for group in self.groups for unit in group]
        signs = []
        for values in flips:
            sign = np.ones(self.n_rows)
            for unit, value in zip(units, values, strict=True):
                sign[unit] = value
            signs.append(sign)
        orders = [[group] for group in self.groups]
        if self.kind != "sign_flip":
            orders = [list(_distinct_orders(group, self.labels)) for group in self.groups]
        everything = product(product(*orders), signs)
        next(everything)
        for order, sign in everything:
            index = np.arange(self.n_rows)
            for group, units_there in zip(self.groups, order, strict=True):
                index[group] = units_there
            yield index, sign


def plan_rearrangements(
    rows: ArrayLike,
    n_perm: Any,
    kind: str = "permutation",
    *,
    within: Any = None,
    whole: Any = None,
    seed: int = 0,
) -> Rearrangements:
    """Find what may be exchanged, and whether all distinct rearrangements can be done.

    Parameters
    ----------
    rows : (n, p) array-like
        Design: equal rows are exchanged without effect.
    n_perm : int
        Rearrangements asked for. If there are no more distinct ones, all of them are done, with a warning.
    kind : {"permutation", "sign_flip", "both"}
        Permutation of rows for exchangeable errors, sign flips for independent symmetric ones.
    within : (n,) array-like, optional
        Blocks: rows change places within their block only.
    whole : (n,) array-like, optional
        Blocks that change places, or signs, as wholes, with others of their size; the order within them stays.
    seed : int
        Of the draws.

    Returns
    -------
    Rearrangements

    Raises
    ------
    ParameterError, DesignError
        Where the kind is unknown, the blocks do not fit the rows, or nothing can be exchanged.

    Examples
    --------
    >>> group = [[1, 0], [1, 0], [0, 1], [0, 1]]
    >>> plan_rearrangements(group, 1).count, plan_rearrangements(group, 1).exhaustive
    (1, False)
    """
    design = np.asarray(rows, dtype=np.float64).reshape(len(np.asarray(rows)), -1)
    check_choice("rearrangement", kind, KINDS)
    if isinstance(n_perm, bool) or not isinstance(n_perm, Integral) or n_perm < 1:
        wrong = ParameterError if isinstance(n_perm, Integral) else ParameterTypeError
        raise wrong(f"n_perm is a whole number of 1 or more, but it is {n_perm!r}")
    if within is not None and whole is not None:
        raise ParameterError("blocks are exchanged as wholes or rows within them; give within or whole, not both")
    labels = np.unique(design, axis=0, return_inverse=True)[1].reshape(-1)
    groups = _groups(len(design), within, whole)
    distinct = _count(groups, labels, kind)
    if distinct == 1:
        raise DesignError(
            "no rearrangement changes the design: rows that may be exchanged are all equal; flip signs, use other "
            "blocks, or test another contrast"
        )
    wanted = int(n_perm)
    exhaustive = distinct - 1 <= wanted
    if exhaustive:
        more = f" instead of {wanted}" if wanted >= distinct else ""
        warnings.warn(
            f"there are {distinct} distinct rearrangements, of which one is the data as they are: all {distinct - 1} "
            f"others are done{more}; the smallest p is {1 / distinct:.3g}",
            stacklevel=3,
        )
    return Rearrangements(len(design), groups, kind, labels, seed, exhaustive, min(wanted, distinct - 1))


def block_numbers(given: Any, n_rows: int, what: str = "blocks") -> NDArray[np.int64]:
    """Numbers of the blocks that rows are in.

    Parameters
    ----------
    given : (n,) array
        Name of the block of each row; blanks around it say nothing.
    n_rows : int
        n.
    what : str
        What the blocks are, for messages.

    Returns
    -------
    (n,) int64

    Raises
    ------
    DesignError
        Where names are missing, or not as many as rows.
    """
    names = [name.strip() if isinstance(name, str) else name for name in np.asarray(given).reshape(-1).tolist()]
    if len(names) != n_rows:
        raise DesignError(f"{what} have a name a row of the design, but there are {len(names)} for {n_rows} rows")
    if any(pd.isna(name) or name == "" for name in names):
        raise DesignError(f"every row is in one of the {what}, but some names are missing; fill them in")
    numbers: NDArray[np.int64] = np.unique(np.array(names), return_inverse=True)[1].reshape(-1)
    return numbers


def _groups(n_rows: int, within: Any, whole: Any) -> tuple[NDArray[np.int64], ...]:
    """Exchangeable units by group."""
    given = within if whole is None else whole
    if given is None:
        return (np.arange(n_rows)[:, None],)
    numbers = block_numbers(given, n_rows)
    blocks = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    if whole is None:
        return tuple(block[:, None] for block in blocks)
    sizes = sorted({len(block) for block in blocks})
    return tuple(np.array([block for block in blocks if len(block) == size]) for size in sizes)


def _count(groups: Sequence[NDArray[np.int64]], labels: NDArray[np.int64], kind: str) -> int:
    """Number of distinct rearrangements, with the one that changes nothing."""
    count = 1
    for group in groups:
        if kind != "sign_flip":
            repeats = np.unique(labels[group], axis=0, return_counts=True)[1]
            count *= factorial(len(group)) // prod(factorial(int(number)) for number in repeats)
        if kind != "permutation":
            count *= 2 ** len(group)
    return count


def _distinct_orders(group: NDArray[np.int64], labels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Orders of the units of a group that differ in labels, the given order first."""
    names = np.unique(labels[group], axis=0, return_inverse=True)[1].reshape(-1)
    positions = [np.flatnonzero(names == name) for name in range(names.max() + 1)]
    order = names.tolist()
    while True:
        units = np.empty(len(group), dtype=np.int64)
        for name, places in enumerate(positions):
            units[np.array(order) == name] = places
        yield group[units]
        _to_next(order)
        if order == names.tolist():
            return


def _to_next(order: list[int]) -> None:
    """The next permutation in lexicographic order, in place; the first one after the last."""
    pivot = len(order) - 2
    while pivot >= 0 and order[pivot] >= order[pivot + 1]:
        pivot -= 1
    if pivot >= 0:
        larger = max(place for place in range(pivot + 1, len(order)) if order[place] > order[pivot])
        order[pivot], order[larger] = order[larger], order[pivot]
    order[pivot + 1 :] = reversed(order[pivot + 1 :])
