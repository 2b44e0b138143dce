"""Words of a page where there is no HTML: titles and sentences with mathematics, as plain text and as TeX."""

import re
import unicodedata

from docutils import nodes

SIGNS = {
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "sim": "~",
    "times": "×", "cdot": "·", "to": "→", "infty": "∞", "pm": "±", "in": "∈", "sum": "∑", "int": "∫",
    "sqrt": "√", "mid": "|", "partial": "∂", "nabla": "∇", "propto": "∝", "dots": "…", "ldots": "…",
    "cdots": "…", "lbrace": "{", "rbrace": "}", "ell": "ℓ", "quad": " ", "qquad": " ", "prime": "′",
}  # fmt: skip
NAMES = {
    "log",
    "exp",
    "sin",
    "cos",
    "tan",
    "max",
    "min",
    "sup",
    "inf",
    "lim",
    "det",
    "arg",
    "Pr",
    "gcd",
    "erf",
}
# What TeX or BibTeX would read as its own; BibTeX counts braces even behind a backslash.
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}", "&": r"\&", "%": r"\%",
    "$": r"\$", "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "—": "---", "“": "``", "”": "''", "‘": "`", "’": "'", "…": r"\ldots{}", "\u00a0": "~", "−": "$-$",
    "×": r"$\times$", "±": r"$\pm$",
}  # fmt: skip


def pieces(node):
    """Return what a title or paragraph says as (whether it is TeX, text)."""
    found = []
    for part in node.findall(lambda one: isinstance(one, nodes.Text | nodes.math)):
        if isinstance(part, nodes.math):
            found.append((True, part.astext()))
        elif not isinstance(part.parent, nodes.math | nodes.raw):
            found.append((False, part.astext()))
    return found


def plain(found):
    """Return pieces as one line of plain text."""
    text = "".join(spoken(text) if tex else text for tex, text in found)
    return re.sub(r"[ \t\r\n]+", " ", text).strip()


def tex(found):
    r"""Return pieces as TeX; letters of any script stay, braces are balanced.

    Outside of formulas ``\{`` becomes a command, inside of them ``\lbrace``.
    """
    return "".join(
        "$" + re.sub(r"\\\{", r"\\lbrace ", text).replace(r"\}", r"\rbrace ").strip() + "$"
        if is_tex
        else escaped(text)
        for is_tex, text in found
    )


def escaped(text):
    """Return text so that TeX prints it."""
    return "".join(ESCAPES.get(letter, letter) for letter in re.sub(r"[ \t\r\n]+", " ", text))


def spoken(formula):
    r"""Return a short formula as people type it: ``\gamma\le 1`` as ``γ≤1``."""

    def sign(match):
        name = match[1]
        if name in SIGNS or name in NAMES:
            return SIGNS.get(name, name)
        greek = name.removeprefix("var").lower().replace("lambda", "lamda")
        case = "CAPITAL" if name[0].isupper() else "SMALL"
        try:
            return unicodedata.lookup(f"GREEK {case} LETTER {greek}")
        except KeyError:  # \mathrm, \left, and the like
            return ""

    group = r"\{([^{}]*)\}"
    text = re.sub(
        rf"\\[dt]?frac *(?:{group} *{group}|(\w) ?(\w))",
        lambda m: "/".join(filter(None, m.groups())),
        formula,
    )
    text = re.sub(r"\\[,;:! ]|~", " ", text)
    text = re.sub(r"\\([A-Za-z]+)\*? ?", sign, text)
    return re.sub(r"[{}\\]", "", text)


def short(text, most=160):
    """Return the beginning of a text: whole sentences if they fill half of the room, else whole words."""
    if len(text) <= most:
        return text
    ends = [match.end() for match in re.finditer(r"[.!?](?= )", text) if match.end() <= most]
    if ends and ends[-1] >= most / 2:
        return text[: ends[-1]]
    return re.sub(r"[\s,;:(–—-]+$", "", text[:most].rpartition(" ")[0]) + "…"
