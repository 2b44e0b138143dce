"""Mathematics of the optimal variance: exact laws by other roads, bounds, shortest paths by brute force."""

import itertools
import math
import time

import mpmath
import numpy as np
import pytest
import torch

from kexue_lib import ddpm, mixture
from kexue_lib import optimal_variance as ov

LINEAR = ddpm.linear()
POINTS = mixture.gaussian_mixture(torch.tensor([[1.0], [-1.0]]), 0.0)
PLANE = mixture.gaussian_mixture(
    torch.tensor([[1.2, 0.4], [-0.8, 0.6], [0.1, -1.1]]),
    torch.tensor([[[0.05, 0.03], [0.03, 0.2]], [[0.1, 0.0], [0.0, 0.02]], [[0.02, -0.01], [-0.01, 0.05]]]),
    torch.tensor([0.5, 0.3, 0.2]),
)
SMALL = ddpm.evenly(LINEAR, 5)
LINE = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=rng(seed), dtype=dtype)


def close(a, b, rtol=1e-12, atol=0.0):
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def on_average(law, values, signal, noise):
    """Mean of values, (m,) or (m, ...), at the even points LINE, over the law of x_t in one dimension."""
    density = mixture.log_density(law, LINE, signal, noise).exp() * float(LINE[1] - LINE[0])
    return torch.tensordot(density, values, dims=([0], [0]))


def two_points(schedule):
    return ov.two_point_posterior_variance(schedule.snr[1:])


def zero(x, *_):
    return torch.zeros_like(x)


def gaussian(variance):
    """E[eps | x_t] for data N(0, variance)."""
    return lambda x, signal, noise: x * noise / (signal**2 * variance + noise**2)


def within(measured, expected, error, times=5.85):
    """Tell whether a Monte Carlo mean is as near as its standard error allows."""
    return bool(((measured - expected).abs() <= times * error).all())


# -- two points ----------------------------------------------------------------------------------


def by_tanh(snr):
    with mpmath.workdps(30):
        s = mpmath.mpf(snr)

        def f(z):
            return mpmath.sech(s + mpmath.sqrt(s) * z) ** 2 * mpmath.npdf(z)

        # The integrand has its mass between the peak of sech, at -sqrt(s), and that of the density, at 0.
        middle = -mpmath.sqrt(s) / 2
        around = [middle + k for k in range(-24, 25, 2)]
        return float(mpmath.quad(f, [-mpmath.sqrt(s) - 40, *sorted({*around, -mpmath.sqrt(s)}), 40]))


@pytest.mark.parametrize("snr", [1e-9, 1e-3, 0.1, 0.2499, 0.25, 0.2501, 1, 4, 17, 60, 250])
def test_two_points_against_thirty_digits(snr):
    """The definition E[1 - tanh^2], without the identity that the library uses."""
    assert float(ov.two_point_posterior_variance(snr)) == pytest.approx(by_tanh(snr), rel=1e-12)


def test_two_points_famous_values_and_limits():
    table = ov.two_point_posterior_variance(torch.tensor([0.1, 0.5, 1, 4], dtype=torch.float64))
    close(table, [0.9086594, 0.6498866, 0.44959951, 0.06859741], rtol=0, atol=5.1e-8)
    close(ov.two_point_posterior_variance(torch.tensor([0.0, 1e6])), [1.0, 0.0], rtol=1e-14)
    even = ov.two_point_posterior_variance(torch.logspace(-8, 3, 2000, dtype=torch.float64))
    assert bool((even.diff() < 0).all()) and bool((even > 0).all())
    assert ov.two_point_posterior_variance(torch.ones(2, 3)).shape == (2, 3)


def test_information_is_one_bit():
    """I-MMSE: half the integral of the least squared error over the snr is the entropy ln 2."""
    u, w = np.polynomial.legendre.leggauss(200)
    u, w = torch.tensor(u) * 30 - 20, torch.tensor(w) * 30  # snr = e^u, from e^-50 to e^10
    snr = u.exp()
    half = float((w * snr * ov.two_point_posterior_variance(snr)).sum()) / 2
    assert half == pytest.approx(math.log(2), abs=1e-11)


@pytest.mark.parametrize("snr", [0.05, 1.0, 6.0])
def test_two_points_are_a_mixture(snr):
    """The posterior variance, averaged over a grid of x_t, by the covariances of the mixture toolkit."""
    signal, noise = math.sqrt(snr / (1 + snr)), 1 / math.sqrt(1 + snr)
    variance = mixture.denoised_covariance(POINTS, LINE, signal, noise)[:, 0, 0]
    close(on_average(POINTS, variance, signal, noise), ov.two_point_posterior_variance(snr), rtol=1e-10)


@pytest.mark.parametrize("snr", [-1e-9, math.nan, math.inf, torch.tensor([1.0, -2.0])])
def test_two_points_refuse(snr):
    with pytest.raises(ValueError, match=r"snr.*>= 0"):
        ov.two_point_posterior_variance(snr)


# -- estimates -------------------------------------------------------------------------------------

LINE_LAW = mixture.gaussian_mixture(torch.tensor([[0.9], [-0.4]]), torch.tensor([0.02, 0.1]))


