"""What other sites are told about the book, where it will be, and where renamed pages have gone."""

import re
import shutil
from html.parser import HTMLParser
from importlib import util
from io import BytesIO
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import test_extension
import yaml
from docutils import nodes
from kexue_ext import card, site, words
from PIL import Image
from sphinx.errors import ConfigError
from test_extension import ROOT, Book

BASE = "https://example.org/the/book/"
CHANGELOG = """# Changelog

## [1.3.0] - unreleased

- Not yet.

## [1.2.0] - 2026-02-03

### Added

- A chapter on `a < b` & more.

## [1.1.0] - 2025-12-31

- The first.
"""
CITATION = "title: T\nabstract: >-\n  What it is\n  about.\nauthors: [{name: A}]\n"
PICTURE = b"a picture"  # drawn in one test of its own


class Head(HTMLParser):
    """What a page says in its head."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links = {}, []
        self.feed(text.partition("</head>")[0])

    def handle_starttag(self, tag, attributes):
        about = dict(attributes)
        if tag == "meta" and (name := about.get("name") or about.get("property")):
            self.names.setdefault(name, []).append(about["content"])
        if tag == "link":
            self.links.append((about.get("rel"), about.get("href")))

    def one(self, name):
        [value] = self.names[name]
        return value

    def linked(self, rel):
        return [href for kind, href in self.links if kind == rel]


def heads(book):
    pages = [path for path in book.out.rglob("*.html") if "_static" not in path.parts]
    assert len(pages) > 8
    return {path.relative_to(book.out).as_posix(): Head(path.read_text("utf-8")) for path in pages}


def settings(patch, **more):
    """Let books be built with these settings beside those of _config.yml."""
    usual = test_extension.get_final_config

    def changed(**about):
        found, _ = usual(**about)
        return found | more, _

    patch.setattr(test_extension, "get_final_config", changed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One book without an address, and then with it; without the stroke at its end."""
    book = Book(tmp_path_factory.mktemp("site"))
    book.write("CHANGELOG.md", CHANGELOG)
    book.write("CITATION.cff", CITATION)
    book.write(
        "book/two.md", f"# Two \\<of\\> $\\gamma$\n\n:::{{note}}\nNot this.\n:::\n\n{LONG}\n\nNor this.\n"
    )
    book.write("book/library.md", "# Library\n")
    book.write("book/bibliography.md", OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "png", lambda title: PICTURE)
        assert book.build() == ""
        plain = book.folder / "_build" / "plain"
        shutil.copytree(book.out, plain)
        settings(patch, html_baseurl=BASE.rstrip("/"))
        assert book.build() == ""
    return SimpleNamespace(plain=SimpleNamespace(out=plain), known=book)


OWN = """---
myst:
  html_meta:
    description: What its author "says" & means
---

# Books

```{bibliography}
:all:
```
"""
LONG = 'Said & done with *care*, for $\\gamma\\le1$ and "quotes"; ' + "then come words, " * 12


def test_every_page_says_in_a_sentence_what_it_is(made):
    for book in (made.plain, made.known):
        for name, head in heads(book).items():
            text = head.one("description")
            assert text == head.one("og:description")
            assert 0 < len(text) <= 160, name
            assert not re.search(r"[<>{}\\$]|\s\s", text.replace("<of>", "")), text
            assert head.one("og:title"), name
            assert head.one("og:site_name") == "Scientific Spaces, Executable"
            kind = "website" if name in ("index.html", "book/intro.html") else "article"
            assert head.one("og:type") == kind, name
    found = heads(made.plain)
    start = 'Said & done with care, for γ≤1 and "quotes"; then come words, then'
    assert found["book/two.html"].one("description").replace("“", '"').replace("”", '"').startswith(start)
    assert found["book/two.html"].one("description").endswith(("words…", "come…", "then…"))
    assert found["book/two.html"].one("og:title") == "Two <of> γ"
    assert (
        found["book/one.html"].one("description").startswith("It took 12.3 s; the mean is −1.23\xa0±\xa00.06")
    )
    assert found["book/library.html"].one("description") == "Library. What it is about."
    assert found["book/bibliography.html"].one("description") == 'What its author "says" & means'
    assert found["search.html"].one("description") == "Search. What it is about."


