r"""Guidance: samplers of diffusion that are told what to draw, and the law of what they really draw.

``x_t = signal * x_0 + noise * eps`` on the standard-deviation scale. A *model* is a function
``model(x, signal, noise)`` with values like x: a noise model, or a score, ``-model / noise``. What is made
here from noise models is one, for `ddpm.ddim`, `ddpm.ancestral` and, as a score, `sde.reverse`. An
*energy* is a function ``energy(x, signal, noise)`` (n,), a *classifier* one with LOGARITHMS of probabilities
(n, classes); each row may depend on its own row of x only. ``scale`` is the posts' :math:`\gamma`: 1
is Bayes' formula, 0 no guidance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from scipy.special import exprel
from torch import Generator, Tensor

from kexue_lib import ddpm, sde
from kexue_lib import mixture as mixtures
from kexue_lib.arguments import integer, one_of, real, refuse, returned

Model = Callable[[Tensor, float, float], Tensor]
Energy = Callable[[Tensor, float, float], Tensor]
Scale = float | Tensor | Callable[[float, float], float]


# -- Gaussians: what guided samplers draw ------------------------------------------------------


def guided_law(
    mean: float, std: float, prior_std: float, scale: float, sigma: float = 1.0
) -> tuple[float, float]:
    r"""Return mean and standard deviation of what `sde.reverse` draws with the guided score, exactly.

    The data are :math:`N(0, S^2)`, those of the class :math:`N(m, s^2)`, the score is :math:`\gamma` times
    that of the class plus :math:`1-\gamma` times the other; the start is pure noise (def-guidance-linear).
    With :math:`u = s^2/S^2` and :math:`k = 1 + \sigma^2`

    .. math::

        \gamma m\int_0^1 \bigl(u + (1-u) w^{2/k}\bigr)^{k(\gamma-1)/2} dw, \qquad
        s^2\int_0^1 \bigl(u + (1-u) z^{1/\sigma^2}\bigr)^{k(\gamma-1)} dz

    are mean and variance, computed to 1e-10; for :math:`\sigma\to\infty` they are those of `tilted`
    (eq-guidance-family).

    Parameters
    ----------
    mean, std, prior_std : m, s, S
    scale : float
    sigma : float, >= 0
        The noise of the sampler as a multiple of g: 1 is Anderson's equation, 0 the probability flow.

    Raises
    ------
    ValueError
        If an argument is not as described, or the law has numbers that float64 cannot hold.
    """
    mean, u, scale = _gaussians(mean, std, prior_std, scale)
    sigma = real("sigma", sigma, 0)
    k = 1 + sigma**2
    power = k * (scale - 1)
    spread = power * math.log(u) if sigma == 0 else _log_integral(u, 1 / sigma**2, power)
    return _law(scale * mean, _log_integral(u, 2 / k, power / 2), std, spread, scale)


def guided_ode(mean: float, std: float, prior_std: float, scale: float) -> tuple[float, float]:
    r"""Return the law of the guided probability flow (DDIM's limit): `guided_law` with sigma 0.

    Its standard deviation is :math:`s^\gamma S^{1-\gamma}` (eq-guidance-ode), its mean
    :math:`\gamma m\int_0^1 (u + (1-u) w^2)^{(\gamma-1)/2} dw`.
    """
    return guided_law(mean, std, prior_std, scale, 0.0)


def guided_sde(mean: float, std: float, prior_std: float, scale: float) -> tuple[float, float]:
    r"""Return the law of the guided reverse equation (DDPM's limit): `guided_law` with sigma 1.

    Mean and variance are :math:`m(1-u^\gamma)/(1-u)` and :math:`s^2(1-u^{2\gamma-1})/((1-u)(2\gamma-1))`
    (eq-guidance-sde-mean, eq-guidance-sde).
    """
    mean, u, scale = _gaussians(mean, std, prior_std, scale)
    log = math.log(u)
    # exprel(z) = (exp(z) - 1) / z, so that neither u = 1 nor scale = 1/2 is a case of its own.
    shift, spread = (math.log(exprel(a * log) / exprel(log)) for a in (scale, 2 * scale - 1))
    return _law(scale * mean, shift, std, spread, scale)


def tilted(mean: float, std: float, prior_std: float, scale: float) -> tuple[float, float]:
    r"""Return the law with density :math:`\propto p(x|y)^\gamma p(x)^{1-\gamma}`, of which guidance is said.

    Its precision is :math:`\gamma/s^2 + (1-\gamma)/S^2`, its mean :math:`\gamma m/s^2` divided by it
    (eq-guidance-tilted).

    Raises
    ------
    ValueError
        If the precision is not positive: then the integral of the density is infinite, and no law has it.
    """
    mean, u, scale = _gaussians(mean, std, prior_std, scale)
    relative = scale + (1 - scale) * u
    if not relative > 0:
        raise refuse(
            "scale",
            scale,
            f"one with scale/std**2 + (1 - scale)/prior_std**2 > 0; it is {relative / std / std:.6g}: the "
            "tilted density grows without end and is no law",
        )
    return _law(scale * mean, -math.log(relative), std, -math.log(relative), scale)


def _gaussians(mean: float, std: float, prior_std: float, scale: float) -> tuple[float, float, float]:
    std, prior_std = real("std", std, 0, open_low=True), real("prior_std", prior_std, 0, open_low=True)
    u = (std / prior_std) * (std / prior_std)  # never an OverflowError
    if not 0 < u < math.inf:
        raise refuse("std / prior_std", std / prior_std, "a ratio whose square float64 can hold")
    return real("mean", mean), u, real("scale", scale)


def _law(mean: float, log_shift: float, std: float, log_spread: float, scale: float) -> tuple[float, float]:
    with np.errstate(over="ignore", under="ignore"):
        shift, width = (float(np.exp(value)) for value in (log_shift, log_spread / 2))
    mean, width = mean * shift if mean else 0.0, std * width
    if not (math.isfinite(mean) and 0 < width < math.inf):
        raise refuse("scale", scale, "one whose law float64 can hold")
    return mean, width


def _log_integral(u: float, root: float, power: float) -> float:
    """Return the logarithm of the integral of (u + (1-u) * w**root)**power over w from 0 to 1.

    In t = -log(w) it has only features that octaves resolve; these are cut until nothing changes.
    """
    last, (nodes, weights) = math.inf, np.polynomial.legendre.leggauss(12)
    top = (abs(math.log(u)) + 40) / root + 100
    octaves = np.arange(-60, math.ceil(math.log2(top)) + 1)
    for cuts in 2 ** np.arange(9):
        ends = np.concatenate([[0.0], 2.0 ** np.arange(octaves[0], octaves[-1] + 1 / cuts, 1 / cuts)])
        half = np.diff(ends)[:, None] / 2
        t = ends[:-1, None] + half * (1 + nodes)
        # Both terms of the base are positive, so that it has all its digits.
        logs = power * np.log(np.exp(-root * t) - u * np.expm1(-root * t)) - t
        most = logs.max()
        value = float(most + np.log((half * weights * np.exp(logs - most)).sum()))
        if abs(value - last) < 1e-11:
            return value
        last = value
    raise refuse("scale", power, "one for which the quadrature converges")


# -- formulas ----------------------------------------------------------------------------------


def from_excess(w: float) -> float:
    """Return the scale ``1 + w`` of papers that write ``(1 + w) * eps_conditional - w * eps_unconditional``.

    >>> from_excess(0.5)
    1.5
    """
    return 1 + real("w", w)


def classifier_free(eps_conditional: Tensor, eps_unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Return ``eps_unconditional + scale * (eps_conditional - eps_unconditional)`` (eq-guidance-free).

    It is exactly the first for scale 1 and the second for 0. Scores, being multiples of eps, go as well. With
    ``scale = from_excess(w)`` it is ``(1 + w) * eps_conditional - w * eps_unconditional``. If the second is
    the guess for another condition, that is the *negative prompt*.

    Parameters
    ----------
    eps_conditional, eps_unconditional : tensors (n, ...)
    scale : float or tensor (n,)

    Raises
    ------
    ValueError
        If the shapes differ, or the scale is not finite.
    """
    _like("eps_unconditional", eps_unconditional, eps_conditional)
    weight = _rows(scale, eps_conditional)
    if isinstance(weight, float):
        return torch.lerp(eps_unconditional, eps_conditional, weight)
    return torch.lerp(eps_unconditional, eps_conditional, weight.expand_as(eps_conditional))


def guided_noise(eps: Tensor, gradient: Tensor, noise: float, scale: float | Tensor = 1.0) -> Tensor:
    """Return ``eps - noise * scale * gradient``: the guess of eps by a score to which the gradient is added.

    It is right for every sampler that is right for eps, with noise of its own or without;
    def-guidance-noise.
    """
    _like("gradient", gradient, eps)
    weight, noise = _rows(scale, eps), real("noise", noise, 0)
    return eps - noise * weight * gradient


def energy_gradient(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient (n, ...) of ``energy(x)`` (n,), whose rows depend on their own row of x only."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = energy(x)
        if not isinstance(values, Tensor) or values.shape != x.shape[:1]:
            returned = tuple(values.shape) if isinstance(values, Tensor) else values
            raise refuse("shape of what energy returns", returned, f"({len(x)},), one number for each row")
        if not values.requires_grad:
            raise refuse("energy", energy, "a function of x that torch can differentiate")
        (gradient,) = torch.autograd.grad(values.sum(), x)
    for name, numbers in (("a value of energy", values.detach()), ("a slope of energy", gradient)):
        if not bool(numbers.isfinite().all()):
            raise refuse(name, float(numbers[~numbers.isfinite()][0]), "finite numbers")
    return gradient


def class_gradient(log_prob: Callable[[Tensor], Tensor], x: Tensor, label: int | Tensor) -> Tensor:
    """Return the gradient (n, ...) of ``log p(label|x)``.

    Parameters
    ----------
    log_prob : function
        From x (n, ...) to logarithms of probabilities, (n, classes).
    label : int or integer tensor (n,)

    Raises
    ------
    ValueError
        If log_prob returns probabilities, or logits, whose exponentials have another sum than 1; if there is
        no such class; if a class has probability 0, so that there is no way towards it.
    """
    return energy_gradient(lambda x: _class_energy(log_prob(x), x, label), x)


def classifier_shift(
    log_prob: Callable[[Tensor], Tensor],
    x: Tensor,
    label: int | Tensor,
    variance: float,
    scale: float = 1.0,
) -> Tensor:
    r"""Return :math:`\sigma_t^2\gamma\nabla_x\log p(y|x)`: by how much a class moves the mean of a step.

    By eq-guidance-shift; exact in the limit of small steps only, and 0 where the variance is 0.
    `guided_noise` is not bound to it.
    """
    variance, scale = real("variance", variance, 0), real("scale", scale)
    return variance * scale * class_gradient(log_prob, x, label)


def similarity_shift(
    similarity: Callable[[Tensor], Tensor], x: Tensor, variance: float, scale: float = 1.0
) -> Tensor:
    r"""Return :math:`\sigma_t^2\gamma\nabla_x\mathrm{sim}(x, y)` for a function from x to numbers (n,).

    See def-guidance-similarity.
    """
    variance, scale = real("variance", variance, 0), real("scale", scale)
    return variance * scale * energy_gradient(similarity, x)


def dynamic_threshold(x0: Tensor, quantile: float = 0.995) -> Tensor:
    """Return x0 (n, ...) within [-1, 1]: cut at the row's quantile of sizes, if above 1, and divided by it.

    Saharia et al. (2022). Where the quantile is at most 1 it is the usual cut at -1 and 1.
    """
    quantile = real("quantile", quantile, 0, 1)
    if x0.ndim < 2 or not x0.numel():
        raise refuse("shape of x0", tuple(x0.shape), "(n, ...) with at least one number in each row")
    sizes = _column(x0.flatten(1).abs().quantile(quantile, dim=1).clamp_min(1), x0)
    return x0.clamp(-sizes, sizes) / sizes


def rescale(eps_guided: Tensor, eps_conditional: Tensor, phi: float) -> Tensor:
    """Return a mixture of eps_guided and, with weight phi, the same with the spread of eps_conditional.

    Lin et al. (2024). The spread is the standard deviation of a row's numbers; one without any stays.
    """
    phi = real("phi", phi, 0, 1)
    _like("eps_conditional", eps_conditional, eps_guided)
    if eps_guided.ndim < 2 or eps_guided[:1].numel() < 2:
        raise refuse(
            "shape of eps_guided", tuple(eps_guided.shape), "(n, ...) with two or more numbers a row"
        )
    own, wanted = (_column(eps.flatten(1).std(1), eps) for eps in (eps_guided, eps_conditional))
    return eps_guided * (1 - phi + phi * torch.where(own > 0, wanted / own, 1))


# -- models ------------------------------------------------------------------------------------


def combined(conditional: Model, unconditional: Model, scale: Scale) -> Model:
    """Return the model that mixes two noise models, or two scores, by `classifier_free`.

    See def-guidance-guided. A scale that is a function of signal and noise can be limited to an interval of
    noise.
    """
    _rows(1.0 if callable(scale) else scale)

    def model(x: Tensor, signal: float, noise: float) -> Tensor:
        told = conditional(x, signal, noise)
        return classifier_free(told, unconditional(x, signal, noise), _at(scale, signal, noise))

    return model


def classifier_free_model(
    model: Callable[..., Tensor],
    condition: int | Tensor,
    scale: Scale,
    *,
    untold: int | Tensor,
    phi: float = 0.0,
) -> Model:
    """Return the guided noise model of a network that was trained with and without its condition.

    Both guesses come from one batch of 2n rows, ``model(x, signal, noise, conditions)``; where the scale is 1
    there is nothing to mix, and the network is asked for n rows only.

    Parameters
    ----------
    condition : int, or tensor (n, ...)
        A label, labels (n,), or a row for each picture, such as embeddings (n, e).
    untold : int or tensor (...)
        What the network was told instead of a condition (``classes`` of `ddpm.NoiseNetwork`), or any other
        condition, to be led away from.
    phi : float in [0, 1]
        See `rescale`.
    """
    phi = real("phi", phi, 0, 1)
    _rows(1.0 if callable(scale) else scale)
    told, without = torch.as_tensor(condition), torch.as_tensor(untold)
    if told.shape[1:] != without.shape:
        raise refuse("shape of untold", tuple(without.shape), f"{tuple(told.shape[1:])}, that of a condition")
    known = getattr(model, "classes", None)
    for name, labels in (("condition", told), ("untold", without)):
        if isinstance(known, int) and not bool(((labels >= 0) & (labels <= known)).all()):
            raise refuse(name, labels.tolist(), f"classes from 0 to {known - 1}, or {known} for none")

    def guided(x: Tensor, signal: float, noise: float) -> Tensor:
        if told.ndim and len(told) != len(x):
            raise refuse("condition", tuple(told.shape), f"one for each of {len(x)} rows of x")
        weight, given = _at(scale, signal, noise), told.to(x.device).expand(len(x), *without.shape)
        if isinstance(weight, float) and weight == 1:
            return model(x, signal, noise, given)
        nothing = without.to(given).expand_as(given)
        both = model(torch.cat([x, x]), signal, noise, torch.cat([given, nothing]))
        conditional, unconditional = both.chunk(2)
        eps = classifier_free(conditional, unconditional, weight)
        return rescale(eps, conditional, phi) if phi else eps

    return guided


def energy_guided(model: Model, energy: Energy, scale: Scale = 1.0) -> Model:
    """Return the noise model ``model - noise * scale * gradient`` of the energy (`guided_noise`)."""
    _rows(1.0 if callable(scale) else scale)

    def guided(x: Tensor, signal: float, noise: float) -> Tensor:
        gradient = energy_gradient(lambda x: energy(x, signal, noise), x)
        return guided_noise(model(x, signal, noise), gradient, noise, _at(scale, signal, noise))

    return guided


def classifier_guided(model: Model, log_prob: Energy, label: int | Tensor, scale: Scale = 1.0) -> Model:
    """Return the noise model guided by ``log p(label|x_t)``; for what is refused see `class_gradient`."""
    return energy_guided(model, lambda x, *level: _class_energy(log_prob(x, *level), x, label), scale)


def clean_classifier(log_prob: Callable[[Tensor], Tensor], model: Model) -> Energy:
    """Return the classifier of x_t that asks one of clean data about the data that a noise model points to.

    ``log_prob((x - noise * model(x)) / signal)``, differentiated through the model. It is p(y | E[x_0|x_t])
    and not E[p(y|x_0) | x_t] (eq-guidance-clean).
    """
    return lambda x, signal, noise: log_prob((x - noise * model(x, signal, noise)) / signal)


def thresholded(model: Model, quantile: float = 0.995) -> Model:
    """Return the noise model of which the data it points to are cut by `dynamic_threshold`."""
    quantile = real("quantile", quantile, 0, 1)

    def cut(x: Tensor, signal: float, noise: float) -> Tensor:
        x0 = dynamic_threshold((x - noise * model(x, signal, noise)) / signal, quantile)
        return (x - signal * x0) / noise

    return cut


def guided_ancestral(
    model: Model,
    energy: Energy,
    schedule: ddpm.Schedule,
    start: Tensor,
    *,
    scale: float = 1.0,
    at: Literal["state", "mean"] = "state",
    variance: Literal["small", "large"] = "small",
    generator: Generator,
) -> Tensor:
    """Sample as `ddpm.ancestral` does, the means moved by ``sigma_t**2 * scale`` times the energy's gradient.

    Dhariwal and Nichol (2021); eq-guidance-shift, eq-guidance-at-mean. `classifier_guided` is
    the form that does not depend on the variance.

    Parameters
    ----------
    energy : function
        ``energy(x, signal, noise)`` (n,), such as ``log p(y|x_t)``.
    at : "state" or "mean"
        Whether its gradient is taken at x_t, for the noise of x_t, or at the step's mean, for the next noise.
    """
    if at not in ("state", "mean"):
        raise refuse("at", at, one_of(at, ["state", "mean"]))
    if variance not in ("small", "large"):
        raise refuse("variance", variance, one_of(variance, ["small", "large"]))
    scale, x = real("scale", scale), start.detach().clone()
    table = ddpm.small_variance(schedule) if variance == "small" else ddpm.large_variance(schedule)
    levels = list(zip(schedule.signal.tolist(), schedule.noise.tolist(), strict=True))
    for t in range(schedule.steps, 0, -1):
        with torch.no_grad():
            eps = returned("model", model(x, *levels[t]), x)
            mean = ddpm.ancestral_step(x, eps, schedule, t)
        if levels[t - 1][1] == 0:  # the step into the data has no noise, and nothing to be moved in
            return mean
        level, place = (levels[t], x) if at == "state" else (levels[t - 1], mean)
        x = mean + similarity_shift(_of_level(energy, *level), place, float(table[t - 1]), scale)
        x = x + float(table[t - 1]) ** 0.5 * torch.randn(
            x.shape, generator=generator, dtype=x.dtype, device=x.device
        )
    return x


# -- exact mixtures ----------------------------------------------------------------------------


def conditional(
    mixture: mixtures.GaussianMixture, label: int, classes: Tensor | None = None
) -> mixtures.GaussianMixture:
    """Return the law of one class of a mixture.

    Parameters
    ----------
    classes : integer tensor (k,), optional
        The class of each part; without it each part is a class of its own.
    """
    table = _classes(mixture, classes)
    chosen = table == label
    if not bool(chosen.any()):
        raise refuse("label", label, f"a class of the mixture, which has {table.unique().tolist()}")
    weights = mixture.weights[chosen]
    return mixtures.GaussianMixture(
        weights / weights.sum(), mixture.means[chosen], mixture.covariances[chosen]
    )


def class_log_probabilities(mixture: mixtures.GaussianMixture, classes: Tensor | None = None) -> Energy:
    """Return the perfect classifier: log p(y | x_t) for all classes 0, 1, ... of a mixture, at any noise.

    Logarithms from log-sum-exp, so that a class that is far away has a finite one, and a gradient.
    """
    table = _classes(mixture, classes)
    parts = [conditional(mixture, label, table) for label in range(int(table.max()) + 1)]
    logs = torch.stack([mixture.weights[table == label].sum() for label in range(len(parts))]).log()

    def log_prob(x: Tensor, signal: float, noise: float) -> Tensor:
        densities = [mixtures.log_density(part, x, signal, noise) for part in parts]
        return (torch.stack(densities, 1) + logs).log_softmax(1)

    return log_prob


def _classes(mixture: mixtures.GaussianMixture, classes: Tensor | None) -> Tensor:
    count = len(mixture.weights)
    if classes is None:
        return torch.arange(count, device=mixture.weights.device)
    whole = isinstance(classes, Tensor) and classes.shape == (count,) and not classes.is_floating_point()
    if not whole or int(classes.min()) < 0:
        raise refuse("classes", classes, f"an integer >= 0 for each of the {count} parts")
    return classes.to(mixture.weights.device)


# -- towards the tilted law --------------------------------------------------------------------


@dataclass(frozen=True)
class Particles:
    """States x (n, d) with logarithms of weights (n,), of sum 1, and the effective sizes after each step.

    The effective size, 1 / sum of squared weights, is as many equal weights as would be as good.
    """

    x: Tensor
    log_weights: Tensor
    sizes: Tensor


def steered(
    process: sde.Process,
    conditional: Model,
    unconditional: Model,
    start: Tensor,
    times: sde.Times,
    *,
    scale: float,
    sigma: float = 1.0,
    threshold: float = 0.5,
    generator: Generator,
) -> Particles:
    r"""Sample the tilted law :math:`p(x|y)^\gamma p(x)^{1-\gamma}` by sequential Monte Carlo.

    Guided samplers do not follow the tilted laws :math:`q_t\propto p_t(x|y)^\gamma p_t(x)^{1-\gamma}` of the
    noised data. Weights that grow by (eq-guidance-weight)

    .. math::

        \frac{g^2}{2}\gamma(\gamma-1)\|\nabla\log p_t(x|y) - \nabla\log p_t(x)\|^2 |dt|

    make up for it, for any sigma (Skreta et al., 2025).

    Parameters
    ----------
    conditional, unconditional : functions
        Scores, as in `sde.reverse`.
    start : tensor (n, d)
        From q_t at ``times[0]``: where there is noise only, all three laws are one.
    times : (steps + 1,), strictly decreasing
    scale : float
    sigma : float, >= 0
        The sampler's noise as a multiple of g.
    threshold : float in [0, 1]
        States are drawn anew by their weights when the effective size is below this share of n; 0 for never.
    """
    scale, threshold = real("scale", scale), real("threshold", threshold, 0, 1)
    t = torch.as_tensor(times, dtype=torch.float64)
    if t.ndim != 1 or len(t) < 2 or not bool((t.diff() < 0).all()):
        raise refuse("times", times, "two or more times, strictly decreasing")
    apart = torch.empty(0)

    def score(x: Tensor, signal: float, noise: float) -> Tensor:
        nonlocal apart
        told, untold = conditional(x, signal, noise), unconditional(x, signal, noise)
        apart = (told - untold).double().square().sum(1)
        return classifier_free(told, untold, scale)

    drift, diffusion = sde.reverse(process, score, sigma=sigma)
    rates = process.squared_diffusion(t[:-1]).clamp_min(0) * t.diff().abs() / 2 * scale * (scale - 1)
    x, even = start, torch.full((len(start),), -math.log(len(start)), dtype=torch.float64).to(start.device)
    logs, sizes = even, []
    for pair, rate in zip(pairwise(t.tolist()), rates.tolist(), strict=True):
        x = sde.euler_maruyama(drift, diffusion, x, pair, generator=generator)
        logs = (logs + rate * apart).log_softmax(0)
        sizes.append(float((-(2 * logs).logsumexp(0)).exp()))
        if sizes[-1] < threshold * len(x):
            x, logs = x[_systematic(logs, generator)], even
    return Particles(x, logs, torch.tensor(sizes, dtype=torch.float64))


def _systematic(logs: Tensor, generator: Generator) -> Tensor:
    """Return indices (n,) drawn by the weights, each about n times its weight times (systematic sampling)."""
    count = len(logs)
    shift = torch.rand((), generator=generator, dtype=torch.float64, device=logs.device)
    places = (torch.arange(count, device=logs.device) + shift) / count
    return torch.searchsorted(logs.exp().cumsum(0), places).clamp_max(count - 1)


# -- guards ------------------------------------------------------------------------------------


def _like(name: str, value: Tensor, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != x.shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        raise refuse(f"shape of {name}", shape, str(tuple(x.shape)))
    return value


def _column(numbers: Tensor, x: Tensor) -> Tensor:
    return numbers.reshape(-1, *(1 for _ in x.shape[1:]))


def _rows(scale: float | Tensor, x: Tensor | None = None) -> float | Tensor:
    """Return a finite scale that can be multiplied with x: a float, or a column for a tensor (n,)."""
    if not isinstance(scale, Tensor):
        return real("scale", scale)
    fits = scale.ndim == 1 and (x is None or scale.shape == x.shape[:1])
    if not fits or not bool(scale.isfinite().all()):
        count = "n" if x is None else len(x)
        raise refuse("scale", scale, f"a finite number, or {count}, one for each row")
    return scale if x is None else _column(scale.to(x), x)


def _at(scale: Scale, signal: float, noise: float) -> float | Tensor:
    if isinstance(scale, Tensor):
        return scale
    return real("scale", scale(signal, noise) if callable(scale) else scale)


def _of_level(energy: Energy, signal: float, noise: float) -> Callable[[Tensor], Tensor]:
    return lambda x: energy(x, signal, noise)


def _class_energy(logs: Tensor, x: Tensor, label: int | Tensor) -> Tensor:
    """Return log p(label|x), shape (n,), from what a classifier returned."""
    if not isinstance(logs, Tensor) or logs.ndim != 2 or len(logs) != len(x):
        returned = tuple(logs.shape) if isinstance(logs, Tensor) else logs
        raise refuse("shape of what log_prob returns", returned, f"({len(x)}, classes)")
    values, classes = logs.detach(), logs.shape[1]
    total = values.double().logsumexp(1)
    if not bool((total.abs() < 0.01).all()):  # NaN is not either
        if bool(((values >= 0) & (values <= 1)).all()) and bool(((values.sum(1) - 1).abs() < 0.01).all()):
            raise refuse("log_prob", "probabilities", "their logarithms, as log_softmax gives them")
        worst = float(total[(total.abs() < 0.01).logical_not()][0])
        raise refuse(
            "logsumexp of log_prob", worst, "0: log_softmax makes logarithms of probabilities of logits"
        )
    if isinstance(label, Tensor):
        good = label.shape == x.shape[:1] and not label.is_floating_point()
        if not good or (len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes):
            raise refuse("label", label, f"for each of {len(x)} rows a class from 0 to {classes - 1}")
        chosen = logs.gather(1, label.to(logs.device).long()[:, None])[:, 0]
    else:
        chosen = logs[:, integer("label", label, 0, classes - 1)]
    if bool((chosen.detach() == -math.inf).any()):
        raise refuse(
            "log_prob of the class", -math.inf, "a finite number: nothing leads to what has probability 0"
        )
    return chosen
