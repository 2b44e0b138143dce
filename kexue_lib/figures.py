"""Figures: one style, alt text, one SVG for light and dark pages, and a slider without a server.

Black is ink and white is paper: on a web page both follow the reader's theme. Over 500 points of a
scatter become a small raster by themselves; give them one of `COLOURS`, a raster's black stays.
"""

import base64
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import Element, fromstring, tostring

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from kexue_lib.arguments import integer, refuse

# One colour, one meaning, in every chapter. Contrast is at least 3 on white and on the dark theme,
# and the first five stay apart for colour-blind eyes (computed in tests/test_figures.py).
COLOURS = {
    "theory": "#1f5ff2",  # blue: what the formula says
    "measured": "#dd7a08",  # orange: what the experiment found
    "other": "#2f9f9c",  # teal: a second method or law
    "extra": "#7d55bd",  # purple: a third one
    "control": "#c8103c",  # red: the wrong version, which must fail
    "muted": "#7b8188",  # grey: limits and baselines
}
LINES = dict(zip(COLOURS, ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), "--"], strict=True))
MARKERS = dict(zip(COLOURS, "os^DX.", strict=True))
WIDTH, DPI = 5.6, 144  # inches: 11-point text is then 10 px high on a phone, 16 px on a desk
MOST_FRAMES, HEAVIEST_FIGURE, HEAVIEST_SLIDER = 40, 600_000, 1_000_000  # bytes


