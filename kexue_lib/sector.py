"""Random points in a sector: exact and rounded probabilities, their laws, and simulations.

All angles are *turns*, fractions of the full circle, and a sector is closed. With ``x = 1 - turn``, n
independent uniform points fit into a sector exactly if some gap between neighbours on the circle is at
least x. A point with such a gap behind it is a *leader*: all others lie within a sector ahead of it.
"""

import math
import numbers
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from kexue_lib.arguments import a_number, integer, refuse
from kexue_lib.compiled import compiled

_SMALL, _MOST = 32, 10**6  # below: integers alone; above: rounded probabilities are refused
_WORK = 10**12  # of an exact sum: about ten seconds
_EXACT = 10**5  # most points of the other exact values: a few seconds
_BLOCK = 1 << 16  # trials that share one stream of random numbers
_Array = np.ndarray[Any, Any]


class Estimate(NamedTuple):
    """A simulated probability and its standard error."""

    value: float
    error: float


# -- probabilities -----------------------------------------------------------------------------


def probability(n: int, turn: Any) -> Any:
    r"""Probability that n uniform points on the circle lie in a common sector (eq-sector).

    ``sum((-1)**(k-1) * comb(n, k) * (1 - k*x)**(n-1))`` over the k >= 1 with ``k*x < 1``, ``x = 1 - turn``.

    Parameters
    ----------
    n : int
        Number of points, >= 1; with a rounded turn at most 10**6.
    turn : number, array or tensor
        The sector's angle as a share of the full turn, in [0, 1].

    Returns
    -------
    Fraction, or float, array or tensor of float64
        For a turn that is an ``int``, a ``Fraction`` or a SymPy rational, the exact value. Otherwise floats
        without a gradient: each float is taken as the exact number it is, and the relative error is below
        1e-12. Below the normal range of floats the absolute error is at most two least floats; values
        smaller than these come out as 0.

    Raises
    ------
    ValueError
        If n or a turn is out of range or not a number.

    Examples
    --------
    >>> probability(4, Fraction(1, 2)), probability(4, 0.5)
    (Fraction(1, 2), 0.5)
    """
    return _of_turn(n, turn, 0)


def complement(n: int, turn: Any) -> Any:
    """Probability that n points fit into no sector, with relative error 1e-12 however small (eq-cover).

    It is also the probability that n arcs of length ``1 - turn`` cover the circle (Stevens, 1939).
    Parameters, result and errors are those of `probability`.

    >>> complement(4, Fraction(2, 3)), probability(60, 0.98), complement(60, 0.98) < 1e-40
    (Fraction(1, 27), 1.0, True)
    """
    return _of_turn(n, turn, 1)


def _of_turn(n: int, turn: Any, which: int) -> Any:
    n = integer("n", n, 1)
    if isinstance(turn, numbers.Rational) and not isinstance(turn, bool):
        exact = _exact(n, _fraction(turn))
        return (exact, 1 - exact)[which]
    turns = _turns(turn)
    integer("n", n, 1, _MOST)
    values = _rounded(n, turns.ravel(), which).reshape(turns.shape)
    if isinstance(turn, Tensor):
        return torch.from_numpy(values).to(turn.device)
    return values if isinstance(turn, np.ndarray) else float(values)


def _fraction(turn: Any) -> Fraction:
    exact = Fraction(int(turn.numerator), int(turn.denominator))
    if not 0 <= exact <= 1:
        raise refuse("turn", turn, a_number(0, 1))
    return exact


def _one_turn(turn: Any) -> tuple[Fraction, bool]:
    """Return a single turn as the exact number it is, and whether it was given as one."""
    if isinstance(turn, numbers.Rational) and not isinstance(turn, bool):
        return _fraction(turn), True
    turns = _turns(turn)
    if turns.ndim:
        raise refuse("turn", turn, "one number in [0, 1]")
    return Fraction(float(turns)), False


def _turns(turn: Any) -> _Array:
    """Return a rounded turn, or many, as a float64 array."""
    data = turn.detach().cpu() if isinstance(turn, Tensor) else turn
    if isinstance(data, Tensor):
        data = (data.double() if data.is_floating_point() else data).numpy()
    kind = data.dtype.kind if isinstance(data, np.ndarray | np.generic) else type(data) is float and "f"
    if not kind or kind not in "fiu":
        raise refuse("turn", turn, "an int, a Fraction, a float, an array or a tensor in [0, 1]")
    turns = np.asarray(data, dtype=np.float64)
    if turns.size and not (turns.min() >= 0 and turns.max() <= 1):
        raise refuse("turn", turn, "a number in [0, 1]" if turns.ndim == 0 else "numbers in [0, 1]")
    return turns


