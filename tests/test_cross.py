"""Mathematics of the cross module: exact numbers by several engines, symmetry, uniform draws, refusals."""

import subprocess
import sys
from fractions import Fraction
from functools import cache
from itertools import count, pairwise, permutations, product
from math import factorial

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pysdd.sdd import SddManager
from scipy import stats

from kexue_lib import cross as c

Q = sympy.Symbol("q")
LADDERS = [36, 270, 1998, 14742, 108702, 801414, 5908302, 43557750]
SMALL = [
    ("bar of three", c.row(3), "bars"),
    ("bar of three", c.row(3), "neighbours"),
    ("square block", c.block(2, 2), "neighbours"),
    ("square block", c.block(2, 2), "free"),
    ("corner", c.figure([(0, 0), (0, 1), (1, 0)]), "bars"),
    ("one square", c.row(1), "free"),
]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def models(figure, colours, rule):
    """Count the models of the clauses with a library that compiles them into a decision diagram."""
    manager = SddManager(var_count=len(figure.segments) * colours, auto_gc_and_minimize=False)
    formula = manager.true()
    # In the order of their last variable: the diagrams stay small.
    for clause in sorted(c.clauses(figure, colours, rule), key=lambda clause: max(map(abs, clause))):
        either = manager.false()
        for literal in clause:
            either |= manager.literal(literal)
        formula &= either
    return manager.global_model_count(formula)


@cache
def all_valid(figure, colours, rule):
    """List the valid colourings by the definition alone, square after square, in plain Python."""
    dominant_of = {}
    for four in product(range(colours), repeat=4):
        if sorted(four.count(k) for k in set(four)) == [1, 1, 2]:
            dominant_of[four] = max(four, key=four.count)
    groups = {"free": (), "neighbours": figure.neighbours, "bars": figure.bars}[rule]
    place, found = {}, [((), ())]
    for i, four in enumerate(figure.sides):
        rivals = {j for group in groups if i in group for j in group if j < i}
        new = [side for side in four if side not in place]
        place |= {side: len(place) + k for k, side in enumerate(new)}
        at = [place[side] for side in four]
        found = [
            (longer, (*dominants, dominant))
            for known, dominants in found
            for values in product(range(colours), repeat=len(new))
            for longer in [known + values]
            for dominant in [dominant_of.get(tuple(longer[k] for k in at))]
            if dominant is not None and all(dominants[j] != dominant for j in rivals)
        ]
    order = [place[segment] for segment in range(len(figure.segments))]
    return {tuple(colouring[k] for k in order) for colouring, _ in found}


@pytest.fixture(scope="module")
def crosses():
    return all_valid(c.plus(), 3, "bars")


# -- the puzzle ----------------------------------------------------------------------------------


def test_five_engines_find_27216_and_none_54432(crosses):
    engines = {
        "frontier": c.count(c.plus(), 3, "bars"),
        "polynomial": c.count_polynomial(c.plus(), "bars").eval(3),
        "every colouring": c.brute_force(c.plus(), 3, "bars"),
        "list": len(crosses),
        "decision diagram": models(c.plus(), 3, "bars"),
    }
    assert set(engines.values()) == {27216}, engines
    assert 54432 not in engines.values()


def test_the_polynomial_of_the_plus():
    expected = sympy.expand(162 * Q * (Q - 1) * (Q - 2) ** 7 * (3 * Q - 5) * (4 * Q - 5))
    found = c.count_polynomial(c.plus(), "bars")
    assert found == sympy.Poly(expected, Q)
    assert (found.degree(), found.eval(3), found.eval(4)) == (11, 27216, 19160064)
    assert c.count(c.plus(), 10**30, "bars") == found.eval(10**30)


