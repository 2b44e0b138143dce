"""Every numbered equation is a test: it is decided where it stands, and beside it a wrong variant must fall.

Five ways to decide, three statuses:

========== =========== ==============================================================
`prove`    *proved*    SymPy reduces the difference of two independent expressions to 0
`compute`  *computed*  exact arithmetic over a stated finite range
`support`  *supported* Monte Carlo: independent replicates against an expected value
`agree`    *supported* two numerical routes, to a stated tolerance
`rate`     *supported* the order of a limit: a slope with its interval
========== =========== ==============================================================

Each takes the equation's label and ``refutes``: a mapping from the story of a mistake that people make
to the variant it leads to. A check whose control passes, or that has none, raises `CheckFailed`.
"""

import html
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import sympy
from scipy import stats

MIME = "application/vnd.kexue.verdict+json"
SIGMAS = 5.85  # 200 two-sided checks together raise one false alarm in a million books
_SIGN = {"proved": "✓", "computed": "✓", "supported": "≈"}


class CheckFailed(AssertionError):
    """An equation was not confirmed, or its check could not have failed."""


@dataclass(frozen=True)
class Verdict:
    """What was decided about one equation, how, and which wrong variants fell.

    Attributes
    ----------
    label, claim : str
        The equation, and what was checked about it; the claim and the texts below are MyST inline text.
    status, way : str
        *proved*, *computed* or *supported*, and the function that decided.
    method, figures : str
        How it was decided, in words, and what came out.
    size : int
        How many points (`prove`), cases (`compute`), replicates (`support`), values (`agree`) or sizes
        (`rate`) were looked at.
    error : float or None
        The largest standard error (`support`), the tolerance (`agree`), half the interval of the slope
        (`rate`); none where the check is exact.
    controls : list of dict
        ``story`` of each wrong variant, and its ``outcome`` in the same check.
    seconds : float
    version : int
        Of these fields.
    """

    label: str
    claim: str
    status: str
    way: str
    method: str
    figures: str
    size: int
    error: float | None
    controls: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    version: int = 2

    def __str__(self) -> str:
        refuted = "; ".join(c["story"] for c in self.controls)
        sign = _SIGN[self.status]
        return f"{sign} {self.label} {self.status}: {self.method}, {self.figures} · refuted: {refuted}"

    def _ipython_display_(self) -> None:
        """Show nothing: the check has already shown the verdict, also when it was not the last line."""

    def show(self) -> "Verdict":
        """Publish the verdict as a rich output if there is a notebook to show it in."""
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:  # pragma: no cover - IPython comes with ipykernel
            return self
        if get_ipython() is not None:
            bundle = {
                "text/plain": str(self),
                "text/html": f'<p class="kexue-verdict">{html.escape(str(self))}</p>',
                MIME: asdict(self),
            }
            display(bundle, raw=True)
        return self


# -- proved ------------------------------------------------------------------------------------


