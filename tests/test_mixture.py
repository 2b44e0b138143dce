"""Noised mixtures against other routes: torch.distributions, autograd, quadrature, Tweedie, simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from kexue_lib import mixture as m

LEVELS = [(1.0, 0.0), (0.8, 0.6), (0.3, 2.0), (0.0, 1.0)]
FUNCTIONS = [
    m.log_density,
    m.class_probabilities,
    m.score,
    m.hessian,
    m.denoised,
    m.denoised_covariance,
    m.predicted_noise,
]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def isotropic():
    return m.gaussian_mixture(
        2 * normal(4, 3), torch.tensor([0.2, 0.5, 1.0, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    )


def full():
    roots = normal(4, 3, 3, seed=1)
    return m.gaussian_mixture(
        2 * normal(4, 3), roots @ roots.mT / 3 + 0.05 * torch.eye(3), isotropic().weights
    )


def matrices(mixture):
    """Return the same mixture with every covariance written out."""
    spread = mixture.covariances[:, None, None] * torch.eye(mixture.dim).double()
    return m.gaussian_mixture(mixture.means, spread, mixture.weights)


MIXTURES = {"isotropic": isotropic, "full": full}


@pytest.fixture(params=MIXTURES)
def some(request):
    return MIXTURES[request.param]()


def of_torch(mixture, signal, noise):
    """Return the law of x_t as torch.distributions have it."""
    spread = (mixture if mixture.covariances.ndim == 3 else matrices(mixture)).covariances
    parts = torch.distributions.MultivariateNormal(
        signal * mixture.means, signal**2 * spread + noise**2 * torch.eye(mixture.dim).double()
    )
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), parts)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=tolerance, atol=tolerance)


# -- densities and their derivatives -------------------------------------------------------------


def test_a_number_for_the_covariances_keeps_its_digits():
    assert m.gaussian_mixture(torch.zeros(2, 1), 0.3).covariances.tolist() == [0.3, 0.3]


@pytest.mark.parametrize(("signal", "noise"), LEVELS)
def test_the_density_is_that_of_another_library(some, signal, noise):
    x = 3 * normal(50, 3, seed=2)
    close(m.log_density(some, x, signal, noise), of_torch(some, signal, noise).log_prob(x))


@pytest.mark.parametrize(("signal", "noise"), LEVELS)
def test_the_score_is_the_gradient_of_that_density(some, signal, noise):
    x = (3 * normal(50, 3, seed=2)).requires_grad_()
    (gradient,) = torch.autograd.grad(of_torch(some, signal, noise).log_prob(x).sum(), x)
    close(m.score(some, x.detach(), signal, noise), gradient, 1e-11)


@pytest.mark.parametrize(("signal", "noise"), LEVELS)
def test_the_hessian_is_the_jacobian_of_that_gradient(some, signal, noise):
    x = 3 * normal(20, 3, seed=2)
    law = of_torch(some, signal, noise)
    expected = [torch.autograd.functional.hessian(law.log_prob, row) for row in x]
    close(m.hessian(some, x, signal, noise), torch.stack(expected), 1e-10)


def test_the_density_of_the_library_itself_can_be_differentiated(some):
    x = normal(9, 3, seed=3).requires_grad_()
    (gradient,) = torch.autograd.grad(m.log_density(some, x, 0.8, 0.6).sum(), x)
    close(gradient, m.score(some, x.detach(), 0.8, 0.6))
    jacobian = torch.autograd.functional.jacobian(lambda y: m.score(some, y, 0.8, 0.6).sum(0), x)
    close(jacobian.movedim(1, 0), m.hessian(some, x.detach(), 0.8, 0.6), 1e-10)


def test_the_density_of_a_line_has_mass_one_and_its_moments_are_those_of_the_mixture():
    law = m.gaussian_mixture(
        torch.tensor([[-2.0], [1.0]]), torch.tensor([0.3, 1.2]), torch.tensor([0.3, 0.7])
    )
    signal, noise = 0.6, 0.8

    def moment(power):
        def inside(x):
            at = torch.tensor([[x]], dtype=torch.float64)
            return x**power * float(m.log_density(law, at, signal, noise).exp())

        return integrate.quad(inside, -15, 15, epsabs=1e-12, epsrel=1e-12, points=[-2, 1])[0]

    mean, covariance = m.moments(m.noised(law, signal, noise))
    assert moment(0) == pytest.approx(1, abs=1e-10)
    assert moment(1) == pytest.approx(float(mean), abs=1e-10)
    assert moment(2) - moment(1) ** 2 == pytest.approx(float(covariance), abs=1e-9)


def test_posterior_moments_are_integrals_over_the_data():
    """Bayes by quadrature on a fine grid: p(x_0 | x_t) is p(x_0) p(x_t | x_0), divided by its sum."""
    law = m.gaussian_mixture(
        torch.tensor([[-1.5], [1.0]]), torch.tensor([0.2, 0.5]), torch.tensor([0.4, 0.6])
    )
    signal, noise, x = 0.7, 0.5, torch.tensor([[-2.0], [0.1], [3.0]], dtype=torch.float64)
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    logs = m.log_density(law, grid[:, None]) - (x - signal * grid) ** 2 / (2 * noise**2)
    posterior = logs.softmax(1)  # the trapezoidal rule, exact to all digits for what vanishes at both ends
    mean = posterior @ grid
    close(m.denoised(law, x, signal, noise)[:, 0], mean, 1e-10)
    variance = posterior @ grid**2 - mean**2
    close(m.denoised_covariance(law, x, signal, noise)[:, 0, 0], variance, 1e-9)
    close(m.predicted_noise(law, x, signal, noise)[:, 0], (x[:, 0] - signal * mean) / noise, 1e-9)


def test_posterior_of_a_plane_with_full_covariances():
    roots = normal(2, 2, 2, seed=4)
    law = m.gaussian_mixture(normal(2, 2), roots @ roots.mT + 0.1 * torch.eye(2))
    x, signal, noise = torch.tensor([[0.4, -1.0]], dtype=torch.float64), 0.7, 0.6
    line = torch.linspace(-11, 11, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    logs = m.log_density(law, grid) - ((x - signal * grid) ** 2).sum(1) / (2 * noise**2)
    posterior = logs.softmax(0)
    mean = posterior @ grid
    close(m.denoised(law, x, signal, noise)[0], mean, 1e-9)
    covariance = (grid - mean).T @ (posterior[:, None] * (grid - mean))
    close(m.denoised_covariance(law, x, signal, noise)[0], covariance, 1e-9)


# -- identities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal", "noise"), [(0.8, 0.6), (0.3, 2.0), (0.999, 0.01)])
def test_tweedie_of_both_orders(some, signal, noise):
    """The posterior's moments come from the parts' posteriors; the derivatives come from the density."""
    x = 2 * normal(30, 3, seed=5)
    mean = (x + noise**2 * m.score(some, x, signal, noise)) / signal
    close(m.denoised(some, x, signal, noise), mean, 1e-10)
    inner = torch.eye(3).double() + noise**2 * m.hessian(some, x, signal, noise)
    close(m.denoised_covariance(some, x, signal, noise), noise**2 / signal**2 * inner, 1e-9)
    both = signal * m.denoised(some, x, signal, noise) + noise * m.predicted_noise(some, x, signal, noise)
    close(both, x, 1e-10)


def test_both_ways_to_write_a_covariance_agree():
    x = normal(20, 3, seed=6)
    for function in FUNCTIONS:
        for signal, noise in LEVELS:
            one, two = (function(law, x, signal, noise) for law in (isotropic(), matrices(isotropic())))
            close(one, two, 1e-11)


def test_noise_comes_in_two_portions(some):
    once = m.noised(some, 0.8 * 0.5, math.hypot(0.5 * 0.6, 0.3))
    twice = m.noised(m.noised(some, 0.8, 0.6), 0.5, 0.3)
    close(once.means, twice.means)
    close(once.covariances, twice.covariances)


def test_nothing_but_noise_leaves_the_prior(some):
    x = normal(5, 3, seed=7)
    mean, covariance = m.moments(some)
    close(m.denoised(some, x, 0.0, 1.0), mean.expand(5, 3))
    close(m.denoised_covariance(some, x, 0.0, 1.0), covariance.expand(5, 3, 3), 1e-11)
    close(m.predicted_noise(some, x, 0.0, 1.0), x)
    close(m.class_probabilities(some, x, 0.0, 1.0), some.weights.expand(5, 4))


def test_points_are_the_limit_of_narrow_parts():
    places, x = normal(5, 2), normal(8, 2, seed=8)
    points, narrow = (m.gaussian_mixture(places, variance) for variance in (0.0, 1e-13))
    for function in FUNCTIONS:
        close(function(points, x, 0.6, 0.8), function(narrow, x, 0.6, 0.8), 1e-10)
    law = m.class_probabilities(points, x, 0.6, 0.8)
    close(law, (-((x[:, None] - 0.6 * places) ** 2).sum(2) / (2 * 0.64)).softmax(1))
    close(m.denoised(points, x, 0.6, 0.8), law @ places)


def test_a_flat_covariance_needs_noise():
    flat = m.gaussian_mixture(torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    x = normal(4, 2)
    close(m.denoised(flat, x, 0.6, 0.8)[:, 1], torch.zeros(4).double())
    close(m.denoised(flat, x, 0.6, 0.8)[:, 0], 0.6 * x[:, 0])  # 0.6 / (0.36 + 0.64)
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=r"noise .* has no density"):
            function(flat, x)


# -- far out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1e3, 1e6, 1e9])
def test_far_out_one_part_decides_and_nothing_overflows(distance):
    law = m.gaussian_mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([1.0, 1.0]))
    x = torch.tensor([[distance, 0.0], [-distance, 0.0]], dtype=torch.float64)
    variance = 0.36 + 0.64
    sure = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    close(m.class_probabilities(law, x, 0.6, 0.8), sure)
    close(m.score(law, x, 0.6, 0.8), (0.6 * sure @ law.means - x) / variance)
    close(m.hessian(law, x, 0.6, 0.8), -torch.eye(2).double().expand(2, 2, 2))
    close(m.denoised(law, x, 0.6, 0.8), 0.64 * sure @ law.means + 0.6 * x)
    close(m.denoised_covariance(law, x, 0.6, 0.8), 0.64 * torch.eye(2).double().expand(2, 2, 2))
    assert m.log_density(law, x, 0.6, 0.8).tolist() == pytest.approx(
        [-((distance - 0.6) ** 2) / 2] * 2, rel=1e-5
    )


def test_the_wide_part_wins_far_out():
    law = m.gaussian_mixture(torch.zeros(2, 1), torch.tensor([1.0, 4.0]), torch.tensor([1 - 1e-12, 1e-12]))
    x = torch.tensor([[0.0], [1e4]], dtype=torch.float64)
    close(m.class_probabilities(law, x)[1], [0.0, 1.0])
    close(m.score(law, x), [[0.0], [-2500.0]])


# -- samples -------------------------------------------------------------------------------------


def test_samples_have_the_moments_and_the_parts(some):
    count = 200_000
    points, part = m.sample(some, count, generator=rng(9))
    mean, covariance = m.moments(some)
    error = (covariance.diagonal() / count).sqrt()
    assert bool(((points.mean(0) - mean).abs() < 5 * error).all())
    products = (points - mean)[:, :, None] * (points - mean)[:, None, :]
    assert bool(((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(count)).all())
    shares = torch.bincount(part, minlength=4).double() / count
    assert bool(((shares - some.weights).abs() < 5 * (some.weights / count).sqrt()).all())
    for j in range(4):
        spread = some.covariances[j]
        own = spread if some.isotropic else spread.diagonal()
        error = (own / (part == j).sum()).sqrt()
        assert bool(((points[part == j].mean(0) - some.means[j]).abs() < 5 * error).all())


def test_the_same_seed_gives_the_same_points_and_none_is_fine(some):
    one, two = (m.sample(some, 7, generator=rng(1)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    points, part = m.sample(some, 0, generator=rng(1))
    assert (points.shape, part.shape) == ((0, 3), (0,))


def test_thousands_of_points_in_many_dimensions_keep_little_in_memory():
    """The distances need (n, k) numbers; (n, k, d) are never there at once."""
    law = m.gaussian_mixture(normal(1000, 64), 0.01)
    x = normal(100, 64, seed=2)
    rows = m._rows(law, x)
    assert [row.stop - row.start for row in rows[:1]] == [2**22 // 64_000]
    whole = m.hessian(law, x, 0.8, 0.6)
    assert torch.equal(torch.cat([m.hessian(law, x[row], 0.8, 0.6) for row in rows]), whole)
    close(m.predicted_noise(law, x, 0.8, 0.6), -0.6 * m.score(law, x, 0.8, 0.6))


def test_single_precision_in_means_double_inside(some):
    x = normal(5, 3)
    for function in FUNCTIONS:
        found = function(some, x.float(), 0.8, 0.6)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, function(some, x, 0.8, 0.6), rtol=1e-4, atol=1e-4)
        assert function(some, x[:0], 0.8, 0.6).shape[0] == 0


def test_levels_may_be_tensors_without_dimensions(some):
    x, levels = normal(5, 3), (torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64))
    for function in FUNCTIONS:
        assert torch.equal(function(some, x, *levels), function(some, x, 0.8, 0.6))


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "covariances", "weights", "words"),
    [
        ([1.0], 1.0, None, "means"),
        ([[1.0, math.nan]], 1.0, None, "means"),
        (np.zeros((0, 2)), 1.0, None, "means"),
        ([[1.0]], [1.0, 2.0], None, "covariances"),
        ([[1.0]], -1e-9, None, "covariances"),
        ([[1.0], [2.0]], [1.0, -1.0], None, "covariances"),
        ([[1.0]], math.inf, None, "covariances"),
        ([[1.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]], None, "covariances"),
        ([[1.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]], None, "covariances"),
        ([[1.0], [2.0]], 1.0, [0.5, 0.50001], "weights"),
        ([[1.0], [2.0]], 1.0, [1.0, 0.0], "weights"),
        ([[1.0], [2.0]], 1.0, [1.5, -0.5], "weights"),
        ([[1.0], [2.0]], 1.0, [1.0], "weights"),
        ([[1.0], [2.0]], 1.0, [math.nan, 0.5], "weights"),
    ],
)
def test_what_is_no_mixture_is_refused(means, covariances, weights, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        m.gaussian_mixture(torch.as_tensor(means), covariances, weights)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("shape", "levels", "words"),
    [
        ((5, 2), (0.8, 0.6), "x"),
        ((5, 4), (0.8, 0.6), "x"),
        ((3,), (0.8, 0.6), "x"),
        ((5, 3), (-0.8, 0.6), "signal"),
        ((5, 3), (0.8, -0.6), "noise"),
        ((5, 3), (math.nan, 0.6), "signal"),
        ((5, 3), (0.8, math.inf), "noise"),
    ],
)
def test_what_does_not_fit_is_refused(some, function, shape, levels, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        function(some, normal(*shape), *levels)


def test_points_without_noise_have_no_density():
    points = m.gaussian_mixture(normal(3, 2), 0.0)
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=r"^noise .* has no density"):
            function(points, normal(4, 2), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"^count"):
        m.sample(points, -1, generator=rng())
