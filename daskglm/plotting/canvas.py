"""What all pictures share: colours, axes, titles, files."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from daskglm.errors import MissingDependencyError
from daskglm.io.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people of all kinds of colour vision tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
_TITLE_WIDTH = 70
_LEGEND_WIDTH = 66


def axes_for(axes: "Axes | None", width: float = 7.0, height: float = 4.2) -> "Axes":
    """The axes to draw on.

    Parameters
    ----------
    axes : Axes or None
        What the caller gave; None: new ones.
    width, height : float
        Size of a new figure, in inches.

    Returns
    -------
    Axes
        Without frame at the top and the right.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plain(text: object) -> str:
    """Text that matplotlib shows as it is: a dollar is no mathematics.

    Parameters
    ----------
    text : object
        A name.

    Returns
    -------
    str
    """
    return str(text).replace("$", r"\$")


def wrapped(text: str, width: int = _TITLE_WIDTH, lines: int = 3) -> str:
    """Text in lines.

    Parameters
    ----------
    text : str
        A title.
    width : int
        Characters a line.
    lines : int
        Of each line of the text.

    Returns
    -------
    str
        Words longer than a line are broken; what does not fit is left out.
    """
    import textwrap

    parts = [textwrap.wrap(part, width, max_lines=lines, placeholder=" ...") for part in text.split("\n")]
    return "\n".join(line for part in parts for line in part)


@contextmanager
def any_letters() -> Iterator[None]:
    """Draw letters that the fonts at hand lack as boxes, and say nothing: the text beside a picture has them.

    Yields
    ------
    None
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield


def finish(axes: "Axes", title: str, output_file: "str | os.PathLike[str] | None") -> None:
    """Give a plot its legend, under it, where it hides nothing, and its title; write it where that was asked for.

    Parameters
    ----------
    axes : Axes
        With labelled artists.
    title : str
        Above it.
    output_file : path, URL or None
        As for :func:`save`.
    """
    labels = axes.get_legend_handles_labels()[1]
    in_a_row = sum(max(map(len, label.split("\n"))) for label in labels) <= _LEGEND_WIDTH
    ncols = len(labels) if in_a_row else 1
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=ncols, frameon=False)
    axes.set_title(plain(wrapped(title)))
    figure = axes.get_figure(root=True)
    if figure is not None:
        save(figure, output_file)


def save(figure: "Figure", output_file: "str | os.PathLike[str] | None") -> None:
    """Write a figure and close it, where a file was asked for.

    Parameters
    ----------
    figure : Figure
        To write.
    output_file : path, URL or None
        Where; the suffix names the format.
    """
    if output_file is None:
        return
    import matplotlib.pyplot as plt

    path, buffer = os.fspath(output_file), io.BytesIO()
    with any_letters():
        figure.savefig(buffer, format=os.path.splitext(path)[1].lstrip(".") or "png", dpi=150)
    plt.close(figure)
    write_bytes(path, buffer.getvalue())


def nilearn_plotting() -> Any:
    """The module nilearn.plotting.

    Returns
    -------
    module

    Raises
    ------
    MissingDependencyError
        Where nilearn is not installed.
    """
    try:
        from nilearn import plotting
    except ImportError as error:
        raise MissingDependencyError(
            'brain pictures are drawn by nilearn, which is not installed; pip install "daskglm[report]"'
        ) from error
    return plotting
