"""What a report is made of: text, figures, tables and viewers in sections; plain data, which pages are made from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; `kind` "note" or "warning" sets it apart."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes
    ----------
    image : bytes
        PNG or SVG.
    alt : str
        What it shows, for who cannot see it.
    caption : str
        What it shows, for everyone.
    """

    image: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text and numbers; the first column names the rows."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]


@dataclass(frozen=True)
class Code:
    """Lines to copy, such as a citation or a command."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Frame:
    """An interactive viewer: a whole page of HTML that asks no network for anything."""

    html: str
    title: str


Block = Text | Figure | Table | Code | Frame


@dataclass(frozen=True)
class Section:
    """Blocks, then sections below them, under a heading."""

    title: str
    blocks: Sequence[Block] = ()
    sections: Sequence["Section"] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes
    ----------
    title : str
        Its name.
    facts : sequence of (str, str)
        What a reader wants to know first: images, voxels, model.
    sections : sequence of Section
        In reading order.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
