"""How the book is cited: three forms that programs can read, in agreement with each other and the sources."""

import json
import re
import subprocess
import time
from html import unescape
from types import SimpleNamespace

import pytest
import yaml
from docutils import nodes
from jsonschema import Draft202012Validator
from kexue_ext import cite, words
from pybtex.database import parse_string
from sphinx.errors import ConfigError
from test_extension import HEAD, RECORD, ROOT, VERDICT, Book

from kexue_lib import notebooks

CITATION = """cff-version: 1.2.0
title: Books & their, "uses"
version: 1.2.3
abstract: What it is about.
authors:
  - name: The authors, all of them
  - family-names: Čech
    given-names: Eduard
"""
SOURCE = """
Source: Su Jianlin, *系列（一）：100% of A_b & $*, [kexue.fm/archives/11](https://kexue.fm/archives/11),
1 June 2022; *（二）：“苏剑林”*, [kexue.fm/archives/12](https://kexue.fm/archives/12), 12 December 2023.
Papers: {cite}`author2000`, *No post*, [a paper](https://example.org/paper), 3 March 2003.
"""
CLOSING = "\nTo cite this chapter, cite the book and the post.\n"
# The part of the schema of CSL-JSON (citation-style-language/schema) that has what we write.
NAMES = {"family", "given", "literal"}
PLAIN = ("id", "title", "container-title", "version", "note", "language", "URL")
ITEM = {
    "type": "object",
    "required": ["id", "type", "title", "author", "issued"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string", "minLength": 1} for name in PLAIN},
        "type": {"enum": ["book", "chapter", "post-weblog"]},
        "author": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: {"type": "string"} for name in NAMES},
                "oneOf": [{"required": ["literal"]}, {"required": ["family", "given"]}],
            },
        },
        "issued": {
            "type": "object",
            "additionalProperties": False,
            "required": ["date-parts"],
            "properties": {
                "date-parts": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 2,
                    "items": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 3,
                        "items": {"type": "integer"},
                    },
                }
            },
        },
    },
}
CSL = Draft202012Validator({"type": "array", "items": ITEM})
COMMIT = "0123456789abcdef0123456789abcdef01234567"


# -- readers of the three forms, which know nothing of our writers ----------------------------


def read_bibtex(text):
    """Return key → fields; raise if the text is not BibTeX or would not survive TeX."""
    found = {}
    for key, entry in parse_string(text, "bibtex").entries.items():
        about = {name: value for name, value in entry.fields.items()}
        for name, value in about.items():
            if name != "url":
                outside = re.sub(r"\$[^$]*\$", "", value)
                assert not re.search(r"(?<!\\)[%&#_]|[“”‘’–—]", outside), value
            # BibTeX counts a brace also behind a backslash.
            assert value.count("{") == value.count("}"), value
        about["author"] = [str(person) for person in entry.persons["author"]]
        found[key] = about
    return found


def read_ris(text):
    """Return records (tag → values) of a file, by the grammar of its lines."""
    records, now = [], None
    for line in text.split("\r\n"):
        if not line:
            continue
        match = re.fullmatch(r"([A-Z][A-Z0-9])  - ([^\r\n]*)", line)
        assert match, line
        tag, value = match.groups()
        assert (now is None) == (tag == "TY"), line
        if tag == "TY":
            now = {}
        if tag == "ER":
            records.append(now)
            now = None
        else:
            assert value == value.strip() != "", line
            now.setdefault(tag, []).append(value)
    assert now is None
    return records


@pytest.mark.parametrize(
    "text",
    ["AU  - first\r\n", "TY  - BOOK\r\n", "TY - BOOK\r\nER  - \r\n", "TY  - BOOK\r\nTI  - \r\nER  - \r\n"],
)
def test_the_reader_of_ris_refuses(text):
    with pytest.raises(AssertionError):
        read_ris(text)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("type", "blog"),
        ("title", ""),
        ("issued", {"date-parts": [["2026"]]}),
        ("pages", "1"),
        ("author", [{}]),
    ],
)
def test_the_schema_refuses(part, value):
    item = cite.csl(POST)
    assert CSL.is_valid([item])
    assert not CSL.is_valid([item | {part: value}])


