"""A chapter's headline numbers: one flat record, shown as a table, read by the prose and by sweeps."""

import math
import re
from collections.abc import Mapping
from typing import Any

from kexue_lib.arguments import refuse
from kexue_lib.tables import html_table

MIME = "application/vnd.kexue.record+json"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ROLE = re.compile(r"\{record\}`(\w+)(±?)(?::([^`]*))?`")


class Record(dict[str, dict[str, Any]]):
    """Name → value, error and meaning; the last expression of a chapter.

    Parameters
    ----------
    entries : mapping of str to (value, meaning) or (value, error, meaning)
        ``value`` and ``error`` are finite numbers (Python, NumPy or one-element tensors).
        ``error`` is a standard error or half-width; ``meaning`` says which, in a few words.

    Raises
    ------
    ValueError
        If a name is not an identifier, a number is not finite, or a meaning is missing.

    Examples
    --------
    >>> Record({"mean_hub": (12.5, 0.3, "mean count of a hub, ± standard error")})["mean_hub"]["error"]
    0.3
    """

    def __init__(self, entries: Mapping[str, tuple[Any, ...]]) -> None:
        super().__init__()
        for name, entry in entries.items():
            if not name.isidentifier():
                raise refuse("name", name, "an identifier such as max_hub")
            if not isinstance(entry, tuple) or len(entry) not in (2, 3):
                raise refuse(name, entry, "(value, meaning) or (value, error, meaning)")
            value, error = entry[0], entry[1] if len(entry) == 3 else None
            meaning = entry[-1]
            if not isinstance(meaning, str) or not meaning.strip():
                raise refuse(name, meaning, "a meaning in words as the last item")
            if error is not None and _plain(name, error) < 0:
                raise refuse(f"error of {name}", error, "a number >= 0")
            self[name] = {
                "value": _plain(name, value),
                "error": None if error is None else _plain(name, error),
                "meaning": meaning,
            }

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        rows = [
            (
                name,
                f"{e['value']:.6g}",
                "" if e["error"] is None else f"{e['error']:.2g}",
                e["meaning"],
            )
            for name, e in self.items()
        ]
        headings = ("name", "value", "±", "meaning")
        return {
            "text/plain": "\n".join("  ".join(row).rstrip() for row in rows),
            "text/html": html_table("kexue-record", headings, rows, row_heading="<code>{}</code>"),
            MIME: dict(self),
        }


def _plain(name: str, value: Any) -> int | float:
    """Return a JSON number: whole numbers stay whole, so that ``{record}`` can format them with ``d``."""
    try:
        number = value.item() if hasattr(value, "item") else value
        finite = isinstance(number, int | float) and math.isfinite(number)
    except (OverflowError, RuntimeError, ValueError):  # too large, or more than one element
        finite = False
    if not finite or isinstance(number, bool):
        raise refuse(name, value, "a finite number")
    plain: int | float = number
    return plain


def formatted(entry: Mapping[str, Any], spec: str = "", *, error: bool = False) -> str:
    """Write an entry of a record as prose has it: a real minus sign, powers of ten, perhaps its error.

    Raises
    ------
    ValueError
        If the error is wanted and there is none, or the specification is not one of Python's.

    Examples
    --------
    >>> formatted({"value": -0.00012, "error": None}, ".1e")
    '−1.2 × 10⁻⁴'
    >>> formatted({"value": 1234.5, "error": 7}, ",.0f", error=True).split()
    ['1,234', '±', '7']
    """
    if error and entry["error"] is None:
        raise ValueError("it has no error to put after ±")
    texts = [format(entry[key], spec) for key in ("value", "error")[: 1 + error]]
    for place, text in enumerate(texts):
        if power := re.fullmatch(r"(.+)e([+-]\d+)", text):
            texts[place] = f"{power[1]} × 10{str(int(power[2])).translate(SUPERSCRIPT)}"
    return "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}".join(texts).replace("-", "−")


def fill(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Put the record's numbers into the places that a chapter's text keeps for them.

    Places of names that are not in the record stay as they are.

    Examples
    --------
    >>> fill("It is {record}`top:d`, not {record}`other`.", {"top": {"value": 7, "error": None}})
    'It is 7, not {record}`other`.'
    """

    def number(place: re.Match[str]) -> str:
        name, error, spec = place.groups()
        return formatted(entries[name], spec or "", error=bool(error)) if name in entries else place[0]

    return ROLE.sub(number, text)