def test_without_an_address_nothing_is_written_that_needs_one(made):
    for head in heads(made.plain).values():
        assert head.linked("canonical") == head.linked("alternate") == []
        assert not {"og:url", "og:image", "og:image:alt"} & head.names.keys()
        assert head.one("twitter:card") == "summary"
    for name in ("sitemap.xml", "robots.txt", "feed.xml", "_static/card.png"):
        assert not (made.plain.out / name).exists()
        assert (made.known.out / name).exists()


def test_with_an_address_every_page_knows_its_own(made):
    for name, head in heads(made.known).items():
        own = BASE + ("book/intro.html" if name == "index.html" else name)
        assert head.linked("canonical") == [own]
        assert head.one("og:url") == own
        assert head.one("og:image") == BASE + "_static/card.png"
        assert head.one("og:image:alt") == card.ALT
        assert head.one("twitter:card") == "summary_large_image"
        assert head.linked("alternate") == [BASE + "feed.xml"]
    assert (made.known.out / "_static/card.png").read_bytes() == PICTURE


def test_the_sitemap_lists_the_pages_and_robots_are_sent_to_it(made):
    tree = ElementTree.parse(made.known.out / "sitemap.xml").getroot()
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    assert tree.tag == f"{space}urlset"
    found = [entry.findtext(f"{space}loc") for entry in tree]
    names = {path.relative_to(made.known.out).as_posix() for path in (made.known.out / "book").glob("*.html")}
    assert sorted(found) == sorted(BASE + name for name in names)
    lines = (made.known.out / "robots.txt").read_text().splitlines()
    assert lines == ["User-agent: *", "Allow: /", "", f"Sitemap: {BASE}sitemap.xml"]


def test_the_feed_has_the_versions_that_are_released(made):
    tree = ElementTree.parse(made.known.out / "feed.xml").getroot()
    atom = "{http://www.w3.org/2005/Atom}"
    for element in (tree, *tree.findall(f"{atom}entry")):  # what RFC 4287 asks for
        assert all(element.findtext(f"{atom}{name}") for name in ("id", "title", "updated"))
    assert tree.findtext(f"{atom}author/{atom}name")
    assert tree.findtext(f"{atom}updated") == "2026-02-03T00:00:00Z"
    entries = {e.findtext(f"{atom}id"): e for e in tree.findall(f"{atom}entry")}
    assert list(entries) == [f"{BASE}feed.xml#1.2.0", f"{BASE}feed.xml#1.1.0"]
    content = entries[f"{BASE}feed.xml#1.2.0"].find(f"{atom}content")
    assert content.get("type") == "html"
    assert "<li>A chapter on <code>a &lt; b</code> &amp; more.</li>" in content.text
    assert "first" not in content.text


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("Short.", 6, "Short."),
        ("One sentence. Another one.", 20, "One sentence."),
        ("One. Another sentence, and more of it.", 24, "One. Another sentence…"),
        ("One two three. Four. Five six.", 18, "One two three."),
        ("No end of words here", 11, "No end of…"),
    ],
)
def test_texts_are_cut_between_sentences_or_words(text, most, expected):
    assert words.short(text, most) == expected
    assert len(expected) <= most


# -- the address ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "setting", "address"),
    [
        (None, "", ""),
        ("", "https://a.org", "https://a.org/"),
        ("https://b.org/c/", "https://a.org", "https://b.org/c/"),
        (" http://b.org/c// ", "", "http://b.org/c/"),
    ],
)
def test_the_address_ends_with_a_stroke_and_the_variable_comes_first(monkeypatch, variable, setting, address):
    if variable is not None:
        monkeypatch.setenv("KEXUE_BASEURL", variable)
    config = SimpleNamespace(html_baseurl=setting)
    site.address(None, config)
    assert config.html_baseurl == address


