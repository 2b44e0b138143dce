"""The book as a PDF (tools/pdf.py): a page that is good, one that is not, and, weekly, all of it."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
GOOD = """<article class="bd-article"><section id="one">
<h1>1. One<a class="headerlink" href="#one">#</a></h1>
<p>A line, <span class="math">\\(x^2\\)</span>, and <a href="two.html#there">a link</a>;
<a href="../x.html">gone</a>.</p>
<div class="math" id="eq"><span class="eqno">(1.1)</span>\\[ WIDE \\]</div>
<p>Said: <span class="math">\\(WIDE\\)</span>.</p>
<details class="hide"><summary>Show</summary>
<pre>print(1)</pre></details><script>1</script></section></article>"""
OTHER = """<article class="bd-article"><section id="two">
<h1>2. Two<a class="headerlink" href="#two">#</a></h1>
<section id="there"><h2>2.1. There<a class="headerlink" href="#there">#</a></h2>
<p>END</p></section></section></article>"""
WIDE = " + ".join(rf"\frac{{{n}}}{{x_{{{n}}}}}" for n in range(10, 32))
PARTS = [("First part", ["book/one", "book/two"])]


@pytest.fixture(scope="module")
def pdf(printer):
    return printer("pdf")


@pytest.fixture(scope="module")
def press(pdf, at_work):
    return at_work(pdf)


def site(folder, one=GOOD, two=OTHER):
    """Write two pages beside the built book's styles and scripts."""
    head = (HTML / "book" / "intro.html").read_text("utf-8").partition("</head>")[0]
    (folder / "book").mkdir()
    (folder / "_static").symlink_to(HTML / "_static")
    for name, text in {"one": one, "two": two}.items():
        text = f"{head}</head><body>{text.replace('WIDE', WIDE)}</body></html>"
        (folder / "book" / f"{name}.html").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def good(press, tmp_path_factory):
    """The file that the two good pages make."""
    return press.make(PARTS, site(tmp_path_factory.mktemp("good")))


@pytest.mark.browser
def test_two_pages_make_a_file_with_contents_outline_links_and_what_it_is_about(press, good):
    file = press.File(good)
    where = file.destinations()
    assert len(file.pages()) == 4  # title, contents, one, two
    assert list(file.outline()) == [
        (1, "Contents", "contents--"),
        (1, "First part", "one--"),
        (2, "1. One", "one--"),
        (2, "2. Two", "two--"),
        (3, "2.1. There", "two--there"),
    ]
    assert {name: where[name] for name in ("contents--", "one--", "two--", "two--there")} == {
        "contents--": 2,
        "one--": 3,
        "two--": 4,
        "two--there": 4,
    }
    inside, outside = file.links()
    assert inside.count("two--there") == 3  # text, contents, outline
    assert outside == []  # what is not in the book is text
    assert press.faults(good, ["book/one", "book/two"]) == []
    info = file.object(file.info())
    assert press.string("Scientific Spaces, Executable") in info
    assert re.search(rb"/CreationDate \(D:\d{14}\+00'00'\)", info)
    assert b"/Lang (en)" in file.object(file.root)


@pytest.mark.browser
def test_what_nobody_could_read_is_not_printed(press, tmp_path):
    """Each fault alone would do; no remedy of the page's preparation hides it."""
    bad = """<article class="bd-article"><section id="one">
<h1>1. One<a class="headerlink" href="#one">#</a></h1>
<p><span class="math">\\(\\left( 1\\)</span> <span class="math">\\(\\frac{1\\)</span>
<span class="math">\\(\\nosuchmacro\\)</span> lost: \ufffd</p>
<div class="math">\\[ \\sqrt{WIDE+WIDE+WIDE} \\]</div>
<pre style="white-space:pre!important;width:900px">code</pre><img src="../no.png">
<table><tr><td style="min-width:900px">wide</td></tr></table>
<svg width="900" height="9" style="max-width:none"></svg>
<p><a href="#nowhere">no</a></p></section></article>"""
    with pytest.raises(press.Refused) as refused:
        press.make(PARTS, site(tmp_path, one=bad))
    text = str(refused.value)
    for part in ("mjx-math", "pre", "table", "svg"):
        assert re.search(rf"{part} \d+ px too wide \(one, ", text), (part, text)
    said = ["formula in error", "not set", "unknown command", "picture not found", "a character was lost"]
    for part in [*said, "leads nowhere: #one--nowhere"]:
        assert part in text, text


