"""Mathematics of guidance: exact laws, formulas against their peers, guided models against exact mixtures."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special

from kexue_lib import ddpm, mixture, sde
from kexue_lib import guidance as g

# Mean, std, prior_std, scale: narrower and wider than the prior, as wide, and scales of all kinds.
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
    torch.tensor([0.05, 0.1, 0.02, 0.2], dtype=torch.float64),
    torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64),
)
CLASSES = torch.tensor([0, 1, 1, 1])
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


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.7])
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
    with pytest.raises(ValueError, match=r"is -0\.666667: the tilted density grows without end"):
        g.tilted(1, 1.5, 1, 3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("law", [g.guided_ode, g.guided_sde, g.tilted, lambda *c: g.guided_law(*c, 0.7)])
def test_laws_do_not_depend_on_the_unit(case, law):
    mean, std, prior_std, scale = case
    if law is g.tilted and scale / std**2 + (1 - scale) / prior_std**2 <= 0:
        return  # there is none, see below
    shifted = law(10 * mean, 10 * std, 10 * prior_std, scale)
    close(shifted, [10 * value for value in law(*case)], rtol=1e-11)
    close(law(-3 * mean, std, prior_std, scale)[0], -3 * law(*case)[0], rtol=1e-11)


def test_more_noise_leads_from_the_flow_to_the_tilted_law():
    """The family ends at the tilted law, the error being of order 1 / sigma**2 and of one sign."""
    for case in [(1.0, 0.5, 1.0, 3.0), (1.0, 1.1, 1.0, 3.0), (2.0, 0.3, 1.0, 0.4)]:
        laws = np.array([g.guided_law(*case, sigma) for sigma in (0, 0.5, 1, 2, 4, 8, 16, 32, 64)])
        gaps = np.abs(laws - g.tilted(*case))
        assert (np.diff(gaps, axis=0) < 0).all()
        np.testing.assert_allclose(gaps[-2] / gaps[-1], 4, atol=0.06)
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


@pytest.mark.parametrize("case", [(1, 1e-3, 1, 2.5), (1, 1e-3, 1, -20.0), (1, 30, 1, 2.0), (1, 0.5, 1, 60.0)])
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
    "straight": sde.Process(lambda t: 1 - t, lambda t: t**2, 0.995),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.5])
def test_solvers_draw_the_laws(process, sigma):
    """Means and variances of Euler's steps, which are affine, computed exactly by the solver's own drift."""
    process, case = PROCESSES[process], (1.0, 0.5, 1.0, 3.0)
    score = g.combined(gaussian_score(1.0, 0.5), gaussian_score(0.0, 1.0), 3.0)
    drift, diffusion = sde.reverse(process, score, sigma=sigma)
    ends, errors = torch.tensor([[0.0], [1.0]], dtype=torch.float64), []
    for steps in (200, 400):
        ratios = torch.logspace(math.log10(140), -3, steps + 1, dtype=torch.float64)
        times = process.time_of(ratios).tolist()
        diffusion.levels.fill(times)
        centre, variance = 0.0, float(process.noise(times[0])) ** 2
        for a, b in itertools.pairwise(times):
            zero, one = (ends + drift(ends, a) * (b - a))[:, 0].tolist()
            centre = zero + (one - zero) * centre
            variance = (one - zero) ** 2 * variance + diffusion(a) ** 2 * (a - b)
        errors.append(np.array([centre, math.sqrt(variance)]) - g.guided_law(*case, sigma))
    # The error of the steps is of order 1. What remains is that of a start with noise 140 and not infinity.
    assert np.abs(2 * errors[1] - errors[0]).max() < (0.012 if sigma < 0.5 else 0.006), errors


def affine(states):
    """Slopes (K,) of the affine steps that took 0 and 1 through the states, and where 0 ended."""
    apart = (states[:, 1] - states[:, 0])[:, 0]
    return apart[1:] / apart[:-1], float(states[-1, 0, 0])


def test_discrete_samplers_tend_to_the_laws():
    """DDIM without noise is the flow, DDPM the noisy equation. Their steps are affine, so none are drawn."""

    def model(x, signal, noise):
        return -noise * (
            3 * gaussian_score(1.0, 0.5)(x, signal, noise) - 2 * gaussian_score(0.0, 1.0)(x, signal, noise)
        )

    ends, errors = torch.tensor([[0.0], [1.0]], dtype=torch.float64), []
    for steps in (75, 300):
        schedule = ddpm.cosine(steps)
        variance = ddpm.small_variance(schedule)
        flow, flow_mean = affine(ddpm.ddim(model, schedule, ends, keep=True))
        noisy, noisy_mean = affine(
            ddpm.ancestral(model, schedule, ends, variance=0 * variance, generator=rng(), keep=True)
        )
        # By what a deviation after each step is multiplied until the end.
        left = torch.cat([noisy.flip(0).cumprod(0).flip(0), noisy.new_ones(1)])
        spread = float((left[0] ** 2 + (left[1:] ** 2 * variance.flip(0)).sum()).sqrt())
        laws = [*g.guided_ode(1, 0.5, 1, 3), *g.guided_sde(1, 0.5, 1, 3)]
        errors.append(np.array([flow_mean, float(flow.prod()), noisy_mean, spread]) / laws - 1)
    assert np.abs(errors[1]).max() < 0.03
    assert np.abs(errors[1]).max() < np.abs(errors[0]).max() / 3


# -- formulas --------------------------------------------------------------------------------------


def test_the_two_conventions():
    told, untold = normal(5, 3), normal(5, 3, seed=1)
    for w in (-1.0, -0.3, 0.0, 0.5, 6.5):
        guided = g.classifier_free(told, untold, g.from_excess(w))
        close(guided, (1 + w) * told - w * untold, rtol=1e-12, atol=1e-14)
        close(guided, untold + (1 + w) * (told - untold), rtol=1e-12, atol=1e-14)
    assert torch.equal(g.classifier_free(told, untold, 1.0), told)
    assert torch.equal(g.classifier_free(told, untold, 0), untold)
    assert g.from_excess(0) == 1


def test_the_gradient_goes_into_the_guess_of_the_noise():
    """As a score: -eps/noise plus scale times the gradient."""
    eps, gradient = normal(5, 3), normal(5, 3, seed=1)
    close(-g.guided_noise(eps, gradient, 0.3, 2.0) / 0.3, -eps / 0.3 + 2 * gradient)
    close(g.guided_noise(eps, gradient, 0.3), eps - 0.3 * gradient)


def test_scales_for_rows():
    told, untold = normal(4, 3, 2), normal(4, 3, 2, seed=1)
    scales = torch.tensor([0.0, 1.0, 2.5, -1.0])
    each = [
        g.classifier_free(a[None], b[None], float(s)) for a, b, s in zip(told, untold, scales, strict=True)
    ]
    close(g.classifier_free(told, untold, scales), torch.cat(each), rtol=1e-14)
    each = [
        g.guided_noise(a[None], b[None], 0.3, float(s)) for a, b, s in zip(told, untold, scales, strict=True)
    ]
    close(g.guided_noise(told, untold, 0.3, scales), torch.cat(each), rtol=1e-14)
    assert g.classifier_free(told.float(), untold.float(), scales.double()).dtype == torch.float32


def test_against_diffusers():
    guiders = pytest.importorskip("diffusers.guiders.classifier_free_guidance")
    told, untold = normal(6, 3, 4, 4), normal(6, 3, 4, 4, seed=1)
    for scale in (0.5, 2.0, 7.5):
        theirs = guiders.rescale_noise_cfg(untold + scale * (told - untold), told, 0.7)
        close(g.rescale(g.classifier_free(told, untold, scale), told, 0.7), theirs, rtol=1e-10)
        for original in (False, True):
            guider = guiders.ClassifierFreeGuidance(
                guidance_scale=scale, guidance_rescale=0.3, use_original_formulation=original
            )
            guider.set_state(0, 1, torch.tensor(1))
            ours = g.classifier_free(told, untold, g.from_excess(scale) if original else scale)
            close(g.rescale(ours, told, 0.3), guider.forward(told, untold).pred, rtol=1e-10)


def test_dynamic_threshold_against_diffusers():
    diffusers = pytest.importorskip("diffusers")
    x0 = 2 * normal(6, 3, 4, 4)
    x0[0] /= 10
    for quantile in (0.5, 0.9, 0.995, 1.0):
        theirs = diffusers.DDPMScheduler(
            thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=1e9
        )._threshold_sample(x0)
        close(g.dynamic_threshold(x0, quantile), theirs)
    close(
        g.dynamic_threshold(x0),
        diffusers.DDPMScheduler(thresholding=True, sample_max_value=9)._threshold_sample(x0),
    )


def test_dynamic_threshold_by_hand():
    x0 = torch.tensor([[0.5, -0.2, 1.0, -0.9], [4.0, -2.0, 1.0, 0.0], [-8.0, 1.0, 1.0, 1.0]])
    close(g.dynamic_threshold(x0, 1.0)[:2], [[0.5, -0.2, 1.0, -0.9], [1.0, -0.5, 0.25, 0.0]], rtol=1e-7)
    close(g.dynamic_threshold(x0, 1 / 3)[2], [-1, 1, 1, 1], rtol=1e-7)
    close(g.dynamic_threshold(x0, 2 / 3)[1], [1, -1, 0.5, 0], rtol=1e-7)  # the quantile is 2


def test_rescale_keeps_the_spread_and_the_direction():
    guided, told = 5 * normal(7, 11) + 1, normal(7, 11, seed=1)
    close(g.rescale(guided, told, 1.0).std(1), told.std(1))
    assert torch.equal(g.rescale(guided, told, 0.0), guided)
    half = g.rescale(guided, told, 0.5)
    close(half.std(1), (told.std(1) + guided.std(1)) / 2)
    close(half / half.norm(dim=1, keepdim=True), guided / guided.norm(dim=1, keepdim=True))
    flat = torch.ones(2, 3)
    assert torch.equal(g.rescale(flat, normal(2, 3, dtype=torch.float32), 0.7), flat)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_the_gradient_of_the_perfect_classifier_is_a_difference_of_scores(level, classes):
    x = 2 * normal(40, 2)
    log_prob = g.class_log_probabilities(MIXTURE, classes)
    close(log_prob(x, *level).exp().sum(1), torch.ones(40))
    for label in range(2):
        slope = mixture.score(g.conditional(MIXTURE, label, classes), x, *level) - mixture.score(
            MIXTURE, x, *level
        )
        gradient = g.class_gradient(lambda x: log_prob(x, *level), x, label)
        close(gradient, slope, rtol=1e-9, atol=1e-9 * float(slope.abs().max()))
        close(
            gradient,
            differences(lambda x, label=label: log_prob(x, *level)[:, label], x),
            rtol=1e-5,
            atol=1e-6 * float(slope.abs().max()),
        )
        close(g.energy_gradient(lambda x, label=label: log_prob(x, *level)[:, label], x), gradient)
        close(g.classifier_shift(lambda x: log_prob(x, *level), x, label, 0.3, 2.0), 0.6 * gradient)
        close(g.classifier_shift(lambda x: log_prob(x, *level), x, label, 0.3), 0.3 * gradient)


def test_probabilities_of_the_perfect_classifier():
    x = 2 * normal(30, 2)
    parts = mixture.class_probabilities(MIXTURE, x, 0.8, 0.4)
    close(g.class_log_probabilities(MIXTURE)(x, 0.8, 0.4).exp(), parts, rtol=1e-10)
    grouped = torch.stack([parts[:, label == CLASSES].sum(1) for label in range(2)], 1)
    close(g.class_log_probabilities(MIXTURE, CLASSES)(x, 0.8, 0.4).exp(), grouped, rtol=1e-10)
    far = torch.tensor([[300.0, -200.0]], dtype=torch.float64)  # where all but one of the probabilities are 0
    assert int((mixture.class_probabilities(MIXTURE, far) == 0).sum()) == 3
    log_prob = g.class_log_probabilities(MIXTURE)
    slope = mixture.score(g.conditional(MIXTURE, 2), far) - mixture.score(MIXTURE, far)
    close(g.class_gradient(lambda x: log_prob(x, 1.0, 0.0), far, 2), slope, rtol=1e-9)


def test_conditionals_make_up_the_mixture():
    x = normal(20, 2)
    shares = torch.tensor([0.4, 0.6], dtype=torch.float64)
    logs = torch.stack([mixture.log_density(g.conditional(MIXTURE, i, CLASSES), x) for i in range(2)], 1)
    close((logs + shares.log()).logsumexp(1), mixture.log_density(MIXTURE, x))
    close(g.conditional(MIXTURE, 1, CLASSES).weights, [1 / 2, 1 / 3, 1 / 6])
    one = g.conditional(MIXTURE, 3)
    close(one.means, MIXTURE.means[3:])
    close(one.covariances, MIXTURE.covariances[3:])
    close(one.weights, [1.0])


def test_labels_for_rows():
    x, labels = normal(12, 2), torch.arange(12) % 4
    log_prob = g.class_log_probabilities(MIXTURE)

    def at(x):
        return log_prob(x, 0.7, 0.5)

    rows = g.class_gradient(at, x, labels)
    for label in range(4):
        close(rows[labels == label], g.class_gradient(at, x[labels == label], label))


@pytest.mark.parametrize("shape", [(5, 3), (5, 1, 2, 3)])
def test_similarity(shape):
    x, reference = normal(*shape), normal(*shape[1:], seed=1)

    def similarity(x):
        return -(x - reference).flatten(1).square().sum(1)

    close(g.similarity_shift(similarity, x, 0.3, 2.0), -1.2 * (x - reference))
    with torch.no_grad():
        close(g.similarity_shift(similarity, x, 0.3), -0.6 * (x - reference))
    assert not x.requires_grad
    close(g.similarity_shift(similarity, x, 0.0), 0 * x)


def test_the_scaled_classifier_needs_its_normaliser():
    """The gradient of p**c / Z differs from c times that of log p, by the gradient of log Z."""
    scale, x = 3.0, torch.tensor([[0.7]], dtype=torch.float64)

    def log_prob(x):
        return torch.cat([torch.nn.functional.logsigmoid(x), torch.nn.functional.logsigmoid(-x)], 1)

    powered = g.class_gradient(lambda x: (scale * log_prob(x)).log_softmax(1), x, 0)
    normaliser = g.energy_gradient(lambda x: (scale * log_prob(x)).logsumexp(1), x)
    close(powered, scale * g.class_gradient(log_prob, x, 0) - normaliser)
    close(float(normaliser), 0.668146, rtol=1e-6)


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS[1:])
def test_scale_one_is_bayes_formula(level):
    """The perfect model guided by the perfect classifier is the perfect model of the class, exactly."""
    x = 2 * normal(30, 2)
    perfect, told = ddpm.perfect(MIXTURE), ddpm.perfect(g.conditional(MIXTURE, 1, CLASSES))
    log_prob = g.class_log_probabilities(MIXTURE, CLASSES)
    close(g.classifier_guided(perfect, log_prob, 1)(x, *level), told(x, *level), rtol=1e-8, atol=1e-10)
    for scale in (0.0, 2.5):  # with and without a classifier
        guided = g.classifier_guided(perfect, log_prob, 1, scale)(x, *level)
        close(guided, g.combined(told, perfect, scale)(x, *level), rtol=1e-8, atol=1e-10)
        close(
            guided, perfect(x, *level) + scale * (told(x, *level) - perfect(x, *level)), rtol=1e-8, atol=1e-10
        )
    labels = torch.arange(30) % 2
    guided = g.classifier_guided(perfect, log_prob, labels, 2.0)(x, *level)
    close(guided[1::2], g.classifier_guided(perfect, log_prob, 1, 2.0)(x[1::2], *level))
    single = g.classifier_guided(perfect, log_prob, 1)(x.float(), *level)
    assert single.dtype == torch.float32
    close(single.double(), told(x, *level), rtol=1e-3, atol=1e-4)


def network():
    """A network that listens to its labels."""
    made = ddpm.NoiseNetwork(3, 16, 2, classes=4, generator=rng(5))
    with torch.no_grad():
        for i, weight in enumerate(made.parameters()):
            weight.add_(0.3 * torch.randn(weight.shape, generator=rng(i)))
    return made


@pytest.mark.parametrize("condition", [2, torch.tensor([0, 1, 2, 3, 3])])
def test_both_halves_are_one_batch(condition):
    made, calls = network(), []

    def watched(x, signal, noise, labels):
        calls.append((len(x), labels.tolist()))
        return made(x, signal, noise, labels)

    x = normal(5, 3, dtype=torch.float32)
    labels = torch.as_tensor(condition).expand(5)
    told, untold = made(x, 0.8, 0.6, labels), made(x, 0.8, 0.6)
    for scale in (0.0, 2.5):
        guided = g.classifier_free_model(watched, condition, scale, untold=4)(x, 0.8, 0.6)
        torch.testing.assert_close(guided, untold + scale * (told - untold), rtol=1e-4, atol=1e-5)
    assert calls == [(10, [*labels.tolist(), *[4] * 5])] * 2
    rows = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0])
    guided = g.classifier_free_model(made, condition, rows, untold=4)(x, 0.8, 0.6)
    torch.testing.assert_close(guided, untold + rows[:, None] * (told - untold), rtol=1e-4, atol=1e-5)
    assert torch.equal(g.classifier_free_model(watched, condition, 1.0, untold=4)(x, 0.8, 0.6), told)
    assert calls[2:] == [(5, labels.tolist())]
    against = g.classifier_free_model(made, condition, 2.0, untold=0)(x, 0.8, 0.6)
    away = made(x, 0.8, 0.6, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(against, 2 * told - away, rtol=1e-4, atol=1e-5)
    spread = g.classifier_free_model(made, condition, 2.0, untold=4, phi=0.7)(x, 0.8, 0.6)
    torch.testing.assert_close(spread, g.rescale(2 * told - untold, told, 0.7), rtol=1e-4, atol=1e-5)


def test_embeddings_as_conditions():
    weight = normal(4, 3)

    def model(x, signal, noise, told):
        return x * signal + told @ weight

    x, told, untold = normal(5, 3), normal(5, 4, seed=1), normal(4, seed=2)
    guided = g.classifier_free_model(model, told, 3.0, untold=untold)(x, 0.5, 0.8)
    close(guided, 0.5 * x + 3 * told @ weight - 2 * untold @ weight)


def test_guidance_in_an_interval():
    told, untold = (lambda x, signal, noise: x + 1), (lambda x, signal, noise: x)

    def scale(signal, noise):
        return 3.0 if 0.2 < noise / signal < 5 else 1.0

    for noise, extra in ((0.1, 1), (1.0, 3), (9.0, 1)):
        x = normal(3, 2)
        close(g.combined(told, untold, scale)(x, 1.0, noise), x + extra)
        model = g.classifier_free_model(
            lambda x, signal, noise, labels: x + labels[:, None], 1, scale, untold=0
        )
        close(model(x, 1.0, noise), x + extra)
        pushed = g.energy_guided(untold, lambda x, signal, noise: x.sum(1), scale)
        close(pushed(x, 1.0, noise), x - noise * extra)


def test_models_serve_all_samplers():
    """Guided by the perfect classifier at scale 1 samplers draw the class as with its own model."""
    perfect, told = ddpm.perfect(MIXTURE), ddpm.perfect(g.conditional(MIXTURE, 0, CLASSES))
    guided = g.classifier_guided(perfect, g.class_log_probabilities(MIXTURE, CLASSES), 0)
    schedule, start = ddpm.cosine(12), normal(50, 2)
    close(ddpm.ddim(guided, schedule, start), ddpm.ddim(told, schedule, start), atol=1e-8)
    ours, theirs = (ddpm.ancestral(model, schedule, start, generator=rng()) for model in (guided, told))
    close(ours, theirs, atol=1e-8)
    process = sde.constant_rate(1.0, 6.0)
    ours, theirs = (
        sde.euler_maruyama(
            *sde.reverse(process, lambda x, signal, noise, model=model: -model(x, signal, noise) / noise),
            start,
            sde.even_times(6.0, 0.2, 10),
            generator=rng(),
        )
        for model in (guided, told)
    )
    close(ours, theirs, atol=1e-8)


def test_clean_classifier_asks_about_the_data():
    """For one Gaussian E[x_0|x_t] is linear in x_t, so that the gradient is known by the chain rule."""
    law = mixture.gaussian_mixture(torch.tensor([[0.5, -1.0]]), torch.tensor([0.3], dtype=torch.float64))

    def log_prob(x):
        return torch.stack([x[:, 0] - 2 * x[:, 1], x[:, 1] ** 2], 1).log_softmax(1)

    signal, noise, x = 0.8, 0.6, normal(9, 2)
    gain = signal * 0.3 / (signal**2 * 0.3 + noise**2)
    x0 = law.means + gain * (x - signal * law.means)
    asked = g.clean_classifier(log_prob, ddpm.perfect(law))
    close(asked(x, signal, noise), log_prob(x0), rtol=1e-10)
    gradient = g.class_gradient(lambda x: asked(x, signal, noise), x, 1)
    close(gradient, gain * g.class_gradient(log_prob, x0, 1), rtol=1e-9)


def test_thresholded_models_point_to_data_in_range():
    x, signal, noise = 3 * normal(8, 5), 0.4, 0.9
    model = g.thresholded(ddpm.perfect(mixture.gaussian_mixture(torch.ones(1, 5), 4.0)), 0.8)
    x0 = mixture.denoised(mixture.gaussian_mixture(torch.ones(1, 5), 4.0), x, signal, noise)
    close((x - noise * model(x, signal, noise)) / signal, g.dynamic_threshold(x0, 0.8), rtol=1e-9)
    assert float(x0.abs().max()) > 1.5
    assert float(((x - noise * model(x, signal, noise)) / signal).abs().max()) <= 1 + 1e-12


@pytest.mark.parametrize("at", ["state", "mean"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_means_are_moved_step_by_step(at, variance):
    """An energy with a constant curvature, and the sums of the sampler written out."""
    schedule, start, scale = ddpm.cosine(9), normal(4, 2), 1.7

    def energy(x, signal, noise):
        return -(x - signal).square().sum(1) / (2 * (1 + noise))

    got = g.guided_ancestral(
        lambda x, signal, noise: noise * x,
        energy,
        schedule,
        start,
        scale=scale,
        at=at,
        variance=variance,
        generator=rng(3),
    )
    x, draws = start.clone(), rng(3)
    for t in range(9, 0, -1):
        signal, noise = float(schedule.signal[t]), float(schedule.noise[t])
        before_signal, before = float(schedule.signal[t - 1]), float(schedule.noise[t - 1])
        alpha = signal / before_signal
        beta2 = noise**2 - alpha**2 * before**2
        mean = (x - beta2 / noise * noise * x) / alpha
        if t > 1:
            sigma2 = beta2 if variance == "large" else before**2 * beta2 / noise**2
            slope = -(x - signal) / (1 + noise) if at == "state" else -(mean - before_signal) / (1 + before)
            z = torch.randn(4, 2, generator=draws, dtype=torch.float64)
            mean = mean + sigma2 * scale * slope + sigma2**0.5 * z
        x = mean
    close(got, x, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_without_scale_it_is_the_ancestral_sampler(variance):
    perfect, schedule, start = ddpm.perfect(MIXTURE), ddpm.cosine(15), normal(20, 2)
    log_prob = g.class_log_probabilities(MIXTURE)
    kept = start.clone()
    ours = g.guided_ancestral(
        perfect,
        lambda x, *level: log_prob(x, *level)[:, 0],
        schedule,
        start,
        scale=0.0,
        variance=variance,
        generator=rng(1),
    )
    close(ours, ddpm.ancestral(perfect, schedule, start, variance=variance, generator=rng(1)), rtol=1e-9)
    assert torch.equal(start, kept)


def test_moved_means_and_guided_noise_agree_as_steps_grow():
    """Both tend to the sampler of the class; the gap between them halves when the steps double."""
    perfect, told = ddpm.perfect(MIXTURE), ddpm.perfect(g.conditional(MIXTURE, 0))
    log_prob, gaps = g.class_log_probabilities(MIXTURE), []
    x = normal(200, 2)
    for steps in (20, 40, 80):
        schedule, t = ddpm.from_step_variances(torch.full((steps,), 2.0 / steps)), steps // 2
        level = float(schedule.signal[t]), float(schedule.noise[t])
        before = float(schedule.signal[t - 1]), float(schedule.noise[t - 1])
        exact = ddpm.ancestral_step(x, told(x, *level), schedule, t)
        mean = ddpm.ancestral_step(x, perfect(x, *level), schedule, t)
        variance = float(ddpm.small_variance(schedule)[t - 1])
        at_state = mean + g.classifier_shift(lambda x, a=level: log_prob(x, *a), x, 0, variance)
        at_mean = mean + g.classifier_shift(lambda x, a=before: log_prob(x, *a), mean, 0, variance)
        gaps.append([float((shifted - exact).square().mean().sqrt()) for shifted in (at_state, at_mean)])
    assert (order(gaps) > 1.7).all(), gaps  # of one step: order 2, so that all steps together err by order 1


# -- towards the tilted law ------------------------------------------------------------------------


def run_steered(process, told, untold, start, steps, scale, **options):
    top = float(process.noise(process.horizon) / process.signal(torch.tensor(process.horizon).double()))
    times = process.time_of(torch.logspace(math.log10(top) - 1e-9, -2, steps + 1, dtype=torch.float64))
    return g.steered(process, told, untold, start, times, scale=scale, **{"generator": rng(7), **options})


def test_weights_are_ratios_of_densities():
    """Without noise the density of the states is known: weights are the tilted law's over theirs, order 1."""
    process, errors = sde.constant_rate(1.0, 12.0), []
    start = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    (mean, std), (centre, width) = g.guided_ode(1.0, 0.5, 1.0, 2.0), g.tilted(1.0, 0.5, 1.0, 2.0)
    for steps in (200, 400):
        got = run_steered(
            process,
            gaussian_score(1.0, 0.5),
            gaussian_score(0.0, 1.0),
            start,
            steps,
            2.0,
            sigma=0.0,
            threshold=0.0,
        )
        x = got.x[:, 0]
        logs = (-((x - centre) ** 2) / (2 * width**2) + (x - mean) ** 2 / (2 * std**2)).log_softmax(0)
        errors.append(float((logs - got.log_weights).abs().max()))
        close(got.log_weights.logsumexp(0), 0.0, atol=1e-12)
        close(got.sizes[-1], 1 / got.log_weights.exp().square().sum())
        assert got.sizes.shape == (steps,)
    assert float(logs.max() - logs.min()) > 2
    assert errors[1] < 0.1
    assert order(errors)[0] > 0.8, errors


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_steered_states_have_the_tilted_law(sigma):
    """Within standard errors of the smallest effective size, and one per cent for the steps."""
    case, count = (1.0, 0.5, 1.0, 3.0), 4000
    start, process = normal(count, 1, seed=1), sde.variance_preserving()
    got = run_steered(
        process, gaussian_score(1.0, 0.5), gaussian_score(0.0, 1.0), start, 200, 3.0, sigma=sigma
    )
    mean, std = g.tilted(*case)
    weights, x = got.log_weights.exp(), got.x[:, 0]
    centre = float(weights @ x)
    least = float(got.sizes.min())
    assert 0.3 * count < least < count
    close(centre, mean, rtol=0.01, atol=5.85 * std / least**0.5)
    width = float(weights @ (x - centre) ** 2) ** 0.5
    close(width, std, rtol=0.01, atol=5.85 * std / (2 * least) ** 0.5)
    without = g.guided_law(*case, sigma)
    assert abs(without[0] - mean) > 2 * abs(centre - mean)  # the sampler alone is somewhere else
    assert abs(without[1] - std) > 2 * abs(width - std)


