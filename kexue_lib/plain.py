"""Chapters as plain Markdown: no roles, directives or labels, which Jupyter without extensions does not know.

Each is replaced by what the page of the book shows: numbers of equations, figures, theorems and exercises,
citations, titles. `plain` and `rewrite` change the text and ask a function what a reference looks like. The
book's own build asks Sphinx; `References` knows it without Sphinx, by counting as Sphinx counts.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple
from unicodedata import normalize
from urllib.parse import urljoin

from kexue_lib.record import fill

Show = Callable[[str], str]
# A role, or a link that names a label or a page of the book.
REFERENCE = re.compile(r"\{[a-z:]+\}`[^`]+`|\[[^\]\n]*\]\((?:#[\w:-]+|[\w/-]+\.md(?:#[\w:-]+)?)\)")
ROLE = re.compile(r"\{([a-z:]+)\}`(?:([^`<]+?) *<([^`<>]+)>|([^`]+))`")
LINK = re.compile(r"\[([^\]\n]*)\]\(([\w/-]+\.md)?(?:#([\w:-]+))?\)")
MATH = re.compile(r"^( *)\$\$(.+?)\$\$ *\(([\w:-]+)\) *$", re.M | re.S)
FENCE = re.compile(r"^ *(:{3,}|`{3,})\{([\w:-]+)\} *(.*)$")
OPTION = re.compile(r" *:([\w-]+): *(.*)$")
DROPPED = re.compile(r"^(\([\w:-]+\)=|%.*|\{[.#][^}]*\})\s*$")
BOXES = ("note", "tip", "hint", "important", "warning", "caution", "attention", "seealso")


def _start(name: str, title: str, options: Mapping[str, str], show: Show) -> tuple[str, str] | None:
    """Return what a directive begins and ends with in plain Markdown, or None."""
    kind = name.removeprefix("prf:").removesuffix("-start")
    label = options.get("label")
    title = f" ({title})" if title else ""
    if kind == "proof":
        return f"**Proof{title}.**\n", "\n∎"
    if kind == "kexue-sweep":
        return f"```bash\n{title[2:-1]}\n```\n", ""
    if name.startswith("prf:"):
        number = show(f"{{prf:ref}}`{label}`") if label else kind.capitalize()
        return f"**{number}{title}.**\n", ""
    if kind == "exercise":
        return f"**{show(f'{{ref}}`{label}`') if label else 'Exercise'}{title}.**\n", ""
    if kind in ("solution", "dropdown"):
        what = f"Solution of {show(f'{{ref}}`{title[2:-1]}`')}" if kind == "solution" else title[2:-1]
        if name.endswith("-start"):
            return f"**{what}.**\n", ""
        return f"<details><summary>{what}</summary>\n", "\n</details>"
    if kind in BOXES or kind == "admonition":
        return f"**{title[2:-1] or kind.capitalize()}.**\n", ""
    if name in ("solution-end", "exercise-end"):
        return "", ""
    return None


def plain(source: str, show: Show, refuse: Callable[[str], None] = lambda name: None) -> str:
    r"""Return MyST Markdown as plain Markdown.

    Parameters
    ----------
    source : str
        The text of a page or of a cell.
    show : function of str
        Says what a reference looks like, for example ``[there](other.md)``.
    refuse : function of str
        Is told the name of each directive that has no plain form; what it holds is kept.

    Examples
    --------
    >>> print(plain("(here)=\nBy {eq}`eq-a`\n:::{note}\nwe see\n:::", lambda reference: "(1.1)"))
    By (1.1)
    **Note.**
    <BLANKLINE>
    we see
    """

    def tagged(match: re.Match[str]) -> str:
        number = show(f"{{eq}}`{match[3]}`").strip("()")
        return f"{match[1]}$${match[2].rstrip()} \\tag{{{number}}}\n$$"

    lines: list[str] = []
    ends: list[list[str]] = []  # what closes each open fence, and what it leaves
    fresh: tuple[str, str, dict[str, str]] | None = None  # the directive that was just opened
    for line in [*MATH.sub(tagged, source).splitlines(), ""]:
        if fresh:
            if option := OPTION.match(line):
                fresh[2][option[1]] = option[2]
                continue
            begin_end = _start(*fresh, show)
            if begin_end is None:
                refuse(fresh[0])
            lines.append((begin_end or ("", ""))[0])
            ends[-1][1], fresh = (begin_end or ("", ""))[1], None
        if ends and line.strip() == ends[-1][0]:
            lines.append(ends.pop()[1])
        elif ends and ends[-1][1] == "```":  # code is left as it is
            lines.append(line)
        elif opened := FENCE.match(line):
            code = opened[2] in ("code-block", "code")
            ends.append([opened[1], "```" if code else ""])
            if code:
                lines.append("```" + opened[3])
            else:
                fresh = (opened[2], opened[3], {})
        elif opened := re.match(r" *(```+)\w*$", line):
            ends.append([opened[1], "```"])
            lines.append(line)
        elif not DROPPED.match(line):
            lines.append(REFERENCE.sub(lambda match: show(match[0]), line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _figure(cell: Any) -> dict[str, str]:
    """Return caption and name of the figure that a code cell draws, if it has a caption."""
    about = (cell.get("metadata", {}).get("mystnb") or {}).get("figure") or {}
    return about if about.get("caption") else {}


def rewrite(notebook: Any, show: Show, refuse: Callable[[str], None] = lambda name: None) -> None:
    """Make the text of a notebook plain, in place; the caption of a figure becomes text below its cell.

    Tags stay, and with them the cell that papermill knows as ``parameters``; ids are numbered anew.
    """
    from nbformat import NotebookNode

    cells: list[Any] = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, show, refuse)
        elif figure := _figure(cell):
            name = figure.get("name")
            begin = f"**{show(f'{{numref}}`{name}`')}.** " if name else ""
            text = begin + plain(" ".join(str(figure["caption"]).split()), show, refuse)
            cells.append(NotebookNode(cell_type="markdown", metadata=NotebookNode(), source=text))
            del cell.metadata["mystnb"]["figure"]  # said once
            if not cell.metadata["mystnb"]:
                del cell.metadata["mystnb"]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:04}"
    notebook.cells = cells


class Target(NamedTuple):
    """What a label stands at: its kind, its number (``3.2``, or nothing), and what a reference shows."""

    kind: str
    number: str
    text: str


@dataclass(frozen=True)
class Page:
    """What can be referred to on a page: its title and its labels."""

    title: str = ""
    labels: Mapping[str, Target] = field(default_factory=dict)


def page(cells: Sequence[Any], chapter: int | None = None) -> Page:
    """Read what can be referred to on a page, and count it in the order of the page.

    Equations with a label, figures with a caption, exercises, and each kind of theorem are counted apart.

    Parameters
    ----------
    cells : sequence of cells of a notebook
        With ``cell_type``, ``source`` and ``metadata``.
    chapter : int or None
        The number of the chapter, which comes before the count and a point; None if it has none.
    """
    counts: dict[str, int] = {}
    labels: dict[str, Target] = {}
    title = ""

    def count(kind: str) -> str:
        counts[kind] = counts.get(kind, 0) + 1
        return f"{chapter}.{counts[kind]}" if chapter else str(counts[kind])

    for cell in cells:
        if cell["cell_type"] == "markdown":
            for kind, label, text in _targets(cell["source"]):
                if kind == "title":
                    title = title or text
                    continue
                number = "" if kind == "section" else count(kind)
                shown = {"section": text, "eq": f"({number})"}.get(kind, f"{kind.capitalize()} {number}")
                labels |= {label: Target(kind, number, shown)} if label else {}
        elif figure := _figure(cell):
            number = count("figure")
            if "name" in figure:
                labels[figure["name"]] = Target("figure", number, figure["caption"])
    return Page(title, labels)


def _targets(source: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, label or '', and words of what has a number or a label in a text, in order."""
    lines = source.splitlines()
    places = {source.count("\n", 0, match.end(3)): match[3] for match in MATH.finditer(source)}
    code = ""
    waiting: list[str] = []  # labels of the heading that follows
    for number, line in enumerate(lines):
        if code:
            code = "" if line.strip() == code else code
        elif (opened := re.match(r" *(`{3,})\w*$", line)) or (
            (opened := FENCE.match(line)) and opened[2] in ("code-block", "code")
        ):
            code = opened[1]
        elif number in places:
            yield "eq", places[number], ""
        elif opened:
            kind = opened[2].removeprefix("prf:").removesuffix("-start")
            options = {}
            for option in map(OPTION.match, lines[number + 1 :]):
                if option is None:
                    break
                options[option[1]] = option[2]
            numbered = (opened[2].startswith("prf:") and kind != "proof") or kind == "exercise"
            if numbered and "nonumber" not in options:
                yield kind, options.get("label", ""), ""
        elif label := re.match(r"\(([\w:-]+)\)=\s*$", line):
            waiting.append(label[1])
        elif heading := re.match(r"#+ +(.+?) *$", line):
            yield "title", "", heading[1]
            yield from (("section", label, heading[1]) for label in waiting)
            waiting = []
        elif line.strip() and waiting:
            yield from (("section", label, "") for label in waiting)
            waiting = []


