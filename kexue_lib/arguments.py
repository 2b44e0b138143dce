"""Guards at the door of every public function: one sentence with the argument, its value, what is allowed."""

import math
import numbers
import operator
from typing import Any


def refuse(name: str, value: object, allowed: str) -> ValueError:
    """Return (for the caller to raise) the one-sentence error of this library.

    >>> refuse("k", 0, "an integer from 1 to 9")
    ValueError('k = 0: expected an integer from 1 to 9')
    """
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return ValueError(f"{name} = {shown}: expected {allowed}")


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an ``int`` within ``[low, high]``, or raise ``ValueError``.

    Booleans and floats are refused, even integral ones: ``k=True`` and ``k=5.0`` are slips.

    >>> integer("k", 5, 1, 9)
    5
    """
    limits = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
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
    limits = f"a finite number in {'(' if open_low else '['}{low}, {high}]"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refuse(name, value, limits)
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high or (open_low and number == low):
        raise refuse(name, value, limits)
    return number
