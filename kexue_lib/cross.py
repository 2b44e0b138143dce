r"""Figures of unit squares with coloured sides: which colourings dominate, how many, and which at random.

A square is *dominated* by a colour if two of its sides have it and the other two have two other,
different colours (def-dominated). One engine counts for every figure: it adds square after square and
remembers of the past only the *frontier*, that is, which colours meet which open sides and open bars.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, lru_cache, partial
from itertools import combinations, islice, product
from typing import Any

import numpy as np
import sympy
import torch
from sympy.polys.rings import ring
from torch import Tensor

from kexue_lib.arguments import integer, one_of, refuse
from kexue_lib.compiled import compiled

#: What is asked beside domination: nothing, adjacent squares differ, all squares of a straight bar differ.
RULES = ("free", "neighbours", "bars")
#: The most squares of a figure.
SQUARES_LIMIT = 10_000
#: The most entries (colours that a row tells apart) of all tables of the exact engine: some seconds.
TABLE_LIMIT = 500_000
#: The most segments for which `count_polynomial` writes the polynomial down.
POLYNOMIAL_LIMIT = 1000
#: The most colours that `orbits` renames.
RENAME_LIMIT = 100
#: The most colourings that `brute_force` looks at.
BRUTE_FORCE_LIMIT = 2**28
#: The most clauses against sides that do not dominate that `clauses` writes down.
CLAUSES_LIMIT = 10**6
#: The most colourings that `sample` draws at once.
SAMPLE_LIMIT = 10**6

Square = tuple[int, int]
_Cycle = tuple[int, ...]
_State = tuple[_Cycle, ...]
_Stock = dict[int, Any]  # how many cycles of each length the renaming has; {1: q} if colours keep their names
_Move = Callable[[_State], Iterator[tuple[Any, _State]]]


# -- figures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A connected figure of unit squares (row, column), kept sorted; everything else follows from them.

    Rows go down, columns go right. Squares and segments are called by their numbers in `squares` and
    `segments`. A colouring lists a colour, 0 to q - 1, for each segment.

    Raises
    ------
    ValueError
        If squares are none, too many, not pairs of integers, listed twice or not connected by sides.
    """

    squares: tuple[Square, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "squares", _check_squares(self.squares))

    @cached_property
    def _around(self) -> list[tuple[tuple[int, int], ...]]:
        return [
            ((2 * r, 2 * c + 1), (2 * r + 1, 2 * c + 2), (2 * r + 2, 2 * c + 1), (2 * r + 1, 2 * c))
            for r, c in self.squares
        ]

    @cached_property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """Midpoints (y, x) of the sides in half units, sorted; a shared side is one segment."""
        return tuple(sorted({segment for four in self._around for segment in four}))

    @cached_property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """For each square its segments above, right, below, left."""
        number = {segment: i for i, segment in enumerate(self.segments)}
        return tuple(tuple(number[segment] for segment in four) for four in self._around)

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Pairs of squares that share a side."""
        number = {square: i for i, square in enumerate(self.squares)}
        near = [(i, number.get(other)) for (r, c), i in number.items() for other in ((r, c + 1), (r + 1, c))]
        return tuple((i, j) for i, j in near if j is not None)

    @cached_property
    def bars(self) -> tuple[tuple[int, ...], ...]:
        """Longest straight runs of at least two squares, rows first."""
        number = {square: i for i, square in enumerate(self.squares)}
        runs = []
        for down, right in ((0, 1), (1, 0)):
            for r, c in self.squares:
                if (r - down, c - right) not in number:
                    run = []
                    while (r, c) in number:
                        run.append(number[r, c])
                        r, c = r + down, c + right
                    runs.append(tuple(run))
        return tuple(run for run in runs if len(run) > 1)


def _check_squares(squares: Iterable[Square]) -> tuple[Square, ...]:
    allowed = "a list of unit squares (row, column)"
    try:
        found = [tuple(square) for square in islice(squares, SQUARES_LIMIT + 1)]
    except TypeError:
        raise refuse("squares", squares, allowed) from None
    if not 0 < len(found) <= SQUARES_LIMIT:
        raise refuse("squares", f"{len(found)} squares", f"at least one, at most {SQUARES_LIMIT}")
    for square in found:
        if len(square) != 2:
            raise refuse("squares", square, allowed)
    checked = [(integer("row", r, -(2**31), 2**31), integer("column", c, -(2**31), 2**31)) for r, c in found]
    ((square, times),) = Counter(checked).most_common(1)
    if times > 1:
        raise refuse("squares", square, "each square once, squares must not overlap")
    apart, edge = set(checked[1:]), checked[:1]
    while edge:
        r, c = edge.pop()
        near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & apart
        apart -= near
        edge += near
    if apart:
        raise refuse("squares", min(apart), f"squares that are connected by sides to {checked[0]}")
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

    Raises `ValueError` if the colouring does not have one integer >= 0 for each segment.

    >>> dominants(row(1), (0, 1, 0, 2)), dominants(row(1), (0, 1, 0, 1))
    ((0,), (None,))
    """
    _check_figure(figure)
    n = len(figure.segments)
    values = colouring.tolist() if isinstance(colouring, Tensor | np.ndarray) else colouring
    if not isinstance(values, Iterable) or len(values := list(islice(values, n + 1))) != n:
        raise refuse("colouring", colouring, f"one colour for each of {n} segments")
    colours = [integer("colouring", value, 0) for value in values]
    painted = [[colours[side] for side in four] for four in figure.sides]
    return tuple(max(four, key=four.count) if len(set(four)) == 3 else None for four in painted)


