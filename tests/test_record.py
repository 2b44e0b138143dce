"""The record holds finite numbers with a meaning, and survives the journey through JSON."""

import json
import math
from xml.etree import ElementTree

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


def test_the_table_shows_every_cell():
    record = Record({"a": (1 / 3, 0.0123, "a < b"), "b": (7, "seven")})
    root = ElementTree.fromstring(record._repr_mimebundle_()["text/html"])
    assert [cell.text for cell in root.iter("td")] == ["0.333333", "0.012", "a < b", "7", None, "seven"]
    heads = ["".join(cell.itertext()) for cell in root.iter("th")]
    assert heads == ["name", "value", "±", "meaning", "a", "b"]


@pytest.mark.parametrize("entry", [(1, 2, 3, "x"), (1, -2, "x"), (10**400, "x"), (np.ones(2), "x")])
def test_odd_entries_are_refused(entry):
    with pytest.raises(ValueError, match="bad"):
        Record({"bad": entry})
