"""Confounds in X of a BIDS Stats Model -> the same columns for ``--confounds``."""

from collections.abc import Sequence

from daskglm.errors import ParameterError
from daskglm.io.confound_strategies import CONFOUND_STRATEGIES


def confound_names(names: Sequence[str], where: str) -> tuple[list[str], bool]:
    """Columns and patterns of X, as confounds that are exactly these.

    Parameters
    ----------
    names : sequence of str
        Columns, with * and ? for several.
    where : str
        Who has them, for messages.

    Returns
    -------
    confounds : list of str
        As for ``--confounds``.
    cosines : bool
        Whether drifts are among them.

    Raises
    ------
    ParameterError
        Where a name cannot be one of a column.

    Examples
    --------
    >>> confound_names(["trans_?", "global_signal", "cosine*"], "X")
    (['trans_?', '[g]lobal_signal', 'cosine*'], True)
    """
    for name in names:
        if not name or set(name) & set(",=[]"):
            raise ParameterError(f"X of {where} has {name!r}, which is neither a condition nor a column of confounds")
    # A strategy of the same name would leave volumes out, and take the mean away.
    found = [f"[{name[0]}]{name[1:]}" if name in CONFOUND_STRATEGIES else name for name in names]
    return found, any(name.startswith("cosine") for name in names)
