"""The page of a document: its structure, that text stays text, and what it may load."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import sys
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imsave

import daskglm
from daskglm.errors import MissingDependencyError, OutputError
from daskglm.report import page
from daskglm.report.document import Code, Document, Figure, Frame, Section, Table, Text
from daskglm.report.page import Report, cell_text, size_of

HOSTILE = "<script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect width="9" height="9"/></svg>'
# Elements without an end.
VOID = {"meta", "link", "img", "input", "br"}


class Parsed(HTMLParser):
    """The elements of a page in their order, each with its attributes and the text directly in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, "every element is ended"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data):
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def all(self, *tags):
        return [(attrs, "".join(text)) for tag, attrs, text in self.elements if tag in tags]

    def texts(self, *tags):
        return [text for _, text in self.all(*tags)]


def png(width: int = 30, height: int = 20) -> bytes:
    file = io.BytesIO()
    imsave(file, np.zeros((height, width)), format="png")
    return file.getvalue()


def document(text: str, *, framed: bool = True) -> Document:
    """A document of every kind of block, with a text at every place that takes one."""
    blocks = [
        Text(text),
        Text(text, "note"),
        Text(text, "warning"),
        Figure(png(), alt=text, caption=text),
        Figure(SVG, alt=text),
        Table(text, (text, text, "n"), [(text, text, 3), (text, None, 4.5)]),
        Table(text, (text,), []),
        Code(text, text),
        *([Frame(f"<!doctype html><p>{text}</p>", text)] if framed else []),
    ]
    below = Section(text, [Text(text)], [Section(text, [Code(text)])])
    return Document(text, [(text, text)], [Section(text, blocks, [below]), Section(text, blocks)])


@pytest.fixture(scope="module")
def parsed() -> Parsed:
    return Parsed(Report(document("age")).html)


def test_one_heading_comes_first_and_none_skips_a_level(parsed):
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels == [1, 2, 3, 4, 2]
    assert parsed.all("html")[0][0] == {"lang": "en"}
    assert [len(parsed.all(tag)) for tag in ("main", "nav", "header", "footer", "title")] == [1, 1, 1, 1, 1]
    assert daskglm.__version__ in parsed.texts("footer")[0]


def test_links_lead_to_places_of_the_page_the_skip_link_first(parsed):
    links = [attrs["href"] for attrs, _ in parsed.all("a")]
    places = [attrs["id"] for _, attrs, _ in parsed.elements if "id" in attrs]
    assert links == ["#main", "#s1", "#s1-1", "#s2"]
    assert len(set(places)) == len(places)
    assert {link[1:] for link in links} <= set(places)


def test_tables_name_their_columns_and_rows_and_scroll_by_themselves(parsed):
    heads = [attrs["scope"] for attrs, _ in parsed.all("th")]
    assert heads == (["col"] * 3 + ["row"] * 2 + ["col"]) * 2
    regions = [attrs for attrs, _ in parsed.all("div") if attrs.get("role") == "region"]
    assert len(regions) == len(parsed.all("table")) == len(parsed.all("caption")) == 4
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] == "Table: age" for attrs in regions)
    # Only the column of numbers is set as numbers; what is missing is an empty cell.
    assert [(text, attrs.get("class")) for attrs, text in parsed.all("td")][:4] == [
        ("age", "text"), ("3", "number"), ("", "text"), ("4.5", "number")
    ]  # fmt: skip


def test_pictures_are_in_the_page_with_alt_text(parsed):
    images = [attrs for attrs, _ in parsed.all("img")]
    kinds = [attrs["src"].partition(",")[0] for attrs in images]
    assert kinds == ["data:image/png;base64", "data:image/svg+xml;base64"] * 2
    assert [base64.b64decode(attrs["src"].partition(",")[2]) for attrs in images] == [png(), SVG] * 2
    assert all(attrs["alt"] == "age" and attrs["loading"] == "lazy" for attrs in images)
    assert (images[0]["width"], images[0]["height"]) == ("30", "20")
    assert "width" not in images[1]


