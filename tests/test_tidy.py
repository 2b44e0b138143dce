"""What is mended on every page as it is written, and that the pages of the book are valid HTML."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from kexue_ext import tidy

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
HEAD = """<html><head>
<meta name="viewport" content="width=device-width" /><meta name="viewport" content="initial-scale=1" />
  <script>
    document.documentElement.dataset.theme = localStorage.getItem("theme") || "";
  </script>
<link href="../_static/styles/theme.css?digest=1" rel="stylesheet" />
    <link rel="stylesheet" type="text/css" href="../_static/proof.css" />
    <link rel="stylesheet" type="text/css" href="../_static/sphinx-design.min.css?v=6" />
  <script src="../_static/scripts/fontawesome.js?digest=1"></script>
    <script src="../_static/documentation_options.js?v=9"></script>
    <script src="../_static/clipboard.min.js?v=a"></script>
    <script src="../_static/copybutton.js?v=c"></script>
    <script>let toggleHintShow = 'Show';</script>
    <script src="../_static/togglebutton.js?v=b"></script>
    <script>var togglebuttonSelector = '.toggle, .admonition.dropdown';</script>
    <script>window.MathJax = {"options": {}}</script>
    <script defer="defer" src="../_static/formulas.js?v=2"></script>
    <script defer="defer" src="../_static/mathjax/tex-chtml.js?v=2"></script>
<meta name="viewport" content="width=1"/>
</head>
<body>"""


def mended(body):
    return tidy.mend(HEAD + body + "</body></html>")


def files(page):
    return re.findall(r'_static/([^"?]+)', page)


def test_a_page_without_code_and_formulas_loads_little():
    page = mended('<div class="dropdown dropdown-download-buttons">a</div>')
    assert files(page) == ["styles/theme.css", "documentation_options.js"]
    assert page.count("<script") == 2
    assert page.count('name="viewport"') == 1
    assert "matchMedia" in page


@pytest.mark.parametrize(
    ("element", "needed"),
    [
        ('<div class="highlight-python highlight"></div>', ["clipboard.min.js", "copybutton.js"]),
        ('<span class="math notranslate">x</span>', ["formulas.js", "mathjax/tex-chtml.js"]),
        ('<div class="cell_output output_area">x</div>', ["formulas.js", "mathjax/tex-chtml.js"]),
        ('<div class="solution dropdown admonition">x</div>', ["togglebutton.js"]),
        ('<div class="admonition note dropdown">x</div>', ["togglebutton.js"]),
        ('<div class="toggle">x</div>', ["togglebutton.js"]),
        ('<div class="proof theorem">x</div>', ["proof.css"]),
        ('<div class="sd-card">x</div>', ["sphinx-design.min.css"]),
    ],
)
def test_a_page_keeps_what_it_needs(element, needed):
    page = mended(element)
    assert sorted(set(files(page)) - {"styles/theme.css", "documentation_options.js"}) == sorted(needed)
    scripts = re.findall(r"<script[^>]*src=[^>]*>", page)
    assert [one for one in scripts if "defer" not in one] == [one for one in scripts if "options.js" in one]
    assert ("window.MathJax" in page) == ("formulas.js" in needed)
    assert ("toggleHintShow" in page) == ("togglebutton.js" in needed)


def test_icons_become_drawings_and_one_that_is_unknown_keeps_their_script():
    page = mended('<i class="fa-solid fa-arrow-up"></i><span class="fas fa-file fa-lg"></span>')
    assert "fontawesome.js" not in page
    assert "CC BY 4.0" in page
    assert page.count('aria-hidden="true"') == 2
    assert '<svg class="svg-inline--fa fa-file fa-lg"' in page
    assert tidy.icons()["fas"]["file"][2].startswith("M0 64C0 28.7")  # the other is an outline
    assert tidy.icons()["far"]["file"] != tidy.icons()["fas"]["file"]
    assert '<svg class="svg-inline--fa fa-github"' in mended('<i class="fab fa-github"></i>')
    page = mended('<i class="theme-switch fas  fa-sun fa-lg" data-mode="light"  title="Light"></i>')
    assert '<svg class="svg-inline--fa theme-switch fa-sun fa-lg" data-mode="light" aria-hidden' in page
    assert "<title>Light</title>" in page
    for unknown in ('<i class="fa-solid fa-nobody-drew-it"></i>', '<i class="a fab fa-nobody-s-brand"></i>'):
        assert "fontawesome.js" in mended(unknown)


def test_what_is_not_valid_is_said_otherwise():
    code = '<div class="viewcode-block" id="f">\n<a>[docs]</a>def f(): ...</div>\n'
    page = mended(f"<div><pre>{code}</pre></div>")
    assert '<pre><span class="viewcode-block" id="f">\n<a>[docs]</a>def f(): ...</span>\n</pre></div>' in page
    summary = (
        '<summary aria-label="x">\n<p class="collapsed">Show</p>\n<p class="expanded">Hide</p>\n</summary>'
    )
    page = mended(f"<p>a</p><details>{summary}<p>b</p></details>")
    assert page.count("<p>") == page.count("</p>") == 2
    assert '<span class="collapsed">Show</span>\n<span class="expanded">Hide</span>\n</summary>' in page
    style = "<style>.kexue-slider{color:red}</style>"
    head, _, body = mended(f"<div>{style}</div><div>{style}</div>").partition("</head>")
    assert head.count(style) == 1
    assert "<style" not in body


def test_files_that_nobody_asks_for_are_removed(tmp_path):
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir(parents=True)
    icons = scripts / "fontawesome.js"
    icons.write_text("")
    (scripts / "a.js").write_bytes("let a = '\u00e9'\n//# sourceMappingURL=a.js.map".encode())
    (scripts / "a.js.map").write_text("{}")
    app = SimpleNamespace(builder=SimpleNamespace(name="html"), outdir=tmp_path)
    (tmp_path / "page.html").write_text(f"{HEAD}</body></html>")
    tidy.remove(app, None)
    assert icons.exists()  # a page asks for it
    (tmp_path / "page.html").write_text(mended(""))
    tidy.remove(app, None)
    assert [path.name for path in scripts.iterdir()] == ["a.js"]
    assert (scripts / "a.js").read_text("utf-8") == "let a = '\u00e9'\n"


def test_no_page_of_the_book_loads_the_icons_script():
    pages = [path for path in HTML.rglob("*.html") if "_static" not in path.parts]
    assert len(pages) > 20, "run make book first"
    assert [path.name for path in pages if "fontawesome.js" in path.read_text("utf-8")] == []


@pytest.mark.weekly
def test_every_page_is_valid():
    """As the checker of the HTML standard's authors sees it (npm install -g vnu-jar)."""
    if shutil.which("vnu") is None:
        pytest.skip("no vnu: npm install -g vnu-jar")
    pages = [str(path) for path in HTML.rglob("*.html") if "_static" not in path.parts]
    done = subprocess.run(
        ["vnu", "--errors-only", "--format", "json", *pages],
        capture_output=True,
        text=True,
        env=os.environ | {"JAVA_TOOL_OPTIONS": "-Xss8m"},
    )
    found = json.loads(done.stderr[done.stderr.index("{") :])["messages"]
    assert [(one.get("url", "")[-40:], one.get("lastLine"), one["message"]) for one in found] == []
