"""Time the exact counts of dominated colourings beside their peers, every result compared.

One thread; a peer that cannot do a case is left out.
"""

from functools import partial
from importlib.metadata import version
from itertools import combinations, product

import numpy as np
import sympy
from common import main, rows
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


def counted():
    """Yield each case with our function and those of its peers."""
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


def difference(results, peer):
    """Say whether the results are the same."""
    return "the same" if results[peer] == results["ours"] else "another result"


def cases(rounds, threads, quick):
    """Yield the rows of all cases."""
    for case, ours, peers in counted():
        functions = {"ours": ours, **peers}
        yield from rows(case, functions, 1 if quick else rounds, threads, difference=difference)


if __name__ == "__main__":
    peers = {name: version(name) for name in ("numba", "numpy", "sympy", "PySDD")}
    main(__file__, __doc__, cases, peers, threads=(1,))
