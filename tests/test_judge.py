"""The judge knows digits, and the Fréchet distance is the one of Gaussians."""

import pytest
import torch
from scipy.linalg import sqrtm

from kexue_lib.data import Images, digits_split
from kexue_lib.judge import frechet_distance, train_judge


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def judge():
    return train_judge(digits_split()[0], generator=rng(), steps=500)


def test_the_judge_recognises_digits_it_has_not_seen_and_no_noise(judge):
    held_out = digits_split()[1]
    assert judge.accuracy(held_out) > 0.955
    sure = judge.probabilities(held_out.images).amax(1).mean()
    assert judge.probabilities(torch.rand(500, 64, generator=rng(1))).amax(1).mean() < sure - 0.1
    torch.testing.assert_close(judge.probabilities(held_out.images).sum(1), torch.ones(len(held_out)))


def test_the_same_generator_gives_the_same_judge():
    train = digits_split()[0]
    one, two = (train_judge(train, generator=rng(3), steps=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.weights, two.weights, strict=True))


def test_features_tell_real_digits_from_noise(judge):
    learn, held_out = (judge.features(part.images) for part in digits_split())
    noise = judge.features(torch.rand(599, 64, generator=rng(2)))
    assert frechet_distance(learn, held_out) < frechet_distance(learn, noise) / 10


def test_distance_of_gaussians_on_a_line():
    x = torch.randn(1000, 1, generator=rng(), dtype=torch.float64)
    x = (x - x.mean()) / x.std()
    assert frechet_distance(x, 3 * x + 5) == pytest.approx(5**2 + (3 - 1) ** 2, rel=1e-12)


def test_distance_against_the_matrix_root_of_scipy():
    a = torch.randn(50, 4, generator=rng(), dtype=torch.float64)
    b = (
        torch.randn(80, 4, generator=rng(1), dtype=torch.float64)
        @ torch.randn(4, 4, generator=rng(2)).double()
    )
    ca, cb = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    expected = (a.mean(0) - b.mean(0)).square().sum() + (ca + cb - 2 * sqrtm(ca @ cb).real).trace()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-10)


def test_distance_to_itself_is_zero_also_when_the_covariance_is_singular():
    flat = torch.randn(30, 1, generator=rng()) @ torch.ones(1, 3)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(5), torch.ones(5, 1)),
        (torch.ones(3, 0), torch.ones(3, 0)),
        (torch.ones(1, 2), torch.ones(5, 2)),
        (torch.ones(5, 2), torch.ones(5, 3)),
        (torch.full((5, 2), torch.nan), torch.ones(5, 2)),
        (torch.ones(5, 2), torch.full((5, 2), torch.inf)),
    ],
)
def test_impossible_samples_are_refused(a, b):
    with pytest.raises(ValueError, match=r"^[ab] = "):
        frechet_distance(a, b)


def test_shapes_of_features_and_probabilities(judge):
    assert judge.features(torch.zeros(7, 64)).shape == (7, 32)
    assert judge.probabilities(torch.zeros(7, 64)).shape == (7, 10)


def test_nothing_can_be_learnt_from_nothing_or_from_nan():
    learn = digits_split()[0]
    with pytest.raises(ValueError, match="real"):
        train_judge(learn[:0], generator=rng())
    with pytest.raises(ValueError, match="real"):
        train_judge(Images(learn.images * torch.nan, learn.labels), generator=rng())
    with pytest.raises(ValueError, match="steps"):
        train_judge(learn, generator=rng(), steps=0)
