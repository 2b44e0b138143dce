r"""Diffusion in discrete steps: schedules, the DDPM and DDIM samplers, and a small noise network.

``x_t = signal[t] * x_0 + noise[t] * eps``: signal and noise are standard deviations (the posts'
:math:`\bar\alpha_t, \bar\beta_t`), and index 0 is the data. One step takes ``x_t = step_signal * x_{t-1} +
step_noise * eps`` (:math:`\alpha_t, \beta_t`; DDPM's :math:`\beta_t` is our ``step_noise**2``). A *noise
model* is a function ``model(x, signal, noise)`` that guesses eps; it gets floats and no index of time, so
that one network serves every sub-sequence. It must not keep x, which is overwritten later.
"""

import contextlib
import hashlib
import io
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from platformdirs import user_cache_path
from torch import Generator, Tensor, nn

from kexue_lib import mixture as mixtures
from kexue_lib.arguments import integer, one_of, real, refuse, returned
from kexue_lib.data import Images, digits_split
from kexue_lib.randomness import stream

Model = Callable[[Tensor, float, float], Tensor]
Level = float | Tensor


# -- schedules ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """How much signal and noise there is in x_0, ..., x_T.

    Parameters
    ----------
    signal, noise : float64 tensors (T + 1,)
        Signal positive, noise not negative (0 for the data), ``noise / signal`` strictly increasing.

    Raises
    ------
    ValueError
        If they are not so.
    """

    signal: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        for name, table in (("signal", self.signal), ("noise", self.noise)):
            if table.ndim != 1 or len(table) < 2 or table.shape != self.signal.shape:
                raise refuse(
                    f"shape of {name}", tuple(table.shape), "(T + 1,) with T >= 1, the same for both"
                )
            if table.dtype != torch.float64:
                raise refuse(f"dtype of {name}", table.dtype, "torch.float64, whose digits small steps need")
        ratio = self.noise / self.signal
        grows = torch.cat([ratio[:1] >= 0, ratio.diff() > 0])
        for name, values, good, allowed in (
            ("signal", self.signal, self.signal.isfinite() & (self.signal > 0), "a positive number"),
            ("noise", self.noise, self.noise.isfinite() & (self.noise >= 0), "a number >= 0"),
            ("noise / signal", ratio, grows, "more than the one before"),
        ):
            if not bool(good.all()):
                first = int((~good).int().argmax())
                raise refuse(f"{name} at index {first}", float(values[first]), allowed)

    @property
    def steps(self) -> int:
        """Return the number of steps T."""
        return len(self.signal) - 1

    @cached_property  # asked for by every run of a sampler
    def step_signal(self) -> Tensor:
        r"""Return :math:`\alpha_t`, t = 1..T, shape (T,)."""
        return self.signal[1:] / self.signal[:-1]

    @cached_property
    def step_noise(self) -> Tensor:
        r"""Return :math:`\beta_t`, t = 1..T, shape (T,): what one step adds to the noise that it shrinks."""
        shrunk = self.step_signal * self.noise[:-1]
        return ((self.noise[1:] - shrunk) * (self.noise[1:] + shrunk)).sqrt()

    @property
    def snr(self) -> Tensor:
        """Return the signal-to-noise ratios ``(signal / noise)**2``, shape (T + 1,); infinite at the data."""
        return (self.signal / self.noise) ** 2


def variance_preserving(signal: Tensor) -> Schedule:
    """Return the schedule with ``signal**2 + noise**2 = 1``.

    Where signal is near 1 its last digit decides the noise; from small steps use `from_step_variances`.
    """
    if not bool((signal <= 1).all()):
        raise refuse("signal", signal, "numbers from 0 to 1")
    return Schedule(signal, ((1 - signal) * (1 + signal)).sqrt())


def from_step_variances(variances: Tensor) -> Schedule:
    r"""Return the variance-preserving schedule with :math:`\beta_t^2` = variances (T,), each in (0, 1).

    Sums of logarithms instead of products, so that the noise keeps all its digits.
    """
    variances = torch.as_tensor(variances, dtype=torch.float64)
    if variances.ndim != 1 or not len(variances) or not bool(((variances > 0) & (variances < 1)).all()):
        raise refuse("variances", variances, "one or more numbers, between 0 and 1")
    logs = torch.cat([variances.new_zeros(1), torch.log1p(-variances).cumsum(0)])
    return Schedule((logs / 2).exp(), torch.expm1(logs).abs().sqrt())


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Return DDPM's schedule (Ho et al., 2020): step variances evenly from first to last."""
    first, last = (
        real(name, value, 0, 1, open_low=True) for name, value in (("first", first), ("last", last))
    )
    return from_step_variances(torch.linspace(first, last, integer("steps", steps, 1), dtype=torch.float64))