@pytest.mark.parametrize(("signal", "noise"), [(0.95, 0.3), (0.6, 0.8), (0.1, 0.99), (1.0, 1.3)])
def test_both_estimates_are_the_posterior_variance(signal, noise):
    """Exact moments by a grid; the constant from which the spreads are measured does not matter."""
    exact = on_average(
        LINE_LAW, mixture.denoised_covariance(LINE_LAW, LINE, signal, noise)[:, 0, 0], signal, noise
    )
    eps = mixture.predicted_noise(LINE_LAW, LINE, signal, noise)[:, 0]
    second = on_average(LINE_LAW, eps**2, signal, noise)
    first = ov.posterior_variance_from_noise(second, signal, noise)
    close(first.value, exact, rtol=1e-8)
    assert not bool(first.clipped)
    mean, covariance = mixture.moments(LINE_LAW)
    guess = mixture.denoised(LINE_LAW, LINE, signal, noise)[:, 0]
    for centre in (0.0, 2.5):
        spread = float(covariance + (mean - centre) ** 2)
        guessed = on_average(LINE_LAW, (guess - centre) ** 2, signal, noise)
        other = ov.posterior_variance_from_means(spread, guessed, signal, noise)
        close(other.value, exact, rtol=1e-8)


def test_estimates_of_tables():
    signal, noise = torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
    moment = torch.tensor([[0.5, 0.25, 0.0], [1.0, 0.9, 0.1]], dtype=torch.float64)
    diagonal = ov.posterior_variance_from_noise(moment, signal, noise)
    ratio = torch.tensor([9 / 16, 16 / 9], dtype=torch.float64)
    close(diagonal.value, ratio[:, None] * (1 - moment))
    averaged = ov.posterior_variance_from_noise(moment.mean(1), signal, noise)
    close(averaged.value, diagonal.value.mean(1))
    assert diagonal.value.dtype == torch.float64 and not bool(diagonal.clipped.any())


def test_what_is_clipped_is_told():
    moment = torch.tensor([1.02, 0.99, 0.2], dtype=torch.float64)
    found = ov.posterior_variance_from_noise(moment, 0.6, 0.8, bound=1.0, standard_error=0.01)
    ratio = 16 / 9
    close(found.raw, ratio * (1 - moment))
    close(found.value, [0.0, ratio * (1 - 0.99), 1.0], rtol=1e-9)
    assert found.clipped.tolist() == [True, False, True]
    found = ov.posterior_variance_from_means(1.0, torch.tensor([1.1, 0.5, 0.1]), 0.8, 0.6)
    close(found.raw, [1 - 1.1, 0.5, 0.9], rtol=1e-6)
    close(found.value, [0.0, 0.5, 9 / 16], rtol=1e-6)  # (noise / signal)^2 bounds this estimate, too
    close(ov.posterior_variance_from_means(1.0, 0.5, 0.8, 0.6, bound=0.3).value, 0.3)


@pytest.mark.parametrize(
    ("moment", "options", "word"),
    [
        (1.000001, {}, "eps_second_moment"),
        (-0.001, {"standard_error": 1.0}, "eps_second_moment"),
        (1.061, {"standard_error": 0.01}, "eps_second_moment"),
        (math.nan, {}, "eps_second_moment"),
        (torch.tensor([0.5, math.inf]), {}, "eps_second_moment"),
        (0.5, {"standard_error": -1.0}, "standard_error"),
        (0.5, {"standard_error": math.nan}, "standard_error"),
        (0.5, {"bound": -1.0}, "bound"),
        (0.5, {"bound": math.nan}, "bound"),
        (0.5, {"signal": 0.0}, "signal"),
        (0.5, {"noise": -0.1}, "noise"),
        (0.5, {"noise": math.nan}, "noise"),
        (torch.ones(3), {"signal": torch.ones(2), "noise": torch.ones(2)}, "signal and noise"),
        (0.5, {"signal": torch.ones(2), "noise": torch.ones(2)}, "signal and noise"),
    ],
)
def test_estimates_refuse(moment, options, word):
    with pytest.raises(ValueError, match=word):
        ov.posterior_variance_from_noise(moment, **({"signal": 0.8, "noise": 0.6} | options))


def test_estimate_from_means_refuses():
    for first, second, word in ((-1.0, 0.5, "data_spread"), (1.0, math.nan, "guess_spread")):
        with pytest.raises(ValueError, match=word):
            ov.posterior_variance_from_means(first, second, 0.8, 0.6)


# -- statistics ------------------------------------------------------------------------------------


def test_statistics_of_a_perfect_model():
    """Both estimates and the likelihood's, within their standard errors of the exact posterior variance."""
    data, _ = mixture.sample(LINE_LAW, 20_000, generator=rng(1))
    found = ov.noise_statistics(ddpm.perfect(LINE_LAW), SMALL, data, generator=rng(2), batch=7000)
    signal, noise = SMALL.signal[1:], SMALL.noise[1:]
    exact = []
    for s, n in zip(signal.tolist(), noise.tolist(), strict=True):
        exact.append(on_average(LINE_LAW, mixture.denoised_covariance(LINE_LAW, LINE, s, n)[:, 0, 0], s, n))
    exact, ratio = torch.stack(exact), (noise / signal) ** 2
    assert within(1 - found.second_moment.mean(1), exact / ratio, found.second_moment_error)
    assert within(found.squared_error.mean(1), exact / ratio, found.squared_error_error)
    spread_error = found.guess_spread_error + 2 * float(found.data_spread) * math.sqrt(2 / len(data))
    assert within(found.data_spread - found.guess_spread, exact, spread_error)
    close(found.data_spread, data.var(correction=0))


