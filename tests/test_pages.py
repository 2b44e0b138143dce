"""The built pages: every link leads somewhere, every name is there once, every picture has words."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
VOID = ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
# These may be left open.
OPTIONAL = [
    "p",
    "li",
    "dt",
    "dd",
    "tr",
    "td",
    "th",
    "thead",
    "tbody",
    "tfoot",
    "colgroup",
    "option",
]


class Page(HTMLParser):
    """What a page links to, which names it has, and what is wrong with its tags."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links, self.silent, self.open, self.wrong = [], [], [], [], []
        self.spoken, self.mispronounced = [], []  # languages of the open elements; Chinese in another one
        self.language, self.titles = None, 0
        self.feed(text)
        self.wrong += [tag for tag in self.open if tag not in OPTIONAL]

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.names.append(found["id"])
        for where, tags in (("href", ("a", "link")), ("src", ("img", "script"))):
            if tag in tags and where in found:
                self.links.append(found[where])
        if tag == "img" and not (found.get("alt") or "").strip():
            self.silent.append(found.get("src"))
        self.language = found.get("lang") if tag == "html" else self.language
        self.titles += tag == "h1"
        if tag not in VOID:
            self.open.append(tag)
            self.spoken.append(found.get("lang") or "".join(self.spoken[-1:]))

    def handle_data(self, text):
        if re.search("[\u3400-\u9fff]", text) and not {"pre", "script", "head"} & set(self.open):
            self.mispronounced += [text] * (self.spoken[-1] != "zh")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.close_last()

    def close_last(self):
        self.open.pop()
        self.spoken.pop()

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.close_last()
        if self.open and self.open[-1] == tag:
            self.close_last()
        else:
            self.wrong.append(f"/{tag}")


@pytest.fixture(scope="module")
def pages():
    paths = [path for path in HTML.rglob("*.html") if "_static" not in path.parts]
    assert len(paths) > 20, "run make book first"
    return {path.resolve(): Page(path.read_text("utf-8")) for path in paths}


def test_the_reader_of_pages_sees_faults():
    page = Page('<html lang="en"><p id="a"><b><img src="x.png"></p><a id="a" href="#b">')
    assert page.names == ["a", "a"]
    assert page.silent == ["x.png"]
    assert page.wrong == ["/p", "html", "b", "a"]
    assert Page("<ul><li>one<li>two</ul><br><svg><path/></svg>").wrong == []
    page = Page('<html lang="en"><p>一 <b lang="zh">二<i>三</i></b><br/>四<pre>五</pre></p></html>')
    assert page.mispronounced == ["一 ", "四"]


def test_every_link_within_the_book_leads_to_something(pages):
    lost, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            count += 1
            there = target in pages and (not parts.fragment or unquote(parts.fragment) in pages[target].names)
            if not (there or (target.is_file() and target.suffix != ".html")):
                lost.append((path.relative_to(HTML).as_posix(), link))
    assert lost == []
    assert count > 5000


def test_names_are_unique_tags_are_closed_and_pictures_have_words(pages):
    for path, page in pages.items():
        name = path.relative_to(HTML).as_posix()
        twice = {one for one, count in Counter(page.names).items() if count > 1}
        assert (name, twice) == (name, set())
        assert (name, page.wrong) == (name, [])
        assert (name, page.silent) == (name, [])


def test_every_page_of_the_book_has_a_language_and_a_title(pages):
    for path, page in pages.items():
        if "book" in path.relative_to(HTML).parts[:1]:
            assert page.language == "en", path
            assert page.titles, path
            assert (path, page.mispronounced) == (path, [])


def test_no_markup_is_left_in_the_words_of_the_library():
    for path in (HTML / "book" / "api").glob("*.html"):
        words = re.sub(r"<(pre|code|script)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.S)
        assert (path.name, re.findall(r".{0,40}``.{0,40}", words)) == (path.name, [])


def test_every_statement_links_to_its_row_in_the_ledger_and_back(pages):
    ledger = pages[(HTML / "book" / "claims.html").resolve()]
    count = 0
    for path, page in pages.items():
        for name in page.names:
            if name.startswith("equation-eq-"):
                label, count = name.removeprefix("equation-"), count + 1
                assert f"claims.html#claim-{label}" in page.links
                assert f"claim-{label}" in ledger.names
                assert f"{path.name}#{name}" in ledger.links
    assert count > 250
