"""Mathematics of schedules, steps and samplers: closed forms, chains that are exact, orders; the networks."""

import concurrent.futures
import itertools
import math
import shutil

import mpmath
import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from kexue_lib import ddpm as d
from kexue_lib import mixture
from kexue_lib.data import digits
from kexue_lib.judge import frechet_distance, train_judge

TIMES = torch.linspace(0, 0.9, 8, dtype=torch.float64)
SCHEDULES = {
    "linear": d.linear(),
    "post": d.linear_post(200),
    "cosine": d.cosine(100),
    "coarse": d.evenly(d.linear(), 7),
    "one step": d.linear(1),
    "straight": d.Schedule(1 - TIMES, TIMES),  # does not preserve variance
    "exploding": d.Schedule(torch.ones_like(TIMES), 5 * TIMES**2),
}
PRESERVING = ["linear", "post", "cosine", "coarse", "one step"]
MIXTURE = mixture.gaussian_mixture(
    torch.tensor([[1.2, 0.4], [-0.8, 0.6], [0.1, -1.1]]),
    torch.tensor([0.05, 0.1, 0.02]),
    torch.tensor([0.5, 0.3, 0.2]),
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=rng(seed), dtype=dtype)


def gaussian(variance, mean=0.0):
    """E[eps | x_t] for data N(mean, variance); a point if the variance is 0."""
    return lambda x, signal, noise: (x - signal * mean) * noise / (signal**2 * variance + noise**2)


def close(a, b, rtol=1e-12, atol=0.0):
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def order(errors):
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


def closed(model, *arguments, **options):
    """Run a sampler for x with one coordinate and return the affine map of each step, (K,) and (K,)."""
    states = model(*arguments, torch.tensor([[0.0], [1.0]], dtype=torch.float64), keep=True, **options)
    zero, one = states[:, 0, 0], states[:, 1, 0]
    slopes = (one - zero)[1:] / (one - zero)[:-1]
    return slopes, zero[1:] - slopes * zero[:-1]


# -- schedules -------------------------------------------------------------------------------------


def exact_variances(name, steps):
    """Step variances in 60 digits, from the papers' formulas."""
    one = mpmath.mpf(1)
    if name == "linear":
        # first and last are numbers of float64, as everybody writes them
        low, high = mpmath.mpf(1e-4), mpmath.mpf(0.02)
        return [low + (high - low) * t / (steps - 1) for t in range(steps)]
    if name == "linear_post":
        return [one * 2 / 100 * t / steps for t in range(1, steps + 1)]

    def f(t):
        return mpmath.cos((one * t / steps + one * 8 / 1000) / (1 + one * 8 / 1000) * mpmath.pi / 2) ** 2

    return [min(1 - f(t) / f(t - 1), one * 999 / 1000) for t in range(1, steps + 1)]


@pytest.mark.parametrize("name", ["linear", "linear_post", "cosine"])
@pytest.mark.parametrize("steps", [10, 1000])
def test_tables_against_sixty_digits(name, steps):
    schedule = getattr(d, name)(steps)
    with mpmath.workdps(60):
        left, worst = mpmath.mpf(1), 0
        for t, variance in enumerate(exact_variances(name, steps), start=1):
            left *= 1 - variance
            for ours, exact in (
                (schedule.signal[t], mpmath.sqrt(left)),
                (schedule.noise[t], mpmath.sqrt(1 - left)),
                (schedule.step_signal[t - 1], mpmath.sqrt(1 - variance)),
                (schedule.step_noise[t - 1], mpmath.sqrt(variance)),
                (d.large_variance(schedule)[t - 1], variance),
            ):
                worst = max(worst, abs(float(ours) / exact - 1))
    assert worst < 1e-12
    assert (schedule.steps, float(schedule.signal[0]), float(schedule.noise[0])) == (steps, 1, 0)


def test_famous_values():
    linear, cosine = d.linear(), d.cosine()
    assert float(linear.signal[-1] ** 2) == pytest.approx(4.0358e-5, abs=5e-10)  # where DDPM's chain ends
    assert float(linear.step_noise[0] ** 2) == pytest.approx(1e-4, rel=1e-13)
    assert float(linear.step_noise[-1] ** 2) == pytest.approx(0.02, rel=1e-12)
    assert float(cosine.step_noise[-1] ** 2) == pytest.approx(0.999, rel=1e-12)  # the clip
    assert float(cosine.step_noise[-2] ** 2) < 0.999
    half = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert float(cosine.signal[500]) == pytest.approx(half, rel=1e-13)


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_compose(name):
    """x_t = step_signal * x_{t-1} + step_noise * eps, again and again, is signal * x_0 + noise * eps."""
    s = SCHEDULES[name]
    signal, variance = s.signal[0], s.noise[0] ** 2
    for t in range(s.steps):
        signal = s.step_signal[t] * signal
        variance = s.step_signal[t] ** 2 * variance + s.step_noise[t] ** 2
        close(signal, s.signal[t + 1])
        close(variance, s.noise[t + 1] ** 2)
    if name in PRESERVING:
        close(s.step_signal**2 + s.step_noise**2, torch.ones(s.steps, dtype=torch.float64))
        close(s.signal**2 + s.noise**2, torch.ones(s.steps + 1, dtype=torch.float64))
    close(s.snr[1:], s.signal[1:] ** 2 / s.noise[1:] ** 2)
    assert bool((s.snr.diff() < 0).all())


def test_noise_without_cancellation():
    """From step variances the noise has all its digits; from the signal, those that its last one leaves."""
    tiny = d.from_step_variances(torch.tensor([1e-18, 1e-12], dtype=torch.float64))
    close(tiny.noise, [0, 1e-9, math.sqrt(1e-12 + 1e-18 - 1e-30)], rtol=1e-15)
    signal = torch.tensor([1.0, 0.8, 0.6, 2**-40], dtype=torch.float64)
    close(d.variance_preserving(signal).noise, [0, 0.6, 0.8, math.sqrt(1 - 2**-80)], rtol=2e-16)
    near = 1 - 2.0**-40  # 1 - near**2 = 2**-39 - 2**-80 is exact in the factored form
    of_near = d.variance_preserving(torch.tensor([1.0, near], dtype=torch.float64)).noise[1]
    close(of_near, math.sqrt(2.0**-39 - 2.0**-80), rtol=2e-16)