def test_statistics_have_the_right_errors():
    """The guess 0 has the squared error chi^2 / d: mean 1, standard error sqrt(2 / (n d))."""
    n, d = 30_000, 3
    data = normal(n, d, seed=3, dtype=torch.float32) * torch.tensor([1.0, 2.0, 0.5])
    found = ov.noise_statistics(zero, SMALL, data, generator=rng(4), batch=9999)
    assert not bool(found.second_moment.any()) and found.second_moment.shape == (5, 3)
    assert found.squared_error.dtype == torch.float64
    assert within(found.squared_error, torch.ones(5, 3, dtype=torch.float64), math.sqrt(2 / n))
    close(found.squared_error_error, torch.full((5,), math.sqrt(2 / (n * d))), rtol=0.05)
    # the guessed data are x_t / signal: their own spread, and the noise's
    expected = (
        data.double().var(0, correction=0) + (SMALL.noise[1:, None] / SMALL.signal[1:, None]) ** 2
    ).mean(1)
    assert within(found.guess_spread, expected, found.guess_spread_error)
    draws = torch.stack(
        [
            ov.noise_statistics(zero, SMALL, data[:200], generator=rng(100 + i)).guess_spread
            for i in range(300)
        ]
    )
    # given the data only the noise varies, so that the honest error is at least this
    reported = ov.noise_statistics(zero, SMALL, data[:200], generator=rng(5)).guess_spread_error
    assert bool((reported[1:] > 0.8 * draws.std(0)[1:]).all())


def test_statistics_see_batches_of_the_given_size():
    sizes, levels = [], []

    def model(x, signal, noise):
        sizes.append(len(x))
        levels.append((signal, noise))
        return x * 0.5

    data = normal(25, 2, seed=6)
    found = ov.noise_statistics(model, SMALL, data, generator=rng(7), batch=10)
    assert sizes == [10, 10, 5] * 5
    assert [*dict.fromkeys(levels)] == [
        *zip(SMALL.signal[1:].tolist(), SMALL.noise[1:].tolist(), strict=True)
    ]
    g, by_hand = rng(7), []
    for s, n in zip(SMALL.signal[1:].tolist(), SMALL.noise[1:].tolist(), strict=True):
        xt = torch.cat([ddpm.diffuse(part, s, n, generator=g)[0] for part in data.split(10)])
        by_hand.append((xt / 2).square())
    each = torch.stack(by_hand)
    close(found.second_moment, each.mean(1))
    close(found.second_moment_error, each.mean(2).std(1) / 5)


def test_statistics_refuse():
    data = normal(4, 2)
    with pytest.raises(ValueError, match="x0"):
        ov.noise_statistics(zero, SMALL, data[:1], generator=rng())
    with pytest.raises(ValueError, match="x0"):
        ov.noise_statistics(zero, SMALL, data / 0, generator=rng())
    with pytest.raises(ValueError, match="batch"):
        ov.noise_statistics(zero, SMALL, data, generator=rng(), batch=0)
    with pytest.raises(ValueError, match="model returns"):
        ov.noise_statistics(lambda x, *_: x[:, :1], SMALL, data, generator=rng())
    with pytest.raises(ValueError, match="value of model"):
        ov.noise_statistics(lambda x, *_: x / 0, SMALL, data, generator=rng())


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["small", "zero", "half"])
@pytest.mark.parametrize(
    "schedule", [LINEAR, SMALL, ddpm.evenly(ddpm.cosine(), 7)], ids=["1000", "5", "cosine"]
)
def test_bridges_keep_the_marginals(schedule, variance):
    given = schedule.noise[:-1] ** 2 / 2 if variance == "half" else variance
    made = ov.bridges(schedule, given)
    close(made.keep * schedule.signal[1:] + made.pull, schedule.signal[:-1], rtol=1e-13)
    close((made.keep * schedule.noise[1:]) ** 2 + made.variance, schedule.noise[:-1] ** 2, atol=1e-17)
    x0, xt = normal(6, 2, seed=8), normal(6, 2, seed=9)
    for t in (1, 2, schedule.steps):
        sigma = min(float(made.variance[t - 1].sqrt()), float(schedule.noise[t - 1]))
        close(made.keep[t - 1] * xt + made.pull[t - 1] * x0, ddpm.bridge(x0, xt, schedule, t, sigma), 1e-9)
    if variance != "half":
        wanted = ddpm.small_variance(schedule) if variance == "small" else torch.zeros(schedule.steps)
        close(made.variance, wanted)


def test_the_largest_variance_forgets():
    """With sigma = noise_{t-1} nothing of x_t is kept."""
    made = ov.bridges(SMALL, SMALL.noise[:-1] ** 2)
    close(made.keep, torch.zeros(5))
    close(made.pull, SMALL.signal[:-1])


@pytest.mark.parametrize(
    "variance", ["smal", torch.ones(5), -torch.ones(5), torch.zeros(4), torch.full((5,), math.nan)]
)
def test_bridges_refuse(variance):
    with pytest.raises(ValueError, match=r"variance.*(small|squared noise)"):
        ov.bridges(SMALL, variance)


@pytest.mark.parametrize("t", [2, 4])
def test_total_variance_is_that_of_one_markov_step(t):
    """For DDPM's bridge it is Cov(x_{t-1} | x_t) by Bayes, from the mixture that x_{t-1} has."""
    before = mixture.noised(PLANE, float(SMALL.signal[t - 1]), float(SMALL.noise[t - 1]))
    alpha, beta = float(SMALL.step_signal[t - 1]), float(SMALL.step_noise[t - 1])
    signal, noise = float(SMALL.signal[t]), float(SMALL.noise[t])
    for x in normal(5, 2, seed=10)[:, None]:
        step = mixture.denoised_covariance(before, x, alpha, beta)
        data = mixture.denoised_covariance(PLANE, x, signal, noise)
        full = ov.reverse_variance(ov.bridges(SMALL), data.expand(5, 2, 2))
        close(full[t - 1], step[0], rtol=1e-9)
        diagonal = ov.reverse_variance(ov.bridges(SMALL), data[0].diagonal().expand(5, 2))
        close(diagonal[t - 1], step[0].diagonal(), rtol=1e-9)
        scalar = ov.reverse_variance(ov.bridges(SMALL), data[0].diagonal().mean().expand(5))
        close(scalar[t - 1], step[0].diagonal().mean(), rtol=1e-9)