def is_valid(figure: Figure, colouring: Iterable[int], rule: str) -> bool:
    """Say whether every square is dominated and the rule holds; errors as for `dominants` and `count`."""
    groups = _groups(figure, rule)
    found = dominants(figure, colouring)
    return None not in found and all(len({found[i] for i in group}) == len(group) for group in groups)


def _check_figure(figure: Figure) -> None:
    if not isinstance(figure, Figure):
        raise refuse("figure", figure, "a Figure, made by plus, row, block or figure")


def _groups(figure: Figure, rule: str) -> tuple[tuple[int, ...], ...]:
    """Return the groups of squares whose dominant colours must differ pairwise."""
    _check_figure(figure)
    if rule not in RULES:
        raise refuse("rule", rule, one_of(rule, RULES))
    return {"free": (), "neighbours": figure.neighbours, "bars": figure.bars}[rule]


def _rivals(figure: Figure, rule: str) -> list[tuple[int, int]]:
    return sorted({pair for group in _groups(figure, rule) for pair in combinations(group, 2)})


# -- the engine --------------------------------------------------------------------------------
# What the past means for the future is a *state*. A colour is described by where it is seen: the set,
# as bits, of the open segments that have it and of the open groups in which it dominates already. A state
# is the sorted list of the descriptions that are not empty. So colours have no names, a state stands
# for all colourings that differ by a renaming, and the number of states does not depend on q.
#
# With a symmetry g and a renaming pi (see `orbits`), a side's images under g are painted together, along a
# cycle of pi, so descriptions come in cycles too. Without them every cycle has length one.


@dataclass(frozen=True)
class _Step:
    """One square, or all its images under a symmetry: what to paint, to check and to forget."""

    segments: tuple[int, ...]  # the first of each list of linked segments
    paints: tuple[tuple[int, ...], ...]  # bits of linked segments: c(s_j) = pi^j c(s_0)
    squares: tuple[tuple[int, int], ...]  # bits of the four sides, bits of the groups
    keep: int  # bits that the future asks for