def prove(
    label: str,
    left: Any,
    right: Any,
    *,
    refutes: Mapping[str, Any],
    claim: str | None = None,
    by: Callable[[Any], Any] | None = None,
    domain: Mapping[sympy.Symbol, tuple[float, float]] | None = None,
    points: int = 12,
) -> Verdict:
    """Decide ``left = right`` by SymPy, then spot-check both sides by numbers.

    Give ``left`` *unevaluated* (``Integral``, ``Sum``, ``Derivative``, ``Limit``) wherever you can:
    SymPy then has to do the work here, and the spot check evaluates the unevaluated form by
    quadrature or summation, a second route that shares nothing with the symbolic one.

    Parameters
    ----------
    label : str
        Label of the equation, ``eq-…``.
    left, right : SymPy expressions
        Two expressions that are not already the same.
    refutes : mapping of str to expression
        Story of a mistake → the right-hand side it gives. Each must differ in numbers.
    claim : str, optional
        What was checked, when it is not simply the equation; MyST inline text.
    by : callable, optional
        Simplifier applied to the difference (default: a chain of SymPy's own).
    domain : mapping of symbol to (low, high), optional
        Where to spot-check; by default it follows from the symbol's assumptions.
    points : int
        Number of spot-check points.

    Raises
    ------
    CheckFailed
        If the difference does not reduce to zero, the spot check disagrees, is not finite or has fewer
        than five different places, both sides are the same expression, symbols clash, or a control is
        missing, passes at more than half of the places, or says the same as another.
    """
    start = time.perf_counter()
    left, right = sympy.sympify(left), sympy.sympify(right)
    wrongs = {story: sympy.sympify(wrong) for story, wrong in _controls(label, refutes).items()}
    if left == right:
        raise CheckFailed(f"{label}: both sides are the same expression ({left}), so nothing is proved")
    symbols = _symbols(label, [left, right, *wrongs.values()])
    for s, (low, high) in (domain or {}).items():
        if s not in symbols or not low <= high:
            raise CheckFailed(f"{label}: domain {s} from {low} to {high} is empty, or of a symbol not in use")
    done = left.doit()
    if done.has(sympy.nan, sympy.zoo):
        raise CheckFailed(f"{label}: the left side evaluates to {done}")
    difference = done - right.doit()
    if not _vanishes(difference, by):
        raise CheckFailed(f"{label}: SymPy leaves {sympy.simplify(difference)} between the two sides")

    places = _places(symbols, domain or {}, points)
    if symbols and len({tuple(place.values()) for place in places}) < 5:
        raise CheckFailed(f"{label}: fewer than five different places for the spot check: widen the domain")
    lefts = [_number(label, left, place) for place in places]
    worst = max(_gap(a, _number(label, right, place)) for a, place in zip(lefts, places, strict=True))
    if worst > 1e-11:
        raise CheckFailed(f"{label}: SymPy says equal, but numbers differ by {worst:.1e} (relative)")
    outcomes: list[dict[str, str]] = []
    seen: list[Any] = []
    for story, wrong in wrongs.items():
        values = [_number(f"{label}, control '{story}'", wrong, place) for place in places]
        gaps = [_gap(a, value) for a, value in zip(lefts, values, strict=True)]
        if 2 * sum(gap > 1e-4 for gap in gaps) < len(gaps):
            raise CheckFailed(f"{label}: the control '{story}' passes the check it must fail, or nearly")
        _distinct(label, story, values, seen)
        outcomes.append({"story": story, "outcome": f"off by up to {max(gaps):.2g} (relative)"})
    assumed = ", ".join(_assumption(s) for s in symbols)
    where = "".join(
        f", ${sympy.latex(s)}$ from {low:g} to {high:g}" for s, (low, high) in (domain or {}).items()
    )
    return Verdict(
        label,
        claim or f"${sympy.latex(left)} = {sympy.latex(right)}$",
        "proved",
        "prove",
        "SymPy" + (" with a simplifier of its own" if by else "") + (f" for {assumed}" if assumed else ""),
        f"spot check at {len(places)} point{'s' * (len(places) > 1)}{where}, "
        f"gaps at most {max(worst, 1e-15):.0e}",
        len(places),
        None,
        outcomes,
        round(time.perf_counter() - start, 3),
    ).show()


def _vanishes(difference: Any, by: Callable[[Any], Any] | None) -> bool:
    chain = (
        [by]
        if by
        else [
            sympy.simplify,
            sympy.gammasimp,
            lambda e: sympy.simplify(sympy.expand_func(e)),
            lambda e: sympy.simplify(sympy.expand(e.rewrite(sympy.gamma))),
        ]
    )
    return difference == 0 or any(step(difference) == 0 for step in chain)


def _symbols(label: str, expressions: Iterable[Any]) -> list[sympy.Symbol]:
    symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=lambda s: s.name)
    for a, b in itertools.pairwise(symbols):
        if a.name == b.name:
            raise CheckFailed(f"{label}: symbol {a.name} appears with two different assumptions")
    for s in symbols:
        if not s.is_commutative:
            raise CheckFailed(f"{label}: symbol {s.name} does not commute, so numbers cannot check it")
    return symbols


