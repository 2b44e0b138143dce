"""Mathematics of the processes, their solvers and their densities: closed forms, exact recursions, orders."""

import itertools
import math

import numpy as np
import pytest
import sympy
import torch
from scipy import integrate

from kexue_lib import sde as s

PROCESSES = {
    "constant rate": s.constant_rate(1.5, 4.0),
    "VP": s.variance_preserving(),
    "sub-VP": s.sub_variance_preserving(),
    "VE": s.variance_exploding(0.05, 3.0),
    "cosine": s.Process(torch.cos, lambda t: torch.sin(t) ** 2, 1.4),
    "straight": s.Process(lambda t: 1 - t, lambda t: t**2, 0.9),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def order(errors):
    """Orders of convergence between neighbours whose steps halve."""
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


def gaussian_score(variance):
    return lambda x, signal, noise: -x / (signal**2 * variance + noise**2)


def gaussian_noise(variance):
    return lambda x, signal, noise: x * noise / (signal**2 * variance + noise**2)


def spread(process, t, variance):
    """Variance at time t of data of that variance."""
    return (
        float(process.signal(torch.tensor(t, dtype=torch.float64)) ** 2) * variance
        + float(process.noise(t)) ** 2
    )


# A mixture of its own, so that these tests lean on no other module: two Gaussians in any dimension.
WEIGHTS, CENTRES, SPREADS = (0.3, 0.7), (-1.2, 0.8), (0.09, 0.25)


def log_density(x, signal, noise):
    parts = []
    for weight, centre, variance in zip(WEIGHTS, CENTRES, SPREADS, strict=True):
        v = signal**2 * variance + noise**2
        squares = ((x - signal * centre) ** 2).sum(1)
        parts.append(
            math.log(weight)
            - squares / (2 * v)
            - x.shape[1] / 2 * torch.as_tensor(2 * math.pi * v, dtype=torch.float64).log()
        )
    return torch.logsumexp(torch.stack(parts), 0)


def score(x, signal, noise):
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_density(x, signal, noise).sum(), x, create_graph=True)
    return slope


def noise_of_mixture(x, signal, noise):
    return -noise * score(x, signal, noise).detach()


# -- working backwards -----------------------------------------------------------------------------


def rate_of(t, low=0.1, high=20.0):
    return low + (high - low) * t


def total_of(t, low=0.1, high=20.0):
    return low * t + (high - low) * t**2 / 2


