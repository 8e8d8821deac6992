"""The pages in a real browser, opened from a file: no errors, nothing cut off, everything within reach of a keyboard.

Needs playwright (the extra ``browser``) and a Chromium of the system, on the path or named by CLEAR_DIST_BROWSER.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_farm import ROWS, Known, make_farm
from synthetic_run import NAMES, make_run
from synthetic_runs import Method, make_runs

from clear_dist.report.build import report, report_runs

playwright: Any = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")

pytestmark = pytest.mark.browser
Browser = Page = Any  # playwright's, which is not there where types are checked
CANDIDATES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 768, 1280)
HARD = "<script>alert(1)</script> \u202eevil " + "Llanfairpwllgwyngyll" * 6
METHODS = (Method("npo", 0.0, 1.0), Method("ga", 0.0, 0.05), Method("retain_ft", 0.9, 1.0, folder="retain_ft" * 9))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    named = os.environ.get("CLEAR_DIST_BROWSER")
    found = named or next((path for name in CANDIDATES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: one of {', '.join(CANDIDATES)}, or CLEAR_DIST_BROWSER")
    with playwright.sync_playwright() as tools:
        # Containers run as root, where Chromium's sandbox cannot start; the pages are our own.
        browser = tools.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run, its people's names hard to show; several runs; and an attack on a farm with names as hard."""
    root = tmp_path_factory.mktemp("pages")
    single = make_run(root / "single", names=(HARD, *NAMES[1:]))
    several = make_runs(root / "several", METHODS)
    farm = make_farm(root / "farm", (*ROWS, Known(HARD, 1.0, 0.5, 0.9)), people=(HARD, *NAMES))
    return {
        "single": report(single)[0],
        "several": report_runs(several, root / "several" / "page")[0],
        "farm": report(farm)[0],
    }


def _open(browser: Browser, path: Path, width: int, scheme: str = "light", **more: Any) -> tuple[Page, list[str]]:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light", **more
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize("which", ["single", "several", "farm"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_and_every_picture_is_there(
    browser: Browser, pages: dict[str, Path], which: str, width: int
) -> None:
    page, said = _open(browser, pages[which], width)
    for opened in (False, True):
        if opened:
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), opened
    images = page.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth, i.naturalHeight])")
    assert len(images) >= 4
    assert all(alt and wide > 0 and high > 0 for alt, wide, high in images)
    outside = page.evaluate(
        """[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, pre, .sr, .track')
            && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    assert said == [], "the console is silent: no error, nothing that the page's policy refused"
    page.context.close()


CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { const layers = []; for (let at = e; at; at = at.parentElement)
    layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]); };
  const poor = new Map(); let seen = 0;
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.sr, script, .skip')) continue;
    const style = getComputedStyle(e), back = ground(e), front = over(parse(style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    seen += 1;
    if (ratio < 4.5) poor.set(e.tagName + '.' + e.className, ratio.toFixed(2));
  }
  return [seen, [...poor]];
}"""


@pytest.mark.parametrize("which", ["single", "several", "farm"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(browser: Browser, pages: dict[str, Path], which: str, scheme: str) -> None:
    page, said = _open(browser, pages[which], 1280, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    seen, poor = page.evaluate(CONTRAST)
    assert seen > 200 and poor == [] and said == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == (scheme == "dark")
    shown = page.evaluate("document.querySelector('figure img').currentSrc.slice(0, 30)")
    assert shown.startswith("data:image/png")
    dark, light = (
        page.evaluate(f"document.querySelector('figure {e}').{a}") for e, a in (("source", "srcset"), ("img", "src"))
    )
    assert page.evaluate("document.querySelector('figure img').currentSrc") == (dark if scheme == "dark" else light)
    page.context.close()


def test_latex_is_copied(browser: Browser, pages: dict[str, Path]) -> None:
    page, said = _open(browser, pages["several"], 1280, permissions=["clipboard-read", "clipboard-write"])
    box = page.locator("details.latex").first
    box.locator("summary").click()
    box.locator("button.copy").click()
    page.wait_for_function("document.getElementById('said').textContent !== ''")
    source = box.locator("code").text_content() or ""
    assert source.startswith("\\begin{table}") and r"\bottomrule" in source
    assert page.evaluate("navigator.clipboard.readText()") == source
    assert (page.locator("#said").text_content() or "").startswith("Copied: Text and pictures")
    assert page.locator("#said").get_attribute("aria-live") == "polite" and said == []
    page.context.close()


def test_where_the_clipboard_is_refused_the_source_is_selected_and_that_is_said(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page, _ = _open(browser, pages["several"], 1280)
    page.evaluate(
        "navigator.clipboard.writeText = () => Promise.reject(new Error('no')); document.execCommand = () => false"
    )
    box = page.locator("details.latex").first
    box.locator("summary").click()
    box.locator("button.copy").click()
    page.wait_for_function("document.getElementById('said').textContent !== ''")
    assert page.evaluate("getSelection().toString()").startswith("\\begin{table}")
    assert "Selected" in (box.locator("button.copy").text_content() or "")
    page.context.close()


def test_without_scripts_the_source_is_there_and_no_dead_button(browser: Browser, pages: dict[str, Path]) -> None:
    page, _ = _open(browser, pages["single"], 768, java_script_enabled=False)
    box = page.locator("details.latex").first
    box.locator("summary").click()
    assert not box.locator("button.copy").is_visible()
    assert box.locator("code").is_visible() and (box.locator("code").text_content() or "").startswith("\\begin{table}")
    page.context.close()


@pytest.mark.parametrize("which", ["single", "several", "farm"])
def test_the_keyboard_reaches_everything(browser: Browser, pages: dict[str, Path], which: str) -> None:
    page, _ = _open(browser, pages[which], 360)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0"), "seen once it has the focus"
    wanted = page.evaluate("[document.querySelectorAll('.scroll').length, document.querySelectorAll('summary').length]")
    reached: dict[str, int] = {}
    outlines = set()
    for _ in range(600):
        page.keyboard.press("Tab")
        name, outline, tag = page.evaluate(
            "(e => [e.className, getComputedStyle(e).outlineStyle, e.tagName])(document.activeElement)"
        )
        if tag == "BODY":
            break
        key = "scroll" if name == "scroll" else tag
        reached[key] = reached.get(key, 0) + 1
        outlines.add(outline)
    hidden = page.evaluate(
        "[...document.querySelectorAll('.scroll, summary')].filter(e => !e.checkVisibility()).length"
    )
    assert reached["scroll"] + reached["SUMMARY"] == sum(wanted) - hidden
    assert "none" not in outlines, "the focus is always seen"
    page.context.close()


@pytest.mark.parametrize("which", ["single", "farm"])
def test_hostile_names_stay_text(browser: Browser, pages: dict[str, Path], which: str) -> None:
    page, said = _open(browser, pages[which], 360)
    assert page.evaluate("document.scripts.length") == 1 and said == []
    assert "<script>alert(1)</script>" in page.inner_text("main")
    page.context.close()


def test_a_printed_page_shows_whole_tables(browser: Browser, pages: dict[str, Path]) -> None:
    page, _ = _open(browser, pages["single"], 1280)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert not page.locator("nav.contents").is_visible() and not page.locator("details.latex").first.is_visible()
    page.context.close()
