"""What every page of ours is checked for in a real browser: chromium, driven by playwright, judged by axe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

THEMES = ("light", "dark")
PHONE, DESK = 375, 1280
_LOCAL = ("file:", "data:", "about:", "blob:")

_PICTURES = """async () => {
  const found = [];
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => null);
    if (!image.naturalWidth) found.push("a picture without pixels: " + image.alt);
    if (!image.alt.trim()) found.push("a picture without alt text: " + image.outerHTML.slice(0, 80));
  }
  return found;
}"""
_HEADINGS = "() => [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((heading) => Number(heading.tagName[1]))"
_TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("body *")].filter(
    (element) => element.getBoundingClientRect().right > width && !element.parentElement.closest(".wide"));
  return wide.slice(0, 3).map((element) => element.outerHTML.slice(0, 120));
}"""


@contextmanager
def open_page(path: Path, width: int = DESK, theme: str = "light", **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page in a browser, and a list that what goes wrong is added to: errors, requests, dialogs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium here: apt-get install chromium")
    faults: list[str] = []

    def dismiss(dialog: Any) -> None:
        faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def note(message: Any) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"console {message.type}: {message.text}")

    def ask(request: Any) -> None:
        if not request.url.startswith(_LOCAL):
            faults.append(f"a request: {request.url[:200]}")

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            view = {"width": width, "height": 800}
            page = browser.new_page(viewport=view, color_scheme=theme, reduced_motion="reduce", **options)
            page.on("console", note)
            page.on("pageerror", lambda error: faults.append(f"an error: {error}"))
            page.on("dialog", dismiss)
            page.on("request", ask)
            page.goto(path.resolve().as_uri())
            yield page, faults
        finally:
            browser.close()


def check_page(path: Path) -> None:
    """Hold a page to all of it, in both themes, on a phone and on a desk: raises with everything that is wrong."""
    problems: list[str] = []
    for theme in THEMES:
        with open_page(path, theme=theme) as (page, faults):
            problems += [f"{theme}: {fault}" for fault in _problems(page)]
            problems += [f"{theme}: {fault}" for fault in faults]
    assert not problems, "\n".join(problems)


def screenshot(path: Path, picture: Path, width: int = DESK, theme: str = "light", *, whole: bool = True) -> None:
    """Take a picture of a page, from its top or whole."""
    with open_page(path, width, theme) as (page, _):
        page.evaluate(_PICTURES)
        page.screenshot(path=str(picture), full_page=whole)


def _problems(page: Any) -> list[str]:
    """What is wrong with the page that is open."""
    page.keyboard.press("Tab")
    first = page.evaluate("() => document.activeElement.outerHTML")
    found = [] if 'class="skip"' in first else [f"Tab reaches {first[:80]} before the skip link"]
    levels = page.evaluate(_HEADINGS)
    if levels.count(1) != 1 or levels[0] != 1:
        found.append(f"one h1 comes first, but the headings are of levels {levels}")
    found += [f"a heading of level {b} follows one of {a}" for a, b in pairwise(levels) if b > a + 1]
    found += page.evaluate(_PICTURES)
    for width in (DESK, PHONE):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        for frame in page.query_selector_all("iframe"):
            frame.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        found += [f"{width} px: wider than the window: {element}" for element in page.evaluate(_TOO_WIDE)]
        found += [f"{width} px: {finding}" for finding in _accessibility(page)]
    return found


def _accessibility(page: Any) -> list[str]:
    """Serious and critical findings of axe; what is within the frames of viewers is theirs."""
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed").Axe()
    page.evaluate(axe.axe_script)
    findings = page.evaluate("() => axe.run(document, { iframes: false })")["violations"]
    return [
        f"axe {finding['id']} ({finding['impact']}): {node['html'][:150]} {node['failureSummary'][:300]}"
        for finding in findings
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"][:3]
    ]