def test_numbers_of_the_other_rules_and_figures():
    assert c.count(c.plus(), 3, "free") == 36 * 12**4 == 746496
    assert c.count(c.plus(), 3, "neighbours") == 18**4 == 104976
    assert c.count(c.row(3), 3, "bars") == 1026
    bar = 9 * Q * (Q - 1) * (Q - 2) ** 4 * (13 * Q - 20)
    assert c.count_polynomial(c.row(3), "bars") == sympy.Poly(sympy.expand(bar), Q)


def test_kinds_of_squares_sum_to_all():
    for q in (2, 3, 4, 5):
        kinds = {}
        for colouring in product(range(q), repeat=4):
            kind = tuple(sorted(colouring.count(k) for k in set(colouring)))
            kinds[kind] = kinds.get(kind, 0) + 1
        assert kinds.get((1, 1, 2), 0) == c.count(c.row(1), q, "free") == 6 * q * (q - 1) * (q - 2)
        assert sum(kinds.values()) == q**4
    assert c.count_polynomial(c.row(1), "bars") == sympy.Poly(6 * Q * (Q - 1) * (Q - 2), Q)


# -- ladders -------------------------------------------------------------------------------------


def test_ladders_by_generating_function_transfer_matrix_and_engine():
    x = sympy.Symbol("x")
    series = sympy.series(18 * x * (2 - 3 * x) / (1 - 9 * x + 12 * x**2), x, 0, 9).removeO()
    assert [series.coeff(x, m) for m in range(1, 9)] == LADDERS
    assert [c.count(c.row(m), 3, "neighbours") for m in range(1, 9)] == LADDERS
    transfer = sympy.Matrix(
        [[2 * (Q - 1) * (Q - 2), (Q - 2) * (3 * Q - 5)], [(Q - 1) * (Q - 2), (Q - 2) * (3 * Q - 4)]]
    )
    vector = sympy.Matrix([3, 3]) * Q * (Q - 1) * (Q - 2)
    for m in range(1, 6):
        assert c.count_polynomial(c.row(m), "neighbours") == sympy.Poly(sympy.expand(sum(vector)), Q)
        vector = transfer * vector


def test_long_ladders_are_exact():
    transfer = np.array([[4, 4], [2, 5]], object)
    vector = np.array([18, 18], object)
    for _ in range(299):
        vector = transfer @ vector
    assert c.count(c.row(300), 3, "neighbours") == sum(vector)
    assert c.count(c.row(300), 3, "free") == 36 * 12**299
    assert c.count(c.row(300), 3, "bars") == 0
    assert c.count(c.row(40), 40, "bars") > 0


# -- engines against each other ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "figure", "rule"), SMALL)
def test_engines_agree_on_small_figures(name, figure, rule):
    polynomial = c.count_polynomial(figure, rule)
    assert polynomial.degree() <= len(figure.segments)
    for q in (1, 2, 3, 4):
        counted = c.count(figure, q, rule)
        assert counted == polynomial.eval(q)
        assert q ** len(figure.segments) > 10**7 or counted == c.brute_force(figure, q, rule)
        assert q > 3 or counted == len(all_valid(figure, q, rule))
    assert c.count(figure, 3, rule) == models(figure, 3, rule)
    assert polynomial.eval(0) == 0
    assert polynomial.eval(5) == c.count(figure, 5, rule)
    assert models(c.row(1), 4, "free") == 144  # four colours: the clauses against four different ones


@st.composite
def polyominoes(draw, largest):
    squares = [(0, 0)]
    for _ in range(draw(st.integers(0, largest - 1))):
        near = {(r + y, s + x) for r, s in squares for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))}
        squares.append(draw(st.sampled_from(sorted(near - set(squares)))))
    return c.figure(squares)


@settings(max_examples=25, deadline=None)
@given(polyominoes(5), st.integers(1, 4), st.sampled_from(c.RULES))
def test_random_figures(figure, colours, rule):
    if len(figure.segments) > 13:
        colours = min(colours, 3)
    counted = c.count(figure, colours, rule)
    assert counted == c.count_polynomial(figure, rule).eval(colours)
    if colours ** len(figure.segments) <= 2**23:
        assert counted == c.brute_force(figure, colours, rule)


