"""A chapter's parameters: declared once, checked all at once, shown as a table."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kexue_lib.arguments import a_number, an_integer, one_of, refuse
from kexue_lib.tables import html_table

DEVICES = ("auto", "cpu", "cuda")


class ParameterError(ValueError):
    """One or more parameters are outside what the chapter allows; the message names them all."""


@dataclass(frozen=True)
class Parameter:
    """What the three kinds share: a value, its meaning in words, and a way to read it from text."""

    value: Any
    meaning: str
    kind: ClassVar[str]
    types: ClassVar[tuple[type, ...]]  # of a value; text is read as the last of them

    def __post_init__(self) -> None:
        if not isinstance(self.meaning, str) or not self.meaning.strip():
            raise refuse("meaning", self.meaning, "what the parameter means, in words")

    def allowed(self) -> str:
        """Say which values are allowed, in a table."""
        raise NotImplementedError

    def expected(self) -> str:
        """Say which values are allowed, in a refusal."""
        raise NotImplementedError

    def ok(self) -> bool:
        """Tell whether the value has exactly the declared type and is allowed."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """Read a value from the command line; what cannot be read stays text, which `ok` refuses.

        Numbers are written as in Python, in ASCII and without spaces: ``256``, ``+3``, ``10_000`` for an
        `Integer` (not ``1e3`` or ``0x10``), also ``0.5`` or ``1e-3`` for a `Real`.
        """
        try:
            return self.types[-1](text) if text.isascii() and text.split() == [text] else text
        except ValueError:
            return text


@dataclass(frozen=True)
class Real(Parameter):
    """A finite number from ``low`` to ``high``."""

    low: float
    high: float
    kind: ClassVar[str] = "number"
    types: ClassVar[tuple[type, ...]] = (int, float)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {type(self.low), type(self.high)} <= set(self.types) or not self.low <= self.high:
            limits = f"low <= high, each of type {self.kind}"
            raise refuse(f"range of {self.meaning!r}", (self.low, self.high), limits)

    def allowed(self) -> str:
        """Say which values are allowed, in a table."""
        return f"{self.low} … {self.high}"

    def expected(self) -> str:
        """Say which values are allowed, in a refusal."""
        return a_number(self.low, self.high)

    def ok(self) -> bool:
        """Tell whether the value is a finite number in the range; booleans are no numbers here."""
        finite = type(self.value) in self.types and -math.inf < self.value < math.inf
        return finite and self.low <= self.value <= self.high


@dataclass(frozen=True)
class Integer(Real):
    """A whole number from ``low`` to ``high``; 5.0 is not whole here."""

    kind: ClassVar[str] = "integer"
    types: ClassVar[tuple[type, ...]] = (int,)

    def expected(self) -> str:
        """Say which values are allowed, in a refusal."""
        return an_integer(self.low, self.high) + (", in digits" if isinstance(self.value, str) else "")


@dataclass(frozen=True, init=False)
class Choice(Parameter):
    """One of a few words."""

    options: tuple[str, ...]
    kind: ClassVar[str] = "choice"
    types: ClassVar[tuple[type, ...]] = (str,)

    def __init__(self, value: Any, meaning: str, *options: str) -> None:
        super().__init__(value, meaning)
        words = [word for word in options if isinstance(word, str) and word.split() == [word]]
        if not options or len(set(words)) < len(options):
            raise refuse(f"options of {meaning!r}", options, "different words, at least one")
        object.__setattr__(self, "options", options)

    def allowed(self) -> str:
        """Say which values are allowed, in a table."""
        return ", ".join(self.options)

    def expected(self) -> str:
        """Say which values are allowed, in a refusal."""
        return one_of(self.value, self.options)

    def ok(self) -> bool:
        """Tell whether the value is one of the options."""
        return isinstance(self.value, str) and self.value in self.options


@dataclass(frozen=True)
class Table:
    """The checked parameters of a chapter, shown as a table."""

    parameters: Mapping[str, Parameter]

    def rows(self) -> list[dict[str, Any]]:
        """Return one plain dictionary a parameter."""
        return [
            {"name": n, "value": p.value, "type": p.kind, "allowed": p.allowed(), "meaning": p.meaning}
            for n, p in self.parameters.items()
        ]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        headings = ("parameter", "value", "type", "allowed", "meaning")
        rows = [list(row.values()) for row in self.rows()]
        return {
            "text/plain": str(self),
            "text/html": html_table("kexue-parameters", headings, rows, row_heading="<code>{}</code>"),
        }

    def __str__(self) -> str:
        return "\n".join(
            f"{r['name']} = {r['value']}  ({r['type']}: {r['allowed']})  {r['meaning']}" for r in self.rows()
        )


def validate(*, rules: Mapping[str, Callable[[], bool]] | None = None, **parameters: Parameter) -> Table:
    """Check every parameter, then the rules between them, and name all that is wrong in one message.

    Parameters
    ----------
    rules : mapping of str to callable
        Sentence → condition, asked only when every parameter is fine by itself.
    **parameters : Parameter
        By name: `Integer`, `Real` or `Choice`.

    Raises
    ------
    ParameterError
        If a value has the wrong type or lies outside its range, or a rule is broken.
    ValueError
        If there is no parameter, or one is declared by something else than the three kinds.

    Examples
    --------
    >>> print(validate(dim=Integer(64, "dimension", 1, 4096)))
    dim = 64  (integer: 1 … 4096)  dimension
    >>> validate(dim=Integer(0, "dimension", 1, 4096))
    Traceback (most recent call last):
    ...
    kexue_lib.parameters.ParameterError: dim = 0: expected an integer from 1 to 4096
    """
    for name, p in parameters.items():
        if not isinstance(p, Parameter):
            raise refuse(name, p, "its declaration as Integer, Real or Choice")
    wrong = [str(refuse(name, p.value, p.expected())) for name, p in parameters.items() if not p.ok()]
    if not wrong:
        wrong = [sentence for sentence, holds in (rules or {}).items() if not holds()]
    if wrong:
        raise ParameterError("; ".join(wrong))
    return Table(parameters)


def resolve_device(device: str) -> str:
    """Turn ``auto`` into ``cuda`` or ``cpu``.

    Raises
    ------
    ParameterError
        If the word is none of ``auto``, ``cpu``, ``cuda``, or ``cuda`` is asked for and torch sees none.
    """
    if device not in DEVICES:
        raise ParameterError(refuse("device", device, one_of(device, DEVICES)))
    if device == "cpu":  # needs no torch
        return device
    import torch

    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ParameterError("device = 'cuda': torch sees no CUDA device here, use auto or cpu")
    return "cuda" if found else "cpu"
