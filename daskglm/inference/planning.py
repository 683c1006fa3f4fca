"""Contrasts of a design -> tests and the rearrangements that they allow."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from daskglm.design.contrasts import contrast_matrix
from daskglm.design.matrix import design_array
from daskglm.design.rearrangements import Rearrangements, block_numbers, plan_rearrangements
from daskglm.errors import ContrastError, DesignError, ParameterError, check_choice, listing, option
from daskglm.kernels.basis import is_estimable, orthonormal_basis
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import SCHEMES, partition
from daskglm.kernels.permutation_blocks import Test
from daskglm.kernels.variance_groups import variance_groups as make_groups


def plan_tests(
    design: pd.DataFrame, contrasts: Mapping[str, Any], f_contrasts: Sequence[str], two_sided: bool, scheme: str,
    rearrangement: str, n_perm: int, within: Any, whole: Any, variance_groups: Any, random_state: int,
    min_count: int,
) -> tuple[Rearrangements, dict[str, Test]]:  # fmt: skip
    """The rearrangements and the tests of :func:`permutation_test`, before anything is read.

    Parameters
    ----------
    design, contrasts, f_contrasts, two_sided, scheme, rearrangement, n_perm
        As for :func:`permutation_test`.
    within, whole, variance_groups, random_state
        As for :func:`permutation_test`.
    min_count : int
        Images that a voxel must have.

    Returns
    -------
    rearrangements : Rearrangements
    tests : dict of str to Test

    Raises
    ------
    ContrastError, DesignError, ParameterError
        As :func:`permutation_test`.
    """
    seed: Any = random_state
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ParameterError(
            f"{option('random_state', '--seed')} is a whole number from 0, but it is {random_state!r}; rearrangement i "
            "depends on it and i alone"
        )
    # A text is a sequence, too: of its letters.
    f_contrasts = [f_contrasts] if isinstance(f_contrasts, str) else f_contrasts
    unknown = [name for name in f_contrasts if name not in contrasts]
    if unknown:
        raise ContrastError(
            f"f_contrasts names contrasts to be tested as F, but there is no contrast {listing(map(repr, unknown))} "
            f"among {listing(contrasts)}; correct the name"
        )
    options: dict[str, Any] = {"f_contrasts": f_contrasts, "two_sided": two_sided, "scheme": scheme}
    tests = parse_tests(design, contrasts, min_count=min_count, **options)
    means = means_tested(tests, np.full((len(design), 1), len(design) ** -0.5))
    kind = rearrangement_kind(tests, means) if rearrangement == "auto" else rearrangement
    plan = plan_rearrangements(design_array(design), n_perm, kind, within=within, whole=whole, seed=random_state)
    if kept := means_tested(tests, plan.invariant):
        warnings.warn(
            f"contrasts {listing(kept)} test a mean, or what the rows of a block share, which permutations do not "
            "change: their p say little; flip signs, or exchange other blocks",
            stacklevel=3,
        )
    tests = parse_tests(design, contrasts, invariant=plan.invariant, min_count=min_count, **options)
    return plan, tests if variance_groups is None else _with_groups(tests, plan, np.asarray(variance_groups))


def _with_groups(tests: dict[str, Test], plan: Rearrangements, names: NDArray[Any]) -> dict[str, Test]:
    """Tests of groups with variances of their own."""
    numbers = block_numbers(names, plan.n_rows, "variance groups")
    if plan.kind != "sign_flip" and any((numbers[group] != numbers[group[0]]).any() for group in plan.groups):
        raise ParameterError(
            "rows that change places have one variance, but variance groups are mixed; give "
            f"{option('within', '--within')} the same groups, or flip signs"
        )
    if any(test.scheme not in ("freedman-lane", "ter-braak") for test in tests.values()):
        raise ParameterError("variance groups need residuals that are permuted; use the scheme freedman-lane")
    made = {}
    for name, test in tests.items():
        groups = make_groups(test.parts, numbers)
        if (groups.freedom < 1e-8).any():
            raise DesignError(f"variance groups need residuals, but contrast {name!r} leaves one without; merge it")
        made[name] = replace(test, groups=groups)
    return made


def parse_tests(
    design: pd.DataFrame,
    contrasts: Mapping[str, Any],
    *,
    f_contrasts: Sequence[str] = (),
    two_sided: bool = True,
    scheme: str = "freedman-lane",
    invariant: Array | None = None,
    min_count: int = 1,
) -> dict[str, Test]:
    """Tests of contrasts of a design.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design.
    contrasts : mapping of str to contrast
        Name to expression or weights.
    f_contrasts : sequence of str
        Names of those that are F contrasts; those with several rows are.
    two_sided : bool
        Of t contrasts.
    scheme : str
        One of :data:`~daskglm.kernels.permutation.SCHEMES`.
    invariant : (n, b) float64, optional
        What no rearrangement changes.
    min_count : int
        Images that a voxel must have.

    Returns
    -------
    dict of str to Test

    Raises
    ------
    ContrastError, ParameterError
        Where a contrast cannot be tested, or the scheme is unknown.
    """
    check_choice("scheme", scheme, SCHEMES)
    matrix = design_array(design)
    basis = orthonormal_basis(matrix)
    columns = [str(name) for name in design.columns]
    tests = {}
    for name, definition in contrasts.items():
        weights = contrast_matrix(definition, columns, design.attrs.get("terms", {}))
        if not is_estimable(weights, basis):
            raise ContrastError(
                f"contrast {name!r} is not estimable: the design cannot tell apart the regressors it compares; "
                "remove linearly dependent columns"
            )
        parts = partition(matrix, weights, invariant)
        if parts.degrees_of_freedom < 1:
            raise ContrastError(
                f"a test needs a degree of freedom, but {len(matrix)} images and {basis.rank} regressors leave none"
            )
        signed = name not in f_contrasts and len(weights) == 1
        tests[str(name)] = Test(parts, signed, two_sided, scheme, min_count=min_count)
    if not tests:
        raise ContrastError(f"give at least one contrast of the regressors {listing(columns)}")
    return tests


def means_tested(tests: Mapping[str, Test], fixed: Array) -> list[str]:
    """Names of the tests of which permutations leave a part as it is.

    Parameters
    ----------
    tests : mapping of str to Test
        Tests.
    fixed : (n, b) float64
        Orthonormal vectors that no permutation changes.

    Returns
    -------
    list of str
        Those where such a vector lies in the design, and not in the nuisance alone: of a mean, an F contrast that
        contains one, or the mean of one of several groups.
    """
    found = []
    for name, test in tests.items():
        whole = np.concatenate([test.parts.nuisance, test.parts.tested], axis=1)
        _, cosines, directions = np.linalg.svd(fixed.T @ whole)
        common = whole @ directions[: cosines.size][cosines > 1 - 1e-10].T
        if np.abs(test.parts.tested.T @ common).max(initial=0.0) > 1e-6:
            found.append(name)
    return found


def rearrangement_kind(tests: Mapping[str, Test], means: Sequence[str]) -> str:
    """Sign flips where means are tested, else permutations.

    Parameters
    ----------
    tests : mapping of str to Test
        Tests.
    means : sequence of str
        From :func:`means_tested`.

    Returns
    -------
    {"permutation", "sign_flip"}

    Raises
    ------
    ParameterError
        Where some need one and some the other.
    """
    if means and len(means) < len(tests):
        raise ParameterError(
            f"contrasts {listing(means)} test a mean, which needs sign flips, and others permutations; test "
            f"them apart, or say which by {option('rearrangement', '--rearrangement')}"
        )
    return "sign_flip" if means else "permutation"


def cluster_threshold(test: Test, p: float | None) -> float | None:
    """The statistic at a cluster-forming p.

    Parameters
    ----------
    test : Test
        Test, on its scale.
    p : float or None
        P of t or F; of the standard normal or chi-squared distribution where voxels lack images, and of the normal
        one with variance groups.

    Returns
    -------
    float or None
        None for None.

    Raises
    ------
    ParameterError
        Where p is none.
    """
    if p is None:
        return None
    if isinstance(p, (str, bool)) or not 0 < p < 1:
        name = option("threshold", "--cluster-threshold")
        raise ParameterError(f"{name} is a cluster-forming p between 0 and 1, but it is {p!r}")
    freedom, n_tested = test.parts.degrees_of_freedom, test.parts.tested.shape[1]
    if test.signed:
        tail = p / 2 if test.two_sided else p
        return float(stats.norm.isf(tail) if test.scaled else stats.t.isf(tail, freedom))
    if test.groups is not None:
        return float(stats.norm.isf(p))
    return float(stats.chi2.isf(p, n_tested) if test.uneven else stats.f.isf(p, n_tested, freedom))
