"""Mathematics of the sector module: exact values, independent oracles, invariants, honest errors."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kexue_lib import sector as s

TURNS = [Fraction(d, 360) for d in (60, 90, 120, 180, 240, 270, 300, 324)]
TABLE = {
    2: "1/3 1/2 2/3 1 1 1 1 1",
    3: "1/12 3/16 1/3 3/4 1 1 1 1",
    4: "1/54 1/16 4/27 1/2 26/27 1 1 1",
    5: "5/1296 5/256 5/81 5/16 70/81 255/256 1 1",
    6: "1/1296 3/512 2/81 3/16 59/81 499/512 1 1",
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def by_definition(n, turn):
    """Whitworth's alternating sum in Fractions, over all k."""
    x = 1 - turn
    return sum(
        (-1) ** (k - 1) * math.comb(n, k) * (1 - k * x) ** (n - 1) for k in range(1, n + 1) if k * x < 1
    )


def by_pieces(n, turn):
    """Convolve n uniform densities on [0, 1], piece by piece: the complement without any alternating sum."""
    t = 1 / (1 - turn)
    density = [[Fraction(1)]]  # polynomials in the distance from the left end of each unit interval
    for _ in range(n - 1):
        longer = []
        for i in range(len(density) + 1):
            here = density[i] if i < len(density) else []
            left = density[i - 1] if i else []
            rising = [Fraction(0), *(c / (j + 1) for j, c in enumerate(here))]
            falling = [Fraction(0), *(-c / (j + 1) for j, c in enumerate(left))]
            falling[0] -= sum(falling)
            longer.append([a + b for a, b in itertools.zip_longest(rising, falling, fillvalue=Fraction(0))])
        density = longer
    i = math.floor(t)
    value = sum(c * (t - i) ** j for j, c in enumerate(density[i])) if i < n else 0
    return math.factorial(n - 1) * (1 - turn) ** (n - 1) * value


# -- exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", TABLE)
def test_table_of_known_values(n):
    assert [s.probability(n, turn) for turn in TURNS] == [Fraction(p) for p in TABLE[n].split()]


def test_known_values_of_eight_points():
    seen = [float(s.probability(8, turn)) for turn in TURNS]
    known = [2.8577961e-5, 4.8828e-4, 3.657979e-3, 1 / 16, 0.45541838, 0.85253906, 0.99957133, 1]
    assert seen == pytest.approx(known, rel=1e-5)


@given(st.integers(1, 40), st.fractions(0, 1, max_denominator=500))
@settings(max_examples=150, deadline=None)
def test_exact_values_equal_the_sum_and_the_complement_completes_them(n, turn):
    p = s.probability(n, turn)
    assert p == (1 if n == 1 else by_definition(n, turn))
    assert isinstance(p, Fraction)
    assert 0 <= p <= 1
    assert p + s.complement(n, turn) == 1
    assert s.probability(n + 1, turn) <= p <= s.probability(n, (1 + turn) / 2)


@pytest.mark.parametrize("turn", [Fraction(5, 9), Fraction(2, 3), Fraction(9, 10), Fraction(97, 100)])
def test_complement_is_a_slice_of_a_cube(turn):
    for n in (2, 3, 5, 9, 14):
        assert s.complement(n, turn) == by_pieces(n, turn)


def test_two_points_need_their_distance():
    for turn in (Fraction(0), Fraction(1, 5), Fraction(1, 2), Fraction(3, 4), Fraction(1)):
        assert s.probability(2, turn) == min(2 * turn, 1)
        assert s.probability(1, turn) == 1


def test_certainty_begins_exactly_where_the_gap_is_the_mean_gap():
    for n in (2, 3, 7, 30):
        edge = 1 - Fraction(1, n)
        assert s.probability(n, edge) == 1
        assert s.complement(n, edge - Fraction(1, 1000 * n)) == Fraction(1, 1000) ** (n - 1)