# -- writers ----------------------------------------------------------------------------------

SU = ({"family": "Su", "given": "Jianlin"},)
POST = cite.Work(
    "post",
    "su2022",
    ((False, "题目"),),
    SU,
    (2022, 6, 28),
    "Blog",
    address="https://a.org/b_c",
    language="zh",
)
HARD = "50% of A_b & {c} \\ #1 ~ ^ $5 “d” ‘e’ 1–2 — é Čech 苏剑林…"


# How TeX prints what a careful author types for each sign.
PRINTED = {
    r"\textbackslash{}": "\\",
    r"\textbraceleft{}": "{",
    r"\textbraceright{}": "}",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\ldots{}": "…",
    **{f"\\{sign}": sign for sign in "%_&#$"},
    "---": "—",
    "--": "–",
    "``": "“",
    "''": "”",
    "`": "‘",
    "'": "’",
}


def test_a_hard_title_survives_bibtex():
    work = cite.Work("post", "k", ((False, HARD),), SU, (2022,))
    [about] = read_bibtex(cite.bibtex(work)).values()
    title = re.fullmatch(r"\{(.*)\}", about["title"])[1]
    commands = "|".join(map(re.escape, PRINTED))
    assert re.sub(commands, lambda match: PRINTED[match[0]], title) == HARD


def test_formulas_stay_tex_in_bibtex_and_are_spoken_elsewhere():
    title = ((False, "Why "), (True, r"\{x\}^2\le\gamma_1"), (False, " holds"))
    work = cite.Work("post", "k", title, SU, (2022,))
    [about] = read_bibtex(cite.bibtex(work)).values()
    assert about["title"] == r"{Why $\lbrace x\rbrace ^2\le\gamma_1$ holds}"
    assert cite.csl(work)["title"] == "Why x^2≤γ_1 holds"
    assert "TI  - Why x^2≤γ_1 holds\r\n" in cite.ris(work)


def test_a_group_with_a_comma_in_its_name_stays_one_author():
    """BibTeX, RIS and CSL-JSON would each read `A, B` as a family name and a given name."""
    work = cite.Work("book", "k", ((False, "T"),), ({"literal": "One and two, three"}, *SU), (2022,))
    [about] = read_bibtex(cite.bibtex(work)).values()
    assert about["author"] == ["{One and two, three}", "Su, Jianlin"]
    assert read_ris(cite.ris(work))[0]["AU"] == ["One and two three", "Su, Jianlin"]
    assert cite.csl(work)["author"] == [{"literal": "One and two, three"}, *SU]


def test_a_post_in_each_form():
    assert read_bibtex(cite.bibtex(POST)) == {
        "su2022": {
            "author": ["Su, Jianlin"],
            "title": "{题目}",
            "howpublished": "Blog",
            "year": "2022",
            "month": "June",
            "note": "In Chinese",
            "url": "https://a.org/b_c",
        }
    }
    [record] = read_ris(cite.ris(POST))
    assert record == {
        "TY": ["BLOG"], "ID": ["su2022"], "AU": ["Su, Jianlin"], "TI": ["题目"], "T2": ["Blog"],
        "PY": ["2022"], "DA": ["2022/06/28/"], "LA": ["zh"], "UR": ["https://a.org/b_c"],
    }  # fmt: skip
    assert cite.csl(POST)["issued"] == {"date-parts": [[2022, 6, 28]]}


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (r"\gamma\le 1", "γ≤1"),
        (r"\Lambda \varepsilon", "Λε"),
        (r"\frac{a}{b}", "a/b"),
        (r"\tfrac12", "1/2"),
        (r"p(x)\,p(y|x)^\gamma", "p(x) p(y|x)^γ"),
        (r"\mathrm{KL}", "KL"),
    ],
)
def test_short_formulas_are_spoken(formula, text):
    assert words.spoken(formula) == text


# -- sources ----------------------------------------------------------------------------------