def _exact(n: int, turn: Fraction) -> Fraction:
    p, q = turn.numerator, turn.denominator
    bits, terms = min(n * q.bit_length(), 10**9), min(n, q // max(q - p, 1))
    # Powers of so many bits take bits**1.6 steps, and reducing the fraction bits**2.
    if terms * bits**1.6 + bits**2 / 4 > _WORK and n * (q - p) > q:
        raise refuse("n", n, "fewer points for an exact value at this turn, or a rounded turn")
    return Fraction(*_exact_parts(n, p, q))


def _exact_parts(n: int, p: int, q: int) -> tuple[int, int]:
    """Return numerator and denominator, not reduced, for the turn p / q."""
    r = q - p
    if n * r <= q:  # some gap is at least the mean gap 1 / n
        return 1, 1
    most = -(-q // r) - 1
    whole = q ** (n - 1)
    if most <= n - most:
        return sum(
            (-1) ** (k - 1) * math.comb(n, k) * (q - k * r) ** (n - 1) for k in range(1, most + 1)
        ), whole
    # The sum over all k vanishes (eq-difference): the other end of it has fewer terms.
    rest = sum((-1) ** (n - k) * math.comb(n, k) * (k * r - q) ** (n - 1) for k in range(most + 1, n + 1))
    return whole - rest, whole


def _rounded(n: int, turns: _Array, which: int) -> _Array:
    """Return the probabilities (which = 0) or the complements (1) of float64 turns."""
    values = np.empty(turns.size)
    one_term = turns <= 0.5
    values[one_term] = _first_term(n, turns[one_term])
    # The k-th term is at most leaders**k / k!: where few leaders are expected, nothing cancels.
    leaders = _first_term(n, turns)
    # Neither does 1 minus the sum, unless n is small: there the complement can vanish nevertheless.
    few = ~one_term & (leaders <= 3) & (which == 0 or n > _SMALL)
    values[few] = _few_terms(n, turns[few])
    values[few & (n * (1 - turns) <= 1)] = 1  # some gap is at least the mean gap
    if which:
        values = 1 - values
    for i in np.flatnonzero(~one_term & ~few):
        values[i] = _one_value(n, float(turns[i]), float(leaders[i]), which)
    return values


def _first_term(n: int, turns: _Array) -> _Array:
    """Return ``n * turns**(n-1)``, in two halves so that only the result can underflow."""
    half = (n - 1) // 2
    return np.asarray(n * turns**half * turns ** (n - 1 - half))


def _few_terms(n: int, turns: _Array) -> _Array:
    x = 1 - turns  # exact, and so is every 1 - k x > 0: for turns >= 1/2 all are multiples of 2**-53
    total = _first_term(n, turns)
    for k in range(2, min(n, 40) + 1):
        total -= (-1) ** k * float(math.comb(n, k)) * np.maximum(1 - k * x, 0) ** (n - 1)
    return np.minimum(total, 1)


def _one_value(n: int, turn: float, leaders: float, which: int) -> float:
    if n <= _SMALL:
        p, q = turn.as_integer_ratio()
        part, whole = _exact_parts(n, p, q)
        return (whole - part if which else part) / whole  # correctly rounded, as integers are divided
    # The complement is at most exp(-leaders), as gaps are negatively dependent: too little to be seen.
    if leaders > (800 if which else 45) or n * (1 - turn) <= 1:
        return float(1 - which)
    rest = _cube_slice(n, turn)
    return rest if which else 1 - rest


def _cube_slice(n: int, turn: float) -> float:
    """Return the complement as a slice through the cube, by an integral without cancellation.

    ``(n-1)! x**(n-1) f(1/x)``, where f is the density of the sum of n uniform numbers. Tilted by
    ``exp(-s y)`` that sum has its mean near 1/x, and its characteristic function is summed by trapezoids;
    the error is the tilted density 16 standard deviations away.
    """
    with mpmath.workdps(36):
        x = 1 - mpmath.mpf(turn)
        t = min(1 / x, n - 1 / x)  # f is symmetric
        mean = float(t / n)
        s = _tilt(mean)
        spread = 1 / s**2 - (1 / (4 * math.sinh(s / 2) ** 2) if s < 600 else 0)
        deviation = math.sqrt(n * spread)
        phi = (1 - mpmath.exp(-s)) / s
        log_scale = mpmath.loggamma(n) + (n - 1) * mpmath.log(x) + n * mpmath.log(phi) + s * t
        step = 2 * mpmath.pi / (16 * deviation)
        total, j = mpmath.mpf(0.5), 1
        while True:
            z = mpmath.mpc(s, j * step)
            term = mpmath.exp(n * mpmath.log((1 - mpmath.exp(-z)) / (z * phi)) + 1j * j * step * t)
            total += term.real
            if abs(term) < 1e-19:
                return float(total * step / mpmath.pi * mpmath.exp(log_scale))
            j += 1


def _tilt(mean: float) -> float:
    """Return s for which ``exp(-s y)`` on [0, 1] has that mean; any s > 0 near it would do."""

    def excess(s: float) -> float:
        return 1 / s - 1 / math.expm1(s) - mean if s < 700 else 1 / s - mean

    return 1e-3 if excess(1e-3) < 0 else float(optimize.brentq(excess, 1e-3, 1 / mean + 1))


def leader_law(n: int, turn: Any) -> list[Any]:
    """Probabilities of 0 … n leaders (eq-leader-law).

    ``P(L = j) = sum((-1)**(k-j) * comb(k, j) * S_k for k >= j)``, ``S_k = comb(n, k) * (1 - k*x)_+**(n-1)``.

    Parameters
    ----------
    n : int
        Number of points, 1 to 1000.
    turn : number
        In [0, 1]. At turn 1 every point leads; a single point always does.

    Returns
    -------
    list of n + 1 Fractions or floats
        Fractions for an exact turn; otherwise floats with a relative error below 1e-12.

    Raises
    ------
    ValueError
        If n or the turn is out of range.
    """
    n = integer("n", n, 1, 1000)
    exact, rational = _one_turn(turn)
    p, q = exact.numerator, exact.denominator
    r, whole = q - p, q ** (n - 1)
    most = min(n, -(-q // r) - 1) if r else n  # more leaders have no room
    sums = [math.comb(n, k) * (q - k * r) ** (n - 1) for k in range(most + 1)]
    if n == 1:  # its gap is the whole circle, wide enough for every sector
        sums = [1, 1]
    last = len(sums) - 1
    for j in range(last):  # a Taylor shift: the sums' generating function is the law's, at 1 + z
        for k in range(last - 1, j - 1, -1):
            sums[k] -= sums[k + 1]
    sums += [0] * (n - last)
    return [Fraction(s, whole) for s in sums] if rational else [s / whole for s in sums]


def mean_minimal_sector(n: int) -> Fraction:
    """Mean of the smallest sector that holds n points, in turns: ``1 - H_n / n`` (eq-mean-sector).

    Exact, for n up to 10**5.

    >>> mean_minimal_sector(3)
    Fraction(7, 18)
    """
    n = integer("n", n, 1, _EXACT)
    return 1 - sum((Fraction(1, k) for k in range(1, n + 1)), Fraction(0)) / n


def wendel(n: int, dim: int) -> Fraction:
    """Probability that n points of a symmetric law lie in a half-space through 0 (Wendel, 1962; eq-wendel).

    ``sum(comb(n - 1, k) for k < dim) / 2**(n - 1)``, exact, for n up to 10**5.

    >>> wendel(4, 3)
    Fraction(7, 8)
    """
    n, dim = integer("n", n, 1, _EXACT), integer("dim", dim, 1)
    total, choices = 0, 1
    for k in range(min(dim, n)):
        total += choices
        choices = choices * (n - 1 - k) // (k + 1)  # comb(n - 1, k + 1)
    return Fraction(total, 2 ** (n - 1))


# -- simulations -------------------------------------------------------------------------------


def largest_gap(angles: Tensor) -> Tensor:
    """Largest gap between neighbours on the circle, the one across angle 0 included (def-largest-gap).

    Parameters
    ----------
    angles : floating-point tensor of shape (…, n), n >= 1
        Radians; any finite reals, taken modulo 2 pi.

    Returns
    -------
    tensor of shape (…): radians, 2 pi for a single point.

    Raises
    ------
    ValueError
        If angles are not such a tensor.
    """
    if not isinstance(angles, Tensor) or not angles.is_floating_point():
        raise refuse("angles", getattr(angles, "dtype", type(angles).__name__), "a floating-point tensor")
    if angles.ndim < 1 or angles.shape[-1] < 1:
        raise refuse("angles", tuple(angles.shape), "shape (…, n) with n >= 1")
    if not bool(torch.isfinite(angles).all()):
        raise refuse("angles", "NaN or infinity", "finite angles")
    ordered = angles.remainder(2 * math.pi).sort(-1).values
    around = ordered[..., :1] + 2 * math.pi
    return torch.cat([ordered, around], -1).diff(dim=-1).amax(-1)


def simulate(n: int, turn: Any, trials: int, *, generator: torch.Generator) -> Estimate:
    """Estimate `probability` by drawing points and stopping a trial when it is lost (def-largest-gap).

    Each block of 65536 trials has a stream of its own, seeded from the generator: the result depends
    on the generator's state and on nothing else. `torch.get_num_threads` threads share the blocks.

    Returns
    -------
    Estimate: the share of hits, and the standard error ``sqrt(s (1 - s) / (trials + 3))`` with
    ``s = (hits + 1) / (trials + 2)``, the deviation of a beta law, which no run of bad luck makes 0.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n, wide, trials = _simulation(n, turn, trials, generator)
    jobs = _blocks(trials, generator)

    def count(job: tuple[_Array, int]) -> int:
        return int((_hits_of_half if wide >= 2**63 else _hits)(n, wide, *job))

    hits = sum(_each(count, jobs))
    share = (hits + 1) / (trials + 2)
    return Estimate(hits / trials, math.sqrt(share * (1 - share) / (trials + 3)))


def rare_event(n: int, turn: Any, trials: int, *, generator: torch.Generator) -> Estimate:
    """Estimate `probability` however small, by drawing only points that leave a wide gap (eq-sequential).

    Points come one after another, each uniform where it does not yet decide that no sector holds them
    all; a trial's weight is the product of the shares of the circle that were allowed. Unbiased.

    Parameters
    ----------
    As for `simulate`, with at least two trials and a turn of at least 1e-9.

    Returns
    -------
    Estimate: mean weight, and its standard error from the weights' standard deviation. Up to half a turn
    one weight is off by about twice the probability for n = 20, nine times for n = 100 and 30 times for
    n = 1000, whatever the turn; so 20 points take 50 000 trials for an error below one per cent, and 100
    points a million. The weights are skewed: trust an error below one per cent of the value. From fewer
    trials both come out too small more often than not. What is below the least float comes out as 0 ± 0.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n, wide, trials = _simulation(n, turn, trials, generator, 2, Fraction(1, 10**9))
    jobs = _blocks(trials, generator)

    def weigh(job: tuple[_Array, int]) -> _Array:
        return np.asarray(_log_weights(n, wide, *job))

    logs = np.concatenate(_each(weigh, jobs))
    largest = logs.max()
    if largest == -math.inf:
        return Estimate(0.0, 0.0)
    weights = np.exp(logs - largest)
    scale = math.exp(largest)
    return Estimate(scale * float(weights.mean()), scale * float(weights.std(ddof=1)) / math.sqrt(trials))


def _simulation(
    n: int, turn: Any, trials: int, generator: torch.Generator, few: int = 1, narrow: Fraction | int = 0
) -> tuple[int, np.uint64, int]:
    n, trials = integer("n", n, 1), integer("trials", trials, few)
    exact, _ = _one_turn(turn)
    if not isinstance(generator, torch.Generator):
        raise refuse("generator", generator, "a torch.Generator, not one that all code shares")
    if exact < narrow:
        raise refuse("turn", turn, a_number(float(narrow), 1))
    # The circle is the integers modulo 2**64: a gap is wide from this number on.
    return n, np.uint64(min(math.ceil((1 - exact) * 2**64), 2**64 - 1)), trials


def _blocks(trials: int, generator: torch.Generator) -> list[tuple[_Array, int]]:
    count = -(-trials // _BLOCK)
    halves = torch.randint(0, 2**32, (count, 4, 2), generator=generator, device=generator.device)
    states = (halves[..., 0] << 32 | halves[..., 1]).cpu().numpy().view(np.uint64)
    states[:, 0] |= np.uint64(1)  # never all zero
    return [(states[b], min(_BLOCK, trials - b * _BLOCK)) for b in range(count)]


def _each(function: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
    threads = min(torch.get_num_threads(), len(jobs))
    if threads < 2:
        return [function(job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, jobs))


@compiled
def _next(state):  # type: ignore[no-untyped-def]
    """xoshiro256++ of Blackman & Vigna (2021)."""
    s0, s1, s2, s3 = state
    total = s0 + s3
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s0
    shifted = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    s3 = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    return result, (s0, s1, s2, s3)


@compiled
def _hits(n, wide, seed, trials):  # type: ignore[no-untyped-def]
    """Count the trials with a wide gap; a coarse circle of 64 places settles most of them."""
    state = (seed[0], seed[1], seed[2], seed[3])
    points, starts, lengths = np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty(n, np.uint64)
    whole_places = np.int64(wide >> np.uint64(58))
    hits = 0
    for _ in range(trials):
        taken, fits, drawn = np.uint64(0), True, 0
        while fits and drawn < n:
            stop = min(drawn + 8, n)
            for j in range(drawn, stop):
                points[j], state = _next(state)
                taken |= np.uint64(1) << (points[j] >> np.uint64(58))
            fits = _has_run(~taken, whole_places - 1)  # a wide gap leaves at least so many places free
            drawn = stop
        if fits and not _has_run(~taken, whole_places + 1):  # so many free places are a wide gap
            gaps = _open_circle(points[0], starts, lengths)
            for j in range(1, n):
                gaps = _split(points[j], wide, starts, lengths, gaps)
                if gaps == 0:
                    break
            fits = gaps > 0
        hits += fits
    return hits


@compiled
def _has_run(bits, length):  # type: ignore[no-untyped-def]
    """Say whether so many ones stand side by side on a circle of 64 bits."""
    have = 1
    while have < length:
        step = np.uint64(min(have, length - have))
        bits &= (bits << step) | (bits >> (np.uint64(64) - step))
        have *= 2
    return length < 1 or bits != np.uint64(0)


@compiled
def _open_circle(point, starts, lengths):  # type: ignore[no-untyped-def]
    starts[0], lengths[0] = point, np.uint64(0xFFFFFFFFFFFFFFFF)
    return 1


@compiled
def _hits_of_half(n, wide, seed, trials):  # type: ignore[no-untyped-def]
    """Do the same for at most half a turn, where the points so far span one arc: no branches but one."""
    most = np.uint64(0) - wide
    state = (seed[0], seed[1], seed[2], seed[3])
    hits = 0
    for _ in range(trials):
        start, state = _next(state)
        width, fits = np.uint64(0), True
        for j in range(n - 1):
            point, state = _next(state)
            ahead = point - start
            behind = width - ahead
            onward = ahead <= most
            fits &= onward | (behind <= most)
            width = max(width, ahead) if onward else behind
            start = start if onward else point
            if j >= 3 and not fits:  # for few points guessing the branch would cost more than drawing
                break
        hits += fits
    return hits


@compiled
def _split(point, wide, starts, lengths, gaps):  # type: ignore[no-untyped-def]
    """Put a point on the circle; return how many wide gaps are left. Subtraction wraps around by itself."""
    for g in range(gaps):
        ahead = point - starts[g]
        if ahead < lengths[g]:
            rest = lengths[g] - ahead
            if ahead >= wide:
                lengths[g] = ahead
                if rest >= wide:
                    starts[gaps], lengths[gaps] = point, rest
                    gaps += 1
            elif rest >= wide:
                starts[g], lengths[g] = point, rest
            else:
                gaps -= 1
                starts[g], lengths[g] = starts[gaps], lengths[gaps]
            break
    return gaps


@compiled
def _log_weights(n, wide, seed, trials):  # type: ignore[no-untyped-def]
    state = (seed[0], seed[1], seed[2], seed[3])
    starts, lengths = np.empty(n, np.uint64), np.empty(n, np.uint64)
    result = np.empty(trials)
    for i in range(trials):
        point, state = _next(state)
        gaps = _open_circle(point, starts, lengths)
        log_weight = 0.0
        for _ in range(n - 1):
            point, state = _next(state)
            if gaps == 1 and lengths[0] - wide < wide - np.uint64(1):
                # Where both parts of the only wide gap would be narrow, a point would decide: it stays out.
                allowed = lengths[0] - wide - wide + np.uint64(1)  # modulo 2**64, so of the whole circle
                log_weight += math.log(np.float64(allowed) * 2.0**-64)
                point = starts[0] + wide + np.uint64(np.float64(point >> np.uint64(11)) * 2.0**-53 * allowed)
            gaps = _split(point, wide, starts, lengths, gaps)
        result[i] = log_weight
    return result