def test_floats_are_certain_too():
    for n in (2, 3, 4, 9, 32, 33, 60, 1000):
        for turn in (1 - 0.99 / n, 1 - 0.4 / n, 1.0):
            assert (s.probability(n, turn), s.complement(n, turn)) == (1.0, 0.0)


def test_every_exact_number_is_exact():
    for turn in (sympy.Rational(2, 3), Fraction(2, 3)):
        assert s.probability(4, turn) == Fraction(26, 27)
    for one in (1, sympy.Integer(1), np.int64(1), sympy.S.One):
        assert s.probability(4, one) == Fraction(1)
        assert isinstance(s.probability(4, one), Fraction)
    assert s.probability(3, 0) == 0
    assert s.probability(np.int64(4), sympy.S.Half) == Fraction(1, 2)


# -- rounded ---------------------------------------------------------------------------------------


def exact_pair(n, turn):
    """Numerators of probability and complement, and the denominator, from the sum over k < 1 / x."""
    p, q = turn.as_integer_ratio()
    r = q - p
    terms = ((-1) ** (k - 1) * math.comb(n, k) * max(q - k * r, 0) ** (n - 1) for k in range(1, n + 1))
    total = sum(itertools.takewhile(bool, terms))
    return (total, q ** (n - 1) - total, q ** (n - 1)) if n > 1 else (1, 0, 1)


def relative_error(value, part, whole):
    """Of a float; below the normal range an absolute error of two least floats is as good as exact."""
    p, q = value.as_integer_ratio()
    if part * 2**1022 < whole:
        return 0 if abs(p * whole - part * q) << 1073 <= q * whole else math.inf
    return abs(p * whole - part * q) / (q * part)


EDGES = [
    0.0,
    5e-324,
    1e-300,
    1e-15,
    1e-3,
    1 / 3,
    math.nextafter(0.5, 0),
    0.5,
    math.nextafter(0.5, 1),
    0.6,
    2 / 3,
    0.75,
    1 - 1e-3,
    1 - 1e-15,
    math.nextafter(1, 0),
    1.0,
]


def hard_turns(n):
    """Edges, a grid, and turns where from 1e-300 to 900 leaders are expected."""
    leaders = [1e-300, 1e-100, 1e-16, 1e-3, 0.5, 2.9999, 3.0001, 4, 7, 20, 40, 100, 300, 690, 720, 900]
    turns = [(e / n) ** (1 / (n - 1)) for e in leaders if e < n] if n > 1 else []
    near_certain = [1 - (1 + d) / n for d in (-1e-3, -1e-9, 0, 1e-15, 1e-9, 1e-3, 0.01, 0.3)]
    return [t for t in [*EDGES, *np.linspace(0.02, 0.98, 17), *turns, *near_certain] if 0 <= t <= 1]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 20, 31, 32, 33, 34, 40, 57, 100, 150])
def test_floats_equal_exact_rationals_to_twelve_digits(n):
    for turn in map(float, hard_turns(n)):
        part, rest, whole = exact_pair(n, turn)
        for value, exact in ((s.probability(n, turn), part), (s.complement(n, turn), rest)):
            assert relative_error(value, exact, whole) < 1e-12, (turn, value)


@pytest.mark.parametrize(("n", "most"), [(1000, 12), (10_000, 6)])
def test_many_points_too(n, most):
    """Here the exact sum is cut off after `most` terms: Bonferroni's inequalities enclose the value."""
    for leaders in (1e-280, 1e-30, 1e-6, 0.2, 0.9):
        turn = (leaders / n) ** (1 / (n - 1))
        p, q = turn.as_integer_ratio()
        shift = 1500  # fixed point: far below what is asked
        x = ((q - p) << shift) // q
        sums = []
        for k in range(1, most + 1):
            base, power, e = max((1 << shift) - k * x, 0), 1 << shift, n - 1
            while e:
                power = power * base >> shift if e & 1 else power
                base, e = base * base >> shift, e >> 1
            sums.append((sums[-1] if sums else 0) + (-1) ** (k - 1) * math.comb(n, k) * power)
        low, high = sums[-1] / 2**shift, sums[-2] / 2**shift
        bound = 1e-12 * high + leaders**most / math.factorial(most)
        assert low - bound <= s.probability(n, turn) <= high + bound


