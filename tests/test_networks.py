"""Copies trained side by side are what each would be alone."""

import pytest
import torch
from torch.nn import functional as F

from kexue_lib.networks import init_mlp, mlp


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_network_is_what_torch_builds():
    weights = init_mlp([3, 5, 4, 2], 2, generator=rng())
    x = torch.randn(2, 7, 3, generator=rng(1))
    for copy in range(2):
        y = x[copy]
        for layer in range(3):
            y = F.linear(y, weights[2 * layer][copy].T, weights[2 * layer + 1][copy, 0])
            if layer == 1:
                torch.testing.assert_close(mlp(weights, x, layers=2)[copy], F.leaky_relu(y, 0.2))
            y = F.leaky_relu(y, 0.2) if layer < 2 else y
        torch.testing.assert_close(mlp(weights, x)[copy], y)


def test_copies_train_as_if_alone():
    x, y = torch.randn(3, 20, 4, generator=rng(1)), torch.randn(3, 20, 1, generator=rng(2))
    together = init_mlp([4, 6, 1], 3, generator=rng())
    alone = [[w[c : c + 1].detach().clone().requires_grad_() for w in together] for c in range(3)]

    def train(weights, x, y):
        optimiser = torch.optim.Adam(weights, lr=0.01)
        for _ in range(5):
            optimiser.zero_grad()
            (mlp(weights, x) - y).square().mean((1, 2)).sum().backward()
            optimiser.step()

    train(together, x, y)
    for c in range(3):
        train(alone[c], x[c : c + 1], y[c : c + 1])
        for w, whole in zip(alone[c], together, strict=True):
            torch.testing.assert_close(w[0], whole[c], rtol=1e-4, atol=1e-6)


def test_initial_weights_keep_the_scale():
    weights = init_mlp([400, 300], 2, generator=rng())
    assert float(weights[0].detach().var()) == pytest.approx(2 / 400, rel=0.02)
    assert not weights[1].any()
    assert all(w.requires_grad for w in weights)


@pytest.mark.parametrize(("sizes", "copies"), [([3], 1), ([3, 0], 1), ([3, 2.0], 1), ([3, 2], 0)])
def test_impossible_networks_are_refused(sizes, copies):
    with pytest.raises(ValueError, match=r"sizes|copies"):
        init_mlp(sizes, copies, generator=rng())


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="layers"):
        mlp(init_mlp([2, 2], 1, generator=rng()), torch.zeros(1, 1, 2), layers=2)


@pytest.mark.parametrize("layers", [0, -1, 2.0])
def test_layers_are_counted_from_one(layers):
    with pytest.raises(ValueError, match="layers"):
        mlp(init_mlp([2, 2, 2], 1, generator=rng()), torch.zeros(1, 1, 2), layers=layers)


def test_weights_come_in_pairs():
    weights = init_mlp([2, 2, 2], 1, generator=rng())
    for bad in ([], weights[:3]):
        with pytest.raises(ValueError, match="weights"):
            mlp(bad, torch.zeros(1, 1, 2))