@settings(max_examples=15, deadline=None)
@given(polyominoes(9), st.sampled_from(c.RULES), st.integers(0, 7))
def test_counts_do_not_see_turns_mirrors_and_shifts(figure, rule, motion):
    swap, down, right = motion & 1, 1 - (motion & 2), 1 - (motion & 4) // 2
    moved = [(down * r + 3, right * s - 5) for r, s in (p[::-1] if swap else p for p in figure.squares)]
    assert c.count(c.figure(moved), 3, rule) == c.count(figure, 3, rule)
    if len(figure.squares) < 6:
        assert c.orbits(c.figure(moved), 3, rule, True) == c.orbits(figure, 3, rule, True)


def test_blocks_with_loops():
    """Two rows, by an own transfer over the three segments that a column hands on to the next."""
    assert c.count(c.block(2, 2), 3, "free") == len(all_valid(c.block(2, 2), 3, "free")) == 20898
    valid = all_valid(c.block(2, 1), 3, "free")
    at = {segment: i for i, segment in enumerate(c.block(2, 1).segments)}
    left, right = [(1, 0), (3, 0)], [(1, 2), (3, 2)]
    border = list(product(range(3), repeat=2))
    transfer = np.zeros((9, 9), object)
    for colouring in valid:
        ends = [tuple(colouring[at[s]] for s in side) for side in (left, right)]
        transfer[border.index(ends[0]), border.index(ends[1])] += 1
    power = np.linalg.matrix_power(transfer, 12)
    assert c.count(c.block(2, 12), 3, "free") == c.count(c.block(12, 2), 3, "free") == power.sum()
    for rule in c.RULES:
        assert c.count(c.block(2, 4), 4, rule) == c.count(c.block(4, 2), 4, rule)


def test_a_ring_of_squares():
    """Eight squares around a hole: the trace of a transfer over (shared colour, dominant colour)."""
    ring = c.figure(sorted(set(product(range(3), repeat=2)) - {(1, 1)}))
    assert len(ring.segments) == 24
    states = list(product(range(3), repeat=2))
    through = np.zeros((2, 9, 9), object)
    for a, b, left, right in product(range(3), repeat=4):
        (twice,) = c.dominants(c.row(1), (a, left, b, right))
        for i in range(3) if twice is not None else ():
            for differ in (0, 1):
                through[differ, states.index((a, i)), states.index((b, twice))] += not (differ and i == twice)
    free, neighbours = (np.trace(np.linalg.matrix_power(m, 8)) for m in through)
    assert c.count(ring, 3, "free") == free == 12**8 + 2 * 3**8
    assert c.count(ring, 3, "neighbours") == neighbours
    for rule in c.RULES:
        assert c.count(ring, 3, rule) == c.count_polynomial(ring, rule).eval(3)
    assert 0 < c.count(ring, 3, "bars") < neighbours


# -- symmetry ------------------------------------------------------------------------------------


def orbit_numbers(figure, colours, valid):
    """Count orbits by walking through them: up to motions, up to names, up to both."""
    place = {segment: i for i, segment in enumerate(figure.segments)}
    height = max(y for y, _ in place)
    width = max(x for _, x in place)
    motions = []
    for swap, flip, mirror in product((0, 1), repeat=3):
        image = []
        for y, x in figure.segments:
            y, x = (height - y if flip else y), (width - x if mirror else x)
            image.append(place.get((x, y) if swap else (y, x)))
        if None not in image:
            motions.append(image)

    def renamed(colouring):
        names = {}
        return tuple(names.setdefault(k, len(names)) for k in colouring)

    moved = {min(tuple(v[i] for i in m) for m in motions) for v in valid}
    both = {min(renamed([v[i] for i in m]) for m in motions) for v in valid}
    return len(moved), len({renamed(v) for v in valid}), len(both)