def test_large_complements_of_many_points_by_twice_the_digits():
    for n, leaders in ((1000, 5.0), (1000, 60.0), (10_000, 4.0), (10_000, 22.0), (10**6, 2.5), (10**6, 9.0)):
        turn = (leaders / n) ** (1 / (n - 1))
        p, q = turn.as_integer_ratio()
        shift, total = 3000, 1 << 3000
        for k in range(1, 80 if n > 10_000 else 300):
            base, power, e = max((1 << shift) - k * (((q - p) << shift) // q), 0), 1 << shift, n - 1
            while e:
                power = power * base >> shift if e & 1 else power
                base, e = base * base >> shift, e >> 1
            total += (-1) ** k * math.comb(n, k) * power
        assert s.complement(n, turn) == pytest.approx(total / 2**shift, rel=1e-12)
        assert s.probability(n, turn) == pytest.approx(1 - total / 2**shift, rel=1e-12)


def test_a_million_points_hardly_ever_fit():
    turn = (1e-307 / 10**6) ** (1 / (10**6 - 1))  # its power is below the normal range, the value is not
    with mpmath.workdps(50):
        exact = 10**6 * mpmath.mpf(turn) ** (10**6 - 1)
        assert abs(s.probability(10**6, turn) / exact - 1) < 1e-12


def test_the_least_complements_are_seen():
    turn = (690 / 10**6) ** (1 / (10**6 - 1))
    assert math.exp(-720) < s.complement(10**6, turn) < math.exp(-690)
    assert s.complement(10**6, (900 / 10**6) ** (1 / (10**6 - 1))) == 0.0


@given(st.integers(2, 10_000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_floats_grow_with_the_turn_and_fall_with_n(n, a, b):
    low, high = s.probability(n, min(a, b)), s.probability(n, max(a, b))
    assert 0 <= low <= high * (1 + 1e-12) <= 1 + 1e-12
    assert s.probability(n + 1, a) <= s.probability(n, a) * (1 + 1e-12)
    assert s.probability(n, a) + s.complement(n, a) == pytest.approx(1, abs=1e-15)


def test_arrays_and_tensors_keep_their_shape_and_agree_with_floats():
    turns = np.array([[0.0, 0.2, 0.5], [0.7, 0.9, 1.0]])
    for function in (s.probability, s.complement):
        for n in (1, 6, 50):
            one_by_one = np.array([[function(n, float(t)) for t in row] for row in turns])
            assert np.array_equal(function(n, turns), one_by_one)
            tensor = function(n, torch.from_numpy(turns).T)
            assert (tensor.dtype, tensor.shape) == (torch.float64, (3, 2))
            assert np.array_equal(tensor.numpy(), one_by_one.T)
    assert s.probability(5, np.empty((0, 2))).shape == (0, 2)
    assert s.probability(3, torch.tensor(0.25, requires_grad=True)).item() == 3 / 16
    assert s.probability(3, np.float32(0.25)) == 3 / 16
    assert s.probability(3, torch.tensor(0.25, dtype=torch.bfloat16)) == 3 / 16
    assert s.probability(3, torch.tensor([0, 1])).tolist() == [0.0, 1.0]


def test_least_floats_are_reached_and_then_zero():
    assert s.probability(2, 5e-324) == 1e-323
    assert s.probability(3, 2.0**-537) == 3 * 2.0**-1074
    assert s.probability(3, 1e-163) == 0.0
    assert s.complement(3, math.nextafter(1, 0)) == 0.0
    assert s.complement(3, 0.6) == pytest.approx((3 * 0.4 - 1) ** 2, rel=1e-14)


# -- laws ------------------------------------------------------------------------------------------


@given(st.integers(1, 25), st.fractions(0, 1, max_denominator=60))
@settings(max_examples=80, deadline=None)
def test_leader_law_has_its_factorial_moments(n, turn):
    law = s.leader_law(n, turn)
    assert len(law) == n + 1
    assert min(law) >= 0
    assert sum(law) == 1
    assert law[0] == s.complement(n, turn)
    for k in range(1, n + 1) if n > 1 else ():
        moment = math.comb(n, k) * max(1 - k * (1 - turn), Fraction(0)) ** (n - 1)
        assert sum(math.comb(j, k) * p for j, p in enumerate(law)) == moment


def test_leader_law_of_many_points():
    law = s.leader_law(300, 0.99)
    assert math.fsum(law) == pytest.approx(1, rel=1e-12)
    assert law[0] == pytest.approx(s.complement(300, 0.99), rel=1e-12)
    mean = math.fsum(j * p for j, p in enumerate(law))
    assert mean == pytest.approx(300 * 0.99**299, rel=1e-12)
    assert s.leader_law(1000, 0.6)[1:4:2] == [pytest.approx(1000 * 0.6**999, rel=1e-12), 0.0]


def test_leader_law_by_hand():
    assert s.leader_law(4, Fraction(2, 3)) == [Fraction(p) for p in ("1/27", "20/27", "2/9", "0", "0")]
    assert s.leader_law(3, 1) == [0, 0, 0, 1]
    assert s.leader_law(1, 0) == [0, 1]
    assert s.leader_law(2, 0) == [1, 0, 0]
    assert s.leader_law(5, Fraction(1, 3))[1] == Fraction(5, 81)


@pytest.mark.parametrize("n", [1, 2, 6, 40])
@pytest.mark.parametrize("turn", [0.0, 1e-9, 0.3, 0.5, 0.81, 0.999, 1.0])
def test_leader_law_of_floats_equals_the_exact_one(n, turn):
    for value, exact in zip(s.leader_law(n, turn), s.leader_law(n, Fraction(turn)), strict=True):
        assert value == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_leaders_are_the_points_behind_whom_a_gap_is_wide():
    angles = torch.rand(40_000, 5, generator=rng(1), dtype=torch.float64)
    ahead = (angles[:, None, :] - angles[:, :, None]) % 1
    leaders = (ahead <= 0.7).all(-1).sum(-1)
    for j, p in enumerate(s.leader_law(5, 0.7)):
        assert abs(float((leaders == j).double().mean()) - p) <= 5 * math.sqrt(p * (1 - p) / 40_000)


def test_mean_minimal_sector():
    assert [360 * float(s.mean_minimal_sector(n)) for n in (1, 2, 3, 4, 5)] == pytest.approx(
        [0, 90, 140, 172.5, 195.6]
    )
    assert 1 - s.mean_minimal_sector(10) == Fraction(7381, 25200)


def test_mean_minimal_sector_is_the_integral_of_the_complement():
    turn = sympy.Symbol("turn")
    for n in (2, 3, 5):
        pieces = 0
        for m in range(1, n):  # between 1 - 1/m and 1 - 1/(m+1) the sum has m terms
            terms = ((-1) ** k * sympy.binomial(n, k) * (1 - k * (1 - turn)) ** (n - 1) for k in range(m + 1))
            low, high = 1 - sympy.Rational(1, m), 1 - sympy.Rational(1, m + 1)
            pieces += sympy.integrate(sympy.expand(sum(terms)), (turn, low, high))
        assert pieces == sympy.Rational(str(s.mean_minimal_sector(n)))


def test_wendel():
    assert [s.wendel(n, 3) for n in (4, 5, 6, 7)] == [Fraction(p) for p in ("7/8", "11/16", "1/2", "11/32")]
    assert s.wendel(10_000, 5000) == Fraction(1, 2)
    for n in range(1, 12):
        assert s.wendel(n, 2) == s.probability(n, Fraction(1, 2))
        assert s.wendel(n, 1) == Fraction(2, 2**n)
        assert s.wendel(2 * n, n) == Fraction(1, 2)
        assert s.wendel(n, n) == 1 == s.wendel(n, n + 5)
        assert s.wendel(n + 1, n) == 1 - Fraction(1, 2**n)


# -- simulations -----------------------------------------------------------------------------------


def test_largest_gap_by_hand():
    quarters = torch.tensor([[0.0, 1, 2], [3, 1, 3.5], [3.5, 0.5, 2.5], [-1, 4, 9]], dtype=torch.float64)
    expected = torch.tensor([2.0, 2, 2, 2], dtype=torch.float64)  # the last stand at 3, 0 and 1
    torch.testing.assert_close(s.largest_gap(quarters * math.pi / 2), expected * math.pi / 2)


def test_largest_gap_of_one_and_of_equal_points_is_the_whole_circle():
    for angle in (0.0, 1.0, -7.0, 100.0, -1e-20):
        gaps = s.largest_gap(torch.full((2, 1), angle, dtype=torch.float64))
        torch.testing.assert_close(gaps, torch.full((2,), 2 * math.pi, dtype=torch.float64))
    assert float(s.largest_gap(torch.ones(4))) == pytest.approx(2 * math.pi)
    assert s.largest_gap(torch.rand(3, 4, 5)).shape == (3, 4)
    assert s.largest_gap(torch.rand(3, 4, 5)).dtype == torch.float32


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(-50, 50))
@settings(max_examples=80, deadline=None)
def test_largest_gap_is_what_no_sector_needs(angles, turned):
    x = torch.tensor(angles, dtype=torch.float64)
    gap = float(s.largest_gap(x))
    assert float(s.largest_gap(x + turned)) == pytest.approx(gap, abs=1e-11)
    assert float(s.largest_gap(-x)) == pytest.approx(gap, abs=1e-11)
    spans = [max(((b - a) % (2 * math.pi)) % (2 * math.pi - 1e-12) for b in angles) for a in angles]
    assert 2 * math.pi - min(spans) == pytest.approx(gap, abs=1e-11)


CASES = [
    (1, 0.3),
    (2, Fraction(1, 5)),
    (2, 0.75),
    (3, Fraction(1, 3)),
    (3, Fraction(3, 5)),
    (4, Fraction(1, 2)),
    (4, math.nextafter(0.5, 1)),
    (5, 0.85),
    (9, 0.6),
    (20, 0.8),
    (30, 0.9),
    (60, 0.97),
    (200, 0.98),
    (6, 0.45),
]


@pytest.mark.parametrize(("n", "turn"), CASES)
def test_simulation_agrees_with_the_exact_value(n, turn):
    exact = float(s.probability(n, turn))
    found = s.simulate(n, turn, 80_000, generator=rng(n))
    assert abs(found.value - exact) <= 4.5 * found.error
    assert found.error == pytest.approx(math.sqrt(exact * (1 - exact) / 80_000), rel=0.1, abs=1.5e-5)


def test_trial_by_trial_simulation_equals_the_largest_gap():
    """Both compiled loops see the very points that the generator's stream gives."""
    for n, turn in ((4, 0.4), (4, 0.5), (7, 0.55), (12, 0.7), (40, 0.93), (3, 0.9), (100, 0.985)):
        wide = np.uint64(math.ceil((1 - Fraction(turn)) * 2**64))
        for seed in range(300):
            state = np.array([seed + 1, 2 * seed, 77, 5 * seed + 3], dtype=np.uint64) * np.uint64(
                0x9E3779B97F4A7C15
            )
            points = torch.tensor([p / 2**64 for p in xoshiro(state, n)], dtype=torch.float64)
            exact = float(s.largest_gap(points * 2 * math.pi)) >= 2 * math.pi * (1 - turn)
            assert s._hits(n, wide, state, 1) == exact
            if turn <= 0.5:
                assert s._hits_of_half(n, wide, state, 1) == exact


def xoshiro(state, count):
    """xoshiro256++ in Python's integers."""
    full = 2**64 - 1
    a, b, c, d = map(int, state)

    def rotated(x, k):
        return (x << k | x >> (64 - k)) & full

    for _ in range(count):
        yield (rotated((a + d) & full, 23) + a) & full
        t = b << 17 & full
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= t
        d = rotated(d, 45)


def test_stream_is_xoshiro_and_uniform():
    """The state 1, 2, 3, 4 is that of the generator's reference implementation."""
    assert list(xoshiro(np.arange(1, 5), 3)) == [41943041, 58720359, 3588806011781223]
    state = tuple(np.arange(1, 5).astype(np.uint64))
    drawn = []
    for _ in range(20_000):
        value, state = s._next(state)
        state = tuple(map(np.uint64, state))
        drawn.append(int(value))
    assert drawn == list(xoshiro(np.arange(1, 5), 20_000))
    jobs = s._blocks(5 * 2**16, generator=rng(3))
    many = np.array([p for state, _ in jobs for p in xoshiro(state, 20_000)], dtype=np.uint64)
    for shift in (0, 29, 56):
        counts = np.bincount((many >> np.uint64(shift)).astype(np.int64) & 255, minlength=256)
        chi2 = float(((counts - 390.625) ** 2 / 390.625).sum())
        assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)


def test_blocks_have_streams_of_their_own_and_all_trials():
    jobs = s._blocks(200_000, generator=rng(5))
    assert [count for _, count in jobs] == [65536, 65536, 65536, 3392]
    assert len({tuple(state.tolist()) for state, _ in jobs}) == 4


def test_result_depends_on_the_seed_and_not_on_the_threads():
    threads = torch.get_num_threads()
    try:
        seen = []
        for count in (1, 3):
            torch.set_num_threads(count)
            g = rng(9)
            seen.append([f(7, 0.6, 200_000, generator=g) for f in (s.simulate, s.rare_event, s.simulate)])
    finally:
        torch.set_num_threads(threads)
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][2]


def test_error_is_honest_where_nothing_or_everything_is_hit():
    trials = 10_000
    none = s.simulate(20, 0.1, trials, generator=rng())
    every = s.simulate(3, 1, trials, generator=rng())
    assert (none.value, every.value) == (0.0, 1.0)
    assert none.error == pytest.approx(1 / trials, rel=1e-3)
    assert every.error == pytest.approx(none.error, rel=1e-9)


def test_errors_have_their_size():
    z = []
    for seed in range(200):
        found = s.simulate(5, 0.4, 2000, generator=rng(seed))
        z.append((found.value - float(s.probability(5, 0.4))) / found.error)
    assert 0.8 < np.std(z) < 1.2
    assert abs(np.mean(z)) < 0.3


RARE = [
    (20, Fraction(1, 3)),
    (20, 0.01),
    (20, 1e-6),
    (8, 0.5),
    (30, 0.5),
    (30, 0.55),
    (30, Fraction(2, 3)),
    (50, 0.75),
    (5, 0.9),
    (2, 0.1),
    (1, 0.5),
    (40, 0.9),
]


@pytest.mark.parametrize(("n", "turn"), RARE)
def test_rare_events_are_seen(n, turn):
    exact = float(s.probability(n, turn))
    found = s.rare_event(n, turn, 200_000, generator=rng(n))
    assert abs(found.value - exact) <= 4.5 * found.error + 1e-12 * exact
    assert found.error < 0.01 * exact


@pytest.mark.parametrize(("n", "turn"), [(20, Fraction(1, 3)), (40, Fraction(3, 5))])
def test_errors_of_rare_events_have_their_size(n, turn):
    exact = float(s.probability(n, turn))
    found = [s.rare_event(n, turn, 10_000, generator=rng(seed)) for seed in range(100)]
    z = [(f.value - exact) / f.error for f in found]
    assert 0.8 < np.std(z) < 1.25
    assert np.mean(np.abs(z) <= 2) >= 0.87
    assert abs(np.mean([f.value for f in found]) / exact - 1) < 0.02


def test_rare_events_beyond_the_least_float_are_zero():
    assert s.rare_event(50, 1e-9, 100, generator=rng()) == (0.0, 0.0)


# -- bad input -------------------------------------------------------------------------------------

NO_TURN = [
    -0.1,
    1.1,
    math.nan,
    math.inf,
    True,
    "1/2",
    None,
    1j,
    Fraction(3, 2),
    -1,
    2,
    sympy.sqrt(2) / 2,
    sympy.Float(0.5),
    torch.tensor([0.5, math.nan]),
    torch.tensor([True]),
    torch.tensor([0.5 + 0j]),
    np.array([-0.5]),
    np.array(["x"]),
    [0.5],
]
NO_NUMBER = [0, -3, 2.0, True, None, "5", Fraction(3), math.nan]
SENTENCE = r"^(n|turn|dim|trials|angles|generator) = [^\n]*: expected [^\n]+$"


@pytest.mark.parametrize("turn", NO_TURN, ids=repr)
def test_a_bad_turn_is_refused(turn):
    for call in (
        lambda: s.probability(3, turn),
        lambda: s.complement(3, turn),
        lambda: s.leader_law(3, turn),
        lambda: s.simulate(3, turn, 10, generator=rng()),
        lambda: s.rare_event(3, turn, 10, generator=rng()),
    ):
        with pytest.raises(ValueError, match=SENTENCE):
            call()


@pytest.mark.parametrize("n", NO_NUMBER, ids=repr)
def test_a_bad_number_is_refused(n):
    for call in (
        lambda: s.probability(n, 0.5),
        lambda: s.complement(n, Fraction(1, 2)),
        lambda: s.leader_law(n, 0.5),
        lambda: s.simulate(n, 0.5, 10, generator=rng()),
        lambda: s.simulate(3, 0.5, n, generator=rng()),
        lambda: s.rare_event(n, 0.5, 10, generator=rng()),
        lambda: s.rare_event(3, 0.5, n, generator=rng()),
        lambda: s.mean_minimal_sector(n),
        lambda: s.wendel(n, 2),
        lambda: s.wendel(2, n),
    ):
        with pytest.raises(ValueError, match=SENTENCE):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: s.probability(10**6 + 1, 0.9),
        lambda: s.probability(10**6, Fraction(99_999, 100_000)),
        lambda: s.probability(10**7, Fraction(9, 10)),
        lambda: s.complement(10**300, Fraction(1, 2)),
        lambda: s.wendel(10**5 + 1, 2),
        lambda: s.mean_minimal_sector(10**5 + 1),
        lambda: s.leader_law(1001, 0.9),
        lambda: s.leader_law(3, np.array([0.5, 0.6])),
        lambda: s.simulate(3, torch.tensor([0.5, 0.6]), 10, generator=rng()),
        lambda: s.simulate(3, 0.5, 10, generator=None),
        lambda: s.rare_event(3, 0.5, 1, generator=rng()),
        lambda: s.rare_event(3, 1e-10, 10, generator=rng()),
        lambda: s.largest_gap([0.5]),
        lambda: s.largest_gap(torch.tensor(0.5)),
        lambda: s.largest_gap(torch.empty(3, 0)),
        lambda: s.largest_gap(torch.tensor([1, 2])),
        lambda: s.largest_gap(torch.tensor([math.nan, 1.0])),
    ],
)
def test_other_nonsense_is_refused_with_a_sentence(call):
    with pytest.raises(ValueError, match=SENTENCE):
        call()