def linear_post(steps: int = 1000) -> Schedule:
    r"""Return the posts' schedule :math:`\alpha_t = \sqrt{1 - 0.02\,t/T}`."""
    steps = integer("steps", steps, 1)
    return from_step_variances(0.02 * torch.arange(1, steps + 1, dtype=torch.float64) / steps)


def cosine(steps: int = 1000) -> Schedule:
    r"""Return the schedule of Nichol and Dhariwal (2021): :math:`\bar\alpha_t` as a cosine.

    ``signal = cos(u) / cos(u_0)`` with u even from ``u_0 = 0.008/1.008 * pi/2`` to pi/2, and no step variance
    above 0.999, so that the last step does not remove all signal.
    """
    steps = integer("steps", steps, 1)
    u = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * (math.pi / 2)
    # 1 - cos(b)**2 / cos(a)**2 without its cancellation
    variances = (u[1:] - u[:-1]).sin() * (u[1:] + u[:-1]).sin() / u[:-1].cos() ** 2
    return from_step_variances(variances.clamp_max(0.999))


def subsequence(schedule: Schedule, times: Sequence[int] | Tensor) -> Schedule:
    """Return the schedule that jumps: signal and noise at the times, strictly increasing from 0.

    Steps are computed anew from what signal and noise are left, so that every x_t keeps its law.
    """
    given = torch.as_tensor(times)
    whole = (
        given.ndim == 1 and len(given) > 1 and not (given.is_floating_point() or given.dtype == torch.bool)
    )
    if not whole or int(given[0]) or bool((given.diff() <= 0).any()) or int(given[-1]) > schedule.steps:
        raise refuse("times", times, f"integers from 0 to at most {schedule.steps}, strictly increasing")
    given = given.to(schedule.signal.device)
    return Schedule(schedule.signal[given], schedule.noise[given])