def test_ddpm_choices_are_the_limits():
    """A point has the small variance, a unit Gaussian the large one; the upper bound is larger."""
    made = ov.bridges(LINEAR)
    close(ov.reverse_variance(made, torch.zeros(1000)), ddpm.small_variance(LINEAR))
    unit = LINEAR.noise[1:] ** 2  # 1 / (1 + snr)
    close(ov.reverse_variance(made, unit)[1:], ddpm.large_variance(LINEAR)[1:], rtol=1e-9)
    # the bound without any knowledge of the data is beta^2 / alpha^2
    most = ov.reverse_variance(made, (LINEAR.noise[1:] / LINEAR.signal[1:]) ** 2)
    close(most[1:], ((LINEAR.step_noise / LINEAR.step_signal) ** 2)[1:], rtol=1e-9)
    jump = ddpm.subsequence(LINEAR, [0, 100, 200])
    assert float(ddpm.large_variance(jump)[1]) == pytest.approx(0.265301, abs=5e-7)
    top = ov.reverse_variance(ov.bridges(jump), (jump.noise[1:] / jump.signal[1:]) ** 2)
    assert float(top[1]) == pytest.approx(0.361101, abs=5e-7)


@pytest.mark.parametrize("variance", ["small", "zero"])
def test_the_form_of_the_paper(variance):
    """Bao et al., Theorem 1, in DDPM's cumulative products."""
    made, moment = ov.bridges(SMALL, variance), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    posterior = ov.posterior_variance_from_noise(moment, SMALL.signal[1:], SMALL.noise[1:]).value
    a, b = SMALL.signal**2, SMALL.noise**2
    step = a[1:] / a[:-1]
    root = (b[1:] / step).sqrt() - (b[:-1] - made.variance).clamp_min(0).sqrt()
    close(ov.reverse_variance(made, posterior), made.variance + root**2 * (1 - moment), rtol=1e-11)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (-torch.ones(5), "negative"),
        (torch.full((5,), math.nan), "finite"),
        (torch.full((5, 2), math.inf), "finite"),
        (torch.ones(4), "shape"),
        (torch.ones(()), "shape"),
        (torch.ones(5, 2, 3), "shape"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(5, 2, 2), "negative"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(5, 2, 2), "symmetric"),
    ],
)
def test_reverse_variance_refuses(given, word):
    with pytest.raises(ValueError, match=word):
        ov.reverse_variance(ov.bridges(SMALL), given)


def test_semidefinite_matrices_are_covariances():
    """One direction without variance is allowed, rounding included."""
    v = normal(5, 3, seed=11)
    found = ov.reverse_variance(ov.bridges(SMALL), v[:, :, None] * v[:, None, :])
    assert bool(found.isfinite().all())


# -- costs -----------------------------------------------------------------------------------------


def test_excess_is_a_divergence():
    """KL(q || N(mu, v)) less that with v*, by integration, for a bimodal q."""
    law = mixture.gaussian_mixture(torch.tensor([[0.7], [-0.7]]).double(), torch.tensor(0.09).double())
    q = mixture.log_density(law, LINE, 1.0, 0.0)
    best = float(mixture.moments(law)[1])

    def divergence(v):
        log = -(LINE[:, 0] ** 2) / (2 * v) - math.log(2 * math.pi * v) / 2
        return on_average(law, q - log, 1.0, 0.0)

    for v in (0.05, 0.3, best, 0.9, 5.0):
        excess = ov.expected_excess_kl(v, best)
        close(excess, divergence(v) - divergence(best), rtol=1e-9, atol=1e-12)
    a = torch.distributions.MultivariateNormal(torch.zeros(3), 2.0 * torch.eye(3))
    b = torch.distributions.MultivariateNormal(torch.zeros(3), 3.0 * torch.eye(3))
    close(ov.expected_excess_kl(3.0, 2.0, dim=3), torch.distributions.kl_divergence(a, b), rtol=1e-6)


