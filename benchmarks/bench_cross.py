"""Time the exact counts of dominated colourings beside their peers, every result compared.

One process, one thread; all take their turn in every round. A peer that cannot do a case is left out.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
from functools import partial
from itertools import combinations, product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries start their threads

import numba
import numpy as np
import pysdd
import sympy
from bench_hubness import CORES, RULE, measure, processor
from pysdd.sdd import SddManager

from kexue_lib import cross


def decision_diagram(figure, colours, rule):
    manager = SddManager(var_count=len(figure.segments) * colours, auto_gc_and_minimize=False)
    formula = manager.true()
    # In the order of their last variable: the diagrams stay small.
    for clause in sorted(cross.clauses(figure, colours, rule), key=lambda clause: max(map(abs, clause))):
        either = manager.false()
        for literal in clause:
            either |= manager.literal(literal)
        formula &= either
    return manager.global_model_count(formula)


def numpy_enumeration(figure, colours, rule):
    """Look at all colourings, 2**18 at a time, as columns of int8."""
    groups = {"free": (), "neighbours": figure.neighbours, "bars": figure.bars}[rule]
    n, total = len(figure.segments), 0
    for start in range(0, colours**n, 2**18):
        code = np.arange(start, min(start + 2**18, colours**n))
        digits = np.empty((n, len(code)), np.int8)
        for i in range(n):
            code, digits[i] = np.divmod(code, colours)
        sound, dominants = np.ones(len(code), bool), []
        for four in figure.sides:
            equal, dominant = np.zeros(len(code), np.int8), np.zeros(len(code), np.int8)
            for a, b in combinations(four, 2):
                same = digits[a] == digits[b]
                equal += same
                dominant[same] = digits[a][same]
            sound &= equal == 1
            dominants.append(dominant)
        for i, j in {pair for group in groups for pair in combinations(group, 2)}:
            sound &= dominants[i] != dominants[j]
        total += int(sound.sum())
    return total


def tensor_network(figure, colours, rule):
    """Contract one tensor for each square and one for each pair; int64, so right below 2**63 only."""
    groups = {"free": (), "neighbours": figure.neighbours, "bars": figure.bars}[rule]
    square = np.zeros((colours,) * 5, np.int64)
    for four in product(range(colours), repeat=4):
        if sorted(four.count(k) for k in set(four)) == [1, 1, 2]:
            square[(*four, max(four, key=four.count))] = 1
    n, operands = len(figure.segments), []
    for i, four in enumerate(figure.sides):
        operands += [square, [*four, n + i]] if groups else [square.sum(-1), [*four]]
    for i, j in {pair for group in groups for pair in combinations(group, 2)}:
        operands += [1 - np.eye(colours, dtype=np.int64), [n + i, n + j]]
    return int(np.einsum(*operands, [], optimize="greedy"))


def matrix_powers(length):
    """Multiply the transfer matrix of the ladder with Python integers; made for ladders alone."""
    transfer = np.array([[4, 4], [2, 5]], object)
    return int(np.array([18, 18], object) @ np.linalg.matrix_power(transfer, length - 1).sum(0))


def interpolated(figure, rule):
    degree = len(figure.segments)
    values = [(q, cross.count(figure, q, rule)) for q in range(1, degree + 2)]
    return sympy.Poly(sympy.interpolate(values, sympy.Symbol("q")), sympy.Symbol("q"))


def cases():
    plus, ring = cross.plus(), cross.figure(sorted(set(product(range(3), repeat=2)) - {(1, 1)}))
    every = {"PySDD 1.0": decision_diagram, "numpy einsum": tensor_network}
    for name, figure, rule in (
        ("plus, bars", plus, "bars"),
        ("block of 2 x 2, neighbours", cross.block(2, 2), "neighbours"),
        ("ring of 8, free", ring, "free"),
        ("block of 4 x 4, free", cross.block(4, 4), "free"),
    ):
        peers = every if len(figure.squares) < 6 else {"numpy einsum": tensor_network}
        yield (
            f"count, {name}",
            partial(cross.count, figure, 3, rule),
            {k: partial(f, figure, 3, rule) for k, f in peers.items()},
        )
    yield (
        "look at all 3^16 of the plus",
        partial(cross.brute_force, plus, 3, "bars"),
        {"numpy, in chunks": partial(numpy_enumeration, plus, 3, "bars")},
    )
    yield (
        "count, ladder of 1000, neighbours",
        partial(cross.count, cross.row(1000), 3, "neighbours"),
        {"numpy matrix power": partial(matrix_powers, 1000)},
    )
    yield (
        "polynomial of the plus, bars",
        partial(cross.count_polynomial, plus, "bars"),
        {"17 counts and sympy interpolate": partial(interpolated, plus, "bars")},
    )


def rows_of(case, times, results, disturbed):
    ours = times.pop("ours")
    for peer, theirs in times.items():
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        yield {
            "case": case,
            "ours_s": round(statistics.median(ours), 6),
            "peer": peer,
            "peer_s": round(statistics.median(theirs), 6),
            "ratio": [round(r, 4) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "differing_counts": int(results[peer] != results["ours"]),
            "goal": "",
        } | disturbed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, nothing written")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # one thread stays on one core
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    cross.brute_force(cross.row(1), 3, "free")  # compiled once, then kept on disk
    load = [round(os.getloadavg()[0], 2)]
    rows = []
    for case, ours, peers in cases():
        functions = {"ours": ours, **peers}
        times, results, disturbed = measure(functions, 1 if options.quick else options.rounds, 1)
        rows += rows_of(case, times, results, disturbed)
        for row in rows[-len(peers) :]:
            low, middle, high = row["ratio"]
            print(
                f"{case:36} {row['ours_s']:9.4f} s {row['peer']:32} {middle:9.3f} ({low:.3f} to {high:.3f})"
                f" differing {row['differing_counts']}",
                flush=True,
            )
    report = {
        "benchmark": "cross, 1 thread",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": CORES, "threads used": 1},
        "versions": {
            "python": platform.python_version(),
            "numba": numba.__version__,
            "numpy": np.__version__,
            "sympy": sympy.__version__,
            "PySDD": pysdd.__version__,
        },
        "command": f"python benchmarks/bench_cross.py --rounds {options.rounds}",
        "rule": f"{options.rounds} rounds: {RULE}",
        "load before and after": [*load, round(os.getloadavg()[0], 2)],
        "rows": rows,
    }
    if not options.quick:
        target = Path(__file__).parent.parent / "results" / "bench_cross_1.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