@pytest.mark.browser
def test_a_character_without_a_glyph_and_a_font_left_out_are_found(press, good, tmp_path):
    with pytest.raises(press.Refused, match=r"page 4: no font has 1 of its characters"):
        press.make(PARTS, site(tmp_path, two=OTHER.replace("END", "private: \ue123")))
    for old, new, said in (
        (b"/FontFile2 ", b"/FontNone2 ", "a font is not embedded"),
        (b"/Dest /two--there", b"/Dest /two--thery", "a link leads nowhere: two--thery"),
    ):
        assert any(said in one for one in press.faults(good.replace(old, new), []))
    assert press.faults(good, ["book/three"]) == ["the outline lacks book/three"]


def test_links_names_and_styles_are_those_of_one_document(pdf):
    text = (
        '<a class="reference" href="../two.html">t</a><a href="#x">x</a><a href="https://a.b/c#d">e</a>'
        '<a href="../../_modules/m.html">m</a><g clip-path="url(#p)" id="q"></g>'
        '<img src="../../_images/i.png">'
        '<p>href="#kept"</p>'
    )
    assert pdf.moved(text, "book/api/one", {"book/api/one", "book/two"}) == (
        '<a class="reference" href="#two--">t</a><a href="#api.one--x">x</a><a href="https://a.b/c#d">e</a>'
        '<a data-dropped="">m</a><g clip-path="url(#api.one--p)" id="api.one--q"></g>'
        f'<img src="{pdf.SITE}_images/i.png"><p>href="#kept"</p>'
    )


def test_failures_are_one_sentence_and_the_last_good_file_stays(pdf, monkeypatch, tmp_path, capsys):
    target = tmp_path / "kexue.pdf"
    target.write_bytes(b"good")
    monkeypatch.setattr(pdf, "PDF", target)
    monkeypatch.setattr(pdf.built, "ROOT", tmp_path)
    monkeypatch.setattr(pdf, "toc", list)
    monkeypatch.setattr(sys, "argv", ["pdf.py"])

    def fails(problem):
        def make(*_, **__):
            raise problem

        monkeypatch.setattr(pdf, "make", make)
        assert pdf.main() == 1
        return capsys.readouterr().err

    assert "the disk is full: free some space" in fails(OSError(28, "No space left on device"))
    assert "is that of the last good run" in fails(pdf.Refused("no pages: run make book"))
    monkeypatch.setattr(pdf.built.shutil, "which", lambda _: None)
    with pytest.raises(pdf.Refused, match="install chromium"):
        pdf.built.browser()
    with pytest.raises(pdf.Refused, match="run make book"):
        pdf.article("book/none", tmp_path)
    assert target.read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["kexue.pdf"]


@pytest.mark.browser
@pytest.mark.weekly
@pytest.mark.timeout(3000)
def test_the_whole_book(press):
    parts = press.toc()
    data = press.make(parts)  # which refuses every fault
    file, chapters = press.File(data), [page for _, pages in parts for page in pages]
    assert 300 < len(file.pages()) < 1200
    listed = {place for _, _, place in file.outline()}
    assert {press.name(page) for page in chapters} <= listed
    starts = [file.destinations()[press.name(page)] for page in chapters]
    assert starts == sorted(set(starts))  # in order, each on a page of its own
    assert any(place.startswith("claims--claim-eq-") for place in file.destinations())
