"""The built book in a real browser: offline, WCAG 2.2 AA, no sideways scroll on a phone, search."""

import http.server
import io
import os
import re
import shutil
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image

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
const late = (kind) => (seen[kind] = (seen[kind] || 0) + 1) > 2;
for (const e of document.querySelectorAll('mjx-container')) {
  if (late('formula in ' + e.parentElement.tagName + e.parentElement.className)) e.replaceChildren();
}
for (const e of document.querySelectorAll('.highlight pre span[class]')) {
  if (late('code ' + e.className)) e.replaceWith(e.textContent);
}
for (const e of document.querySelectorAll('tbody tr')) {
  if (late('row of ' + e.closest('table').className)) e.remove();
}
for (const e of document.querySelectorAll('.kexue-verdict, .kexue-mark, .copybtn, .math > .eqno')) {
  if (late(e.className)) e.remove();
}
for (const e of document.querySelectorAll('.bd-article section > p, .bd-article section > ul')) {
  const within = [...e.querySelectorAll('*')].map((one) => one.tagName + one.className);
  if (late('text ' + within.sort())) e.remove();
}
for (const e of document.querySelectorAll('.kexue-figure svg')) {
  if (late('drawing')) e.replaceChildren(...e.querySelectorAll(':scope > title, :scope > desc'));
}
// A colour that is still on its way to the other theme is nobody's colour.
document.head.append(Object.assign(
  document.createElement('style'), { textContent: '* { transition: none !important }' }));
"""

# Equations that have to be scrolled on a desk, where one may not see that they go on.
SCROLLED = """
[...document.querySelectorAll('[id^=equation-] > mjx-container')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.parentElement.id)
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


# Before a page is printed all its formulas are drawn at once, and what is closed is opened till then.
PRINT = "dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))"


def visit(browser, site, page, mode="light", width=1200, height=900, formulas=True, hurry=False):
    """Open a page and return it with the addresses it asked for elsewhere and the errors it logged.

    Without formulas a page is there in a second and not in ten; in a hurry they are not drawn in turns.
    """
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.add_init_script(f"localStorage.setItem('mode','{mode}');localStorage.setItem('theme','{mode}')")
    foreign, errors = [], []
    if not formulas:
        tab.route("**/mathjax/**", lambda route: route.abort())
    tab.on("request", lambda r: foreign.append(r.url) if not r.url.startswith((site, "data:")) else None)
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.goto(site + page)
    tab.wait_for_load_state("networkidle")
    if formulas:
        tab.evaluate(PRINT if hurry else "")
        tab.evaluate("window.MathJax?.startup.promise.then(() => true)")
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
    tab, foreign, errors = visit(browser, site, page, width=390, hurry=page != "book/sector.html")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.set_viewport_size({"width": 1280, "height": 900})
    assert tab.evaluate(SCROLLED) == []
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


# A pause of formulas.js (it names no time) lasts until turn() is called; go() ends all of them.
TURNS = """
const later = setTimeout;
const waiting = [];
window.setTimeout = (done, time, ...more) =>
  time === undefined ? waiting.push(done) : later(done, time, ...more);
window.drawn = () => document.querySelectorAll('mjx-container').length;
window.turn = () => { if (!drawn()) waiting.splice(0).forEach((one) => one()); return drawn(); };
window.go = () => { window.setTimeout = later; waiting.splice(0).forEach((one) => one()); };
"""


def test_formulas_are_drawn_in_turns_before_printing_at_once_and_with_mathml_for_screen_readers(
    browser, site
):
    tab = browser.new_page()
    tab.add_init_script(TURNS)
    tab.goto(site + "book/sector.html")
    tab.wait_for_function("() => turn() > 0")
    few, formulas = tab.evaluate(f"() => {{ const few = drawn(); {PRINT}; return [few, drawn()]; }}")
    assert 0 < few < formulas
    tab.evaluate("() => { go(); return MathJax.startup.promise.then(() => true); }")
    assert tab.locator("mjx-container").count() == formulas > 50
    assert tab.locator("mjx-container mjx-assistive-mml math").count() == formulas
    tab.close()


# -- pages as they are looked at, enlarged and walked through by keyboard ------------------------


def some(first, *others):
    """Return parameters: a page for always, and others for the weekly run."""
    several = [one if isinstance(one, tuple) else (one,) for one in others]
    return [first, *(pytest.param(*one, marks=pytest.mark.weekly) for one in several)]


