r"""Diffusion as stochastic differential equations: processes, solvers in both directions of time, densities.

A process noises data by ``x_t = signal(t) * x_0 + noise(t) * eps`` on the standard-deviation scale, and
``dx = drift_rate(t) * x dt + diffusion(t) dw`` does the same in small steps (eq-sde-backwards). A *score* is
a function ``score(x, signal, noise)``, a *noise model* a function ``model(x, signal, noise)``, and
``score = -model / noise``; x is (n, d), signal and noise are floats. A drift is a function ``drift(x, t)``.
Times are strictly monotone: increasing towards the noise, decreasing towards the data. What a function of the
caller returns is looked at in the first step. No solver computes gradients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.linalg import solve_banded
from scipy.special import exprel
from torch import Generator, Tensor

from kexue_lib.arguments import integer, real, refuse, returned

OfTime = Callable[[Tensor], Tensor]
Drift = Callable[[Tensor, float], Tensor]
Diffusion = float | Callable[[float], float | Tensor]
Model = Callable[[Tensor, float, float], Tensor]
Times = Sequence[float] | Tensor


# -- processes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    r"""A noising process, given by what it does up to a time t: ``x_t = signal * x_0 + noise * eps``.

    Parameters
    ----------
    signal, variance : functions
        Of time, from float64 tensors to tensors of that shape, differentiable by torch: :math:`\bar\alpha_t`
        and :math:`\bar\beta_t^2`. The variance, because its root has no derivative where the noise begins.
    horizon : float
        The last time; a process whose signal vanishes has to be cut off before.

    Raises
    ------
    ValueError
        If on a grid of times the signal is not positive, the variance is negative, one of them or its
        derivative is not finite, or ``variance / signal**2`` decreases, which no equation can do.

    Examples
    --------
    >>> cosine = Process(torch.cos, lambda t: torch.sin(t) ** 2, horizon=1.5)
    >>> round(float(cosine.drift_rate(1.0) / math.tan(1)), 12)
    -1.0
    """

    signal: OfTime
    variance: OfTime
    horizon: float

    def __post_init__(self) -> None:
        t = torch.linspace(0, real("horizon", self.horizon, 0, open_low=True), 257, dtype=torch.float64)
        signal, variance, rate, squared = self._at(t)
        ratios = variance / signal**2
        finite = "finite with a finite derivative"
        for name, values, good, allowed in (
            ("signal", signal, (signal > 0) & rate.isfinite(), f"a positive number, {finite}"),
            ("variance", variance, (variance >= 0) & squared.isfinite(), f"a number >= 0, {finite}"),
            (
                "variance / signal**2",
                ratios,
                ratios >= ratios.cummax(0).values * (1 - 1e-12),
                "never to decrease",
            ),
        ):
            if not good.all():
                first = int((~good).int().argmax())
                raise refuse(f"{name} at time {float(t[first]):.4g}", float(values[first]), allowed)

    def _at(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return signal, variance, drift rate and squared diffusion; refuse times outside of the process."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu").detach().requires_grad_()
        inside = (t >= 0) & (t <= self.horizon * (1 + 1e-12))
        if not inside.all():
            raise refuse("time", float(t.detach()[~inside][0]), f"a number from 0 to {self.horizon:g}")
        with torch.enable_grad():
            signal, variance = (0 * t + function(t) for function in (self.signal, self.variance))
            (rate,) = torch.autograd.grad(signal.log().sum(), t)
            (slope,) = torch.autograd.grad(variance.sum(), t)
        return signal.detach(), variance.detach(), rate, slope - 2 * rate * variance.detach()

    def noise(self, t: float | Tensor) -> Tensor:
        r"""Return :math:`\bar\beta_t`, the standard deviation of the noise."""
        return self._at(t)[1].sqrt()

    def drift_rate(self, t: float | Tensor) -> Tensor:
        r"""Return :math:`f_t = d \ln\bar\alpha_t / dt`, by differentiating the signal (eq-sde-backwards)."""
        return self._at(t)[2]

    def squared_diffusion(self, t: float | Tensor) -> Tensor:
        r"""Return :math:`g_t^2 = \bar\alpha_t^2 \, d(\bar\beta_t^2/\bar\alpha_t^2)/dt` (eq-sde-backwards)."""
        return self._at(t)[3]

    def diffusion(self, t: float | Tensor) -> Tensor:
        """Return g, the root of `squared_diffusion` (whose rounding errors below 0 count as 0)."""
        return self._at(t)[3].clamp_min(0).sqrt()

    def time_of(self, ratio: float | Tensor) -> Tensor:
        """Return the times at which noise / signal has the given values, by bisection.

        Evenly spaced ratios, or logarithms of ratios, are better steps for the exponential solvers than
        evenly spaced times. Raises ValueError for a ratio that does not occur between 0 and the horizon.
        """
        ratios = torch.as_tensor(ratio, dtype=torch.float64)
        squares = ratios**2
        low, high = torch.zeros_like(squares), torch.full_like(squares, self.horizon)
        least, most = (self.variance(t) / self.signal(t) ** 2 for t in (low, high))
        if not ((ratios >= 0) & (squares >= least * (1 - 1e-12)) & (squares <= most * (1 + 1e-12))).all():
            raise refuse("ratio", ratio, "values of noise / signal between time 0 and the horizon")
        for _ in range(70):
            middle = (low + high) / 2
            above = self.variance(middle) >= squares * self.signal(middle) ** 2
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return high


def constant_rate(rate: float = 1.0, horizon: float = 10.0) -> Process:
    """Return the Ornstein-Uhlenbeck process ``dx = -rate/2 x dt + sqrt(rate) dw`` (variance preserving)."""
    rate = real("rate", rate, 0, open_low=True)
    return Process(lambda t: torch.exp(-rate / 2 * t), lambda t: -torch.expm1(-rate * t), horizon)


def variance_preserving(low: float = 0.1, high: float = 20.0) -> Process:
    """Return Song's VP process on [0, 1]: the rate of `constant_rate` grows linearly from low to high."""
    total = _integrated_rate(low, high)
    return Process(lambda t: torch.exp(-total(t) / 2), lambda t: -torch.expm1(-total(t)), 1.0)