CLOSED = {
    "constant rate": (lambda t: -0.75, lambda t: 1.5),
    "VP": (lambda t: -rate_of(t) / 2, rate_of),
    "sub-VP": (lambda t: -rate_of(t) / 2, lambda t: -rate_of(t) * math.expm1(-2 * total_of(t))),
    "VE": (lambda t: 0.0, lambda t: 0.05**2 * 60 ** (2 * t) * 2 * math.log(60)),
    "cosine": (lambda t: -math.tan(t), lambda t: 2 * math.tan(t)),
    "straight": (lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_working_backwards_gives_the_closed_forms(name):
    process = PROCESSES[name]
    rate, squared = CLOSED[name]
    times = torch.linspace(0, process.horizon, 101, dtype=torch.float64)
    for computed, closed in ((process.drift_rate, rate), (process.squared_diffusion, squared)):
        expected = torch.tensor([closed(t) for t in times.tolist()], dtype=torch.float64)
        torch.testing.assert_close(computed(times), expected, rtol=1e-12, atol=1e-13)
        assert float(computed(float(times[40]))) == float(computed(times)[40])
    assert torch.allclose(process.diffusion(times) ** 2, process.squared_diffusion(times), atol=1e-12)
    assert torch.equal(process.noise(times) ** 2 > 0, times > 0)


def test_working_backwards_agrees_with_symbols():
    """For a signal and a noise that nobody uses, against SymPy's derivative of the other form of g**2."""
    t = sympy.symbols("t", positive=True)
    signal, noise = 1 / (1 + t**2), sympy.sin(t) + t**2 / 3
    f = sympy.diff(sympy.log(signal), t)
    g2 = 2 * signal * noise * sympy.diff(noise / signal, t)
    process = s.Process(lambda t: 1 / (1 + t**2), lambda t: (torch.sin(t) + t**2 / 3) ** 2, 1.0)
    for value in (0.1, 0.37, 0.9):
        assert float(process.drift_rate(value)) == pytest.approx(float(f.subs(t, value)), rel=1e-13)
        assert float(process.squared_diffusion(value)) == pytest.approx(float(g2.subs(t, value)), rel=1e-13)


def test_special_cases_of_song():
    vp, sub = PROCESSES["VP"], PROCESSES["sub-VP"]
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    assert torch.allclose(vp.squared_diffusion(t), -2 * vp.drift_rate(t), rtol=1e-13)
    assert torch.allclose(vp.signal(t) ** 2 + vp.variance(t), torch.ones_like(t), rtol=0, atol=1e-15)
    assert torch.allclose(sub.noise(t), vp.variance(t), rtol=1e-13)
    assert float(vp.signal(t)[-1]) == pytest.approx(math.exp(-5.025), rel=1e-14)  # 0.00657159


def test_time_of_a_ratio_is_its_inverse():
    for process in PROCESSES.values():
        times = torch.linspace(0, process.horizon, 41, dtype=torch.float64)
        ratios = process.noise(times) / process.signal(times)
        assert torch.allclose(process.time_of(ratios), times, rtol=1e-9, atol=1e-12)
    assert float(PROCESSES["straight"].time_of(1.0)) == pytest.approx(0.5, abs=1e-15)


# -- Euler-Maruyama --------------------------------------------------------------------------------


def exact_variance(drift, diffusion, times, start):
    """Variance after Euler's steps for a linear drift, by its recursion."""
    variance = start
    for a, b in itertools.pairwise(times.tolist()):
        variance *= (1 + (b - a) * float(drift(column(1.0), a))) ** 2
        variance += float(diffusion(a)) ** 2 * abs(b - a)
    return variance


def solved_variance(drift, diffusion, times, start):
    """The same by the solver itself: each row is one of the independent normal numbers that are summed up."""
    rows = len(times)
    first = torch.zeros(rows, 1, dtype=torch.float64)
    first[0] = math.sqrt(start)
    noise = torch.eye(rows, dtype=torch.float64)[1:, :, None]
    return float((s.euler_maruyama(drift, diffusion, first, times, noise=noise) ** 2).sum())


OU = s.constant_rate(1.0, 10.0)
KNOWN = {
    1.0: {10: 1.01686, 20: 0.58747, 100: 0.30254, 1000: 0.25477},
    0.0: {10: 0.54872, 20: 0.40237, 100: 0.27851, 1000: 0.25276},
}


@pytest.mark.parametrize("sigma", KNOWN)
def test_variance_after_euler_steps_is_exactly_that_of_the_recursion(sigma):
    for steps, known in KNOWN[sigma].items():
        equation = s.reverse(OU, gaussian_score(0.25), sigma=sigma)
        times = s.even_times(10, 0, steps)
        exact = exact_variance(*equation, times, 1.0)
        assert exact == pytest.approx(known, abs=5.1e-6)
        assert solved_variance(*equation, times, 1.0) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("sigma", "steps"), list(itertools.product(KNOWN, (10, 20, 100))))
def test_simulated_variance_is_that_of_the_recursion(sigma, steps):
    count, g = 200_000, rng(steps)
    start = torch.randn(count, 1, generator=g, dtype=torch.float64)
    equation = s.reverse(OU, gaussian_score(0.25), sigma=sigma)
    end = s.euler_maruyama(*equation, start, s.even_times(10, 0, steps), generator=g)
    exact = exact_variance(*equation, s.even_times(10, 0, steps), 1.0)
    assert abs(float((end**2).mean()) - exact) < 4.5 * exact * math.sqrt(2 / count)  # the states are normal


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_weak_order_is_one(sigma):
    equation = s.reverse(OU, gaussian_score(0.25), sigma=sigma)
    start = spread(OU, 10.0, 0.25)
    errors = [solved_variance(*equation, s.even_times(10, 0, n), start) - 0.25 for n in (400, 800, 1600)]
    assert order(errors) == pytest.approx(1, abs=0.03)


def test_forward_steps_have_order_one_too():
    process = PROCESSES["sub-VP"]
    exact = spread(process, 1.0, 0.3)
    errors = [
        solved_variance(*s.forward(process), s.even_times(0, 1, n), 0.3) - exact for n in (200, 400, 800)
    ]
    assert order(np.abs(errors)) == pytest.approx(1, abs=0.05)


def test_the_root_of_dt_and_the_side_where_the_step_begins():
    """One step, by hand, in both directions."""
    eps = column(2.0)[None]
    for a, b in ((0.5, 0.75), (0.75, 0.5)):
        end = s.euler_maruyama(lambda x, t: x * t, lambda t: 3 * t, column(1.0), [a, b], noise=eps)
        assert float(end) == pytest.approx(1 + a * (b - a) + 3 * a * 0.5 * 2, rel=1e-15)


def test_an_equation_without_noise_is_a_sum():
    path = s.euler_maruyama(lambda x, t: torch.ones_like(x), 0, column(1.0, 5.0), [0, 0.25, 1], keep=True)
    assert torch.equal(path, torch.stack([column(1.0, 5.0), column(1.25, 5.25), column(2.0, 6.0)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_keep_their_type_and_the_start_its_values(dtype):
    start = torch.randn(50, 3, generator=rng(), dtype=dtype)
    before = start.clone()
    times = s.even_times(4, 0, 8)
    equation = s.reverse(PROCESSES["constant rate"], gaussian_score(0.5))
    path = s.euler_maruyama(*equation, start, times, generator=rng(1), keep=True)
    assert path.dtype == dtype
    assert path.shape == (9, 50, 3)
    assert torch.equal(path[0], before)
    assert torch.equal(start, before)
    assert torch.equal(path[-1], s.euler_maruyama(*equation, start, times, generator=rng(1)))
    assert not torch.equal(path[-1], s.euler_maruyama(*equation, start, times, generator=rng(2)))


def test_a_drift_that_returns_a_view_of_the_states():
    start = torch.randn(4, 4, generator=rng(), dtype=torch.float64)
    end = s.euler_maruyama(lambda x, t: x.T, 0.0, start, [0.0, 0.5, 1.0])
    once = start + 0.5 * start.T
    assert torch.allclose(end, once + 0.5 * once.T, rtol=1e-15)


def test_more_steps_with_the_same_noise_come_nearer():
    """Strong order 1, because the noise does not depend on the state: common Brownian paths, added up."""
    process = PROCESSES["constant rate"]
    fine = 512
    eps = torch.randn(fine, 4000, 1, generator=rng(3), dtype=torch.float64)
    start = torch.randn(4000, 1, generator=rng(4), dtype=torch.float64)
    ends = {}
    for steps in (16, 32, 64, fine):
        many = fine // steps
        noise = eps.view(steps, many, 4000, 1).sum(1) / math.sqrt(many)
        ends[steps] = s.euler_maruyama(*s.forward(process), start, s.even_times(0, 2, steps), noise=noise)
    errors = [float((ends[n] - ends[fine]).square().mean().sqrt()) for n in (16, 32, 64)]
    assert order(errors) == pytest.approx(1, abs=0.25)


# -- equations with the same marginals -------------------------------------------------------------


SIGMAS = [0.0, 0.4, 1.0, 1.7, lambda t: 0.3 + t]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_both_families_keep_the_variance_of_a_gaussian(name, sigma):
    """Moments: v' = 2 a v + sigma**2 forwards and 2 a v - sigma**2 backwards, where v' = 2 f v + g**2."""
    process = PROCESSES[name]
    for t in (0.07, 0.3, 0.8):
        v = spread(process, t, 0.6)
        slope = 2 * float(process.drift_rate(t)) * v + float(process.squared_diffusion(t))
        size = abs(slope) + v * 4 * float(process.squared_diffusion(t))
        for build, sign in ((s.forward, 1), (s.reverse, -1)):
            drift, diffusion = build(process, gaussian_score(0.6), sigma=sigma)
            own = float(diffusion(t))
            a = float(drift(column(1.0), t))
            assert 2 * a * v + sign * own**2 == pytest.approx(slope, abs=1e-12 * size)
            expected = sigma(t) if callable(sigma) else sigma * float(process.diffusion(t))
            assert own == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_both_families_solve_the_equation_of_a_mixture(name, sigma):
    """Point by point in two dimensions: d p/dt = -div(b p) +- sigma**2/2 laplace p, all divided by p."""
    process = PROCESSES[name]
    x = 1.5 * torch.randn(20, 2, generator=rng(5), dtype=torch.float64)
    for t in (0.2, 0.7):
        slope = time_slope(process, x, t)
        values, spreads = s.divergence(lambda x, t=t: score(x, *level(process, t)), x)
        laplace = spreads + (values**2).sum(1)
        for build, sign in ((s.forward, 1), (s.reverse, -1)):
            drift, diffusion = build(process, score, sigma=sigma)
            b, spreading = s.divergence(lambda x, drift=drift, t=t: drift(x, t), x)
            changed = -spreading - (b * values).sum(1) + sign * float(diffusion(t)) ** 2 / 2 * laplace
            torch.testing.assert_close(changed, slope, rtol=1e-9, atol=1e-9)


def level(process, t):
    return float(process.signal(torch.tensor(t, dtype=torch.float64))), float(process.noise(t))


def time_slope(process, x, t):
    """Derivative of log p in time."""

    def values(time):
        return log_density(x, process.signal(time), process.variance(time).sqrt())

    return torch.autograd.functional.jacobian(values, torch.tensor(t, dtype=torch.float64))


def test_without_a_score_the_process_itself():
    process = PROCESSES["VP"]
    plain, known = s.forward(process), s.forward(process, score)
    x = torch.randn(7, 2, generator=rng(), dtype=torch.float64)
    assert torch.allclose(plain[0](x, 0.4), known[0](x, 0.4), atol=1e-14)
    assert plain[1](0.4) == known[1](0.4) == float(process.diffusion(0.4))


# -- likelihood ------------------------------------------------------------------------------------


def test_divergence_is_the_trace_of_the_jacobian():
    x = torch.randn(6, 3, generator=rng(), dtype=torch.float64)
    mixed = torch.randn(3, 3, generator=rng(1), dtype=torch.float64)

    def field(x):
        return torch.sin(x @ mixed) * x.roll(1, 1) ** 2

    values, spreads = s.divergence(field, x)
    assert torch.equal(values, field(x))
    for row, value in zip(x, spreads, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda row: field(row[None])[0], row)
        assert float(value) == pytest.approx(float(jacobian.trace()), rel=1e-12)
    assert torch.equal(s.divergence(lambda x: torch.ones_like(x), x)[1], torch.zeros(6, dtype=torch.float64))
    assert not values.requires_grad


@pytest.mark.parametrize("name", ["constant rate", "sub-VP", "VE", "straight"])
def test_likelihood_converges_to_the_density_of_the_mixture(name):
    process = PROCESSES[name]
    x = torch.randn(30, 2, generator=rng(6), dtype=torch.float64)
    end = process.horizon / 4

    def prior(x):
        return log_density(x, *level(process, end))

    errors = []
    for steps in (20, 40, 80):
        found = s.log_likelihood(process, score, x, s.even_times(0, end, steps), prior=prior)
        errors.append(float((found - log_density(x, 1, 0)).abs().mean()))
    assert errors[-1] < 2e-4
    assert order(errors)[-1] == pytest.approx(4, abs=0.35)


def test_likelihood_with_a_given_trace_and_at_a_later_time():
    process = PROCESSES["VP"]
    x = torch.randn(9, 2, generator=rng(7), dtype=torch.float64)
    times = s.even_times(0.1, 1, 60)

    def trace(x, signal, noise):
        return s.divergence(lambda x: score(x, signal, noise), x)[1]

    own = s.log_likelihood(process, score, x, times)
    assert torch.allclose(own, s.log_likelihood(process, score, x, times, trace=trace), rtol=1e-12)
    # The prior N(0, I) is off by the signal that is left, 0.00657.
    assert float((own - log_density(x, *level(process, 0.1))).abs().max()) < 0.03


@pytest.mark.parametrize("name", ["VE", "VP"])
def test_likelihood_of_wide_data_has_the_prior_of_the_process(name):
    """Data in one point: the prior is exact for VE, and its scale the noise of the last time."""
    process = PROCESSES[name]
    x = torch.randn(9, 1, generator=rng(8), dtype=torch.float64)

    def point(x, signal, noise):
        return -x / noise**2

    found = s.log_likelihood(process, point, x, s.even_times(0.5, 1, 100))
    v = float(process.variance(torch.tensor(0.5)))
    exact = -(x[:, 0] ** 2) / (2 * v) - math.log(2 * math.pi * v) / 2
    assert torch.allclose(found, exact, atol=1e-5)


# -- Fokker-Planck ---------------------------------------------------------------------------------


def cells(half, count):
    width = 2 * half / count
    return torch.linspace(-half + width / 2, half - width / 2, count, dtype=torch.float64), width


def normal(x, mean, variance):
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def ou_error(count, steps, stop=1.0):
    process = PROCESSES["constant rate"]
    grid, width = cells(7, count)
    found = s.fokker_planck(*s.forward(process), normal(grid, 1, 0.25), grid, s.even_times(0, stop, steps))
    shrunk = math.exp(-0.75 * stop)
    exact = normal(grid, shrunk, 0.25 * shrunk**2 + 1 - shrunk**2)
    return float((found[-1] - exact).abs().sum() * width)


def test_fokker_planck_has_order_one_in_time():
    errors = [ou_error(1200, steps) for steps in (25, 50, 100)]
    assert order(errors) == pytest.approx(1, abs=0.06)


def test_fokker_planck_has_order_two_in_space():
    errors = [ou_error(count, steps) for count, steps in ((60, 40), (120, 160), (240, 640))]
    assert order(errors) == pytest.approx(2, abs=0.12)
    assert errors[-1] < 2e-3


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_fokker_planck_keeps_the_mass_and_the_sign(steps):
    """Also where the drift is much faster than a cell is wide, and from a density with jumps."""
    grid, width = cells(5, 80)
    density = (grid.abs() < 1).double() / 2
    found = s.fokker_planck(
        lambda x, t: 400 * torch.cos(3 * x + t), lambda t: 0.2 + t, density, grid, s.even_times(0, 2, steps)
    )
    assert found.shape == (steps + 1, 80)
    assert torch.equal(found[0], density)
    assert float(found.min()) >= 0
    assert torch.allclose(found.sum(1) * width, torch.ones(steps + 1, dtype=torch.float64), atol=1e-11)


def test_fokker_planck_leaves_a_stationary_density_alone():
    """The flux is exact for a drift that is linear: not only small, as the order says."""
    grid, _ = cells(6, 50)
    density = normal(grid, 0, 1)
    found = s.fokker_planck(lambda x, t: -x / 2, 1.0, density, grid, [0.0, 0.1, 5.0, 100.0])
    assert torch.allclose(found[-1], density, rtol=1e-10, atol=1e-300)


def test_fokker_planck_asks_where_its_steps_end():
    """Where they begin, an equation of a process may have no diffusion yet, or a score no value."""
    asked = []

    def drift(x, t):
        asked.append(t)
        return x / t

    s.fokker_planck(drift, lambda t: t, normal(GRID, 0, 0.1), GRID, [0.0, 0.1, 0.3])
    assert asked == [0.1, 0.3]
    process = PROCESSES["cosine"]
    assert float(process.diffusion(0.0)) == 0
    s.fokker_planck(*s.forward(process), normal(GRID, 0, 0.1), GRID, s.even_times(0, 1, 4))


@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.5])
def test_reverse_equations_lead_the_density_of_a_mixture_back(sigma):
    process = s.constant_rate(1.0, 2.0)
    grid, width = cells(6, 600)
    ends = [log_density(grid[:, None], *level(process, t)).exp() for t in (0.0, 2.0)]
    errors = []
    for steps in (200, 400):
        equation = s.reverse(process, score, sigma=sigma)
        found = s.fokker_planck(*equation, ends[1], grid, s.even_times(2, 0, steps))
        errors.append(float((found[-1] - ends[0]).abs().sum() * width))
    assert errors[1] < 0.02
    assert order(errors) == pytest.approx(1, abs=0.2)


def test_the_histogram_of_the_paths_is_the_solved_density():
    """Forwards through a drift with two valleys, where no closed form is known."""
    count, g = 200_000, rng(9)

    def valleys(x, t):
        return x - x**3

    start = 0.3 * torch.randn(count, 1, generator=g, dtype=torch.float64)
    end = s.euler_maruyama(valleys, 0.7, start, s.even_times(0, 2, 200), generator=g)[:, 0].numpy()
    grid, width = cells(3, 600)
    found = s.fokker_planck(valleys, 0.7, normal(grid, 0, 0.09), grid, s.even_times(0, 2, 800))[-1]
    edges = np.linspace(-3, 3, 31)
    share = (found.view(30, 20).sum(1) * width).numpy()
    seen = np.histogram(end, edges)[0]
    errors = np.sqrt(count * share * (1 - share)) + 4e-3 * count * share + 3  # both solvers' own errors
    assert (np.abs(seen - count * share) < 4.5 * errors).all()
    assert np.abs(seen / count - share).sum() < 1e-2


# -- Langevin and correctors -----------------------------------------------------------------------


def test_langevin_has_the_variance_and_the_bias_of_its_recursion():
    variance, step, count = 0.5, 0.2, 200_000
    stationary = variance / (1 - step / (2 * variance))
    assert stationary == pytest.approx((1 - step / variance) ** 2 * stationary + 2 * step)
    g = rng(10)
    start = math.sqrt(stationary) * torch.randn(count, 1, generator=g, dtype=torch.float64)
    end = s.langevin(lambda x: -x / variance, start, step=step, steps=25, generator=g)
    error = stationary * math.sqrt(2 / count)
    assert abs(float((end**2).mean()) - stationary) < 4.5 * error
    assert stationary - variance > 50 * error
    far = s.langevin(lambda x: -x / variance, torch.zeros_like(start), step=step, steps=40, generator=g)
    assert abs(float((far**2).mean()) - stationary) < 4.5 * error


def test_langevin_steps_are_its_formula():
    start = torch.randn(5, 2, generator=rng(), dtype=torch.float64)
    end = s.langevin(lambda x: -(x**3), start, step=0.01, steps=3, generator=rng(1))
    g, x = rng(1), start.clone()
    for _ in range(3):
        x = x - 0.01 * x**3 + math.sqrt(0.02) * torch.empty_like(x).normal_(generator=g)
    assert torch.allclose(end, x, rtol=1e-14)


def test_correctors_have_the_moments_of_their_recursion_and_bring_them_nearer():
    """From a mean far away, so that it is known to many digits; the last noise is not 0."""
    count, times = 50_000, s.even_times(10, 0.2, 40)
    exact, errors = spread(OU, 0.2, 0.25), {}
    for corrections in (0, 1, 3):
        drift, diffusion = s.reverse(OU, gaussian_score(0.25))
        variance, mean = 1.0, 1e4
        for pair in itertools.pairwise(times.tolist()):
            mean *= 1 + (pair[1] - pair[0]) * float(drift(column(1.0), pair[0]))
            variance = exact_variance(drift, diffusion, torch.tensor(pair, dtype=torch.float64), variance)
            step, slope = 2 * (0.4 * float(OU.noise(pair[1]))) ** 2, -1 / spread(OU, pair[1], 0.25)
            for _ in range(corrections):
                mean *= 1 + step * slope
                variance = (1 + step * slope) ** 2 * variance + 2 * step
        g = rng(11)
        start = 1e4 + torch.randn(count, 1, generator=g, dtype=torch.float64)
        found = s.predictor_corrector(
            OU, gaussian_score(0.25), start, times, ratio=0.4, corrections=corrections, generator=g
        )
        assert abs(float(found.mean()) - mean) < 4.5 * math.sqrt(variance / count)
        assert abs(float(found.var()) - variance) < 4.5 * variance * math.sqrt(2 / count)
        errors[corrections] = abs(variance - exact)
    assert errors[3] < errors[0]


def test_a_predictor_alone_is_euler():
    start = torch.randn(30, 2, generator=rng(), dtype=torch.float64)
    times = s.even_times(1, 0, 12)
    alone = s.predictor_corrector(
        PROCESSES["VP"], score, start, times, corrections=0, sigma=0.5, generator=rng(1)
    )
    equation = s.reverse(PROCESSES["VP"], score, sigma=0.5)
    assert torch.equal(alone, s.euler_maruyama(*equation, start, times, generator=rng(1)))


def test_correctors_ask_for_no_score_without_noise():
    asked = []

    def watched(x, signal, noise):
        asked.append(noise)
        return -x / noise

    times = s.even_times(1, 0, 4)
    end = s.predictor_corrector(PROCESSES["VP"], watched, column(1.0), times, corrections=2, generator=rng())
    assert end.isfinite().all()
    levels = PROCESSES["VP"].noise(times).tolist()
    assert asked == [levels[0], *(level for level in levels[1:4] for _ in range(3))]


# -- exponential solvers ---------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [s.exponential_euler, s.exponential_midpoint])
@pytest.mark.parametrize("name", PROCESSES)
def test_one_step_is_exact_for_data_in_a_point(solver, name):
    process = PROCESSES[name]
    centre = torch.tensor([0.7, -2.0], dtype=torch.float64)

    def model(x, signal, noise):
        return (x - signal * centre) / noise

    x = torch.randn(8, 2, generator=rng(), dtype=torch.float64)
    times = [process.horizon, process.horizon / 3]
    (a, b), (c, d) = (level(process, t) for t in times)
    torch.testing.assert_close(
        solver(process, model, x, times), c * centre + d / b * (x - a * centre), rtol=1e-12, atol=1e-12
    )
    to_data = solver(process, model, x, [process.horizon, 0.0])
    torch.testing.assert_close(to_data, centre.expand(8, 2), rtol=1e-12, atol=1e-12)


def towards_the_data(process, steps):
    """Times whose ratios are denser near the data, and the largest ratio."""
    top = float(process.noise(process.horizon) / process.signal(torch.tensor(process.horizon).double()))
    return process.time_of(top * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2), top


@pytest.mark.parametrize(("solver", "expected"), [(s.exponential_euler, 1), (s.exponential_midpoint, 2)])
@pytest.mark.parametrize("name", ["constant rate", "VE", "cosine"])
def test_orders_of_the_exponential_solvers(solver, expected, name):
    """Down to the data of a mixture, against SciPy's solution of dy/dr = model."""
    process = PROCESSES[name]
    x = column(-1.3, -0.2, 0.4, 1.5)
    _, top = towards_the_data(process, 1)

    def slope(r, y):
        signal = 1 / math.sqrt(1 + r * r)  # any signal: the model of one y and one r is the same
        return (
            -r
            * signal
            * score(torch.from_numpy(y)[:, None] * signal, signal, r * signal).detach()[:, 0].numpy()
        )

    first = x[:, 0].numpy() / level(process, process.horizon)[0]
    exact = integrate.solve_ivp(slope, (top, 0), first, rtol=1e-12, atol=1e-13, method="DOP853").y[:, -1]
    errors = []
    for steps in (50, 100, 200):
        found = solver(process, noise_of_mixture, x, towards_the_data(process, steps)[0])
        errors.append(np.abs(found[:, 0].numpy() - exact).mean())
    assert order(errors) == pytest.approx(expected, abs=0.12)
    assert errors[-1] < {1: 1e-2, 2: 3e-5}[expected]


@pytest.mark.parametrize("name", ["constant rate", "VE", "cosine"])
def test_the_midpoint_has_order_three_for_a_gaussian(name):
    """The term of order 2, y3 / 24 + a y2 / 8, vanishes for y = sqrt(s**2 + r**2) and a = y1 / y.

    Here y1, y2, y3 are the derivatives of y, and the equation is y1 = a y.
    """
    process = PROCESSES[name]
    exact = math.sqrt(0.25 / spread(process, process.horizon, 0.25))
    errors = []
    for steps in (25, 50, 100):
        times, _ = towards_the_data(process, steps)
        found = s.exponential_midpoint(process, gaussian_noise(0.25), column(1.0), times)
        errors.append(abs(float(found) - exact))
    assert order(errors) == pytest.approx(3, abs=0.06)


def test_the_first_order_is_ddim_without_noise():
    process = PROCESSES["VP"]
    x = torch.randn(6, 2, generator=rng(), dtype=torch.float64)

    times = s.even_times(1, 0.05, 7)
    path = s.exponential_euler(process, noise_of_mixture, x, times, keep=True)
    assert path.shape == (8, 6, 2)
    for i, (now, then) in enumerate(itertools.pairwise(times.tolist())):
        (a, b), (c, d) = level(process, now), level(process, then)
        eps = noise_of_mixture(path[i], a, b)
        data = (path[i] - b * eps) / a
        assert torch.allclose(path[i + 1], c * data + d * eps, rtol=1e-12, atol=1e-13)
    assert torch.equal(path[0], x)
    assert torch.equal(path[-1], s.exponential_euler(process, noise_of_mixture, x, times))


def test_the_solvers_of_the_flow_agree_with_a_general_one():
    process = PROCESSES["constant rate"]
    x = torch.randn(5, 1, generator=rng(12), dtype=torch.float64)
    drift, _ = s.reverse(process, score, sigma=0)

    def slope(t, y):
        return drift(torch.from_numpy(y)[:, None], float(t)).detach()[:, 0].numpy()

    exact = integrate.solve_ivp(slope, (3, 0.1), x[:, 0].numpy(), rtol=1e-11, atol=1e-12).y[:, -1]
    found = s.exponential_midpoint(process, noise_of_mixture, x, s.even_times(3, 0.1, 600))
    assert found[:, 0].numpy() == pytest.approx(exact, abs=1e-4)


def test_evaluations_of_a_step():
    calls = []

    def model(x, signal, noise):
        calls.append((signal, noise))
        return x

    for solver, expected in ((s.exponential_euler, 1), (s.exponential_midpoint, 2)):
        calls.clear()
        solver(PROCESSES["VP"], model, column(1.0), s.even_times(1, 0, 5))
        assert len(calls) == 5 * expected
        assert all(isinstance(value, float) for pair in calls for value in pair)


# -- refusals --------------------------------------------------------------------------------------


def untouched(*_):
    raise AssertionError("no work is done before the arguments are known to be good")


HERE = torch.zeros(4, 2, dtype=torch.float64)
GRID = torch.linspace(-1, 1, 20, dtype=torch.float64)
ODD = torch.tensor([0.0, 1.0, 3.0])
TIMES = [1.0, 0.5, 0.0]
EULER = (untouched, 1.0, HERE)
PLANCK = (untouched, 1.0, torch.ones(20), GRID)
VP = PROCESSES["VP"]
REFUSED = {
    "signal at time": [
        lambda: s.Process(lambda t: 1 - t, lambda t: t**2, 1.0),
        lambda: s.Process(lambda t: -torch.ones_like(t), lambda t: t, 1.0),
        lambda: s.Process(lambda t: t / t, lambda t: t, 1.0),
        lambda: s.Process(lambda t: 1 + torch.sqrt(t), lambda t: 4 * t, 1.0),
    ],
    "variance at time": [
        lambda: s.Process(torch.ones_like, lambda t: t - 0.1, 1.0),
        lambda: s.Process(torch.ones_like, lambda t: t / (t - 0.5), 1.0),
        lambda: s.Process(torch.ones_like, torch.sqrt, 1.0),
    ],
    "variance / signal": [
        lambda: s.Process(torch.ones_like, lambda t: t * (1 - t), 1.0),
        lambda: s.Process(lambda t: torch.exp(t), lambda t: torch.ones_like(t), 1.0),
    ],
    "horizon": [lambda: s.constant_rate(1.0, 0.0), lambda: s.constant_rate(1.0, math.inf)],
    "rate": [lambda: s.constant_rate(0.0), lambda: s.constant_rate(math.nan)],
    "low": [lambda: s.variance_preserving(-1.0), lambda: s.variance_exploding(0.0)],
    "high": [
        lambda: s.variance_preserving(2.0, 1.0),
        lambda: s.sub_variance_preserving(0.0, 0.0),
        lambda: s.variance_exploding(2.0, 2.0),
    ],
    "ratio": [
        lambda: VP.time_of(1e9),
        lambda: VP.time_of(-0.5),
        lambda: s.variance_exploding().time_of([0.1, -0.1]),
        lambda: VP.time_of(torch.tensor([0.1, math.nan])),
    ],
    "time": [
        lambda: VP.noise(-1e-3),
        lambda: VP.drift_rate(torch.tensor([0.5, math.nan])),
        lambda: VP.diffusion(1.001),
        lambda: s.euler_maruyama(*s.reverse(VP, untouched), HERE, [1.0, 0.5, -0.1, -0.2], generator=rng()),
        lambda: s.exponential_euler(VP, untouched, HERE, [2.0, 0.0]),
        lambda: s.log_likelihood(VP, untouched, HERE, [0.1, 1.5]),
        lambda: s.predictor_corrector(VP, untouched, HERE, [2.0, 1.0], generator=rng()),
    ],
    "steps": [lambda: s.even_times(0, 1, 0), lambda: s.even_times(0, 1, 2.0)],
    "stop": [lambda: s.even_times(1, 1, 3), lambda: s.even_times(0, math.nan, 3)],
    "sigma": [
        lambda: s.reverse(VP, untouched, sigma=-0.1),
        lambda: s.reverse(VP, untouched, sigma=math.nan),
        lambda: s.predictor_corrector(VP, untouched, HERE, TIMES, sigma=lambda t: t - 0.7, generator=rng()),
    ],
    "score": [lambda: s.forward(VP, sigma=0.5), lambda: s.forward(VP, sigma=lambda t: 0.5)],
    "times": [
        lambda: s.euler_maruyama(*EULER, [0.0, 1.0, 1.0], generator=rng()),
        lambda: s.euler_maruyama(*EULER, [0.0, 1.0, 0.5], generator=rng()),
        lambda: s.euler_maruyama(*EULER, [0.0], generator=rng()),
        lambda: s.euler_maruyama(*EULER, [0.0, math.nan], generator=rng()),
        lambda: s.euler_maruyama(*EULER, [0.0, math.inf], generator=rng()),
        lambda: s.euler_maruyama(*EULER, torch.zeros(2, 2), generator=rng()),
        lambda: s.log_likelihood(VP, untouched, HERE, TIMES),
        lambda: s.exponential_midpoint(VP, untouched, HERE, [1.0, 0.2, 0.4]),
        lambda: s.predictor_corrector(VP, untouched, HERE, [0.5], generator=rng()),
        lambda: s.fokker_planck(*PLANCK, [0.0, 0.0]),
    ],
    "start": [
        lambda: s.euler_maruyama(untouched, 1.0, torch.zeros(4), TIMES, generator=rng()),
        lambda: s.euler_maruyama(untouched, 1.0, torch.zeros(4, 2).int(), TIMES, generator=rng()),
        lambda: s.exponential_euler(VP, untouched, HERE / 0, TIMES),
        lambda: s.log_likelihood(VP, untouched, [[0.0]], [0.1, 1.0]),
    ],
    "diffusion": [
        lambda: s.euler_maruyama(untouched, -1.0, HERE, TIMES, generator=rng()),
        lambda: s.euler_maruyama(untouched, lambda t: math.nan, HERE, TIMES, generator=rng()),
        lambda: s.fokker_planck(untouched, 0.0, torch.ones(20), GRID, TIMES),
    ],
    "shape of noise": [
        lambda: s.euler_maruyama(*EULER, TIMES, noise=torch.zeros(3, 4, 2)),
        lambda: s.euler_maruyama(*EULER, TIMES, noise=torch.zeros(2, 4, 1)),
        lambda: s.euler_maruyama(*EULER, TIMES, noise=torch.zeros(0, 4, 2)),
        lambda: s.euler_maruyama(*EULER, TIMES, noise=[HERE, HERE[:, :1]]),
    ],
    "generator": [lambda: s.euler_maruyama(*EULER, TIMES)],
    "step": [lambda: s.langevin(untouched, HERE, step=0.0, steps=3, generator=rng())],
    "corrections": [
        lambda: s.predictor_corrector(VP, untouched, HERE, TIMES, corrections=-1, generator=rng())
    ],
    "grid": [
        lambda: s.fokker_planck(untouched, 1.0, torch.ones(3), ODD, TIMES),
        lambda: s.fokker_planck(untouched, 1.0, torch.ones(20), GRID.flip(0), TIMES),
        lambda: s.fokker_planck(untouched, 1.0, torch.ones(2), GRID[:2], TIMES),
    ],
    "density": [
        lambda: s.fokker_planck(untouched, 1.0, torch.ones(19), GRID, TIMES),
        lambda: s.fokker_planck(untouched, 1.0, -torch.ones(20), GRID, TIMES),
    ],
}


@pytest.mark.parametrize(
    ("name", "call"),
    [pytest.param(k, f, id=f"{k} {i}") for k, fs in REFUSED.items() for i, f in enumerate(fs)],
)
def test_bad_arguments_are_refused_in_one_sentence(name, call):
    with pytest.raises(ValueError, match=f"^{name}.* = .*: expected [^\n]*$") as caught:
        call()
    assert len(str(caught.value)) < 260


BAD = {
    "another shape": lambda x, *_: x[:, :1],
    "a row": lambda x, *_: x[0],
    "no tensor": lambda x, *_: 0.0,
    "not a number": lambda x, *_: x * math.nan,
    "infinity": lambda x, *_: x + math.inf,
}
SOLVED = {
    "drift": lambda f: s.euler_maruyama(f, 1.0, HERE + 1, TIMES, generator=rng()),
    "score": lambda f: s.euler_maruyama(*s.reverse(VP, f), HERE + 1, TIMES, generator=rng()),
    "score by its steps": lambda f: s.langevin(f, HERE + 1, step=0.1, steps=3, generator=rng()),
    "score of correctors": lambda f: s.predictor_corrector(VP, f, HERE + 1, TIMES, generator=rng()),
    "score of a likelihood": lambda f: s.log_likelihood(VP, f, HERE + 1, [0.1, 1.0], trace=untouched),
    "model": lambda f: s.exponential_euler(VP, f, HERE + 1, TIMES),
    "model at the middle": lambda f: s.exponential_midpoint(VP, f, HERE + 1, TIMES),
    "drift of cells": lambda f: s.fokker_planck(f, 1.0, torch.ones(20), GRID, TIMES),
    "field": lambda f: s.divergence(f, HERE + 1),
}


@pytest.mark.parametrize("what", SOLVED)
@pytest.mark.parametrize("how", BAD)
def test_what_a_function_returns_is_refused_at_its_first_step(what, how):
    calls = []

    def function(x, *level):
        calls.append(level)
        return BAD[how](x) if x.shape[1] > 1 or how not in ("another shape",) else x[:2]

    with pytest.raises(
        ValueError, match=f"(shape of what|a value of) {what.split()[0]}.* = [^\n]*: expected"
    ):
        SOLVED[what](function)
    assert len(calls) == 1


def test_no_noise_is_drawn_where_there_is_none():
    g = rng(3)
    before = g.get_state()
    s.euler_maruyama(*s.reverse(VP, gaussian_score(1.0), sigma=0), HERE + 1, TIMES, generator=g)
    assert torch.equal(g.get_state(), before)


def test_a_row_that_would_be_spread_over_the_states_is_refused_at_any_step():
    def drift(x, t):
        return x if t == 1 else x[0]

    with pytest.raises(ValueError, match="shape of what drift returns"):
        s.euler_maruyama(drift, 0.0, HERE + 1, TIMES)


def test_no_solver_keeps_a_history_for_gradients():
    start = (HERE + 1).requires_grad_()
    model = gaussian_score(1.0)
    for end in (
        s.euler_maruyama(*s.reverse(VP, model, sigma=0), start, TIMES),
        s.exponential_midpoint(VP, model, start, TIMES),
        s.log_likelihood(VP, model, start, [0.1, 1.0]),
    ):
        assert not end.requires_grad


def test_prior_and_trace_are_looked_at():
    arguments = (VP, gaussian_score(1.0), HERE, [0.1, 1.0])
    with pytest.raises(ValueError, match="trace"):
        s.log_likelihood(*arguments, trace=lambda x, *_: x)
    with pytest.raises(ValueError, match="prior"):
        s.log_likelihood(*arguments, prior=lambda x: x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_code_runs_on_a_gpu():
    x = torch.randn(1000, 2, generator=rng(), dtype=torch.float64)
    there = x.cuda()
    times = s.even_times(1, 0.01, 20)
    equation = s.reverse(VP, gaussian_score(0.3), sigma=0)
    ends = [s.euler_maruyama(*equation, start, times) for start in (x, there)]
    assert ends[1].is_cuda
    assert torch.allclose(ends[0], ends[1].cpu(), rtol=1e-10)
    noisy = s.euler_maruyama(
        *s.reverse(VP, gaussian_score(0.3)), there, times, generator=torch.Generator("cuda").manual_seed(0)
    )
    assert noisy.is_cuda
    likelihood = s.log_likelihood(VP, gaussian_score(0.3), there, s.even_times(0.01, 1, 20))
    assert likelihood.is_cuda
