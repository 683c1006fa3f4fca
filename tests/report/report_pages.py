"""What reports are read with: sections, tables and texts of a page."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd


class Page(HTMLParser):
    """A page, read: text and alt texts by heading, and tables by caption; scripts and styles are no text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.images: dict[str, list[str]] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        self.scripts = 0
        self._path: list[str] = []
        self._text, self._name = "", ""
        self._caption, self._rows = "", []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.setdefault(self._name, []).append(dict(attributes).get("alt") or "")
        elif tag in ("h1", "h2", "h3", "caption", "th", "td"):
            self._text = ""
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        self.scripts += tag == "script"
        if tag in ("script", "style", "h1", "h2", "h3"):
            self._path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split())
        if self._path and self._path[-1] == tag:
            self._path.pop()
            if tag.startswith("h"):
                self._name = text
                self.sections.setdefault(text, "")
        elif tag == "caption":
            self._caption = text
        elif tag in ("th", "td"):
            self._rows[-1].append(text)
        elif tag == "table":
            header, *rows = self._rows
            self.tables[self._caption] = pd.DataFrame(rows, columns=header)

    def handle_data(self, data: str) -> None:
        if self._path and self._path[-1] in ("script", "style"):
            return
        self._text += data
        if not self._path:
            self.sections[self._name] = " ".join(f"{self.sections.get(self._name, '')} {data}".split())

    def table(self, caption: str) -> pd.DataFrame:
        """The table whose caption begins so: texts."""
        return next(table for name, table in self.tables.items() if name.startswith(caption))

    def numbers(self, caption: str, column: str) -> pd.Series[float]:
        """A column of numbers of a table, by the names of its rows."""
        table = self.table(caption)
        return table[column].str.replace(",", "").astype(float).set_axis(table.iloc[:, 0])

    def all_numbers(self, caption: str) -> list[float]:
        """All numbers of a table but its first column; cells may be empty."""
        return [float(text) for text in self.table(caption).iloc[:, 1:].to_numpy().ravel() if text]
