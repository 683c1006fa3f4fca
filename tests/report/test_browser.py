"""Pages in a real browser: what they show, what they ask for, and how they are read without a mouse or eyes."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import DESK, PHONE, check_page, open_page, screenshot
from matplotlib.image import imread, imsave

from daskglm.report.document import Code, Document, Figure, Frame, Section, Table, Text
from daskglm.report.page import Report
from daskglm.report.study import study_report

HOSTILE = "<script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="300"><text y="30">words</text></svg>'


def picture() -> bytes:
    file = io.BytesIO()
    imsave(file, np.random.default_rng(0).random((400, 1600)), format="png")
    return file.getvalue()


def document(text: str, viewer: str) -> Document:
    """A document with a text at every place that takes one, a wide table and a viewer."""
    header = (text, *(f"{text} {column}" for column in range(12)))
    rows = [(text, text, *range(11)), *(("row", *np.arange(12) * 1234.5) for _ in range(4))]
    blocks = [
        Text(text),
        Text("Tested without correction.", "note"),
        Text("3 images are left out.", "warning"),
        Figure(picture(), text, text),
        Figure(SVG, "Words"),
        Table(text, header, rows),
        Table("Clusters", ("Cluster", "z"), []),
        Code("daskglm group cohort.zarr --formula '~ age' " + "x" * 200, text),
        Frame(viewer, text),
    ]
    below = Section("Below", [Text("n" * 500)], [Section(text, [Code(text)])])
    return Document(text, [(text, text), ("Images", "36")], [Section(text, blocks, [below]), Section("End")])


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    viewer = "<!doctype html><title>v</title><body><script>document.body.append('drawn')</script>"
    Report(document(HOSTILE, viewer)).save_as_html(path)
    return path


def test_a_report_is_sound_in_both_themes_on_a_phone_and_a_desk(report):
    check_page(report)


def test_hostile_names_show_as_text(report):
    with open_page(report) as (page, faults):
        assert page.title() == HOSTILE
        for place in ("h1", "h2", "h4", "nav a", "dt", "dd", "p", "figcaption", "caption", "thead th", "tbody th", "td",
                      "h4 ~ figure pre", "summary:not(#contents summary)"):  # fmt: skip
            assert HOSTILE in page.locator(f"{place} >> nth=0").inner_text(), place
        assert page.locator("img >> nth=0").get_attribute("alt") == HOSTILE
        assert page.locator("iframe").get_attribute("title") == HOSTILE
        page.locator(".viewer summary").click()
        page.wait_for_timeout(300)
        assert faults == []


def test_a_viewer_is_loaded_when_it_is_opened_and_not_before(report):
    with open_page(report) as (page, _):
        page.locator(".viewer").scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        assert page.frames[1].url == "about:blank"
        page.locator(".viewer summary").press("Enter")
        page.frame_locator(".viewer iframe").get_by_text("drawn").wait_for(timeout=5000)


def test_a_viewer_reaches_neither_a_network_nor_the_page(tmp_path):
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        viewer = f"""<!doctype html><img src="{host}/image"><link rel="stylesheet" href="{host}/style">
            <script src="{host}/script"></script><iframe src="{host}/frame"></iframe>
            <script>
            fetch("{host}/fetch").catch(() => null);
            try {{ parent.document.title = "taken"; }} catch {{ document.body.append("kept out"); }}
            setTimeout(() => {{ location = "{host}/location"; }}, 2000);
            </script>"""
        Report(document("age", viewer)).save_as_html(tmp_path / "report.html")
        with open_page(tmp_path / "report.html") as (page, faults):
            page.locator(".viewer summary").click()
            page.frame_locator(".viewer iframe").get_by_text("kept out").wait_for(timeout=5000)
            page.wait_for_timeout(3000)
            assert page.title() == "age"
            assert sum("Content Security Policy" in fault for fault in faults) >= 4
        server.shutdown()
    assert asked == []


def test_a_wide_table_scrolls_by_itself_and_by_keys(report):
    with open_page(report, PHONE) as (page, _):
        region = page.locator(".wide >> nth=0")
        region.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert region.evaluate("(region) => region.scrollLeft") > 0
        assert page.evaluate("() => scrollX") == 0


def test_the_table_of_contents_is_closed_on_a_phone_and_leads_to_sections(report):
    with open_page(report, PHONE) as (page, _):
        link = page.locator("nav a >> text=End")
        assert not link.is_visible()
        page.locator("nav summary").click()
        link.click()
        assert page.url.endswith("#s2")
    with open_page(report, DESK) as (page, _):
        assert page.locator("nav a >> text=End").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_that_of_the_reader_until_the_button_changes_it(report, theme):
    def is_dark() -> bool:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 128

    with open_page(report, theme=theme) as (page, _):
        assert is_dark() == (theme == "dark")
        page.locator("#theme").click()
        assert is_dark() == (theme == "light")
        # Pictures are drawn on white in either theme.
        assert page.evaluate("() => getComputedStyle(document.images[0]).backgroundColor") == "rgb(255, 255, 255)"


def test_a_notebook_is_left_as_it_is_and_links_stay_within_the_report(report, tmp_path):
    frame = Report(document("age", "<p>")).get_iframe()
    (tmp_path / "notebook.html").write_text(
        f"<!doctype html><title>n</title><h1 style='color: red'>Notebook</h1>{frame}"
    )
    with open_page(tmp_path / "notebook.html") as (page, faults):
        assert page.evaluate("() => getComputedStyle(document.body).marginLeft") == "8px"
        inner = page.frames[1]
        inner.locator("nav a >> text=End").click()
        page.wait_for_timeout(300)
        assert inner.evaluate("() => scrollY") > 500
        assert inner.locator("h1").inner_text() == "age"
        assert faults == []


def test_paper_has_neither_navigation_nor_dark(report):
    with open_page(report, theme="dark") as (page, _):
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert not page.locator("header").is_visible()
        assert page.locator("h1").is_visible()


def test_what_is_wrong_with_a_page_is_found(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><html lang='en'><title>bad</title><main><h1>a</h1><h3>b</h3><p style='color:#eee'>faint</p>"
        "<img src='data:,'><div style='width:900px'>wide</div><input></main>"
        "<script src='http://127.0.0.1:9/x.js'></script><script>alert(1)</script>"
    )
    with pytest.raises(AssertionError) as found:
        check_page(path)
    for fault in ("before the skip link", "level 3 follows one of 1", "without pixels", "without alt text",
                  "375 px: wider than the window", "axe color-contrast", "axe label", "a request: http://127.0.0.1:9/x.js",
                  "a dialog: 1", "light: ", "dark: "):  # fmt: skip
        assert fault in str(found.value), fault


def test_screenshots_are_of_the_width_asked_for(report, tmp_path):
    screenshot(report, tmp_path / "phone.png", PHONE, "dark")
    assert imread(tmp_path / "phone.png").shape[1] == PHONE


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study of 200 contrasts with pictures, in 50 folders with and without reports."""
    root = tmp_path_factory.mktemp("study")
    values = np.random.default_rng(0).standard_normal((40, 48, 40)).astype(np.float32)
    nib.Nifti1Image(values, np.diag([4, 4, 4, 1])).to_filename(root / "z.nii.gz")
    for k in range(50):
        folder = root / f"outcome-{k:02d}"
        folder.mkdir()
        names = [f"con{j}" for j in range(3)] + [HOSTILE]
        maps = [f"contrast-con{j}_stat-z_statmap.nii.gz" for j in range(3)]
        for name in maps:
            (folder / name).symlink_to(root / "z.nii.gz")
        rows = [f"{name}\t1\t2\t3\tt\t{(-1) ** j * (k + j / 10)}\t{k / 10}" for j, name in enumerate(names)]
        (folder / "peaks.tsv").write_text("\n".join(["contrast\tx\ty\tz\tstat_type\tstat\tz_score", *rows]))
        said = {"parameters": {"contrasts": dict.fromkeys(names)}, "samples": ["s"] * k, "files": ["peaks.tsv", *maps]}
        (folder / "provenance.json").write_text(json.dumps(said))
        if k % 2:
            (folder / "report.html").write_text("<!doctype html><title>a report</title>")
    path = root / "study.html"
    study_report([str(root / f"outcome-{k:02d}") for k in range(50)], str(path), f"Study {HOSTILE}")
    return path