def git(folder, *asked):
    done = subprocess.run(["git", *asked], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    dated(monkeypatch, "2026-01-02T03:04:05Z")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "one.md").write_text("one")
    for asked in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        git(tmp_path, *asked)
    return tmp_path


def dated(monkeypatch, day):
    for role in ("AUTHOR", "COMMITTER"):
        for key, value in {"NAME": "A", "EMAIL": "a@example.org", "DATE": day}.items():
            monkeypatch.setenv(f"GIT_{role}_{key}", value)


def test_the_commit_is_named_if_the_sources_are_its_own(repository):
    found = cite.history(repository)
    assert found == (git(repository, "rev-parse", "HEAD"), (2026, 1, 2))
    (repository / "notes.txt").write_text("no source")
    assert cite.history(repository) == found
    (repository / "book" / "two.md").write_text("new")
    assert cite.history(repository) == ("", ())


def test_no_commit_without_a_repository_of_its_own(repository, tmp_path_factory, monkeypatch):
    assert cite.history(tmp_path_factory.mktemp("bare")) == ("", ())
    assert cite.history(repository / "book") == ("", ())  # unpacked in somebody's repository
    monkeypatch.setenv("PATH", "/nowhere")
    assert cite.history(repository) == ("", ())


def test_the_date_is_that_of_the_release_or_the_commit_or_the_year(repository):
    config = SimpleNamespace(
        html_title="T", html_baseurl="", author="A", copyright="2031", root_doc="book/intro"
    )
    app = SimpleNamespace(srcdir=repository, config=config)
    assert (cite.about(app).date, cite.about(app).key) == ((2026, 1, 2), "kexue2026")
    (repository / "CITATION.cff").write_text(CITATION)  # not of the commit
    assert (cite.about(app).date, cite.about(app).commit) == ((2031,), "")
    (repository / "CITATION.cff").write_text(CITATION + "date-released: 2029-05-06\nurl: https://a.org\n")
    assert cite.about(app).date == (2029, 5, 6)
    assert cite.about(app).address == "https://a.org"
    (repository / "CITATION.cff").write_text(CITATION)
    config.copyright = "nobody"
    with pytest.raises(ConfigError, match=r"copyright: expected a year .* got 'nobody'"):
        cite.about(app)


def paragraph(*parts):
    node = nodes.paragraph()
    node += [nodes.Text(part) if isinstance(part, str) else part for part in parts]
    return nodes.section("", node)


def test_the_line_of_sources_ends_where_papers_begin():
    link = nodes.reference("", "kexue.fm", refuri="https://kexue.fm/archives/7")
    line = paragraph(
        "Source: Su Jianlin, ", nodes.emphasis("", "A title"), ", ", link, ", 3 May 2021. Papers: B."
    )
    [post] = cite.posts(line, {})
    assert (post.key, post.date, post.language) == ("su2021kexue7", (2021, 5, 3), "en")
    assert cite.posts(line, {"https://kexue.fm/archives/7": "known"})[0].key == "known"
    assert cite.posts(paragraph("Source: Su Jianlin, nobody knows where."), {}) == []
    assert cite.posts(paragraph("No source."), {}) == []


# -- a book -----------------------------------------------------------------------------------


def citable(folder):
    """Write a book that has all that is cited, with its first commit."""
    book = Book(folder)
    text = (
        (folder / "book/one.md")
        .read_text()
        .replace("\n(section-sum)=", SOURCE + CLOSING + "\n(section-sum)=")
    )
    book.write("book/one.md", text.replace("# Sums of", "# Sums $s_n\\le\\gamma$ – of"))
    assert text.startswith(HEAD)
    book.execute([VERDICT], RECORD)
    book.write("book/cite.md", "# How to cite\n\n:::{kexue-cite}\n:::\n")
    book.change("_toc.yml", "- file: book/two", "- file: book/two\n      - file: book/cite")
    book.write("CITATION.cff", CITATION)
    book.write(".gitignore", "_build\nout\n")
    for asked in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        git(folder, *asked)
    return book


