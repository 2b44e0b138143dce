"""The guards at the door: one sentence, whatever comes."""

import math

import numpy as np
import pytest
import torch

from kexue_lib.arguments import integer, one_of, real, refuse, returned


class Wordy:
    def __repr__(self):
        return "two\nlines " + "x" * 200


def test_a_refusal_is_one_short_line():
    sentence = str(refuse("k", Wordy(), "an integer"))
    assert sentence.startswith("k = two lines xxx")
    assert "\n" not in sentence
    assert len(sentence) < 120


@pytest.mark.parametrize("value", [10**400, math.nan, math.inf, True, "1", None, 1j])
def test_a_real_is_a_finite_number(value):
    with pytest.raises(ValueError, match=r"x = .*: expected a finite number in"):
        real("x", value)


@pytest.mark.parametrize("value", [True, 5.0, "5", None])
def test_an_integer_is_one(value):
    with pytest.raises(ValueError, match=r"k = .*: expected an integer from 1 to 9"):
        integer("k", value, 1, 9)


@pytest.mark.parametrize(
    ("slip", "words", "meant"),
    [
        ("hubnes", ["sector", "hubness"], "hubness"),
        ("dmi", ["dim", "seed", "device"], "dim"),
        ("FULL", ["quick", "full"], "full"),
        ("gpu", ["auto", "cpu", "cuda"], None),
        ("lion", ["sde", "ddpm"], None),
        ("", ["sde", "ddpm"], None),
        (None, ["sde", "ddpm"], None),
    ],
)
def test_a_slip_is_recognized_and_a_different_word_is_not(slip, words, meant):
    sentence = one_of(slip, words)
    assert sentence.startswith("one of " + ", ".join(words))
    assert sentence.endswith(f"did you mean {meant}?") == (meant is not None)
    assert ("did you mean" in sentence) == (meant is not None)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.zeros(3), r"shape of what model returns = \(3,\): expected \(2,\)$"),
        (np.zeros(2), "shape of what model returns = array"),
        (None, "shape of what model returns = None"),
        (torch.tensor([1.0, math.inf]), "a value of model = inf: expected finite numbers$"),
        (torch.tensor([math.nan, 1.0], requires_grad=True), "a value of model = nan"),
    ],
)
def test_what_a_function_returned_is_looked_at(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        returned("model", value, torch.ones(2))


def test_what_is_right_comes_back_itself_and_numbers_are_looked_at_on_demand():
    value = torch.tensor([1.0, math.inf])
    assert returned("model", value, torch.ones(2), finite=False) is value
    assert returned("model", value[:1], torch.ones(1)).tolist() == [1]
