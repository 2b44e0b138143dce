r"""Diffusion as stochastic differential equations: processes, solvers in both directions of time, densities.

A process noises data by ``x_t = signal(t) * x_0 + noise(t) * eps`` on the standard-deviation scale, and
``dx = drift_rate(t) * x dt + diffusion(t) dw`` is the equation that does it (eq-sde-backwards). A *score* is a
function ``score(x, signal, noise)``, a *noise model* a function ``model(x, signal, noise)``, and
``score = -model / noise``; x is (n, d), signal and noise are floats. A drift is a function ``drift(x, t)``.
Times are strictly monotone: increasing towards the noise, decreasing towards the data.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

type OfTime = Callable[[Tensor], Tensor]
type Drift = Callable[[Tensor, float], Tensor]
type Diffusion = float | Callable[[float], float | Tensor]
type Model = Callable[[Tensor, float, float], Tensor]


@dataclass(frozen=True)
class Process:
    r"""A noising process on [0, horizon], given by what it does: ``x_t = signal * x_0 + noise * eps``.

    Parameters
    ----------
    signal, variance : functions
        Of time, from float64 tensors to float64 tensors of the same shape, differentiable by torch:
        :math:`\bar\alpha_t > 0` and :math:`\bar\beta_t^2 \ge 0`. The variance and not its root, because
        the root has no derivative where the noise begins.
    horizon : float
        Where time ends; a process whose signal vanishes has to be cut off before.

    Raises
    ------
    ValueError
        If, on a grid of times, one of them is not finite, the signal is not positive, the variance is negative
        or ``variance / signal**2`` decreases (no equation with real diffusion does that).

    Examples
    --------
    >>> cosine = Process(lambda t: torch.cos(t), lambda t: torch.sin(t) ** 2, horizon=1.5)
    >>> float(cosine.drift_rate(0.5) + torch.tan(torch.tensor(0.5).double()))
    0.0
    """

    signal: OfTime
    variance: OfTime
    horizon: float

    def noise(self, t: float | Tensor) -> Tensor:
        r"""Return :math:`\bar\beta_t`, the standard deviation of the noise."""
        raise NotImplementedError

    def drift_rate(self, t: float | Tensor) -> Tensor:
        r"""Return :math:`f_t = d \ln\bar\alpha_t / dt`, by differentiating the signal (eq-sde-backwards)."""
        raise NotImplementedError

    def squared_diffusion(self, t: float | Tensor) -> Tensor:
        r"""Return :math:`g_t^2 = \bar\alpha_t^2 \, d(\bar\beta_t^2 / \bar\alpha_t^2) / dt` (eq-sde-backwards)."""
        raise NotImplementedError

    def diffusion(self, t: float | Tensor) -> Tensor:
        """Return g, the root of `squared_diffusion`."""
        raise NotImplementedError


def constant_rate(rate: float = 1.0, horizon: float = 10.0) -> Process:
    """Return the Ornstein-Uhlenbeck process ``dx = -rate/2 x dt + sqrt(rate) dw`` (variance preserving)."""
    raise NotImplementedError


def variance_preserving(low: float = 0.1, high: float = 20.0) -> Process:
    """Return Song's VP process on [0, 1]: the rate of `constant_rate` grows linearly from low to high."""
    raise NotImplementedError


def sub_variance_preserving(low: float = 0.1, high: float = 20.0) -> Process:
    """Return Song's sub-VP process on [0, 1]: the signal of VP with ``noise = 1 - signal**2``."""
    raise NotImplementedError


def variance_exploding(low: float = 0.01, high: float = 50.0) -> Process:
    """Return Song's VE process on [0, 1]: signal 1, ``noise**2 = low**2 * ((high/low)**(2*t) - 1)``.

    It begins at the data, so that its noise is Song's less the ``low**2`` with which theirs begins; g is the same.
    """
    raise NotImplementedError


