r"""Figures of unit squares with coloured sides: which colourings dominate, how many, and which at random.

A square is *dominated* by a colour if two of its sides have it and the other two have two other,
different colours (def-dominated). One engine counts for every figure: it adds square after square and
remembers of the past only the *frontier*, that is, which colours meet which open sides and open bars.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, lru_cache, partial
from itertools import combinations, islice, permutations, product
from typing import Any

import numba
import numpy as np
import sympy
import torch
from sympy.polys.rings import ring
from torch import Tensor

from kexue_lib.arguments import integer, one_of, refuse

#: What is asked beside domination: nothing, adjacent squares differ, all squares of a straight bar differ.
RULES = ("free", "neighbours", "bars")
#: The most colourings that `brute_force` looks at.
BRUTE_FORCE_LIMIT = 2**30
#: The most rows, over all tables together, that the exact engine works through (a minute or so).
TABLE_LIMIT = 2_000_000
#: The most segments for which `count_polynomial` writes the polynomial down.
POLYNOMIAL_LIMIT = 1000
#: The most squares of a figure.
SQUARES_LIMIT = 20_000

Square = tuple[int, int]
_Cycle = tuple[int, ...]
_State = tuple[_Cycle, ...]
_Stock = dict[int, Any]  # how many cycles of each length the renaming has; {1: q} if colours keep their names
_Move = Callable[[_State], Iterator[tuple[Any, _State]]]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep the machine code in
        return numba.njit(nogil=True)(function)


# -- figures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A connected figure of unit squares; everything else follows from them.

    Attributes
    ----------
    squares : tuple of (row, column)
        Sorted, each once; rows go down, columns go right.
    segments : tuple of (y, x)
        Midpoints of the sides in half units: the sides of square (r, c) are (2r, 2c + 1) above,
        (2r + 1, 2c + 2) right, (2r + 2, 2c + 1) below and (2r + 1, 2c) left. Sorted; a shared side is
        one segment. A colouring lists a colour, 0 to q - 1, for each.
    sides : tuple of four segment numbers for each square
        Above, right, below, left.
    neighbours : tuple of pairs of square numbers
        Squares that share a side.
    bars : tuple of tuples of square numbers
        Longest straight runs of at least two squares, rows first.

    Raises
    ------
    ValueError
        If squares are none, too many, not pairs of integers, listed twice or not connected by sides.
    """

    squares: tuple[Square, ...]
    segments: tuple[tuple[int, int], ...] = field(init=False, compare=False, repr=False)
    sides: tuple[tuple[int, int, int, int], ...] = field(init=False, compare=False, repr=False)
    neighbours: tuple[tuple[int, int], ...] = field(init=False, compare=False, repr=False)
    bars: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        squares = _check_squares(self.squares)
        number = {square: i for i, square in enumerate(squares)}
        around = [
            ((2 * r, 2 * c + 1), (2 * r + 1, 2 * c + 2), (2 * r + 2, 2 * c + 1), (2 * r + 1, 2 * c))
            for r, c in squares
        ]
        segments = sorted({segment for four in around for segment in four})
        place = {segment: i for i, segment in enumerate(segments)}
        pairs = [
            (number[r, c], number[other])
            for r, c in squares
            for other in ((r, c + 1), (r + 1, c))
            if other in number
        ]
        bars = []
        for down, right in ((0, 1), (1, 0)):
            for r, c in squares:
                if (r - down, c - right) not in number:
                    run = [(r, c)]
                    while (step := (run[-1][0] + down, run[-1][1] + right)) in number:
                        run.append(step)
                    if len(run) > 1:
                        bars.append(tuple(number[square] for square in run))
        derived = {
            "squares": squares,
            "segments": tuple(segments),
            "sides": tuple(tuple(place[segment] for segment in four) for four in around),
            "neighbours": tuple(pairs),
            "bars": tuple(bars),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def _check_squares(squares: Iterable[Square]) -> tuple[Square, ...]:
    allowed = "a list of unit squares (row, column)"
    try:
        found = [tuple(square) for square in islice(squares, SQUARES_LIMIT + 1)]
    except TypeError:
        raise refuse("squares", squares, allowed) from None
    if not found:
        raise refuse("squares", squares, "at least one unit square (row, column)")
    if len(found) > SQUARES_LIMIT:
        raise refuse("squares", f"{len(found)} or more", f"at most {SQUARES_LIMIT}")
    for square in found:
        if len(square) != 2:
            raise refuse("squares", square, allowed)
    checked = [(integer("row", r, -(2**31), 2**31), integer("column", c, -(2**31), 2**31)) for r, c in found]
    seen = set(checked)
    if len(seen) < len(checked):
        twice = next(square for square in checked if checked.count(square) > 1)
        raise refuse("squares", twice, "each square once, squares must not overlap")
    reached, edge = {checked[0]}, [checked[0]]
    while edge:
        r, c = edge.pop()
        near = ({(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & seen) - reached
        reached |= near
        edge += near
    if len(reached) < len(seen):
        raise refuse("squares", min(seen - reached), f"squares that are connected by sides to {checked[0]}")
    return tuple(sorted(checked))


def figure(squares: Iterable[Square]) -> Figure:
    """Return the figure of the unit squares (row, column); see `Figure` for attributes and errors.

    >>> len(figure([(0, 0), (0, 1), (1, 0)]).segments)
    10
    """
    return Figure(squares)  # type: ignore[arg-type]  # any iterable, made a sorted tuple there


def plus() -> Figure:
    """Return the figure of the puzzle: a square and its four neighbours.

    >>> len(plus().segments), plus().bars
    (16, ((1, 2, 3), (0, 2, 4)))
    """
    return figure([(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)])


def row(length: int) -> Figure:
    """Return a ladder of `length` >= 1 squares beside each other; it has 3 length + 1 segments."""
    return block(1, integer("length", length, 1, SQUARES_LIMIT))


def block(rows: int, columns: int) -> Figure:
    """Return a full rectangle of squares, both numbers >= 1."""
    rows = integer("rows", rows, 1, SQUARES_LIMIT)
    columns = integer("columns", columns, 1, SQUARES_LIMIT // rows)
    return figure(product(range(rows), range(columns)))


# -- one colouring -----------------------------------------------------------------------------


def dominants(figure: Figure, colouring: Iterable[int]) -> tuple[int | None, ...]:
    """Return the colour that dominates each square, or None where none does (def-dominated).

    Parameters
    ----------
    figure : Figure
    colouring : iterable of int or int64 tensor of shape (segments,)

    Raises
    ------
    ValueError
        If the colouring does not have one colour >= 0 for each segment.
    """
    colours = _check_colouring(figure, colouring)
    result: list[int | None] = []
    for four in figure.sides:
        seen = [colours[side] for side in four]
        twice = [colour for colour in set(seen) if seen.count(colour) == 2]
        result.append(twice[0] if len(set(seen)) == 3 else None)
    return tuple(result)


def is_valid(figure: Figure, colouring: Iterable[int], rule: str) -> bool:
    """Say whether every square is dominated and the rule holds; errors as for `dominants`."""
    groups = _groups(figure, rule)
    found = dominants(figure, colouring)
    return None not in found and all(len({found[i] for i in group}) == len(group) for group in groups)


def _check_colouring(figure: Figure, colouring: Iterable[int]) -> list[int]:
    _check_figure(figure)
    values = colouring.tolist() if isinstance(colouring, Tensor | np.ndarray) else list(colouring)
    if len(values) != len(figure.segments):
        raise refuse(
            "colouring", f"{len(values)} colours", f"one for each of {len(figure.segments)} segments"
        )
    return [integer("colouring", value, 0) for value in values]


def _check_figure(figure: Figure) -> None:
    if not isinstance(figure, Figure):
        raise refuse("figure", figure, "a Figure, made by plus, row, block or figure")


def _groups(figure: Figure, rule: str) -> tuple[tuple[int, ...], ...]:
    """Return the groups of squares whose dominant colours must differ pairwise."""
    _check_figure(figure)
    if rule not in RULES:
        raise refuse("rule", rule, one_of(rule, RULES))
    return {"free": (), "neighbours": figure.neighbours, "bars": figure.bars}[rule]


# -- the engine --------------------------------------------------------------------------------
# What the past means for the future is a *state*. A colour is described by where it is seen: the set,
# as bits, of the open segments that have it and of the open groups in which it dominates already. A state
# is the sorted list of the descriptions that are not empty. So colours have no names, a state stands
# for all colourings that differ by a renaming, and the number of states does not depend on q.


@dataclass(frozen=True)
class _Step:
    """One square, or all its images under a symmetry: what to paint, to check and to forget."""

    segments: tuple[int, ...]  # the first of each list of linked segments
    paints: tuple[tuple[int, ...], ...]  # bits of linked segments: c(s_j) = pi^j c(s_0)
    squares: tuple[tuple[int, int], ...]  # bits of the four sides, bits of the groups
    keep: int  # bits that the future asks for


def _plan(figure: Figure, rule: str, colours: int, symmetry: tuple[int, ...] | None = None) -> list[_Step]:
    """Order the squares so that few bits are open at a time (greedily), and reuse the bits.

    The future of w open segments depends on which of them have equal colours, and mostly everything is
    possible there; so the partitions of w things into at most `colours` classes estimate a table's rows.
    """
    groups = _groups(figure, rule)
    n = len(figure.squares)
    member: list[list[int]] = [[] for _ in range(n)]
    for g, group in enumerate(groups):
        for i in group:
            member[i].append(g)
    # Items are segments and groups; each waits for the squares that touch it.
    items = [[(0, side) for side in figure.sides[i]] + [(1, g) for g in member[i]] for i in range(n)]
    links = _cycles(symmetry or tuple(range(len(figure.segments))))
    linked = {segment: cycle for cycle in links for segment in cycle}
    together = _linked_squares(figure, symmetry)
    waiting: dict[tuple[int, int], int] = {}
    for i in range(n):
        for item in items[i]:
            waiting[item] = waiting.get(item, 0) + 1
    near: list[set[int]] = [set() for _ in range(n)]
    for a, b in figure.neighbours:
        near[a].add(b)
        near[b].add(a)

    open_: dict[tuple[int, int], int] = {}
    free: list[int] = []
    steps: list[_Step] = []
    done: set[int] = set()
    edge = {min(range(n), key=lambda i: (len(near[i]), i))}
    rows = 0

    def growth(i: int) -> tuple[int, int]:
        last = sum(waiting[item] == 1 for item in items[i])
        return sum(item not in open_ for item in items[i]) - last - (last > 0), i

    while edge:
        batch = together[min(edge, key=growth)]
        wanted = [item for i in batch for item in items[i]]
        fresh = []
        for item in wanted:
            if item not in open_:
                new = [(0, s) for s in linked[item[1]]] if item[0] == 0 else [item]
                for each in new:
                    open_[each] = free.pop() if free else len(open_)
                fresh += [item[1]] if item[0] == 0 else []
        paints = tuple(tuple(1 << open_[0, s] for s in linked[segment]) for segment in fresh)
        squares = tuple(
            (sum(1 << open_[0, s] for s in figure.sides[i]), sum(1 << open_[1, g] for g in member[i]))
            for i in batch
        )
        for item in wanted:
            waiting[item] -= 1
        for item in [item for item in open_ if waiting[item] == 0]:
            free.append(open_.pop(item))
        keep = sum(1 << bit for bit in open_.values())
        steps.append(_Step(tuple(fresh), paints, squares, keep))
        width = len({linked[s][0] for kind, s in open_ if kind == 0})
        rows = _guard(figure, rows + _partitions(width, colours))
        done.update(batch)
        edge = (edge | {j for i in batch for j in near[i]}) - done
    return steps


@cache
def _partitions(things: int, classes: int) -> int:
    """Count the partitions of a set into at most so many classes."""
    ways = [1] + [0] * min(things, classes)  # by the number of classes
    for _ in range(things):
        ways = [0] + [ways[k - 1] + k * ways[k] for k in range(1, len(ways))]
    return sum(ways)


def _cycles(permutation: tuple[int, ...]) -> list[tuple[int, ...]]:
    cycles, seen = [], set()
    for start in range(len(permutation)):
        if start not in seen:
            cycle = [start]
            while (following := permutation[cycle[-1]]) != start:
                cycle.append(following)
            seen.update(cycle)
            cycles.append(tuple(cycle))
    return cycles


def _linked_squares(figure: Figure, symmetry: tuple[int, ...] | None) -> dict[int, tuple[int, ...]]:
    if symmetry is None:
        return {i: (i,) for i in range(len(figure.squares))}
    number = {frozenset(four): i for i, four in enumerate(figure.sides)}
    image = tuple(number[frozenset(symmetry[side] for side in four)] for four in figure.sides)
    return {i: cycle for cycle in _cycles(image) for i in cycle}


def _moves(steps: list[_Step], stock: _Stock) -> list[_Move]:
    """Split the steps: every painting is a move, and so is the closing of a square."""
    moves: list[_Move] = []
    for step in steps:
        moves += [partial(_painted, stock=stock, bits=bits, squares=step.squares) for bits in step.paints]
        moves.append(partial(_closed, step=step))
    return moves


def _painted(
    state: _State, stock: _Stock, bits: tuple[int, ...], squares: tuple[tuple[int, int], ...]
) -> Iterator[tuple[Any, _State]]:
    """Give one colour to the linked segments: a seen one, or one of those that nothing open has."""
    for i, cycle in enumerate(state):
        if len(bits) % len(cycle) or (i and state[i - 1] == cycle):
            continue  # equal descriptions are counted below
        rest = state[:i] + state[i + 1 :]
        for position in range(len(cycle)):
            painted = _add(cycle, bits, position)
            following = (*rest, painted)
            if _possible(following, painted, squares):
                yield state.count(cycle), _canonical(following)
    for length, number in stock.items():
        if len(bits) % length == 0:
            unseen = number - sum(len(cycle) == length for cycle in state)
            painted = _add((0,) * length, bits, 0)
            following = (*state, painted)
            if unseen != 0 and _possible(following, painted, squares):
                yield length * unseen, _canonical(following)


def _add(cycle: _Cycle, bits: tuple[int, ...], position: int) -> _Cycle:
    masks = list(cycle)
    for j, bit in enumerate(bits):
        masks[(position + j) % len(masks)] |= bit
    return tuple(masks)


def _possible(state: _State, painted: _Cycle, squares: tuple[tuple[int, int], ...]) -> bool:
    """Say whether painting has left every square without a colour thrice and without two colours twice."""
    for sides, _ in squares:
        for mask in painted:
            times = (mask & sides).bit_count()
            if times > 2 or (times == 2 and _pairs(state, sides) > 1):
                return False
    return True


def _pairs(state: _State, sides: int) -> int:
    return sum((mask & sides).bit_count() == 2 for cycle in state for mask in cycle)


def _closed(state: _State, step: _Step) -> Iterator[tuple[int, _State]]:
    """Demand that the painted squares are dominated as the rule says, then forget what is over."""
    masks = [list(cycle) for cycle in state]
    for sides, groups in step.squares:
        twice = [(c, p) for c, p in _places(masks) if (masks[c][p] & sides).bit_count() == 2]
        if not twice or masks[twice[0][0]][twice[0][1]] & groups:
            return
        masks[twice[0][0]][twice[0][1]] |= groups
    kept = (tuple(mask & step.keep for mask in cycle) for cycle in masks)
    yield 1, _canonical(cycle for cycle in kept if any(cycle))


def _places(masks: list[list[int]]) -> Iterator[tuple[int, int]]:
    return ((c, p) for c, cycle in enumerate(masks) for p in range(len(cycle)))


def _canonical(cycles: Iterable[_Cycle]) -> _State:
    return tuple(sorted(c if len(c) == 1 else max(c[i:] + c[:i] for i in range(len(c))) for c in cycles))


def _total(
    figure: Figure,
    rule: str,
    colours: int,
    stock: _Stock,
    one: Any = 1,
    symmetry: tuple[int, ...] | None = None,
) -> Any:
    """Sum the products of the weights over all ways through the moves: the number of colourings."""
    if _hopeless(figure, rule, colours):
        return 0 * one
    table: dict[_State, Any] = {(): one}
    rows = 0
    for move in _moves(_plan(figure, rule, colours, symmetry), stock):
        following: dict[_State, Any] = {}
        for state, ways in table.items():
            for weight, new in move(state):
                following[new] = following.get(new, 0) + ways * weight
        table = following
        rows = _guard(figure, rows + len(table))
    return table.get((), 0 * one)


def _hopeless(figure: Figure, rule: str, colours: int) -> bool:
    """Say whether there are too few colours for a square or for a group."""
    return colours < max((3, *map(len, _groups(figure, rule))))


def _guard(figure: Figure, rows: int) -> int:
    if rows > TABLE_LIMIT:
        about = f"{rows:.1e}" if rows < 1e300 else "more than 1e300"
        raise refuse(
            "figure",
            f"{len(figure.squares)} squares",
            f"a smaller or narrower one: tables may have {TABLE_LIMIT:.0e} rows, these have {about} or more",
        )
    return rows


def count(figure: Figure, colours: int, rule: str) -> int:
    """Count the colourings in which every square is dominated and the rule holds, exactly.

    Squares are added one by one; a table lists for each state of the frontier in how many ways it is
    reached. On a tree these are its messages, on a block a transfer along its shorter side; the number of
    rows does not depend on the number of colours. Ladders of thousands of squares take seconds.

    Parameters
    ----------
    figure : Figure
    colours : int
        q >= 1, as large as you like.
    rule : {"free", "neighbours", "bars"}
        See `RULES`.

    Returns
    -------
    int, of any size.

    Raises
    ------
    ValueError
        If an argument is none of these, or the tables would have more than `TABLE_LIMIT` rows.

    Examples
    --------
    >>> count(plus(), 3, "bars")
    27216
    """
    colours = integer("colours", colours, 1)
    return int(_total(figure, rule, colours, {1: colours}))


def count_polynomial(figure: Figure, rule: str) -> sympy.Poly:
    """Return the count as a polynomial in q, valid for every number of colours q >= 1.

    No value is fitted: the engine runs once, with q a letter. *Proof.* Let T(s) be the number of partial
    colourings that lead to state s, in which k colours are seen. Each of them can be painted on with a
    given seen colour in one way, with an unseen one in q - k ways, whatever the names of the colours; so
    painting is T(t) = sum of T(s) times 1 (for each seen colour that leads to t) and times q - k (if a new
    one does). This holds for q >= k, and for q < k both sides are 0: the product that makes T(s) has the
    factors q, q - 1, ... q - k + 1, as a state with k colours was reached through states with fewer. Checking
    and forgetting only drop and join rows. Hence by induction every T(s) is a polynomial with integer
    coefficients, of a degree at most the number of painted segments.

    Parameters are those of `count`.

    Raises
    ------
    ValueError
        As `count`, and if the figure has more than `POLYNOMIAL_LIMIT` segments.

    Examples
    --------
    >>> sympy.factor(count_polynomial(row(2), "neighbours").as_expr())
    9*q*(q - 2)**2*(q - 1)*(3*q - 4)
    """
    _check_figure(figure)
    n = len(figure.segments)
    if n > POLYNOMIAL_LIMIT:
        raise refuse("figure", f"{n} segments", f"at most {POLYNOMIAL_LIMIT} of them for a polynomial")
    _, q = ring("q", sympy.ZZ)
    return sympy.Poly(_total(figure, rule, max(n, 3), {1: q}, q**0).as_expr(), sympy.Symbol("q"))


# -- up to symmetry ----------------------------------------------------------------------------


def symmetries(figure: Figure) -> tuple[tuple[int, ...], ...]:
    """Return the turns and mirrors that map the figure to itself, as permutations of its segments.

    A permutation lists for each segment the one on which it comes to lie; the first is the identity.

    >>> len(symmetries(plus())), len(symmetries(row(2)))
    (8, 4)
    """
    _check_figure(figure)
    place = {segment: i for i, segment in enumerate(figure.segments)}
    found = []
    for swap, down, right in product((False, True), (1, -1), (1, -1)):
        moved = [(down * y, right * x) for y, x in (s[::-1] if swap else s for s in figure.segments)]
        top, left = (min(s[axis] for s in moved) - min(s[axis] for s in place) for axis in (0, 1))
        moved = [(y - top, x - left) for y, x in moved]
        if set(moved) == set(place):
            found.append(tuple(place[segment] for segment in moved))
    return tuple(found)


def orbits(figure: Figure, colours: int, rule: str, rename: bool = False) -> int:
    """Count the valid colourings up to turns and mirrors, by Burnside's lemma (eq-burnside).

    The mean, over the symmetries g of the figure, of the number of valid colourings that g leaves alone.
    With `rename` also colours may be exchanged: then g is combined with every permutation of the colours,
    and a colouring counts if c(g(s)) = pi(c(s)) for every segment s. That number depends on the lengths of
    pi's cycles only, of which 1, 2 and 4 can matter, so the sum runs over cycle types.

    Parameters
    ----------
    figure, colours, rule
        As for `count`.
    rename : bool
        Whether two colourings are also alike if they differ by names of colours.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        As `count`.

    Examples
    --------
    >>> orbits(plus(), 3, "bars"), orbits(plus(), 3, "bars", rename=True)
    (3402, 594)
    """
    group = symmetries(figure)
    colours = integer("colours", colours, 1)
    if not isinstance(rename, bool):
        raise refuse("rename", rename, "True or False")
    if rename:  # a colouring has no more colours than segments, so further ones add nothing
        colours = min(colours, max(3, len(figure.segments)))
    total = Fraction(0)
    for symmetry in group:
        lengths = sorted(
            {length for cycle in _cycles(symmetry) for length in (1, 2, 4) if len(cycle) % length == 0}
        )
        kinds = _cycle_types(colours, lengths) if rename else [({1: colours}, Fraction(1))]
        for stock, share in kinds:
            total += share * _total(figure, rule, colours, stock, symmetry=symmetry)
    result = total / len(group)
    if result.denominator != 1:
        raise ArithmeticError("Burnside's mean is no integer: a mistake of this program")
    return int(result)


def _cycle_types(q: int, lengths: list[int]) -> list[tuple[dict[int, int], Fraction]]:
    """Return how many cycles of the lengths a permutation of q colours has, with the share of each case."""
    without = [Fraction(1)]  # share of the permutations of r colours that have no such cycle
    for r in range(1, q + 1):
        without.append(sum((without[r - j] for j in range(1, r + 1) if j not in lengths), Fraction(0)) / r)
    result = []
    for numbers in product(*(range(q // length + 1) for length in lengths)):
        rest = q - sum(m * length for m, length in zip(numbers, lengths, strict=True))
        if rest >= 0:
            ways = math.prod(
                math.factorial(m) * length**m for m, length in zip(numbers, lengths, strict=True)
            )
            result.append((dict(zip(lengths, numbers, strict=True)), without[rest] / ways))
    return result


# -- drawing at random -------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _completions(figure: Figure, colours: int, rule: str) -> list[dict[_State, int]]:
    """Return after each move, for each state, in how many ways it can be completed."""
    if _hopeless(figure, rule, colours):
        return [{(): 0}]
    moves = _moves(_plan(figure, rule, colours), {1: colours})
    levels: list[dict[_State, int]] = [{(): 0}]
    rows = 0
    for move in moves:
        levels.append({new: 0 for state in levels[-1] for _, new in move(state)})
        rows = _guard(figure, rows + len(levels[-1]))
    levels[-1] = {state: 1 for state in levels[-1]}  # the empty one, or none
    for move, level, following in zip(reversed(moves), levels[-2::-1], levels[:0:-1], strict=True):
        for state in level:
            level[state] = sum(weight * following[new] for weight, new in move(state))
    return levels


def _to_draw_from(figure: Figure, colours: int, rule: str) -> tuple[list[dict[_State, int]], int]:
    _groups(figure, rule)
    levels = _completions(figure, integer("colours", colours, 1, 2**63 - 1), rule)
    if levels[0][()] == 0:
        raise refuse("colours", colours, "more colours: with these there is no valid colouring")
    return levels, levels[0][()]


def unrank(figure: Figure, colours: int, rule: str, index: int) -> tuple[int, ...]:
    """Return valid colouring number `index`: one to one from 0 ... count - 1 to the valid colourings.

    Raises
    ------
    ValueError
        As `count`, or if the index is out of range, or there is no valid colouring.

    Examples
    --------
    >>> unrank(row(1), 3, "free", 0), unrank(row(1), 3, "free", 35)
    ((0, 2, 0, 1), (2, 2, 1, 0))
    """
    levels, total = _to_draw_from(figure, colours, rule)
    return _unranked(figure, colours, rule, integer("index", index, 0, total - 1), levels)


def _unranked(
    figure: Figure, colours: int, rule: str, index: int, levels: list[dict[_State, int]]
) -> tuple[int, ...]:
    seen: dict[int, int] = {}  # the description of each colour that is seen
    result = [0] * len(figure.segments)
    ahead = iter(levels[1:])
    for step in _plan(figure, rule, colours):
        for segment, (bit,) in zip(step.segments, step.paints, strict=True):
            ways = next(ahead)
            for colour in sorted(seen):
                after = {**seen, colour: seen[colour] | bit}
                here = ways.get(_canonical((mask,) for mask in after.values()), 0)
                if index < here:
                    break
                index -= here
            else:
                skip, index = divmod(index, ways[_canonical((mask,) for mask in [*seen.values(), bit])])
                colour = skip  # becomes number `skip` of the colours that are not seen
                for other in sorted(seen):
                    colour += other <= colour
            result[segment] = colour
            seen[colour] = seen.get(colour, 0) | bit
        next(ahead)
        for sides, groups in step.squares:
            twice = next(colour for colour, mask in seen.items() if (mask & sides).bit_count() == 2)
            seen[twice] |= groups
        seen = {colour: mask & step.keep for colour, mask in seen.items() if mask & step.keep}
    return tuple(result)


def sample(
    figure: Figure, colours: int, rule: str, *, generator: torch.Generator, size: int | None = None
) -> Tensor:
    """Draw valid colourings independently, each with exactly the same probability.

    A number below the count is drawn (from random bits; too large ones are thrown away, so that none is
    favoured) and handed to `unrank`. Nothing is rounded.

    Parameters
    ----------
    figure, colours, rule
        As for `count`; colours below 2**63.
    generator : torch.Generator
    size : int, optional
        How many to draw; left out, one without a leading axis.

    Returns
    -------
    int64 tensor of shape (segments,) or (size, segments), on the CPU.

    Raises
    ------
    ValueError
        As `count`, or if there is no valid colouring, or size < 0.
    TypeError
        If generator is none.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator = {generator!r}: expected a torch.Generator")
    levels, total = _to_draw_from(figure, colours, rule)
    number = 1 if size is None else integer("size", size, 0)
    rows = [_unranked(figure, colours, rule, _below(total, generator), levels) for _ in range(number)]
    result = torch.tensor(rows, dtype=torch.int64).reshape(number, len(figure.segments))
    return result[0] if size is None else result


def _below(total: int, generator: torch.Generator) -> int:
    bits = (total - 1).bit_length()
    while True:
        drawn = torch.randint(
            256, (-(-bits // 8),), dtype=torch.uint8, generator=generator, device=generator.device
        )
        number = int.from_bytes(bytes(drawn.tolist()), "big") >> (-bits % 8)
        if number < total:
            return number


# -- other engines -----------------------------------------------------------------------------


def brute_force(figure: Figure, colours: int, rule: str) -> int:
    """Count by looking at every colouring, one after the other; no colouring is skipped.

    Independent of `count`: it calls a square dominated if of its six pairs of sides exactly one is equal.
    It keeps a single colouring in memory. A colouring is left at its first square that is not dominated,
    the next one is looked at nevertheless, so this is no pruned search.

    Parameters are those of `count`.

    Raises
    ------
    ValueError
        As `count`, and if there are more than `BRUTE_FORCE_LIMIT` colourings.

    Examples
    --------
    >>> brute_force(row(2), 3, "neighbours")
    270
    """
    groups = _groups(figure, rule)
    colours = integer("colours", colours, 1)
    n = len(figure.segments)
    if colours > 1 and (n > 30 or colours**n > BRUTE_FORCE_LIMIT):
        raise refuse(
            "colours",
            f"{colours} for {n} segments",
            f"at most 2**30 colourings for brute force, these are about 10**{n * math.log10(colours):.0f}",
        )
    pairs = sorted({pair for group in groups for pair in combinations(group, 2)})
    return int(_look_at_all(np.array(figure.sides), np.array(pairs, np.int64).reshape(-1, 2), n, colours))


@_compiled
def _look_at_all(sides, pairs, n, colours):  # type: ignore[no-untyped-def]
    colour = np.zeros(n, np.int64)
    dominant = np.empty(len(sides), np.int64)
    valid = 0
    while True:
        sound = True
        for i in range(len(sides)):
            equal = 0
            for a in range(3):
                for b in range(a + 1, 4):
                    if colour[sides[i, a]] == colour[sides[i, b]]:
                        equal += 1
                        dominant[i] = colour[sides[i, a]]
            if equal != 1:
                sound = False
                break
        if sound:
            for p in range(len(pairs)):
                if dominant[pairs[p, 0]] == dominant[pairs[p, 1]]:
                    sound = False
                    break
            valid += sound
        at = 0
        while at < n and colour[at] == colours - 1:
            colour[at] = 0
            at += 1
        if at == n:
            return valid
        colour[at] += 1


def clauses(figure: Figure, colours: int, rule: str) -> list[tuple[int, ...]]:
    """Return clauses whose models are the valid colourings, for a SAT or BDD library.

    Variable ``segment * colours + colour + 1`` says that the segment has the colour. There are no others,
    so models and valid colourings correspond one to one. A negative number negates its variable.

    Parameters are those of `count`; errors too.

    Examples
    --------
    >>> len(clauses(plus(), 3, "bars")), max(map(abs, clauses(plus(), 3, "bars")[-1])) <= 16 * 3
    (862, True)
    """
    groups = _groups(figure, rule)
    colours = integer("colours", colours, 1)
    palette = range(colours)

    def has(segment: int, colour: int) -> int:
        return segment * colours + colour + 1

    found: set[tuple[int, ...]] = set()
    for segment in range(len(figure.segments)):
        found.add(tuple(has(segment, c) for c in palette))
        found |= {(-has(segment, a), -has(segment, b)) for a, b in combinations(palette, 2)}
    for four in figure.sides:
        for three in combinations(four, 3):
            found |= {tuple(-has(side, c) for side in three) for c in palette}
        for chosen in permutations(palette, 4):
            found.add(tuple(-has(side, c) for side, c in zip(four, chosen, strict=True)))
        first = four[0]
        for second in four[1:]:
            others = [side for side in four if side not in (first, second)]
            for a, b in permutations(palette, 2):
                found.add((-has(first, a), -has(second, a), -has(others[0], b), -has(others[1], b)))
    for i, j in {pair for group in groups for pair in combinations(group, 2)}:
        for two, other in product(combinations(figure.sides[i], 2), combinations(figure.sides[j], 2)):
            found |= {tuple(sorted({-has(side, c) for side in two + other})) for c in palette}
    return sorted(found, key=lambda clause: (len(clause), clause))
