"""Time the sector's simulation and its exact and rounded probabilities beside their peers."""

import math
from importlib.metadata import version

import mpmath
import numba
import numpy as np
import sympy
import torch
from common import main, rows

from kexue_lib import sector

CASES = [(3, 1 / 3), (6, 1 / 3), (10, 1 / 3), (20, 1 / 3), (20, 0.8)]
TRIALS, BLOCKS, CALLS = 2**19, 64, 10
DRAWING = ("drawing: numpy float32", "drawing: torch.rand", "drawing: our stream")
PLAIN, STOPPING = "numba over np.random", "numba over np.random, our way"
GOALS = dict.fromkeys((PLAIN, STOPPING), "1.6 times faster") | dict.fromkeys(
    DRAWING, "at most 4 times slower"
)


def loops(parallel):
    """Compile the peers' loops: np.random has a state for each thread."""

    @numba.njit(fastmath=True, parallel=parallel)
    def over_np_random(n, turn, trials):
        hits = 0
        for _block in numba.prange(BLOCKS):
            a = np.empty(n)
            for _ in range(trials // BLOCKS):
                for j in range(n):
                    a[j] = np.random.random()  # noqa: NPY002 (the generator that compiled loops use)
                for i in range(n):
                    fits = True
                    for j in range(n):
                        d = a[j] - a[i]
                        if d < 0:
                            d += 1
                        if d > turn:
                            fits = False
                            break
                    if fits:
                        hits += 1
                        break
        return hits

    @numba.njit(fastmath=True, parallel=parallel)
    def over_np_random_stopping(n, turn, trials):
        hits = 0
        for _trial in numba.prange(trials):  # the points so far span one arc, as in our own loop
            start, width, fits = np.random.random(), 0.0, True  # noqa: NPY002
            for _ in range(n - 1):
                ahead = np.random.random() - start  # noqa: NPY002
                if ahead < 0:
                    ahead += 1
                if ahead <= turn:
                    width = max(width, ahead)
                elif 1 - ahead + width <= turn:
                    start, width = start + ahead, 1 - ahead + width
                    if start >= 1:
                        start -= 1
                else:
                    fits = False
                    break
            hits += fits
        return hits

    return over_np_random, over_np_random_stopping


@numba.njit(nogil=True)
def our_stream(count, seed):
    state, total = (seed[0], seed[1], seed[2], seed[3]), np.uint64(0)
    for _ in range(count):
        value, state = sector._next(state)
        total ^= value
    return total


def numpy_sort(n, turn, rng):
    u = rng.random((TRIALS, n), dtype=np.float32)
    u.sort(1)
    around = u[:, :1] + 1
    return int((np.diff(u, axis=1, append=around).max(1) >= 1 - turn).sum())


def torch_sort(n, turn, g):
    u = torch.rand(TRIALS, n, generator=g).sort(1).values
    return int((torch.cat([u, u[:, :1] + 1], 1).diff(dim=1).amax(1) >= 1 - turn).sum())


def mpmath_sum(n, turn, digits):
    """Take the same sum in arithmetic with enough digits, up to terms that no longer count."""
    with mpmath.workdps(digits):
        x, total, k = 1 - mpmath.mpf(turn), mpmath.mpf(0), 1
        while k <= n and k * x < 1:
            term = mpmath.binomial(n, k) * (1 - k * x) ** (n - 1)
            total -= (-1) ** k * term
            if term < 1e-30:
                break
            k += 1
        return float(total)


def sympy_sum(n, turn):
    x, total, k = 1 - sympy.Rational(*turn.as_integer_ratio()), sympy.Integer(0), 1
    while k <= n and k * x < 1:
        total -= (-1) ** k * sympy.binomial(n, k) * (1 - k * x) ** (n - 1)
        k += 1
    return float(total)


def simulations(threads, rounds, cases):
    """Yield the rows of the simulations."""
    plain, stopping = loops(threads > 1)
    g, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    seed = np.arange(1, 5, dtype=np.uint64)
    for n, turn in cases:
        functions = {
            "ours": lambda n=n, turn=turn: sector.simulate(n, turn, TRIALS, generator=g).value * TRIALS,
            PLAIN: lambda n=n, turn=turn: plain(n, turn, TRIALS),
            "numpy sort": lambda n=n, turn=turn: numpy_sort(n, turn, rng),
            "torch sort": lambda n=n, turn=turn: torch_sort(n, turn, g),
            DRAWING[0]: lambda n=n: rng.random((TRIALS, n), dtype=np.float32) is None,
            DRAWING[1]: lambda n=n: torch.rand(TRIALS, n, generator=g) is None,
            DRAWING[2]: lambda n=n: our_stream(TRIALS * n, seed) is None,
        }
        if turn <= 0.5:
            functions[STOPPING] = lambda n=n, turn=turn: stopping(n, turn, TRIALS)
        p = float(sector.probability(n, turn))
        error = math.sqrt(p * (1 - p) / TRIALS)

        def difference(results, peer, p=p, error=error):
            """Say how far both estimates are from the exact value."""
            if peer in DRAWING:
                return None
            off = [(results[name] / TRIALS - p) / error for name in ("ours", peer)]
            return f"{off[0]:+.1f} and {off[1]:+.1f} standard errors from the exact value"

        case = f"{TRIALS} trials, n = {n}, turn = {turn:.3g}"
        yield from rows(case, functions, rounds, threads, goals=GOALS, difference=difference)


def repeated(function, *arguments):
    """Return a call that is long enough to be timed."""

    def calls():
        for _ in range(CALLS):
            value = function(*arguments)
        return value

    return calls


def probabilities(threads, rounds, sizes):
    """Yield the rows of the rounded probabilities, where leaders are many."""
    for n in sizes:
        turn = (min(20, n / 2) / n) ** (1 / (n - 1))
        functions = {
            "ours": repeated(sector.probability, n, turn),
            "mpmath sum, 50 digits": repeated(mpmath_sum, n, turn, 50),
        }
        if n <= 100:  # the fractions grow
            functions["SymPy rational sum"] = repeated(sympy_sum, n, turn)
        with mpmath.workdps(200):
            truth = mpmath_sum(n, turn, 200)

        def difference(results, peer, truth=truth):
            """Say how far both values are from one with 200 digits."""
            off = [abs(results[name] / truth - 1) for name in ("ours", peer)]
            return f"relative errors {off[0]:.1g} and {off[1]:.1g}"

        case = f"{CALLS} probabilities, n = {n}, turn = {turn:.6g}"
        yield from rows(case, functions, rounds, threads, difference=difference)


def cases(rounds, threads, quick):
    """Yield the rows of the simulations and of the probabilities."""
    numba.set_num_threads(threads)
    yield from simulations(threads, rounds, CASES[::4] if quick else CASES)
    yield from probabilities(threads, rounds, [100] if quick else [10, 100, 1000, 10_000])


if __name__ == "__main__":
    main(__file__, __doc__, cases, {name: version(name) for name in ("numpy", "numba", "mpmath", "sympy")})
