"""Parameters are checked all at once, strictly, with one message that names each."""

import dataclasses
import math
import subprocess
import sys

import pytest

from kexue_lib.arguments import integer
from kexue_lib.parameters import Choice, Integer, ParameterError, Real, resolve_device, validate


@pytest.mark.parametrize("value", [0, 11, 5.0, True, "5", None, math.nan])
def test_integers_are_strict(value):
    with pytest.raises(ParameterError, match="dim"):
        validate(dim=Integer(value, "dimension", 1, 10))


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.5", True, 10**400])
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


def test_a_refusal_says_what_the_guards_of_the_library_say():
    with pytest.raises(ValueError) as guard:
        integer("dim", 0, 2, 2048)
    with pytest.raises(ParameterError) as refusal:
        validate(dim=Integer(0, "dimension", 2, 2048))
    assert str(refusal.value) == str(guard.value) == "dim = 0: expected an integer from 2 to 2048"
    with pytest.raises(ParameterError, match=r"^share = 2: expected a finite number in \[0, 1\]$"):
        validate(share=Real(2, "share", 0, 1))
    with pytest.raises(ParameterError, match=r"expected one of quick, full; did you mean full\?$"):
        validate(profile=Choice("ful", "size", "quick", "full"))


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Integer(3, "an empty range", 9, 1),
        lambda: Integer(3, "no integers", 1.0, 9.5),
        lambda: Integer(3, "a flag", False, 9),
        lambda: Real(0.5, "a hole", 0, math.nan),
        lambda: Real(0.5, "words", "0", "1"),
        lambda: Choice("a", "nothing to choose from"),
        lambda: Choice("a", "twice the same", "a", "a"),
        lambda: Choice("a", "no word", "a", ""),
        lambda: Choice("1", "no text", 1, 2),
        lambda: Integer(3, " ", 1, 9),
        lambda: Real(3, None, 1, 9),
        lambda: validate(dim=64),
    ],
)
def test_what_an_author_declares_wrongly_is_refused_even_with_a_good_value(declare):
    with pytest.raises(ValueError, match="expected"):
        declare()


def test_the_three_kinds_are_alike():
    mode = Choice("a", "mode", "a", "b")
    assert mode == Choice("a", "mode", "a", "b")
    assert mode != Choice("a", "mode", "a", "c")
    assert len({mode, Choice("a", "mode", "a", "b")}) == 1
    assert repr(mode) == "Choice(value='a', meaning='mode', options=('a', 'b'))"
    for one in (mode, Integer(1, "i", 0, 1), Real(1, "r", 0, 1)):
        assert [f.name for f in dataclasses.fields(one)][:2] == ["value", "meaning"]
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.value = 0


def test_text_is_read_by_the_declared_kind_and_never_truncated():
    integer, real = Integer(1, "i", 0, 10**6), Real(1, "r", 0, 1)
    assert [integer.parse(text) for text in ("10_000", "+5", "-5", "007")] == [10_000, 5, -5, 7]
    assert [real.parse(text) for text in ("1e-3", "+.5", "1")] == [1e-3, 0.5, 1.0]
    assert type(real.parse("1")) is float
    for text in ("5.5", "1e3", "0x10", "", " 5", "5 ", "5\n", "1__0", "٣", "５", "5j", "9" * 5000):
        assert integer.parse(text) == text
        assert not Integer(integer.parse(text), "i", 0, 10**6).ok()
    for text in ("", " 1", "½", "１", "0x1p-2", "0,5"):
        assert real.parse(text) == text
    assert not any(Real(real.parse(text), "r", 0, 1).ok() for text in ("nan", "inf", "-1", "9" * 400))
    assert Choice("a", "c", "a", "b").parse(" a") == " a"


def test_device():
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("word", ["gpu", "CUDA", "cuda:0", "", None])
def test_any_other_device_is_refused(word):
    with pytest.raises(ParameterError, match=r"device = .*: expected one of auto, cpu, cuda"):
        resolve_device(word)


def test_the_cpu_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from kexue_lib import parameters as p"
    subprocess.run([sys.executable, "-c", f"{code}; p.resolve_device('cpu')"], check=True)