def test_orbits_of_the_plus(crosses):
    assert orbit_numbers(c.plus(), 3, crosses) == (3402, 4536, 594)
    assert c.orbits(c.plus(), 3, "bars") == 27216 // 8 == 3402
    assert c.orbits(c.plus(), 3, "bars", rename=True) == 594 > 27216 // 48
    turns = [g for g in c.symmetries(c.plus()) if is_turn(c.plus(), g)]
    fixed = [sum(all(v[g[i]] == v[i] for i in range(16)) for v in crosses) for g in turns]
    assert Fraction(sum(fixed), 4) == 6804


def is_turn(figure, symmetry):
    """Say whether the order above, right, below, left of a square's sides keeps its sense."""
    four = [figure.segments[symmetry[side]] for side in figure.sides[0]]
    (y0, x0), (y1, x1), (y2, x2), _ = four
    return (y1 - y0) * (x2 - x1) - (x1 - x0) * (y2 - y1) < 0


@pytest.mark.parametrize(("name", "figure", "rule"), [*SMALL, ("bar of two", c.row(2), "bars")])
def test_orbits_of_small_figures(name, figure, rule):
    for q in (2, 3, 4) if len(figure.segments) < 8 else (2, 3):
        valid = all_valid(figure, q, rule)
        moved, _, both = orbit_numbers(figure, q, valid)
        assert (c.orbits(figure, q, rule), c.orbits(figure, q, rule, rename=True)) == (moved, both)


@settings(max_examples=10, deadline=None)
@given(polyominoes(3), st.sampled_from(c.RULES))
def test_orbits_of_random_figures(figure, rule):
    shifted = c.figure(
        (r - min(figure.squares)[0], s - min(x for _, x in figure.squares)) for r, s in figure.squares
    )
    moved, _, both = orbit_numbers(shifted, 3, all_valid(shifted, 3, rule))
    assert (c.orbits(figure, 3, rule), c.orbits(figure, 3, rule, rename=True)) == (moved, both)


def test_orbits_where_a_symmetry_paints_a_square_before_its_turn():
    """A quarter turn of the plus paints its arms, and so all sides of the centre, before the centre."""
    place = {segment: i for i, segment in enumerate(c.plus().segments)}
    valid = np.array(sorted(all_valid(c.plus(), 3, "neighbours")), np.int8)
    digits = 3 ** np.arange(16)
    moved = both = np.full(len(valid), 3**16)
    for flip, mirror, swap in product((False, True), repeat=3):
        images = [(6 - y if flip else y, 6 - x if mirror else x) for y, x in c.plus().segments]
        motion = [place[(x, y) if swap else (y, x)] for y, x in images]
        moved = np.minimum(moved, valid[:, motion] @ digits)
        for names in permutations(range(3)):
            both = np.minimum(both, np.array(names)[valid[:, motion]] @ digits)
    assert c.orbits(c.plus(), 3, "neighbours") == len(np.unique(moved)) == 13131
    assert c.orbits(c.plus(), 3, "neighbours", rename=True) == len(np.unique(both)) == 2229
    # Listed once in the same way, from 746496 colourings.
    assert [c.orbits(c.plus(), 3, "free", rename) for rename in (False, True)] == [93384, 15684]


@pytest.mark.parametrize("rule", c.RULES)
def test_orbits_of_a_larger_block_are_whole_numbers(rule):
    total = c.count(c.block(3, 3), 3, rule)
    for rename, motions in ((False, 8), (True, 48)):
        found = c.orbits(c.block(3, 3), 3, rule, rename)  # raises if the mean is no integer
        assert total <= motions * found < 1.1 * total


def test_a_long_corridor_is_not_wide():
    corridor = c.figure({*product(range(3), range(25)), *product(range(25), range(22, 25))})
    assert c.count(corridor, 3, "free") > 0
    assert c.count(c.block(3, 40), 3, "free") == c.count(c.block(40, 3), 3, "free")


