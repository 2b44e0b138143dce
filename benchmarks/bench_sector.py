"""Time the sector's simulation and its exact and rounded probabilities beside their peers.

Without `--threads` the program starts itself once for one thread and once for two, each time in a process
of its own; every peer then runs in that same process, in turn with us. One file per number of threads.
"""

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import mpmath
import numba
import numpy as np
import sympy
import torch
from bench_hubness import CORES, RULE, measure, processor

from kexue_lib import sector

CASES = [(3, 1 / 3), (6, 1 / 3), (10, 1 / 3), (20, 1 / 3), (20, 0.8)]
TRIALS, BLOCKS, CALLS = 2**19, 64, 10
GOALS = {"numba over np.random": "1.6 times faster", "drawing": "at most 4 times slower"}


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


def rows_of(case, times, disturbed, differences):
    ours = times.pop("ours")
    for peer, theirs in times.items():
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        yield {
            "case": case,
            "ours_s": round(statistics.median(ours), 5),
            "peer": peer,
            "peer_s": round(statistics.median(theirs), 5),
            "ratio": [round(r, 2) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "difference": differences(peer),
            "goal": next((goal for start, goal in GOALS.items() if peer.startswith(start)), ""),
        } | disturbed


def simulations(threads, rounds, cases):
    """Yield the rows of the simulations."""
    plain, stopping = loops(threads > 1)
    g, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    seed = np.arange(1, 5, dtype=np.uint64)
    for n, turn in cases:
        functions = {
            "ours": lambda n=n, turn=turn: sector.simulate(n, turn, TRIALS, generator=g).value * TRIALS,
            "numba over np.random": lambda n=n, turn=turn: plain(n, turn, TRIALS),
            "numpy sort": lambda n=n, turn=turn: numpy_sort(n, turn, rng),
            "torch sort": lambda n=n, turn=turn: torch_sort(n, turn, g),
            "drawing: numpy float32": lambda n=n: rng.random((TRIALS, n), dtype=np.float32) is None,
            "drawing: torch.rand": lambda n=n: torch.rand(TRIALS, n, generator=g) is None,
            "drawing: our stream": lambda n=n: our_stream(TRIALS * n, seed) is None,
        }
        if turn <= 0.5:
            functions["numba over np.random, our way"] = lambda n=n, turn=turn: stopping(n, turn, TRIALS)
        for function in functions.values():
            function()
        times, results, disturbed = measure(functions, rounds, threads)
        p = float(sector.probability(n, turn))
        error = math.sqrt(p * (1 - p) / TRIALS)
        off = {k: (v / TRIALS - p) / error for k, v in results.items() if "drawing" not in k}

        def differences(peer, off=off):
            """Say how far both estimates are from the exact value."""
            if peer not in off:
                return None
            return f"{off['ours']:+.1f} and {off[peer]:+.1f} standard errors from the exact value"

        yield from rows_of(f"{TRIALS} trials, n = {n}, turn = {turn:.3g}", times, disturbed, differences)


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
        for function in functions.values():
            function()
        times, results, disturbed = measure(functions, rounds, threads)
        with mpmath.workdps(200):
            truth = mpmath_sum(n, turn, 200)
        off = {name: abs(value / truth - 1) for name, value in results.items()}

        def differences(peer, off=off):
            """Say how far both values are from one with 200 digits."""
            return f"relative errors {off['ours']:.1g} and {off[peer]:.1g}"

        yield from rows_of(
            f"{CALLS} probabilities, n = {n}, turn = {turn:.6g}", times, disturbed, differences
        )


def run(threads, options):
    """Measure all cases in this process."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    load = [round(os.getloadavg()[0], 2)]
    quick = options.quick
    rows = [
        *simulations(threads, options.rounds, CASES[::4] if quick else CASES),
        *probabilities(threads, options.rounds, [100] if quick else [10, 100, 1000, 10_000]),
    ]
    return {
        "benchmark": f"sector, {threads} thread{'s' * (threads > 1)}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": CORES, "threads used": threads},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "numba": numba.__version__,
            "mpmath": mpmath.__version__,
            "sympy": sympy.__version__,
        },
        "command": "python benchmarks/bench_sector.py " + " ".join(sys.argv[1:]),
        "rule": f"{options.rounds} rounds: {RULE}",
        "load before and after": [*load, round(os.getloadavg()[0], 2)],
        "rows": rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="left out: first 1, then 2")
    parser.add_argument("--quick", action="store_true", help="few cases, nothing written")
    options = parser.parse_args()
    if options.threads is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        for threads in (1, 2):
            if allowed:  # one thread stays on one core
                os.sched_setaffinity(0, sorted(allowed)[-threads:])
            env = os.environ | {"OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, __file__, *sys.argv[1:], "--threads", str(threads)]
            subprocess.run(command, env=env, check=True)
        return
    report = run(options.threads, options)
    print(f"-- {report['benchmark']}, load {report['load before and after']}")
    for row in report["rows"]:
        low, middle, high = row["ratio"]
        speed = f"{middle:6.2f} ({low:.2f} to {high:.2f})"
        print(f"{row['case']:42} {row['peer']:32} {row['ours_s']:9.5f} s {speed:26} {row['difference']}")
    if not options.quick:
        target = Path(__file__).parent.parent / "results" / f"bench_sector_{options.threads}.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
