"""A chapter's parameters: declared once, checked all at once, shown as a table."""

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


class ParameterError(ValueError):
    """One or more parameters are outside what the chapter allows; the message names them all."""


@dataclass(frozen=True)
class Parameter:
    """What the three kinds share: a value, its meaning in words, and a way to read it from text."""

    value: Any
    meaning: str
    kind: ClassVar[str]

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        raise NotImplementedError

    def ok(self) -> bool:
        """Tell whether the value has the declared type and lies in the range."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """Read a value from the command line; what cannot be read stays text, which `ok` refuses."""
        return text


@dataclass(frozen=True)
class Integer(Parameter):
    """A whole number from ``low`` to ``high``; booleans and 5.0 are not whole numbers here."""

    low: int
    high: int
    kind: ClassVar[str] = "integer"

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        return f"{self.low} … {self.high}"

    def ok(self) -> bool:
        """Tell whether the value is an ``int`` in the range."""
        return type(self.value) is int and self.low <= self.value <= self.high

    def parse(self, text: str) -> Any:
        """Read ``256`` or ``10_000``."""
        try:
            return int(text)
        except ValueError:
            return text


@dataclass(frozen=True)
class Real(Parameter):
    """A finite number from ``low`` to ``high``."""

    low: float
    high: float
    kind: ClassVar[str] = "number"

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        return f"{self.low:g} … {self.high:g}"

    def ok(self) -> bool:
        """Tell whether the value is a finite number in the range."""
        number = type(self.value) in (int, float) and math.isfinite(self.value)
        return number and self.low <= self.value <= self.high

    def parse(self, text: str) -> Any:
        """Read ``0.5`` or ``1e-3``."""
        try:
            return float(text)
        except ValueError:
            return text


class Choice(Parameter):
    """One of a few words."""

    kind: ClassVar[str] = "choice"

    def __init__(self, value: Any, meaning: str, *options: str) -> None:
        super().__init__(value, meaning)
        object.__setattr__(self, "options", options)

    options: tuple[str, ...]

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        return ", ".join(self.options)

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
            {
                "name": name,
                "value": p.value,
                "type": p.kind,
                "allowed": p.allowed(),
                "meaning": p.meaning,
            }
            for name, p in self.parameters.items()
        ]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        head = "".join(
            f'<th scope="col">{h}</th>' for h in ("parameter", "value", "type", "allowed", "meaning")
        )
        body = "".join(
            f'<tr><th scope="row"><code>{r["name"]}</code></th>'
            + "".join(
                f"<td>{html.escape(str(r[key]))}</td>" for key in ("value", "type", "allowed", "meaning")
            )
            + "</tr>"
            for r in self.rows()
        )
        return {
            "text/plain": str(self),
            "text/html": f'<table class="kexue-parameters"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>",
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

    Examples
    --------
    >>> print(validate(dim=Integer(64, "dimension", 1, 4096)))
    dim = 64  (integer: 1 … 4096)  dimension
    >>> validate(dim=Integer(0, "dimension", 1, 4096))
    Traceback (most recent call last):
    ...
    kexue_lib.parameters.ParameterError: dim = 0: expected integer, 1 … 4096
    """
    wrong = [
        f"{name} = {p.value!r}: expected {p.kind}, {p.allowed()}"
        for name, p in parameters.items()
        if not p.ok()
    ]
    if not wrong:
        wrong = [sentence for sentence, holds in (rules or {}).items() if not holds()]
    if wrong:
        raise ParameterError("; ".join(wrong))
    return Table(parameters)


def resolve_device(device: str) -> str:
    """Turn ``auto`` into ``cuda`` or ``cpu``.

    Raises
    ------
    ValueError
        If ``cuda`` is asked for and torch sees none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device = 'cuda': torch sees no CUDA device here, use auto or cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