def test_steered_mixtures_against_sums_over_a_grid():
    """Two dimensions: mean and second moments of p(x|y)**2 / p(x), by summing that density."""
    told = g.conditional(MIXTURE, 1, CLASSES)
    line = torch.linspace(-4, 4, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    p = (2 * mixture.log_density(told, grid) - mixture.log_density(MIXTURE, grid)).softmax(0)
    count = 3000
    got = run_steered(
        sde.variance_preserving(),
        lambda x, *level: mixture.score(told, x, *level),
        lambda x, *level: mixture.score(MIXTURE, x, *level),
        normal(count, 2, seed=2),
        150,
        2.0,
    )
    weights, least = got.log_weights.exp(), float(got.sizes.min())
    for function in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 0] ** 2, lambda x: x.prod(1)):
        values, exact = function(grid), function(grid) @ p
        error = float((values - exact).square() @ p / least) ** 0.5
        close(function(got.x) @ weights, exact, atol=5.85 * error + 0.01)


@pytest.mark.parametrize(("std", "scale"), [(1.0, 3.0), (0.5, 1.0), (0.5, 0.0)])
def test_weights_stay_equal_where_guidance_is_exact(std, scale):
    """Equal spreads, Bayes' formula, no guidance: nothing to correct, and nobody is drawn anew."""
    start = normal(64, 1)
    options = {"sigma": 0.8, "threshold": 1.0 - 1e-9}
    told, untold = gaussian_score(1.0, std), gaussian_score(0.0, 1.0)
    got = run_steered(sde.constant_rate(), told, untold, start, 30, scale, **options)
    close(got.log_weights, [-math.log(64)] * 64, rtol=1e-9)
    close(got.sizes, [64.0] * 30, rtol=1e-9)
    alone = sde.euler_maruyama(
        *sde.reverse(sde.constant_rate(), g.combined(told, untold, scale), sigma=0.8),
        start,
        sde.constant_rate().time_of(
            torch.logspace(math.log10(math.expm1(10.0) ** 0.5) - 1e-9, -2, 31, dtype=torch.float64)
        ),
        generator=rng(7),
    )
    close(got.x, alone, rtol=1e-9)