def test_excess_near_and_far():
    for r in (1 + 2.0**-20, 1 - 2.0**-20, 1e-200, 1e5):
        with mpmath.workdps(50):
            exact = (mpmath.mpf(r) - 1 - mpmath.log(mpmath.mpf(r))) / 2
        assert float(ov.expected_excess_kl(1.0, r)) == pytest.approx(float(exact), rel=1e-9)
    assert float(ov.expected_excess_kl(0.7, 0.7)) == 0
    both = ov.expected_excess_kl(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0]))
    assert both.tolist() == [0.0, math.inf, math.inf]
    for arguments in ((-1.0, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(ValueError, match=r"(variance|optimal).*>= 0"):
            ov.expected_excess_kl(*arguments)
    with pytest.raises(ValueError, match="dim"):
        ov.expected_excess_kl(1.0, 1.0, dim=0)


def jumps_from_one(jumps):
    """The steps 1 -> T in so many even jumps: small, best and large variance of each but the first."""
    times = np.round(np.linspace(1, 1000, jumps + 1)).astype(int)
    part = ddpm.subsequence(LINEAR, [0, *times.tolist()])
    best = ov.reverse_variance(ov.bridges(part), two_points(part))
    return tuple(table[1:] for table in (ddpm.small_variance(part), best, ddpm.large_variance(part)))


def test_ten_jumps():
    small, best, large = jumps_from_one(10)
    close(small[:5], [9.99146e-5, 0.0813984, 0.226662, 0.382272, 0.519887], rtol=5e-6)
    close(best[:5], [5.43667e-3, 0.2134, 0.392113, 0.508134, 0.593993], rtol=5e-6)
    close(large[:5], [0.104769, 0.266767, 0.399691, 0.508714, 0.594015], rtol=5e-6)
    close(best[5:], large[5:], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("jumps", "shy", "bold", "floor"),
    [(10, 25.156, 1.0169, 3.0041), (100, 0.01461, 1.5360, 0.7288), (999, 0.00132, 0.3343, 0.6965)],
)
def test_sums_of_excess(jumps, shy, bold, floor):
    small, best, large = jumps_from_one(jumps)
    assert float(ov.expected_excess_kl(small, best).sum()) == pytest.approx(shy, rel=5e-4, abs=5e-6)
    assert float(ov.expected_excess_kl(large, best).sum()) == pytest.approx(bold, abs=5.1e-5)
    assert float((best / small).log().sum()) / 2 == pytest.approx(floor, abs=5.1e-5)


# -- trajectories ----------------------------------------------------------------------------------


def test_costs_of_jumps():
    """Each entry from the schedule that only makes this jump."""
    part = ddpm.evenly(ddpm.cosine(), 6)
    posterior = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    cost = ov.jump_costs(part, posterior)
    assert cost.shape == (7, 7)
    for s, t in itertools.product(range(7), repeat=2):
        if not 0 < s < t:
            assert float(cost[s, t]) == math.inf
            continue
        jump = ddpm.subsequence(part, [0, s, t])
        best = ov.reverse_variance(ov.bridges(jump), posterior[[s - 1, t - 1]])[1]
        close(cost[s, t], (best / ddpm.small_variance(jump)[1]).log() / 2, rtol=1e-10)
    for wrong in (posterior[:5], -posterior, posterior / 0):
        with pytest.raises(ValueError, match="posterior_variance"):
            ov.jump_costs(part, wrong)


def total(cost, path):
    return sum(float(cost[s, t]) for s, t in itertools.pairwise(path))


@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_of_all_paths(seed):
    n = 8
    cost = normal(n, n, seed=seed)  # negative costs, too
    if seed > 1:
        cost[torch.rand(n, n, generator=rng(seed)) < 0.2] = math.inf
    cost[:, -1] = cost[:, -1].nan_to_num(posinf=3.0)
    cost[[*range(n - 1)], [*range(1, n)]] = 2.0  # so that there is a path
    for first in (0, 2):
        found = ov.optimal_trajectories(cost, n - 1 - first, first=first)
        for jumps, path in enumerate(found, start=1):
            inner = itertools.combinations(range(first + 1, n - 1), jumps - 1)
            paths = [(first, *stops, n - 1) for stops in inner]
            assert tuple(path) == min(paths, key=lambda stops: total(cost, stops))
            assert ov.optimal_trajectory(cost, jumps, first=first) == path


def test_a_thousand_steps():
    """In under a second; as good as a plain recursion, better than even jumps, all of them at the end."""
    cost = ov.jump_costs(LINEAR, two_points(LINEAR))
    ov.optimal_trajectories(cost[:9, :9], 3, first=1)  # compiled once
    start = time.process_time()
    paths = ov.optimal_trajectories(cost, 999, first=1)
    assert time.process_time() - start < 2  # 0.5 s on an idle core, other programs not counted
    table = cost.numpy()[1:, 1:]
    best = table[0]
    for jumps in range(2, 13):
        best = np.min(best[:, None] + table, axis=0)
        assert total(cost, paths[jumps - 1]) == pytest.approx(best[-1], rel=1e-12)
    totals = [total(cost, path) for path in paths]
    assert all(a > b - 1e-14 for a, b in itertools.pairwise(totals))
    assert paths[-1] == [*range(1, 1001)]
    even = np.round(np.linspace(1, 1000, 11)).astype(int).tolist()
    assert totals[9] < total(cost, even) - 1
    assert total(cost, even) == pytest.approx(3.0041, abs=5.1e-5)


@pytest.mark.parametrize(
    ("cost", "arguments", "word"),
    [
        (torch.zeros(3, 4), (1,), "square|shape"),
        (torch.zeros(1, 1), (1,), "shape"),
        (torch.full((3, 3), math.nan), (1,), "cost"),
        (torch.full((3, 3), -math.inf), (1,), "cost"),
        (torch.zeros(4, 4), (4,), "jumps"),
        (torch.zeros(4, 4), (0,), "jumps"),
        (torch.zeros(4, 4), (2.0,), "jumps"),
        (torch.full((4, 4), math.inf), (1,), "jumps"),
    ],
)
def test_trajectories_refuse(cost, arguments, word):
    with pytest.raises(ValueError, match=word):
        ov.optimal_trajectory(cost, *arguments)


def test_trajectories_refuse_a_late_start():
    with pytest.raises(ValueError, match="first"):
        ov.optimal_trajectory(torch.zeros(4, 4), 1, first=3)
    with pytest.raises(ValueError, match=r"jumps.*from 1 to 2"):
        ov.optimal_trajectory(torch.zeros(4, 4), 3, first=1)


# -- sampling --------------------------------------------------------------------------------------


def test_noise_of_any_covariance():
    n = 200_000
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64).expand(n, 2)
    full = torch.tensor([[2.0, 1.2], [1.2, 0.8]], dtype=torch.float64)
    full[1, 1] = 0.72  # singular
    for variance, covariance in (
        (torch.tensor(0.5), 0.5 * torch.eye(2)),
        (torch.tensor([0.5, 2.0]), torch.tensor([0.5, 2.0]).diag()),
        (torch.tensor([[0.5, 2.0]]).expand(n, 2), torch.tensor([0.5, 2.0]).diag()),
        (torch.full((n, 1), 0.3), 0.3 * torch.eye(2)),
        (full[None], full),
    ):
        x = ov.noisy(mean, variance, generator=rng(12))
        error = (2 * torch.outer(covariance.diagonal(), covariance.diagonal()) / n).sqrt().double()
        assert within(x.T.cov(), covariance.double(), error)
        assert within(x.mean(0), mean[0], (covariance.diagonal() / n).sqrt())
    singular = ov.noisy(mean[:100], full[None], generator=rng(13)) - mean[:100]
    close(singular[:, 1], 0.6 * singular[:, 0], rtol=1e-7, atol=1e-8)


def test_noise_of_each_state():
    """A matrix for each row: the same numbers as row by row; single precision stays single."""
    a = normal(4, 2, 2, seed=14)
    matrices, mean = a @ a.mT, normal(4, 2, seed=15)
    g = rng(16)
    alone = torch.cat([ov.noisy(m[None], c[None], generator=g) for m, c in zip(mean, matrices, strict=True)])
    close(ov.noisy(mean, matrices, generator=rng(16)), alone)
    assert ov.noisy(mean.float(), matrices, generator=rng()).dtype == torch.float32
    assert ov.noisy(mean.float(), torch.ones(2).double(), generator=rng()).dtype == torch.float32
    for wrong, word in (
        (-torch.ones(2), ">= 0"),
        (torch.tensor(math.nan), "finite"),
        (torch.ones(3), "shape|size"),
        (torch.ones(5, 4, 2), "shape"),
        (-torch.eye(2)[None], "negative"),
    ):
        with pytest.raises(ValueError, match=word):
            ov.noisy(mean, wrong, generator=rng())


@pytest.mark.parametrize("kind", ["small", "zero"])
def test_sampler_is_ddim_with_its_variance(kind):
    """The same numbers as DDIM's sampler with eta 1 or 0; all shapes of a variance agree with each other."""
    start, model = normal(30, 2, seed=17), ddpm.perfect(PLANE)
    variance = ov.bridges(SMALL, kind).variance
    known = ddpm.ddim(model, SMALL, start, eta=float(kind == "small"), generator=rng(18), keep=True)
    options = {"bridge": kind, "keep": True}
    found = ov.sample(model, SMALL, start, variance=variance, generator=rng(18), **options)
    close(found, known, rtol=1e-9)
    diagonal = ov.sample(
        model, SMALL, start, variance=variance[:, None].expand(5, 2), generator=rng(18), **options
    )
    close(diagonal, found)
    by_state = ov.sample(
        model, SMALL, start, variance=lambda x, *_: x.new_zeros(len(x), 1), generator=rng(18), **options
    )
    close(by_state, found)
    assert found.shape == (6, 30, 2)
    close(ov.sample(model, SMALL, start, variance=variance, generator=rng(18), bridge=kind), found[-1])


def test_optimal_variance_is_exact_for_gaussians():
    """Ten thousand chains of three jumps end in the law of the data; with the small variance they do not."""
    law = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    part, n = ddpm.evenly(LINEAR, 3), 40_000
    values, vectors = torch.linalg.eigh(law)

    def model(x, signal, noise):
        gain = vectors @ (noise / (signal**2 * values + noise**2)).diag() @ vectors.T
        return x @ gain

    posterior = torch.stack(
        [
            torch.linalg.inv(torch.linalg.inv(law) + snr * torch.eye(2, dtype=torch.float64))
            for snr in part.snr[1:]
        ]
    )
    made = ov.bridges(part)
    # The last step is without noise: what it leaves out is the posterior covariance at the first level.
    gain = torch.eye(2, dtype=torch.float64) - posterior[0] @ torch.linalg.inv(law)
    left = gain @ law
    start = (
        normal(n, 2, seed=19)
        @ torch.linalg.cholesky(part.signal[-1] ** 2 * law + part.noise[-1] ** 2 * torch.eye(2)).mT
    )
    error = ((left**2 + torch.outer(left.diagonal(), left.diagonal())) / n).sqrt()
    table = ov.reverse_variance(made, posterior)
    x = ov.sample(model, part, start, variance=table, generator=rng(20))
    assert within(x.T.cov(), left, error)
    # the same, asked state by state
    y = ov.sample(
        model,
        part,
        start,
        variance=lambda x, eps, s, n: posterior[int((part.signal - s).abs().argmin()) - 1].expand(
            len(x), 2, 2
        ),
        generator=rng(20),
    )
    close(x, y, rtol=1e-6, atol=1e-6)
    shy = ov.sample(model, part, start, variance=made.variance, generator=rng(20))
    assert not within(shy.T.cov(), left, error, times=20)


def test_sampler_refuses():
    start = normal(3, 2)
    ones = torch.ones(5)
    for options, word in (
        ({"variance": torch.ones(4)}, "variance"),
        ({"variance": torch.ones(5, 3)}, "variance"),
        ({"variance": -ones}, "variance"),
        ({"variance": ones / 0}, "variance"),
        ({"variance": ones, "bridge": "big"}, "variance"),
        ({"variance": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(5, 2, 2)}, "symmetric"),
    ):
        with pytest.raises(ValueError, match=word):
            ov.sample(zero, SMALL, start, generator=rng(), **options)
    for wrong in (start[0], start / 0, torch.ones(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="start"):
            ov.sample(zero, SMALL, wrong, variance=ones, generator=rng())
    with pytest.raises(ValueError, match="model returns"):
        ov.sample(lambda x, *_: x[:1], SMALL, start, variance=ones, generator=rng())


# -- likelihood ------------------------------------------------------------------------------------


def bits(x0, variance=None, n=20_000, model=zero, **options):
    variance = ov.bridges(SMALL).variance.clamp_min(0.01) * 1.3 if variance is None else variance
    grid = {"width": 1.0, "low": -1.0, "high": 2.0} | options
    return ov.likelihood_bound(model, SMALL, variance, x0.expand(n, -1), generator=rng(21), **grid)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, 2.0])
