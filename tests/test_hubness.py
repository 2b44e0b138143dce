"""Mathematics of the hubness module: exact values, independent oracles, invariants."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kexue_lib import hubness as h


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(points, k):
    """Count with plain Python integers or floats: no matrix, no rounding trick, ties by index."""
    rows = points.double().tolist()
    counts = [0] * len(rows)
    for j, y in enumerate(rows):
        far = [
            (sum((a - b) ** 2 for a, b in zip(x, y, strict=True)), i) for i, x in enumerate(rows) if i != j
        ]
        for _, i in sorted(far)[:k]:
            counts[i] += 1
    return counts


# -- volume --------------------------------------------------------------------------------------

DIMS = [
    0.0,
    1e-9,
    0.3,
    0.49999,
    0.5,
    1.0,
    2.0,
    5.0,
    11.26,
    12.0,
    12.764,
    12.7641,
    12.9,
    14.27,
    100.0,
    12345.5,
    1e6,
]


def exact_log_volume(dim):
    with mpmath.workdps(50):
        return mpmath.log(mpmath.pi) * dim / 2 - mpmath.loggamma(mpmath.mpf(dim) / 2 + 1)


@pytest.mark.parametrize("dim", DIMS)
def test_log_volume_is_exact_to_1e14_also_beside_its_zeros(dim):
    exact = exact_log_volume(dim)
    assert abs(h.log_unit_ball_volume(dim) - exact) <= 1e-14 * abs(exact)


def test_log_volume_of_random_real_dimensions_and_of_tensors():
    dims = torch.cat([torch.rand(150, generator=rng(), dtype=torch.float64) * s for s in (1, 30, 1e6)])
    for dim, value in zip(dims.tolist(), h.log_unit_ball_volume(dims.reshape(3, 150)).flatten(), strict=True):
        exact = exact_log_volume(dim)
        assert abs(float(value) - exact) <= 1e-14 * abs(exact)


def test_known_volumes_and_recurrence():
    for dim, volume in {1: 2, 2: math.pi, 3: 4 * math.pi / 3, 4: math.pi**2 / 2}.items():
        assert math.exp(h.log_unit_ball_volume(dim)) == pytest.approx(volume, rel=1e-14)
    d = torch.arange(3, 200)
    step = h.log_unit_ball_volume(d) - h.log_unit_ball_volume(d - 2)
    torch.testing.assert_close(step, torch.log(2 * math.pi / d.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "dim", [-1, math.nan, math.inf, True, "3", torch.tensor([1.0, -1.0]), torch.tensor([math.nan])]
)
def test_log_volume_refuses(dim):
    with pytest.raises(ValueError, match="dim"):
        h.log_unit_ball_volume(dim)


# -- counts --------------------------------------------------------------------------------------

CLOUDS = {
    "generic": torch.randn(120, 7, generator=rng(1)),
    "double": torch.randn(90, 3, generator=rng(2), dtype=torch.float64),
    "far from the origin": torch.randn(150, 4, generator=rng(3)) + 1e4,
    "random signs": torch.randint(0, 2, (100, 6), generator=rng(4)).float() * 2 - 1,
    "all the same": torch.ones(40, 3),
    "two points": torch.tensor([[0.0], [1.0]]),
    "one dimension": torch.rand(80, 1, generator=rng(5)),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_counts_equal_the_definition(name):
    points = CLOUDS[name]
    for k in {1, min(5, len(points) - 1), len(points) - 1}:
        assert h.k_occurrence(points, k).tolist() == reference(points, k)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 3), st.data())
def test_counts_on_small_grids_where_ties_abound(n, d, data):
    rows = data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n - 1))
    points = torch.tensor(rows, dtype=torch.float32)
    assert h.k_occurrence(points, k).tolist() == reference(points, k)


@pytest.mark.parametrize("n", [511, 512, 513, 1025])
def test_counts_across_tile_borders(n):
    points = torch.randn(n, 3, generator=rng(n), dtype=torch.float32)
    distances = (points.double()[:, None] - points.double()[None]).square().sum(-1)
    assert torch.equal(h.k_occurrence(points, 4), h.k_occurrence_of(distances, 4))


def test_the_route_of_other_devices_gives_the_same_candidates():
    points = torch.randn(700, 5, generator=rng())
    a, b = h._candidates_cpu(points, 9), h._candidates(points, 9)
    torch.testing.assert_close(a[0], b[0], rtol=1e-4, atol=1e-4)
    assert (a[1].sort(1).values != b[1].sort(1).values).any(1).double().mean() < 0.01


def test_counts_agree_with_peers():
    faiss = pytest.importorskip("faiss")
    neighbors = pytest.importorskip("sklearn.neighbors")
    points = torch.randn(3000, 16, generator=rng(6))
    ours = h.k_occurrence(points, 10).numpy()
    index = faiss.IndexFlatL2(16)
    index.add(points.numpy())
    found = index.search(points.numpy(), 11)[1][:, 1:]
    assert np.array_equal(ours, np.bincount(found.ravel(), minlength=3000))
    tree = neighbors.NearestNeighbors(n_neighbors=10, algorithm="brute").fit(points.double().numpy())
    assert np.array_equal(ours, np.bincount(tree.kneighbors(return_distance=False).ravel(), minlength=3000))


def test_counts_do_not_feel_order_place_or_scale():
    points = torch.randn(400, 6, generator=rng(7), dtype=torch.float64)
    counts = h.k_occurrence(points, 8)
    assert counts.sum() == 400 * 8
    order = torch.randperm(400, generator=rng(8))
    assert torch.equal(h.k_occurrence(points[order], 8), counts[order])
    for scale in (2.0**-300, 2.0**300):
        assert torch.equal(h.k_occurrence(points * scale, 8), counts)
    assert torch.equal(h.k_occurrence(-points[:, [3, 1, 0, 2, 5, 4]], 8), counts)


@pytest.mark.parametrize(
    ("points", "k"),
    [
        (torch.ones(5, 2), 0),
        (torch.ones(5, 2), 5),
        (torch.ones(5, 2), 1.0),
        (torch.ones(5, 2), True),
        (torch.tensor([[1.0], [math.nan], [2.0]]), 1),
        (torch.tensor([[1.0], [math.inf], [2.0]]), 1),
        (torch.ones(5, 2, dtype=torch.int64), 1),
        (torch.ones(5, 2, dtype=torch.float16), 1),
        (torch.ones(5), 1),
        (torch.ones(0, 2), 1),
        (torch.ones(5, 0), 1),
        ([[1.0], [2.0]], 1),
    ],
)
def test_counts_refuse(points, k):
    with pytest.raises(ValueError, match=r"^(points|k) = .*: expected"):
        h.k_occurrence(points, k)


def test_memory_stays_far_below_the_matrix(monkeypatch):
    seen = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *a, **kw: seen.append((t := addmm(*a, **kw)).numel()) or t)
    h.k_occurrence(torch.randn(3000, 4, generator=rng()), 5)
    assert max(seen) <= 512**2


def test_select_hubs_takes_the_threshold_itself():
    points = torch.randn(300, 30, generator=rng(9))
    counts = h.k_occurrence(points, 5)
    top = int(counts.max())
    assert h.select_hubs(points, 5, top).tolist() == torch.nonzero(counts == top).flatten().tolist()
    assert len(h.select_hubs(points, 5, 0)) == 300
    with pytest.raises(ValueError, match="threshold"):
        h.select_hubs(points, 5, 300)


# -- the law -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "kappa"), [(2, 1, 3), (50, 49, 3), (400, 10, 1), (2000, 5, 6), (30, 1, 100)]
)
@pytest.mark.parametrize("limit", [h.limit_k_occurrence, h.limit_k_occurrence_fixed_k])
def test_law_is_a_law_with_mean_k(limit, n, k, kappa):
    law = limit(n, k, kappa)
    assert law.shape == (n,)
    assert (law >= 0).all()
    assert float(law.sum()) == pytest.approx(1, abs=1e-11)
    assert float(law @ torch.arange(n, dtype=torch.float64)) == pytest.approx(k, rel=1e-9)


def test_law_without_a_common_part_is_binomial():
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binom.pmf(np.arange(60), 59, 7 / 59)
    np.testing.assert_allclose(h.limit_k_occurrence(60, 7, 1).numpy(), expected, atol=1e-13)


def test_law_by_independent_quadrature():
    n, k, rho = 40, 3, 1 / 3
    with mpmath.workdps(20):
        t = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(k) / (n - 1) - 1)

        def term(a, m):
            q = mpmath.ncdf((t - mpmath.sqrt(rho) * a) / mpmath.sqrt(1 - rho))
            return mpmath.binomial(n - 1, m) * q**m * (1 - q) ** (n - 1 - m) * mpmath.npdf(a)

        law = h.limit_k_occurrence(n, k, 3)
        for m in (0, 1, 5, 20):
            assert abs(float(law[m]) - mpmath.quad(lambda a, m=m: term(a, m), [-9, -3, 0, 3, 9])) < 1e-12


def test_naming_probability_for_three_points_is_known():
    """With N = 3 and k = 1 the threshold is one standard normal value: a difference of two Gaussians."""
    a = torch.linspace(-4, 4, 9, dtype=torch.float64)
    for kappa in (1.0, 1.8, 3.0, 6.0, 50.0):
        rho = h.radius_share(kappa)
        expected = torch.special.ndtr(-math.sqrt(rho) * a / math.sqrt(2 - rho))
        torch.testing.assert_close(h.naming_probability(a, 3, 1, kappa), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("n", "k", "kappa"), [(3, 1, 3), (10, 8, 6), (1000, 1, 3), (10**6, 7, 1.8), (10**15, 1, 3)]
)
def test_naming_probability_has_mean_k_exactly(n, k, kappa):
    a = torch.linspace(-13, 13, 5201, dtype=torch.float64)
    weight = torch.exp(-(a**2) / 2)
    q = h.naming_probability(a, n, k, kappa)
    assert (q.diff() <= 0).all()
    assert float(q @ weight / weight.sum()) * (n - 1) / k == pytest.approx(1, rel=1e-9)


def test_naming_probability_at_the_edges():
    a = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.equal(h.naming_probability(a, 5, 4, 3), torch.ones(2, 3, dtype=torch.float64))
    for bad in [(1, 1, 3), (5, 0, 3), (5, 5, 3), (5, 1, 0.5), (5.0, 1, 3), (10**16, 1, 3)]:
        with pytest.raises(ValueError, match=r"^(n_points|k|kurtosis) = "):
            h.naming_probability(a, *bad)


def test_for_fixed_k_the_random_threshold_is_right_and_the_frozen_one_is_not():
    counts = h.simulate_ranking_model(300, 1, 3, 600, generator=rng(21))
    share = (counts == 0).double().mean(1)
    error = float(share.std()) / 600**0.5
    assert abs(float(share.mean() - h.limit_k_occurrence_fixed_k(300, 1, 3)[0])) < 5.85 * error
    assert abs(float(share.mean() - h.limit_k_occurrence(300, 1, 3)[0])) > 7 * error


def test_ranking_model_counts_and_its_symmetry():
    """Among three points whose ranks are g alone, two name each other and the third names one of them."""
    counts = h.simulate_ranking_model(3, 1, 1, 500, generator=rng(22))
    assert (counts.sum(1) == 3).all()
    # With g_ij = g_ji the closest pair is mutual, so the sorted counts are always 0, 1, 2.
    assert torch.equal(counts.sort(1).values, torch.tensor([0, 1, 2]).expand(500, 3))


def test_ranking_model_is_the_limit_of_geometry():
    counts = [
        h.antihub_share(h.k_occurrence(h.sample_coordinates(300, 4000, "gaussian", generator=rng(s)), 15))
        for s in range(40)
    ]
    model = (h.simulate_ranking_model(300, 15, 3, 60, generator=rng()) == 0).double().mean(1)
    gap = np.mean(counts) - float(model.mean())
    error = math.hypot(np.std(counts, ddof=1) / 40**0.5, float(model.std()) / 60**0.5)
    assert abs(gap) < 5.85 * error
    assert error < 0.01  # a law without the common part would be off by more than 0.1


@pytest.mark.parametrize("law", h.KURTOSIS)
def test_coordinates_have_variance_one_and_the_stated_kurtosis(law):
    x = h.sample_coordinates(400, 1000, law, generator=rng(11), dtype=torch.float64).flatten()
    for power, moment in ((1, 0.0), (2, 1.0), (4, h.KURTOSIS[law])):
        sample = x**power
        assert abs(float(sample.mean()) - moment) <= 5.85 * float(sample.std()) / len(x) ** 0.5 + 1e-12


def test_bad_laws_are_refused():
    for bad in (0.9, 1e5, math.nan, "3"):
        with pytest.raises(ValueError, match="kurtosis"):
            h.limit_k_occurrence(10, 2, bad)
    with pytest.raises(ValueError, match="law"):
        h.sample_coordinates(10, 2, "cauchy", generator=rng())


# -- repairs -------------------------------------------------------------------------------------


def test_repairs_lower_the_hubs_of_a_gaussian_cloud():
    points = torch.randn(300, 60, generator=rng(12), dtype=torch.float64)
    distances = torch.cdist(points, points)
    plain = h.skewness(h.k_occurrence_of(distances, 10))
    for repaired in (h.local_scaling(distances, 10), h.mutual_proximity(distances)):
        assert h.skewness(h.k_occurrence_of(repaired, 10)) < plain / 1.5


def test_mutual_proximity_by_counting():
    d = torch.cdist(*[torch.randn(12, 2, generator=rng(13), dtype=torch.float64)] * 2)
    for i, j in ((0, 1), (3, 7), (11, 2)):
        farther = sum(bool(d[i, m] > d[i, j] and d[j, m] > d[i, j]) for m in range(12))
        assert float(h.mutual_proximity(d)[i, j]) == pytest.approx(1 - farther / 12)


def test_csls_by_hand():
    s = torch.tensor([[0.9, 0.1], [0.8, 0.7]])
    expected = [[2 * 0.9 - 0.9 - 0.9, 2 * 0.1 - 0.9 - 0.7], [2 * 0.8 - 0.8 - 0.9, 2 * 0.7 - 0.8 - 0.7]]
    torch.testing.assert_close(h.csls(s, 1), torch.tensor(expected))
    wide = torch.tensor([[4.0, 3.0, 1.0, 0.0], [2.0, 6.0, 5.0, 0.0], [0.0, 0.0, 9.0, 1.0]])
    rows, columns = torch.tensor([3.5, 5.5, 5.0]), torch.tensor([3.0, 4.5, 7.0, 0.5])
    torch.testing.assert_close(h.csls(wide, 2), 2 * wide - rows[:, None] - columns)
    with pytest.raises(ValueError, match=r"^k = 4"):
        h.csls(wide, 4)


def test_local_scaling_by_hand():
    d = torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 2.0], [4.0, 2.0, 0.0]], dtype=torch.float64)
    scale = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    expected = 1 - torch.exp(-(d**2) / torch.outer(scale, scale))
    torch.testing.assert_close(h.local_scaling(d, 1), expected)
    torch.testing.assert_close(h.local_scaling(d * 1e-200, 1), expected)
    with pytest.raises(ValueError, match="duplicates"):
        h.local_scaling(torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]]), 1)


def test_mutual_proximity_counts_only_what_is_strictly_farther():
    d = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    assert torch.equal(h.mutual_proximity(d)[0, 1], torch.tensor(1.0, dtype=torch.float64))


def test_centring_takes_the_mean_away_and_any_shift_with_it():
    points = torch.randn(50, 3, generator=rng(31), dtype=torch.float64)
    torch.testing.assert_close(h.centre(points).mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(h.centre(points + 7), h.centre(points))


def test_centring_a_shifted_sphere_takes_its_hubs_away():
    sphere = torch.nn.functional.normalize(torch.randn(300, 400, generator=rng(32)))
    shifted = sphere + torch.eye(400)[0] * 2
    plain, centred = (h.k_occurrence_of(-x @ x.T, 5) for x in (shifted, h.centre(shifted)))
    assert h.antihub_share(plain) > 0.4
    assert h.antihub_share(centred) < 0.05


def test_skewness_by_hand():
    counts = torch.tensor([0, 0, 0, 4])
    assert h.skewness(counts) == pytest.approx(2 / 3**0.5)
    assert h.skewness(4 - counts) == pytest.approx(-2 / 3**0.5)
    assert h.antihub_share(counts) == 0.75


@pytest.mark.parametrize(
    ("function", "bad"),
    [
        (h.skewness, torch.tensor([3, 3, 3])),
        (h.skewness, torch.tensor([0.5, 1.0])),
        (h.antihub_share, torch.tensor([], dtype=torch.int64)),
        (h.antihub_share, torch.tensor([1.0, math.nan])),
        (h.centre, torch.ones(3)),
        (h.mutual_proximity, -torch.ones(3, 3)),
        (h.mutual_proximity, torch.ones(3, 2)),
        (lambda d: h.local_scaling(d, 1), torch.full((3, 3), math.nan)),
        (lambda s: h.csls(s, 1), torch.full((3, 3), math.nan)),
        (lambda s: h.csls(s, 1), torch.ones(3, 3, 3)),
        (lambda a: h.naming_probability(a, 9, 2, 3), torch.ones(2, dtype=torch.complex64)),
        (lambda d: h.sample_coordinates(5, 2, "laplace", generator=rng(), dtype=d), torch.float16),
        (lambda g: h.sample_coordinates(5, 2, "laplace", generator=g), None),
        (lambda g: h.simulate_ranking_model(5, 2, 3, 1, generator=g), None),
    ],
)
def test_nonsense_is_refused_with_a_sentence(function, bad):
    with pytest.raises(ValueError, match=r"^\w+ = .*: expected "):
        function(bad)


@pytest.mark.parametrize("n", [3, 50, 400])
@pytest.mark.parametrize("kappa", [1.0, 1.8, 6.0, 1e4])
def test_laws_hold_for_large_k_too(n, kappa):
    places = torch.arange(n, dtype=torch.float64)
    for k in {1, n // 2, 3 * n // 4, n - 5, n - 2, n - 1} & set(range(1, n)):
        for limit in (h.limit_k_occurrence, h.limit_k_occurrence_fixed_k):
            law = limit(n, k, kappa)
            assert float(law.sum()) == pytest.approx(1, abs=1e-10)
            assert float(law @ places) == pytest.approx(k, rel=1e-10)


def test_laws_hold_for_many_points():
    law = h.limit_k_occurrence(50_000, 10, 3)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    assert float(law @ torch.arange(50_000, dtype=torch.float64)) == pytest.approx(10, rel=1e-8)