def test_states_are_drawn_anew_when_few_count():
    start = normal(200, 1)
    told, untold = gaussian_score(1.0, 0.5), gaussian_score(0.0, 1.0)
    never, always = (
        run_steered(sde.constant_rate(), told, untold, start, 40, 4.0, threshold=share)
        for share in (0.0, 1.0)
    )
    assert float(never.sizes[-1]) < 0.5 * float(always.sizes[-1])
    close(always.log_weights, [-math.log(200)] * 200)
    assert bool((always.sizes <= 200 * (1 + 1e-12)).all()) and bool((never.sizes >= 1).all())
    assert float(never.log_weights.max() - never.log_weights.min()) > 1


def test_systematic_draws():
    """Each index as often as n times its weight, up or down to an integer, and on average exactly."""
    weights = torch.tensor([0.5, 0.01, 0.0, 0.24, 0.05, 0.2], dtype=torch.float64)
    generator = rng(4)
    counts = torch.stack(
        [torch.bincount(g._systematic(weights.log(), generator), minlength=6) for _ in range(2000)]
    ).double()
    expected = 6 * weights
    assert bool(((counts - expected).abs() < 1).all())
    error = (expected - expected.floor()) * (expected.ceil() - expected)
    assert bool(((counts.mean(0) - expected).abs() <= 5.85 * (error / 2000).sqrt() + 1e-12).all())