def sub_variance_preserving(low: float = 0.1, high: float = 20.0) -> Process:
    """Return Song's sub-VP process on [0, 1]: the signal of VP, and ``noise = 1 - signal**2``."""
    total = _integrated_rate(low, high)
    return Process(lambda t: torch.exp(-total(t) / 2), lambda t: torch.expm1(-total(t)) ** 2, 1.0)


def _integrated_rate(low: float, high: float) -> OfTime:
    low = real("low", low, 0)
    high = real("high", high, low, open_low=low == 0)
    return lambda t: low * t + (high - low) / 2 * t**2


def variance_exploding(low: float = 0.01, high: float = 50.0) -> Process:
    """Return Song's VE process on [0, 1]: signal 1, ``noise**2 = low**2 * ((high/low)**(2*t) - 1)``.

    It begins at the data, so that its variance is Song's less the ``low**2`` they begin with; g is theirs.
    """
    low = real("low", low, 0, open_low=True)
    growth = 2 * math.log(real("high", high, low, open_low=True) / low)
    return Process(torch.ones_like, lambda t: low**2 * torch.expm1(growth * t), 1.0)


def forward(
    process: Process, score: Model | None = None, *, sigma: Diffusion = 1.0
) -> tuple[Drift, Diffusion]:
    """Return drift and diffusion of equations towards the noise with the marginals of the process.

    ``dx = [f x - (g**2 - sigma**2)/2 * score] dt + sigma dw`` (eq-sde-family), with sigma as in `reverse`.
    Without a score, which only ``sigma = g`` does not need, it is the process itself.
    """
    if score is None and sigma != 1:
        raise refuse("score", score, "a function, unless sigma is 1")
    return _family(process, score, sigma, -1)