def _plan(figure: Figure, rule: str, colours: int, symmetry: tuple[int, ...] | None = None) -> list[_Step]:
    """Order the squares so that few items (segments and groups) are open at a time, and reuse the bits.

    Greedy; of equally good squares the one that has waited longest, so that a block is swept along its
    longer side. The future asks which open segments, and which dominants of open groups, agree, and mostly
    everything is possible there; so partitions into at most `colours` classes estimate a table's rows.
    """
    groups, n = _groups(figure, rule), len(figure.segments)
    items = [list(four) for four in figure.sides]  # of a square; groups are numbered after the segments
    for item, group in enumerate(groups, n):
        for i in group:
            items[i].append(item)
    near: list[list[int]] = [[] for _ in items]
    for i, j in figure.neighbours:
        near[i].append(j)
        near[j].append(i)
    links, together = _orbits_of(figure, symmetry or tuple(range(n)))
    waiting = Counter(item for own in items for item in own)
    open_: dict[int, int] = {}  # the bit of each open item
    free: list[int] = []
    steps: list[_Step] = []
    done: set[int] = set()
    first: dict[int, int] = {}  # of each open group the square that came first
    edge = [min(range(len(items)), key=lambda i: len(near[i]))]
    entries = 0

    def growth(i: int) -> int:
        return sum((item not in open_) - (waiting[item] == 1) for item in items[i])

    while edge:
        batch = together[min(edge, key=growth)]
        wanted = [item for i in batch for item in items[i]]
        fresh = []
        for item in wanted:
            if item not in open_:
                for linked in links.get(item, (item,)):
                    open_[linked] = free.pop() if free else len(open_)
                if item < n:
                    fresh.append(item)
        bits = {item: 1 << bit for item, bit in open_.items()}
        paints = tuple(tuple(bits[linked] for linked in links[item]) for item in fresh)
        sides_and_groups = [(items[i][:4], items[i][4:]) for i in batch]
        squares = tuple((sum(bits[x] for x in s), sum(bits[x] for x in g)) for s, g in sides_and_groups)
        waiting.subtract(wanted)
        free += [open_.pop(item) for item in list(open_) if waiting[item] == 0]
        steps.append(_Step(tuple(fresh), paints, squares, sum(1 << bit for bit in open_.values())))
        done.update(batch)
        edge = [i for i in dict.fromkeys(edge + [j for i in batch for j in near[i]]) if i not in done]
        for i in batch:
            first |= {item: i for item in items[i][4:] if item not in first}
        things = len({links[item][0] if item < n else -1 - first[item] for item in open_})
        entries = _guard(figure, entries + 8 * _partitions(things, colours))
    return steps


@cache
def _partitions(things: int, classes: int) -> int:
    """Count the partitions of a set into at most so many classes."""
    ways = [1] + [0] * min(things, classes)  # by the number of classes
    for _ in range(things):
        ways = [0] + [ways[k - 1] + k * ways[k] for k in range(1, len(ways))]
    return sum(ways)


def _cycles(permutation: Sequence[int]) -> list[tuple[int, ...]]:
    cycles, seen = [], set()
    for start in range(len(permutation)):
        if start not in seen:
            cycle = [start]
            while (following := permutation[cycle[-1]]) != start:
                cycle.append(following)
            seen.update(cycle)
            cycles.append(tuple(cycle))
    return cycles


def _orbits_of(figure: Figure, symmetry: Sequence[int]) -> list[dict[int, tuple[int, ...]]]:
    """Return the images of each segment and of each square under the powers of a symmetry."""
    number = {frozenset(four): i for i, four in enumerate(figure.sides)}
    squares = [number[frozenset(symmetry[side] for side in four)] for four in figure.sides]
    return [{i: cycle for cycle in _cycles(p) for i in cycle} for p in (symmetry, squares)]


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
        for position in range(len(cycle)):
            painted = _add(cycle, bits, position)
            following = (*state[:i], *state[i + 1 :], painted)
            if _possible(following, painted, squares):
                yield state.count(cycle), _canonical(following)
    for length, number in stock.items():
        unseen = number - sum(len(cycle) == length for cycle in state)
        if unseen != 0 and len(bits) % length == 0:
            painted = _add((0,) * length, bits, 0)
            following = (*state, painted)
            if _possible(following, painted, squares):
                yield length * unseen, _canonical(following)


def _add(cycle: _Cycle, bits: tuple[int, ...], position: int) -> _Cycle:
    masks = list(cycle)
    for j, bit in enumerate(bits):
        masks[(position + j) % len(masks)] |= bit
    return tuple(masks)


def _possible(state: _State, painted: _Cycle, squares: tuple[tuple[int, int], ...]) -> bool:
    """Say whether painting has left every square without a colour thrice and without two colours twice."""
    for sides, _ in squares:
        most = max((mask & sides).bit_count() for mask in painted)
        if most > 2 or (most == 2 and len(_twice(state, sides)) > 1):
            return False
    return True