def test_more_colours_than_segments_add_no_orbits_with_renaming():
    assert c.orbits(c.row(1), 4, "free", True) == c.orbits(c.row(1), 10**9, "free", True) == 2
    assert c.orbits(c.row(2), 7, "bars", True) == c.orbits(c.row(2), 8, "bars", True)


def test_shares_of_cycle_types_sum_to_one_and_have_the_known_means():
    for q in (1, 2, 5, 9):
        for lengths in ([1], [1, 2], [1, 2, 4]):
            kinds = list(c._cycle_types(q, lengths))
            assert sum(share for _, share in kinds) == 1
            for length in lengths:
                mean = sum(share * numbers[length] for numbers, share in kinds)
                assert mean == (Fraction(1, length) if length <= q else 0)
    assert {(n[1], s) for n, s in c._cycle_types(3, [1])} == {
        (3, Fraction(1, factorial(3))),
        (2, Fraction(0)),
        (1, Fraction(1, 2)),
        (0, Fraction(1, 3)),
    }


# -- random colourings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "figure", "rule"), [s for s in SMALL if s[2] != "free" or len(s[1].squares) < 4]
)
def test_ranks_list_every_valid_colouring_once(name, figure, rule):
    total = c.count(figure, 3, rule)
    listed = [c.unrank(figure, 3, rule, index) for index in range(total)]
    assert len(set(listed)) == total
    assert set(listed) == all_valid(figure, 3, rule)