def test_terms_of_the_bound_by_integration(value):
    """For a model that guesses 0 all terms are known, and the bins at the ends are open."""
    variance = torch.tensor([0.4, 0.3, 0.7, 0.9, 0.8], dtype=torch.float64)
    terms, errors = bits(torch.tensor([[value, value]]), variance, n=20_000)
    made = ov.bridges(SMALL)
    own, pull, ratio = made.variance, made.pull, (SMALL.noise[1:] / SMALL.signal[1:]) ** 2
    steps = (own / variance - 1 - (own / variance).log() + pull**2 * ratio / variance) / 2
    assert within(terms[1:-1], steps[1:], errors[1:-1])
    # x_0 guessed from x_1 is off by sqrt(ratio) z
    z = LINE[::10, 0]
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * float(z[1] - z[0])
    up, down = value + (0.5 if value < 2 else 30), value - (0.5 if value > -1 else 30)
    y = torch.linspace(down, up, 6001, dtype=torch.float64)
    weights = torch.full_like(y, float(y[1] - y[0])).index_fill(
        0, torch.tensor([0, 6000]), float(y[1] - y[0]) / 2
    )
    middle = (value + ratio[0].sqrt() * z)[:, None]
    inside = torch.logsumexp(weights.log() - (y - middle) ** 2 / 0.8 - math.log(2 * math.pi * 0.4) / 2, dim=1)
    assert within(terms[0], -(density * inside).sum(), errors[0])
    s, n = float(SMALL.signal[-1]), float(SMALL.noise[-1])
    a = torch.distributions.Normal(s * value, n)
    unit = torch.distributions.Normal(0.0, 1.0)
    close(terms[-1], torch.distributions.kl_divergence(a, unit), rtol=1e-5, atol=1e-7)
    assert terms.shape == errors.shape == (6,)