# What is cut off: parts of a page that reach over its edge, but for what lies in something that scrolls.
OUTSIDE = """
() => {
  const scrolls = (one) =>
    one !== document.body && one !== document.documentElement &&
    (/auto|scroll|hidden/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
  return [...document.querySelectorAll('.bd-article *, .bd-header-article *, .bd-footer-content *')]
    .filter((one) => !one.closest('mjx-container, svg *, .highlight pre'))
    .map((one) => [one, one.getBoundingClientRect()])
    .filter(([one, box]) => box.width > 1 && box.height > 1 && (box.left < -1 || box.right > innerWidth + 1))
    .filter(([one]) => one.checkVisibility({ visibilityProperty: true }) && !scrolls(one.parentElement))
    .map(([one]) => one.outerHTML.slice(0, 90));
}
"""
# The blocks of a section stand one below the other.
OVERLAP = """
() => [...document.querySelectorAll('.bd-article section')].flatMap((section) => {
  const blocks = [...section.children].filter((one) => one.checkVisibility() && one.offsetHeight > 1);
  const boxes = blocks.map((one) => one.getBoundingClientRect());
  // A verdict's mark is drawn into the space below its formula.
  return blocks.slice(1)
    .filter((one, i) => boxes[i + 1].top < boxes[i].bottom - 16)
    .map((one) => one.outerHTML.slice(0, 90));
})
"""
UNDER_THE_HEADER = """
name => {
  location.hash = '';
  location.hash = name;
  const title = document.getElementById(name).querySelector('h2, h3');
  const header = document.querySelector('.bd-header-article');
  return title.getBoundingClientRect().top - header.getBoundingClientRect().bottom;
}
"""