def _places(
    symbols: Sequence[sympy.Symbol], domain: Mapping[sympy.Symbol, tuple[float, float]], points: int
) -> list[dict[sympy.Symbol, Any]]:
    """Return reproducible points: a Weyl sequence with a different irrational step per symbol."""
    if not symbols:
        return [{}]
    places = []
    for i in range(1, points + 1):
        place = {}
        for j, s in enumerate(symbols):
            if s.is_integer:
                default = (1.0, 12.0) if s.is_positive else (0.0, 12.0) if s.is_nonnegative else (-6.0, 6.0)
            else:
                default = (0.1, 4.0) if s.is_positive else (-3.0, 3.0)
            low, high = domain.get(s, default)
            u = math.modf(i * math.sqrt(2 + 3 * j) + 0.37 * j)[0]
            x = low + u * (high - low)
            place[s] = sympy.Integer(round(x)) if s.is_integer else sympy.Rational(round(x * 1000), 1000)
            if not s.is_real and s not in domain:  # what is not said to be real is tried off the axis
                place[s] += sympy.I * sympy.Rational(1 + i % 7, 5)
        places.append(place)
    return places


def _number(label: str, expression: Any, place: Mapping[Any, Any]) -> Any:
    # SymPy's own way to a number may extrapolate a sum wrongly, and takes seconds for an integral.
    placed = expression.subs(place)
    for kind, route in ((sympy.Integral, _integral), (sympy.Sum, _sum)):
        placed = placed.replace(lambda e, kind=kind: isinstance(e, kind), route)
    value = sympy.N(placed, 25)
    if value.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
        raise CheckFailed(f"{label}: not finite at {place}: {value}")
    try:
        with mpmath.workdps(25):
            number = mpmath.mpc(*(mpmath.mpf(str(sympy.Float(part, 25))) for part in value.as_real_imag()))
    except (TypeError, ValueError):
        raise CheckFailed(f"{label}: no number at {place}: {value}") from None
    return number


def _sum(series: Any) -> Any:
    if len(series.limits) > 1:
        return series
    index, low, high = series.limits[0]
    with mpmath.workdps(30):
        term = sympy.lambdify(index, series.function, "mpmath")
        ends = [mpmath.mpf(low), mpmath.inf if high is sympy.oo else mpmath.mpf(high)]
        return sympy.Float(mpmath.nsum(term, ends), 25)


def _integral(integral: Any) -> Any:
    """Evaluate by mpmath's quadrature, in more digits until 12 are right; else leave it to SymPy's."""
    if integral.free_symbols or any(len(limit) != 3 for limit in integral.limits):
        return integral
    names = [limit[0] for limit in integral.limits]  # the innermost comes first
    inside = sympy.lambdify(names, integral.function, "mpmath")
    ends = [sympy.lambdify(names[i + 1 :], limit[1:], "mpmath") for i, limit in enumerate(integral.limits)]
    errors: list[Any] = []

    def over(i: int, outer: tuple[Any, ...]) -> Any:
        line = (lambda x: inside(x, *outer)) if i == 0 else (lambda x: over(i - 1, (x, *outer)))
        value, error = mpmath.quad(line, ends[i](*outer), error=True)
        errors.append(error)
        return value

    for digits in (20, 40, 120):  # a root at an end of the range needs many
        errors.clear()
        with mpmath.workdps(digits):
            try:
                value = over(len(names) - 1, ())
            except (ArithmeticError, TypeError, ValueError, NameError):
                return integral
            if max(errors) < 1e-13 * abs(value) and mpmath.im(value) == 0:
                return sympy.Float(value, 25)
    return integral


def _gap(a: Any, b: Any) -> float:
    with mpmath.workdps(25):
        return float(abs(a - b) / (abs(a) + abs(b))) if a != b else 0.0