def test_single_precision_spoils_the_noise_and_not_the_product():
    variances = torch.linspace(1e-4, 0.02, 1000)
    product = (1 - variances).cumprod(0)
    rounding = 2.0**-24
    assert abs(float(product[-1].sqrt()) / float(d.linear().signal[-1]) - 1) < 100 * rounding
    assert abs(float((1 - product[0]).sqrt()) / float(d.linear().noise[1]) - 1) > 1000 * rounding


@pytest.mark.parametrize("name", SCHEDULES)
def test_subsequences_are_exact(name):
    s = SCHEDULES[name]
    times = [0, *sorted({1, s.steps // 3, s.steps // 2, s.steps} - {0})]
    jumping = d.subsequence(s, times)
    assert torch.equal(jumping.signal, s.signal[times])
    assert torch.equal(jumping.noise, s.noise[times])
    for jump, (a, b) in enumerate(itertools.pairwise(times)):
        close(jumping.step_signal[jump], s.step_signal[a:b].prod())
        variance = torch.zeros((), dtype=torch.float64)
        for t in range(a, b):
            variance = variance * s.step_signal[t] ** 2 + s.step_noise[t] ** 2
        close(jumping.step_noise[jump] ** 2, variance, rtol=1e-11)
    again = d.subsequence(jumping, torch.tensor([0, len(times) - 1]))
    assert torch.equal(again.noise, s.noise[[0, s.steps]])


def test_even_jumps():
    s = d.linear(100)
    for jumps in (1, 2, 7, 30, 99, 100):
        chosen = torch.searchsorted(s.noise, d.evenly(s, jumps).noise)
        assert (int(chosen[0]), int(chosen[-1]), len(chosen)) == (0, 100, jumps + 1)
        assert int(chosen.diff().max() - chosen.diff().min()) <= 1
    assert torch.equal(d.evenly(s, 100).signal, s.signal)


# -- steps -----------------------------------------------------------------------------------------


def coefficients(s, t, sigma):
    """kappa and lambda of a bridge."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return float(d.bridge(zero, one, s, t, sigma)), float(d.bridge(one, zero, s, t, sigma))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_bridges_keep_the_marginals_for_any_sigma(name, share):
    s = SCHEDULES[name]
    for t in {1, 2, s.steps // 2, s.steps} & set(range(1, s.steps + 1)):
        sigma = share * float(s.noise[t - 1])
        kappa, lam = coefficients(s, t, sigma)
        assert kappa * float(s.signal[t]) + lam == pytest.approx(float(s.signal[t - 1]), rel=1e-12)
        variance = kappa**2 * float(s.noise[t]) ** 2 + sigma**2
        assert variance == pytest.approx(float(s.noise[t - 1]) ** 2, rel=1e-12, abs=1e-15)
        assert kappa >= 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bridge_of_ddpm_is_bayes(name):
    """Against the conditional law of jointly normal numbers: x_{t-1}, and x_t = alpha x_{t-1} + beta eps."""
    s = SCHEDULES[name]
    small = d.small_variance(s)
    for t in range(1, s.steps + 1):
        a, before, after = float(s.step_signal[t - 1]), float(s.noise[t - 1]) ** 2, float(s.noise[t]) ** 2
        joint = np.array([[before, a * before], [a * before, after]])
        gain = joint[0, 1] / joint[1, 1]
        kappa, lam = coefficients(s, t, math.sqrt(small[t - 1]))
        assert kappa == pytest.approx(gain, rel=1e-10, abs=1e-14)
        assert lam == pytest.approx(float(s.signal[t - 1]) - gain * float(s.signal[t]), rel=1e-10)
        schur = joint[0, 0] - gain * joint[1, 0]  # cancels, so that its own rounding is the tolerance
        assert float(small[t - 1]) == pytest.approx(schur, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddims_step_is_eulers(name):
    """In x / signal against noise / signal: y + (r' - r) * eps."""
    s = SCHEDULES[name]
    x, eps = normal(5, 3), normal(5, 3, seed=1)
    for t in range(1, s.steps + 1):
        r, r_next = s.noise[t] / s.signal[t], s.noise[t - 1] / s.signal[t - 1]
        euler = s.signal[t - 1] * (x / s.signal[t] + (r_next - r) * eps)
        close(d.ddim_step(x, eps, s, t), euler, atol=1e-12 / float(s.signal[t]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpms_step_is_ddims_with_its_sigma(name):
    s = SCHEDULES[name]
    x, eps = normal(5, 3), normal(5, 3, seed=1)
    for t in range(1, s.steps + 1):
        sigma = math.sqrt(d.small_variance(s)[t - 1])
        of_ddim = d.ddim_step(x, eps, s, t, sigma)
        close(d.ancestral_step(x, eps, s, t), of_ddim, atol=1e-11 / float(s.step_signal[t - 1]))
        if t > 1:
            assert float((d.ddim_step(x, eps, s, t, sigma / 2) - of_ddim).abs().max()) > 1e-9


def test_learned_variance_lies_between():
    s = d.linear(50)
    small, large = d.small_variance(s), d.large_variance(s)
    assert bool((small < large).all())
    close(d.learned_variance(1.0, s), large)  # t = 1 too, where the small one is 0
    close(d.learned_variance(0.0, s), small)
    close(d.learned_variance(0.5, s), (small * large).sqrt())
    v = torch.rand(4, 50, generator=rng(), dtype=torch.float64)
    logs = v[:, 1:] * large[1:].log() + (1 - v[:, 1:]) * small[1:].log()
    close(d.learned_variance(v, s)[:, 1:], logs.exp())
    assert bool((d.learned_variance(v, s)[:, 0] == 0).all())


@pytest.mark.parametrize("name", PRESERVING)
@pytest.mark.parametrize(("variance", "exact", "wrong"), [(1.0, "large", "small"), (0.0, "small", "large")])
def test_each_choice_of_variance_is_exact_for_its_data(name, variance, exact, wrong):
    """Variance through the chain, exactly, for a unit Gaussian and for a point; all states too."""
    s = SCHEDULES[name]
    tables = {"small": d.small_variance(s), "large": d.large_variance(s)}
    silent = torch.zeros(s.steps, dtype=torch.float64)
    slopes, _ = closed(d.ancestral, gaussian(variance), s, variance=silent, generator=rng())
    same, offsets = closed(d.ancestral, gaussian(variance, mean=0.7), s, variance=silent, generator=rng())
    close(same, slopes, rtol=1e-8, atol=1e-8)
    errors = {}
    for choice, table in tables.items():
        added = torch.cat([torch.zeros(1, dtype=torch.float64), table[1:]]).flip(0)
        law, mean, worst = (
            float(s.signal[-1] ** 2 * variance + s.noise[-1] ** 2),
            0.7 * float(s.signal[-1]),
            0.0,
        )
        for i in range(s.steps):
            law = float(slopes[i]) ** 2 * law + float(added[i])
            mean = float(slopes[i]) * mean + float(offsets[i])
            before = s.steps - 1 - i
            assert mean == pytest.approx(0.7 * float(s.signal[before]), abs=1e-12 / float(s.signal[-1]))
            if before:  # the last step has no noise, and unit Gaussian data are not reached exactly
                expected = float(s.signal[before] ** 2 * variance + s.noise[before] ** 2)
                worst = max(worst, abs(law / expected - 1))
        errors[choice] = worst
    assert errors[exact] < 1e-11
    if s.steps > 1:
        assert errors[wrong] > 1e-3


@pytest.mark.parametrize("variance", [0.0, 0.1, 0.6, 1.0])
def test_the_exact_variance_of_gaussian_data_lies_between(variance):
    s = SCHEDULES["coarse"]
    v = s.signal**2 * variance + s.noise**2
    exact = v[:-1] - s.step_signal**2 * v[:-1] ** 2 / v[1:]  # p(x_{t-1} | x_t), jointly normal
    assert bool((exact >= d.small_variance(s) - 1e-15).all())
    assert bool((exact <= d.large_variance(s) + 1e-15).all())


def test_diffusing():
    x0 = normal(1000, 3, dtype=torch.float32)
    xt, eps = d.diffuse(x0, 0.8, torch.tensor(0.6, dtype=torch.float64), generator=rng(1))
    assert xt.dtype == eps.dtype == torch.float32
    close(xt, 0.8 * x0 + 0.6 * eps, rtol=1e-5, atol=1e-6)
    assert abs(float(eps.mean())) < 4.5 / math.sqrt(3000)
    assert abs(float(eps.var()) - 1) < 4.5 * math.sqrt(2 / 3000)
    signal, noise = torch.rand(2, 1000, generator=rng(2))
    rows, same = d.diffuse(x0, signal, noise[:, None], generator=rng(1))
    assert torch.equal(same, eps)
    close(rows[17], signal[17] * x0[17] + noise[17] * eps[17], rtol=1e-5, atol=1e-6)


# -- samplers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_its_steps(name, eta):
    s = SCHEDULES[name]
    model, start = d.perfect(MIXTURE), normal(20, 2)
    states = d.ddim(model, s, start, eta=eta, generator=rng(1), keep=True)
    x, g = start, rng(1)
    for t in range(s.steps, 0, -1):
        sigma = eta * math.sqrt(d.small_variance(s)[t - 1])
        x = d.ddim_step(x, model(x, float(s.signal[t]), float(s.noise[t])), s, t, sigma)
        if sigma:
            x = x + sigma * torch.randn(20, 2, generator=g, dtype=torch.float64)
        close(states[s.steps + 1 - t], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance", ["small", "large", "own"])
def test_ancestral_is_its_steps_and_the_last_has_no_noise(name, variance):
    s = SCHEDULES[name]
    model, start = d.perfect(MIXTURE), normal(20, 2)
    own = torch.linspace(0.5, 2, s.steps, dtype=torch.float64)
    table = {"small": d.small_variance(s), "large": d.large_variance(s), "own": own}[variance]
    given = own if variance == "own" else variance
    states = d.ancestral(model, s, start, variance=given, generator=rng(1), keep=True)
    x, g = start, rng(1)
    for t in range(s.steps, 0, -1):
        x = d.ancestral_step(x, model(x, float(s.signal[t]), float(s.noise[t])), s, t)
        if t > 1:
            z = torch.randn(20, 2, generator=g, dtype=torch.float64)
            x = x + math.sqrt(table[t - 1]) * z
        close(states[s.steps + 1 - t], x, rtol=1e-9, atol=1e-9)


def test_a_schedule_that_ends_before_the_data_keeps_its_last_noise():
    s = d.Schedule(SCHEDULES["straight"].signal[2:], SCHEDULES["straight"].noise[2:])
    start = torch.zeros(50_000, 1, dtype=torch.float64)
    end = d.ancestral(gaussian(0.0), s, float(s.noise[-1]) * normal(50_000, 1), generator=rng(1))
    assert float(end.var()) == pytest.approx(float(s.noise[0] ** 2), rel=4.5 * math.sqrt(2 / 50_000))
    assert float(d.ddim(gaussian(0.0), s, start, eta=1.0, generator=rng(1)).var()) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_eta_one_is_ddpm_with_the_same_noise(name):
    s = SCHEDULES[name]
    model, start = d.perfect(MIXTURE), normal(50, 2)
    ours = d.ddim(model, s, start, eta=1.0, generator=rng(1))
    theirs = d.ancestral(model, s, start, variance="small", generator=rng(1))
    close(ours, theirs, rtol=1e-9, atol=1e-9)
    if s.steps > 1:
        large = d.ancestral(model, s, start, variance="large", generator=rng(1))
        assert float((large - theirs).abs().max()) > 1e-3


def test_the_limit_of_eta_is_exact():
    s, model = d.linear(9), gaussian(1.0)
    most = float((s.noise[1:] / s.step_noise)[1:].min())
    d.ddim(model, s, normal(3, 2), eta=most, generator=rng())
    with pytest.raises(ValueError, match="eta = "):
        d.ddim(model, s, normal(3, 2), eta=most * (1 + 1e-9), generator=rng())
    largest = s.noise[1:] / s.step_noise
    d.ddim(model, s, normal(3, 2), eta=largest, generator=rng())
    with pytest.raises(ValueError, match="eta = "):
        d.ddim(model, s, normal(3, 2), eta=largest * (1 + 1e-9), generator=rng())
    d.ddim(model, d.linear(1), normal(3, 2), eta=1e3)  # into the data: no noise


def test_the_largest_eta_forgets_the_direction():
    """sigma = noise_{t-1}: the next state is the guess of the data under new noise."""
    s = SCHEDULES["coarse"]
    largest = s.noise[1:] / s.step_noise
    model, start, g = d.perfect(MIXTURE), normal(20, 2), rng(1)
    states = d.ddim(model, s, start, eta=largest, generator=rng(1), keep=True)
    for i, t in enumerate(range(s.steps, 1, -1)):
        guess = mixture.denoised(MIXTURE, states[i], s.signal[t], s.noise[t])
        z = torch.randn(20, 2, generator=g, dtype=torch.float64)
        close(states[i + 1], s.signal[t - 1] * guess + s.noise[t - 1] * z, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance", [0.0, 0.25, 1.0])
def test_ddims_map_of_a_gaussian_in_closed_form(name, variance):
    s = SCHEDULES[name]
    slopes, offsets = closed(d.ddim, gaussian(variance, mean=-0.4), s)
    signal, noise = s.signal, s.noise
    exact = (signal[:-1] * signal[1:] * variance + noise[:-1] * noise[1:]) / (
        signal[1:] ** 2 * variance + noise[1:] ** 2
    )
    if variance or s.steps > 1:
        keep = slice(None, -1) if variance == 0 else slice(None)  # a point is reached, and 0/0 after it
        close(slopes[keep], exact.flip(0)[keep], rtol=1e-9)
    means = -0.4 * (signal[:-1] - exact * signal[1:])
    close(offsets[:-1], means.flip(0)[:-1], rtol=1e-9, atol=1e-12)
    end = d.ddim(gaussian(variance, mean=-0.4), s, normal(9, 1))
    if variance == 0:
        close(end, torch.full_like(end, -0.4), rtol=1e-10)


def test_ddim_converges_to_the_flow_with_order_one():
    """The map of the equation is known for a Gaussian: x_0 = x_T * s / sqrt(signal**2 s**2 + noise**2)."""
    s, start = d.linear(), normal(100, 1)
    exact = start * 0.5 / (s.signal[-1] ** 2 * 0.25 + s.noise[-1] ** 2).sqrt()
    jumps = (125, 250, 500, 1000)
    errors = [float((d.ddim(gaussian(0.25), d.evenly(s, k), start) - exact).abs().mean()) for k in jumps]
    assert order(errors) == pytest.approx(1, abs=0.12)
    back = [float((d.ddim_encode(gaussian(0.25), d.evenly(s, k), exact) - start).abs().mean()) for k in jumps]
    assert order(back) == pytest.approx(1, abs=0.15)


def test_encoding_and_decoding_have_order_one():
    model, s = d.perfect(MIXTURE), d.cosine(1000)
    x0, _ = mixture.sample(MIXTURE, 200, generator=rng())
    errors = []
    for jumps in (250, 500, 1000):
        some = d.evenly(s, jumps)
        errors.append(
            float((d.ddim(model, some, d.ddim_encode(model, some, x0)) - x0).square().mean().sqrt())
        )
    assert order(errors) == pytest.approx(1, abs=0.2)
    assert errors[-1] < 0.05


def test_encoding_is_eulers_and_asks_the_right_levels():
    s, asked = d.linear(6), []

    def model(x, signal, noise):
        asked.append((signal, noise))
        return torch.sin(x) * signal

    x0 = normal(4, 2)
    states = d.ddim_encode(model, s, x0, keep=True)
    ratio = s.noise / s.signal
    y, levels = x0, list(zip(s.signal.tolist(), s.noise.tolist(), strict=True))
    for t in range(1, 7):
        at = max(t - 1, 1)
        x = y * s.signal[t - 1]
        y = y + (ratio[t] - ratio[t - 1]) * torch.sin(x) * s.signal[at]
        close(states[t], y * s.signal[t])
        assert asked[t - 1] == levels[at]
    assert len(asked) == 6
    noisy = d.Schedule(s.signal[2:], s.noise[2:])
    asked.clear()
    d.ddim_encode(model, noisy, x0)
    assert asked == levels[2:-1]


def law_errors(points, schedule_end=(1.0, 0.0)):
    """Characteristic function at some frequencies, less the mixture's, in standard errors."""
    law = mixture.noised(MIXTURE, *schedule_end)
    frequencies = torch.tensor([[1, 0], [0, 1], [2, 1], [-1, 3], [4, 0], [3, -4]], dtype=torch.float64)
    phases = points @ frequencies.T
    decay = (-(frequencies**2).sum(1) / 2 * law.covariances[:, None]).exp()  # (k, frequencies)
    angles = law.means @ frequencies.T
    errors = []
    for function in (torch.cos, torch.sin):
        values, exact = function(phases), law.weights @ (decay * function(angles))
        errors.append((values.mean(0) - exact) / (values.std(0) / math.sqrt(len(points))))
    return torch.cat(errors).abs()


def test_ancestral_samples_have_the_law_of_the_data():
    """All states on the way too. The steps are so many that their bias is below the noise of 8000 samples."""
    s, model = d.cosine(500), d.perfect(MIXTURE)
    start = torch.randn(8000, 2, generator=rng(1), dtype=torch.float64)
    states = d.ancestral(model, s, start, variance="small", generator=rng(2), keep=True)
    for t in (0, 100, 250, 400):
        level = float(s.signal[t]), float(s.noise[t])
        assert float(law_errors(states[s.steps - t], level).max()) < 4.5
    large = d.ancestral(model, s, start, variance="large", generator=rng(3))
    assert float(law_errors(large).max()) < 4.5
    flow = d.ddim(model, s, start)
    assert float(law_errors(flow).max()) < 4.5
    silent = torch.zeros(s.steps, dtype=torch.float64)
    wrong = d.ancestral(model, s, start, variance=silent, generator=rng(2))
    assert float(law_errors(wrong).max()) > 20
    few = d.ancestral(model, d.evenly(s, 5), start, variance="small", generator=rng(2))
    assert float(law_errors(few).max()) > 6  # the test sees the error of few steps


@pytest.mark.parametrize(
    "run",
    [
        lambda model, s, x, **o: d.ancestral(model, s, x, generator=rng(1), **o),
        lambda model, s, x, **o: d.ddim(model, s, x, **o),
        lambda model, s, x, **o: d.ddim(model, s, x, eta=1.0, generator=rng(1), **o),
        lambda model, s, x, **o: d.ddim_encode(model, s, x, **o),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_and_calls(run, dtype):
    s, start, calls = d.evenly(d.linear(), 12), normal(6, 2, 4, 4, dtype=dtype), []

    def model(x, signal, noise):
        assert type(signal) is type(noise) is float
        assert x.dtype == dtype
        assert not torch.is_grad_enabled()
        calls.append((signal, noise))
        return x * noise

    before = start.clone()
    states = run(model, s, start, keep=True)
    assert torch.equal(start, before)
    assert torch.equal(states[0], before)
    assert states.shape == (13, *start.shape)
    assert states.dtype == dtype
    assert len(calls) == 12
    levels = list(zip(s.signal[1:].tolist(), s.noise[1:].tolist(), strict=True))
    assert calls in (levels[::-1], [levels[0], *levels[:-1]])  # down, or up
    end = run(model, s, start)
    assert torch.equal(end, states[-1])
    assert torch.equal(run(lambda x, signal, noise: x.mul(noise), s, start.requires_grad_()), end)
    assert not end.requires_grad


def test_single_precision_is_near_double():
    s, model, start = d.evenly(d.linear(), 50), d.perfect(MIXTURE), normal(50, 2)
    double = d.ddim(model, s, start)
    single = d.ddim(model, s, start.float())
    assert model(start.float(), 0.8, 0.6).dtype == torch.float32
    assert single.dtype == torch.float32
    close(single, double, rtol=0, atol=2e-4)


def test_a_model_may_return_its_argument():
    s, start = d.linear(9), normal(4, 3)
    a = d.ddim(lambda x, signal, noise: x, s, start, eta=0.5, generator=rng(1))
    b = d.ddim(lambda x, signal, noise: x.clone(), s, start, eta=0.5, generator=rng(1))
    assert torch.equal(a, b)


def test_ddim_is_deterministic_and_noise_is_the_generators():
    s, model, start = d.evenly(d.linear(), 10), d.perfect(MIXTURE), normal(30, 2)
    assert torch.equal(d.ddim(model, s, start), d.ddim(model, s, start))
    g = rng(1)
    state = g.get_state()
    d.ddim(model, s, start, generator=g)
    assert torch.equal(g.get_state(), state)
    one, two = (d.ancestral(model, s, start, generator=rng(seed)) for seed in (1, 2))
    assert not torch.equal(one, two)
    global_state = torch.get_rng_state()
    d.ancestral(model, s, start, generator=rng(1))
    assert torch.equal(torch.get_rng_state(), global_state)


# -- refusals --------------------------------------------------------------------------------------


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: d.Schedule(tensor(1, 0.5), tensor(0, 0.5, 0.9)), r"shape of noise = \(3,\)"),
        (lambda: d.Schedule(tensor(1), tensor(0)), r"shape of signal = \(1,\)"),
        (lambda: d.Schedule(tensor(1, 0.5)[None], tensor(0, 0.5)[None]), r"shape of signal"),
        (
            lambda: d.Schedule(tensor(1, 0.5).float(), tensor(0, 0.5).float()),
            "dtype of signal = torch.float32",
        ),
        (lambda: d.Schedule(tensor(1, 0.5), tensor(0, 0.5).float()), "dtype of noise = torch.float32"),
        (
            lambda: d.Schedule(tensor(1, -0.5), tensor(0, 0.5)),
            "signal at index 1 = -0.5: expected a positive",
        ),
        (lambda: d.Schedule(tensor(1, 0), tensor(0, 1)), "signal at index 1 = 0.0"),
        (lambda: d.Schedule(tensor(1, math.nan), tensor(0, 1)), "signal at index 1 = nan"),
        (
            lambda: d.Schedule(tensor(1, 0.5), tensor(-0.1, 1)),
            "noise at index 0 = -0.1: expected a number >= 0",
        ),
        (lambda: d.Schedule(tensor(1, 0.5), tensor(0, math.inf)), "noise at index 1 = inf"),
        (lambda: d.Schedule(tensor(1, 0.5, 0.4), tensor(0, 0.5, 0.3)), "noise / signal at index 2 = 0.7"),
        (lambda: d.Schedule(tensor(1, 0.5, 0.5), tensor(0, 0.5, 0.5)), "noise / signal at index 2 = 1.0"),
        (lambda: d.variance_preserving(tensor(1, 1.5)), "signal = .*numbers from 0 to 1"),
        (lambda: d.variance_preserving(tensor(1, 0.5, 0.6)), "noise / signal at index 2"),
        (lambda: d.from_step_variances(tensor(0.1, 1.0)), "variances = .*between 0 and 1"),
        (lambda: d.from_step_variances(tensor(0.1, math.nan)), "variances = "),
        (lambda: d.from_step_variances(tensor()), "variances = "),
        (lambda: d.linear(0), "steps = 0: expected an integer >= 1"),
        (lambda: d.linear(10, first=0.0), "first = 0.0"),
        (lambda: d.linear(10, last=1.5), "last = 1.5"),
        (lambda: d.linear_post(2.0), "steps = 2.0"),
        (lambda: d.cosine(-1), "steps = -1"),
        (lambda: d.subsequence(d.linear(9), [0, 3, 3]), r"times = \[0, 3, 3\]: expected integers from 0 to"),
        (lambda: d.subsequence(d.linear(9), [0, 5, 4]), "times = .*strictly increasing"),
        (lambda: d.subsequence(d.linear(9), [1, 5]), "times = "),
        (lambda: d.subsequence(d.linear(9), [0, 10]), "times = .*at most 9"),
        (lambda: d.subsequence(d.linear(9), [-1, 0, 3]), "times = "),
        (lambda: d.subsequence(d.linear(9), [0]), "times = "),
        (lambda: d.subsequence(d.linear(9), [0, 4.5]), "times = "),
        (lambda: d.subsequence(d.linear(9), torch.tensor([False, True])), "times = "),
        (lambda: d.evenly(d.linear(9), 10), "jumps = 10: expected an integer from 1 to 9"),
        (lambda: d.evenly(d.linear(9), 0), "jumps = 0"),
        (lambda: d.learned_variance(1.1, d.linear(9)), "v = .*numbers from 0 to 1"),
        (lambda: d.learned_variance(tensor(-0.1, *[0.5] * 8), d.linear(9)), "v = "),
        (lambda: d.learned_variance(tensor(0.5, 0.5), d.linear(9)), "v = .*one or 9"),
        (lambda: d.learned_variance(math.nan, d.linear(9)), "v = "),
        (lambda: d.learned_variance("half", d.linear(9)), "v = 'half'"),
        (
            lambda: d.bridge(normal(1), normal(1), d.linear(9), 0, 0.0),
            "t = 0: expected an integer from 1 to 9",
        ),
        (lambda: d.bridge(normal(1), normal(1), d.linear(9), 2, 0.5), "sigma = 0.5"),
        (lambda: d.bridge(normal(1), normal(1), d.linear(9), 2, -0.001), "sigma = -0.001"),
        (lambda: d.ddim_step(normal(1), normal(1), d.linear(9), 10), "t = 10"),
        (lambda: d.ddim_step(normal(1), normal(1), d.linear(9), -1), "t = -1"),
        (lambda: d.ancestral_step(normal(1), normal(1), d.linear(9), 0), "t = 0"),
        (lambda: d.diffuse(normal(4, 2), -0.1, 1.0, generator=rng()), "signal = "),
        (
            lambda: d.diffuse(normal(4, 2), 1.0, tensor(1, 2, 3), generator=rng()),
            "noise = .*4, one for each row",
        ),
        (lambda: d.diffuse(normal(4, 2), 1.0, math.nan, generator=rng()), "noise = "),
        (lambda: d.NoiseNetwork(0, generator=rng()), "dim = 0"),
        (lambda: d.NoiseNetwork(2, 0, generator=rng()), "width = 0"),
        (lambda: d.NoiseNetwork(2, 4, 0, generator=rng()), "blocks = 0"),
        (lambda: d.NoiseNetwork(2, classes=-1, generator=rng()), "classes = -1"),
        (
            lambda: d.NoiseNetwork(2, generator=rng())(torch.ones(3, 4), 1.0, 1.0),
            r"x = \(3, 4\): expected shape",
        ),
        (lambda: d.digits_model(steps=0), "steps = 0"),
        (lambda: d.digits_model(-1), "seed = -1"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampler": d.ddim, "eta": -0.1}, "eta = -0.1"),
        ({"sampler": d.ddim, "eta": 100.0}, r"eta = 100.0: expected a number >= 0, .* at most 1\.\d+"),
        ({"sampler": d.ddim, "eta": "1"}, "eta = '1'"),
        ({"sampler": d.ddim, "eta": math.nan}, "eta = nan"),
        ({"sampler": d.ddim, "eta": tensor(0, 1)}, "eta = "),
        ({"sampler": d.ddim, "eta": 0.5}, "generator = None: expected one on cpu"),
        ({"variance": "smal"}, "variance = 'smal': expected one of small, large; did you mean small"),
        ({"variance": 0.5}, "variance = 0.5"),
        ({"variance": tensor(1, 2)}, "variance = .*9 numbers >= 0"),
        ({"variance": -torch.ones(9)}, "variance = "),
        ({"variance": torch.full((9,), math.nan)}, "variance = "),
        ({"generator": None}, "generator = None"),
        ({"start": torch.ones(3, 2, dtype=torch.int64)}, "start = "),
        ({"start": torch.full((3, 2), math.nan)}, "start = "),
        ({"start": torch.tensor(1.0)}, "start = "),
        ({"sampler": d.ddim_encode, "start": torch.full((3, 2), math.inf)}, "start = "),
    ],
)
def test_samplers_refuse_before_any_work(options, sentence):
    calls = []

    def model(x, signal, noise):
        calls.append(1)
        return x

    options = {"sampler": d.ancestral, "start": normal(3, 2), **options}
    sampler, start = options.pop("sampler"), options.pop("start")
    if sampler is d.ancestral:
        options.setdefault("generator", rng())
    with pytest.raises(ValueError, match=sentence) as caught:
        sampler(model, d.linear(9), start, **options)
    assert not calls
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "ddim_encode"])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda x: x[:, :1], r"shape of what model returns = \(3, 1\): expected \(3, 2\)"),
        (lambda x: x[0], "shape of what model returns"),
        (lambda x: None, "shape of what model returns = None"),
        (lambda x: (x, x), "shape of what model returns"),
        (lambda x: x * math.nan, "a value of model = nan: expected finite"),
        (lambda x: x / 0, "a value of model = -?inf"),
    ],
)
def test_models_are_refused_at_the_first_step(sampler, wrong, sentence):
    calls = []

    def model(x, signal, noise):
        calls.append(1)
        return wrong(x)

    options = {"generator": rng()} if sampler == "ancestral" else {}
    with pytest.raises(ValueError, match=sentence):
        getattr(d, sampler)(model, d.linear(9), normal(3, 2), **options)
    assert len(calls) == 1


def test_a_shape_that_changes_later_is_refused_too():
    shapes = iter([2, 2, 1])
    with pytest.raises(ValueError, match="shape of what model returns"):
        d.ddim(lambda x, signal, noise: x[:, : next(shapes)], d.linear(9), normal(3, 2))


# -- networks --------------------------------------------------------------------------------------


def woken(seed=1, **options):
    """A network whose last layers are not zero."""
    network = d.NoiseNetwork(3, 16, 2, generator=rng(seed), **options)
    with torch.no_grad():
        for i, weight in enumerate(network.parameters()):
            weight.add_(0.1 * torch.randn(weight.shape, generator=rng(i)))
    return network


def test_a_new_network_knows_pure_noise():
    x = normal(5, 3, dtype=torch.float32)
    close(d.NoiseNetwork(3, generator=rng())(x, 0.6, 0.8), 0.8 * x, rtol=1e-6)
    close(woken()(x, 1e-6, 1.0), x, rtol=0, atol=1e-4)


def test_new_blocks_add_nothing():
    network = d.NoiseNetwork(3, 16, 2, generator=rng())
    assert all(not block(normal(5, 16, dtype=torch.float32)).any() for block in network.blocks)


def test_a_network_sees_the_ratio_only():
    """Trained on one schedule, it serves all: x, signal and noise may be multiplied by a number."""
    network, x = woken(), normal(5, 3, dtype=torch.float32)
    close(network(7 * x, 7 * 0.6, 7 * 0.8), network(x, 0.6, 0.8), rtol=1e-5, atol=1e-6)
    assert float((network(x, 0.5, 0.8) - network(x, 0.6, 0.8)).detach().abs().max()) > 1e-3


def test_levels_for_each_row():
    network, x = woken(), normal(2, 3, dtype=torch.float32)
    signal, noise = torch.tensor([0.9, 0.2]), torch.tensor([0.1, 0.7])
    for shape in ((2,), (2, 1)):
        rows = network(x, signal.reshape(shape), noise.reshape(shape))
        for i in range(2):
            close(rows[i], network(x[i : i + 1], float(signal[i]), float(noise[i]))[0], rtol=1e-5, atol=1e-6)


def test_labels():
    network, x = woken(classes=4), normal(3, 3, dtype=torch.float32)
    silent = network(x, 0.6, 0.8)
    assert torch.equal(silent, network(x, 0.6, 0.8, torch.tensor([4, 4, 4])))
    told = network(x, 0.6, 0.8, torch.tensor([0, 1, 4]))
    assert torch.equal(told[2], silent[2])
    assert float((told - silent)[:2].detach().abs().amax(1).min()) > 1e-4


def test_networks_use_their_generator_only():
    state = torch.get_rng_state()
    networks = [d.NoiseNetwork(3, 8, 1, generator=rng(seed)) for seed in (1, 1, 2)]
    data = normal(20, 3, dtype=torch.float32)
    for network in networks:
        d.train(network, data, d.linear(10), steps=3, batch=4, generator=rng(3))
    one, same, other = (torch.cat([w.flatten() for w in network.parameters()]) for network in networks)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_leaves_the_average_of_the_weights():
    network, seen, rates = d.NoiseNetwork(2, 8, 1, generator=rng()), [], []

    def look(optimiser, *_):
        seen.append([w.detach().clone() for w in network.parameters()])
        rates.append(optimiser.param_groups[0]["lr"])

    hook = register_optimizer_step_post_hook(look)
    try:
        d.train(network, normal(9, 2, dtype=torch.float32), d.linear(10), steps=5, batch=4, generator=rng())
    finally:
        hook.remove()
    close(rates, [0.003 * math.cos(math.pi * i / 10) ** 2 for i in range(5)])
    for i, weight in enumerate(network.parameters()):  # so few steps are averaged evenly
        close(weight, torch.stack([step[i] for step in seen]).mean(0), rtol=1e-4, atol=1e-6)


def test_training_comes_near_the_best_possible_loss():
    """E|eps - E[eps|x_t]|**2 of a mixture by simulation with the perfect model; an untrained one is far."""
    s = d.cosine(100)
    data, _ = mixture.sample(MIXTURE, 4000, generator=rng(1))
    network = d.NoiseNetwork(2, 64, 2, generator=rng(2))

    def loss(model):
        total = 0.0
        for t in range(1, s.steps + 1):
            level = float(s.signal[t]), float(s.noise[t])
            xt, eps = d.diffuse(data[:1000], *level, generator=rng(t))
            total += float((model(xt.float(), *level) - eps).square().mean()) / s.steps
        return total

    with torch.no_grad():
        untrained, floor = loss(network), loss(d.perfect(MIXTURE))
    losses = d.train(network, data.float(), s, steps=600, batch=256, generator=rng(3))
    with torch.no_grad():
        trained = loss(network)
    assert losses.shape == (600,)
    assert float(losses[-100:].mean()) == pytest.approx(trained, rel=0.1)  # of eps, without the weight
    assert floor < trained < floor + 0.1 * (untrained - floor)


def test_data_come_to_the_network():
    """In its precision; so do labels."""
    s, data = d.linear(10), normal(9, 2)
    networks = [d.NoiseNetwork(2, 8, 1, generator=rng()) for _ in range(2)]
    for network, given in zip(networks, (data, data.float()), strict=True):
        d.train(network, given, s, steps=3, batch=4, generator=rng(1))
    one, two = (torch.cat([w.flatten() for w in network.parameters()]) for network in networks)
    assert torch.equal(one, two)


def test_labels_are_learned():
    """Two points, told apart by labels; where noise hides all else, who is not told guesses their mean."""
    data, labels = torch.tensor([[1.5], [-0.5]]), torch.tensor([0, 1])
    network = d.NoiseNetwork(1, 32, 1, classes=2, generator=rng())
    d.train(network, data, d.cosine(50), steps=400, batch=128, labels=labels, untold=0.3, generator=rng(1))
    x, signal, noise = torch.full((3, 1), 0.05), 0.1, math.sqrt(1 - 0.01)
    with torch.no_grad():
        guesses = (x - noise * network(x, signal, noise, torch.tensor([0, 1, 2]))) / signal
    close(guesses[:, 0], [1.5, -0.5, 0.5], rtol=0, atol=0.45)  # each nearer to its own than to another


@pytest.mark.parametrize(("untold", "moved"), [(0.0, [True, True, False]), (1.0, [False, False, True])])
def test_the_share_that_is_not_told_a_label(untold, moved):
    data, labels = normal(8, 1), torch.tensor([0, 1] * 4)
    network = d.NoiseNetwork(1, 8, 1, classes=2, generator=rng())
    d.train(network, data, d.linear(9), steps=9, batch=8, labels=labels, untold=untold, generator=rng(1))
    assert (network.told != 0).any(1).tolist() == moved


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"rate": 0.0}, "rate = 0.0"),
        ({"data": torch.zeros(0, 2)}, r"data = \(0, 2\)"),
        ({"data": torch.full((3, 2), math.nan)}, "data = "),
        ({"data": torch.zeros(3, 3)}, r"data = \(3, 3\): expected finite numbers \(n, 2\)"),
        ({"labels": torch.tensor([0, 1])}, "labels = "),
        ({"labels": torch.tensor([0, 1, 2])}, "labels = "),
        ({"labels": torch.tensor([0.0, 1.0, 1.0])}, "labels = "),
        ({"labels": torch.tensor([0, 1, 1]), "untold": 1.5}, "untold = 1.5"),
    ],
)
def test_training_refuses(options, sentence):
    network = d.NoiseNetwork(2, 8, 1, classes=2, generator=rng())
    before = [w.clone() for w in network.parameters()]
    options = {"data": torch.zeros(3, 2), "steps": 1, **options}
    with pytest.raises(ValueError, match=sentence):
        d.train(network, options.pop("data"), d.linear(10), generator=rng(), **options)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