@pytest.fixture(scope="module")
def cited(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        dated(patch, "2026-01-02T03:04:05Z")
        patch.setenv("KEXUE_BASEURL", "https://example.org/b")
        book = citable(tmp_path_factory.mktemp("cited"))
        assert book.build() == ""
    return book


def made(book):
    return {path.name: path.read_bytes().decode() for path in sorted((book.out / "_cite").iterdir())}


def test_files_of_book_and_chapter_say_the_same_in_three_forms(cited):
    found, commit = made(cited), git(cited.folder, "rev-parse", "HEAD")
    assert set(found) == {
        f"{name}{suffix}" for name in ("book", "one") for suffix in (".bib", ".ris", ".json")
    }
    for name, count in {"book": 1, "one": 3}.items():
        items, records = json.loads(found[f"{name}.json"]), read_ris(found[f"{name}.ris"])
        CSL.validate(items)
        entries = read_bibtex(found[f"{name}.bib"])
        assert len(items) == count
        assert list(entries) == [item["id"] for item in items] == [one["ID"][0] for one in records]
        for item, entry, record in zip(items, entries.values(), records, strict=True):
            year = item["issued"]["date-parts"][0][0]
            assert [str(year)] == [entry["year"]] == record["PY"]
            assert item["URL"] == entry["url"] == record["UR"][0]
            assert item["title"] == record["TI"][0]
            assert len(item["author"]) == len(entry["author"]) == len(record["AU"])
    book, chapter = json.loads(found["book.json"])[0], json.loads(found["one.json"])[0]
    assert book["URL"] == "https://example.org/b/book/intro.html"
    assert chapter["URL"] == "https://example.org/b/book/one.html"
    assert book["title"] == chapter["container-title"] == 'Books & their, "uses"'
    assert chapter["title"] == "Sums s_n≤γ – of 29 numbers"
    assert r"title = {{Sums $s_n\le\gamma$ -- of 29 numbers}}" in found["one.bib"]
    assert book["version"] == chapter["version"] == "1.2.3"
    assert book["note"] == f"Commit {commit}"
    assert f"note = {{Version 1.2.3, commit {commit[:12]}}}" in found["one.bib"]
    assert book["issued"] == {"date-parts": [[2026, 1, 2]]}


def test_the_posts_are_cited_with_their_full_titles(cited):
    posts = json.loads(made(cited)["one.json"])[1:]
    assert [post["title"] for post in posts] == ["系列（一）：100% of A_b & $", "系列（二）：“苏剑林”"]
    assert [post["URL"] for post in posts] == ["https://kexue.fm/archives/11", "https://kexue.fm/archives/12"]
    assert [post["issued"]["date-parts"][0] for post in posts] == [[2022, 6, 1], [2023, 12, 12]]
    assert {post["author"][0]["family"] for post in posts} == {"Su"}


def test_the_page_shows_the_files_and_the_chapter_leads_there(cited):
    page = cited.page("cite")
    links = re.findall(r'href="(\.\./_cite/[\w.]+)"', page)
    assert [link.rpartition("/")[2] for link in links] == [
        f"{name}{suffix}" for name in ("book", "one") for suffix in (".bib", ".ris", ".json")
    ]
    assert all((cited.out / "book" / link).resolve().is_file() for link in links)
    assert '<a class="reference internal" href="cite.html#cite-one">To cite this chapter</a>' in cited.page(
        "one"
    )
    assert '<section id="cite-one">' in page
    assert page.count('<div class="highlight-bibtex') == 2  # which the button for copying needs
    shown = unescape(re.sub(r"<[^>]+>", "", page))
    assert "title = {{系列（二）：``苏剑林''}}" in re.sub(r"\s+", " ", shown)
    assert "Su Jianlin (2023): 系列（二）：“苏剑林”" in shown


def test_the_same_commit_gives_the_same_bytes(cited, monkeypatch):
    monkeypatch.setenv("KEXUE_BASEURL", "https://example.org/b")
    before = made(cited), cited.page("cite")
    subprocess.run(["rm", "-r", str(cited.folder / "_build")], check=True)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert cited.build() == ""
    assert (made(cited), cited.page("cite")) == before


def test_a_new_commit_reaches_page_and_files_without_a_new_text(tmp_path, monkeypatch):
    dated(monkeypatch, "2026-01-02T03:04:05Z")
    book = citable(tmp_path)
    assert book.build() == ""
    assert json.loads(made(book)["one.json"])[0].get("URL") is None  # no address is known
    dated(monkeypatch, "2027-03-04T03:04:05Z")
    git(tmp_path, "commit", "-qm", "nothing", "--allow-empty")
    assert book.build() == ""
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit[:12] in book.page("cite")
    assert f"Commit {commit}" in made(book)["book.ris"]
    assert "year = {2027}" in made(book)["one.bib"]
    book.change("CITATION.cff", "1.2.3", "1.2.4")
    assert book.build() == ""
    assert "version 1.2.4" in book.page("cite")
    assert "commit" not in book.page("cite").partition("</article>")[0].partition("<article")[2].lower()


def test_a_chapter_without_source_is_refused(tmp_path):
    book = citable_without_git(tmp_path)
    book.change("book/one.md", "Source: ", "Sources: ")
    book.execute([VERDICT], RECORD)
    assert "no post to cite: expected a line `Source:" in book.build()


def citable_without_git(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_cite.git", lambda *_: "")
        return citable(folder)


# -- this book --------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", notebooks.chapters())
def test_each_chapter_is_cited_with_the_posts_it_names(slug):
    path = ROOT / "_build" / "html" / "_cite" / f"{slug}.json"
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `make book` first")
    items = json.loads(path.read_text("utf-8"))
    CSL.validate(items)
    text = (ROOT / "book" / f"{slug}.md").read_text("utf-8")
    line = re.search(r"^Source: (.*?) Papers:", text, re.M)[1]
    assert [one["URL"] for one in items[1:]] == re.findall(r"\((https://kexue\.fm/archives/\d+)\)", line)
    assert line.count("*") == 2 * len(items[1:])
    assert {one["language"] for one in items[1:]} == {"zh"}
    assert re.findall(r"\b20\d\d\b", line) == [str(one["issued"]["date-parts"][0][0]) for one in items[1:]]
    assert read_bibtex(path.with_suffix(".bib").read_text("utf-8")).keys() == {one["id"] for one in items}
    read_ris(path.with_suffix(".ris").read_bytes().decode())
    assert re.search(r"^# (.+)$", text, re.M)[1] == items[0]["title"].replace("’", "'")
    page = path.parents[1] / "book" / f"{slug}.html"
    assert f'href="cite.html#cite-{slug}">To cite this chapter</a>' in page.read_text("utf-8")


def test_no_key_is_given_twice():
    path = ROOT / "_build" / "html" / "_cite"
    found = {}
    for file in path.glob("*.json"):
        for item in json.loads(file.read_text("utf-8")):
            assert found.setdefault(item["id"], item) == item
    assert len(found) > 2 * len(notebooks.chapters())


def test_the_bibliography_and_the_citation_file_know_every_post_under_its_own_title():
    chapters = [(ROOT / "_build" / "html" / "_cite" / f"{slug}.json") for slug in notebooks.chapters()]
    posts = [one for path in chapters for one in json.loads(path.read_text("utf-8"))[1:]]
    entries = parse_string((ROOT / "book" / "references.bib").read_text("utf-8"), "bibtex").entries
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["references"]
    assert [one["url"] for one in cff] == [post["URL"] for post in posts]
    for post, reference in zip(posts, cff, strict=True):
        entry = entries[post["id"]].fields
        date = post["issued"]["date-parts"][0]
        assert entry["url"] == post["URL"]
        assert entry["title"].strip("{}").replace("``", "“").replace("''", "”") == post["title"]
        assert (int(entry["year"]), entry["month"]) == (date[0], cite.MONTHS[date[1] - 1])
        assert reference["title"] == post["title"]
        assert list(map(int, str(reference["date-published"]).split("-"))) == date