def _assumption(s: sympy.Symbol) -> str:
    """Say in words what the symbol was assumed to be, for the reader of the ledger."""
    words = [w for w in ("positive", "nonnegative", "integer", "real") if s.assumptions0.get(w)]
    if "positive" in words and "nonnegative" in words:
        words.remove("nonnegative")
    if "real" in words and len(words) > 1:
        words.remove("real")
    return f"${sympy.latex(s)}$ {' '.join(words) or 'complex'}"


# -- computed ----------------------------------------------------------------------------------


def compute(
    label: str,
    claim: str,
    left: Callable[..., Any],
    right: Callable[..., Any],
    *,
    over: Iterable[Any],
    refutes: Mapping[str, Callable[..., Any]],
) -> Verdict:
    """Decide ``left(case) = right(case)`` exactly for every case of a finite range.

    Parameters
    ----------
    left, right : callables
        Two independent routes; each takes a case (a tuple is spread over the arguments) and returns exact
        numbers: ``int``, ``Fraction``, SymPy numbers, or (nested) sequences and integer arrays of them.
    over : iterable
        The cases. They are stated in the ledger by their number and their ends.
    refutes : mapping of str to callable
        Each must disagree with ``left`` on at least one case.

    Raises
    ------
    CheckFailed
        If a case differs, a value is not exact, there is no case, or a control is missing or passes.
    """
    start = time.perf_counter()
    controls = _controls(label, refutes)
    if left is right:
        raise CheckFailed(f"{label}: both routes are the same function, so nothing is computed")
    cases = [case if isinstance(case, tuple) else (case,) for case in over]
    if not cases:
        raise CheckFailed(f"{label}: no cases, so nothing is computed")
    lefts = [_exact(label, left(*case)) for case in cases]
    for case, value in zip(cases, lefts, strict=True):
        other = _exact(label, right(*case))
        if not _same(label, value, other):
            raise CheckFailed(f"{label}: at {_case(case)} one route gives {value}, the other {other}")
    outcomes: list[dict[str, str]] = []
    seen: list[Any] = []
    for story, wrong in controls.items():
        values = [_exact(f"{label}, control '{story}'", wrong(*case)) for case in cases]
        pairs = zip(lefts, values, strict=True)
        fails = sum(not _same(f"{label}, control '{story}'", value, other) for value, other in pairs)
        if not fails:
            raise CheckFailed(f"{label}: the control '{story}' passes the check it must fail")
        _distinct(label, story, values, seen)
        outcome = f"wrong in {fails} of {len(cases)} cases" if len(cases) > 1 else "wrong"
        outcomes.append({"story": story, "outcome": outcome})
    if len(cases) > 1:
        figures = f"{len(cases)} cases: {_case(cases[0])} … {_case(cases[-1])}"
    else:
        figures = "one case" + (f": {_case(cases[0])}" if cases[0] else "")
    return Verdict(
        label, claim, "computed", "compute", "exact arithmetic", figures, len(cases), None, outcomes,
        round(time.perf_counter() - start, 3),
    ).show()  # fmt: skip