class References:
    """Says what a reference looks like on a page, without Sphinx; what it does not know it leaves.

    Parameters
    ----------
    here : str
        The page, such as ``book/sector``.
    pages : sequence of str
        All pages of the book; they are read only for labels that `here` does not have.
    read : function of str
        Returns the `Page` of this name.
    bibliography : str
        The text of the BibTeX file.
    record : mapping
        The record whose numbers the text shows; a number that is not in it is an ellipsis.
    address : str
        Where the book is published, if it is: links to other pages lead there. Otherwise they are text.
    """

    def __init__(
        self,
        here: str,
        pages: Sequence[str],
        read: Callable[[str], Page],
        bibliography: str = "",
        record: Mapping[str, Mapping[str, Any]] | None = None,
        address: str = "",
    ) -> None:
        self.here, self.names, self._read = here, pages, read
        self._bibliography, self.record, self.address = bibliography, record or {}, address
        self._pages: dict[str, Page] = {}

    @cached_property
    def works(self) -> dict[str, "Work"]:
        """The bibliography by keys."""
        return {work.key: work for work in works(self._bibliography)}

    def page(self, name: str) -> Page:
        """Return a page, read once."""
        if name not in self._pages:
            self._pages[name] = self._read(name)
        return self._pages[name]

    def target(self, label: str) -> Target | None:
        """Return what a label stands at, on this page or on the first other one that has it."""
        for name in [self.here, *self.names]:
            if found := self.page(name).labels.get(label):
                return found
        return None

    def __call__(self, reference: str) -> str:
        """Return a reference as plain Markdown."""
        if role := ROLE.fullmatch(reference):
            if role[1] == "record":
                filled = fill(reference, self.record)
                return "…" if filled == reference else filled
            shown = self._role(role[1], role[3] or role[4], role[2])
        elif link := LINK.fullmatch(reference):
            shown = self._link(*link.groups())
        else:
            shown = None
        return reference if shown is None else shown

    def _link(self, text: str, file: str | None, label: str | None) -> str | None:
        if file is None:
            return text or self._role("any", label or "", None)
        name = urljoin(self.here, file.removesuffix(".md")).removeprefix("/")
        anchor = f"#{label}" if label else ""
        if not text:
            text = self.page(name).title if name in self.names else file
        return f"[{text}]({urljoin(self.address, name)}.html{anchor})" if self.address else text

    def _role(self, role: str, what: str, text: str | None) -> str | None:
        if role == "math":
            return f"${what}$"
        if role in ("code", "file", "command", "program"):
            return f"`{what}`"
        if role.startswith("py:") and role != "py:ref":
            name = text or (what.rpartition(".")[2] if what.startswith("~") else what)
            called = text is None and role in ("py:func", "py:meth")
            return f"`{name}()`" if called else f"`{name}`"
        if role == "cite" or role.startswith("cite:"):
            return self._cite(role.removeprefix("cite").removeprefix(":") or "p", what)
        if role == "doc":
            name = urljoin(self.here, what).removeprefix("/")
            if name not in self.names:
                return text
            return self._link(text or self.page(name).title, f"/{name}.md", None)
        if role not in ("eq", "ref", "numref", "prf:ref", "any"):
            return None
        found = self.target(what)
        if found is None:
            return None
        if role == "numref":
            pattern = text or ("Fig. %s" if found.kind == "figure" else f"{found.kind.capitalize()} %s")
            return pattern.replace("%s", found.number).replace("{number}", found.number)
        return text or found.text

    def _cite(self, role: str, keys: str) -> str | None:
        wanted = [key.strip() for key in keys.split(",")]
        if role not in ("p", "t", "ps", "ts") or not {*wanted} <= self.works.keys():
            return None
        found = sorted((self.works[key] for key in wanted), key=Work.order)
        if role[0] == "t":
            return ", ".join(f"{work.names(full='s' in role)} [{work.year}]" for work in found)
        return "[" + ", ".join(f"{work.names(full='s' in role)}, {work.year}" for work in found) + "]"