def reverse(process: Process, score: Model, *, sigma: Diffusion = 1.0) -> tuple[Drift, Diffusion]:
    """Return drift and diffusion of equations towards the data with the marginals of the process.

    ``dx = [f x - (g**2 + sigma**2)/2 * score] dt + sigma dw`` with dt < 0 (eq-sde-family).

    Parameters
    ----------
    score : function
        ``score(x, signal, noise)``, the gradient of the log density of x_t.
    sigma : float or function of time, >= 0
        A number is a multiple of g: 1 is Anderson's reverse equation, 0 the probability-flow equation, which
        has no noise. A function gives sigma itself.
    """
    return _family(process, score, sigma, 1)


class _Levels(dict[float, tuple[float, float, float, float]]):
    """Signal, noise, drift rate and diffusion of a process, differentiated at once for many times."""

    def __init__(self, process: Process, times: Sequence[float] = ()) -> None:
        self.process = process
        self.fill(times)

    def fill(self, times: Sequence[float]) -> None:
        new = [t for t in times if t not in self]
        signal, variance, rate, squared = self.process._at(torch.tensor(new, dtype=torch.float64))
        columns = signal, variance.clamp_min(0).sqrt(), rate, squared.clamp_min(0).sqrt()
        self.update(zip(new, zip(*(column.tolist() for column in columns), strict=True), strict=True))

    def __missing__(self, t: float) -> tuple[float, float, float, float]:
        self.fill([t])
        return self[t]


class _Sigma:
    """The sigma of an equation, a function of time, and what its drift needs at the same times."""

    def __init__(self, process: Process, sigma: Diffusion) -> None:
        self.levels, self.sigma = _Levels(process), sigma if callable(sigma) else real("sigma", sigma, 0)

    def __call__(self, t: float) -> float:
        if callable(self.sigma):
            return _strengths("sigma", self.sigma, [t])[0]
        return self.sigma * self.levels[t][-1]


def _family(process: Process, score: Model | None, sigma: Diffusion, sign: int) -> tuple[Drift, Diffusion]:
    own = _Sigma(process, sigma)
    slope = None if score is None else _watched("score", score)

    def drift(x: Tensor, t: float) -> Tensor:
        signal, noise, rate, g = own.levels[t]
        if slope is None:
            return x * rate
        return torch.add(x * rate, slope(x, signal, noise), alpha=-(g**2 + sign * own(t) ** 2) / 2)

    return drift, own


# -- guards ------------------------------------------------------------------------------------


def even_times(start: float, stop: float, steps: int) -> Tensor:
    """Return steps + 1 evenly spaced times from start to stop, float64, in either direction."""
    if real("start", start) == real("stop", stop):
        raise refuse("stop", stop, "another time than start")
    return torch.linspace(start, stop, integer("steps", steps, 1) + 1, dtype=torch.float64)


def _monotone(times: Times, direction: str = "monotone") -> list[float]:
    given = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    steps = given.diff() if given.ndim == 1 else given[:0].flatten()
    one_way = (steps > 0).all() or (direction == "monotone" and (steps < 0).all())
    if not (len(steps) and one_way and given.isfinite().all()):
        raise refuse("times", times, f"two or more finite times, strictly {direction}")
    return given.tolist()


def _states(start: Tensor) -> Tensor:
    good = isinstance(start, Tensor) and start.ndim == 2 and start.is_floating_point()
    if not (good and start.isfinite().all()):
        raise refuse("start", start, "a tensor (n, d) of finite floating-point numbers")
    return start.detach()


def _strengths(name: str, diffusion: Diffusion, times: Sequence[float]) -> list[float]:
    """Return what multiplies the noise at each of the times, before the first step."""
    if isinstance(diffusion, _Sigma):
        diffusion.levels.fill(times)
    if callable(diffusion):
        return [real(f"{name} at time {t:.4g}", float(diffusion(t)), 0) for t in times]
    return [real(name, diffusion, 0)] * len(times)


def _at_level(model: Model, signal: float, noise: float) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x, signal, noise)