# -- what is refused -------------------------------------------------------------------------------

X = normal(3, 2)
SAME = ddpm.perfect(MIXTURE)
LOGS = g.class_log_probabilities(MIXTURE)
PROCESS = sde.constant_rate()
NORMAL = gaussian_score(0.0, 1.0)


def logs_at(x):
    return LOGS(x, 1.0, 0.5)


def impossible(x):
    return torch.stack([0 * x[:, 0], 0 * x[:, 1] - math.inf], 1)


def steer(**options):
    given = {"start": X, "times": [2.0, 1.0], "scale": 2.0, "generator": rng(), **options}
    return g.steered(
        PROCESS,
        options.pop("conditional", NORMAL),
        NORMAL,
        **{k: v for k, v in given.items() if k != "conditional"},
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *(
            (lambda law=law, case=case: law(*case), sentence)
            for law in (g.guided_ode, g.guided_sde, g.tilted, g.guided_law)
            for case, sentence in (
                ((1, 0, 1, 2), "std = 0"),
                ((1, -1, 1, 2), "std = -1"),
                ((1, 1, 0, 2), "prior_std = 0"),
                ((1, math.inf, 1, 2), "std = inf"),
                ((math.nan, 1, 1, 2), "mean = nan"),
                ((1, 1, 2, math.inf), "scale = inf: expected a finite number"),
                ((1, 1, 2, math.nan), "scale = nan"),
                ((1, 1, 2, "3"), "scale = '3'"),
                ((1, 1e-200, 1e200, 2), "std / prior_std = 0.0"),
                ((1, 1e80, 1e-80, 2), "std / prior_std = 1e.160"),
            )
        ),
        (lambda: g.guided_law(1, 1, 2, 3, -0.1), "sigma = -0.1"),
        (lambda: g.guided_law(1, 1, 2, 3, math.inf), "sigma = inf"),
        (lambda: g.guided_ode(1, 0.01, 1, 1e3), "scale = 1000.0: expected one whose law float64 can hold"),
        (lambda: g.guided_sde(1, 100, 1, 1e3), "scale = 1000.0: expected one whose law float64 can hold"),
        (lambda: g.tilted(1, 2, 1, 4 / 3 + 1e-9), r"scale = 1\.3.*: expected one with .* > 0; it is"),
        (lambda: g.tilted(1, 0.5, 1, -1.0), r"scale = -1\.0.*it is -2"),
        (lambda: g.from_excess(math.nan), "w = nan"),
        (
            lambda: g.classifier_free(X, X[:2], 2.0),
            r"shape of eps_unconditional = \(2, 2\): expected \(3, 2\)",
        ),
        (lambda: g.classifier_free(X, X, math.nan), "scale = nan"),
        (lambda: g.classifier_free(X, X, torch.ones(2)), "scale = .*or 3, one for each row"),
        (lambda: g.classifier_free(X, X, torch.ones(3, 1)), "scale = .*or 3, one for each row"),
        (lambda: g.classifier_free(X, X, torch.tensor([1.0, math.inf, 0])), "scale = "),
        (lambda: g.guided_noise(X, X[:, :1], 1.0), r"shape of gradient = \(3, 1\)"),
        (lambda: g.guided_noise(X, X, -1.0), "noise = -1.0"),
        (lambda: g.guided_noise(X, X, 1.0, math.inf), "scale = inf"),
        (
            lambda: g.energy_gradient(lambda x: x, X),
            r"shape of what energy returns = \(3, 2\): expected \(3,\)",
        ),
        (lambda: g.energy_gradient(lambda x: 1.0, X), "shape of what energy returns = 1.0"),
        (lambda: g.energy_gradient(lambda x: x.detach().sum(1), X), "energy = .*torch can differentiate"),
        (lambda: g.energy_gradient(lambda x: x.sum(1) / 0, X), "a value of energy = "),
        (lambda: g.energy_gradient(lambda x: (x - x).sum(1).sqrt(), X), "a slope of energy = "),
        (
            lambda: g.class_gradient(lambda x: logs_at(x).exp(), X, 0),
            "log_prob = 'probabilities': expected their log",
        ),
        (
            lambda: g.class_gradient(lambda x: logs_at(x) + 1, X, 0),
            "logsumexp of log_prob = 1.0.*: expected 0",
        ),
        (lambda: g.class_gradient(lambda x: x * math.nan, X, 0), "logsumexp of log_prob = nan"),
        (
            lambda: g.class_gradient(lambda x: x[:, 0], X, 0),
            r"shape of what log_prob returns = \(3,\): expected",
        ),
        (lambda: g.class_gradient(lambda x: None, X, 0), "shape of what log_prob returns = None"),
        (lambda: g.class_gradient(lambda x: logs_at(x)[:2], X, 0), "shape of what log_prob"),
        (lambda: g.class_gradient(logs_at, X, 4), "label = 4: expected an integer from 0 to 3"),
        (lambda: g.class_gradient(logs_at, X, -1), "label = -1"),
        (lambda: g.class_gradient(logs_at, X, 1.0), "label = 1.0"),
        (
            lambda: g.class_gradient(logs_at, X, torch.tensor([0, 1, 4])),
            "label = .*3 rows a class from 0 to 3",
        ),
        (lambda: g.class_gradient(logs_at, X, torch.tensor([0, -1, 1])), "label = "),
        (lambda: g.class_gradient(logs_at, X, torch.tensor([0, 1])), "label = "),
        (lambda: g.class_gradient(logs_at, X, torch.ones(3)), "label = "),
        (
            lambda: g.class_gradient(impossible, X, 1),
            "log_prob of the class = -inf: expected .*probability 0",
        ),
        (lambda: g.classifier_shift(logs_at, X, 0, -0.1), "variance = -0.1"),
        (lambda: g.classifier_shift(logs_at, X, 0, 0.1, math.nan), "scale = nan"),
        (lambda: g.similarity_shift(lambda x: x.sum(1), X, math.inf), "variance = inf"),
        (lambda: g.similarity_shift(lambda x: x.sum(1), X, 0.1, math.inf), "scale = inf"),
        (lambda: g.dynamic_threshold(X, 1.1), "quantile = 1.1"),
        (lambda: g.dynamic_threshold(X[:, 0]), r"shape of x0 = \(3,\)"),
        (lambda: g.dynamic_threshold(X[:0]), r"shape of x0 = \(0, 2\)"),
        (lambda: g.rescale(X, X, 1.5), "phi = 1.5"),
        (lambda: g.rescale(X, X[:2], 0.5), "shape of eps_conditional"),
        (
            lambda: g.rescale(X[:, :1], X[:, :1], 0.5),
            r"shape of eps_guided = \(3, 1\): .* two or more numbers",
        ),
        (lambda: g.rescale(X[:, 0], X[:, 0], 0.5), "shape of eps_guided"),
        (lambda: g.combined(SAME, SAME, math.nan), "scale = nan"),
        (lambda: g.combined(SAME, SAME, torch.ones(2, 2)), "scale = .*or n, one for each row"),
        (lambda: g.combined(SAME, SAME, lambda s, n: math.nan)(X, 1.0, 1.0), "scale = nan"),
        (lambda: g.energy_guided(SAME, LOGS, math.inf), "scale = inf"),
        (lambda: g.classifier_guided(SAME, LOGS, 0, math.inf), "scale = inf"),
        (lambda: g.classifier_guided(SAME, LOGS, 4)(X, 1.0, 1.0), "label = 4"),
        (
            lambda: g.classifier_guided(SAME, lambda x, *a: LOGS(x, *a).exp(), 0)(X, 1.0, 1.0),
            "log_prob = 'prob",
        ),
        (
            lambda: g.classifier_free_model(network(), 5, 2.0, untold=4),
            "condition = 5: expected classes from 0 to 3",
        ),
        (lambda: g.classifier_free_model(network(), -1, 2.0, untold=4), "condition = -1"),
        (
            lambda: g.classifier_free_model(network(), 1, 2.0, untold=5),
            "untold = 5: expected classes .* or 4 for",
        ),
        (lambda: g.classifier_free_model(network(), 1, math.nan, untold=4), "scale = nan"),
        (lambda: g.classifier_free_model(network(), 1, 2.0, untold=4, phi=-1), "phi = -1"),
        (
            lambda: g.classifier_free_model(network(), X, 2.0, untold=4),
            r"shape of untold = \(\): expected \(2,\)",
        ),
        (
            lambda: g.classifier_free_model(network(), torch.tensor([0, 1]), 2.0, untold=4)(X, 1.0, 1.0),
            r"condition = \(2,\): expected one for each of 3 rows",
        ),
        (lambda: g.thresholded(SAME, -0.1), "quantile = -0.1"),
        (
            lambda: g.guided_ancestral(SAME, LOGS, ddpm.cosine(3), X, at="stat", generator=rng()),
            "at = 'stat': expected one of state, mean; did you mean state",
        ),
        (
            lambda: g.guided_ancestral(SAME, LOGS, ddpm.cosine(3), X, variance="smal", generator=rng()),
            "variance = 'smal': expected one of small, large; did you mean small",
        ),
        (
            lambda: g.guided_ancestral(SAME, LOGS, ddpm.cosine(3), X, scale=math.inf, generator=rng()),
            "scale = inf",
        ),
        (
            lambda: g.guided_ancestral(lambda x, *a: x[:1], LOGS, ddpm.cosine(3), X, generator=rng()),
            r"shape of what model returns = \(1, 2\)",
        ),
        (
            lambda: g.guided_ancestral(lambda x, *a: None, LOGS, ddpm.cosine(3), X, generator=rng()),
            r"shape of what model returns = None: expected \(3, 2\)",
        ),
        (lambda: g.conditional(MIXTURE, 4), r"label = 4: expected a class of the mixture, .*\[0, 1, 2, 3\]"),
        (lambda: g.conditional(MIXTURE, 2, CLASSES), "label = 2"),
        (lambda: g.conditional(MIXTURE, 0, CLASSES[:2]), "classes = .*each of the 4 parts"),
        (lambda: g.conditional(MIXTURE, 0, -CLASSES), "classes = "),
        (lambda: g.class_log_probabilities(MIXTURE, CLASSES.double()), "classes = "),
        (lambda: g.class_log_probabilities(MIXTURE, 2 * CLASSES), "label = 1: expected a class"),
        (lambda: steer(times=[1.0, 2.0]), "times = .*strictly decreasing"),
        (lambda: steer(times=[1.0]), "times = "),
        (lambda: steer(times=[2.0, 1.0, 1.0]), "times = "),
        (lambda: steer(scale=math.nan), "scale = nan"),
        (lambda: steer(sigma=-1.0), "sigma = -1.0"),
        (lambda: steer(threshold=2.0), "threshold = 2.0"),
        (lambda: steer(start=X[0]), "start = "),
        (lambda: steer(conditional=lambda x, *a: x[:1]), "shape of"),
        (lambda: steer(conditional=lambda x, *a: x * math.nan), "a value of"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 260


def test_half_precision_logarithms_are_logarithms():
    x = normal(50, 2, dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        g.class_gradient(lambda x, dtype=dtype: (3 * x).to(dtype).log_softmax(1), x, 1)


def test_times_are_refused_before_any_work():
    calls = []

    def score(x, *level):
        calls.append(level)
        return x

    with pytest.raises(ValueError, match="strictly decreasing"):
        steer(times=[2.0, 1.0, 1.0], conditional=score)
    assert not calls