@contextmanager
def style() -> Iterator[None]:
    """Draw in the book's style (also a decorator); the reader's settings come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("figure", figsize=(WIDTH, 3.4), **{"constrained_layout.use": True})
        matplotlib.rc("font", size=11)
        looks = cycler(color=COLOURS.values()) + cycler(linestyle=LINES.values())
        matplotlib.rc("axes", titlesize=11, grid=True, axisbelow=True, prop_cycle=looks[:5])
        matplotlib.rc("axes.spines", top=False, right=False)
        matplotlib.rc("grid", color=COLOURS["muted"], alpha=0.25)
        matplotlib.rc("legend", fontsize=10, edgecolor="none")
        matplotlib.rc("lines", linewidth=2)
        matplotlib.rc("errorbar", capsize=3)
        matplotlib.rc("image", interpolation="none")
        # Outlines of letters, not letters: no font of the reader's machine can shift a formula.
        matplotlib.rc("svg", fonttype="path", hashsalt="kexue")
        yield


def look(meaning: str, **changes: Any) -> dict[str, Any]:
    """Return the colour, line and marker of a meaning: ``ax.plot(x, y, **look("theory"))``.

    What is measured is shown by markers, all else by lines: colour is never the only cue.
    """
    if meaning not in COLOURS:
        raise refuse("meaning", meaning, "one of " + ", ".join(COLOURS))
    points = meaning == "measured"
    line, marker = ("none", MARKERS[meaning]) if points else (LINES[meaning], "none")
    return {"color": COLOURS[meaning], "linestyle": line, "marker": marker, **changes}


def panels(rows: int = 1, cols: int = 1, *, height: float = 3.4, **kw: Any) -> tuple[Figure, Any]:
    """Return figure and axes as wide as the page; prefer rows: columns are narrow on a phone."""
    return plt.subplots(rows, cols, figsize=(WIDTH, height * rows), **kw)


@style()
def image_grid(images: Any, titles: Sequence[str] | None = None, *, cols: int = 8) -> Figure:
    """Return a figure of ``images``, grey (n, height, width) or coloured (..., 3), on one common scale."""
    count = integer("number of images", len(images), 1, 200)
    if titles is not None and len(titles) != count:
        raise refuse("titles", titles, f"{count} titles, one for each image")
    cols = min(count, integer("cols", cols, 1, 20))
    height = WIDTH / cols + (0.25 if titles else 0)
    fig, axes = panels(-(-count // cols), cols, height=height, squeeze=False)
    low, high = float(min(i.min() for i in images)), float(max(i.max() for i in images))
    for k, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if k < count:
            if images[k].ndim == 3:  # colours have no scale but that from 0 to 1
                ax.imshow((images[k] - low) / ((high - low) or 1))
            else:
                ax.imshow(images[k], cmap="gray_r", vmin=low, vmax=high)
            ax.set_title(titles[k] if titles else "", fontsize=10)
    return fig


def show(fig: Figure, *, alt: str) -> dict[str, str] | None:
    """Display ``fig`` in a notebook and close it; outside of one, return its content by MIME type.

    ``alt`` is one sentence for readers who cannot see the figure: what is drawn, what it shows.
    Raises ``ValueError`` unless it ends with a period, within 300 characters, and above 600 kB.
    """
    try:
        return _emit("image/svg+xml", svg(fig, alt=alt), _save(fig, "png"), _sentence(alt))
    finally:
        plt.close(fig)


def svg(fig: Figure, *, alt: str) -> str:
    """Return ``fig`` as markup whose ink follows the text around it; what `show` displays and refuses."""
    alt = _sentence(alt)
    [root], shared = _weave([_save(fig, "svg").decode()])
    root.insert(0, shared)
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": alt}
    return _named(tostring(root, "unicode"), HEAVIEST_FIGURE)


def slider(
    draw: Callable[[Any], Figure],
    values: Sequence[Any],
    *,
    label: str,
    alt: str | Callable[[Any], str],
    format: Callable[[Any], str] = str,
) -> dict[str, str] | None:
    """Display ``draw(value)`` for each of ``values`` behind a slider that needs no server.

    Fix the limits of the axes: what does not move is stored once. ``alt`` is a sentence or gives
    one for each value; ``format`` writes a value. Print, PDF and pages without scripts show the
    middle frame. Raises ``ValueError`` for fewer than 2 or more than 40 values and above 1 MB.
    """
    last = integer("number of values", len(values), 2, MOST_FRAMES) - 1
    names = [format(value) for value in values]
    if isinstance(alt, str):  # one sentence for all: add the value
        alts = [f"{_sentence(alt)[:-1]} ({label}: {name})." for name in names]
    else:
        alts = [_sentence(alt(value)) for value in values]
    raw, png, middle = [], b"", len(values) // 2
    for k, value in enumerate(values):
        with style():
            fig = draw(value)
        raw.append(_save(fig, "svg").decode())
        png = _save(fig, "png") if k == middle else png
        plt.close(fig)
    roots, shared = _weave(raw)
    if len({root.get("viewBox") for root in roots}) > 1:
        raise refuse("draw", draw, "a function whose figures all have one size")
    said, shown = [escape(text) for text in alts], [escape(name) for name in names]
    frames = "".join(
        f'<div role="img" aria-label="{said[k]}" data-text="{shown[k]}"'
        f"{'' if k == middle else HIDDEN}>{tostring(root, 'unicode')}</div>"
        for k, root in enumerate(roots)
    )
    # The image stands in the page and only the script hides it: it remains in print, without
    # scripts, and in a notebook that is not trusted.
    markup = (
        f'<div class="kexue-slider" id="@id@"><style>{CSS}</style><img alt="{said[middle]}" '
        f'width="576" src="data:image/png;base64,{base64.b64encode(png).decode()}"/><div{HIDDEN}>'
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true">'
        f'{tostring(shared, "unicode")}</svg>{frames}<label for="@id@in">{escape(label)}</label> '
        f'<b><output for="@id@in" aria-live="off">{shown[middle]}</output></b><input type="range" '
        f'id="@id@in" min="0" max="{last}" value="{middle}" aria-valuetext="{shown[middle]}"/>'
        f"</div><script>{SCRIPT}</script></div>"
    )
    return _emit("text/html", _named(markup, HEAVIEST_SLIDER), png, alts[middle])


HIDDEN = ' hidden=""'
CSS = """.kexue-slider{--kexue-paper:var(--pst-color-background,var(--jp-layout-color0,#0000))}
.kexue-slider [hidden],.kexue-slider.on>img{display:none!important}
.kexue-slider>div{max-width:576px;margin:var(--kexue-margin,0);line-height:1.7}
.kexue-slider input{display:block;width:100%;height:28px;margin:0;accent-color:#1f5ff2}
@media print{.kexue-slider>div{display:none}.kexue-slider.on>img{display:block!important}}"""
# JupyterLab would take the arrow keys for itself: they stop at the slider.
SCRIPT = """for(const r of document.querySelectorAll("#@id@:not(.on)")){
const i=r.querySelector("input"),f=r.querySelectorAll("[role=img]"),s=()=>{
f.forEach((e,k)=>{e.hidden=k!=i.value});const t=f[i.value].dataset.text;
r.querySelector("output").value=t;i.setAttribute("aria-valuetext",t)};
i.oninput=s;i.onkeydown=e=>e.stopPropagation();r.querySelector("div").hidden=false;
r.classList.add("on");s()}"""
# From matplotlib's file to a part of a page: its <style> would style the whole page; black turns
# into the colour of the text around it, white into that of the page, if the page tells.
CLEANING = {
    r"<(metadata|style)\b.*?</\1>|<[?!].*?>|\sxmlns[:\w]*=\"[^\"]*\"|xlink:": "",
    r"(?<=base64,)\s+|(?<=>)\s+(?=<)": "",
    r"\s+": " ",
    r": #000000": ":currentColor",
    r": #ffffff": ":var(--kexue-paper,#fff)",
}


def _emit(kind: str, markup: str, png: bytes, alt: str) -> dict[str, str] | None:
    """Display in a notebook, and then return nothing: the last line of a cell shows its value."""
    data = {kind: markup, "image/png": base64.b64encode(png).decode(), "text/plain": alt}
    if (ipython := sys.modules.get("IPython")) is None or ipython.get_ipython() is None:
        return data
    about = {key: {"alt": alt, "kexue": "figure"} for key in data}
    ipython.display.display(data, metadata=about, raw=True)
    return None


def _sentence(alt: str) -> str:
    text = " ".join(alt.split()) if isinstance(alt, str) else ""
    if not 1 < len(text) < 300 or not text.endswith("."):
        raise refuse("alt", alt, "a sentence that ends with a period, shorter than 300 characters")
    return text


def _save(fig: Figure, kind: str) -> bytes:
    """Return the same bytes on every run: no dates, no names of programs."""
    for dots in (item for ax in fig.axes for item in ax.collections):
        if isinstance(dots, PathCollection) and np.size(dots.get_offsets()) > 1000:
            dots.set_rasterized(True)
    buffer, facts = BytesIO(), {"png": ["Software"], "svg": ["Date", "Creator", "Format", "Type"]}
    with style():
        fig.savefig(buffer, format=kind, dpi=DPI, metadata=dict.fromkeys(facts[kind]))
    return buffer.getvalue()


def _named(markup: str, heaviest: int) -> str:
    """Give ids a prefix made from the content: no two figures of a page clash."""
    if len(markup) > heaviest:
        raise refuse("bytes", len(markup), f"at most {heaviest} (rasterized=True helps)")
    return markup.replace("@id@", "k" + hashlib.sha256(markup.encode()).hexdigest()[:8] + "-")


def _weave(raw: list[str]) -> tuple[list[Element], Element]:
    """Return frames cleaned for a page, and the definitions (letters, repetitions) they share."""
    roots: list[Element] = []
    store: dict[str, str] = {}  # markup to new id: matplotlib may use an address in memory
    for text in raw:
        for pattern, new in CLEANING.items():
            text = re.sub(pattern, new, text, flags=re.DOTALL)
        # A hundredth of a point is enough, and halves the weight of a curve.
        text = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), text)
        definitions = re.findall(r"<defs>.*?</defs>", text)
        text = re.sub(r'<defs>.*?</defs>| id="[^"]*"', "", text)
        for item in (item for block in definitions for item in fromstring(block)):
            old = re.escape(item.attrib.pop("id"))
            name = store.setdefault(tostring(item, "unicode"), f"@id@{len(store)}")
            text = re.sub(rf"#{old}(?=[\")])", f"#{name}", text)
        root = fromstring(text)
        width, height = (round(float(x) * 10 / 7) for x in root.attrib["viewBox"].split()[2:])
        root.attrib |= {"width": str(width), "height": str(height), "fill": "currentColor"}
        root.set("style", "max-width:100%;height:auto;stroke-linejoin:round")
        roots.append(root)
    seen = Counter(key for r in roots for key in {tostring(g, "unicode") for g in r.iter("g")})

    def share(parent: Element) -> None:
        for k, child in enumerate(parent):
            if child.tag == "g" and seen[key := tostring(child, "unicode")] > 1 and len(key) > 100:
                name = store.setdefault(key, f"@id@{len(store)}")
                parent[k] = Element("use", {"href": f"#{name}"})
            share(parent[k])

    for root in roots:
        share(root)
    shared = Element("defs")
    for markup, name in store.items():
        shared.append(fromstring(markup))
        shared[-1].set("id", name)
    return roots, shared