@pytest.mark.parametrize(
    "page", some("book/hubness.html", "book/sde.html", "book/claims.html", "book/intro.html")
)
def test_a_page_enlarged_to_twice_its_size_loses_nothing(browser, site, page):
    """At 200 % a window of 1280 x 1024 is one of 640 x 512 (WCAG 1.4.4)."""
    tab, _, errors = visit(browser, site, page, width=640, height=512, formulas=False)
    tab.emulate_media(reduced_motion="reduce")  # jumps are at once
    assert tab.evaluate("document.documentElement.scrollWidth") <= 640
    assert tab.evaluate(OUTSIDE) == []
    assert tab.evaluate(OVERLAP) == []
    sections = tab.eval_on_selector_all(
        ".bd-article section section:has(> h2, > h3)", "all => all.map(one => one.id)"
    )
    assert len(sections) > 3
    for name in sections[:: max(len(sections) // 3, 1)]:
        assert 0 <= tab.evaluate(UNDER_THE_HEADER, name) < 300, name
    menu = tab.locator("#pst-primary-sidebar-modal")
    assert not menu.is_visible()
    tab.locator(".primary-toggle").click()
    assert menu.get_by_role("link", name="Notation").is_visible()
    tab.keyboard.press("Escape")
    assert not menu.is_visible()
    assert errors == []
    tab.close()


MOVES = """
() => {
  const unit = (one) => (/ms/.test(one) ? 1e-3 : 1);
  const seconds = (text) => Math.max(...text.split(',').map((one) => parseFloat(one) * unit(one)));
  const kinds = {};
  for (const one of document.querySelectorAll('*'))
    kinds[[one.closest('article') !== null, one.tagName, one.className]] ??= one;
  return Object.values(kinds).flatMap((one) => [null, '::before', '::after'].flatMap((part) => {
    const style = getComputedStyle(one, part);
    const still = seconds(style.transitionDuration) < 0.011 && style.scrollBehavior !== 'smooth' &&
      (style.animationName === 'none' || seconds(style.animationDuration) < 0.011);
    return still ? [] : [one.outerHTML.slice(0, 60) + (part || '')];
  }));
}
"""


@pytest.mark.parametrize("page", some("book/hubness.html", "book/claims.html", "search.html"))
def test_nothing_moves_for_who_wants_no_motion(browser, site, page):
    tab, _, _ = visit(browser, site, page, formulas=False)
    assert tab.evaluate(MOVES) != []  # the theme's
    tab.emulate_media(reduced_motion="reduce")
    assert tab.evaluate(MOVES) == []
    for summary in tab.locator("details.hide > summary").all()[:1]:
        summary.click()
    assert tab.evaluate("document.getAnimations().filter(one => one.effect.getTiming().duration > 11)") == []
    tab.close()


# Where the keyboard is: whether a ring around it can be told from what is behind, whether it is in sight.
STOP = """
() => {
  let here = document.activeElement;
  if (here === document.body) return null;
  const what = here.outerHTML.slice(0, 120);
  if (here.offsetHeight === 0 && here.firstElementChild) here = here.firstElementChild; // has no box
  const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).slice(0, 3).map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  let behind = here.parentElement;
  const paper = (one) => getComputedStyle(one).backgroundColor;
  while (behind.parentElement && numbers(paper(behind))[3] === 0) behind = behind.parentElement;
  const style = getComputedStyle(here);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1
    ? style.outlineColor : style.boxShadow.match(/rgba?\\([^)]*\\)/)?.[0];
  const ratio = ring && numbers(ring)[3] !== 0 ? light(ring) / light(paper(behind)) : 1;
  const box = [...here.getClientRects()].find((one) => one.width > 0) ?? here.getBoundingClientRect();
  const [x, y] = [box.x + Math.min(box.width, innerWidth) / 2, box.y + Math.min(box.height, 40) / 2];
  const top = document.elementFromPoint(x, y);
  return {
    what,
    area: here.closest('.skip-link, .bd-sidebar, .bd-header-article, article, footer')?.className ?? '',
    ring: style.outlineStyle === 'auto' || Math.max(ratio, 1 / ratio) >= 3,
    seen: Boolean(top && (here.contains(top) || top.contains(here))),
  };
}
"""


def walk(tab, most):
    """Press Tab up to `most` times and return where that led; None is out of the page."""
    stops = []
    for _ in range(most):
        tab.keyboard.press("Tab")
        stops.append(tab.evaluate(STOP))
        if stops[-1] is None:
            break
    return stops


@pytest.mark.parametrize("mode", ["light", pytest.param("dark", marks=pytest.mark.weekly)])
def test_a_chapter_is_walked_through_by_keyboard(browser, site, mode):
    tab, _, _ = visit(browser, site, "book/hubness.html", mode, width=1280, formulas=False)
    tab.emulate_media(reduced_motion="reduce")
    tab.add_style_tag(content="* { transition: none !important }")
    stops = walk(tab, 60)
    areas = [stop["area"].split()[0] for stop in stops]
    assert list(dict.fromkeys(areas)) == [
        "skip-link",
        "bd-sidebar-primary",
        "bd-header-article",
        "bd-article",
    ]
    assert areas.count("bd-article") > 10
    # Hidden code and the solution of an exercise open and close.
    for before, is_open in {
        "details.hide > summary": "one => one.parentElement.open",
        ".solution .toggle-button": "one => !one.closest('.solution').classList.contains('toggle-hidden')",
    }.items():
        control = tab.locator(before).first
        control.focus()
        tab.keyboard.press("Shift+Tab")
        stops += walk(tab, 1)
        assert control.evaluate("one => one === document.activeElement")
        states = [control.evaluate(is_open)]
        for key in ("Enter", "Space"):
            tab.keyboard.press(key)
            states.append(control.evaluate(is_open))
        assert states == [False, True, False], before
    tab.locator(".prev-next-footer a").first.focus()
    stops += walk(tab, 60)
    assert stops.pop() is None  # and so out of the page
    assert [stop["what"] for stop in stops if not stop["ring"]] == []
    assert [stop["what"] for stop in stops if not stop["seen"]] == []
    tab.keyboard.press("Control+k")
    assert tab.evaluate("document.activeElement.name") == "q"
    tab.keyboard.press("Escape")
    assert not tab.locator("#pst-search-dialog").is_visible()
    tab.close()


def pixels(tab, **options):
    """Return a screenshot as an array of rows, columns and colours."""
    return np.asarray(Image.open(io.BytesIO(tab.screenshot(**options))).convert("RGB")).astype(int)


LOOKS = [(1280, "light"), (390, "dark"), (1280, "dark"), (390, "light")]


@pytest.mark.parametrize(
    ("page", "looks"),
    some(
        ("book/hubness.html", LOOKS[:2]),
        ("book/hubness.html", LOOKS[2:]),
        ("book/intro.html", LOOKS),
        ("book/claims.html", LOOKS),
    ),
)
def test_a_page_looks_as_a_page_should(browser, site, page, looks):
    """No comparison with a picture of last time, which every new font would fail: what no page may lack."""
    tab, _, _ = visit(browser, site, page, width=1280, formulas=False)
    tab.add_style_tag(content="* { transition: none !important; scroll-behavior: auto !important }")
    assert (
        tab.evaluate(
            "document.fonts.ready.then(all => [...all].filter(one => one.status === 'error').length)"
        )
        == 0
    )
    for width, mode in looks:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.evaluate("mode => { document.documentElement.dataset.theme = mode }", mode)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(OUTSIDE) == []
        assert tab.evaluate(OVERLAP) == []
        paper = re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        paper = np.array(paper[:3], int)
        assert (min(paper) > 200) == (mode == "light")
        for part in (0, 0.5):
            tab.evaluate("part => scrollTo(0, part * document.body.scrollHeight)", part)
            box = tab.locator(".bd-article").bounding_box()
            left, right = max(int(box["x"]), 0), min(int(box["x"] + box["width"]), width)
            seen = np.abs(pixels(tab)[80:, left:right] - paper).max(2)
            where = (width, mode, part)
            assert np.mean(seen < 60) > 0.4, where  # the theme's paper, or that of its boxes
            bands = [np.mean(band > 110) for band in np.array_split(seen, 3)]
            assert max(bands) < 0.5, where
            assert sum(band > 0.004 for band in bands) >= 2, where  # text
        for figure in tab.locator(".bd-article :is(.kexue-figure, img)").all()[:1]:
            figure.scroll_into_view_if_needed()
            shot = pixels(tab, clip=figure.bounding_box()).reshape(-1, 3)
            assert len(np.unique(shot // 32, axis=0)) > 3, (width, mode)
    tab.close()