# -- the cache -------------------------------------------------------------------------------------


TINY = {"steps": 2, "width": 8, "blocks": 1}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of the cache, and how often a network was trained."""
    trained, train = [], d.train

    def counted(*arguments, **options):
        trained.append(1)
        return train(*arguments, **options)

    monkeypatch.setenv("KEXUE_CACHE", str(tmp_path / "not" / "there yet"))
    monkeypatch.setattr(d, "train", counted)
    return tmp_path / "not" / "there yet", trained


def weights(network):
    return torch.cat([w.flatten() for w in network.state_dict().values()])


def test_a_network_is_trained_once(kept):
    folder, trained = kept
    first, second = (d.digits_model(3, **TINY) for _ in range(2))
    assert len(trained) == 1
    assert torch.equal(weights(first), weights(second))
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: b"",
        lambda raw: raw[:20],
        lambda raw: raw[:3000] + bytes([raw[3000] ^ 1]) + raw[3001:],
        lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
        lambda raw: raw + b"x",
    ],
)
def test_a_damaged_file_is_trained_anew(kept, damage):
    folder, trained = kept
    first = weights(d.digits_model(3, **TINY))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(weights(d.digits_model(3, **TINY)), first)
    assert len(trained) == 2
    assert torch.equal(weights(d.digits_model(3, **TINY)), first)
    assert len(trained) == 2  # it was mended
    assert [other.name for other in folder.iterdir()] == [file.name]


def test_whatever_decides_the_weights_has_a_file_of_its_own(kept, monkeypatch, tmp_path):
    folder, trained = kept
    for changed in ({}, {"steps": 3}, {"width": 9}, {"blocks": 2}, {"seed": 4}):
        d.digits_model(**{"seed": 3, **TINY, **changed})
    assert len(trained) == len(list(folder.iterdir())) == 5
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0")
        d.digits_model(3, **TINY)
    assert len(list(folder.iterdir())) == 6
    edited = tmp_path / "edited.py"
    shutil.copy(d.__file__, edited)
    edited.write_text(edited.read_text("utf-8") + "# another\n", "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(d, "__file__", str(edited))
        d.digits_model(3, **TINY)
    assert len(list(folder.iterdir())) == 7
    d.digits_model(3, **TINY)
    assert len(trained) == 7


def test_other_data_have_a_file_of_their_own(kept, monkeypatch):
    folder, trained = kept
    d.digits_model(3, **TINY)
    first, second = d.digits_split()
    monkeypatch.setattr(d, "digits_split", lambda: (second, first))
    d.digits_model(3, **TINY)
    assert len(trained) == len(list(folder.iterdir())) == 2


def test_the_digits_are_learned_from_minus_one_to_one_on_the_cosine_schedule(monkeypatch, tmp_path):
    given = []
    monkeypatch.setenv("KEXUE_CACHE", str(tmp_path))
    monkeypatch.setattr(d, "train", lambda network, data, schedule, **_: given.append((data, schedule)))
    d.digits_model(3, **TINY)
    ((data, schedule),) = given
    assert (float(data.min()), float(data.max())) == (-1, 1)
    assert torch.equal(schedule.signal, d.cosine().signal)


def test_many_writers_at_once(kept):
    folder, _ = kept
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: weights(d.digits_model(3, **TINY)), range(12)))
    assert all(torch.equal(found[0], other) for other in found)
    (file,) = folder.iterdir()  # and nothing half written beside it
    assert file.suffix == ".pt"
    assert torch.equal(weights(d.digits_model(3, **TINY)), found[0])


def test_the_users_cache_without_the_variable(kept, monkeypatch, tmp_path):
    _, trained = kept
    monkeypatch.delenv("KEXUE_CACHE")
    monkeypatch.setattr(d, "user_cache_path", lambda name: tmp_path / name)
    d.digits_model(3, **TINY)
    assert len(list((tmp_path / "kexue").iterdir())) == 1
    d.digits_model(3, **TINY)
    assert len(trained) == 1


def test_a_folder_that_cannot_be_written(kept, monkeypatch, tmp_path):
    _, trained = kept
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KEXUE_CACHE", str(tmp_path / "file"))
    first, second = (d.digits_model(3, **TINY) for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert len(trained) == 2


def test_digits_look_like_digits():
    """Judged by a classifier of real ones; noise of the right mean and variance is five times as far."""
    network, real = d.digits_model(), digits()
    judge = train_judge(real, generator=rng(1))
    start = normal(1000, 64, seed=2, dtype=torch.float32)

    def distance(images):
        return frechet_distance(judge.features(images.clamp(-1, 1) / 2 + 0.5), judge.features(real.images))

    many, few = (distance(d.ddim(network, d.evenly(d.cosine(), jumps), start)) for jumps in (50, 3))
    noise = distance((real.images.std(0) * start + real.images.mean(0)) * 2 - 1)
    assert many < 5
    assert many < few
    assert 5 * many < noise


def test_told_digits_are_those_that_were_asked_for():
    """Pure chance would read one in ten as asked; five standard errors of the share are below 0.07."""
    network, asked = d.digits_model(), torch.arange(1000) % 10
    judge = train_judge(digits(), generator=rng(1))
    start = normal(1000, 64, seed=2, dtype=torch.float32)

    def right(labels):
        made = d.ddim(lambda *state: network(*state, labels), d.evenly(d.cosine(), 20), start)
        return float((judge.probabilities(made.clamp(-1, 1) / 2 + 0.5).argmax(1) == asked).double().mean())

    assert right(asked) > 0.6
    assert abs(right(None) - 0.1) < 0.07
