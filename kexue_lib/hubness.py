"""Hubs in high dimension: ball volumes, exact neighbour counts, their limit law, and repairs.

The count ``N_k(i)`` says how many of the other points have point ``i`` among their ``k`` nearest
(def-k-occurrence). Its mean is ``k``; a point with far more is a *hub*, one with none an *antihub*.
"""

import math
from functools import cache

import mpmath
import numba
import numpy as np
import torch
from scipy import special
from torch import Tensor

from kexue_lib.arguments import integer, one_of, real, refuse

#: Fourth moment of each coordinate law of `sample_coordinates`, all of mean 0 and variance 1.
KURTOSIS = {"sign": 1.0, "uniform": 9 / 5, "gaussian": 3.0, "laplace": 6.0}

_TILE, _EXTRA = 512, 4


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
    float or float64 tensor of the same shape.

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
    d = dim.to(torch.float64)
    if not bool((torch.isfinite(d) & (d >= 0)).all()):
        raise refuse("dim", dim, "finite values >= 0")
    return _log_volume(d)


def _log_volume(d: Tensor) -> Tensor:
    root, tail, near_root, near_zero = _volume_series()
    value = d / 2 * math.log(math.pi) - torch.lgamma(d / 2 + 1)
    offset = (d - root) - tail
    for here, coefficients, x in ((offset.abs() < 1.5, near_root, offset), (d < 0.5, near_zero, d)):
        if bool(here.any()):
            value[here] = _horner(coefficients, x[here])
    return value


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.zeros_like(x)
    for c in reversed(coefficients):
        value = (value + c) * x  # no constant term: both expansions start at a zero of the logarithm
    return value


@cache
def _volume_series() -> tuple[float, float, tuple[float, ...], tuple[float, ...]]:
    with mpmath.workdps(40):
        half_log_pi = mpmath.log(mpmath.pi) / 2
        root = mpmath.findroot(lambda d: half_log_pi * d - mpmath.loggamma(d / 2 + 1), mpmath.mpf("12.764"))

        def series(at: mpmath.mpf, terms: int) -> tuple[float, ...]:
            slopes = [-mpmath.psi(j - 1, at / 2 + 1) / mpmath.factorial(j) / 2**j for j in range(1, terms)]
            return tuple(float(c + (half_log_pi if j == 0 else 0)) for j, c in enumerate(slopes))

        return float(root), float(root - mpmath.mpf(float(root))), series(root, 20), series(mpmath.mpf(0), 30)


# -- who is near whom --------------------------------------------------------------------------


def k_occurrence(points: Tensor, k: int) -> Tensor:
    """Count, for every point, how many others have it among their k nearest (def-k-occurrence).

    The counts are exact: they equal those of the float64 distances ``sum((x_i - x_j)**2)`` with ties
    broken by the smaller index. Most distances are only computed in float32; wherever a rigorous bound
    on the rounding error leaves a neighbour in doubt, float64 decides. Memory is O(n k + n d).

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
    n, d = points.shape
    k = integer("k", k, 1, n - 1)
    largest = float(points.abs().amax())
    scale = 2.0 ** -math.frexp(largest)[1] if largest else 1.0
    x = points.to(torch.float64) * scale  # a power of two: exact, and keeps squares in range
    centred = x - x.mean(0)
    norms = centred.norm(dim=1)
    # |fl(x.y) - x.y| <= d u |x||y| in any order of summation, and a few roundings besides.
    margin = 1.01 * (d / 2 + 8) * 2.0**-24 * (norms + norms.max()) ** 2 + 1e-30
    low = centred.to(torch.float32)
    keep = min(k + _EXTRA, n - 1)
    found = _candidates_cpu(low, keep) if points.device.type == "cpu" else _candidates(low, keep)
    distances, indices = (t.cpu().numpy() for t in found)
    rows = _settle(x.cpu().numpy(), distances, indices, margin.cpu().numpy(), k)
    return torch.from_numpy(rows).to(points.device)


def _check_points(name: str, points: Tensor) -> None:
    if not isinstance(points, Tensor) or points.dtype not in (torch.float32, torch.float64):
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise refuse(name, kind, "a float32 or float64 tensor")
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] < 1:
        raise refuse(name, tuple(points.shape), "shape (n, d) with n >= 2 and d >= 1")
    if not bool(torch.isfinite(points).all()):
        raise refuse(name, "NaN or infinity", "finite coordinates")


def _candidates_cpu(x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return the `keep` smallest float32 distances per row; each tile serves its rows and its columns."""
    n = x.shape[0]
    squares = (x.double() ** 2).sum(1).float()
    best = np.full((n, keep), np.inf, np.float32)
    index = np.full((n, keep), -1, np.int64)
    for a in range(0, n, _TILE):
        rows = x[a : a + _TILE]
        for b in range(a, n, _TILE):
            columns = x[b : b + _TILE]
            tile = torch.addmm(squares[a : a + _TILE, None], rows, columns.T, alpha=-2)
            tile += squares[b : b + _TILE]
            _push(tile.numpy(), a, b, best, index)
    return torch.from_numpy(best), torch.from_numpy(index)


