"""Every page as it is written: HTML that is valid, icons as drawings, and no script that it has no use for.

What Sphinx, its extensions and the theme write is nearly valid, and loads on every page what any page may
need: 1.5 MB of icons in one script that stops the page, formulas' program where there is no formula, buttons
for code where there is no code. What is mended here is mended once for all pages, on their text.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

FAMILIES = {"fab": "fab", "far": "far", "fas": "fas"}
FAMILIES |= {"fa-brands": "fab", "fa-regular": "far", "fa-solid": "fas"}
ICON = re.compile(rf'<(i|span) ([^>]*?)class="([^"]*\b(?:{"|".join(FAMILIES)}) [^"]*)"([^>]*)></\1>')
FONT = re.compile(r'<(?:i|span) [^>]*class="[^"]*\b(?:fa[srb]?|fa-(?:solid|regular|brands)) ')
ICONS = "pydata_sphinx_theme/theme/pydata_sphinx_theme/static/scripts/fontawesome.js"
DRAWING = (
    '<svg {before}class="svg-inline--fa {classes}"{after} aria-hidden="true" focusable="false" '
    'viewBox="0 0 {width} {height}">{title}<path fill="currentColor" d="{path}" /></svg>'
)
CREDIT = "<!-- Icons: Font Awesome Free, by Fonticons, CC BY 4.0, https://fontawesome.com/license/free -->"
VIEWPORT = re.compile(r'<meta name="viewport"[^>]*>')
CODE, STYLE = re.compile(r"<pre>.*?</pre>", re.S), re.compile(r"<style>\.kexue-.*?</style>", re.S)
SUMMARY = re.compile(r"<summary\b(?:(?!</summary>).)*?<p class=.*?</summary>", re.S)
LOADED = re.compile(
    r'[ \t]*<(?:script|link)\b[^>]*(?:src|href)="[^"]*_static/([\w./-]+)[^"]*"[^>]*>(?:</script>)?\n'
)
# Which class an element must have for a file to have something to do.
NEEDS = {
    "clipboard.min.js": "highlight",
    "copybutton": "highlight",
    "togglebutton": r"toggle|(?=.*\badmonition\b).*\bdropdown\b.*",
    "design-tabs.js": "sd-.*",
    "sphinx-design.min.css": "sd-.*",
    "proof.css": "proof",
    "exercise.css": "exercise|solution",
    "mathjax/": "math|output_area|tex2jax_process|mathjax_process",
    "formulas.js": "math|output_area|tex2jax_process|mathjax_process",
}
# A script that stands in a page uses these at once; the others wait until the page is there.
AT_ONCE = ("documentation_options.js",)
# Nobody's browser asks for these: they are for who works on the theme, or for browsers before 2016.
UNUSED = ("**/*.map", "vendor/fontawesome/webfonts/*.ttf")
# What the reader's system prefers is known at once: without it a page is first light, then drawn again.
STORED = 'localStorage.getItem("theme") || '
THEME = (f'{STORED}""', f'{STORED}(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")')
MAP = re.compile(r"\n?(?://|/\*)# sourceMappingURL=\S+(?: \*/)?\s*\Z")


@cache
def icons():
    """Return the icons of the theme's script: family to name to width, height and path."""
    theme = find_spec("pydata_sphinx_theme").submodule_search_locations[0]
    rest, found = (Path(theme).parent / ICONS).read_text("utf-8"), {}
    for family in ("fab", "far", "fas"):  # as they follow each other, each named at its end
        part, _, rest = rest.partition(f'("{family}",')
        each = re.findall(r'[{,]"?([\w-]+)"?:\[(\d+),(\d+),\[[^]]*\],"\w+","([^"]+)"\]', part)
        found[family] = {name: drawn for name, *drawn in each}
    return found


