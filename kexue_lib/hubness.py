"""Hubs in high dimension: ball volumes, exact neighbour counts, their limit law, and repairs.

The count ``N_k(i)`` says how many of the other points have point ``i`` among their ``k`` nearest
(def-k-occurrence). Its mean is ``k``; a point with far more is a *hub*, one with none an *antihub*.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import mpmath
import numpy as np
import torch
from scipy import special
from torch import Tensor

from kexue_lib.arguments import integer, one_of, real, refuse
from kexue_lib.compiled import compiled

#: Fourth moment of each coordinate law of `sample_coordinates`, all of mean 0 and variance 1.
KURTOSIS = {"sign": 1.0, "uniform": 9 / 5, "gaussian": 3.0, "laplace": 6.0}

_TILE, _EXTRA, _LONGEST = 512, 4, 256
_Array = np.ndarray[Any, Any]


# -- the ball ----------------------------------------------------------------------------------


def log_unit_ball_volume(dim: float | Tensor) -> float | Tensor:
    r"""Logarithm of the volume of the unit ball, ``log(pi^(d/2) / Gamma(d/2 + 1))`` (eq-volume).

    Accurate to a relative 1e-14 of the logarithm, also beside its two zeros (d = 0 and d = 12.76…),
    where subtracting two logarithms would lose digits and a Taylor series is used instead.

    Parameters
    ----------
    dim : float or tensor
        Dimension, any finite real number >= 0.

    Returns
    -------
    float or float64 tensor of the same shape, without a gradient.

    Raises
    ------
    ValueError
        If a dimension is negative or not finite.

    Examples
    --------
    >>> round(math.exp(log_unit_ball_volume(3)), 6)
    4.18879
    """
    if not isinstance(dim, Tensor):
        d = torch.tensor(real("dim", dim, 0), dtype=torch.float64)
        return float(_log_volume(d))
    if dim.dtype == torch.bool or dim.is_complex():
        raise refuse("dim", dim.dtype, "a real tensor")
    d = dim.detach().to(torch.float64)
    if d.numel() and not 0 <= float(d.min()) <= float(d.max()) < math.inf:
        raise refuse("dim", dim, "finite values >= 0")
    return _log_volume(d)


def _log_volume(d: Tensor) -> Tensor:
    values = _log_volumes(d.cpu().numpy().ravel(), *_volume_series())
    return torch.from_numpy(values).view(d.shape).to(d.device)


@compiled
def _log_volumes(dims, root, tail, near_root, near_zero):  # type: ignore[no-untyped-def]
    result = np.empty(dims.size)
    log_pi = math.log(math.pi)
    for i in range(dims.size):
        d = dims[i]
        half, offset = d / 2, (d - root) - tail
        if abs(offset) < 2:
            result[i] = _horner(near_root, offset)
        elif d < 0.5:
            result[i] = _horner(near_zero, d)
        elif d < 100:
            result[i] = half * log_pi - math.lgamma(half + 1)
        else:  # Stirling: here the first term left out is below 1e-15
            rest = (1 / 12 - (1 / 360 - 1 / (1260 * half**2)) / half**2) / half
            log_half = math.log(half)
            result[i] = half * (1 + log_pi - log_half) - (math.log(2.0) + log_pi + log_half) / 2 - rest
    return result


@compiled
def _horner(coefficients, x):  # type: ignore[no-untyped-def]
    value = 0.0
    for c in coefficients[::-1]:
        value = (value + c) * x  # no constant term: both expansions start at a zero of the logarithm
    return value


@cache
def _volume_series() -> tuple[float, float, _Array, _Array]:
    with mpmath.workdps(40):
        half_log_pi = mpmath.log(mpmath.pi) / 2
        root = mpmath.findroot(lambda d: half_log_pi * d - mpmath.loggamma(d / 2 + 1), mpmath.mpf("12.764"))

        def series(at: mpmath.mpf, terms: int) -> _Array:
            slopes = [-mpmath.psi(j - 1, at / 2 + 1) / mpmath.factorial(j) / 2**j for j in range(1, terms)]
            return np.array([float(c + (half_log_pi if j == 0 else 0)) for j, c in enumerate(slopes)])

        return float(root), float(root - mpmath.mpf(float(root))), series(root, 20), series(mpmath.mpf(0), 30)


# -- who is near whom --------------------------------------------------------------------------


def k_occurrence(points: Tensor, k: int) -> Tensor:
    """Count, for every point, how many others have it among their k nearest (def-k-occurrence).

    The counts are exact: they equal those of the float64 distances ``sum((x_i - x_j)**2)``, summed in
    the order of the coordinates, with ties broken by the smaller index. Most distances are only computed
    in float32; wherever a rigorous bound on the rounding error leaves a neighbour in doubt, float64
    decides. Memory is O(n k + n d). On a CPU `torch.get_num_threads` threads share the work.

    Parameters
    ----------
    points : tensor of shape (n, d), float32 or float64
    k : int
        Neighbours per point, 1 <= k <= n - 1; a point is not its own neighbour.

    Returns
    -------
    int64 tensor of shape (n,); its sum is ``n * k``.

    Raises
    ------
    ValueError
        If points have another type or rank, are empty or not finite, or k is out of range.
    """
    neighbours = nearest(points, k)
    return torch.bincount(neighbours.flatten(), minlength=points.shape[0])


def nearest(points: Tensor, k: int) -> Tensor:
    """Return the k nearest other points of every point, as a set: int64 (n, k), rows sorted by index.

    Parameters, exactness and errors are those of `k_occurrence`.
    """
    _check_points("points", points)
    n = points.shape[0]
    k = integer("k", k, 1, n - 1)
    x = points.detach().to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    x *= _power_of_two(x, 480)  # exact, and no sum of squares leaves the range of float64
    # Distances do not feel the centre, rounding does. A median stays with the crowd when one point is far.
    centred = x - x[:: -(-n // 100)].median(0).values
    centred *= _power_of_two(centred, 40)
    norms = centred.norm(dim=1)
    low = centred if _products_are_coarse(centred) else centred.float()
    by_tiles = points.device.type == "cpu" and k <= _LONGEST
    search = _candidates_cpu if by_tiles else _candidates
    best, index = search(low, (norms**2).float(), min(k + _EXTRA, n - 1))
    rows = _settle(x.cpu().numpy(), norms.cpu().numpy(), best.cpu().numpy(), index.cpu().numpy(), k)
    return torch.from_numpy(rows).to(points.device)


def _check_points(name: str, points: Tensor) -> None:
    if not isinstance(points, Tensor) or points.dtype not in (torch.float32, torch.float64):
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise refuse(name, kind, "a float32 or float64 tensor")
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] < 1:
        raise refuse(name, tuple(points.shape), "shape (n, d) with n >= 2 and d >= 1")
    if not all(math.isfinite(extreme) for extreme in torch.aminmax(points.detach())):
        raise refuse(name, "NaN or infinity", "finite coordinates")


def _power_of_two(x: Tensor, exponent: int) -> float:
    """Return the power of two that brings the largest absolute value just below ``2**exponent``."""
    largest = max(abs(float(extreme)) for extreme in torch.aminmax(x))
    return 2.0 ** min(exponent - math.frexp(largest)[1], 1000)


def _products_are_coarse(x: Tensor) -> bool:
    """Say whether float32 products keep fewer than 24 bits here and now (TF32, bfloat16, autocast)."""
    probe = torch.zeros_like(x[:_TILE], dtype=torch.float32)
    probe[:, 0] = torch.linspace(1, 2, len(probe), device=x.device)
    return not torch.equal(torch.mm(probe, probe.T), probe[:, :1] * probe[:, 0])


@contextmanager
def _workers(useful: int) -> Iterator[Callable[..., Any]]:
    """Lend `share(function, jobs)`: it calls the function on parts of the list, one in each thread."""
    allowed = torch.get_num_threads()
    threads = min(allowed, useful)
    if threads < 2:
        yield lambda function, jobs: function(jobs)
        return
    try:  # a worker sets torch to one thread for itself, but by that also for threads born later
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield lambda function, jobs: list(pool.map(function, [jobs[t::threads] for t in range(threads)]))
    finally:
        torch.set_num_threads(allowed)


def _candidates_cpu(x: Tensor, squares: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return the `keep` smallest float32 distances per row; each tile serves its rows and its columns.

    The blocks of points meet like the players of a tournament: nobody plays twice in a round, so that
    threads never write to the same rows, and in the end each has met each, itself included.
    """
    n = x.shape[0]
    blocks = -(-n // _TILE)
    best = np.full((n, keep), np.inf, np.float32)
    index = np.full((n, keep), -1, np.int32)

    def meet(pairs: list[tuple[int, int]]) -> None:
        memory = x.new_empty(_TILE**2)
        for a, b in pairs:
            rows, columns = x[a * _TILE : (a + 1) * _TILE], x[b * _TILE : (b + 1) * _TILE]
            tile = memory[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=tile)
            _push(tile.numpy(), a * _TILE, b * _TILE, squares.numpy(), best, index)

    with _workers(blocks // 2) as share:
        for game in range(blocks):
            share(meet, [(i, (game - i) % blocks) for i in range(blocks) if i <= (game - i) % blocks])
    return torch.from_numpy(best), torch.from_numpy(index)


def _candidates(x: Tensor, squares: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Do the same in plain torch, for any device: one block of rows against all points at a time."""
    best, index = [], []
    for rows in torch.split(torch.arange(x.shape[0], device=x.device), _TILE):
        block = torch.mm(x[rows], x.T).mul_(-2).add_(squares).add_(squares[rows, None])
        block[rows - rows[0], rows] = torch.inf
        values, where = block.topk(keep, largest=False)
        best.append(values.float())
        index.append(where.int())
    return torch.cat(best), torch.cat(index)


def _settle(x: _Array, norms: _Array, best: _Array, index: _Array, k: int) -> _Array:
    """Turn candidates into exact neighbours, rows sorted: float64 wherever rounding leaves a doubt."""
    n, keep = best.shape
    rivals = _rivals(norms, best, index, x.shape[1], k)
    rows = np.sort(index[:, :k].astype(np.int64))
    few = np.flatnonzero((k < rivals) & (rivals < keep))
    listed = np.sort(index[few])
    rows[few] = np.take_along_axis(listed, _smallest(_distances_to_some(x, few, listed), k), 1)
    many = np.flatnonzero((k < rivals) & (rivals == keep))  # perhaps also of points that were not kept
    columns = x.T.copy() if many.size else x.T

    def search(blocks: list[_Array]) -> None:
        for block in blocks:
            rows[block] = _smallest(_distances_to_all(columns, block), k)

    blocks = np.array_split(many, -(-many.size * n // 2**16) or 1)
    with _workers(len(blocks)) as share:
        share(search, blocks)
    return rows


def _rivals(norms: _Array, best: _Array, index: _Array, d: int, k: int) -> _Array:
    """Count in each row the candidates that rounding leaves in play; if k, they are the neighbours.

    Let S = |x_i| + |x_j| and u = 2**-24. Summed in any order, twice an inner product is wrong by at most
    d u / (1 - d u) S^2 / 2. Rounding the coordinates adds u S^2, rounding the squared norms u S^2, either
    addition u S^2. Four more u S^2 are ample for the squares of u and for all of float64, the last term of
    `error` for underflow, as the largest coordinate is near 2^40. So k points lie within `farthest`, the
    neighbours too; their norm is at most |x_i| + sqrt(farthest), their float32 distance at most `limit`.
    """
    u = 2.0**-24

    def error(s: _Array) -> _Array:
        return (d / 2 + 8) * u / max(1 - d * u, u) * s**2 + d * 2.0**-120

    own = norms[:, None]
    farthest = (best[:, :k] + error(own + norms[index[:, :k]])).max(1, keepdims=True)
    limit = farthest + 1.01 * error(2 * own + np.sqrt(farthest))
    return np.asarray(np.count_nonzero(best <= limit, axis=1))


def _smallest(distances: _Array, k: int) -> _Array:
    """Return where the k smallest of each row stand, in order of place; among equals the first."""
    kth = torch.from_numpy(distances).topk(k, largest=False).values.numpy()[:, -1:]
    nearer, level = distances < kth, distances == kth
    chosen = nearer | (level & (level.cumsum(1) <= k - nearer.sum(1, keepdims=True)))
    return np.asarray(np.flatnonzero(chosen).reshape(-1, k) % distances.shape[1])


@compiled
def _push(tile, row0, column0, squares, best, index):  # type: ignore[no-untyped-def]
    """Turn inner products into distances and insert all that beat their row's or their column's worst."""
    height, width = tile.shape
    last = best.shape[1] - 1
    of_columns = squares[column0 : column0 + width]
    worst = best[column0 : column0 + width, last].copy()
    marks = np.zeros(-(-width // 8) * 8, np.uint8)
    eights = marks.view(np.uint64)
    for r in range(height):
        i = row0 + r
        # Mark what matters without a branch, then look at the marks by eights: few are set.
        limit = best[i, last]
        for c in range(width):
            value = squares[i] + (of_columns[c] - (tile[r, c] + tile[r, c]))
            marks[c] = (value < limit) | (value < worst[c])
        if row0 == column0:
            marks[: r + 1] = 0  # each pair once, and nobody with itself
        for e in range(eights.size):
            if eights[e] != 0:
                for c in range(8 * e, min(8 * e + 8, width)):
                    value = squares[i] + (of_columns[c] - (tile[r, c] + tile[r, c]))
                    if marks[c] and value < best[i, last]:
                        _insert(best, index, i, value, column0 + c)
                    if marks[c] and value < worst[c]:
                        _insert(best, index, column0 + c, value, i)
                        worst[c] = best[column0 + c, last]


@compiled
def _insert(best, index, i, value, j):  # type: ignore[no-untyped-def]
    p = best.shape[1] - 1
    while p > 0 and best[i, p - 1] > value:
        best[i, p] = best[i, p - 1]
        index[i, p] = index[i, p - 1]
        p -= 1
    best[i, p] = value
    index[i, p] = j


@compiled
def _distances_to_some(x, queries, others):  # type: ignore[no-untyped-def]
    """Return the exact distances from each query to its own list of others."""
    result = np.empty(others.shape)
    for q in range(queries.size):
        for p in range(others.shape[1]):
            total = 0.0
            for c in range(x.shape[1]):
                total += (x[queries[q], c] - x[others[q, p], c]) ** 2
            result[q, p] = total
    return result


@compiled
def _distances_to_all(columns, queries):  # type: ignore[no-untyped-def]
    """Return the exact distances from each query to all points, to itself infinity: the same, but faster."""
    d, n = columns.shape
    result = np.zeros((queries.size, n))
    for q in range(queries.size):
        for c in range(d):
            own = columns[c, queries[q]]
            for j in range(n):
                result[q, j] += (columns[c, j] - own) ** 2
        result[q, queries[q]] = np.inf
    return result


def k_occurrence_of(dissimilarity: Tensor, k: int) -> Tensor:
    """Count k-occurrences from a full matrix; row j ranks the neighbours of point j.

    Parameters
    ----------
    dissimilarity : tensor of shape (n, n), floating point; smaller is nearer, the diagonal is ignored.
    k : int
        1 <= k <= n - 1.

    Returns
    -------
    int64 tensor of shape (n,), ties broken by the smaller index.
    """
    matrix = _check_matrix("dissimilarity", dissimilarity).clone()
    k = integer("k", k, 1, matrix.shape[0] - 1)
    matrix.fill_diagonal_(torch.inf)
    order = matrix.argsort(dim=1, stable=True)[:, :k]
    return torch.bincount(order.flatten(), minlength=matrix.shape[0])


def _check_matrix(name: str, matrix: Tensor) -> Tensor:
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        raise refuse(name, getattr(matrix, "dtype", type(matrix).__name__), "a floating-point tensor")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise refuse(name, tuple(matrix.shape), "shape (n, n) with n >= 2")
    if not bool(torch.isfinite(matrix).all()):
        raise refuse(name, "NaN or infinity", "finite entries")
    return matrix


def select_hubs(latents: Tensor, k: int, threshold: int) -> Tensor:
    """Return the indices of the hubs: points whose count is at least ``threshold``, ascending.

    This is the sampler of Liang et al. (ICML 2022). The post's text says "at least", its code "more than".

    Raises
    ------
    ValueError
        As `k_occurrence`, and if the threshold is not an integer from 0 to n - 1.
    """
    _check_points("latents", latents)
    threshold = integer("threshold", threshold, 0, latents.shape[0] - 1)
    return torch.nonzero(k_occurrence(latents, k) >= threshold).flatten()


def antihub_share(counts: Tensor) -> float:
    """Return the share of points that are nobody's neighbour.

    Raises
    ------
    ValueError
        If counts are not a non-empty tensor of integers.
    """
    return float((_check_counts(counts) == 0).double().mean())


def skewness(counts: Tensor) -> float:
    """Return the third standardised moment of the counts (biased low and noisy for heavy tails).

    Raises
    ------
    ValueError
        If counts are not a tensor of integers, or are all equal.
    """
    centred = _check_counts(counts).double() - counts.double().mean()
    variance = float((centred**2).mean())
    if variance == 0:
        raise refuse("counts", counts, "counts that are not all equal")
    return float((centred**3).mean() / variance**1.5)


def _check_counts(counts: Tensor) -> Tensor:
    integral = isinstance(counts, Tensor) and not (counts.is_floating_point() or counts.is_complex())
    if not integral or counts.numel() == 0:
        raise refuse("counts", counts, "a tensor of integers, at least one")
    return counts


# -- the law in high dimension -----------------------------------------------------------------


def radius_share(kurtosis: float) -> float:
    r"""Share of a distance's fluctuation that comes from the neighbour's own norm (eq-rho).

    ``rho = (kappa - 1) / (kappa + 3)`` for i.i.d. coordinates of fourth standardised moment kappa, from 1
    to 1e4: beyond, rho is 1 to three digits and the laws below would lose theirs.
    """
    kappa = real("kurtosis", kurtosis, 1, 1e4)
    return (kappa - 1) / (kappa + 3)


def limit_k_occurrence(n_points: int, k: int, kurtosis: float) -> Tensor:
    """Law of N_k as the dimension grows, with a frozen threshold: a mixture of binomials (eq-limit-law).

    Exact in the limit of many points with k / n_points fixed. For fixed k the threshold keeps
    fluctuating, however many points there are: see `limit_k_occurrence_fixed_k`.

    Parameters
    ----------
    n_points : int
        N >= 2.
    k : int
        1 <= k <= N - 1.
    kurtosis : float
        Fourth standardised moment of the coordinates, 1 to 1e4.

    Returns
    -------
    float64 tensor of shape (N,): probabilities of 0 … N - 1. They sum to 1 and have mean k.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n = integer("n_points", n_points, 2)
    k = integer("k", k, 1, n - 1)
    rho = radius_share(kurtosis)
    a, weight = _normal_nodes(n)
    t = torch.special.ndtri(torch.tensor(k / (n - 1), dtype=torch.float64))
    z = (t - math.sqrt(rho) * a) / math.sqrt(1 - rho)
    return _mixture_of_binomials(n, torch.special.log_ndtr(z), torch.special.log_ndtr(-z), weight)


def limit_k_occurrence_fixed_k(n_points: int, k: int, kurtosis: float) -> Tensor:
    """Law of N_k as the dimension grows, for fixed k and many points (eq-random-threshold).

    Parameters, result and errors are those of `limit_k_occurrence`.
    """
    n = integer("n_points", n_points, 2)
    k = integer("k", k, 1, n - 1)
    a, weight = _normal_nodes(n)
    return _mixture_of_binomials(n, *_log_naming_probabilities(a, n, k, kurtosis), weight)


def naming_probability(a: Tensor, n_points: int, k: int, kurtosis: float) -> Tensor:
    """Return the probability that a query names a point whose standardised norm is a (eq-random-threshold).

    The mean of ``Phi((T - sqrt(rho) a) / sqrt(1 - rho))`` over the k-th smallest T of the N - 2 other
    values, where ``Phi(T)`` has a beta law; its mean over a standard normal a is ``k / (N - 1)`` exactly.

    Parameters
    ----------
    a : float64 tensor of any shape
    n_points, k, kurtosis
        As for `limit_k_occurrence`; n_points up to 1e15.

    Returns
    -------
    float64 tensor of the shape of a.
    """
    n = integer("n_points", n_points, 2, 10**15)
    k = integer("k", k, 1, n - 1)
    if not isinstance(a, Tensor) or not a.is_floating_point():
        raise refuse("a", getattr(a, "dtype", type(a).__name__), "a floating-point tensor")
    return _log_naming_probabilities(a.double(), n, k, kurtosis)[0].exp()


def _log_naming_probabilities(a: Tensor, n: int, k: int, kurtosis: float) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the probability that a query names, and does not name, the point."""
    rho = radius_share(kurtosis)
    if k == n - 1:
        return torch.zeros_like(a), torch.full_like(a, -math.inf)
    # Quantiles of T, where U = Phi(T) has a beta law; the upper one from 1 - U, which rounding leaves alone.
    low, high = (special.ndtri(special.betaincinv(x, y, 1e-15)) for x, y in ((k, n - 1 - k), (n - 1 - k, k)))
    x, w = np.polynomial.legendre.leggauss(160)
    threshold = (low - high) / 2 - (low + high) / 2 * x
    # Density of T up to a factor that the normalisation removes.
    log_w = (k - 1) * special.log_ndtr(threshold) + (n - 2 - k) * special.log_ndtr(-threshold)
    log_w -= threshold**2 / 2
    w = w * np.exp(log_w - log_w.max())
    nodes, weights = torch.from_numpy(threshold), torch.from_numpy(w / w.sum())
    z = (nodes - math.sqrt(rho) * a[..., None]) / math.sqrt(1 - rho)
    # torch.special.ndtr loses the tail that matters here; erfc does not.
    named, passed = (torch.special.erfc(side / math.sqrt(2)) @ weights / 2 for side in (-z, z))
    return named.log(), passed.log()


def _normal_nodes(n: int) -> tuple[Tensor, Tensor]:
    """Trapezoid for a standard normal, fine enough for a binomial of n trials: it converges geometrically."""
    a = torch.linspace(-12, 12, 2 * max(1200, round(20 * math.sqrt(n))) + 1, dtype=torch.float64)
    weight = torch.exp(-(a**2) / 2)
    return a, weight / weight.sum()


def _mixture_of_binomials(n: int, log_p: Tensor, log_q: Tensor, weight: Tensor) -> Tensor:
    law = torch.empty(n, dtype=torch.float64)
    for start in range(0, n, 512):
        m = torch.arange(start, min(start + 512, n), dtype=torch.float64)[:, None]
        choose = math.lgamma(n) - torch.lgamma(m + 1) - torch.lgamma(n - m)
        log_terms = choose + _times(m, log_p) + _times(n - 1 - m, log_q)
        law[start : start + 512] = torch.exp(log_terms) @ weight
    return law


def _times(count: Tensor, log_probability: Tensor) -> Tensor:
    """Multiply, with 0 times minus infinity equal to 0: what cannot happen is not asked to."""
    return torch.where(count == 0, torch.zeros_like(log_probability), count * log_probability)


def simulate_ranking_model(
    n_points: int, k: int, kurtosis: float, trials: int, *, generator: torch.Generator
) -> Tensor:
    """Draw counts from the limit of geometry in high dimension (def-ranking-model).

    Query j ranks the others by ``sqrt(rho) a_i + sqrt(1 - rho) g_ij`` with standard normal a and g, all
    independent but ``g_ij = g_ji``: an inner product does not know who asks.

    Returns
    -------
    int64 tensor of shape (trials, n_points).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n = integer("n_points", n_points, 2)
    k = integer("k", k, 1, n - 1)
    rho = radius_share(kurtosis)
    counts = torch.empty(integer("trials", trials, 1), n, dtype=torch.int64)
    _check_generator(generator)
    for row in counts:
        a = torch.randn(n, generator=generator)
        g = torch.randn(n, n, generator=generator).triu(1)
        ranks = math.sqrt(rho) * a + math.sqrt(1 - rho) * (g + g.T)
        named = ranks.fill_diagonal_(torch.inf).topk(k, largest=False).indices
        row.copy_(torch.bincount(named.flatten(), minlength=n))
    return counts


def _check_generator(generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator):
        raise refuse("generator", generator, "a torch.Generator, not one that all code shares")


def sample_coordinates(
    n_points: int,
    dim: int,
    law: str,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw points with i.i.d. coordinates of mean 0 and variance 1, on the generator's device.

    Parameters
    ----------
    law : {"sign", "uniform", "gaussian", "laplace"}
        Coordinate law; its fourth moment is in `KURTOSIS`.

    Returns
    -------
    tensor of shape (n_points, dim).
    """
    shape = (integer("n_points", n_points, 1), integer("dim", dim, 1))
    if law not in KURTOSIS:
        raise refuse("law", law, one_of(law, KURTOSIS))
    if dtype not in (torch.float32, torch.float64):
        raise refuse("dtype", dtype, "torch.float32 or torch.float64")
    _check_generator(generator)
    if law == "gaussian":
        return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
    u = torch.rand(shape, generator=generator, dtype=dtype, device=generator.device) * 2 - 1
    if law == "uniform":
        return u * math.sqrt(3)
    if law == "sign":
        return torch.where(u < 0, -1.0, 1.0).to(dtype)
    return -torch.sign(u) * torch.log1p(-u.abs().clamp(max=1 - 2**-24)) / math.sqrt(2)


# -- repairs -----------------------------------------------------------------------------------


def centre(points: Tensor) -> Tensor:
    """Subtract the mean, so that no direction is everybody's friend (Suzuki et al., EMNLP 2013).

    Raises
    ------
    ValueError
        If points are not as in `k_occurrence`.
    """
    _check_points("points", points)
    return points - points.mean(0)


def local_scaling(distances: Tensor, k: int) -> Tensor:
    """Measure each distance in units of both points' own k-th neighbour (Zelnik-Manor & Perona, 2004).

    ``1 - exp(-d_ij^2 / (s_i s_j))`` with ``s_i`` the distance from i to its k-th neighbour; (n, n).

    Raises
    ------
    ValueError
        If distances are not a square matrix of finite numbers >= 0, k is not from 1 to n - 1, or a point
        has k others in its very place, so that it has no scale.
    """
    d = _check_distances(distances)
    k = integer("k", k, 1, d.shape[0] - 1)
    s = d.clone().fill_diagonal_(torch.inf).kthvalue(k, dim=1).values
    if not bool((s > 0).all()):
        raise refuse("k", k, "more neighbours than any point has duplicates")
    return -torch.expm1(-(d / s[:, None]) * (d / s[None, :]))


def mutual_proximity(distances: Tensor) -> Tensor:
    """Share of points that are *not* farther from both i and j (Schnitzer et al., JMLR 13, 2012); (n, n).

    Raises
    ------
    ValueError
        If distances are not a square matrix of finite numbers >= 0.
    """
    d = _check_distances(distances)
    rows = [((d[i] > d[i, :, None]) & (d > d[i, :, None])).double().mean(1) for i in range(d.shape[0])]
    return 1 - torch.stack(rows)


def _check_distances(distances: Tensor) -> Tensor:
    d = _check_matrix("distances", distances)
    if bool((d < 0).any()):
        raise refuse("distances", float(d.min()), "numbers >= 0")
    return d


def csls(similarities: Tensor, k: int) -> Tensor:
    """Cross-domain similarity local scaling, queries by candidates (Conneau et al., ICLR 2018).

    ``2 s_ij - r_i - r_j`` with r the mean similarity to the k most similar on the other side; (m, n).

    Raises
    ------
    ValueError
        If similarities are not a matrix of finite numbers, or k is not from 1 to min(m, n).
    """
    sound = isinstance(similarities, Tensor) and similarities.is_floating_point() and similarities.ndim == 2
    if not sound or not similarities.numel() or not bool(torch.isfinite(similarities).all()):
        raise refuse("similarities", similarities, "a matrix of finite floating-point numbers")
    k = integer("k", k, 1, min(similarities.shape))
    r_rows = similarities.topk(k, dim=1).values.mean(1)
    r_columns = similarities.topk(k, dim=0).values.mean(0)
    return 2 * similarities - r_rows[:, None] - r_columns[None, :]
