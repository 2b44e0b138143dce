r"""Figures of unit squares with coloured sides: which colourings dominate, how many, and which at random.

A square is *dominated* by a colour if two of its sides have it and the other two have two other,
different colours (def-dominated). One engine counts for every figure: it adds square after square and
remembers of the past only the *frontier*, that is, which colours meet which open sides and open bars.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
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
#: The most rows, over all tables together, that the exact engine works through.
TABLE_LIMIT = 2_000_000
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
        near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & seen - reached
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


def _plan(figure: Figure, rule: str, symmetry: tuple[int, ...] | None = None) -> list[_Step]:
    """Order the squares so that few bits are open at a time (greedily), and reuse the bits."""
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
        done.update(batch)
        edge = (edge | {j for i in batch for j in near[i]}) - done
    return steps


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
            if _possible(following, squares):
                yield state.count(cycle), _canonical(following)
    for length, number in stock.items():
        if len(bits) % length == 0:
            unseen = number - sum(len(cycle) == length for cycle in state)
            following = (*state, _add((0,) * length, bits, 0))
            if unseen != 0 and _possible(following, squares):
                yield length * unseen, _canonical(following)


def _add(cycle: _Cycle, bits: tuple[int, ...], position: int) -> _Cycle:
    masks = list(cycle)
    for j, bit in enumerate(bits):
        masks[(position + j) % len(masks)] |= bit
    return tuple(masks)


def _possible(state: _State, squares: tuple[tuple[int, int], ...]) -> bool:
    """Say whether no square has a colour three times, or two colours twice."""
    for sides, _ in squares:
        pairs = 0
        for cycle in state:
            for mask in cycle:
                times = (mask & sides).bit_count()
                if times > 2:
                    return False
                pairs += times == 2
        if pairs > 1:
            return False
    return True


def _closed(state: _State, step: _Step) -> Iterator[tuple[int, _State]]:
    """Demand that the painted squares are dominated as the rule says, then forget what is over."""
    masks = [list(cycle) for cycle in state]
    for sides, groups in step.squares:
        for cycle in masks:
            for position, mask in enumerate(cycle):
                if (mask & sides).bit_count() == 2:
                    if mask & groups:
                        return
                    cycle[position] |= groups
                    break
            else:
                continue
            break
        else:
            return
    kept = (tuple(mask & step.keep for mask in cycle) for cycle in masks)
    yield 1, _canonical(cycle for cycle in kept if any(cycle))


def _canonical(cycles: Iterable[_Cycle]) -> _State:
    return tuple(sorted(c if len(c) == 1 else max(c[i:] + c[:i] for i in range(len(c))) for c in cycles))


def _total(
    figure: Figure, rule: str, stock: _Stock, one: Any = 1, symmetry: tuple[int, ...] | None = None
) -> Any:
    """Sum over all paths of the product of the weights: the number of colourings."""
    table: dict[_State, Any] = {(): one}
    moves = _moves(_plan(figure, rule, symmetry), stock)
    rows = 0
    for number, move in enumerate(moves):
        following: dict[_State, Any] = {}
        for state, ways in table.items():
            for weight, new in move(state):
                value = ways * weight
                following[new] = following[new] + value if new in following else value
        table = following
        rows = _guard(figure, rows + len(table), number, len(moves))
    return table.get((), 0 * one)


def _guard(figure: Figure, rows: int, number: int, steps: int) -> int:
    if rows > TABLE_LIMIT:
        estimate = rows * steps // (number + 1)
        raise refuse(
            "figure",
            f"{len(figure.squares)} squares",
            f"a figure whose tables have at most {TABLE_LIMIT} rows; these have about {estimate} or more",
        )
    return rows


def count(figure: Figure, colours: int, rule: str) -> int:
    """Count the colourings in which every square is dominated and the rule holds, exactly."""
    _check_figure(figure)
    colours = integer("colours", colours, 1)
    return int(_total(figure, rule, {1: colours}))


def count_polynomial(figure: Figure, rule: str) -> sympy.Poly:
    """Return the count as a polynomial in q."""
    _, q = ring("q", sympy.ZZ)
    return sympy.Poly(_total(figure, rule, {1: q}, q**0).as_expr(), sympy.Symbol("q"))


# -- up to symmetry ----------------------------------------------------------------------------


def symmetries(figure: Figure) -> tuple[tuple[int, ...], ...]:
    """Return the turns and mirrors that map the figure to itself, as permutations of its segments."""
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
    """Count valid colourings up to turns and mirrors of the figure (and renaming of colours)."""
    group = symmetries(figure)
    colours = integer("colours", colours, 1)
    if rename:
        colours = min(colours, len(figure.segments))
    total = Fraction(0)
    for symmetry in group:
        lengths = sorted(
            {length for cycle in _cycles(symmetry) for length in (1, 2, 4) if len(cycle) % length == 0}
        )
        kinds = _cycle_types(colours, lengths) if rename else [({1: colours}, Fraction(1))]
        for stock, share in kinds:
            total += share * _total(figure, rule, stock, symmetry=symmetry)
    result = total / len(group)
    if result.denominator != 1:
        raise AssertionError("Burnside's sum is not divisible")
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
    """Return after each painting and closing, for each state, in how many ways one can go on."""
    moves = _moves(_plan(figure, rule), {1: colours})
    levels: list[dict[_State, int]] = [{(): 0}]
    rows = 0
    for number, move in enumerate(moves):
        levels.append({new: 0 for state in levels[-1] for _, new in move(state)})
        rows = _guard(figure, rows + len(levels[-1]), number, len(moves))
    levels[-1] = {state: 1 for state in levels[-1]}  # the empty one, or none
    for move, level, following in zip(reversed(moves), levels[-2::-1], levels[:0:-1], strict=True):
        for state in level:
            level[state] = sum(weight * following[new] for weight, new in move(state))
    return levels


def unrank(figure: Figure, colours: int, rule: str, index: int) -> tuple[int, ...]:
    """Return valid colouring number `index`: a one-to-one map from 0 … count - 1 to the valid colourings."""
    _groups(figure, rule)
    colours = integer("colours", colours, 1, 2**63 - 1)
    levels = _completions(figure, colours, rule)
    total = levels[0][()]
    index = integer("index", index, 0, total - 1)
    return _unranked(figure, rule, index, levels)


def _unranked(figure: Figure, rule: str, index: int, levels: list[dict[_State, int]]) -> tuple[int, ...]:
    seen: dict[int, int] = {}  # the description of each colour that is seen
    result = [0] * len(figure.segments)
    ahead = iter(levels[1:])
    for step in _plan(figure, rule):
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
    """Draw valid colourings, each with exactly the same probability.

    A number below the count is drawn without bias (from random bits, too large ones are thrown away) and
    handed to `unrank`; no rounding takes place.
    """
    _groups(figure, rule)
    colours = integer("colours", colours, 1, 2**63 - 1)
    size_ = 1 if size is None else integer("size", size, 0)
    levels = _completions(figure, colours, rule)
    total = levels[0][()]
    if total == 0:
        raise refuse(
            "colours", colours, f"a number of colours for which a valid colouring exists (rule {rule})"
        )
    rows = [_unranked(figure, rule, _below(total, generator), levels) for _ in range(size_)]
    result = torch.tensor(rows, dtype=torch.int64).reshape(size_, len(figure.segments))
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
    """Look at every colouring, one after the other, and count the valid ones."""
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
            equal = 0  # a square is dominated if of its six pairs of sides exactly one is equal
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

    Variable ``segment * colours + colour + 1`` says that the segment has the colour.
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
