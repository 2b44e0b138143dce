"""The record holds finite numbers with a meaning, and survives the journey through JSON."""

import json
import math

import numpy as np
import pytest
import torch

from kexue_lib.record import MIME, Record


def test_numbers_of_all_kinds_become_plain():
    record = Record({"a": (np.int64(3), "three"), "b": (torch.tensor(0.5), 0.1, "half"), "c": (1.5, "x")})
    assert json.loads(json.dumps(record._repr_mimebundle_()[MIME])) == {
        "a": {"value": 3, "error": None, "meaning": "three"},
        "b": {"value": 0.5, "error": 0.1, "meaning": "half"},
        "c": {"value": 1.5, "error": None, "meaning": "x"},
    }


@pytest.mark.parametrize(
    "entry", [(math.nan, "x"), (math.inf, "x"), (True, "x"), ("1", "x"), (1,), 1, (1, ""), (1, math.nan, "x")]
)
def test_what_is_no_number_or_has_no_meaning_is_refused(entry):
    with pytest.raises(ValueError, match="bad"):
        Record({"bad": entry})


def test_names_are_identifiers():
    with pytest.raises(ValueError, match="identifier"):
        Record({"a b": (1, "x")})