def draw(page):
    """Put drawings in the place of icons, and leave out the script that would do so if none is left."""

    def drawing(match):
        classes = [name for name in match[3].split() if name not in FAMILIES]
        family = icons()[next(FAMILIES[name] for name in match[3].split() if name in FAMILIES)]
        named = [name.removeprefix("fa-") for name in classes if name.startswith("fa-")]
        known = [family[name] for name in named if name in family]
        if not known:
            return match[0]
        width, height, path = known[0]
        title = re.search(r' *title="([^"]*)"', match[4])
        return DRAWING.format(
            before=match[2],
            classes=" ".join(classes),
            after=match[4].replace(title[0], "") if title else match[4],
            title=f"<title>{title[1]}</title>" if title else "",
            width=width,
            height=height,
            path=path,
        )

    page = ICON.sub(drawing, page)
    if FONT.search(page):
        return page
    return re.sub(r"<script[^>]*/fontawesome\.js[^>]*></script>", CREDIT, page)


def load(page):
    """Leave out scripts and styles that find nothing on the page, and let the others wait for it."""
    texts = set(re.findall(r'class="([^"]*)"', page))
    classes = texts | {name for text in texts for name in text.split()}
    named, waits = set(), "searchtools.js" not in page  # the search begins while its page is read

    def keep(match):
        for part, needed in NEEDS.items():
            if match[1].startswith(part) and not any(re.fullmatch(needed, name) for name in classes):
                return ""
        tag, name = match[0], match[1].rpartition("/")[2]
        if waits and "<script" in tag and "defer" not in tag and name not in AT_ONCE:
            tag = tag.replace("<script", "<script defer", 1)
        twice, _ = tag in named, named.add(tag)
        return "" if twice else tag

    head, end, body = page.partition("</head>")
    head = LOADED.sub(keep, head)
    if "mathjax/" not in head:
        head = re.sub(r"[ \t]*<script>window\.MathJax = .*?</script>\n", "", head)
    if "togglebutton.js" not in head:
        head = re.sub(r"[ \t]*<script>(?:let toggle|var togglebutton).*?</script>\n", "", head)
    return head + end + body


def mend(page):
    """Return a page with what makes it valid, and without what it does not need."""
    if first := VIEWPORT.search(page):  # docutils, Sphinx and the theme write one each
        page = page[: first.end()] + VIEWPORT.sub("", page[first.end() :])
    # In code there may be no blocks (sphinx.ext.viewcode), in a summary no paragraphs (myst-nb), and a style
    # belongs into the head (our sliders, which elsewhere are alone on their page).
    blocks = [('<div class="viewcode-block"', '<span class="viewcode-block"'), ("</div>", "</span>")]
    if 'class="viewcode-block"' in page:
        page = CODE.sub(lambda match: match[0].replace(*blocks[0]).replace(*blocks[1]), page)
    page = SUMMARY.sub(lambda match: match[0].replace("<p ", "<span ").replace("</p>", "</span>"), page)
    styles = dict.fromkeys(STYLE.findall(page))
    page = STYLE.sub("", page).replace("</head>", "".join(f"{one}\n" for one in styles) + "</head>", 1)
    return load(draw(page.replace(*THEME, 1)))


def lift(app, doctree):
    """Take lists out of paragraphs, into which napoleon puts what a function returns in several cases."""
    for one in [one for one in doctree.findall(nodes.paragraph) if one.next_node(nodes.bullet_list)]:
        one.parent.replace(one, one.children)


def connect(app):
    """Mend what the templates make."""
    if app.builder.name in ("html", "dirhtml"):
        app.add_js_file("formulas.js", priority=400, loading_method="defer")  # before MathJax
        made = app.builder.templates.render
        app.builder.templates.render = lambda template, context: mend(made(template, context))


def remove(app, error):
    """Remove files that nothing asks for."""
    if error or app.builder.name not in ("html", "dirhtml"):
        return
    static = Path(app.outdir, "_static")
    for path in [path for pattern in UNUSED for path in static.glob(pattern)]:
        path.unlink()
    # Where a page could not be written there may be something else, without an end.
    written = (path for path in Path(app.outdir).rglob("*.html") if path.is_file())
    if not any("scripts/fontawesome.js" in path.read_text("utf-8") for path in written):
        (static / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    for path in [*static.glob("**/*.js"), *static.glob("**/*.css")]:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        if MAP.search(text[-200:]):
            path.write_bytes((MAP.sub("", text) + "\n").encode("utf-8", "surrogateescape"))


def setup(app):
    """Register what this file defines."""
    app.connect("builder-inited", connect, priority=900)
    app.connect("doctree-read", lift)
    app.connect("build-finished", remove, priority=950)