@dataclass(frozen=True)
class Work:
    """An entry of the bibliography; authors are (last, first) names."""

    key: str
    authors: tuple[tuple[str, str], ...]
    year: str
    title: str

    def names(self, *, full: bool = False) -> str:
        """Return the authors as a citation has them: all of two, or the first *et al.* of more."""
        last = [name.replace("~", " ") for name, _ in self.authors] or [self.title]
        if len(last) > 2:
            return f"{', '.join(last[:-1])}, and {last[-1]}" if full else f"{last[0]} *et al.*"
        return " and ".join(last)

    def order(self) -> tuple[Any, ...]:
        """Return the place in the bibliography: authors, year, title."""
        return [(a.lower(), b.lower()) for a, b in self.authors], self.year, self.title.lower()


def works(text: str) -> Iterator[Work]:
    r"""Read a BibTeX file: authors (or editors), year and title of each entry.

    Examples
    --------
    >>> [work] = works("@misc{a, author = {Jan van Eyck and Rolin, {N.}}, year = 1434,\n title = {A {B} c}}")
    >>> work.authors, work.year, work.title
    ((('van Eyck', 'Jan'), ('Rolin', 'N.')), '1434', 'A B c')
    """
    starts = [match.start() for match in re.finditer(r"^@", text, re.M)]
    for start, end in pairwise([*starts, len(text)]):
        head = re.match(r"@(\w+)\s*\{\s*([^\s,{}]+)\s*,", text[start:end])
        if head is None:
            continue
        found = {m[1].lower(): m[2] for m in FIELD.finditer(text[start + head.end() : end])}
        clean = {name: _bare(value) for name, value in found.items()}
        names = re.split(r"\s+and\s+", found.get("author") or found.get("editor") or "")
        authors = tuple(_person(name) for name in names if name.strip())
        yield Work(head[2], authors, clean.get("year", ""), clean.get("title", ""))


