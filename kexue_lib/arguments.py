"""Guards at the door of every public function: one sentence with the argument, its value, what is allowed."""

import difflib
import math
import numbers
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor  # the command line reads this module, and starts without torch


def refuse(name: str, value: object, allowed: str) -> ValueError:
    """Return (for the caller to raise) the one-sentence error of this library.

    >>> refuse("k", 0, "an integer from 1 to 9")
    ValueError('k = 0: expected an integer from 1 to 9')
    """
    shown = " ".join(repr(value).split())
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return ValueError(f"{name} = {shown}: expected {allowed}")


def one_of(value: object, words: Iterable[str]) -> str:
    """Say which words are allowed, and which of them was probably meant.

    A slip of the finger seldom hits the first letter, so ``gpu`` is not taken for a slip of ``cpu``.

    >>> one_of("hubnes", ["hubness", "sector"])
    'one of hubness, sector; did you mean hubness?'
    """
    words = list(words)
    folded = {word.casefold(): word for word in words if word[:1].casefold() == str(value)[:1].casefold()}
    near = difflib.get_close_matches(str(value).casefold(), folded, n=1)
    return f"one of {', '.join(words)}" + (f"; did you mean {folded[near[0]]}?" if near else "")


def an_integer(low: float, high: float | None) -> str:
    """Say which integers are allowed."""
    return f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"


def a_number(low: float, high: float, *, open_low: bool = False) -> str:
    """Say which real numbers are allowed."""
    return f"a finite number in {'(' if open_low else '['}{low}, {high}]"


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an ``int`` within ``[low, high]``, or raise ``ValueError``.

    Booleans and floats are refused, even integral ones: ``k=True`` and ``k=5.0`` are slips.

    >>> integer("k", 5, 1, 9)
    5
    """
    limits = an_integer(low, high)
    if isinstance(value, bool):
        raise refuse(name, value, limits)
    try:
        number = operator.index(value)
    except TypeError:
        raise refuse(name, value, limits) from None
    if number < low or (high is not None and number > high):
        raise refuse(name, value, limits)
    return number


def real(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return ``value`` as a finite ``float`` within ``[low, high]`` (``(low, high]`` if ``open_low``).

    >>> real("share", 0.5, 0, 1)
    0.5
    """
    limits = a_number(low, high, open_low=open_low)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refuse(name, value, limits)
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        raise refuse(name, value, limits) from None
    if not math.isfinite(number) or not low <= number <= high or (open_low and number == low):
        raise refuse(name, value, limits)
    return number


def returned(name: str, value: Any, like: "Tensor", *, finite: bool = True) -> "Tensor":
    """Return what a function of the caller's, called `name`, returned, or raise ``ValueError``.

    Parameters
    ----------
    value : what it returned
    like : tensor
        It must have this one's shape.
    finite : bool
        Whether its numbers are looked at as well.
    """
    from torch import Tensor

    if not isinstance(value, Tensor) or value.shape != like.shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        raise refuse(f"shape of what {name} returns", shape, str(tuple(like.shape)))
    if finite and not bool(value.isfinite().all()):
        raise refuse(f"a value of {name}", float(value[~value.isfinite()][0].detach()), "finite numbers")
    return value
