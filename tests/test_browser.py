"""The built book in a real browser: offline, WCAG 2.2 AA, no sideways scroll on a phone, search."""

import http.server
import os
import shutil
import threading
from functools import partial

import pytest

from kexue_lib.notebooks import book_root

HTML = book_root() / "_build" / "html"
PAGES = sorted(p.relative_to(HTML).as_posix() for p in (HTML / "book").rglob("*.html"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RULES = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}},  # all else is as in light
}
# A chapter has some ten thousand small elements in formulas and coloured code, of few kinds, and the ledger
# hundreds of rows: after the first few of each kind only the outside is looked at, or axe takes a minute.
THIN = """
const seen = {};
const late = (kind) => (seen[kind] = (seen[kind] || 0) + 1) > 4;
for (const e of document.querySelectorAll('mjx-container')) {
  if (late('formula in ' + e.parentElement.tagName + e.parentElement.className)) e.replaceChildren();
}
for (const e of document.querySelectorAll('.highlight pre span[class]')) {
  if (late('code ' + e.className)) e.replaceWith(e.textContent);
}
for (const e of document.querySelectorAll('tbody tr')) {
  if (late('row of ' + e.closest('table').className)) e.remove();
}
for (const e of document.querySelectorAll('.kexue-figure svg')) {
  if (late('drawing')) e.replaceChildren(...e.querySelectorAll(':scope > title, :scope > desc'));
}
// A colour that is still on its way to the other theme is nobody's colour.
document.head.append(Object.assign(
  document.createElement('style'), { textContent: '* { transition: none !important }' }));
"""

pytestmark = pytest.mark.browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "google-chrome", "chromium-browser")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip("no browser: install chromium to run these tests")
    assert program, "CI must have a browser"
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def visit(browser, site, page, mode="light", width=1200, formulas=True):
    """Open a page and return it with the addresses it asked for elsewhere and the errors it logged.

    Without formulas a page is there in a second and not in ten.
    """
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.add_init_script(f"localStorage.setItem('mode','{mode}');localStorage.setItem('theme','{mode}')")
    foreign, errors = [], []
    if not formulas:
        tab.route("**/mathjax/**", lambda route: route.abort())
    tab.on("request", lambda r: foreign.append(r.url) if not r.url.startswith((site, "data:")) else None)
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.goto(site + page)
    tab.wait_for_load_state("networkidle")
    return tab, foreign, errors


def test_there_are_pages():
    assert "book/hubness.html" in PAGES


# The library's pages are made alike: one of them is looked at always, the others weekly.
ALIKE = [
    page for page in PAGES if page.startswith("book/api/") and page != "book/api/length_extrapolation.html"
]
VISITS = [pytest.param(page, marks=[pytest.mark.weekly] if page in ALIKE else []) for page in PAGES]


@pytest.mark.parametrize("page", VISITS)
def test_a_page_on_a_phone_and_on_a_desk_by_day_and_by_night(browser, site, page):
    """Nothing asked for elsewhere, no sideways scroll, accessible; in one visit, as formulas take long."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab, foreign, errors = visit(browser, site, page, width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.set_viewport_size({"width": 1200, "height": 900})
    tab.evaluate(THIN)
    papers = set()
    for mode, rules in RULES.items():
        tab.evaluate("mode => { document.documentElement.dataset.theme = mode }", mode)
        papers.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        found = axe.run(tab, options=rules).response["violations"]
        assert [(mode, v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
    assert len(papers) == 2  # the theme did change
    assert foreign == []
    assert errors == []
    tab.close()


def test_search_finds_the_chapter(browser, site):
    tab, _, _ = visit(browser, site, "search.html?q=hubness")
    tab.wait_for_selector("#search-results li")
    assert "book/hubness" in tab.inner_html("#search-results")
    tab.close()


def test_the_slider_of_the_chapter_moves_by_keyboard(browser, site):
    tab, _, _ = visit(browser, site, "book/hubness.html", formulas=False)
    slider = tab.locator(".kexue-slider input[type=range]").first
    slider.focus()
    before = slider.get_attribute("aria-valuetext")
    tab.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != before
    tab.close()


def test_the_ledger_is_filtered_by_chapter_status_way_and_words(browser, site):
    tab, _, errors = visit(browser, site, "book/claims.html?status=supported&chapter=sde", formulas=False)
    shown = tab.locator("table.kexue-claims tbody tr:visible")
    assert shown.count() > 5
    assert shown.count() == tab.locator(".kexue-chapter.sde tbody tr.supported").count()
    form = tab.locator("form.kexue-filter")
    all_of_them = tab.locator("table.kexue-claims tbody tr").count()
    assert form.locator("output").inner_text() == f"{shown.count()} of {all_of_them} checks"
    form.get_by_label("Words").fill("no such words")
    assert shown.count() == 0
    assert "words=no+such+words" in tab.url
    for name in ("chapter", "status"):
        form.locator(f"[name={name}]").select_option("")
    form.get_by_label("Words").fill("")
    form.get_by_label("Decided by").select_option("rate")
    assert 0 < shown.count() < all_of_them
    assert tab.url.endswith("claims.html?way=rate")
    assert errors == []
    tab.close()


def test_a_screen_reader_finds_the_formulas_as_mathml(browser, site):
    tab, _, _ = visit(browser, site, "book/sector.html")
    tab.wait_for_selector("mjx-container")
    formulas = tab.locator("mjx-container")
    assert formulas.count() > 50
    assert tab.locator("mjx-container mjx-assistive-mml math").count() == formulas.count()
    tab.close()