def test_bound_of_two_points():
    """With the perfect model and the optimal variance it is more than the entropy, by what jumps cost."""
    part = ddpm.subsequence(LINEAR, [0, 1, *range(10, 1001, 10)])
    data = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(10_000)[:, None]
    variance = ov.reverse_variance(ov.bridges(part), two_points(part))
    variance[0] = 1e-4  # 0 would do for the points, but not for a density
    model = ddpm.perfect(POINTS)
    terms, errors = ov.likelihood_bound(
        model, part, variance, data, width=2.0, low=-1.0, high=1.0, generator=rng(22)
    )
    total, error = float(terms.sum()), float(errors.square().sum().sqrt())
    floor = float((variance / ddpm.small_variance(part))[1:].log().sum()) / 2
    rest = float(terms[-1])  # the prior: what signal is left
    assert abs(total - floor - rest) < 5.85 * error + 1e-6
    assert math.log(2) < total < math.log(2) + 0.1
    # in each state its own variance: not more, and no jump beyond the entropy by much
    by_state, _ = ov.likelihood_bound(
        model,
        part,
        lambda x, eps, s, n: mixture.denoised_covariance(POINTS, x, s, n)[:, :, 0].clamp_min(1e-6),
        data,
        width=2.0,
        low=-1.0,
        high=1.0,
        generator=rng(22),
    )
    assert math.log(2) - 5.85 * error < float(by_state.sum()) < total


def test_bound_is_finite_far_out():
    """A guess 60 standard deviations off on either side has a log probability, not minus infinity."""
    variance = torch.full((5,), 2.5e-5, dtype=torch.float64)
    for value, model in (
        (0.0, lambda x, s, n: x / n - 0.8 * s / n),
        (0.0, lambda x, s, n: x / n + 0.8 * s / n),
    ):
        terms, _ = bits(torch.tensor([[value]]), variance, n=10, model=model)
        # guessed data are +-0.8, the bin ends at +-0.5: 60 standard deviations
        with mpmath.workdps(30):
            exact = -mpmath.log(mpmath.ncdf(-60))
        assert float(terms[0]) == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize(
    ("x0", "options", "word"),
    [
        ([[0.5]], {}, "x0"),
        ([[3.0]], {}, "x0"),
        ([[-2.0]], {}, "x0"),
        ([[math.nan]], {}, "x0"),
        ([[0.0]], {"width": 0.0}, "width"),
        ([[0.0]], {"high": -2.0}, "high"),
        ([[0.0]], {"variance": torch.zeros(5)}, "variance"),
        ([[0.0]], {"variance": torch.ones(4)}, "variance"),
        ([[0.0]], {"variance": torch.full((5,), math.nan)}, "variance"),
        ([[0.0]], {"variance": lambda x, *_: x[:, 0].abs()}, "shape of variance"),
        ([[0.0]], {"variance": lambda x, *_: x[..., None].abs()}, "shape of variance"),
    ],
)
def test_bound_refuses(x0, options, word):
    with pytest.raises(ValueError, match=word):
        bits(torch.tensor(x0), n=3, **options)


# -- heads -----------------------------------------------------------------------------------------


def levels(schedule):
    return zip(schedule.signal[1:].tolist(), schedule.noise[1:].tolist(), strict=True)