def _twice(state: Iterable[Sequence[int]], sides: int) -> list[tuple[int, int]]:
    """Return the places (cycle, position) of the colours that two of the sides have."""
    return [
        (i, j)
        for i, cycle in enumerate(state)
        for j, mask in enumerate(cycle)
        if (mask & sides).bit_count() == 2
    ]


def _closed(state: _State, step: _Step) -> Iterator[tuple[int, _State]]:
    """Demand that the painted squares are dominated as the rule says, then forget what is over."""
    masks = [list(cycle) for cycle in state]
    for sides, groups in step.squares:
        twice = _twice(masks, sides)
        if len(twice) != 1 or masks[twice[0][0]][twice[0][1]] & groups:
            return
        masks[twice[0][0]][twice[0][1]] |= groups
    kept = (tuple(mask & step.keep for mask in cycle) for cycle in masks)
    yield 1, _canonical(cycle for cycle in kept if any(cycle))


def _canonical(cycles: Iterable[_Cycle]) -> _State:
    return tuple(sorted(c if len(c) == 1 else max(c[i:] + c[:i] for i in range(len(c))) for c in cycles))


def _total(moves: list[_Move], figure: Figure, entries: int = 0) -> tuple[Any, int]:
    """Sum the products of the weights over all ways through the moves; add up the tables' entries."""
    table: dict[_State, Any] = {(): 1}
    for move in moves:
        following: dict[_State, Any] = {}
        for state, ways in table.items():
            for weight, new in move(state):
                following[new] = following.get(new, 0) + ways * weight
        table = following
        entries = _guard(figure, entries + sum(map(len, table)))
    return table.get((), 0), entries


def _hopeless(figure: Figure, rule: str, colours: int) -> bool:
    """Say whether there are too few colours for a square or for a group."""
    return colours < max((3, *map(len, _groups(figure, rule))))