# A field: its value in braces, with at most two more levels inside, in quotes, or a bare word.
FIELD = re.compile(
    r"(\w+)\s*=\s*(\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\"[^\"]*\"|\w+)\s*(?=,|\}|$)", re.S
)


# Accents of TeX and the combining characters that they are; letters of its own.
ACCENT = re.compile(r"\\(['`\"^~=.]|[cvuHrk](?![A-Za-z]))\s*\{?\\?([A-Za-z])\}?")
COMBINING = dict(
    zip(
        "'`\"^~=.cvuHrk",
        "\u0301\u0300\u0308\u0302\u0303\u0304\u0307\u0327\u030c\u0306\u030b\u030a\u0328",
        strict=True,
    )
)
LETTER = re.compile(r"\\(aa|AA|ae|AE|oe|OE|ss|o|O|l|L|i)(?![A-Za-z])\s*")
LETTERS = {"aa": "å", "AA": "Å", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "ss": "ß"} | dict(
    zip("oOlLi", "øØłŁı", strict=True)
)


def _bare(value: str) -> str:
    """Return a value without TeX's accents, and without braces and quotes around or inside it."""
    value = ACCENT.sub(lambda match: normalize("NFC", match[2] + COMBINING[match[1]]), value)
    value = LETTER.sub(lambda match: LETTERS[match[1]], value)
    return " ".join(re.sub(r"[{}]", "", value.replace(r"\&", "&")).strip('"').split())


def _person(name: str) -> tuple[str, str]:
    """Return last name, with particles, and first names of ``Last, First`` or ``First von Last``."""
    name = re.sub(r"^[{\"]|[}\"]$", "", name.strip()).strip()
    if name.startswith("{") and name.endswith("}"):
        return _bare(name), ""
    last, comma, first = _bare(name).partition(",")
    if comma:
        return last.strip(), first.rpartition(",")[2].strip()
    words = last.split()
    place = next((i for i, word in enumerate(words[:-1]) if word[0].islower()), len(words) - 1)
    return " ".join(words[place:]), " ".join(words[:place])
