"""Parameters are checked all at once, strictly, with one message that names each."""

import math

import pytest

from kexue_lib.parameters import Choice, Integer, ParameterError, Real, resolve_device, validate


@pytest.mark.parametrize("value", [0, 11, 5.0, True, "5", None, math.nan])
def test_integers_are_strict(value):
    with pytest.raises(ParameterError, match="dim"):
        validate(dim=Integer(value, "dimension", 1, 10))


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.5", True])
def test_reals_are_finite_and_in_range(value):
    with pytest.raises(ParameterError, match="share"):
        validate(share=Real(value, "share", 0, 1))


def test_all_faults_come_in_one_message_and_rules_wait_for_sound_values():
    with pytest.raises(ParameterError, match="dim") as error:
        validate(
            dim=Integer("x", "d", 1, 9), mode=Choice("z", "m", "a", "b"), rules={"never asked": lambda: 1 / 0}
        )
    assert "mode = 'z'" in str(error.value)
    with pytest.raises(ParameterError, match="k must be smaller than n"):
        validate(k=Integer(5, "k", 1, 9), rules={"k must be smaller than n": lambda: False})


def test_edges_are_allowed_and_the_table_shows_them():
    table = validate(dim=Integer(10, "dimension <d>", 1, 10), share=Real(1, "share", 0, 1))
    assert table.rows()[0] == {
        "name": "dim", "value": 10, "type": "integer", "allowed": "1 … 10", "meaning": "dimension <d>",
    }  # fmt: skip
    html = table._repr_mimebundle_()["text/html"]
    assert "&lt;d&gt;" in html
    assert 'scope="row"' in html


def test_text_is_read_by_the_declared_kind_and_never_truncated():
    integer, real = Integer(1, "i", 0, 10**6), Real(1, "r", 0, 1)
    assert integer.parse("10_000") == 10_000
    assert integer.parse("5.5") == "5.5"
    assert real.parse("1e-3") == 1e-3
    assert not Integer(integer.parse("5.5"), "i", 0, 9).ok()


def test_device():
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
