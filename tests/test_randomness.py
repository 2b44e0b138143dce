"""Streams are reproducible, and differ whenever seed or use differ."""

import pytest
import torch

from kexue_lib.randomness import stream


def test_streams_of_different_uses_do_not_meet():
    keys = [(s, *u) for s in (0, 1, 12) for u in [(), ("a",), ("b",), ("a", 1), ("a1",), ("a", 11), (1, "a")]]
    numbers = torch.stack([torch.rand(50, generator=stream(*key)) for key in keys])
    assert torch.equal(numbers[3], torch.rand(50, generator=stream(*keys[3])))
    assert torch.unique(numbers.double()).numel() > numbers.numel() - 5
    z = torch.corrcoef(numbers).fill_diagonal_(0).abs().max() * 50**0.5
    assert z < 5.85


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        stream(seed)


def test_many_uses_have_many_seeds():
    seeds = {stream(5, "use", i).initial_seed() for i in range(20_000)}
    assert len(seeds) == 20_000
    assert max(seeds) > 2**62  # all of the range
    stream(2**63 - 1)


def test_a_word_and_a_number_are_different_uses_and_objects_are_none():
    assert stream(1, "1").initial_seed() != stream(1, 1).initial_seed()
    with pytest.raises(ValueError, match="use"):
        stream(1, object())