@pytest.mark.parametrize(
    "wrong", ["example.org", "//example.org", "ftp://a.org", "https://", "https://a.org/?a=b"]
)
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(
        ConfigError, match=re.escape(f"expected an address such as https://example.org/book/, got '{wrong}'")
    ):
        site.address(None, SimpleNamespace(html_baseurl=wrong))


def test_no_address_is_set_and_the_publication_hands_over_its_own():
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["html"]["baseurl"] == ""
    flows = ROOT / ".github" / "workflows"
    pages, ci = (yaml.safe_load((flows / f"{name}.yml").read_text())["jobs"] for name in ("pages", "ci"))
    [step] = [step for step in ci["test"]["steps"] if step.get("run") == ".ci/run"]
    assert step["env"][site.VARIABLE] == "${{ inputs.baseurl }}"
    assert "github.repository" in step["env"][site.REPOSITORY]
    assert pages["ci"]["with"] == {"baseurl": "${{ needs.address.outputs.baseurl }}"}
    [step] = pages["address"]["steps"]
    assert pages["address"]["outputs"] == {"baseurl": f"${{{{ steps.{step['id']}.outputs.base_url }}}}"}
    assert step["uses"].startswith("actions/configure-pages@")


# -- the repository ---------------------------------------------------------------------------


def settled(setting=""):
    config = SimpleNamespace(html_theme_options={"repository_url": setting})
    site.repository(None, config)
    return config.html_theme_options


@pytest.mark.parametrize(
    ("variable", "setting", "url"),
    [
        ("", "https://a.org/b/c", "https://a.org/b/c"),
        ("https://github.com/b/c.git", "https://a.org/b/c", "https://github.com/b/c"),
        (" https://gitlab.com/b/c/d/ ", "", "https://gitlab.com/b/c/d"),
    ],
)
def test_the_repository_gives_links_to_sources_and_binder(monkeypatch, variable, setting, url):
    monkeypatch.setenv(site.REPOSITORY, variable)
    options = settled(setting)
    assert options["repository_url"] == url
    assert options["use_repository_button"] is True
    assert set(options["launch_buttons"]) == {"notebook_interface", "binderhub_url"}


def test_without_a_repository_there_is_no_button():
    assert settled() == {"repository_url": ""}
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"] == ""


@pytest.mark.parametrize("wrong", ["github.com/a/b", "https://github.com/a", "https://a.org/b/c?d=e"])
def test_what_is_no_repository_is_refused(wrong):
    with pytest.raises(ConfigError, match=re.escape(f"got '{wrong}'")):
        settled(wrong)


def test_the_button_opens_this_very_file_with_the_environment_of_the_project(tmp_path, monkeypatch, made):
    book = Book(tmp_path)
    monkeypatch.setenv(site.REPOSITORY, "https://github.com/someone/some-book")
    assert book.build() == ""
    [link] = re.findall(r'href="(https://mybinder\.org[^"]*)"', book.page("one"))
    assert link == f"{site.BINDER}/v2/gh/someone/some-book/main?urlpath=lab/tree/book/one.md"
    assert (ROOT / "environment.yml").is_file()
    assert "mybinder" not in book.page("intro")  # there is nothing to run
    assert "mybinder" not in (made.plain.out / "book" / "one.html").read_text("utf-8")