def evenly(schedule: Schedule, jumps: int) -> Schedule:
    """Return the sub-sequence from 0 to T in so many jumps, as even as integers allow."""
    jumps = integer("jumps", jumps, 1, schedule.steps)
    return subsequence(schedule, torch.arange(jumps + 1) * schedule.steps // jumps)


# -- steps -------------------------------------------------------------------------------------


def diffuse(x0: Tensor, signal: Level, noise: Level, *, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return ``x_t = signal * x_0 + noise * eps`` and eps; signal and noise are numbers, or (n,) for rows."""
    signal, noise = _column("signal", signal, x0), _column("noise", noise, x0)
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    return signal * x0 + noise * eps, eps


def small_variance(schedule: Schedule) -> Tensor:
    r"""Return :math:`\bar\beta_{t-1}^2\beta_t^2/\bar\beta_t^2`, t = 1..T: the variance of DDPM's `bridge`.

    It is the variance of :math:`p(x_{t-1}|x_t)`, too, if the data are a single point.
    """
    return (schedule.noise[:-1] * schedule.step_noise / schedule.noise[1:]) ** 2


def large_variance(schedule: Schedule) -> Tensor:
    r"""Return :math:`\beta_t^2`, t = 1..T.

    It is the variance of :math:`p(x_{t-1}|x_t)` if the data are a unit Gaussian and the schedule keeps it so.
    """
    return schedule.step_noise**2


def learned_variance(v: Level, schedule: Schedule) -> Tensor:
    """Return ``large**v * small**(1 - v)`` (Nichol and Dhariwal, 2021), v in [0, 1], () or (..., T)."""
    v = torch.as_tensor(_number("v", v), dtype=torch.float64, device=schedule.noise.device)
    if (v.ndim and v.shape[-1] != schedule.steps) or not bool(((v >= 0) & (v <= 1)).all()):
        raise refuse("v", v, f"numbers from 0 to 1, one or {schedule.steps}")
    return large_variance(schedule) ** v * small_variance(schedule) ** (1 - v)


def bridge(x0: Tensor, xt: Tensor, schedule: Schedule, t: int, sigma: float) -> Tensor:
    r"""Return the mean of DDIM's :math:`p(x_{t-1}|x_t,x_0)`, whose covariance is ``sigma**2 * I``.

    ``kappa * x_t + lambda * x_0`` with ``kappa = sqrt(noise[t-1]**2 - sigma**2) / noise[t]`` and
    ``lambda = signal[t-1] - kappa * signal[t]`` keeps all marginals, for any sigma from 0 to ``noise[t-1]``;
    the root of `small_variance` is DDPM's.
    """
    t = integer("t", t, 1, schedule.steps)
    noise = float(schedule.noise[t - 1])
    sigma = real("sigma", sigma, 0, noise)
    kappa = math.sqrt((noise - sigma) * (noise + sigma)) / float(schedule.noise[t])
    return kappa * xt + (float(schedule.signal[t - 1]) - kappa * float(schedule.signal[t])) * x0


def ddim_step(x: Tensor, eps: Tensor, schedule: Schedule, t: int, sigma: float = 0.0) -> Tensor:
    """Return the mean of DDIM's step from x_t: `bridge` with the data that x and eps point to."""
    t = integer("t", t, 1, schedule.steps)
    x0 = (x - float(schedule.noise[t]) * eps) / float(schedule.signal[t])
    return bridge(x0, x, schedule, t, sigma)


def ancestral_step(x: Tensor, eps: Tensor, schedule: Schedule, t: int) -> Tensor:
    r"""Return the mean of DDPM's step from x_t, :math:`(x - \beta_t^2/\bar\beta_t\,\epsilon)/\alpha_t`."""
    t = integer("t", t, 1, schedule.steps)
    alpha, beta = float(schedule.step_signal[t - 1]), float(schedule.step_noise[t - 1])
    return (x - beta**2 / float(schedule.noise[t]) * eps) / alpha


# -- samplers ----------------------------------------------------------------------------------


def ancestral(
    model: Model,
    schedule: Schedule,
    start: Tensor,
    *,
    variance: Literal["small", "large"] | Tensor = "small",
    generator: Generator,
    keep: bool = False,
) -> Tensor:
    r"""Sample as DDPM does: ``x_{t-1} = (x_t - beta_t**2 / noise_t * eps) / alpha_t + sigma_t * z``.

    Parameters
    ----------
    model : function ``model(x, signal, noise)``
    start : tensor (n, ...)
        x_T; dtype and device are its own throughout.
    variance : "small", "large" or tensor (T,)
        The table of :math:`\sigma_t^2`. A step that ends in the data (noise 0) adds none.
    keep : bool
        Return all states (T + 1, n, ...) from x_T to x_0, and not only x_0 (n, ...).

    Raises
    ------
    ValueError
        If an argument is not as described, or the model returns another shape, or numbers not finite in the
        first step.
    """
    if isinstance(variance, Tensor):
        good = variance.shape == (schedule.steps,) and bool((variance.isfinite() & (variance >= 0)).all())
        if not good:
            raise refuse("variance", variance, f"{schedule.steps} numbers >= 0, one for each step")
        table = variance.double()
    elif variance in ("small", "large"):
        table = small_variance(schedule) if variance == "small" else large_variance(schedule)
    else:
        raise refuse("variance", variance, one_of(variance, ["small", "large"]) + ", or a tensor")
    alpha, beta = schedule.step_signal, schedule.step_noise
    sigma = torch.where(schedule.noise[:-1].to(table.device) > 0, table, 0).sqrt()
    pull = -(beta**2) / (schedule.noise[1:] * alpha)
    tables = [schedule.signal[1:], schedule.noise[1:], 1 / alpha, pull, sigma]
    return _walk(model, start, [table.flip(0) for table in tables], generator, keep)


def ddim(
    model: Model,
    schedule: Schedule,
    start: Tensor,
    *,
    eta: float | Tensor = 0.0,
    generator: Generator | None = None,
    keep: bool = False,
) -> Tensor:
    """Sample as DDIM does: step by step by `ddim_step`, plus ``sigma_t * z``.

    ``x_{t-1} = signal_{t-1} * x0 + sqrt(noise_{t-1}**2 - sigma_t**2) * eps + sigma_t * z`` with
    ``x0 = (x_t - noise_t * eps) / signal_t`` and ``sigma_t = eta * sqrt(small_variance)``.

    Parameters
    ----------
    model, start, keep : as for `ancestral`
    eta : float or tensor (T,)
        0 is deterministic, 1 is DDPM with the small variance; at most ``noise_t / step_noise_t``.
    generator : torch.Generator, on the device of start
        Not needed for eta 0.
    """
    # The step into the data, which have no noise to give, is without noise for any eta.
    limits = torch.where(schedule.noise[:-1] > 0, schedule.noise[1:] / schedule.step_noise, math.inf)
    etas = torch.as_tensor(_number("eta", eta), dtype=torch.float64, device=limits.device)
    good = etas.shape in ((), limits.shape) and bool(((etas >= 0) & (etas <= limits * (1 + 1e-12))).all())
    if not good or not bool(etas.isfinite().all()):
        most = float(limits.min())
        raise refuse("eta", eta, f"a number >= 0, one or {schedule.steps}; for all steps at most {most:.6g}")
    squares = etas**2 * small_variance(schedule)
    keeping = schedule.signal[:-1] / schedule.signal[1:]
    pull = (schedule.noise[:-1] ** 2 - squares).clamp_min(0).sqrt() - keeping * schedule.noise[1:]
    tables = [schedule.signal[1:], schedule.noise[1:], keeping, pull, squares.sqrt()]
    return _walk(model, start, [table.flip(0) for table in tables], generator, keep)


def ddim_encode(model: Model, schedule: Schedule, x0: Tensor, *, keep: bool = False) -> Tensor:
    """Run `ddim` with eta 0 from the data to x_T, by Euler's steps of the same equation.

    Each step asks the model at the noise where it begins, but the first, where there is none, at its end.
    """
    signal, noise = schedule.signal, schedule.noise
    ahead = signal[1:] / signal[:-1]
    push = noise[1:] - ahead * noise[:-1]
    at = torch.arange(schedule.steps, device=signal.device)
    at[0] = int(noise[0] == 0)
    return _walk(model, x0, [signal[at], noise[at], ahead, push, torch.zeros_like(push)], None, keep)


def _walk(
    model: Model, start: Tensor, tables: list[Tensor], generator: Generator | None, keep: bool
) -> Tensor:
    """Take steps ``x = keeping * x + pull * eps + sigma * z``; tables of signal, noise and these three."""
    if not start.ndim or not start.is_floating_point() or not bool(start.isfinite().all()):
        raise refuse("start", start, "finite floating-point numbers (n, ...)")
    if bool(tables[-1].any()) and (generator is None or generator.device.type != start.device.type):
        where = None if generator is None else generator.device
        raise refuse("generator", where, f"one on {start.device}, because noise has to be drawn")
    x, other = start.detach().clone(), torch.empty_like(start)
    states, first = [x.clone()], True
    with torch.no_grad():
        for signal, noise, keeping, pull, sigma in zip(*(table.tolist() for table in tables), strict=True):
            eps = returned("model", model(x, signal, noise), x, finite=first)
            first = False
            if sigma:  # drawn where the sum is made, so that there is nothing to copy
                other.normal_(0, sigma, generator=generator).add_(x, alpha=keeping)
            else:
                torch.mul(x, keeping, out=other)
            x, other = other.add_(eps, alpha=pull), x
            if keep:
                states.append(x.clone())
    return torch.stack(states) if keep else x


def _number(name: str, value: Level) -> Level:
    return value if isinstance(value, Tensor) else real(name, value)


def _column(name: str, level: Level, x: Tensor) -> Tensor:
    """Return a number for each row of x, ready to be multiplied with it."""
    level = torch.as_tensor(_number(name, level), dtype=x.dtype, device=x.device)
    if level.numel() not in (1, len(x)) or not bool((level.isfinite() & (level >= 0)).all()):
        raise refuse(name, level, f"a finite number >= 0, or {len(x)}, one for each row")
    return level.reshape(-1, *(1 for _ in x.shape[1:]))


# -- models ------------------------------------------------------------------------------------


def perfect(mixture: mixtures.GaussianMixture) -> Model:
    """Return the best possible noise model for data from the mixture: E[eps | x_t]."""

    def model(x: Tensor, signal: float, noise: float) -> Tensor:
        return mixtures.predicted_noise(mixture, x, signal, noise).to(x.dtype)

    return model


class NoiseNetwork(nn.Module):
    """A residual multilayer perceptron that guesses eps from x_t.

    It sees x_t at unit scale and the logarithm of noise / signal as sines. It guesses ``v = signal * eps -
    noise * x_0`` (Salimans and Ho, 2022), and ``eps = noise * x_t + signal * v`` at unit scale: for almost
    pure noise, where errors of eps are divided by the signal, they are small.

    Parameters
    ----------
    dim, width, blocks : int
        Dimension of x, width of the hidden layers, number of residual blocks.
    classes : int
        Number of labels that it can be told; 0 for none.
    generator : torch.Generator
        For the first weights.
    """

    frequencies: Tensor

    def __init__(
        self, dim: int, width: int = 256, blocks: int = 3, *, classes: int = 0, generator: Generator
    ) -> None:
        super().__init__()
        dim, width, blocks = integer("dim", dim, 1), integer("width", width, 2), integer("blocks", blocks, 1)
        device = generator.device

        def layer(size: int, out: int, scale: float = 1.0) -> nn.Linear:
            made: nn.Linear = nn.utils.skip_init(
                nn.Linear, size, out, device=device
            )  # draws no global random numbers
            nn.init.normal_(made.weight, 0, scale / math.sqrt(size), generator=generator)
            nn.init.zeros_(made.bias)
            return made

        def block() -> nn.Module:
            norm = nn.LayerNorm(width, device=device)
            return nn.Sequential(norm, layer(width, width), nn.SiLU(), layer(width, width, 0.0))

        self.dim, self.classes = dim, integer("classes", classes, 0)
        self.register_buffer("frequencies", 2.0 ** torch.arange(-3, 5, device=device))
        self.told = nn.Parameter(torch.zeros(self.classes + 1, width, device=device))
        self.level, self.inner = layer(16, width), layer(dim, width)
        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self.outer = nn.Sequential(nn.LayerNorm(width, device=device), layer(width, dim, 0.0))

    def forward(self, x: Tensor, signal: Level, noise: Level, labels: Tensor | None = None) -> Tensor:
        """Return the guess of eps (n, dim); signal and noise are numbers or (n,), labels (n,) or None."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise refuse("x", tuple(x.shape), f"shape (n, {self.dim})")
        signal, noise = _column("signal", signal, x), _column("noise", noise, x)
        scale = (signal**2 + noise**2).sqrt()
        x, signal, noise = x / scale, signal / scale, noise / scale
        angles = (noise / signal).log().reshape(-1, 1) * self.frequencies
        told = self.told[self.classes if labels is None else labels]
        level = nn.functional.silu(self.level(torch.cat([angles.sin(), angles.cos()], 1)) + told)
        hidden = self.inner(x)
        for block in self.blocks:
            hidden = hidden + block(hidden + level)
        guess: Tensor = noise * x + signal * self.outer(hidden)
        return guess


def train(
    network: NoiseNetwork,
    data: Tensor,
    schedule: Schedule,
    *,
    steps: int,
    batch: int = 128,
    rate: float = 3e-3,
    labels: Tensor | None = None,
    untold: float = 0.1,
    generator: Generator,
) -> Tensor:
    """Train a noise network by Adam, its rate falling to 0 as a cosine, and average the weights at the end.

    The loss is ``(eps - network)**2 / signal_t**2`` with t uniform in 1..T: DDPM's with the weight that makes
    it the squared error of v, so that levels of much noise count too.

    Parameters
    ----------
    data : tensor (n, d)
    labels : integer tensor (n,), optional
        Told to the network, but for a share ``untold`` of the examples.

    Returns
    -------
    tensor (steps,): DDPM's loss without the weight, per coordinate, for each batch.
    """
    steps, batch = integer("steps", steps, 1), integer("batch", batch, 1)
    weights: list[Tensor] = list(network.parameters())
    data, device = data.to(weights[0]), weights[0].device
    if data.ndim != 2 or not len(data) or data.shape[1] != network.dim or not bool(data.isfinite().all()):
        raise refuse("data", tuple(data.shape), f"finite numbers (n, {network.dim}), n >= 1")
    known = range(network.classes)
    shape = data.shape[:1], torch.int64
    if labels is not None and ((labels.shape, labels.dtype) != shape or not {*labels.tolist()} <= {*known}):
        raise refuse(
            "labels", labels, f"for each of {len(data)} rows an integer from 0 to {network.classes - 1}"
        )
    untold = real("untold", untold, 0, 1)
    signals, noises = (table[1:].to(data) for table in (schedule.signal, schedule.noise))
    average, losses = [w.detach().clone() for w in weights], data.new_empty(steps)
    optimiser = torch.optim.Adam(
        weights, lr=real("rate", rate, 0, open_low=True), betas=(0.9, 0.99), fused=True
    )
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * i / steps)) / 2
        rows = torch.randint(len(data), (batch,), generator=generator, device=device)
        t = torch.randint(schedule.steps, (batch,), generator=generator, device=device)
        xt, eps = diffuse(data[rows], signals[t], noises[t], generator=generator)
        told = None
        if labels is not None:
            hidden = torch.rand(batch, generator=generator, device=device) < untold
            told = labels.to(device)[rows].masked_fill(hidden, network.classes)
        squares = (network(xt, signals[t], noises[t], told) - eps).square().mean(1)
        optimiser.zero_grad()
        (squares / signals[t] ** 2).mean().backward()
        optimiser.step()
        with torch.no_grad():
            losses[i] = squares.mean()
            torch._foreach_lerp_(average, weights, max(0.001, 1 / (i + 1)))
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
    return losses


def digits_model(
    seed: int = 1, *, steps: int = 2500, width: int = 256, blocks: int = 3, real: Images | None = None
) -> NoiseNetwork:
    """Return a network trained on the digits of `kexue_lib.data.digits_split`, scaled to [-1, 1].

    Or on `real`, other pictures of ten classes: for many pixels the network is small, and learns a little.
    Of half of the examples it was told which digit they are: it guesses for one digit (labels 0 to 9), or
    without labels for all. It is kept in the folder ``KEXUE_CACHE`` (or the user's cache), and made anew if
    the file is damaged or anything that decides the weights is another: an argument, the data, this module,
    the version of torch.
    """
    real = digits_split()[0] if real is None else real
    data, labels = real.images * 2 - 1, real.labels
    network = NoiseNetwork(
        data.shape[1], width, blocks, classes=10, generator=stream(seed, "digits", "weights")
    )
    steps = integer("steps", steps, 1)
    decides = (seed, steps, width, blocks, torch.__version__, Path(__file__).read_text(encoding="utf-8"))
    digest = hashlib.sha256(
        repr(decides).encode() + data.numpy().tobytes() + labels.numpy().tobytes()
    ).hexdigest()
    folder = Path(os.environ.get("KEXUE_CACHE") or user_cache_path("kexue"))
    path = folder / f"digits-{digest[:32]}.pt"
    with contextlib.suppress(OSError):
        check, payload = path.read_bytes()[:32], path.read_bytes()[32:]
        if hashlib.sha256(payload).digest() == check:
            network.load_state_dict(torch.load(io.BytesIO(payload), weights_only=True))
            return network
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network gains nothing by more, and its weights would depend on them
    try:
        generator = stream(seed, "digits", "training")
        train(network, data, cosine(), steps=steps, labels=labels, untold=0.5, generator=generator)
    finally:
        torch.set_num_threads(threads)
    written = io.BytesIO()
    torch.save(network.state_dict(), written)
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time, not the network
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            file.write(hashlib.sha256(written.getvalue()).digest() + written.getvalue())
        os.replace(file.name, path)  # whole or not at all, whoever else writes it now
    return network