def _guard(figure: Figure, entries: int) -> int:
    if entries > TABLE_LIMIT:
        about = f"{entries:.0e}" if entries < 1e300 else "1e300"
        raise refuse(
            "figure",
            f"{len(figure.squares)} squares",
            f"a smaller or narrower one: tables may have {TABLE_LIMIT:.0e} entries, these {about} or more",
        )
    return entries


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
        If an argument is none of these, or the tables would have more than `TABLE_LIMIT` entries.

    Examples
    --------
    >>> count(plus(), 3, "bars")
    27216
    """
    colours = integer("colours", colours, 1)
    if _hopeless(figure, rule, colours):
        return 0
    return int(_total(_moves(_plan(figure, rule, colours), {1: colours}), figure)[0])


def count_polynomial(figure: Figure, rule: str) -> sympy.Poly:
    """Return the count as a polynomial in q, valid for every number of colours q >= 1.

    No value is fitted: the engine runs once, with q a letter. *Proof.* Let T(s) be the number of partial
    colourings that lead to state s, in which k colours are seen. Each of them can be painted on with a
    given seen colour in one way, with an unseen one in q - k ways, whatever the names of the colours; so
    painting is T(t) = sum of T(s) times 1 (for each seen colour that leads to t) and times q - k (if a new
    one does). This holds for q >= k, and for q < k both sides are 0: T(s) has the factors q, q - 1, ...
    q - k + 1, as a state with k colours was reached through states with fewer. Checking and forgetting
    only drop and join rows. Hence by induction every T(s) is a polynomial with integer coefficients, of a
    degree at most the number of painted segments.

    Parameters and errors are those of `count`; at most `POLYNOMIAL_LIMIT` segments.

    Examples
    --------
    >>> sympy.factor(count_polynomial(row(2), "neighbours").as_expr())
    9*q*(q - 2)**2*(q - 1)*(3*q - 4)
    """
    _check_figure(figure)
    n = len(figure.segments)
    if n > POLYNOMIAL_LIMIT:
        raise refuse("figure", f"{n} segments", f"at most {POLYNOMIAL_LIMIT} of them for a polynomial")
    letter = ring("q", sympy.ZZ)[1]
    counted, _ = _total(_moves(_plan(figure, rule, n), {1: letter}), figure)
    return sympy.Poly(counted.as_expr(), sympy.Symbol("q"))


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
    """Count the valid colourings up to turns and mirrors, by Burnside's lemma (eq-orbits).

    The mean, over the symmetries g of the figure, of the number of valid colourings that g leaves alone.
    With `rename` also colours may be exchanged (eq-both): then g is combined with every permutation pi of
    the colours, and a colouring counts if c(g(s)) = pi(c(s)) for every segment s. That number depends only
    on how many cycles of lengths 1, 2 and 4 pi has; no other divides the length of a cycle of g.

    Other parameters and errors are those of `count`; with `rename` at most `RENAME_LIMIT` colours, or
    segments if these are fewer.

    Examples
    --------
    >>> orbits(plus(), 3, "bars"), orbits(plus(), 3, "bars", rename=True)
    (3402, 594)
    """
    colours = integer("colours", colours, 1)
    if not isinstance(rename, bool):
        raise refuse("rename", rename, "True or False")
    if _hopeless(figure, rule, colours):
        return 0
    if rename:  # a colouring has no more colours than segments, so further ones add nothing
        colours = min(colours, len(figure.segments))
        if colours > RENAME_LIMIT:
            raise refuse("colours", colours, f"at most {RENAME_LIMIT} with rename=True")
    group, sum_ = symmetries(figure), Fraction(0)
    for symmetry in group:
        entries = 0
        steps = _plan(figure, rule, colours, symmetry)
        of_g = {len(cycle) for cycle in _cycles(symmetry)}
        lengths = [length for length in (1, 2, 4) if any(n % length == 0 for n in of_g)]
        for stock, share in _cycle_types(colours, lengths) if rename else [({1: colours}, Fraction(1))]:
            fixed, entries = _total(_moves(steps, stock), figure, entries)
            sum_ += share * fixed
    result = sum_ / len(group)
    if result.denominator != 1:
        raise ArithmeticError("Burnside's mean is no integer: a mistake of this program")
    return int(result)


def _cycle_types(q: int, lengths: list[int]) -> Iterator[tuple[_Stock, Fraction]]:
    """Yield how many cycles of the lengths a permutation of q colours has, with the share of each case."""
    without = [Fraction(1)]  # share of the permutations of r colours that have no such cycle
    for r in range(1, q + 1):
        without.append(sum((without[r - j] for j in range(1, r + 1) if j not in lengths), Fraction(0)) / r)
    for numbers in product(*(range(q // length + 1) for length in lengths)):
        stock = dict(zip(lengths, numbers, strict=True))
        rest = q - sum(m * length for length, m in stock.items())
        if rest >= 0:
            yield stock, without[rest] / math.prod(math.factorial(m) * k**m for k, m in stock.items())


# -- drawing at random -------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _completions(figure: Figure, colours: int, rule: str) -> tuple[list[_Step], list[dict[_State, int]]]:
    """Return the plan, and after each move, for each state, in how many ways it can be completed."""
    steps = [] if _hopeless(figure, rule, colours) else _plan(figure, rule, colours)
    moves = _moves(steps, {1: colours})
    levels: list[dict[_State, int]] = [{(): 0}]
    entries = 0
    for move in moves:
        levels.append({new: 0 for state in levels[-1] for _, new in move(state)})
        entries = _guard(figure, entries + sum(map(len, levels[-1])))
    levels[-1] = {state: int(steps != []) for state in levels[-1]}  # the empty one, or none
    for move, level, following in zip(reversed(moves), levels[-2::-1], levels[:0:-1], strict=True):
        for state in level:
            level[state] = sum(weight * following[new] for weight, new in move(state))
    if levels[0][()] == 0:
        raise refuse("colours", colours, "more colours: with these there is no valid colouring")
    return steps, levels


def unrank(figure: Figure, colours: int, rule: str, index: int) -> tuple[int, ...]:
    """Return valid colouring number `index`: one to one from 0 ... count - 1 to the valid colourings.

    Raises
    ------
    ValueError
        As `count`, or if there is no valid colouring, or the index is out of range.

    Examples
    --------
    >>> unrank(row(1), 3, "free", 0), unrank(row(1), 3, "free", 35)
    ((0, 2, 0, 1), (2, 2, 1, 0))
    """
    _groups(figure, rule)
    steps, levels = _completions(figure, integer("colours", colours, 1), rule)
    index = integer("index", index, 0, levels[0][()] - 1)
    seen: dict[int, int] = {}  # the description of each colour that is seen
    result = [0] * len(figure.segments)
    ahead = iter(levels[1:])
    for step in steps:
        for segment, (bit,) in zip(step.segments, step.paints, strict=True):
            ways = next(ahead)
            for colour in sorted(seen):
                after = {**seen, colour: seen[colour] | bit}
                here = ways.get(_canonical((mask,) for mask in after.values()), 0)
                if index < here:
                    break
                index -= here
            else:
                colour, index = divmod(index, ways[_canonical((mask,) for mask in [*seen.values(), bit])])
                for other in sorted(seen):  # so far its number among the colours that are not seen
                    colour += other <= colour
            result[segment] = colour
            seen[colour] = seen.get(colour, 0) | bit
        next(ahead)
        for sides, groups in step.squares:
            seen[next(colour for colour, mask in seen.items() if (mask & sides).bit_count() == 2)] |= groups
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
        How many to draw, at most `SAMPLE_LIMIT`; left out, one without a leading axis.

    Returns
    -------
    int64 tensor of shape (segments,) or (size, segments), on the CPU.

    Raises
    ------
    ValueError
        As `count`, or if there is no valid colouring, or size is out of range.
    TypeError
        If generator is none.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator = {generator!r}: expected a torch.Generator")
    _groups(figure, rule)
    total = _completions(figure, integer("colours", colours, 1, 2**63 - 1), rule)[1][0][()]
    number = 1 if size is None else integer("size", size, 0, SAMPLE_LIMIT)
    drawn = [unrank(figure, colours, rule, _below(total, generator)) for _ in range(number)]
    result = torch.tensor(drawn, dtype=torch.int64).reshape(number, len(figure.segments))
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

    Parameters and errors are those of `count`; at most `BRUTE_FORCE_LIMIT` colourings.

    Examples
    --------
    >>> brute_force(row(2), 3, "neighbours")
    270
    """
    pairs = _rivals(figure, rule)
    colours = integer("colours", colours, 1)
    n = len(figure.segments)
    if n * math.log2(colours) > math.log2(BRUTE_FORCE_LIMIT):
        raise refuse(
            "colours",
            f"{colours} for {n} segments",
            f"at most 2**28 colourings for brute force, these are about 10**{n * math.log10(colours):.0f}",
        )
    return int(_look_at_all(np.array(figure.sides), np.array(pairs, np.int64).reshape(-1, 2), n, colours))


