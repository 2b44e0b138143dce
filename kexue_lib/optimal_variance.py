r"""The best variance for a reverse step of diffusion, how to estimate it, and what another one costs.

A step from :math:`x_t` to :math:`x_{t-1}` has the mean ``keep * x_t + pull * E[x_0|x_t]`` and the covariance
``variance * I + pull**2 * Cov(x_0|x_t)`` (eq-optimal-total): exactly, whatever the data are. Here are the
posterior variance :math:`\bar\sigma_t^2` of the data per coordinate, from exact laws or from a noise model,
the cost of steps that are too bold or too shy, and samplers that take any variance.

Tables are float64 and begin with t = 1, as those of `kexue_lib.ddpm`; costs are in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from kexue_lib.arguments import integer, one_of, real, refuse, returned
from kexue_lib.compiled import compiled
from kexue_lib.ddpm import Model, Schedule, ddim_step, diffuse, small_variance

Variance = Tensor | Callable[[Tensor, Tensor, float, float], Tensor]


# -- the posterior variance of the data --------------------------------------------------------


def two_point_posterior_variance(snr: float | Tensor) -> Tensor:
    r"""Return :math:`\operatorname{Var}(x_0|x_t)` on average if x_0 is +1 or -1, with equal chances.

    With s = snr it is (eq-optimal-two-point)

    .. math::

        \mathbb{E}[1-\tanh^2(s+\sqrt s\,z)] = e^{-s/2}\,\mathbb{E}[1/\cosh(\sqrt s\,z)],

    here by the trapezoidal rule, whose error is below 1e-13. Below the smallest float (from snr of about 1400
    on) it is 0.
    """
    snr = torch.as_tensor(snr, dtype=torch.float64)
    if not bool(((snr >= 0) & snr.isfinite()).all()):
        raise refuse("snr", snr, "finite numbers >= 0")
    # The integrand is analytic in a strip around the line, so that even steps are enough.
    root = snr.sqrt()[..., None]
    step = torch.where(root > 0.5, 0.2 / root.clamp_min(0.5), 0.4)
    z = step * torch.arange(-230, 231, dtype=torch.float64, device=snr.device)
    heights = torch.exp(-(z**2) / 2) / torch.cosh((root * z).clamp(-300, 300))
    return torch.exp(-snr / 2) * (step[..., 0] * heights.sum(-1)) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Estimate:
    """A posterior variance as it was measured (`raw`), and moved to where it can lie (`value`)."""

    value: Tensor
    raw: Tensor

    @property
    def clipped(self) -> Tensor:
        """Return where value is not raw, a mask."""
        return self.value != self.raw


def _clipped(raw: Tensor, ratio: Tensor, bound: float) -> Estimate:
    most = ratio if bound == math.inf else ratio.clamp_max(real("bound", bound, 0))
    return Estimate(torch.minimum(raw.clamp_min(0), most), raw)


def _ratio(signal: float | Tensor, noise: float | Tensor, like: Tensor) -> Tensor:
    """Return (noise / signal)**2, with a column for the coordinates if `like` has them."""
    signal, noise = (
        torch.as_tensor(level, dtype=torch.float64, device=like.device) for level in (signal, noise)
    )
    for name, level in (("signal", signal), ("noise", noise)):
        if not bool((level.isfinite() & (level > 0)).all()):
            raise refuse(name, level, "positive numbers")
    ratio = (noise / signal) ** 2
    if ratio.ndim and ratio.ndim < like.ndim:
        ratio = ratio[:, None]
    if ratio.ndim > like.ndim or (ratio.ndim and like.shape[0] != len(ratio)):
        raise refuse(
            "shape of signal and noise", tuple(ratio.shape), f"one number or {tuple(like.shape[:1])}"
        )
    return ratio


def posterior_variance_from_noise(
    eps_second_moment: float | Tensor,
    signal: float | Tensor,
    noise: float | Tensor,
    *,
    bound: float = math.inf,
    standard_error: float | Tensor = 0.0,
) -> Estimate:
    r"""Return :math:`\frac{\bar\beta_t^2}{\bar\alpha_t^2}(1-\mathbb{E}[\epsilon^2])` (eq-optimal-noise).

    A small difference for little noise: a noisy estimate may be negative. It is moved to between 0 and
    ``(noise / signal)**2`` (or the bound, if that is less), and `Estimate` tells where.

    Parameters
    ----------
    eps_second_moment : number, tensor (T,) or (T, d)
        Of the best guess of the noise: per coordinate on average, or of each.
    signal, noise : numbers or tensors (T,), positive
    bound : float
        What the variance of the data cannot exceed: ``((b - a) / 2)**2`` for data from a to b.
    standard_error : number or tensor
        Of the second moment, which may exceed 1 by six of them.

    Raises
    ------
    ValueError
        If a second moment is negative or exceeds 1 by more, or something is not finite.
    """
    moment = torch.as_tensor(eps_second_moment, dtype=torch.float64)
    error = torch.as_tensor(standard_error, dtype=torch.float64, device=moment.device)
    if not bool((error.isfinite() & (error >= 0)).all()):
        raise refuse("standard_error", error, "finite numbers >= 0")
    if error.ndim and error.ndim < moment.ndim:
        error = error[:, None]
    good = (moment >= 0) & (moment <= 1 + 6 * error)
    if not bool(good.all()):
        wrong = float(moment[~good].reshape(-1)[0])
        raise refuse("eps_second_moment", wrong, "from 0 to 1 (and up to six standard errors above)")
    ratio = _ratio(signal, noise, moment)
    return _clipped(ratio * (1 - moment), ratio.expand_as(moment), bound)


def posterior_variance_from_means(
    data_spread: float | Tensor,
    guess_spread: float | Tensor,
    signal: float | Tensor,
    noise: float | Tensor,
    *,
    bound: float = math.inf,
) -> Estimate:
    r"""Return the spread of the data less that of the best guesses of them (eq-optimal-means).

    Parameters
    ----------
    data_spread : number
        Squared distance of the data from any constant, per coordinate, on average.
    guess_spread : number or tensor (T,)
        The same of the best guesses of the data.
    signal, noise, bound : as for `posterior_variance_from_noise`
    """
    guessed = torch.as_tensor(guess_spread, dtype=torch.float64)
    spread = torch.as_tensor(data_spread, dtype=torch.float64, device=guessed.device)
    for name, value in (("data_spread", spread), ("guess_spread", guessed)):
        if not bool((value.isfinite() & (value >= 0)).all()):
            raise refuse(name, value, "finite numbers >= 0")
    return _clipped(spread - guessed, _ratio(signal, noise, guessed).expand_as(guessed), bound)


@dataclass(frozen=True)
class NoiseStatistics:
    """What `noise_statistics` measured at the levels t = 1..T.

    Parameters
    ----------
    second_moment : tensor (T, d)
        Mean of the guess of the noise, squared, for each coordinate; its average has `second_moment_error`.
    squared_error : tensor (T, d)
        Mean of (noise - guess)**2; its average has `squared_error_error`.
    guess_spread : tensor (T,)
        Squared distance per coordinate of the guessed data from the mean of the data.
    data_spread : tensor ()
        The same of the data.
    second_moment_error, squared_error_error, guess_spread_error : tensors (T,)
        Standard errors, from as many independent examples as there are data.
    """

    second_moment: Tensor
    squared_error: Tensor
    guess_spread: Tensor
    data_spread: Tensor
    second_moment_error: Tensor
    squared_error_error: Tensor
    guess_spread_error: Tensor


def noise_statistics(
    model: Model, schedule: Schedule, x0: Tensor, *, generator: Generator, batch: int | None = None
) -> NoiseStatistics:
    """Noise all data once at every level, and measure what the model guesses.

    The memory needed depends on the batch, not on the number of data or levels; sums are float64.

    Parameters
    ----------
    model : function ``model(x, signal, noise)``
    schedule : Schedule
    x0 : tensor (n, d), n >= 2
        dtype and device are its own.
    batch : int, optional
        Rows at a time; left out, as many as have about 130 000 coordinates, which is quickest.
    """
    if x0.ndim != 2 or len(x0) < 2 or not x0.is_floating_point() or not bool(x0.isfinite().all()):
        raise refuse("x0", tuple(x0.shape), "two or more finite floating-point rows (n, d)")
    n, d = x0.shape
    batch = max(1, 2**17 // d) if batch is None else integer("batch", batch, 1)
    middle = x0.double().mean(0)
    squares = torch.zeros(schedule.steps, 2, d, dtype=torch.float64, device=x0.device)
    means = torch.zeros(schedule.steps, 3, dtype=torch.float64, device=x0.device)
    fourths = torch.zeros_like(means)
    with torch.no_grad():
        for i, (signal, noise) in enumerate(
            zip(schedule.signal[1:].tolist(), schedule.noise[1:].tolist(), strict=True)
        ):
            for rows in x0.split(batch):
                xt, eps = diffuse(rows, signal, noise, generator=generator)
                guess = returned("model", model(xt, signal, noise), xt)
                both = torch.stack([guess, eps - guess]).double() ** 2
                data = (xt.double() - noise * guess.double()) / signal - middle
                each = torch.stack([*both.mean(-1), (data**2).mean(-1)])  # (3, rows)
                squares[i] += both.sum(1)
                means[i] += each.sum(1)
                fourths[i] += (each**2).sum(1)
    means, fourths = means / n, fourths / n
    errors = ((fourths - means**2).clamp_min(0) / (n - 1)).sqrt()
    moment, error = (squares / n).unbind(1)
    spread = ((x0.double() - middle) ** 2).mean()
    return NoiseStatistics(moment, error, means[:, 2], spread, *errors.unbind(1))


# -- variances of a step, and their cost -------------------------------------------------------


@dataclass(frozen=True)
class Bridges:
    r"""DDIM's :math:`p(x_{t-1}|x_t,x_0)` for all steps: N(keep * x_t + pull * x_0, variance * I).

    Parameters
    ----------
    keep, pull, variance : tensors (T,)
        :math:`\kappa_t`, :math:`\lambda_t` and :math:`\sigma_t^2` (def-optimal-bridge).
    """

    keep: Tensor
    pull: Tensor
    variance: Tensor


def bridges(schedule: Schedule, variance: Literal["small", "zero"] | Tensor = "small") -> Bridges:
    """Return the bridges with DDPM's variance ("small"), none ("zero": DDIM), or a table (T,).

    Raises ValueError for a variance below 0 or above ``noise_{t-1}**2``, with which marginals are not kept.
    """
    most = schedule.noise[:-1] ** 2
    if isinstance(variance, Tensor):
        table = variance.double()
        if table.shape != most.shape or not bool(((table >= 0) & (table <= most * (1 + 1e-12))).all()):
            raise refuse("variance", variance, f"{len(most)} numbers, from 0 to the squared noise before")
    elif variance in ("small", "zero"):
        table = small_variance(schedule) if variance == "small" else torch.zeros_like(most)
    else:
        raise refuse("variance", variance, one_of(variance, ["small", "zero"]) + ", or a tensor")
    keep = (most - table).clamp_min(0).sqrt() / schedule.noise[1:]
    return Bridges(keep, schedule.signal[:-1] - keep * schedule.signal[1:], table)


def reverse_variance(step: Bridges, posterior_variance: Tensor) -> Tensor:
    r"""Return the best (co)variance of each step, :math:`\sigma_t^2I+\lambda_t^2\Sigma_t` (eq-optimal-total).

    Parameters
    ----------
    step : Bridges
    posterior_variance : tensor (T,), (T, d) or (T, d, d)
        Of x_0 if x_t is known: of a coordinate on average, of each, or the matrix.

    Returns
    -------
    tensor, of the shape of posterior_variance

    Raises
    ------
    ValueError
        If a variance is negative or not finite, or a matrix is not symmetric and positive semidefinite.
    """
    given, steps = posterior_variance.double(), len(step.variance)
    if (
        given.ndim not in (1, 2, 3)
        or len(given) != steps
        or (given.ndim == 3 and len(given[0]) != given.shape[2])
    ):
        raise refuse(
            "shape of posterior_variance", tuple(given.shape), f"({steps},), ({steps}, d) or ({steps}, d, d)"
        )
    if not bool(given.isfinite().all()):
        raise refuse("posterior_variance", float(given[~given.isfinite()][0]), "finite numbers")
    least = given
    if given.ndim == 3:
        if not torch.allclose(given, given.mT):
            raise refuse("posterior_variance", given, "symmetric matrices")
        least = torch.linalg.eigvalsh(given)
        least = least + 1e-12 * least.abs().amax(-1, keepdim=True)
    if bool((least < 0).any()):
        raise refuse("posterior_variance", float(least.min()), "no negative variance, in no direction")
    own, pull = (table.reshape(-1, *(1,) * (given.ndim - 1)) for table in (step.variance, step.pull))
    if given.ndim == 3:
        own = own * torch.eye(given.shape[-1], dtype=torch.float64, device=given.device)
    return own + pull**2 * given


def expected_excess_kl(variance: float | Tensor, optimal: float | Tensor, dim: int = 1) -> Tensor:
    r"""Return :math:`\frac d2(r-1-\ln r)` with r = optimal / variance: the cost of another variance.

    So much more Kullback-Leibler divergence from the true step has, on average, the Gaussian with the best
    mean and this variance than the one with the optimal variance (eq-optimal-excess). It is infinite if one
    of the two is 0 and the other is not.

    Parameters
    ----------
    variance, optimal : numbers or tensors that broadcast, >= 0
        Per coordinate.
    dim : int
        Number of coordinates.
    """
    dim = integer("dim", dim, 1)
    chosen, best = (torch.as_tensor(value, dtype=torch.float64) for value in (variance, optimal))
    for name, value in (("variance", chosen), ("optimal", best)):
        if not bool((value.isfinite() & (value >= 0)).all()):
            raise refuse(name, value, "finite numbers >= 0")
    ratio = torch.where((chosen == 0) & (best == 0), 1.0, best / chosen)
    # r - 1 - ln r loses its digits near 1, where with r = 1 + x it is x - log1p(x), and near 0 this does
    away = ratio - 1
    cost = away - torch.where(ratio > 0.5, torch.log1p(away), ratio.log())
    return dim / 2 * torch.where(ratio.isfinite(), cost, math.inf).clamp_min(0)


# -- trajectories ------------------------------------------------------------------------------


def jump_costs(schedule: Schedule, posterior_variance: Tensor) -> Tensor:
    r"""Return :math:`J(s,t)=\frac12\ln(v^*/\tilde\beta^2)` of all jumps from t down to s, (T + 1, T + 1).

    It is what a jump with the optimal variance adds to the divergence of the chain, per coordinate
    (eq-optimal-jump). Where s is not less than t, or the data themselves are reached, it is infinite.

    Parameters
    ----------
    posterior_variance : tensor (T,)
        Of x_0 if x_t is known, per coordinate, t = 1..T.
    """
    given = posterior_variance.double()
    if given.shape != (schedule.steps,) or not bool((given.isfinite() & (given >= 0)).all()):
        raise refuse("posterior_variance", given, f"{schedule.steps} finite numbers >= 0")
    signal, noise = schedule.signal, schedule.noise
    ratio = (noise / signal) ** 2
    # With r = (noise / signal)**2 the small variance, over signal_s**2, is r_s (1 - r_s / r_t), and pull over
    # signal_s is 1 - r_s / r_t.
    part = ratio[:, None] / ratio[None, :]
    variance, pull = ratio[:, None] * (1 - part), 1 - part
    pulled = pull**2 * torch.cat([given.new_zeros(1), given])[None, :]
    cost = torch.log1p(pulled / variance) / 2
    return torch.where(variance > 0, cost, math.inf)


def optimal_trajectories(cost: Tensor, most: int, *, first: int = 0) -> list[list[int]]:
    """Return the cheapest paths of 1, 2, ..., `most` jumps from the index `first` to the last.

    Parameters
    ----------
    cost : tensor (n, n)
        ``cost[s, t]`` of the jump between s and t > s; infinite where there is none.

    Raises
    ------
    ValueError
        If cost is not square or has NaN or -inf, or some number of jumps has no path.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 2:
        raise refuse("shape of cost", tuple(cost.shape), "(n, n), n >= 2")
    if bool((cost.isnan() | (cost == -math.inf)).any()):
        raise refuse(
            "cost", float(cost[cost.isnan() | (cost == -math.inf)][0]), "numbers, or inf for no jump"
        )
    first = integer("first", first, 0, len(cost) - 2)
    most = integer("jumps", most, 1, len(cost) - 1 - first)
    table = np.ascontiguousarray(cost.double().numpy(force=True)[first:, first:].T)
    totals, before = _shortest(table, most)
    paths = []
    for jumps in range(1, most + 1):
        if not np.isfinite(totals[jumps - 1]):
            raise refuse("jumps", jumps, "a number for which a path from the first to the last index exists")
        path = [len(table) - 1]
        for k in range(jumps, 0, -1):
            path.append(int(before[k, path[-1]]))
        paths.append([first + t for t in reversed(path)])
    return paths


