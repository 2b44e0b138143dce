"""The checks are checked hardest: whatever could not fail must be refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

from kexue_lib.verify import CheckFailed, _integral, agree, compute, prove, rate, support

n, r = sp.symbols("n r", positive=True)
RADIAL = sp.Integral(r ** (n - 1) * sp.exp(-(r**2)), (r, 0, sp.oo))
RNG = np.random.default_rng


def test_a_true_equation_is_proved_and_its_control_falls():
    verdict = prove("eq-a", RADIAL, sp.gamma(n / 2) / 2, refutes={"missing half": sp.gamma(n / 2)})
    assert verdict.status == "proved"
    assert "positive" in verdict.method
    assert verdict.controls[0]["story"] == "missing half"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "no control"),
        ({"missing half": sp.gamma(n / 2) / 2}, "passes the check"),
        ({"missing half": sp.exp(sp.loggamma(n / 2)) / 2}, "passes the check"),
        ({"infinite": sp.oo, "x": 1}, "needs its story"),
        ({"an infinite value": sp.oo}, "not finite"),
        ({"not a number": sp.nan}, "not finite"),
        ({"another symbol n": sp.Symbol("n")}, "two different assumptions"),
    ],
)
def test_a_control_must_exist_and_fail_for_its_own_wrongness(wrong, why):
    with pytest.raises(CheckFailed, match=why):
        prove("eq-a", RADIAL, sp.gamma(n / 2) / 2, refutes=wrong)


def test_tautologies_and_falsehoods_are_refused():
    with pytest.raises(CheckFailed, match="same expression"):
        prove("eq-a", n**2, n**2, refutes={"forgot the square": n})
    with pytest.raises(CheckFailed, match="SymPy leaves"):
        prove("eq-a", n**2 + n, n**2, refutes={"forgot the square": n})


def test_a_simplifier_that_errs_is_caught_by_numbers():
    with pytest.raises(CheckFailed, match="numbers differ"):
        prove("eq-a", n + 1, n, by=lambda e: sp.Integer(0), refutes={"forgot the square": n**2})


def test_symbols_must_be_the_same_and_commute():
    with pytest.raises(CheckFailed, match="two different assumptions"):
        prove("eq-a", n * 2, sp.Symbol("n") + n, refutes={"forgot one": n})
    a, b = sp.symbols("a b", commutative=False)
    with pytest.raises(CheckFailed, match="commute"):
        prove("eq-a", a * b, b * a, refutes={"forgot one": a})


def test_a_false_identity_that_holds_for_positive_numbers_only_is_refused_for_real_ones():
    x = sp.symbols("x", real=True)
    with pytest.raises(CheckFailed):
        prove("eq-a", sp.sqrt(x**2), x, refutes={"forgot the root": x**2})


@pytest.mark.parametrize("label", ["eq_a", "eq-A", "def-a", "eq-", "a"])
def test_labels_are_lower_case_words(label):
    with pytest.raises(CheckFailed, match="label"):
        prove(label, RADIAL, sp.gamma(n / 2) / 2, refutes={"missing half": sp.gamma(n / 2)})


def triangle(m):
    return m * (m + 1) // 2


WRONG = {"off by one": lambda m: m * (m - 1) // 2}


def test_compute_is_exact_over_a_range():
    verdict = compute("eq-a", "sum", lambda m: sum(range(m + 1)), triangle, over=range(9), refutes=WRONG)
    assert verdict.status == "computed"
    assert verdict.controls[0]["outcome"] == "wrong in 8 of 9 cases"
    assert verdict.figures == "9 cases: 0 … 8"


@pytest.mark.parametrize(("over", "said"), [([()], "one case"), ([3], "one case: 3")])
def test_one_case_is_said_as_one(over, said):
    verdict = compute(
        "eq-a", "six", lambda *m: 6, lambda *m: 2 * 3, over=over, refutes={"one too few": lambda *m: 5}
    )
    assert (verdict.figures, verdict.controls[0]["outcome"]) == (said, "wrong")


@pytest.mark.parametrize(
    ("left", "right", "over", "refutes", "why"),
    [
        (triangle, triangle, range(9), WRONG, "same function"),
        (lambda m: sum(range(m + 1)), triangle, [], WRONG, "no cases"),
        (lambda m: sum(range(m + 1)), triangle, [0], WRONG, "passes"),
        (lambda m: sum(range(m)), triangle, range(9), WRONG, "at 1"),
        (lambda m: m * (m + 1) / 2, triangle, range(9), WRONG, "not exact"),
        (lambda m: sp.Float(1), lambda m: 1, range(9), WRONG, "not exact"),
        (lambda m: sp.oo, lambda m: sp.oo, range(9), WRONG, "not finite"),
        (lambda m: sum(range(m + 1)), triangle, range(9), {"one float": lambda m: 0.5}, "not exact"),
    ],
)
def test_compute_refuses_what_it_cannot_decide(left, right, over, refutes, why):
    with pytest.raises(CheckFailed, match=why):
        compute("eq-a", "sum", left, right, over=over, refutes=refutes)


def test_compute_compares_fractions_with_sympy_numbers():
    compute("eq-a", "halves", lambda m: Fraction(m, 2), lambda m: sp.Rational(m, 2), over=range(3),
            refutes={"rounded down": lambda m: m // 2})  # fmt: skip


def test_support_accepts_the_true_mean_and_refutes_a_wrong_one():
    verdict = support("eq-a", "mean", RNG(0).standard_normal(2000), 0, refutes={"shifted mean": 0.5})
    assert verdict.status == "supported"


@pytest.mark.parametrize(
    ("samples", "expected", "wrong", "why"),
    [
        (RNG(0).standard_normal(2000), 0.5, 1.0, "standard errors from"),
        (RNG(0).standard_normal(2000), 0.0, 0.05, "passes"),
        (RNG(0).standard_normal(20), 0.0, 9.0, "R >= 30"),
        (np.zeros(100), 0.0, 1.0, "no spread"),
        (np.full(100, np.nan), 0.0, 1.0, "finite"),
        (RNG(0).standard_normal(2000), np.inf, 1.0, "finite"),
        (RNG(0).standard_normal(2000), 0.0, np.nan, "finite"),
        (np.repeat(RNG(0).standard_normal(100), 20), 0.0, 9.0, "correlated"),
        (np.cumsum(RNG(0).standard_normal(500)), 0.0, 9e9, "correlated"),
        (RNG(0).standard_normal((200, 2)), [0.0, 0.0, 0.0], 9.0, "shape"),
    ],
)
def test_support_refuses_wrong_errors_and_wrong_means(samples, expected, wrong, why):
    with pytest.raises(CheckFailed, match=why):
        support("eq-a", "mean", samples, expected, refutes={"shifted mean": wrong})


def test_support_rarely_raises_a_false_alarm_and_keeps_its_power():
    for seed in range(200):
        support("eq-a", "mean", RNG(seed).exponential(size=400), 1, refutes={"forgot the scale": 2})


def test_agree_needs_two_routes_and_a_tolerance_that_controls_exceed():
    x = np.linspace(0, 1, 5)
    assert agree("eq-a", "sin", np.sin(x), x - x**3 / 6, within=0.01, refutes={"lost the cube": x}).status
    for left, right, within, wrong in [
        (x, x, 0.1, x + 9), (x, x + 1, 0.1, x + 9), (x, x[:4], 0.1, x + 9), (x, x + 0.01, 0.1, x + 0.5),
        (x, x * np.nan, 0.1, x + 9), (x, x + 0.01, math.inf, x + 9), (x, x + 0.01, 0, x + 9),
    ]:  # fmt: skip
        with pytest.raises(CheckFailed):
            agree("eq-a", "x", left, right, within=within, refutes={"some slip here": wrong})


def test_rate_finds_the_order_of_exact_and_of_random_errors():
    sizes = np.array([10, 20, 40, 80, 160])
    rate("eq-a", "order", sizes, 1 / sizes + 3 / sizes**2, -1, refutes={"half the order": -0.5})
    noisy = RNG(0).exponential(size=(5, 4000)) * (sizes**-0.5)[:, None]
    rate("eq-a", "order", sizes, noisy, -0.5, refutes={"twice the order": -1})


@pytest.mark.parametrize(
    ("sizes", "errors", "order", "wrong"),
    [
        ([10, 20, 40, 80], [0.1, 0.05, 0.025, 0.0125], -0.5, -2),
        ([10, 20, 40, 80], [0.1, 0.05, 0.025, 0.0125], -1, -1),
        ([10, 20, 40], [0.1, 0.05, 0.025], -1, -2),
        ([10, 20, 40, 80], [0.1, 0.05, 0.0, 0.0125], -1, -2),
        ([10, 40, 20, 80], [0.1, 0.05, 0.025, 0.0125], -1, -2),
        ([10, 20, 40, 80], [0.1, 0.05, 0.04, 0.001], -1, -9),
    ],
)
def test_rate_refuses_wrong_orders_and_crude_data(sizes, errors, order, wrong):
    with pytest.raises(CheckFailed):
        rate("eq-a", "order", sizes, errors, order, refutes={"a wrong order": wrong})


x, y = sp.symbols("x y", positive=True)


@pytest.mark.parametrize(
    ("integral", "value"),
    [
        (sp.Integral(x ** sp.Rational(-9, 10), (x, 0, 1)), 10),
        (sp.Integral(x * y, (x, 0, y), (y, 0, 1)), sp.Rational(1, 8)),
        (sp.Integral(sp.Integral(x * y, (x, 0, y)), (y, 0, 1)), sp.Rational(1, 8)),
        (sp.Integral(x**y, (x, 0, 1), (y, 0, 1)), sp.log(2)),
        (sp.Integral(sp.log(x) ** 2, (x, 0, 1)), 2),
    ],
)
def test_integrals_are_spot_checked_by_quadrature(integral, value):
    found = _integral(integral)
    assert found.is_Float
    assert abs(found / value - 1) < 1e-12


def test_an_integral_that_quadrature_gets_wrong_is_not_trusted():
    hard = sp.Integral(sp.sin(x) / x, (x, 0, sp.oo))
    assert _integral(hard) == hard


# -- what a hostile reader tried ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda k: sp.erf(6), lambda k: 1),
        (lambda k: sp.tanh(40), lambda k: 1),
        (lambda k: sp.sqrt(2) + sp.Rational(1, 10**16), lambda k: sp.sqrt(2)),
    ],
)
def test_compute_does_not_round_irrational_numbers(left, right):
    with pytest.raises(CheckFailed, match="one route gives"):
        compute("eq-a", "c", left, right, over=[0], refutes={"wrong by one": lambda k: 2})


def test_compute_knows_equal_irrational_numbers_in_other_clothes():
    compute("eq-a", "root", lambda k: sp.sqrt(2) ** 3, lambda k: sp.sqrt(8), over=[0],
            refutes={"forgot the cube": lambda k: sp.sqrt(2)})  # fmt: skip
    equal = {"the same in other clothes": lambda k: sp.sqrt(8)}
    with pytest.raises(CheckFailed, match="passes"):
        compute("eq-a", "root", lambda k: sp.sqrt(2) ** 3, lambda k: 2 * sp.sqrt(2), over=[0], refutes=equal)


def test_a_control_must_not_fall_by_its_shape():
    with pytest.raises(CheckFailed, match="shape"):
        compute("eq-a", "c", lambda k: k * k, lambda k: sum([k] * k), over=range(3),
                refutes={"in a box": lambda k: [k * k]})  # fmt: skip
    with pytest.raises(CheckFailed, match="shape"):
        agree("eq-a", "c", [1.0, 2.0], [1.0, 2.0], within=0.01, refutes={"of another shape": 9.0})


@pytest.mark.parametrize("check", [agree, support])
def test_complex_values_are_refused(check):
    x = np.full(100, 1 + 5j)
    with pytest.raises(CheckFailed, match="complex"):
        if check is agree:
            agree("eq-a", "c", x, np.ones(100), within=1e-9, refutes={"off by one": x + 1})
        else:
            support("eq-a", "c", x, 1, refutes={"off by one": 2})


def test_a_spot_check_needs_room():
    a = sp.symbols("a", real=True)
    with pytest.raises(CheckFailed, match="widen"):
        prove("eq-a", a**2 - a, sp.Integer(0), by=lambda e: sp.Integer(0), domain={a: (1, 1)},
              refutes={"forgot the square": a + 1})  # fmt: skip


def test_a_tiny_difference_is_a_difference():
    a = sp.symbols("a", real=True)
    with pytest.raises(CheckFailed, match="numbers differ"):
        prove("eq-a", (1 + a**2) / 10**45, 3 * (1 + a**2) / 10**45, by=lambda e: sp.Integer(0),
              refutes={"forgot the one": a**2 / 10**45})  # fmt: skip


def test_symbols_that_are_not_real_are_tried_off_the_axis():
    z = sp.symbols("z")
    with pytest.raises(CheckFailed, match="numbers differ"):
        prove("eq-a", sp.conjugate(z) * z, z**2, by=lambda e: sp.Integer(0), refutes={"forgot one": z})


def test_integers_that_may_be_negative_are_tried_below_zero():
    m = sp.symbols("m", integer=True)
    with pytest.raises(CheckFailed, match="numbers differ"):
        prove("eq-a", sp.Abs(m), m, by=lambda e: sp.Integer(0), refutes={"forgot one": m + 1})


@pytest.mark.parametrize(
    ("samples", "expected", "wrong", "why"),
    [
        (100 * RNG(0).standard_normal(100), 10, 1000, "take more replicates"),
        (RNG(0).standard_cauchy(400), 3, 1e9, "one replicate"),
        ((np.arange(1000) == 77).astype(float), 0.001, 1, "one replicate"),
        (RNG(0).standard_normal(20000) + 0.2 * np.sin(np.arange(20000) / 300), 0.5, 9, "far apart"),
    ],
)
def test_support_refuses_what_it_cannot_see(samples, expected, wrong, why):
    with pytest.raises(CheckFailed, match=why):
        support("eq-a", "mean", samples, expected, refutes={"a wrong mean": wrong})


def test_a_rate_needs_sizes_far_apart():
    n = np.array([10, 10.1, 10.2, 10.3])
    with pytest.raises(CheckFailed, match="too close"):
        rate("eq-a", "c", n, np.exp(-n), -10.15, refutes={"another order": -9})


def test_controls_that_say_the_same_are_one():
    a = sp.symbols("a", positive=True)
    twice = {"forgot the root": a, "took the square": a}
    with pytest.raises(CheckFailed, match="same as another"):
        prove("eq-a", sp.Derivative(a**2 / 2 + sp.sqrt(a), a), a + 1 / (2 * sp.sqrt(a)), refutes=twice)
    with pytest.raises(CheckFailed, match="same as another"):
        agree("eq-a", "c", [1.0], [1.0 + 1e-9], within=1e-3, refutes={"off by one": [2.0], "twice it": [2.0]})


def test_a_control_that_is_right_nearly_everywhere_is_none():
    a = sp.symbols("a", positive=True)
    nearly = a + sp.Rational(1, 10**6)
    with pytest.raises(CheckFailed, match="passes"):
        prove("eq-a", sp.Derivative(a**2 / 2, a), a, refutes={"a little off": nearly})


def standardised(size=400):
    """Return replicates of mean 0 and standard error 1 exactly, so that a claim is errors away."""
    x = RNG(3).standard_normal(size)
    return (x - x.mean()) / x.std(ddof=1) * math.sqrt(size)


def test_the_threshold_is_at_5_85_standard_errors():
    x = standardised() + 100
    support("eq-a", "m", x, 105.8, refutes={"far off": 0})
    with pytest.raises(CheckFailed, match="standard errors from"):
        support("eq-a", "m", x, 105.9, refutes={"far off": 0})
    with pytest.raises(CheckFailed, match="passes"):
        support("eq-a", "m", x, 100, refutes={"near by": 105.8})
    support("eq-a", "m", x, 100, refutes={"just far enough": 105.9})


def test_one_wrong_statistic_among_right_ones_is_seen():
    x = np.stack([standardised() + 100, standardised() + 100], 1)
    with pytest.raises(CheckFailed, match="standard errors from"):
        support("eq-a", "m", x, [100, 120], refutes={"far off": 0})
    with pytest.raises(CheckFailed, match="no spread"):
        support("eq-a", "m", np.stack([standardised(), np.zeros(400)], 1), [0, 0], refutes={"far off": 90})
    with pytest.raises(CheckFailed, match="shape"):
        support("eq-a", "m", x, [100, 100], refutes={"of another shape": np.zeros((2, 1))})


def test_the_gap_is_relative_and_small():
    a = sp.symbols("a", positive=True)
    with pytest.raises(CheckFailed, match="numbers differ"):
        prove("eq-a", a + a / 10**6, a, by=lambda e: sp.Integer(0), refutes={"twice as much": 2 * a})
    with pytest.raises(CheckFailed, match="numbers differ"):
        prove(
            "eq-a", a / 10**20, 2 * a / 10**20, by=lambda e: sp.Integer(0), refutes={"twice as much": 2 * a}
        )
    prove("eq-a", sp.Derivative(a**2 / 2, a), a, refutes={"right at one only": a**2})


@pytest.mark.parametrize(
    ("sizes", "errors", "order", "wrong", "why"),
    [
        ([10, 20, 40, 80], [0.1, 0.05, 0.025, 0.0125], math.nan, -0.5, "finite"),
        ([10, 20, 40, 80], [0.1, 0.05, 0.025, 0.0125], -1, math.inf, "finite"),
        ([10, 20, 40, 80], [0.1, 0.05, 0.02, 0.001], -4, -9, "too uncertain"),
        ([0, 20, 40, 80], [0.1, 0.05, 0.025, 0.0125], -1, -2, "increasing"),
        ([10, 10, 40, 80], [0.1, 0.1, 0.025, 0.0125], -1, -2, "increasing"),
        ([10, 20, 40, 80], np.ones((4, 20)), 0, -2, "too few"),
        ([10, 20, 40, 80], np.ones((4, 40)), 0, -2, "slope"),
    ],
)
def test_rate_says_why_it_refuses(sizes, errors, order, wrong, why):
    with np.errstate(all="ignore"), pytest.raises(CheckFailed, match=why):
        rate("eq-a", "order", sizes, errors, order, refutes={"a wrong order": wrong})


def test_empty_values_and_odd_domains_decide_nothing():
    with pytest.raises(CheckFailed, match="empty value"):
        compute("eq-a", "c", lambda k: [], lambda k: [], over=range(3), refutes={"one more": lambda k: [1]})
    a, b = sp.symbols("a b", positive=True)
    for domain in ({a: (3, 1)}, {b: (1, 3)}):
        with pytest.raises(CheckFailed, match="domain"):
            prove("eq-a", sp.Derivative(a**2 / 2, a), a, domain=domain, refutes={"twice as much": 2 * a})
    with pytest.raises(CheckFailed, match="evaluates to"):
        prove("eq-a", a + sp.Limit(1 / b, b, 0, "+-"), a, refutes={"twice as much": 2 * a})


def test_a_verdict_says_who_decided_how_much_was_looked_at_and_how_sure_it_is():
    whole = sp.Integral(r, (r, 0, n))
    proved = prove("eq-a", whole, n**2 / 2, refutes={"missing half": n**2}, points=9)
    counted = compute(
        "eq-a",
        "one",
        lambda k: k,
        lambda k: 2 * k - k,
        over=range(7),
        refutes={"one too many": lambda k: k + 1},
    )
    draws = np.random.default_rng(0).normal(1, 2, size=(400, 3))
    drawn = support("eq-a", "mean", draws, 1, refutes={"twice as much": 2})
    same = agree("eq-a", "same", [1, 2], [1, 2 + 1e-9], within=1e-8, refutes={"another number": [1, 3]})
    sizes = np.array([1, 4, 16, 64])
    falls = rate("eq-a", "order", sizes, 3 / sizes, -1, refutes={"order two": -2})
    found = {v.way: (v.status, v.size) for v in (proved, counted, drawn, same, falls)}
    assert found == {
        "prove": ("proved", 9),
        "compute": ("computed", 7),
        "support": ("supported", 400),
        "agree": ("supported", 2),
        "rate": ("supported", 4),
    }
    assert proved.error is counted.error is None
    assert drawn.error == pytest.approx(draws.std(0, ddof=1).max() / 20)
    assert same.error == 1e-8
    assert 0 < falls.error < 1e-5
