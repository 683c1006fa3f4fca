"""Columns of fMRIPrep's confounds -> strategies that have just these."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from daskglm.errors import ParameterError, listing, nearest

_BASES = {
    "motion": ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
    "wm_csf": ("csf", "white_matter"),
    "global_signal": ("global_signal",),
}
_ENDINGS = {
    "basic": ("",),
    "power2": ("", "_power2"),
    "derivatives": ("", "_derivative1"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}
_COSINES = ("cosine*", "cosine_*", "cosine??", "cosine_??", "cosine_orth*")
# A volume with a regressor of its own tells nothing of the others: such volumes are left out.
_NON_STEADY = ("non_steady_state*", "non_steady_state_outlier*", "non_steady_state_*")


def confound_strategies(names: Sequence[str], where: str) -> tuple[list[str], bool]:
    """Strategies that take these columns, and no others.

    Parameters
    ----------
    names : sequence of str
        Columns, with * and ? for several.
    where : str
        Who has them, for messages.

    Returns
    -------
    strategies : list of str
        As for ``--confounds``.
    cosines : bool
        Whether high_pass is among them.

    Raises
    ------
    ParameterError
        Where no strategies take just these.

    Examples
    --------
    >>> confound_strategies(["trans_?", "rot_?", "cosine*"], "X")
    (['motion=basic', 'high_pass'], True)
    """
    known = {
        strategy: {kind: {base + end for base in bases for end in ends} for kind, ends in _ENDINGS.items()}
        for strategy, bases in _BASES.items()
    }
    every = sorted({name for kinds in known.values() for name in kinds["full"]})
    cosines = any(name in _COSINES for name in names)
    wanted: set[str] = set()
    for name in names:
        if name in _COSINES or name in _NON_STEADY:
            continue
        matches = [column for column in every if fnmatchcase(column, name)]
        if not matches:
            raise ParameterError(
                f"X of {where} has {name!r}, which no confound strategy of daskglm has{nearest(name, every)}"
            )
        wanted.update(matches)
    strategies = []
    for strategy, kinds in known.items():
        part = wanted & kinds["full"]
        kind = next((kind for kind, columns in kinds.items() if columns == part), None)
        if part and kind is None:
            raise ParameterError(
                f"X of {where} has {listing(sorted(part), 24)}, but {strategy} takes a whole set of columns: "
                f"{listing(sorted(kinds['basic']))}, with their squares (_power2), derivatives (_derivative1) or both"
            )
        strategies += [f"{strategy}={kind}"] if part else []
    return [*strategies, *(["high_pass"] if cosines else [])], cosines
