"""Documents as pages of HTML: one file each, which asks no other host for anything."""

import base64
import hashlib
import html
import math
import os
import re
import tempfile
import warnings
import webbrowser
from collections.abc import Iterable
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from daskglm.errors import MissingDependencyError, OutputError
from daskglm.io.files import write_bytes
from daskglm.report.document import Block, Document, Frame, Section, Table

if TYPE_CHECKING:
    from jinja2 import Environment

_SCRIPTS = {"report.html": ("page.js",), "study.html": ("page.js", "study.js")}
_PNG = b"\x89PNG\r\n\x1a\n"


class Report:
    """A report as a page of HTML, which is one file with everything in it.

    Parameters
    ----------
    document : Document
        What it says. Its texts are shown as they are, whatever is in them; only a Frame brings HTML, which runs in a
        sandbox. Nothing in the page reaches a network, frames included.

    Attributes
    ----------
    html : str
        The page.

    Raises
    ------
    MissingDependencyError
        Where jinja2 is absent.

    Examples
    --------
    >>> from daskglm.report.document import Document, Section, Text
    >>> report = Report(Document("Age", [("Images", "36")], [Section("Model", [Text("z > 3.09")])]))
    >>> "<p>z &gt; 3.09</p>" in report.html
    True
    """

    def __init__(self, document: Document) -> None:
        framed = any(isinstance(block, Frame) for block in _blocks(document.sections))
        self.resize("100%", 600)
        self.html = render("report.html", framed, title=document.title, document=document)

    @property
    def width(self) -> int | str:
        """In a notebook: pixels, or as in "100%"."""
        return self._width

    @width.setter
    def width(self, value: int | str) -> None:
        """Set it.

        Parameters
        ----------
        value : int or str
            Pixels, or as in "100%"; anything else is 800 pixels, with a warning.
        """
        self._width = _length("width", value)

    @property
    def height(self) -> int | str:
        """In a notebook: pixels, or as in "100%"."""
        return self._height

    @height.setter
    def height(self, value: int | str) -> None:
        """Set it.

        Parameters
        ----------
        value : int or str
            Pixels, or as in "100%"; anything else is 800 pixels, with a warning.
        """
        self._height = _length("height", value)

    def resize(self, width: int | str, height: int | str) -> "Report":
        """Set the size that the page has in a notebook.

        Parameters
        ----------
        width, height : int or str
            In pixels, or as in "100%".

        Returns
        -------
        Report
            Itself.
        """
        self.width, self.height = width, height
        return self

    @property
    def body(self) -> str:
        """What a notebook shows: the page in a frame of its size."""
        return self.get_iframe(self.width, self.height)

    def __str__(self) -> str:
        """The page."""
        return self.html

    def save_as_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page.

        Parameters
        ----------
        path : path
            File or URL; its folder is created.

        Raises
        ------
        OutputError
            Where it cannot be written.
        """
        write_page(os.fspath(path), self.html)

    def open_in_browser(self) -> str:
        """Show the page in a browser.

        Returns
        -------
        str
            The temporary file that it shows, readable to its owner alone.
        """
        path = os.path.join(tempfile.mkdtemp(prefix="daskglm-"), "report.html")
        self.save_as_html(path)
        webbrowser.open(Path(path).as_uri())
        return path

    def get_iframe(self, width: int | str = "100%", height: int | str = 600) -> str:
        """The page within another page: neither changes how the other looks.

        Parameters
        ----------
        width, height : int or str
            In pixels, or as in "100%".

        Returns
        -------
        str
            An iframe with the page in it.
        """
        size = f'width="{html.escape(str(width))}" height="{html.escape(str(height))}"'
        page = html.escape(self.html)
        return (
            f'<iframe title="daskglm report" {size} style="border: 0" sandbox="allow-scripts" srcdoc="{page}"></iframe>'
        )

    def _repr_html_(self) -> str:
        """The page in a notebook."""
        return self.body


# nilearn's name.
HTMLReport = Report


def render(template: str, framed: bool = False, **values: object) -> str:
    """Fill a template of ``daskglm/report/templates``.

    Parameters
    ----------
    template : str
        File there.
    framed : bool
        Whether it holds pages with scripts of their own: they obey the page's policy, which then lets scripts run
        that are written in the file; otherwise the page's own script runs and no other. Nothing reaches a network in
        either case.
    **values
        What the template asks for.

    Returns
    -------
    str

    Raises
    ------
    MissingDependencyError
        Where jinja2 is absent.
    """
    from daskglm import __version__

    templates = _templates()
    from markupsafe import Markup

    # Files of this package, which are no templates of their own.
    style, script = (
        Markup("".join(templates.get_template(name).render() for name in names))  # noqa: S704
        for names in (("style.css",), _SCRIPTS[template])
    )
    text = templates.get_template(template).render(
        policy=_policy(script, framed), style=style, script=script, version=__version__, **values
    )
    # Names of files may hold what is no text, and UTF-8 has no bytes for.
    return text.encode("utf-8", "replace").decode("utf-8")


def write_page(path: str, page: str) -> None:
    """Write a page.

    Parameters
    ----------
    path : str
        File or URL.
    page : str
        HTML.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise OutputError(f"cannot write the page {path}: {error.strerror or error}; choose another place") from error