def test_viewers_are_in_a_sandbox_and_wait(parsed):
    frames = [attrs for attrs, _ in parsed.all("iframe")]
    assert len(frames) == 2
    for attrs in frames:
        assert (attrs["sandbox"], attrs["title"], attrs["data-page"]) == (
            "allow-scripts", "age", "<!doctype html><p>age</p>",
        )  # fmt: skip
        assert "srcdoc" not in attrs
        assert "src" not in attrs


def test_nothing_is_of_another_host(parsed):
    addresses = [value for _, attrs, _ in parsed.elements for name, value in attrs.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    style, script = parsed.texts("style", "script")
    assert "url(" not in style
    assert "@import" not in style
    assert "//" not in script.replace("// ", "")


@pytest.mark.parametrize("framed", [True, False])
def test_the_policy_lets_the_own_script_run(framed):
    parsed = Parsed(Report(document("age", framed=framed)).html)
    (policy,) = [a["content"] for a, _ in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    digest = hashlib.sha256(parsed.texts("script")[0].encode()).digest()
    own = f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == ("'unsafe-inline'" if framed else own)
    assert "http" not in policy


# Parsers make one line break of \r\n, and drop what is no character; both are nobody's name.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(
    text=texts
    | st.sampled_from([HOSTILE, '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "{{ 1 }}", "' x='", "</main>"])
)
def test_texts_stay_texts(text):
    expected = Parsed(Report(document("age")).html)
    parsed = Parsed(Report(document(text)).html)
    assert [tag for tag, _, _ in parsed.elements] == [tag for tag, _, _ in expected.elements]
    assert [list(attrs) for _, attrs, _ in parsed.elements] == [list(attrs) for _, attrs, _ in expected.elements]
    assert parsed.texts("title") == [text]
    assert set(parsed.texts("h1", "h2", "h3", "h4", "dt", "dd", "figcaption", "summary", "code")) == {text, "Contents"}
    assert {attrs["alt"] for attrs, _ in parsed.all("img")} == {text}
    assert parsed.texts("th")[:2] == [text, text]
    assert parsed.texts("td")[0] == text
    paragraphs = [found for attrs, found in parsed.all("p") if not attrs]
    assert set(paragraphs) == {text}


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(tmp_path):
    Report(document("sub-\udcff01")).save_as_html(tmp_path / "report.html")
    assert "<h1>sub-?01</h1>" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""), (np.float32(0.5), "0.5"), (np.int64(27190), "27,190"), (np.nan, "n/a"), (-np.inf, "-inf"),
        (True, "True"), (np.bool_(False), "False"), (1e-300, "1e-300"), (-123456.7, "-123,457"), (1e20, "1e+20"),
        ("1.50", "1.50"),
    ],
)  # fmt: skip
def test_cells(value, shown):
    assert cell_text(value) == shown


def test_sizes_of_pictures():
    assert size_of(png(31, 17)) == (31, 17)
    assert size_of(SVG) is None


def test_a_page_is_little_more_than_its_pictures():
    figures = [Figure(np.random.default_rng(0).bytes(100_000), "Noise") for _ in range(20)]
    size = len(Report(Document("Noise", [], [Section("Noise", figures)])).html)
    assert size < 20 * 100_000 * 4 / 3 + 30_000


def test_a_page_is_written_whole_or_refused(tmp_path):
    report = Report(document(HOSTILE))
    report.save_as_html(tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text("utf-8") == report.html
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write the page .*choose another place"):
        report.save_as_html(tmp_path / "file" / "report.html")


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    report = Report(document(HOSTILE))
    ((attrs, _),) = Parsed(report.get_iframe(width='5" onload="x', height=300)).all("iframe")
    assert attrs["srcdoc"] == report.html
    assert (attrs["sandbox"], attrs["width"], attrs["height"]) == ("allow-scripts", '5" onload="x', "300")
    assert "onload" not in attrs
    assert report._repr_html_() == report.get_iframe()


def test_a_browser_is_given_a_file_that_only_its_owner_reads(monkeypatch, tmp_path):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    report = Report(document("age"))
    path = Path(report.open_in_browser())
    assert Path(unquote(urlsplit(opened[0]).path)) == path
    assert path.read_text("utf-8") == report.html
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_without_jinja_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    page._templates.cache_clear()
    with pytest.raises(MissingDependencyError, match=r'pip install "daskglm\[report\]"'):
        Report(document("age"))