def even_times(start: float, stop: float, steps: int) -> Tensor:
    """Return steps + 1 evenly spaced times from start to stop, float64, in either direction."""
    raise NotImplementedError


def forward(process: Process, score: Model | None = None, *, sigma: Diffusion = 1.0) -> tuple[Drift, Diffusion]:
    r"""Return drift and diffusion of equations towards the noise, all with the marginals of the process.

    ``dx = [f x - (g**2 - sigma**2)/2 * score] dt + sigma dw`` (eq-sde-family); see `reverse` for sigma. Without a
    score, which only ``sigma = g`` does not need, it is the process itself.
    """
    raise NotImplementedError


def reverse(process: Process, score: Model, *, sigma: Diffusion = 1.0) -> tuple[Drift, Diffusion]:
    r"""Return drift and diffusion of equations towards the data, all with the marginals of the process.

    ``dx = [f x - (g**2 + sigma**2)/2 * score] dt + sigma dw`` with dt < 0 (eq-sde-family): to be solved
    along decreasing times.

    Parameters
    ----------
    process : Process
    score : function
        ``score(x, signal, noise)``, the gradient of the log density of x_t.
    sigma : float or function of time
        A number is a multiple of g: 1 is Anderson's reverse equation, 0 the probability-flow equation, which
        has no noise. A function gives sigma itself.

    Returns
    -------
    (drift, diffusion): functions of (x, t) and of t, for `euler_maruyama` and `fokker_planck`.

    Raises
    ------
    ValueError
        If sigma is negative, or not a number and not a function.
    """
    raise NotImplementedError


def euler_maruyama(
    drift: Drift,
    diffusion: Diffusion,
    start: Tensor,
    times: Sequence[float] | Tensor,
    *,
    generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | Tensor | None = None,
    keep: bool = False,
) -> Tensor:
    r"""Solve ``dx = drift(x, t) dt + diffusion(t) dw`` by Euler's steps (eq-sde-euler), without gradients.

    ``x += drift(x, t) * dt + diffusion(t) * sqrt(abs(dt)) * eps``, with t where the step begins.

    Parameters
    ----------
    drift : function
        ``drift(x, t)`` with x (n, d) and t a float; what it returns has the shape of x. It must not keep x,
        which is overwritten.
    diffusion : float or function
        A number, or a function of t that returns one; asked for before the first step. Where it is 0, no noise
        is drawn.
    start : Tensor (n, d)
        The states at ``times[0]``. dtype and device of all that follows are its own; float coefficients are
        computed in float64 before the first step.
    times : (steps + 1,)
        Strictly increasing (towards the noise) or strictly decreasing (towards the data).
    generator : torch.Generator
        On the device of start; needed if noise is to be drawn.
    noise : (steps, n, d), optional
        The standard normal numbers to use instead, for solvers that are to share them.
    keep : bool
        Whether to return all states, (steps + 1, n, d), and not only the last.

    Returns
    -------
    Tensor (n, d), or (steps + 1, n, d) if `keep`; start is left as it was.

    Raises
    ------
    ValueError
        If times are not strictly monotone, diffusion is negative or not finite, noise does not fit, neither
        generator nor noise is there, or drift returns another shape or numbers that are not finite (looked at
        in the first step).
    """
    raise NotImplementedError


def divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` (n, d) and its exact divergence (n,), by d passes of automatic differentiation.

    Rows must not depend on each other.
    """
    raise NotImplementedError


def log_likelihood(
    process: Process,
    score: Model,
    x: Tensor,
    times: Sequence[float] | Tensor,
    *,
    prior: Callable[[Tensor], Tensor] | None = None,
    divergence: Model | None = None,
) -> Tensor:
    r"""Return the log density of x under the probability-flow equation of a score (eq-sde-likelihood).

    ``log p(x) = prior(x_T) + integral of div(f x - g**2/2 * score) dt`` along the solution that starts at x, by
    Runge's and Kutta's method of order 4.

    Parameters
    ----------
    x : Tensor (n, d)
        Points at ``times[0]``, whose density is wanted.
    times : (steps + 1,)
        Strictly increasing, from near the data to the noise. A score that divides by the noise needs
        ``times[0] > 0``.
    prior : function, optional
        Log density (n,) at the last time; without it that of N(0, noise**2 I).
    divergence : function, optional
        ``divergence(x, signal, noise)`` (n,) of the score, the trace of the Hessian of the log density;
        without it by `divergence`.

    Returns
    -------
    Tensor (n,), natural logarithm, in the units of x**-d.
    """
    raise NotImplementedError


def fokker_planck(
    drift: Drift, diffusion: Diffusion, density: Tensor, grid: Tensor, times: Sequence[float] | Tensor
) -> Tensor:
    r"""Solve the Fokker-Planck equation of ``dx = drift(x, t) dt + diffusion(t) dw`` on a line (eq-fokker-planck).

    Cells of equal width exchange the exact stationary flux between neighbours (Chang and Cooper, 1970;
    Scharfetter and Gummel, 1969), and each step of time is implicit (backward Euler): the mass is kept, the
    density stays positive for every step size, and the error is of order 2 in the width and 1 in the step.

    Parameters
    ----------
    drift, diffusion : as for `euler_maruyama`
        drift gets the borders between cells as x (m - 1, 1); diffusion has to be positive.
    density : Tensor (m,)
        At ``times[0]``, in the centres of the cells.
    grid : Tensor (m,)
        The centres: increasing, evenly spaced. Nothing flows through the two ends.
    times : (steps + 1,)
        Strictly increasing, or strictly decreasing for an equation of `reverse`.

    Returns
    -------
    Tensor (steps + 1, m), float64: the density at all times.
    """
    raise NotImplementedError


def langevin(
    score: Callable[[Tensor], Tensor], start: Tensor, *, step: float, steps: int, generator: torch.Generator
) -> Tensor:
    r"""Take steps ``x += step * score(x) + sqrt(2 * step) * eps`` of unadjusted Langevin dynamics.

    For N(0, s**2) its stationary variance is ``s**2 / (1 - step / (2 * s**2))``, so that its bias is of order 1.
    """
    raise NotImplementedError


def predictor_corrector(
    process: Process,
    score: Model,
    start: Tensor,
    times: Sequence[float] | Tensor,
    *,
    ratio: float = 0.16,
    corrections: int = 1,
    sigma: Diffusion = 1.0,
    generator: torch.Generator,
) -> Tensor:
    r"""Solve an equation of `reverse`, and after each Euler step take Langevin steps at the new time.

    The Langevin step is ``2 * (ratio * noise)**2``: that of Song et al. (2021), Algorithm 4, whose ratio of
    norms is 1 / noise on average if the score is exact and the data are points. At noise 0 there is none.
    """
    raise NotImplementedError


def exponential_euler(
    process: Process, model: Model, start: Tensor, times: Iterable[float] | Tensor, *, keep: bool = False
) -> Tensor:
    r"""Solve the probability-flow equation of a noise model, the linear part exactly (DPM-Solver-1, DDIM).

    With ``y = x / signal`` and ``r = noise / signal`` the equation is ``dy/dr = model`` (eq-sde-exponential), and
    this is Euler's method for it: exact for data in one point, of order 1 otherwise.
    """
    raise NotImplementedError


def exponential_midpoint(
    process: Process, model: Model, start: Tensor, times: Iterable[float] | Tensor, *, keep: bool = False
) -> Tensor:
    r"""Solve as `exponential_euler`, by the midpoint method: order 2, two evaluations a step (DPM-Solver-2).

    The midpoint is that of time, where DPM-Solver takes that of log(noise / signal), which does not exist for a
    step to the data; both have order 2.
    """
    raise NotImplementedError