@compiled
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

    Parameters and errors are those of `count`; squares times colours**4 at most `CLAUSES_LIMIT`.

    Examples
    --------
    >>> clauses(row(1), 1, "free")
    [(1,), (2,), (3,), (4,), (-4, -3, -2, -1)]
    """
    rivals = _rivals(figure, rule)
    colours = integer("colours", colours, 1)
    if len(figure.squares) * colours**4 > CLAUSES_LIMIT:
        raise refuse("colours", colours, f"squares * colours**4 at most {CLAUSES_LIMIT} for clauses")
    palette = range(colours)

    def not_all(segments: Iterable[int], painted: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted(-(s * colours + c + 1) for s, c in zip(segments, painted, strict=True)))

    found: set[tuple[int, ...]] = set()
    for segment in range(len(figure.segments)):
        found.add(tuple(segment * colours + c + 1 for c in palette))
        found |= {not_all((segment, segment), two) for two in combinations(palette, 2)}
    for four in figure.sides:
        found |= {not_all(four, painted) for painted in product(palette, repeat=4) if len(set(painted)) != 3}
    for i, j in rivals:
        for two, other in product(combinations(figure.sides[i], 2), combinations(figure.sides[j], 2)):
            found |= {not_all({*two, *other}, [c] * len({*two, *other})) for c in palette}
    return sorted(found, key=lambda clause: (len(clause), clause))
