"""Mathematics of guidance: exact laws, formulas against their peers, guided models against exact mixtures."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special

from kexue_lib import ddpm, mixture, sde
from kexue_lib import guidance as g

# Mean, std, prior_std, scale: narrower and wider than the prior, as wide, far from it, and scales of all kinds.
CASES = [
    (1.0, 0.5, 1.0, 3.0),
    (1.0, 1.5, 1.0, 3.0),
    (1.0, 1.0, 1.0, 3.0),
    (-2.0, 0.3, 1.7, 0.5),
    (0.7, 1.0, 3.0, 7.5),
    (1.3, 0.9, 0.8, -1.0),
    (1.0, 0.05, 2.0, 1.5),
    (1.0, 0.2, 1.0, 0.0),
    (0.4, 0.6, 1.1, 1.0),
    (2.0, 0.999999, 1.0, 4.0),
]
MIXTURE = mixture.gaussian_mixture(
    torch.tensor([[1.2, 0.4], [-0.8, 0.6], [0.1, -1.1], [0.9, -0.7]]),
    torch.tensor([0.05, 0.1, 0.02, 0.2]),
    torch.tensor([0.4, 0.3, 0.2, 0.1]),
)
CLASSES = torch.tensor([0, 1, 1, 0])
LEVELS = [(1.0, 0.0), (0.9, 0.3), (0.5, 0.8), (0.05, 1.0), (1.0, 4.0)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=rng(seed), dtype=dtype)


def close(a, b, rtol=1e-12, atol=0.0):
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def order(errors):
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


def differences(function, x, step=1e-6):
    """Gradient of a function with values (n,) by central differences."""
    columns = []
    for i in range(x.shape[1]):
        shift = torch.zeros_like(x)
        shift[:, i] = step
        columns.append((function(x + shift) - function(x - shift)) / (2 * step))
    return torch.stack(columns, 1)


def gaussian_score(mean, std):
    return lambda x, signal, noise: (signal * mean - x) / (signal**2 * std**2 + noise**2)


# -- exact laws ------------------------------------------------------------------------------------


def by_moments(mean, std, prior_std, scale, sigma):
    """Solve the differential equations of mean and variance along log(noise**2), in exploding variance."""
    k = 1 + sigma**2

    def slopes(log_y, state):
        y = math.exp(log_y)
        one, other = scale / (std**2 + y), (1 - scale) / (prior_std**2 + y)
        centre, variance = state
        drift = -k / 2 * (one * (mean - centre) - other * centre)
        return [y * drift, y * (k * variance * (one + other) - sigma**2)]

    start = 50.0
    # The two have such different sizes that a step good for one would be judged by the other.
    result = integrate.solve_ivp(
        slopes, (start, -60.0), [0.0, math.exp(start)], method="DOP853", rtol=1e-12, atol=1e-30
    )
    centre, variance = result.y[:, -1]
    return centre, math.sqrt(variance)


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("case", CASES)
def test_laws_against_the_equations_of_the_moments(case, sigma):
    close(g.guided_law(*case, sigma), by_moments(*case, sigma), rtol=2e-8, atol=1e-12)


def in_thirty_digits(mean, std, prior_std, scale, sde):
    """Integrals over y = noise**2 as they come from the linear equations, without any substitution."""
    with mpmath.workdps(30):
        m, s2, big2, c = (mpmath.mpf(v) for v in (mean, std**2, prior_std**2, scale))

        def tail(y, power):  # (h(0) / h(y))**power
            h0 = s2**c * big2 ** (1 - c)
            return (h0 / ((s2 + y) ** c * (big2 + y) ** (1 - c))) ** (mpmath.mpf(power) / 2)

        k = 2 if sde else 1
        cuts = [0, s2 / 100, s2, big2, 100 * big2, 10**4 * big2, mpmath.inf]
        centre = mpmath.mpf(k) / 2 * c * m * mpmath.quad(lambda y: tail(y, k) / (s2 + y), cuts)
        variance = mpmath.quad(lambda y: tail(y, 4), cuts) if sde else s2**c * big2 ** (1 - c)
        return float(centre), float(mpmath.sqrt(variance))


@pytest.mark.parametrize("case", CASES)
def test_laws_against_integrals_in_thirty_digits(case):
    close(g.guided_sde(*case), in_thirty_digits(*case, True), rtol=1e-10)
    close(g.guided_ode(*case), in_thirty_digits(*case, False), rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_laws_of_the_two_samplers_are_members_of_the_family(case):
    close(g.guided_law(*case, 1.0), g.guided_sde(*case), rtol=1e-11)
    close(g.guided_law(*case, 1e-8), g.guided_ode(*case), rtol=1e-9)
    mean, std, prior_std, scale = case
    hyper = special.hyp2f1((1 - scale) / 2, 0.5, 1.5, 1 - prior_std**2 / std**2)
    u = (std / prior_std) ** 2
    close(g.guided_ode(*case)[0], scale * mean * u ** ((scale - 1) / 2) * hyper, rtol=1e-10)
    close(g.guided_ode(*case)[1], std**scale * prior_std ** (1 - scale))


def test_published_table_of_the_chapter():
    """Values by hand."""
    close(g.guided_ode(1, 0.5, 1, 3), (1.5, 0.125))
    close(g.guided_sde(1, 0.5, 1, 3), (21 / 16, math.sqrt(341 / 5120)))
    close(g.tilted(1, 0.5, 1, 3), (1.2, math.sqrt(0.1)))
    close(g.guided_ode(1, 1.5, 1, 3), (5.5, 3.375))
    close(g.guided_sde(1, 1.5, 1, 3), (8.3125, math.sqrt(20.3994140625)))
    for law in (g.guided_ode, g.guided_sde, g.tilted):
        close(law(1, 1, 1, 3), (3, 1))
        close(law(-1, 0.5, 1, 1), (-1, 0.5))  # Bayes
        close(law(1, 0.5, 2, 0), (0, 2))  # no guidance
        close(law(0, 0.5, 2, 3)[0], 0)
    with pytest.raises(ValueError, match="is -0.666667: the tilted density grows without end"):
        g.tilted(1, 1.5, 1, 3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("law", [g.guided_ode, g.guided_sde, g.tilted, lambda *c: g.guided_law(*c, 0.7)])
def test_laws_do_not_depend_on_the_unit(case, law):
    mean, std, prior_std, scale = case
    if law is g.tilted and scale / std**2 + (1 - scale) / prior_std**2 <= 0:
        pytest.skip("no law")
    shifted = law(10 * mean, 10 * std, 10 * prior_std, scale)
    close(shifted, [10 * value for value in law(*case)], rtol=1e-11)
    close(law(-3 * mean, std, prior_std, scale)[0], -3 * law(*case)[0], rtol=1e-11)


def test_more_noise_leads_from_the_flow_to_the_tilted_law():
    """The family ends at the tilted law, with an error of order 1 / sigma**2, and gets there from one side."""
    for case in [(1.0, 0.5, 1.0, 3.0), (1.0, 1.1, 1.0, 3.0), (2.0, 0.3, 1.0, 0.4)]:
        laws = np.array([g.guided_law(*case, sigma) for sigma in (0, 0.5, 1, 2, 4, 8, 16, 32, 64)])
        gaps = np.abs(laws - g.tilted(*case))
        assert (np.diff(gaps, axis=0) < 0).all()
        np.testing.assert_allclose(gaps[-2] / gaps[-1], 4, atol=0.02)
    # Where there is no tilted law, more noise leads away without end.
    spreads = [g.guided_law(1, 1.5, 1, 3, sigma)[1] for sigma in (0, 1, 2, 4, 8)]
    assert (np.diff(np.log(spreads)) > 0.1).all()


def test_narrow_classes_are_sharpened_beyond_the_tilted_law_and_wide_ones_blown_up():
    for scale in (1.5, 3, 10):
        flow, noisy, law = (f(1, 0.5, 1, scale)[1] for f in (g.guided_ode, g.guided_sde, g.tilted))
        assert flow < noisy < law < 0.5
    flow, noisy, law = (f(1, 1.1, 1, 3)[1] for f in (g.guided_ode, g.guided_sde, g.tilted))
    assert 1.1 < flow < noisy < law


def test_values_where_formulas_have_gaps():
    """Equal spreads and scale 1/2 are limits, not cases."""
    for near in (1e-13, 1e-9, 1e-5):
        close(g.guided_sde(1, 1 - near, 1, 2.5), (2.5, 1), rtol=10 * near + 1e-14)
    close(g.guided_sde(1, 0.5, 1, 0.5)[1], math.sqrt(0.25 * math.log(4) / 0.75))
    close(g.guided_sde(1, 0.5, 1, 0.5 + 1e-12)[1], math.sqrt(0.25 * math.log(4) / 0.75), rtol=1e-11)
    close(g.guided_sde(1, 0.5, 1, 2), (1.25, math.sqrt(0.25 * (1 - 1 / 64) / 0.75 / 3)))


@pytest.mark.parametrize("case", [(1, 1e-3, 1, 2.5), (1, 1e-3, 1, -0.5), (1, 30, 1, 2.0), (1, 0.5, 1, 60.0)])
def test_quadrature_where_it_is_hard(case):
    """Against closed forms: sigma 1 for both moments, the hypergeometric function for the flow."""
    close(g.guided_law(*case, 1.0), g.guided_sde(*case), rtol=1e-10)
    mean, std, prior_std, scale = case
    hyper = mpmath.hyp2f1((1 - scale) / 2, 0.5, 1.5, 1 - mpmath.mpf(prior_std) ** 2 / mpmath.mpf(std) ** 2)
    exact = scale * mean * mpmath.mpf(std / prior_std) ** (scale - 1) * hyper
    close(g.guided_ode(*case)[0], float(exact), rtol=1e-10)


def test_tilted_law_is_the_law_of_the_density():
    x = np.linspace(-30, 30, 200001)
    for mean, std, prior_std, scale in [(1.0, 0.5, 1.0, 3.0), (1.0, 1.1, 1.0, 3.0), (-1.0, 0.5, 2.0, 0.3)]:
        logs = -scale * (x - mean) ** 2 / 2 / std**2 - (1 - scale) * x**2 / 2 / prior_std**2
        p = np.exp(logs - logs.max())
        p /= p.sum()
        centre = (p * x).sum()
        close(
            g.tilted(mean, std, prior_std, scale),
            (centre, math.sqrt((p * (x - centre) ** 2).sum())),
            rtol=1e-10,
        )


PROCESSES = {
    "VE": sde.variance_exploding(0.01, 150.0),
    "VP": sde.variance_preserving(0.1, 20.0),
    "straight": sde.Process(lambda t: 1 - t, lambda t: t**2, 0.995),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.0, 1.5])
def test_solvers_draw_the_laws(process, sigma):
    """Means and variances of Euler's steps, which are affine, computed exactly by the solver's own drift."""
    process, case = PROCESSES[process], (1.0, 0.5, 1.0, 3.0)
    score = g.combined(gaussian_score(1.0, 0.5), gaussian_score(0.0, 1.0), 3.0)
    drift, diffusion = sde.reverse(process, score, sigma=sigma)
    ends, errors = torch.tensor([[0.0], [1.0]], dtype=torch.float64), []
    for steps in (1000, 2000):
        ratios = torch.logspace(math.log10(140), -3, steps + 1, dtype=torch.float64)
        times = process.time_of(ratios).tolist()
        centre, variance = 0.0, float(process.noise(times[0])) ** 2
        for a, b in zip(times[:-1], times[1:], strict=True):
            zero, one = (ends + drift(ends, a) * (b - a))[:, 0].tolist()
            centre = zero + (one - zero) * centre
            variance = (one - zero) ** 2 * variance + float(diffusion(a)) ** 2 * (a - b)
        errors.append(np.array([centre, math.sqrt(variance)]) - g.guided_law(*case, sigma))
    assert np.abs(errors[1]).max() < np.abs(errors[0]).max()
    # The error of the steps is of order 1. What remains is that of a start with noise 140 and not infinity.
    assert np.abs(2 * errors[1] - errors[0]).max() < (0.012 if sigma < 0.5 else 0.003)


def test_samplers_draw_the_laws():
    """DDIM without noise is the flow, DDPM the noisy equation, in many steps and within standard errors."""
    case, count = (1.0, 0.5, 1.0, 3.0), 20_000
    told, untold = (
        ddpm.perfect(mixture.gaussian_mixture(torch.tensor([[m]]), v)) for m, v in ((1.0, 0.25), (0.0, 1.0))
    )
    model, schedule = g.combined(told, untold, 3.0), ddpm.cosine(400)
    start = normal(count, 1, seed=1)
    drawn = {
        g.guided_ode: ddpm.ddim(model, schedule, start),
        g.guided_sde: ddpm.ancestral(model, schedule, start, generator=rng(2)),
    }
    for law, x in drawn.items():
        mean, std = law(*case)
        # Five standard errors, and one per cent for the steps.
        close(x.mean(), mean, atol=5.85 * std / count**0.5, rtol=0.01)
        close(x.std(), std, atol=5.85 * std / (2 * count) ** 0.5, rtol=0.01)
    assert abs(float(drawn[g.guided_sde].std()) - g.tilted(*case)[1]) > 0.04  # not what it is said to draw
