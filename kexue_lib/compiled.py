"""Loops that Python runs as machine code."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled by numba, without the interpreter's lock; made once, kept for later.

    Where no folder can be written the machine code is made anew in each process.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep the machine code in
        return numba.njit(nogil=True)(function)