def source_of(image: bytes) -> str:
    """A picture as a data URI.

    Parameters
    ----------
    image : bytes
        PNG or SVG.

    Returns
    -------
    str
    """
    kind = "png" if image.startswith(_PNG) else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def size_of(image: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG in pixels, so that the text below it does not move when it appears.

    Parameters
    ----------
    image : bytes
        PNG or SVG.

    Returns
    -------
    (int, int) or None
        None of an SVG, which fits the page.
    """
    if not image.startswith(_PNG):
        return None
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")


def cell_text(value: object) -> str:
    """What a table shows of a value: four digits that matter of a number, the rest as it is.

    Parameters
    ----------
    value : object
        Number, text or None.

    Returns
    -------
    str

    Examples
    --------
    >>> cell_text(9.1186), cell_text(-40.0), cell_text(1234567), cell_text(float("nan")), cell_text("<b>")
    ('9.119', '-40', '1,234,567', 'n/a', '<b>')
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return "" if value is None else str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}"
    number = float(value)
    if math.isnan(number):
        return "n/a"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def _length(name: str, value: int | str) -> int | str:
    """A length of HTML; 800 pixels, nilearn's, where it is none."""
    if re.fullmatch(r"[1-9][0-9]*(\.[0-9]+)?%?", str(value)):
        return value
    warnings.warn(f"{name} is pixels, or as in '100%', but it is {value!r}; it is 800 now", stacklevel=3)
    return 800


@cache
def _templates() -> "Environment":
    """The package's templates."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError(
            'reports are made with jinja2, which is not installed; pip install "daskglm[report]"'
        ) from error
    templates = Environment(
        loader=PackageLoader("daskglm.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.globals |= {
        "cell_text": cell_text,
        "kind_of": lambda block: type(block).__name__,
        "numeric_columns": _numeric_columns,
        "size_of": size_of,
        "source_of": source_of,
    }
    return templates


def _policy(script: str, framed: bool) -> str:
    """What the page may do: show what is in it, and run its own script."""
    allowed = "'unsafe-inline'"
    if not framed:
        allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    rules = {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": allowed,
        "img-src": "data: blob:",
        "font-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


def _numeric_columns(table: Table) -> list[bool]:
    """Whether a column holds numbers alone, and lines up at its right."""
    columns = [[row[index] for row in table.rows if row[index] is not None] for index in range(len(table.header))]
    return [
        bool(cells) and all(isinstance(cell, Real) and not isinstance(cell, bool) for cell in cells)
        for cells in columns
    ]


def _blocks(sections: Iterable[Section]) -> Iterable[Block]:
    """The blocks of sections and of those below them."""
    for section in sections:
        yield from section.blocks
        yield from _blocks(section.sections)