def _candidates(x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Do the same in plain torch, for any device: one block of rows against all points at a time."""
    n = x.shape[0]
    squares = (x.double() ** 2).sum(1).float()
    best, index = [], []
    for a in range(0, n, _TILE):
        rows = x[a : a + _TILE]
        block = torch.addmm(squares[None], rows, x.T, alpha=-2) + squares[a : a + _TILE, None]
        own = torch.arange(rows.shape[0], device=x.device)
        block[own, own + a] = torch.inf
        values, where = block.topk(keep, largest=False)
        best.append(values)
        index.append(where)
    return torch.cat(best), torch.cat(index)


@numba.njit(cache=True, nogil=True)
def _push(tile, row0, column0, best, index):  # type: ignore[no-untyped-def]
    """Insert every entry that beats its row's (or column's) current worst candidate."""
    last = best.shape[1] - 1
    diagonal = row0 == column0
    for r in range(tile.shape[0]):
        i = row0 + r
        worst = best[i, last]
        for c in range(tile.shape[1]):
            value = tile[r, c]
            j = column0 + c
            if value < worst and i != j:
                p = last
                while p > 0 and best[i, p - 1] > value:
                    best[i, p] = best[i, p - 1]
                    index[i, p] = index[i, p - 1]
                    p -= 1
                best[i, p] = value
                index[i, p] = j
                worst = best[i, last]
            if not diagonal and value < best[j, last]:
                p = last
                while p > 0 and best[j, p - 1] > value:
                    best[j, p] = best[j, p - 1]
                    index[j, p] = index[j, p - 1]
                    p -= 1
                best[j, p] = value
                index[j, p] = i


@numba.njit(cache=True)
def _distance(x, i, j):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(x.shape[1]):
        total += (x[i, c] - x[j, c]) ** 2
    return total


@numba.njit(cache=True)
def _settle(x, distances, indices, margin, k):  # type: ignore[no-untyped-def]
    """Turn candidates into exact neighbours: float64 wherever the margin leaves a doubt."""
    n, keep = distances.shape
    result = np.empty((n, k), np.int64)
    for i in range(n):
        limit = distances[i, k - 1] + 2 * margin[i]
        if k < keep and distances[i, k] > limit:
            result[i] = np.sort(indices[i, :k])
            continue
        if keep < n - 1 and distances[i, keep - 1] <= limit:  # more rivals than were kept
            rivals = np.empty(n - 1, np.int64)
            rivals[:i] = np.arange(i)
            rivals[i:] = np.arange(i + 1, n)
        else:
            rivals = np.sort(indices[i])
        exact = np.empty(rivals.size)
        for r in range(rivals.size):
            exact[r] = _distance(x, i, rivals[r])
        order = np.argsort(exact, kind="mergesort")  # stable: equal distances stay in order of index
        result[i] = np.sort(rivals[order[:k]])
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