@pytest.mark.parametrize("loss", ["squares", "likelihood"])
@pytest.mark.parametrize("target", ["residual", "second moment"])
def test_heads_learn_the_posterior_variance(target, loss):
    """For Gaussian data Var(x_0 | x_t) is constant at each level; both heads find it, at high noise, too."""
    head = ov.VarianceHead(1, 32, target=target, generator=rng(23))
    model = gaussian(0.25)
    data = normal(4000, 1, seed=24, dtype=torch.float32) / 2
    part = ddpm.evenly(LINEAR, 3)
    losses = ov.train_head(head, model, data, part, loss=loss, steps=1000, rate=5e-3, generator=rng(25))
    assert losses.shape == (1000,) and float(losses[-300:].mean()) < float(losses[:20].mean())
    for signal, noise in levels(part):
        total = signal**2 / 4 + noise**2
        x = torch.tensor([[-1.0], [-0.5], [0.0], [0.7], [1.2]]) * math.sqrt(total)
        eps = model(x, signal, noise)
        found = head.posterior(x, eps, signal, noise)
        torch.testing.assert_close(found, torch.full_like(x, noise**2 / 4 / total), rtol=0, atol=0.06)


def test_targets_of_heads():
    """The squares are those of v = s * eps - n * x_0, also where signal and noise are not of unit scale."""
    signal, noise = torch.tensor([[0.3], [2.0]], dtype=torch.float64), torch.tensor([[0.4], [1.5]]).double()
    x0, eps, guess = normal(2, 3, seed=31), normal(2, 3, seed=32), normal(2, 3, seed=33)
    x = signal * x0 + noise * eps
    scale = (signal**2 + noise**2).sqrt()
    v = (signal * eps - noise * x0) / scale
    heads = [
        ov.VarianceHead(3, 8, target=t, generator=rng(34)).double() for t in ("residual", "second moment")
    ]
    guessed = (signal * guess - noise * (x - noise * guess) / signal) / scale
    close(heads[0].wanted(x, eps, guess, signal, noise), (v - guessed) ** 2, rtol=1e-11)
    close(heads[1].wanted(x, eps, guess, signal, noise), v**2, rtol=1e-11)
    h = heads[0](x, guess, signal, noise)
    close(heads[1](x, guess, signal, noise), h)
    most = (noise / signal) ** 2
    unclipped = (noise / scale) ** 2 * torch.stack([h, h - guessed**2])
    for head, wanted in zip(heads, unclipped, strict=True):
        found = head.posterior(x, guess, signal, noise)
        close(found, torch.minimum(wanted.clamp_min(0), most.expand_as(wanted)), rtol=1e-11)
        bounded = head.posterior(x, guess, signal, noise, bound=0.1)
        close(bounded, found.clamp_max(0.1))
    # a perfect mean: both posterior variances have the right mean over eps and x_0, here of one exact case
    close((x0 - (x - noise * guess) / signal) ** 2, (noise / scale) ** 2 * (v - guessed) ** 2, rtol=1e-9)


def test_heads_go_with_the_samplers():
    """The posterior of a head is what `sample` and `likelihood_bound` take."""
    head, n = ov.VarianceHead(2, 8, generator=rng(35)), 50
    x = ov.sample(
        ddpm.perfect(PLANE),
        SMALL,
        normal(n, 2, seed=36, dtype=torch.float32),
        variance=head.posterior,
        generator=rng(37),
    )
    assert x.shape == (n, 2) and x.dtype == torch.float32 and not x.requires_grad
    terms, errors = bits(torch.zeros(1, 2), head.posterior, n=n)
    assert bool(terms.isfinite().all()) and bool((errors >= 0).all()) and not terms.requires_grad


def test_heads_are_positive_and_keep_to_their_generator():
    before = torch.random.get_rng_state()
    a, b, c = (ov.VarianceHead(2, generator=rng(seed)) for seed in (26, 26, 27))
    x, eps = normal(9, 2, seed=28, dtype=torch.float32) * 50, normal(9, 2, seed=29, dtype=torch.float32)
    out = a(x, eps, 0.8, 0.6)
    assert out.shape == (9, 2) and bool((out >= 0).all())
    torch.testing.assert_close(out, b(x, eps, torch.full((9,), 0.8), torch.full((9, 1), 0.6)))
    assert not torch.equal(out, c(x, eps, 0.8, 0.6))
    # only noise / signal counts, with x at unit scale
    torch.testing.assert_close(out, a(3 * x, eps, 2.4, 1.8), rtol=1e-3, atol=1e-4)
    first, second = (ov.train_head(head, zero, x / 50, SMALL, steps=3, generator=rng(30)) for head in (a, b))
    assert torch.equal(first, second) and torch.equal(before, torch.random.get_rng_state())


def test_heads_refuse():
    head, data = ov.VarianceHead(2, generator=rng()), normal(5, 2, dtype=torch.float32)
    for options, word in (
        ({"loss": "mse"}, "loss"),
        ({"steps": 0}, "steps"),
        ({"rate": 0.0}, "rate"),
        ({"batch": 0}, "batch"),
    ):
        with pytest.raises(ValueError, match=word):
            ov.train_head(head, zero, data, SMALL, generator=rng(), **({"steps": 1} | options))
    for wrong in (data[:, :1], data[:0], data / 0):
        with pytest.raises(ValueError, match="data"):
            ov.train_head(head, zero, wrong, SMALL, steps=1, generator=rng())
    with pytest.raises(ValueError, match="shape"):
        head(data, data[:, :1], 1.0, 1.0)
    with pytest.raises(ValueError, match="dim"):
        ov.VarianceHead(0, generator=rng())
    with pytest.raises(ValueError, match="target"):
        ov.VarianceHead(2, target="noise", generator=rng())
    with pytest.raises(ValueError, match="bound"):
        head.posterior(data, data, 1.0, 1.0, bound=-1.0)
