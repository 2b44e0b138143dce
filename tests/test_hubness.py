"""Mathematics of the hubness module: exact values, independent oracles, invariants."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import get_ident

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
    """Neighbours by the definition: float64, coordinate after coordinate, equal distances by index."""
    x = points.detach().double().numpy()
    distances = np.zeros((len(x), len(x)))
    for c in range(x.shape[1]):
        distances += (x[:, None, c] - x[None, :, c]) ** 2
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances.argsort(1, kind="stable")[:, :k])


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


def test_log_volume_around_its_zero_and_around_the_changes_of_method():
    for middle in (0.5, 10.764, 12.764, 14.764, 100.0):
        dims = middle + (torch.rand(100, generator=rng(1), dtype=torch.float64) - 0.5) / 4
        for dim, value in zip(dims.tolist(), h.log_unit_ball_volume(dims).tolist(), strict=True):
            exact = exact_log_volume(dim)
            assert abs(value - exact) <= 1e-14 * abs(exact)


def test_log_volume_keeps_shape_and_takes_any_real_tensor():
    assert h.log_unit_ball_volume(torch.empty(0, 3)).shape == (0, 3)
    assert h.log_unit_ball_volume(torch.tensor(2, dtype=torch.int32)).shape == ()
    grid = torch.arange(12.0, requires_grad=True).reshape(3, 4).T
    values = h.log_unit_ball_volume(grid)
    assert (values.shape, values.dtype, values.requires_grad) == ((4, 3), torch.float64, False)
    assert float(values[1, 2]) == h.log_unit_ball_volume(9.0)


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

CROWD = torch.randn(300, 5, generator=rng(1))


def replaced(point, value):
    return torch.cat([CROWD[:point], torch.full((1, 5), value), CROWD[point + 1 :]])


def either(shape, first, second):
    return torch.where(torch.rand(shape, generator=rng(4)) < 0.5, first, second)


CLOUDS = {
    "generic": CROWD,
    "double": torch.randn(290, 9, generator=rng(2), dtype=torch.float64),
    "over two tiles": torch.randn(700, 3, generator=rng(2)),
    "far from the origin": CROWD * 1e-3 + 1e6,
    "far from the origin, double": CROWD.double() * 1e-9 + 1e6,
    "two clusters far apart": torch.cat([CROWD[:150] * 1e-3 + 1e6, CROWD[150:] * 1e-3 - 1e6]),
    "one far outlier": replaced(3, 1e6),
    "one very far outlier": replaced(0, 3e38),
    "every scale": CROWD * 10 ** (8 * torch.randn(300, 1, generator=rng(3))),
    "a scale for each column": CROWD * torch.tensor([1e-20, 1e-10, 1.0, 1e5, 1e15]),
    "constant columns": torch.cat([torch.full((300, 1), 1e30), CROWD, torch.full((300, 1), -7.0)], 1),
    "every point twice": CROWD[:150].repeat(2, 1),
    "random signs": either((400, 20), torch.tensor(1.0), torch.tensor(-1.0)),
    "few random signs": either((400, 3), torch.tensor(1.0), torch.tensor(-1.0)),
    "signs of zero": either((100, 3), torch.tensor(0.0), torch.tensor(-0.0)),
    "one ulp apart": either((200, 4), CROWD[:1, :4], torch.nextafter(CROWD[:1, :4], torch.tensor(9.0))),
    "a lattice with rounding": torch.randint(0, 4, (300, 3), generator=rng(5)) * 0.1,
    "near the largest float": CROWD.clamp(-3, 3) * 1e38,
    "near the smallest normal float": CROWD * 1e-38,
    "subnormal": CROWD * 1e-42,
    "huge doubles": CROWD[:150].double().repeat(2, 1) * 2.0**700,
    "tiny doubles": CROWD[:150].double().repeat(2, 1) * 2.0**-700,
    "all the same": torch.ones(140, 3),
    "one dimension": torch.rand(280, 1, generator=rng(5)),
    "many dimensions": torch.randn(40, 5000, generator=rng(6)),
    "two points": torch.tensor([[0.0], [1.0]]),
    "two equal points": torch.ones(2, 3),
    "columns first": torch.randn(5, 300, generator=rng(7)).T,
    "every other one": torch.randn(600, 10, generator=rng(8))[::2, 1::2],
    "with a gradient": CROWD.clone().requires_grad_(),
}
SCALED = {"huge doubles": 2.0**-700, "tiny doubles": 2.0**700}  # where the definition itself leaves the range


@pytest.mark.parametrize("route", ["tiles", "plain torch", "coarse products"])
@pytest.mark.parametrize("name", CLOUDS)
def test_neighbours_equal_the_definition(name, route, monkeypatch):
    if route == "plain torch":  # the route of other devices
        monkeypatch.setattr(h, "_candidates_cpu", h._candidates)
    elif route == "coarse products":
        monkeypatch.setattr(h, "_products_are_coarse", lambda x: True)
    points = CLOUDS[name]
    n = len(points)
    for k in sorted({1, min(10, n - 1), max(1, n - 6), max(1, n - 2), n - 1}):
        found = h.nearest(points, k)
        expected = reference(points * SCALED.get(name, 1), k)
        assert np.array_equal(found.numpy(), expected)
        assert found.dtype == torch.int64
        assert torch.equal(h.k_occurrence(points, k), torch.bincount(found.flatten(), minlength=n))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 3), st.data())
def test_counts_on_small_grids_where_ties_abound(n, d, data):
    rows = data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n - 1))
    points = torch.tensor(rows, dtype=torch.float32)
    assert np.array_equal(h.nearest(points, k).numpy(), reference(points, k))


@pytest.mark.parametrize("n", [511, 512, 513, 1024, 1025])
def test_neighbours_across_tile_borders(n):
    points = torch.randn(n, 3, generator=rng(n))
    for k in (1, 4, 300):
        assert np.array_equal(h.nearest(points, k).numpy(), reference(points, k))


def products_of(rounded):
    """Return a stand-in for torch.mm that sees its float32 factors through `rounded`."""

    def mm(a, b, out=None):
        same = a if a.dtype == torch.float64 else rounded(a), b if b.dtype == torch.float64 else rounded(b)
        return torch.matmul(*same, out=out)

    return mm


COARSE = {
    "TF32": lambda x: (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32),
    "bfloat16": lambda x: x.bfloat16().float(),
    "two bfloat16": lambda x: (high := x.bfloat16().float()) + (x - high).bfloat16().float(),
}


@pytest.mark.parametrize("kind", COARSE)
@pytest.mark.parametrize("route", ["_candidates_cpu", "_candidates"])
def test_coarse_matrix_products_are_noticed_and_avoided(kind, route, monkeypatch):
    points = torch.randn(600, 4, generator=rng(9)) / 300
    points[::2] += 1  # large norms, small distances: coarse products err
    expected = reference(points, 10)
    monkeypatch.setattr(h, "_candidates_cpu", getattr(h, route))
    monkeypatch.setattr(torch, "mm", products_of(COARSE[kind]))
    assert h._products_are_coarse(points)
    assert np.array_equal(h.nearest(points, 10).numpy(), expected)
    monkeypatch.setattr(h, "_products_are_coarse", lambda x: False)
    with np.errstate(invalid="ignore"):
        assert not np.array_equal(h.nearest(points, 10).numpy(), expected)


def test_full_matrix_products_are_not_called_coarse():
    for n, d in ((2, 1), (40, 3), (700, 257)):
        assert not h._products_are_coarse(torch.randn(n, d, generator=rng()).double())


@pytest.mark.parametrize("route", ["_candidates_cpu", "_candidates"])
def test_the_worst_rounding_that_float32_allows_changes_nothing(route, monkeypatch):
    d, unit = 64, 2.0**-24
    points = torch.randn(512, d, generator=rng(10), dtype=torch.float64) * 1e-3
    points[::2] += 1 / d**0.5
    expected = reference(points, 10)
    wrong = {}
    monkeypatch.setattr(h, "_candidates_cpu", getattr(h, route))
    for size in (1, 40):  # in units of the bound d u |x||y|

        def mm(a, b, out=None, size=size):
            a, b = a.double(), b.double()
            signs = torch.randint(0, 2, (len(a), b.shape[1]), generator=rng(11)) * 2 - 1
            noisy = a @ b + size * d * unit * signs * a.norm(dim=1)[:, None] * b.norm(dim=0)
            return noisy.float() if out is None else out.copy_(noisy)

        monkeypatch.setattr(h, "_products_are_coarse", lambda x: False)
        monkeypatch.setattr(torch, "mm", mm)
        with np.errstate(invalid="ignore"):
            wrong[size] = int((h.nearest(points, 10).numpy() != expected).any(1).sum())
    assert wrong[1] == 0
    assert wrong[40] > 50  # so the noise mattered


def test_autocast_inference_and_defaults_of_the_reader_do_not_matter():
    points = CROWD
    expected = h.nearest(points, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(h.nearest(points, 7), expected)
    with torch.inference_mode():
        assert torch.equal(h.nearest(points.clone(), 7), expected)
    with torch.device("meta"):
        assert torch.equal(h.nearest(points, 7), expected)
    before = points.clone()
    h.nearest(points, 7)
    assert torch.equal(points, before)
    doubles = points.double()
    h.nearest(doubles, 7)
    assert torch.equal(doubles, before.double())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_threads_share_the_work_and_leave_the_setting_alone(threads, monkeypatch):
    points = torch.randn(2300, 3, generator=rng(12))
    signs = either((2300, 12), torch.tensor(1.0), torch.tensor(-1.0))
    expected = h.nearest(points, 6), h.nearest(signs, 6)
    push, used = h._push, {}

    def watched(*args):
        used[get_ident()] = torch.get_num_threads()
        push(*args)

    monkeypatch.setattr(h, "_push", watched)
    for number in (1, 2, 3):
        threads(number)
        used.clear()
        assert torch.equal(h.nearest(points, 6), expected[0])
        assert len(used) <= number
        assert set(used.values()) == {1}  # no threads within threads
        assert (get_ident() in used) == (number == 1)
        assert torch.equal(h.nearest(signs, 6), expected[1])
        assert torch.get_num_threads() == threads_of_a_new_thread() == number


def test_a_failure_in_a_thread_is_raised_and_leaves_the_setting_alone(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(h, "_push", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        h.nearest(torch.randn(2300, 3, generator=rng()), 6)
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2


@pytest.mark.parametrize("blocks", [1, 2, 5, 8])
def test_blocks_meet_once_and_never_play_twice_in_a_round(blocks, monkeypatch):
    rounds = []

    @contextmanager
    def workers(useful):
        yield lambda function, jobs: rounds.append(jobs)

    monkeypatch.setattr(h, "_workers", workers)
    h._candidates_cpu(torch.zeros(512 * blocks - 100, 1), torch.zeros(512 * blocks - 100), 3)
    for games in rounds:
        players = [player for a, b in games for player in {a, b}]
        assert sorted(players) == list(range(blocks))
    met = sorted(tuple(sorted(game)) for games in rounds for game in games)
    assert met == [(a, b) for a in range(blocks) for b in range(a, blocks)]


def test_doubt_is_rare_on_ordinary_data(monkeypatch):
    seen = []
    rivals = h._rivals
    monkeypatch.setattr(h, "_rivals", lambda *a: seen.append(rivals(*a)) or seen[-1])
    far = torch.randn(1500, 32, generator=rng(13))
    far[0] *= 1e20  # neither an outlier nor a common offset may bring the others into doubt
    for points in (torch.randn(1500, 128, generator=rng(13)), far, far[8:] + 100):
        h.nearest(points, 10)
        assert (seen[-1] > 10).mean() < 0.02


def test_counts_of_a_matrix_rank_its_rows_break_ties_by_index_and_ignore_the_diagonal():
    matrix = torch.tensor([[-9.0, 2, 1, 3], [1, -9, 1, 1], [5, 4, -9, 6], [0, 0, 7, -9]])  # not symmetric
    before = matrix.clone()
    assert h.k_occurrence_of(matrix, 1).tolist() == [2, 1, 1, 0]
    assert h.k_occurrence_of(matrix, 2).tolist() == [3, 3, 2, 0]
    assert h.k_occurrence_of(matrix, 3).tolist() == [3, 3, 3, 3]
    assert torch.equal(matrix, before)
    for k in (0, 4):
        with pytest.raises(ValueError, match=r"^k = "):
            h.k_occurrence_of(matrix, k)


def test_counts_of_a_matrix_are_those_of_its_points():
    distances = (CROWD.double()[:, None] - CROWD.double()[None]).square().sum(-1)
    assert torch.equal(h.k_occurrence(CROWD, 4), h.k_occurrence_of(distances, 4))


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


MEMORY = """
import resource, sys, torch
from kexue_lib.hubness import k_occurrence
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
points = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
points[:600] = points[0]  # also some that float64 has to compare with all the others
k_occurrence(points[:700], 5)
before = peak()
k_occurrence(points, 5)
print(peak() - before)
"""


def test_memory_stays_far_below_the_matrix():
    pytest.importorskip("resource")
    grown = int(subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, check=True).stdout)
    assert grown < 20_000**2 * 4 / 30


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


@pytest.mark.parametrize("n", [5_000, pytest.param(50_000, marks=pytest.mark.weekly)])
def test_laws_hold_for_many_points(n):
    law = h.limit_k_occurrence(n, 10, 3)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    assert float(law @ torch.arange(n, dtype=torch.float64)) == pytest.approx(10, rel=1e-8)