def test_a_study_is_sound_in_both_themes_on_a_phone_and_a_desk(study):
    # Few rows: axe looks at every cell.
    few = study.with_name("few.html")
    check_page(Path(study_report([str(study.with_name(f"outcome-{k:02d}")) for k in range(4)], str(few), HOSTILE)))


def test_a_study_of_200_contrasts_opens_within_a_second(study):
    assert study.stat().st_size < 5_200_000
    times = []
    for _ in range(3):
        with open_page(study) as (page, _):
            assert page.locator("tbody tr").count() == 200
            assert page.locator("tbody img").count() == 150
            times.append(page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert 0 < min(times) < 1000


def test_a_study_is_sorted_and_searched(study):
    with open_page(study) as (page, faults):
        rows, button = page.locator("tbody tr"), page.locator("thead button >> text=Extreme")
        column = page.locator("thead th").all_inner_texts().index("Extreme")

        def extremes() -> list[float]:
            return [float(text) for text in page.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()]

        button.click()
        assert extremes() == sorted(extremes(), reverse=True)
        button.press("Enter")
        assert extremes() == sorted(extremes())
        assert page.locator("th[aria-sort=ascending]").inner_text() == "Extreme"
        page.fill("#filter", "OUTCOME-07 script")
        assert page.locator("output").inner_text() == "1 of 200"
        assert [row.inner_text().split("\t")[1] for row in rows.all() if row.is_visible()] == [HOSTILE]
        page.locator("tbody tr:visible a").click()
        assert page.title() == "a report"
        assert faults == []


def test_a_study_is_read_without_script(study):
    with open_page(study, java_script_enabled=False) as (page, _):
        assert page.locator("tbody tr").count() == 200
        assert not page.locator("#filter").is_visible()
        assert page.locator("tbody a").count() == 100
