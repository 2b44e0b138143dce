"""Compiled loops do what Python does, also where nothing can be kept."""

import math

import numpy as np

from kexue_lib import compiled


def test_a_compiled_loop_is_the_loop():
    def total(values):
        result = 0.0
        for value in values:
            result += value * value
        return result

    values = np.arange(10.0)
    assert compiled.compiled(total)(values) == total(values) == 285


def test_machine_code_is_not_kept_where_no_folder_can_be_written(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.compiled(math.sqrt) is math.sqrt