@pytest.fixture
def fingerprint():
    spec = util.spec_from_file_location("fingerprint_of_site", ROOT / "tools" / "fingerprint.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("variable", [site.VARIABLE, site.REPOSITORY])
def test_pages_depend_on_the_addresses(fingerprint, monkeypatch, variable):
    before = fingerprint.everything(), fingerprint.skeleton()
    assert before == (fingerprint.everything(), fingerprint.skeleton())
    monkeypatch.setenv(variable, BASE)
    after = fingerprint.everything(), fingerprint.skeleton()
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_the_book_depends_on_commit_and_citation_its_pages_one_by_one_do_not(fingerprint, monkeypatch):
    before = fingerprint.everything(), fingerprint.skeleton()
    monkeypatch.setattr(fingerprint, "commit", lambda: "another")
    assert fingerprint.everything() != before[0]
    assert fingerprint.skeleton() == before[1]
    monkeypatch.undo()
    listed = fingerprint.files(*fingerprint.ABOUT)
    assert [path.name for path in listed] == ["CHANGELOG.md", "CITATION.cff"]
    monkeypatch.setattr(fingerprint, "ABOUT", ())
    assert fingerprint.everything() != before[0]


# -- the card ---------------------------------------------------------------------------------


def test_the_card_is_what_other_sites_expect_and_always_the_same():
    found = card.png("A title")
    assert found == card.png("A title")
    assert found != card.png("Another")
    assert len(found) <= 100_000
    picture = Image.open(BytesIO(found))
    assert (picture.format, picture.size) == ("PNG", (1200, 630))
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_no_word_of_the_card_leaves_it():
    picture = np.asarray(
        Image.open(BytesIO(card.png("Scientific Spaces, Executable"))).convert("RGB")
    ).astype(int)
    paper = np.array([int(card.PAPER[k : k + 2], 16) for k in (1, 3, 5)])
    ink = np.abs(picture - paper).max(2) > 8
    edge = np.ones_like(ink)
    edge[15:-12, 50:-50] = False
    assert ink.any()
    assert not (ink & edge).any()


def test_the_card_says_what_is_so():
    named = card.counts()
    assert all(counts.sum() == card.POINTS * card.K for counts in named.values())
    assert (named[3] == 0).mean() < 0.02
    assert named[3].max() < 30
    assert (named[100] == 0).mean() > 0.15  # many are never named
    assert named[100].max() / card.POINTS == pytest.approx(0.25, abs=0.05)  # one by a quarter of all


# -- renamed pages ----------------------------------------------------------------------------


def test_renamed_pages_lead_to_the_new_ones(tmp_path, monkeypatch):
    book = Book(tmp_path)
    monkeypatch.setattr(card, "png", lambda title: PICTURE)
    renamed = {"book/old": "book/two", "older": "book/one#section-sum", "book/deep/est": "book/two"}
    settings(monkeypatch, kexue_redirects=renamed, html_baseurl=BASE)
    assert book.build() == ""
    leads = {
        "book/old.html": ("two.html", "book/two.html", "Two"),
        "older.html": ("book/one.html#section-sum", "book/one.html", "Sums of 29 numbers"),
        "book/deep/est.html": ("../two.html", "book/two.html", "Two"),
    }
    for name, (link, canonical, title) in leads.items():
        text = (book.out / name).read_text("utf-8")
        assert f'<meta http-equiv="refresh" content="0; url={link}" />' in text
        assert f'<a href="{link}">{title}</a>' in text
        assert f"<title>{title}</title>" in text
        assert Head(text).linked("canonical") == [BASE + canonical]
        assert ((book.out / name).parent / link.partition("#")[0]).resolve().is_file()
    assert "older" not in (book.out / "sitemap.xml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("book/two", "book/one", "'book/two' is a page, or no name of one"),
        ("../two", "book/one", "'../two' is a page, or no name of one"),
        ("book/old", "book/three", "'book/old' should lead to 'book/three', which there is not"),
        ("book/old", "book/one#nowhere", "'book/old' should lead to 'book/one#nowhere', which there is not"),
    ],
)
def test_wrong_redirects_are_refused(made, old, new, message):
    """Without a build: of the finished book only files and titles are asked."""
    builder = SimpleNamespace(
        get_outfilename=lambda name: str(made.known.out / f"{name}.html"),
        get_target_uri=lambda name: f"{name}.html",
    )
    titles = {name: nodes.title("", name) for name in ("book/intro", "book/one", "book/two")}
    env = SimpleNamespace(found_docs={*titles}, titles=titles, get_doctree=lambda name: None)
    about = {"root_doc": "book/intro", "html_baseurl": "", "html_title": "T"}
    config = SimpleNamespace(kexue_redirects={old: new}, project="P", **about)
    app = SimpleNamespace(
        builder=builder, env=env, config=config, outdir=made.known.out, srcdir=made.known.folder
    )
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.LOG, "warning", lambda text, *rest: said.append(text % rest))
        assert set(site.redirects(app)) == {"index.html"}
    assert said == [f"kexue_redirects: {message}"]