def _watched(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Look at the first value of a function of the caller, and at the shape of all."""
    seen = False

    def watched(x: Tensor, *level: float) -> Tensor:
        nonlocal seen
        value = function(x, *level)
        if not seen or value.shape != x.shape:
            returned(name, value, x)
            seen = True
        return value

    return watched


# -- solvers -----------------------------------------------------------------------------------


def euler_maruyama(
    drift: Drift,
    diffusion: Diffusion,
    start: Tensor,
    times: Times,
    *,
    generator: Generator | None = None,
    noise: Sequence[Tensor] | Tensor | None = None,
    keep: bool = False,
) -> Tensor:
    """Solve ``dx = drift(x, t) dt + diffusion(t) dw`` by Euler's steps (def-sde-step).

    ``x += drift(x, t) * dt + diffusion(t) * sqrt(abs(dt)) * eps``, with t where the step begins.

    Parameters
    ----------
    drift : function
        Of x (n, d) and a float t. It must not keep x, which is overwritten later.
    diffusion : float or function of t, >= 0
        Asked for before the first step. Where it is 0, no noise is drawn.
    start : Tensor (n, d)
        The states at ``times[0]``; dtype and device are its own throughout.
    times : (steps + 1,)
    generator : torch.Generator, on the device of start
    noise : (steps, n, d), optional
        Standard normal numbers to use instead, for solvers that are to share them.
    keep : bool
        Whether to return all states, (steps + 1, n, d), and not only the last (n, d).

    Raises
    ------
    ValueError
        If an argument is not as described, or drift returns another shape than x or numbers not finite.
    """
    x, t, drift = _states(start).clone(), _monotone(times), _watched("drift", drift)
    steps = [b - a for a, b in pairwise(t)]
    scales = [
        g * abs(h) ** 0.5 for g, h in zip(_strengths("diffusion", diffusion, t[:-1]), steps, strict=True)
    ]
    if noise is not None and (len(noise) != len(steps) or any(eps.shape != x.shape for eps in noise)):
        shapes = [len(noise), *sorted({tuple(eps.shape) for eps in noise})]
        raise refuse(
            "shape of noise", shapes, f"{(len(steps), *x.shape)}, one number for each step and state"
        )
    if noise is None and generator is None and any(scales):
        raise refuse("generator", generator, "a torch.Generator, because noise has to be drawn")
    eps, place, states = torch.empty_like(x), x.untyped_storage().data_ptr(), [x.clone()]
    with torch.no_grad():
        for i, (h, scale) in enumerate(zip(steps, scales, strict=True)):
            change = drift(x, t[i])
            if change.untyped_storage().data_ptr() == place:  # a view of the states, which now move
                change = change.clone()
            x.add_(change, alpha=h)
            if scale:
                x.add_(eps.normal_(generator=generator) if noise is None else noise[i], alpha=scale)
            if keep:
                states.append(x.clone())
    return torch.stack(states) if keep else x


def langevin(
    score: Callable[[Tensor], Tensor], start: Tensor, *, step: float, steps: int, generator: Generator
) -> Tensor:
    """Take steps ``x += step * score(x) + sqrt(2 * step) * eps`` of unadjusted Langevin dynamics.

    For N(0, s**2) their stationary variance is ``s**2 / (1 - step / (2 * s**2))``: a bias of order 1.
    """
    step, score = real("step", step, 0, open_low=True), _watched("score", score)
    times = step * torch.arange(integer("steps", steps, 1) + 1, dtype=torch.float64)
    return euler_maruyama(lambda x, t: score(x), math.sqrt(2), start, times, generator=generator)


def predictor_corrector(
    process: Process,
    score: Model,
    start: Tensor,
    times: Times,
    *,
    ratio: float = 0.16,
    corrections: int = 1,
    sigma: Diffusion = 1.0,
    generator: Generator,
) -> Tensor:
    """Solve an equation of `reverse`, and after each Euler step take Langevin steps at the new time.

    Their size is ``2 * (ratio * noise)**2``, that of Song et al. (2021, Algorithm 4) where the norm of the
    score is that of eps / noise. Where the noise is 0 there are none.
    """
    x, t = _states(start), _monotone(times)
    ratio, corrections = real("ratio", ratio, 0, open_low=True), integer("corrections", corrections, 0)
    drift, diffusion = reverse(process, score, sigma=sigma)
    _strengths("sigma", diffusion, t)
    levels = _Levels(process, t)
    for pair in pairwise(t):
        x = euler_maruyama(drift, diffusion, x, pair, generator=generator)
        signal, noise, *_ = levels[pair[1]]
        if noise and corrections:
            here = _at_level(score, signal, noise)
            x = langevin(here, x, step=2 * (ratio * noise) ** 2, steps=corrections, generator=generator)
    return x


def exponential_euler(
    process: Process, model: Model, start: Tensor, times: Times, *, keep: bool = False
) -> Tensor:
    """Solve the probability-flow equation of a noise model, its linear part exactly (DPM-Solver-1, DDIM).

    With ``y = x / signal`` and ``r = noise / signal`` the equation is ``dy/dr = model`` (eq-sde-exponential).
    This is Euler's method for it: exact if the data are one point, of order 1 otherwise.
    """
    return _exponential(process, model, start, times, keep, middle=False)


def exponential_midpoint(
    process: Process, model: Model, start: Tensor, times: Times, *, keep: bool = False
) -> Tensor:
    """Solve as `exponential_euler`, by the midpoint method: order 2, two evaluations a step (DPM-Solver-2).

    The midpoint is that of noise / signal, where DPM-Solver takes that of its logarithm, which does not exist
    for a step that ends in the data; both have order 2.
    """
    return _exponential(process, model, start, times, keep, middle=True)


def _exponential(
    process: Process, model: Model, start: Tensor, times: Times, keep: bool, middle: bool
) -> Tensor:
    x, t = _states(start), torch.tensor(_monotone(times), dtype=torch.float64)
    model = _watched("model", model)

    def levels(t: Tensor) -> list[tuple[float, float]]:
        return list(zip(process.signal(t).tolist(), process.noise(t).tolist(), strict=True))

    ends = levels(t)
    ratios = process.noise(t) / process.signal(t)
    middles = levels(process.time_of((ratios[1:] + ratios[:-1]) / 2)) if middle else []
    y, states = x / ends[0][0], [x]
    with torch.no_grad():
        for i, (signal, noise) in enumerate(ends[:-1]):
            step = float(ratios[i + 1] - ratios[i])
            slope = model(y * signal, signal, noise)
            if middle:
                half, (signal, noise) = torch.add(y, slope, alpha=step / 2), middles[i]
                slope = model(half * signal, signal, noise)
            y = torch.add(y, slope, alpha=step)
            if keep or i == len(ends) - 2:
                states.append(y * ends[i + 1][0])
    return torch.stack(states) if keep else states[-1]


# -- densities ---------------------------------------------------------------------------------


def divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` (n, d) and its divergence (n,), exactly, by d passes of automatic differentiation.

    Each row of the field may depend on its own row of x only.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = returned("field", field(x), x) + 0 * x  # a constant field has a derivative, too
        slopes = (torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in values.unbind(1))
        total = sum((slope[:, i] for i, slope in enumerate(slopes)), torch.zeros_like(x[:, 0]))
    return values.detach(), total.detach()


def log_likelihood(
    process: Process,
    score: Model,
    x: Tensor,
    times: Times,
    *,
    prior: Callable[[Tensor], Tensor] | None = None,
    trace: Model | None = None,
) -> Tensor:
    """Return the log density (n,) of x by the probability-flow equation of a score (eq-sde-likelihood).

    ``prior(x_T) + integral of div(f x - g**2/2 * score) dt`` along the solution that starts at x, by the
    classical Runge-Kutta method of order 4.

    Parameters
    ----------
    x : Tensor (n, d)
        Points at ``times[0]``.
    times : (steps + 1,)
        Strictly increasing. A score that divides by the noise needs ``times[0] > 0``.
    prior : function, optional
        Log density (n,) at the last time; without it that of N(0, noise**2 I).
    trace : function, optional
        ``trace(x, signal, noise)`` (n,), the trace of the Hessian of the log density; without it the score
        is differentiated by `divergence`.
    """
    x, t, score = _states(x), _monotone(times, "increasing"), _watched("score", score)
    total, levels = torch.zeros_like(x[:, 0]), _Levels(process, [*t, *((a + b) / 2 for a, b in pairwise(t))])

    def slopes(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        signal, noise, rate, g = levels[t]
        here = _at_level(score, signal, noise)
        if trace is None:
            values, spread = divergence(here, x)
        else:
            values, spread = here(x), returned("trace", trace(x, signal, noise), total)
        return rate * x - g**2 / 2 * values, rate * x.shape[1] - g**2 / 2 * spread

    for a, b in pairwise(t):
        h = b - a
        one = slopes(x, a)
        two = slopes(x + h / 2 * one[0], (a + b) / 2)
        three = slopes(x + h / 2 * two[0], (a + b) / 2)
        four = slopes(x + h * three[0], b)
        x, total = (
            old + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            for old, k1, k2, k3, k4 in zip((x, total), one, two, three, four, strict=True)
        )
    if prior is not None:
        return total + returned("prior", prior(x), total)
    variance = levels[t[-1]][1] ** 2
    return total - ((x**2).sum(1) / variance + x.shape[1] * math.log(2 * math.pi * variance)) / 2


def fokker_planck(drift: Drift, diffusion: Diffusion, density: Tensor, grid: Tensor, times: Times) -> Tensor:
    """Solve the Fokker-Planck equation of ``dx = drift dt + diffusion dw`` on a line (eq-fokker-planck).

    Neighbouring cells exchange the flux that is exact where it is constant (Scharfetter and Gummel, 1969;
    Chang and Cooper, 1970), in implicit steps of time (backward Euler): the mass is kept, no density gets
    negative whatever the steps, and the error is of order 2 in the width of a cell, 1 in the step.

    Parameters
    ----------
    drift, diffusion : as for `euler_maruyama`
        drift gets the borders of the cells as x (m - 1, 1); diffusion is positive after ``times[0]``.
    density : Tensor (m,)
        At ``times[0]``, in the centres of the cells.
    grid : Tensor (m,)
        The centres, increasing and evenly spaced. Nothing flows through the two ends.
    times : (steps + 1,)
        Decreasing for an equation of `reverse`.

    Returns
    -------
    Tensor (steps + 1, m), float64: the density at all times.
    """
    t = _monotone(times)
    widths = grid.double().diff(dim=0)
    width = float(widths.mean())
    if grid.ndim != 1 or len(grid) < 3 or not ((widths / width - 1).abs() < 1e-4).all() or not width > 0:
        raise refuse("grid", grid, "three or more evenly spaced increasing numbers")
    if density.shape != grid.shape or not ((density >= 0) & density.isfinite()).all():
        raise refuse("density", density, "a finite number >= 0 for each cell of the grid")
    strengths = _strengths("diffusion", diffusion, t[1:])
    if not all(strengths):
        raise refuse("diffusion", min(strengths), "a positive number")
    borders = (grid[:-1].double() + widths / 2)[:, None]
    densities, matrix = [density.double().numpy(force=True)], np.zeros((3, len(grid)))
    for (a, b), strength in zip(pairwise(t), strengths, strict=True):
        values = returned("drift", drift(borders, b), borders)[:, 0].numpy(force=True)
        speed = values * math.copysign(1, b - a)
        # The flux is out * density of the cell to the left - back * density of the cell to the right.
        bend, rate = 2 * speed * width / strength**2, abs(b - a) * strength**2 / (2 * width**2)
        matrix[0, 1:], matrix[2, :-1], matrix[1] = -rate / exprel(bend), -rate / exprel(-bend), 1
        matrix[1, :-1] -= matrix[2, :-1]
        matrix[1, 1:] -= matrix[0, 1:]
        densities.append(solve_banded((1, 1), matrix, densities[-1], check_finite=False))
    return torch.from_numpy(np.stack(densities)).to(grid.device)