def _exact(label: str, value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        if not value:
            raise CheckFailed(f"{label}: an empty value decides nothing")
        return tuple(_exact(label, v) for v in value)
    if isinstance(value, int | Fraction):
        return Fraction(value)
    if isinstance(value, sympy.Basic) and value.is_number and not value.has(sympy.Float):
        if not value.is_finite:
            raise CheckFailed(f"{label}: {value} is not finite")
        return Fraction(int(value.p), int(value.q)) if value.is_Rational else value
    raise CheckFailed(f"{label}: {value!r} is not exact (use int, Fraction or SymPy numbers)")


def _same(label: str, a: Any, b: Any) -> bool:
    """Tell whether exact values are equal; two that SymPy cannot tell apart or together are refused."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
            raise CheckFailed(f"{label}: values of different shape: {a} and {b}")
        return all(_same(label, x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    difference = sympy.sympify(a) - sympy.sympify(b)
    if abs(sympy.N(difference, 60)) > sympy.Float("1e-50"):
        return False
    if sympy.simplify(difference) != 0:
        raise CheckFailed(f"{label}: {a} and {b} agree to 50 digits, but SymPy does not show them equal")
    return True


def _case(case: tuple[Any, ...]) -> str:
    return str(case[0]) if len(case) == 1 else "(" + ", ".join(map(str, case)) + ")"


# -- supported ---------------------------------------------------------------------------------


def support(label: str, claim: str, samples: Any, expected: Any, *, refutes: Mapping[str, Any]) -> Verdict:
    """Decide by Monte Carlo that the mean of independent replicates is ``expected``.

    The standard error comes from the replicates themselves, never from the caller. Neighbouring replicates
    that resemble each other (a chain, overlapping data) would make it too small; that is tested, and refused.

    Parameters
    ----------
    samples : array of shape (R,) or (R, m)
        R >= 30 independent replicates of one or of m statistics.
    expected : number or array of shape (m,)
    refutes : mapping of str to number or array
        Each must lie more than 5.85 standard errors away in at least one component.

    Raises
    ------
    CheckFailed
        If a mean is more than 5.85 standard errors off, 5.85 standard errors are more than the value itself,
        values are not finite, the spread is zero or due to one replicate, the replicates are too few or not
        independent, or a control is missing, passes or says the same as another.
    """
    start = time.perf_counter()
    controls = _controls(label, refutes)
    x = _array(label, samples)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[0] < 30:
        raise CheckFailed(f"{label}: shape {x.shape} is not (R,) or (R, m) with R >= 30 replicates")
    mean, error = x.mean(0), x.std(0, ddof=1) / math.sqrt(x.shape[0])
    target = _array(label, expected)
    if not error.all():
        raise CheckFailed(f"{label}: the replicates are all equal: no spread, no standard error")
    share = ((x - mean) ** 2).max(0) / ((x - mean) ** 2).sum(0)
    if share.max() > 0.4:
        raise CheckFailed(f"{label}: one replicate makes most of the variance: no standard error to rely on")
    if target.ndim > 1 or target.size not in (1, mean.size):
        raise CheckFailed(f"{label}: expected has shape {target.shape}, the statistics {mean.shape}")
    centred = (x - mean) / x.std(0, ddof=1)
    resemblance = (centred[1:] * centred[:-1]).mean(0) * math.sqrt(x.shape[0] - 1)
    if np.abs(resemblance).max() > SIGMAS:
        raise CheckFailed(f"{label}: neighbouring replicates are correlated, so the standard error is wrong")
    # Means of blocks spread as they should unless replicates depend on each other over a distance.
    blocks = math.isqrt(x.shape[0])
    size = x.shape[0] // blocks
    of_blocks = centred[: blocks * size].reshape(blocks, size, -1).mean(1)
    chance = stats.chi2(blocks - 1).cdf(size * ((of_blocks - of_blocks.mean(0)) ** 2).sum(0))
    if np.minimum(chance, 1 - chance).min() < 1e-9:
        raise CheckFailed(
            f"{label}: replicates far apart depend on each other, so the standard error is wrong"
        )
    if (SIGMAS * error > np.abs(target))[np.broadcast_to(target != 0, mean.shape)].any():
        raise CheckFailed(
            f"{label}: an error as large as the value itself would not be seen: take more replicates"
        )
    z = np.abs((mean - target) / error)
    if z.max() > SIGMAS:
        i = int(z.argmax())
        goal = np.broadcast_to(target, mean.shape)[i]
        raise CheckFailed(
            f"{label}: {mean[i]:.6g} ± {error[i]:.2g} is {z[i]:.1f} standard errors from {goal:.6g}"
        )
    outcomes: list[dict[str, str]] = []
    seen: list[Any] = []
    for story, wrong in controls.items():
        value = _array(f"{label}, control '{story}'", wrong)
        if value.shape not in ((), mean.shape):
            raise CheckFailed(f"{label}: the control '{story}' has shape {value.shape}, not {mean.shape}")
        value = np.broadcast_to(value, mean.shape)
        far = np.abs((mean - value) / error).max()
        if far <= SIGMAS:
            raise CheckFailed(f"{label}: the control '{story}' passes the check it must fail")
        _distinct(label, story, value.tolist(), seen)
        outcomes.append({"story": story, "outcome": f"{far:.3g} standard errors off"})
    shown = f"{mean[0]:.5g} ± {error[0]:.1g}" if mean.size == 1 else f"{mean.size} statistics"
    figures = (
        f"{shown}, at most {z.max():.1f} standard errors off; "
        f"an error of {SIGMAS * error.max():.1g} would have been seen"
    )
    return Verdict(
        label, claim, "supported", "support", f"Monte Carlo, {x.shape[0]} replicates", figures,
        x.shape[0], float(error.max()), outcomes,
        round(time.perf_counter() - start, 3),
    ).show()  # fmt: skip


def agree(
    label: str, claim: str, left: Any, right: Any, *, within: float, refutes: Mapping[str, Any]
) -> Verdict:
    """Decide that two numerical routes agree: ``max |left - right| <= within``.

    Parameters
    ----------
    left, right : arrays of one shape
        Results of two independent routes, finite.
    within : float
        Absolute tolerance, justified in the text.
    refutes : mapping of str to array
        Each must be off by more than ten tolerances somewhere.

    Raises
    ------
    CheckFailed
        If the routes disagree, are not finite or not of one shape, or a control is missing or passes.
    """
    start = time.perf_counter()
    controls = _controls(label, refutes)
    if left is right:
        raise CheckFailed(f"{label}: both routes are the same object, so nothing is compared")
    if not (math.isfinite(within) and within > 0):
        raise CheckFailed(f"{label}: within = {within} is not a positive number")
    a, b = _array(label, left), _array(label, right)
    if a.shape != b.shape:
        raise CheckFailed(f"{label}: shapes {a.shape} and {b.shape} differ")
    gap = float(np.abs(a - b).max())
    if gap > within:
        raise CheckFailed(f"{label}: the two routes differ by {gap:.3g}, more than {within:.3g}")
    outcomes: list[dict[str, str]] = []
    seen: list[Any] = []
    for story, wrong in controls.items():
        value = _array(f"{label}, control '{story}'", wrong)
        if value.shape != a.shape:
            raise CheckFailed(f"{label}: the control '{story}' has shape {value.shape}, not {a.shape}")
        far = float(np.abs(a - value).max())
        if far <= 10 * within:
            raise CheckFailed(f"{label}: the control '{story}' passes the check it must fail")
        _distinct(label, story, value.tolist(), seen)
        outcomes.append({"story": story, "outcome": f"off by {far:.2g}"})
    return Verdict(
        label, claim, "supported", "agree", f"two numerical routes, {a.size} values",
        f"largest difference {gap:.1e}, allowed {within:.0e}", a.size, float(within), outcomes,
        round(time.perf_counter() - start, 3),
    ).show()  # fmt: skip


def rate(
    label: str, claim: str, sizes: Any, errors: Any, order: float, *, refutes: Mapping[str, float]
) -> Verdict:
    """Decide the order of a limit: ``errors ~ C * sizes**order``, as a slope with its interval.

    Deterministic errors (one per size) give local slopes: the last one counts, and its half-width is twice
    its distance to the one before. Random errors (a row of replicates per size) give a weighted fit of the
    log of the mean, whose half-width is 5.85 standard errors.

    Parameters
    ----------
    sizes : array of shape (s,), s >= 4, increasing by a factor of 8 at least
    errors : array of shape (s,) or (s, R)
        Positive errors, or R >= 30 replicates each with positive mean.
    order : float
        The exponent that is claimed.
    refutes : mapping of str to float
        Wrong exponents; each must lie outside the interval.

    Raises
    ------
    CheckFailed
        If the exponent lies outside the interval, the interval is wider than 0.25, or a control is missing
        or lies inside.
    """
    start = time.perf_counter()
    controls = _controls(label, refutes)
    n, e, order = _array(label, sizes), _array(label, errors), float(_array(label, order))
    if n.ndim != 1 or n.size < 4 or not (np.diff(n) > 0).all() or n[0] <= 0 or e.shape[:1] != n.shape:
        raise CheckFailed(f"{label}: a rate needs at least four increasing sizes and an error for each")
    if n[-1] < 8 * n[0]:
        raise CheckFailed(
            f"{label}: sizes from {n[0]:g} to {n[-1]:g} are too close for a rate (a factor of 8)"
        )
    means = e if e.ndim == 1 else e.mean(1)
    if not (means > 0).all():
        raise CheckFailed(f"{label}: errors must be positive to have a rate, got {means.min():.3g}")
    x, y = np.log(n), np.log(means)
    if e.ndim == 1:
        slopes = np.diff(y) / np.diff(x)
        slope, half = float(slopes[-1]), float(2 * abs(slopes[-1] - slopes[-2])) + 1e-6
        method = "local slopes of exact errors"
    else:
        if e.shape[1] < 30:
            raise CheckFailed(f"{label}: {e.shape[1]} replicates a size are too few (30)")
        spread = e.std(1, ddof=1) / math.sqrt(e.shape[1]) / means
        w = 1 / spread**2
        centre = (w * x).sum() / w.sum()
        slope = float((w * (x - centre) * y).sum() / (w * (x - centre) ** 2).sum())
        half = float(SIGMAS / math.sqrt((w * (x - centre) ** 2).sum()))
        method = f"weighted fit, {e.shape[1]} replicates a size"
    if not half <= 0.25:
        raise CheckFailed(f"{label}: slope {slope:.3f} ± {half:.3f} is too uncertain to decide anything")
    if not abs(slope - order) <= half:
        raise CheckFailed(f"{label}: slope {slope:.4f} ± {half:.4f}, claimed {order}")
    outcomes: list[dict[str, str]] = []
    seen: list[Any] = []
    for story, wrong in controls.items():
        wrong = float(_array(f"{label}, control '{story}'", wrong))
        if not abs(slope - wrong) > half:
            raise CheckFailed(f"{label}: the control '{story}' passes the check it must fail")
        _distinct(label, story, wrong, seen)
        outcomes.append({"story": story, "outcome": f"claims order {wrong:g}"})
    return Verdict(
        label, claim, "supported", "rate", method,
        f"slope {slope:.4f} ± {half:.1g} over sizes {n[0]:g} to {n[-1]:g}", n.size, half, outcomes,
        round(time.perf_counter() - start, 3),
    ).show()  # fmt: skip


# -- what all five share -----------------------------------------------------------------------


def _controls(label: str, refutes: Mapping[str, Any]) -> Mapping[str, Any]:
    if not re.fullmatch(r"eq-[a-z0-9]+(-[a-z0-9]+)*", label):
        raise CheckFailed(f"{label}: a label is eq- and lower-case words joined by hyphens")
    if not refutes:
        raise CheckFailed(f"{label}: no control: name at least one wrong variant that must be refuted")
    for story in refutes:
        if len(story.split()) < 2:
            raise CheckFailed(f"{label}: the control '{story}' needs its story: which mistake is it?")
    return refutes


def _distinct(label: str, story: str, value: Any, seen: list[Any]) -> None:
    """Two wrong variants that say the same are one."""
    if value in seen:
        raise CheckFailed(f"{label}: the control '{story}' says the same as another")
    seen.append(value)


def _array(label: str, values: Any) -> Any:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if np.iscomplexobj(values):
        raise CheckFailed(f"{label}: values are complex: compare real and imaginary parts")
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise CheckFailed(f"{label}: values must be finite numbers, and at least one")
    return array