@compiled
def _shortest(cost: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the totals for 1..most jumps, and where each cheapest path to t with k jumps comes from."""
    n = len(cost)
    best, new = np.full(n, np.inf), np.empty(n)
    best[0] = 0.0
    before = np.zeros((most + 1, n), np.int32)
    totals = np.empty(most)
    for k in range(1, most + 1):
        for t in range(n):
            least, origin = np.inf, 0
            for s in range(k - 1, t):
                total = best[s] + cost[t, s]
                if total < least:
                    least, origin = total, s
            new[t], before[k, t] = least, origin
        best[:] = new
        totals[k - 1] = best[n - 1]
    return totals, before


def optimal_trajectory(cost: Tensor, jumps: int, *, first: int = 0) -> list[int]:
    """Return the cheapest path with exactly so many jumps, as indices from `first` to the last.

    As `optimal_trajectories`, of which it is the last.
    """
    return optimal_trajectories(cost, jumps, first=first)[-1]


# -- sampling ----------------------------------------------------------------------------------


def noisy(mean: Tensor, variance: Tensor, *, generator: Generator) -> Tensor:
    """Return ``mean + variance**(1/2) * z``.

    Parameters
    ----------
    mean : tensor (n, d)
    variance : tensor (), (d,), (n, 1) or (n, d), or matrices (1, d, d) or (n, d, d)
        Matrices may be singular.
    """
    z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    (n, d), variance = mean.shape, variance.to(mean.device)
    allowed: list[tuple[int, ...]] = [(), (d,), (n, 1), (n, d), (1, d, d), (n, d, d)]
    if variance.shape not in allowed:
        raise refuse("shape of variance", tuple(variance.shape), f"one of {allowed}")
    if not bool(variance.isfinite().all()):
        raise refuse("variance", float(variance[~variance.isfinite()][0]), "finite numbers")
    if variance.ndim == 3:
        # eigh reads one triangle only
        if bool(((variance - variance.mT).abs() > 1e-5 * variance.abs().amax()).any()):
            raise refuse("variance", "a matrix that is not symmetric", "symmetric matrices")
        values, vectors = torch.linalg.eigh(variance.double())
        if bool((values < -1e-12 * values.abs().amax()).any()):
            raise refuse("variance", float(values.min()), "no negative variance, in no direction")
        root = (vectors * values.clamp_min(0).sqrt()[..., None, :]).to(mean.dtype)
        moved: Tensor = mean + (root @ z[..., None])[..., 0]
        return moved
    if bool((variance < 0).any()):
        raise refuse("variance", float(variance.min()), "numbers >= 0")
    return mean + variance.sqrt().to(mean.dtype) * z


def sample(
    model: Model,
    schedule: Schedule,
    start: Tensor,
    *,
    variance: Variance,
    bridge: Literal["small", "zero"] | Tensor = "small",
    generator: Generator,
    keep: bool = False,
) -> Tensor:
    """Sample with DDIM's mean and any variance of the steps.

    Parameters
    ----------
    model : function ``model(x, signal, noise)``
    start : tensor (n, d)
        x_T; dtype and device are its own throughout.
    variance : tensor (T,), (T, d) or (T, d, d), or function
        One for all coordinates, one for each, a matrix, as `reverse_variance` returns them. Or a function
        ``posterior(x, eps, signal, noise)`` that returns the posterior variance of x_0 at the states, (n, 1),
        (n, d) or (n, d, d). A step that ends in the data adds no noise.
    bridge : "small", "zero" or tensor (T,)
        Which mean: that of the `bridges` with this variance.
    keep : bool
        Return all states (T + 1, n, d) from x_T to x_0, and not only x_0 (n, d).
    """
    if start.ndim != 2 or not start.is_floating_point() or not bool(start.isfinite().all()):
        raise refuse("start", tuple(start.shape), "finite floating-point numbers (n, d)")
    made, d = bridges(schedule, bridge), start.shape[1]
    if isinstance(variance, Tensor) and variance.shape not in (
        (schedule.steps,),
        (schedule.steps, d),
        (schedule.steps, d, d),
    ):
        allowed = f"({schedule.steps},), ({schedule.steps}, {d}) or ({schedule.steps}, {d}, {d})"
        raise refuse("shape of variance", tuple(variance.shape), allowed)
    if isinstance(variance, Tensor) and not bool(variance.isfinite().all()):
        raise refuse("variance", float(variance[~variance.isfinite()][0]), "finite numbers")
    x, states = start.clone(), [start.clone()]
    with torch.no_grad():
        for t in range(schedule.steps, 0, -1):
            signal, noise = float(schedule.signal[t]), float(schedule.noise[t])
            eps = returned("model", model(x, signal, noise), x)
            own = float(made.variance[t - 1])
            mean = ddim_step(x, eps, schedule, t, math.sqrt(own))
            if schedule.noise[t - 1] == 0:
                x = mean
            elif isinstance(variance, Tensor):
                chosen = variance[t - 1]
                x = noisy(mean, chosen[None] if chosen.ndim == 2 else chosen, generator=generator)
            else:
                posterior = variance(x, eps, signal, noise)
                pulled = float(made.pull[t - 1]) ** 2 * posterior
                matrix = own * torch.eye(d).to(posterior) if posterior.ndim == 3 else own
                x = noisy(mean, matrix + pulled, generator=generator)
            states.append(x)
    return torch.stack(states) if keep else x


def likelihood_bound(
    model: Model,
    schedule: Schedule,
    variance: Variance,
    x0: Tensor,
    *,
    width: float,
    low: float,
    high: float,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    r"""Return the terms of an upper bound of :math:`-\ln p(x_0)`, and their standard errors, each (T + 1,).

    In nats per coordinate, on average over the data: the probability that x_0 falls into its bin if x_1 is
    known, the divergences of the steps 2..T from DDPM's bridges, and the prior's. Their sum is the bound, for
    data on a grid; divided by ln 2, it is in bits (eq-ddpm-elbo).

    Parameters
    ----------
    model : function ``model(x, signal, noise)``
    variance : tensor (T,) or (T, d), > 0, or function
        Of the steps, the first too. Or a function that gives the posterior variance, as for `sample`, (n, 1)
        or (n, d).
    x0 : tensor (n, d)
        On a grid from low to high with the width of its bins; the bins at both ends are open. The model sees
        its dtype.
    """
    width = real("width", width, 0, open_low=True)
    low = real("low", low)
    high = real("high", high, low)
    if x0.ndim != 2 or len(x0) < 2 or not x0.is_floating_point():
        raise refuse("x0", tuple(x0.shape), "two or more floating-point rows (n, d)")
    steps, (n, d), dtype = schedule.steps, x0.shape, x0.dtype
    if isinstance(variance, Tensor):
        good = variance.shape in ((steps,), (steps, d)) and variance.isfinite() & (variance > 0)
        if not torch.as_tensor(good).all():
            raise refuse("variance", variance, f"positive numbers ({steps},) or ({steps}, {d})")
    x0 = x0.double()
    if not bool(((x0 >= low) & (x0 <= high) & (((x0 - low) / width).frac().sub(0.5).abs() > 0.49)).all()):
        raise refuse("x0", x0, f"points of the grid from {low:g} to {high:g} in steps of {width:g}")
    made, each = bridges(schedule), x0.new_empty(steps + 1, n)
    with torch.no_grad():
        for t in range(1, steps + 1):
            signal, noise = float(schedule.signal[t]), float(schedule.noise[t])
            own, pull = float(made.variance[t - 1]), float(made.pull[t - 1])
            xt, _ = diffuse(x0, signal, noise, generator=generator)
            seen = xt.to(dtype)
            eps = returned("model", model(seen, signal, noise), xt)
            if isinstance(variance, Tensor):
                chosen = variance[t - 1].to(x0)
            else:
                chosen = own + pull**2 * variance(seen, eps, signal, noise).double()
                if chosen.shape not in ((n, 1), (n, d)):
                    raise refuse("shape of variance", tuple(chosen.shape), f"({n}, 1) or ({n}, {d})")
                if not bool((chosen.isfinite() & (chosen > 0)).all()):
                    raise refuse("a value of variance", float(chosen.min()), "positive numbers")
            away = x0 - (xt - noise * eps.double()) / signal
            if t == 1 and schedule.noise[0] == 0:
                terms = -_log_bin(
                    away / chosen.sqrt(), width / chosen.sqrt(), x0 > high - width / 2, x0 < low + width / 2
                )
            else:
                terms = (own / chosen - 1 - (own / chosen).log() + (pull * away) ** 2 / chosen) / 2
            each[t - 1] = terms.expand(n, d).mean(1)
        rest = (schedule.signal[-1] * x0) ** 2 + schedule.noise[-1] ** 2 - 1 - (schedule.noise[-1] ** 2).log()
        each[-1] = rest.mean(1) / 2
    return each.mean(1), each.std(1) / math.sqrt(n)


def _log_bin(middle: Tensor, width: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Return the log probability of a standard normal number within half a width of the middle."""
    upper = (middle + width / 2).masked_fill(top, math.inf)
    lower = (middle - width / 2).masked_fill(bottom, -math.inf)
    # On the side where tails are small, and by their logarithms, which hold far out.
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    tail: Tensor = torch.special.log_ndtr(upper)
    return tail + (-torch.expm1(torch.special.log_ndtr(lower) - tail)).log()


# -- variances that depend on the state --------------------------------------------------------


class VarianceHead(nn.Module):
    r"""A small network for the variance of each coordinate of x_0, given x_t (eq-optimal-heads).

    It works with ``v = s * eps - n * x_0``, where s, n are signal and noise, scaled to ``s**2 + n**2 = 1``:
    errors of v are of one size at all levels, and x_0 has the variance ``n**2`` times that of v. It guesses

    - "residual": :math:`\mathbb{E}[(v-v_\theta)^2|x_t]`, the variance about the model's mean (NPR), or
    - "second moment": :math:`\mathbb{E}[v^2|x_t]`, from which :math:`v_\theta^2` is subtracted (SN).

    Parameters
    ----------
    dim, width : int
    target : "residual" or "second moment"
    generator : torch.Generator
        For the first weights.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        width: int = 128,
        *,
        target: Literal["residual", "second moment"] = "residual",
        generator: Generator,
    ) -> None:
        super().__init__()
        if target not in ("residual", "second moment"):
            raise refuse("target", target, one_of(target, ["residual", "second moment"]))
        self.target, self.dim, width = target, integer("dim", dim, 1), integer("width", width, 2)
        device = generator.device
        self.register_buffer("frequencies", 2.0 ** torch.arange(-3, 3, device=device))
        self.layers = nn.ModuleList()
        for size, out in pairwise([2 * self.dim + 12, width, width, self.dim]):
            layer: nn.Linear = nn.utils.skip_init(nn.Linear, size, out, device=device)
            nn.init.normal_(layer.weight, 0, 1 / math.sqrt(size), generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def forward(self, x: Tensor, eps: Tensor, signal: float | Tensor, noise: float | Tensor) -> Tensor:
        """Return the guess, >= 0, for each coordinate (n, dim); eps is what the noise model guesses at x."""
        if x.ndim != 2 or x.shape[1] != self.dim or eps.shape != x.shape:
            raise refuse("x and eps", (tuple(x.shape), tuple(eps.shape)), f"both of shape (n, {self.dim})")
        x, signal, noise = _unit_scale(x, signal, noise)
        angles = ((noise / signal).log() * self.frequencies).expand(len(x), -1)
        hidden = torch.cat([x, (eps - noise * x) / signal, angles.sin(), angles.cos()], 1)
        for layer in self.layers[:-1]:
            hidden = nn.functional.silu(layer(hidden))
        out: Tensor = nn.functional.softplus(self.layers[-1](hidden))
        return out

    def wanted(
        self, x: Tensor, eps: Tensor, guess: Tensor, signal: float | Tensor, noise: float | Tensor
    ) -> Tensor:
        """Return what is to be guessed on average (n, dim), for noise eps in x of which the model guesses."""
        x, signal, noise = _unit_scale(x, signal, noise)
        centre = guess if self.target == "residual" else noise * x
        return ((eps - centre) / signal) ** 2

    def posterior(
        self,
        x: Tensor,
        eps: Tensor,
        signal: float | Tensor,
        noise: float | Tensor,
        *,
        bound: float = math.inf,
    ) -> Tensor:
        """Return the variance of x_0 (n, dim), between 0 and ``(noise / signal)**2``, or the bound if less.

        For `sample` and `likelihood_bound`; eps is what the noise model guesses at x.
        """
        most = real("bound", bound, 0) if bound != math.inf else bound
        second = self(x, eps, signal, noise)
        x, signal, noise = _unit_scale(x, signal, noise)
        if self.target == "second moment":
            second = second - ((eps - noise * x) / signal) ** 2
        limit = ((noise / signal) ** 2).clamp_max(most)
        return torch.minimum((noise**2 * second).clamp_min(0), limit)


def _unit_scale(x: Tensor, signal: float | Tensor, noise: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, signal and noise as columns, divided by (signal**2 + noise**2)**(1/2)."""
    signal, noise = (
        torch.as_tensor(level, dtype=x.dtype, device=x.device).reshape(-1, 1) for level in (signal, noise)
    )
    scale = (signal**2 + noise**2).sqrt()
    return x / scale, signal / scale, noise / scale


def train_head(
    head: VarianceHead,
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    data: Tensor,
    schedule: Schedule,
    *,
    loss: Literal["squares", "likelihood"] = "squares",
    steps: int,
    batch: int = 256,
    rate: float = 2e-3,
    generator: Generator,
) -> Tensor:
    """Train a head on its target, by Adam whose rate falls to 0 as a cosine.

    Parameters
    ----------
    model : function
        The noise model, which is not trained: ``model(x, signal, noise)`` with x (n, d) and levels (n, 1).
    data : tensor (n, d)
    loss : "squares" or "likelihood"
        The squared error, or that of a Gaussian with this variance, ``(ln h + target / h) / 2``.

    Returns
    -------
    tensor (steps,): the loss of each batch.
    """
    if loss not in ("squares", "likelihood"):
        raise refuse("loss", loss, one_of(loss, ["squares", "likelihood"]))
    steps, batch = integer("steps", steps, 1), integer("batch", batch, 1)
    if data.ndim != 2 or not len(data) or data.shape[1] != head.dim or not bool(data.isfinite().all()):
        raise refuse("data", tuple(data.shape), f"finite numbers (n, {head.dim}), n >= 1")
    weights: list[Tensor] = list(head.parameters())
    data = data.to(weights[0])
    signals, noises = (level[1:].to(data) for level in (schedule.signal, schedule.noise))
    optimiser = torch.optim.Adam(weights, lr=real("rate", rate, 0, open_low=True), fused=True)
    losses = data.new_empty(steps)
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * i / steps)) / 2
        rows = torch.randint(len(data), (batch,), generator=generator, device=data.device)
        t = torch.randint(schedule.steps, (batch,), generator=generator, device=data.device)
        xt, eps = diffuse(data[rows], signals[t], noises[t], generator=generator)
        level = signals[t, None], noises[t, None]
        with torch.no_grad():
            guess = returned("model", model(xt, *level), xt)
            wanted = head.wanted(xt, eps, guess, *level)
        out = head(xt, guess, *level)
        error = (out - wanted) ** 2 if loss == "squares" else (out.log() + wanted / out) / 2
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
        losses[i] = error.detach().mean()
    return losses
