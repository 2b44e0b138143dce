"""Figures: seen by everyone, the same bytes twice, light enough, and harmless to the page."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from kexue_lib.figures import COLOURS, LINES, MARKERS, image_grid, look, panels, show, slider, style

SENTENCE = "A line rises."
BACKGROUNDS = ("#ffffff", "#14181e", "#121212")
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def linear(colour):
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2: ratio of relative luminances."""
    dark, light = sorted(TO_XYZ[1] @ linear(colour) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@style()
def wave(n=3, points=200, height=3.4):
    fig, ax = panels(height=height)
    x = np.linspace(0, 6, points)
    ax.plot(x, np.sin(n * x / 4), **look("theory"), label=r"$\sin(nx/4)$")
    ax.set(ylim=(-1.1, 1.1), xlabel="$x$", ylabel="value")
    ax.legend(loc="upper right")
    return fig


def svg(fig, alt=SENTENCE):
    return show(fig, alt=alt)["image/svg+xml"]


def waves(count=5, **changes):
    return slider(wave, range(1, count + 1), **{"label": "frequency", "alt": SENTENCE, **changes})


class Elements(HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.all = []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def having(self, **wanted):
        return [a | {"tag": t} for t, a in self.all if wanted.items() <= (a | {"tag": t}).items()]


def references(markup):
    return set(re.findall(r'(?:href="|url\()#([\w-]+)', markup))


def ids(markup):
    return re.findall(r' id="([^"]+)"', markup)


# --- colours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("meaning", COLOURS)
def test_every_colour_has_contrast_three_on_light_and_dark(meaning, background):
    assert contrast(COLOURS[meaning], background) >= 3


@pytest.mark.parametrize("eye", EYES)
def test_series_stay_apart_for_every_eye(eye):
    series = [EYES[eye] @ linear(c) for meaning, c in COLOURS.items() if meaning != "muted"]
    gaps = [np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(series, 2)]
    assert min(gaps) > 20  # CIE 1976; 2.3 is just noticeable


def test_colour_is_never_the_only_cue():
    assert len(set(MARKERS.values())) == len(COLOURS)
    assert len({LINES[meaning] for meaning in list(COLOURS)[:5]} - {"--"}) == 4
    with style():
        cycle = matplotlib.rcParams["axes.prop_cycle"]
    assert len({looks["linestyle"] for looks in cycle}) == len(cycle) == 5
    with pytest.raises(ValueError, match="meaning = 'pink'"):
        look("pink")


def test_style_ignores_and_restores_what_the_reader_has_set():
    with matplotlib.rc_context({"font.size": 33.0}):
        with style():
            assert matplotlib.rcParams["font.size"] == 11
        assert matplotlib.rcParams["font.size"] == 33


# --- figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alt", ["", " ", ".", "No period", "x" * 300 + ".", None])
def test_a_figure_without_a_sentence_is_refused_and_closed(alt):
    with pytest.raises(ValueError, match="alt = "):
        show(wave(), alt=alt)
    assert not plt.get_fignums()


@style()
def clipped():
    """Clip by a circle: matplotlib names this path by an address in memory."""
    fig, ax = panels()
    picture = ax.imshow(np.arange(16).reshape(4, 4))
    picture.set_clip_path(plt.Circle((1.5, 1.5), 1.5, transform=ax.transData))
    return fig


@pytest.mark.parametrize("draw", [wave, clipped])
def test_same_figure_same_bytes(draw):
    assert show(draw(), alt=SENTENCE) == show(draw(), alt=SENTENCE)
    assert not plt.get_fignums()


def test_svg_belongs_into_a_page():
    markup = svg(wave(), alt='A <line> & "more".')
    root = Elements(markup).having(tag="svg")[0]
    assert (root["role"], root["aria-label"]) == ("img", 'A <line> & "more".')
    assert root["viewbox"] == "0 0 403.2 244.8"
    assert not re.search("<style|<metadata|<script|<!|<[?]|20[0-9]{2}-", markup)
    assert "#000000" not in markup
    assert "#ffffff" not in markup
    assert "currentColor" in markup
    assert "var(--kexue-paper,#fff)" in markup


def test_ids_never_clash_and_all_lead_somewhere():
    one, two = svg(wave(1)), svg(wave(2))
    assert not set(ids(one)) & set(ids(two))
    for markup in (one, two, svg(clipped()), waves()["text/html"]):
        assert len(ids(markup)) == len(set(ids(markup)))
        assert references(markup) <= set(ids(markup))
        assert references(markup)


def test_many_points_become_a_transparent_raster():
    fig, ax = panels()
    ax.scatter(*np.random.default_rng(0).normal(size=(2, 5000)), color=COLOURS["other"])
    markup = svg(fig)
    assert "<image" in markup
    assert len(markup) < 150_000


def test_a_heavy_figure_is_refused():
    fig, ax = panels()
    ax.plot(*np.random.default_rng(0).normal(size=(2, 50_000)))
    with pytest.raises(ValueError, match="expected at most 600000"):
        show(fig, alt=SENTENCE)


def test_image_grid_shows_each_image_on_one_scale():
    images = np.arange(10 * 64).reshape(10, 8, 8)
    fig = image_grid(images, [str(k) for k in range(10)], cols=4)
    shown = [ax.images[0] for ax in fig.axes if ax.images]
    assert len(shown) == 10
    assert {image.get_clim() for image in shown} == {(0, 639)}
    assert svg(fig).count("<image") == 10
    with pytest.raises(ValueError, match="10 titles"):
        image_grid(images, ["one"])


def test_image_grid_puts_colours_on_one_scale():
    images = np.arange(-12, 12).reshape(2, 2, 2, 3)
    shown = [ax.images[0].get_array() for ax in image_grid(images).axes]
    assert np.allclose(np.array(shown), (images + 12) / 23)
    assert image_grid(np.ones((1, 2, 2, 3))).axes[0].images[0].get_array().max() == 0


# --- slider -------------------------------------------------------------------------------------


def test_slider_tells_its_state_to_everyone():
    page = Elements(waves(5, alt=lambda n: f"Wave {n}.", format=lambda n: f"{n} & Hz")["text/html"])
    [box] = page.having(tag="input")
    assert {box[k] for k in ("type", "min", "max", "value")} == {"range", "0", "4", "2"}
    assert box["aria-valuetext"] == "3 & Hz"
    for tag in ("label", "output"):
        assert page.having(tag=tag)[0]["for"] == box["id"]
    frames = page.having(tag="div", role="img")
    assert [frame["aria-label"] for frame in frames] == [f"Wave {n}." for n in range(1, 6)]
    assert ["hidden" in frame for frame in frames] == [True, True, False, True, True]


def test_without_scripts_the_middle_frame_is_what_stands_there():
    made = waves(5, alt=lambda n: f"Wave {n}.")
    [image] = Elements(made["text/html"]).having(tag="img")
    assert image["src"].endswith(made["image/png"])
    assert image["alt"] == made["text/plain"] == "Wave 3."
    assert made["image/png"] == show(wave(3), alt="Wave 3.")["image/png"]


def test_slider_is_deterministic_light_and_shares_what_stands_still():
    made = waves(20)
    assert made == waves(20)
    assert len(made["text/html"]) < 300_000
    assert len(made["text/html"]) - len(made["image/png"]) < 0.3 * 20 * len(svg(wave()))
    assert made["text/plain"] == "A line rises (frequency: 11)."


def test_slider_refuses_what_is_too_much():
    for count in (1, 41):
        with pytest.raises(ValueError, match="from 2 to 40"):
            waves(count)
    with pytest.raises(ValueError, match="one size"):
        slider(lambda h: wave(height=h), [2, 3], label="height", alt=SENTENCE)

    def noise(seed):
        fig, ax = panels()
        ax.plot(*np.random.default_rng(seed).normal(size=(2, 25_000)))
        return fig

    with pytest.raises(ValueError, match="expected at most 1000000"):
        slider(noise, range(4), label="seed", alt=SENTENCE)


# --- in a notebook, in the book, in a browser ---------------------------------------------------


def test_a_notebook_shows_a_figure_once():
    nbclient = pytest.importorskip("nbclient")
    code = (
        "import matplotlib.pyplot as plt\nfrom kexue_lib.figures import show, style\n"
        "with style():\n    fig, ax = plt.subplots()\nshow(fig, alt='An empty frame.')"
    )
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(nb, timeout=60, kernel_name="python3").execute()
    [output] = nb.cells[0].outputs
    assert list(output.data) == ["image/svg+xml", "image/png", "text/plain"]
    assert output.metadata["image/png"] == {"alt": "An empty frame.", "kexue": "figure"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build a page of two figures and a slider for three formats, from one reading."""
    pytest.importorskip("kexue_ext.figures")
    cells = [nbformat.v4.new_markdown_cell("# Page\n\nSee {numref}`fig-two`.")]
    made = {"fig-one": show(wave(1), alt="Wave 1."), "fig-two": show(wave(2), alt="Wave 2.")}
    for name, data in (made | {"fig-slide": waves(3)}).items():
        about = {kind: {"alt": data["text/plain"], "kexue": "figure"} for kind in data}
        output = nbformat.v4.new_output("display_data", data=data, metadata=about)
        place = {"mystnb": {"figure": {"name": name, "caption": "The law $x^2$, **bold**."}}}
        cells.append(nbformat.v4.new_code_cell("draw()", outputs=[output], metadata=place))
    python = {"language_info": {"name": "python", "pygments_lexer": "python"}}
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python), source / "index.ipynb")
    (source / "conf.py").write_text(
        'extensions, project, numfig = ["myst_nb"], "page", True\n'
        'nb_execution_mode, myst_enable_extensions = "off", ["dollarmath"]\n'
    )
    for builder in ("html", "latex", "text"):
        command = [sys.executable, "-m", "sphinx", "-qW", "-d", out / "doctrees", "-b", builder]
        subprocess.run([*command, source, out / builder], check=True, timeout=120)
    return out


def test_the_book_holds_figures_inline_with_number_and_caption(built):
    page = (built / "html" / "index.html").read_text()
    assert page.count('<div class="kexue-figure"') == 3
    assert 'role="img" aria-label="Wave 2."' in page
    assert re.findall('<span class="caption-number">Fig. ([0-9]) </span>', page) == list("123")
    assert re.search('href="#fig-two"><span class="std std-numref">Fig. 2', page)
    assert page.count("<strong>bold</strong>") == 3
    assert "text_html" not in page
    own = [name for name in ids(page) if re.match("k[0-9a-f]{8}-", name)]
    assert len(own) == len(set(own)) > 10


def test_other_formats_get_the_image_or_the_sentence(built):
    assert (built / "latex" / "page.tex").read_text().count("includegraphics") == 3
    assert "Wave 1." in (built / "text" / "index.txt").read_text()


@pytest.fixture
def page():
    chromium, api = shutil.which("chromium"), pytest.importorskip("playwright.sync_api")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the browser chromium is missing")
    with api.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.route("http*://**", lambda route: route.abort())
        yield page
        browser.close()
        assert all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.browser
def test_slider_moves_by_keyboard_from_a_folder_without_a_network(page, tmp_path):
    file = tmp_path / "page.html"
    made = waves(5, alt=lambda n: f"Wave {n}.")["text/html"]
    file.write_text(f"<!doctype html><html lang=en><title>t</title><body>{made}")
    page.goto(file.as_uri())
    frames, box = page.locator("[role=img]"), page.locator("input")
    assert not page.locator("img").is_visible()
    box.focus()
    for key, n in (("ArrowRight", 4), ("End", 5), ("Home", 1), ("ArrowUp", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert [frames.nth(k).is_visible() for k in range(5)] == [k == n - 1 for k in range(5)]
        assert page.locator("[role=img]:visible").get_attribute("aria-label") == f"Wave {n}."
        assert box.get_attribute("aria-valuetext") == page.locator("output").inner_text() == str(n)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert page.locator("img").is_visible()
    assert not box.is_visible()


@pytest.mark.browser
def test_figures_follow_the_theme_of_the_page(page, tmp_path):
    file = tmp_path / "page.html"
    style_ = "color:#ced6dd;background:#14181e;--kexue-paper:#14181e"
    file.write_text(f"<!doctype html><body style='{style_}'><p>text</p>{svg(wave())}")
    page.goto(file.as_uri())
    used = page.evaluate(
        "[...document.querySelectorAll('svg *')].flatMap(e => {const s = getComputedStyle(e);"
        "return [s.fill, s.stroke]})"
    )
    assert "rgb(206, 214, 221)" in used
    assert "rgb(20, 24, 30)" in used
    assert not {"rgb(0, 0, 0)", "rgb(255, 255, 255)"} & set(used), json.dumps(used)
    assert page.locator("p").evaluate("e => getComputedStyle(e).strokeLinejoin") == "miter"