def test_ranks_with_many_colours():
    total = c.count(c.plus(), 10**6, "bars")
    for index in (0, 1, total // 3, total - 1):
        colouring = c.unrank(c.plus(), 10**6, "bars", index)
        assert c.is_valid(c.plus(), colouring, "bars")
        assert max(colouring) < 10**6


def test_draws_are_uniform_and_follow_the_generator():
    figure, n = c.row(2), 2700
    drawn = c.sample(figure, 3, "neighbours", generator=rng(), size=n)
    assert (drawn.shape, drawn.dtype) == ((n, 7), torch.int64)
    kinds, times = np.unique(drawn.numpy(), axis=0, return_counts=True)
    assert {tuple(k) for k in kinds.tolist()} == all_valid(figure, 3, "neighbours")
    assert 1e-3 < stats.chisquare(times).pvalue < 1 - 1e-3
    assert torch.equal(drawn, c.sample(figure, 3, "neighbours", generator=rng(), size=n))
    assert not torch.equal(drawn, c.sample(figure, 3, "neighbours", generator=rng(1), size=n))
    both = rng()
    first = c.sample(figure, 3, "neighbours", generator=both)
    assert first.shape == (7,)
    assert torch.equal(torch.stack([first, c.sample(figure, 3, "neighbours", generator=both)]), drawn[:2])
    assert c.sample(figure, 3, "neighbours", generator=both, size=0).shape == (0, 7)


@pytest.mark.parametrize("total", [1, 2, 3, 129, 255, 256, 257])
def test_numbers_below_a_bound_are_uniform(total):
    generator = rng(2)
    drawn = np.bincount([c._below(total, generator) for _ in range(8000)], minlength=total)
    assert len(drawn) == total
    assert total == 1 or 1e-3 < stats.chisquare(drawn).pvalue < 1 - 1e-4


@settings(max_examples=15, deadline=None)
@given(polyominoes(8), st.integers(3, 6), st.sampled_from(["free", "neighbours"]))
def test_draws_are_valid(figure, colours, rule):
    for colouring in c.sample(figure, colours, rule, generator=rng(3), size=5):
        assert c.is_valid(figure, colouring, rule)


# -- figures and single colourings ---------------------------------------------------------------


def test_the_plus():
    plus = c.plus()
    assert (len(plus.squares), len(plus.segments)) == (5, 16)
    assert [[plus.squares[i] for i in bar] for bar in plus.bars] == [
        [(1, 0), (1, 1), (1, 2)],
        [(0, 1), (1, 1), (2, 1)],
    ]
    centre = plus.squares.index((1, 1))
    shared = [set(plus.sides[centre]) & set(plus.sides[i]) for i in range(5) if i != centre]
    assert sorted(len(s) for s in shared) == [1] * 4
    above, right, below, left = (plus.segments[side] for side in plus.sides[centre])
    assert (above, right, below, left) == ((2, 3), (3, 4), (4, 3), (3, 2))


@settings(max_examples=30, deadline=None)
@given(polyominoes(12))
def test_segments_neighbours_and_bars_of_random_figures(figure):
    assert len(figure.segments) == 4 * len(figure.squares) - len(figure.neighbours)
    for i, j in figure.neighbours:
        assert len(set(figure.sides[i]) & set(figure.sides[j])) == 1
    in_bars = {frozenset(pair) for bar in figure.bars for pair in pairwise(bar)}
    assert in_bars == {frozenset(pair) for pair in figure.neighbours}
    assert figure == c.figure(reversed(figure.squares))
    assert hash(figure) == hash(c.figure(list(figure.squares)))


def test_blocks_and_rows():
    assert len(c.row(7).segments) == 3 * 7 + 1
    assert len(c.block(3, 5).segments) == 3 * 6 + 4 * 5
    assert c.block(2, 3).bars == ((0, 1, 2), (3, 4, 5), (0, 3), (1, 4), (2, 5))
    assert c.row(1).bars == ()


def test_dominants_and_validity():
    square = c.row(1)
    for colouring, dominant in {
        (0, 0, 1, 2): 0,
        (1, 0, 1, 2): 1,
        (0, 0, 1, 1): None,
        (0, 0, 0, 1): None,
        (0, 0, 0, 0): None,
        (0, 1, 2, 3): None,
    }.items():
        assert c.dominants(square, colouring) == (dominant,)
        assert c.is_valid(square, torch.tensor(colouring), "bars") == (dominant is not None)
    found = {v for v in product(range(3), repeat=7) if c.is_valid(c.row(2), v, "neighbours")}
    assert found == all_valid(c.row(2), 3, "neighbours")


# -- bad input, memory, time ---------------------------------------------------------------------

TWO = c.row(2)
REFUSED = {
    "no square": (lambda: c.figure([]), "at least one"),
    "apart": (lambda: c.figure([(0, 0), (0, 2)]), "connected"),
    "only a corner": (lambda: c.figure([(0, 0), (1, 1)]), "connected"),
    "twice": (lambda: c.figure([(0, 0), (0, 1), (0, 0)]), "overlap"),
    "not a pair": (lambda: c.figure([(0, 0, 0)]), "row, column"),
    "not squares": (lambda: c.figure(5), "row, column"),
    "half": (lambda: c.figure([(0, 0.5)]), "column = 0.5"),
    "endless": (lambda: c.figure((0, i) for i in iter(int, 1)), "at most 10000"),
    "true": (lambda: c.row(True), "length"),
    "no length": (lambda: c.row(0), "length"),
    "no rows": (lambda: c.block(0, 3), "rows"),
    "huge": (lambda: c.block(1000, 1000), "columns"),
    "no colours": (lambda: c.count(TWO, 0, "free"), "colours = 0"),
    "true colours": (lambda: c.count(TWO, True, "free"), "colours = True"),
    "half colours": (lambda: c.count(TWO, 2.5, "free"), "colours = 2.5"),
    "no rule": (lambda: c.count(TWO, 3, "bar"), "did you mean bars"),
    "rule of another kind": (lambda: c.count(TWO, 3, ["bars"]), "rule"),
    "no figure": (lambda: c.count([(0, 0)], 3, "free"), "figure"),
    "polynomial without figure": (lambda: c.count_polynomial(None, "free"), "figure"),
    "polynomial without rule": (lambda: c.count_polynomial(TWO, None), "rule"),
    "long polynomial": (lambda: c.count_polynomial(c.row(400), "free"), "at most 1000"),
    "wide": (lambda: c.count(c.block(25, 25), 3, "free"), "5e\\+05 entries"),
    "wide polynomial": (lambda: c.count_polynomial(c.block(14, 14), "free"), "entries"),
    "wide sample": (lambda: c.sample(c.block(25, 25), 3, "free", generator=rng()), "entries"),
    "huge block": (lambda: c.count(c.block(70, 141), 10**9, "bars"), "entries"),
    "orbits without rule": (lambda: c.orbits(TWO, 3, "x"), "rule"),
    "orbits without colours": (lambda: c.orbits(TWO, 0, "free"), "colours"),
    "orbits, rename": (lambda: c.orbits(TWO, 3, "free", rename=2), "rename"),
    "nothing to draw": (lambda: c.sample(TWO, 2, "free", generator=rng()), "no valid colouring"),
    "negative size": (lambda: c.sample(TWO, 3, "free", generator=rng(), size=-1), "size"),
    "rank too large": (lambda: c.unrank(TWO, 3, "free", 432), "index"),
    "no ranks": (lambda: c.unrank(c.row(4), 3, "bars", 0), "no valid colouring"),
    "too many to look at": (lambda: c.brute_force(c.plus(), 4, "bars"), "2\\*\\*28 colourings"),
    "far too many": (lambda: c.brute_force(c.row(5000), 10**9, "free"), "brute force"),
    "brute colours": (lambda: c.brute_force(TWO, -1, "free"), "colours"),
    "many clauses": (lambda: c.clauses(TWO, 1000, "free"), "clauses"),
    "many names": (lambda: c.orbits(c.row(5000), 10**9, "neighbours", True), "rename"),
    "square block": (lambda: c.count(c.block(6, 6), 3, "neighbours"), "entries"),
    "larger block": (lambda: c.count(c.block(8, 8), 3, "free"), "entries"),
    "endless colouring": (lambda: c.dominants(TWO, count()), "7 segments"),
    "colouring a number": (lambda: c.dominants(TWO, 7), "7 segments"),
    "endless sample": (lambda: c.sample(TWO, 3, "free", generator=rng(), size=10**12), "size"),
    "clauses": (lambda: c.clauses(TWO, 0, "free"), "colours"),
    "short colouring": (lambda: c.dominants(TWO, (0, 1)), "colouring"),
    "negative colouring": (lambda: c.dominants(c.row(1), (0, 1, 2, -1)), "colouring"),
    "half a colouring": (lambda: c.is_valid(c.row(1), (0, 1, 2, 0.5), "free"), "colouring"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_gets_one_sentence(name):
    function, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        function()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_generator_is_a_generator():
    with pytest.raises(TypeError, match="generator"):
        c.sample(TWO, 3, "free", generator=7)


def test_tables_that_grow_beyond_the_estimate_are_refused_too(monkeypatch):
    monkeypatch.setattr(c, "TABLE_LIMIT", 3000)
    c.count(c.block(3, 3), 3, "free")
    with pytest.raises(ValueError, match="entries"):
        c.count(c.block(4, 4), 3, "neighbours")
    with pytest.raises(ValueError, match="entries"):
        c.sample(c.block(4, 4), 3, "neighbours", generator=rng())


def test_brute_force_of_the_plus_keeps_little_in_memory():
    """The loop over 3^16 colourings adds less than 20 MB to the peak of a program that has compiled it."""
    program = (
        "import resource; from kexue_lib import cross\n"
        "for figure in (cross.row(1), cross.plus()):\n"
        "    cross.brute_force(figure, 3, 'bars')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    before, after = map(int, done.stdout.split())
    assert (after - before) * (1 if sys.platform == "darwin" else 1024) < 20e6
