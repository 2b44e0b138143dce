"""Window attention is masked attention, its gradients too, in time and memory that grow with the length."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kexue_lib import window as w
from kexue_lib.window import window_attention

SIZES = [(1, 1), (5, 1), (5, 3), (63, 64), (64, 64), (65, 2), (128, 65), (200, 10), (200, 70), (200, 300)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def inputs(length, window=None, *, batch=2, heads=3, dim=6, dtype=torch.float64, seed=0):
    """Return queries, keys, values, with a window also a bias."""
    g = rng(seed)
    shapes = [(batch, heads, length, dim)] * 3 + ([] if window is None else [(heads, window)])
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def by_definition(query, key, value, window, bias=None):
    """Softmax over the keys at distances 0 ... window - 1, from the formula and in full."""
    place = torch.arange(query.shape[2])
    distance = place[:, None] - place
    logits = query @ key.mT / math.sqrt(query.shape[-1])
    if bias is not None:
        logits = logits + bias.expand(query.shape[1], window)[:, distance.clamp(0, window - 1)]
    return logits.masked_fill((distance < 0) | (distance >= window), -math.inf).softmax(-1) @ value


@pytest.mark.parametrize(("length", "window"), SIZES)
def test_it_is_masked_attention_with_its_gradients(length, window):
    given = [x.requires_grad_() for x in inputs(length, window)]
    direction = torch.randn(2, 3, length, 6, generator=rng(1), dtype=torch.float64)
    for count in (3, 4):  # without and with a bias
        used = given[:count]
        ours = window_attention(*used[:3], window=window, bias=(*used[3:], None)[0])
        exact = by_definition(*used[:3], window, *used[3:])
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-13)
        pairs = (torch.autograd.grad(out, used, direction) for out in (ours, exact))
        for got, expected in zip(*pairs, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("window", [1, 64, 65, 70])
@pytest.mark.parametrize("length", [384, 500])
def test_blocks_done_together_are_blocks_done_one_after_the_other(monkeypatch, length, window):
    """Groups of one, of two with a smaller one at the end, and all; each head has a bias of its own."""
    q, k, v, bias = inputs(length, window)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)  # heads behind places, as a projection leaves them
    exact = by_definition(q, k, v, window, bias)
    for many in (1, 2, 64):
        monkeypatch.setattr(w, "MANY", many)
        ours = window_attention(q, k, v, window=window, bias=bias)
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-13)


def test_gradients_are_differences():
    q, k, v, b = (x.requires_grad_() for x in inputs(70, 5, batch=1, heads=2, dim=3))
    assert torch.autograd.gradcheck(
        lambda q, k, v, b: window_attention(q, k, v, window=5, bias=b), (q, k, v, b), fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda *x: window_attention(*x, window=66), (q, k, v), fast_mode=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6), (torch.bfloat16, 3e-2)]
)
def test_types_keep_their_precision(dtype, tolerance):
    """Against float64 at the same numbers; the gradient of a bias sums over a hundred queries."""
    used = [x.requires_grad_() for x in inputs(150, 20, dtype=dtype)]
    wide = [x.detach().double().requires_grad_() for x in used]
    out = window_attention(*used[:3], window=20, bias=used[3])
    exact = by_definition(*wide[:3], 20, wide[3])
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=tolerance)
    pairs = (torch.autograd.grad(o, x, torch.ones_like(o) / 9) for o, x in ((out, used), (exact, wide)))
    for got, expected in zip(*pairs, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_sums_over_many_queries_are_rounded_once_to_bfloat16():
    """Once is a relative error of 2**-9 / sqrt(3) = 0.0011 or a little more; sums in bfloat16 have 0.008."""
    used = [x.requires_grad_() for x in inputs(700, 300, batch=1, heads=1, dtype=torch.bfloat16)]
    wide = [x.detach().double().requires_grad_() for x in used]
    direction = inputs(700, batch=1, heads=1, dtype=torch.bfloat16, seed=7)[0]
    out = window_attention(*used[:3], window=300, bias=used[3])
    exact = by_definition(*wide[:3], 300, wide[3])
    pairs = (torch.autograd.grad(o, x, direction.to(o.dtype)) for o, x in ((out, used), (exact, wide)))
    for got, expected in zip(*pairs, strict=True):
        assert (got.double() - expected).norm() < 0.003 * expected.norm()


def test_a_bias_may_be_shared_by_heads_or_distances():
    q, k, v = inputs(100)
    for shape in ((), (1,), (7,), (1, 7), (3, 1), (3, 7)):
        bias = torch.randn(shape, generator=rng(2), dtype=torch.float64).requires_grad_()
        ours = window_attention(q, k, v, window=7, bias=bias)
        exact = by_definition(q, k, v, 7, bias)
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-13)
        got, expected = (torch.autograd.grad((o**2).sum(), bias)[0] for o in (ours, exact))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


def test_a_bias_of_minus_infinity_closes_a_distance():
    """A window of three whose middle is closed: only the query itself and the key two before it."""
    q, k, v = (x.requires_grad_() for x in inputs(80))
    bias = torch.tensor([0.0, -math.inf, 0.0], dtype=torch.float64)
    out = window_attention(q, k, v, window=3, bias=bias)
    (grad,) = torch.autograd.grad(out[:, :, 40].sum(), v)
    assert grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist() == [38, 40]


def test_other_layouts_in_memory_are_the_same():
    """As a model has them: split from one product, heads behind the positions, an expanded gradient."""
    whole = torch.randn(2, 90, 3 * 3 * 6, generator=rng(3), dtype=torch.float64, requires_grad=True)
    q, k, v = whole.unflatten(-1, (3, 3, 6)).permute(2, 0, 3, 1, 4)
    ours, exact = window_attention(q, k, v, window=9), by_definition(q, k, v, 9)
    got, expected = (torch.autograd.grad(o.sum(), whole, retain_graph=True)[0] for o in (ours, exact))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_a_query_sees_itself_and_the_keys_before_it():
    q, k, v = (x.requires_grad_() for x in inputs(200))
    out = window_attention(q, k, v, window=70)
    for place, first in ((30, 0), (69, 0), (70, 1), (199, 130)):
        for x in (k, v):
            (grad,) = torch.autograd.grad(out[:, :, place].pow(2).sum(), x, retain_graph=True)
            seen = grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
            assert seen == list(range(first, place + 1))


def test_large_logits_do_not_overflow():
    q, k, v = (x.requires_grad_() for x in inputs(130, dtype=torch.float32))
    out = window_attention(q * 1e4, k * 1e4, v, window=20)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


def test_a_second_derivative_is_refused():
    """Not taken for zero, as it would be by torch.autograd.function.once_differentiable here."""
    q, k, v = (x.requires_grad_() for x in inputs(10))
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(window_attention(q, k, v, window=3).sum(), q, create_graph=True)


def test_nothing_of_the_size_of_the_logits_is_kept():
    kept = []
    length, window, dim = 1000, 200, 4
    used = [x.requires_grad_() for x in inputs(length, window, batch=1, heads=1, dim=dim)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        window_attention(*used[:3], window=window, bias=used[3])
    assert sum(kept) <= 4 * length * dim + 2 * window


PEAK = """
import re, torch
from kexue_lib.window import window_attention

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

q, k, v = torch.randn(3, 1, 1, 65536, 64).requires_grad_().unbind()
window_attention(q[:, :, :1000], k[:, :, :1000], v[:, :, :1000], window=256).sum().backward()
before = peak()
out = window_attention(q, k, v, window=256)
print(peak() - before)
out.sum().backward()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of the memory")
def test_memory_grows_with_the_length_alone():
    """At 65536 positions an output takes 16 MB, and the logits of full attention would take 16 GB."""
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=root, capture_output=True, text=True, check=True, timeout=300
    )
    forward, both = map(float, run.stdout.split())
    assert forward < 16 + 8
    # The gradient of the output, three of the inputs, and the whole of these once more, from unbind.
    assert both < 16 * 9 + 8


# -- conventions of other programs -----------------------------------------------------------------


def test_window_of_torch_with_a_mask():
    q, k, v = inputs(150)
    place = torch.arange(150)
    band = (place <= place[:, None]) & (place > place[:, None] - 20)
    ours = window_attention(q, k, v, window=20)
    theirs = scaled_dot_product_attention(q, k, v, attn_mask=band)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    for wrong in (19, 21):
        assert (window_attention(q, k, v, window=wrong) - theirs).abs().max() > 1e-3


def test_window_of_local_attention_sees_one_more():
    local = pytest.importorskip("local_attention")
    q, k, v = inputs(150, dim=8, dtype=torch.float32)
    for window in (5, 20, 64):
        peer = local.LocalAttention(
            window_size=window,
            causal=True,
            look_backward=1,
            look_forward=0,
            exact_windowsize=True,
            use_rotary_pos_emb=False,
            autopad=True,
            dim=8,
        )
        theirs = peer(*(x.flatten(0, 1) for x in (q, k, v))).view_as(q)
        ours = window_attention(q, k, v, window=window + 1)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (window_attention(q, k, v, window=window) - theirs).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("with_bias", [False, True])
def test_window_of_flex_attention(with_bias):
    """What a GPU gets, here without its compiler."""
    q, k, v, bias = inputs(300, 130)
    bias = bias if with_bias else None
    theirs = w._flex(q, k, v, 130, bias, w.flex_attention)
    ours = window_attention(q, k, v, window=130, bias=bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("length", [1, 16, 17, 100])
@pytest.mark.parametrize("window", [1, 2, 16, 17, 18, 40, 100])
def test_flex_is_given_the_blocks_that_are_seen_and_no_others(length, window):
    block = 16
    mask = w._block_mask(length, window, "cpu", block)
    n = -(-length // block)
    place = torch.arange(n * block)
    band = (place <= place[:, None]) & (place > place[:, None] - window)
    seen = band.view(n, block, n, block).any(3).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), seen)


def test_a_gpu_gets_long_texts_from_flex_attention_if_that_can(monkeypatch):
    q, k, v, bias = inputs(20, 3)
    expected, calls = window_attention(q, k, v, window=3), []
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    monkeypatch.setattr(w, "_flex", lambda *given: calls.append(given) or torch.zeros(1))
    assert torch.equal(window_attention(q, k, v, window=3), expected)  # too short
    monkeypatch.setattr(w, "LONG", 20)
    assert torch.equal(window_attention(q, k, v, window=3), torch.zeros(1))
    assert calls[0][3] == 3 and len(calls) == 1
    window_attention(q, k, v, window=3, bias=bias)
    assert torch.equal(calls[1][4], bias)
    window_attention(q, k, v, window=3, bias=bias.requires_grad_())  # one that learns stays here
    assert len(calls) == 2

    def broken(*given):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(w, "_flex", broken)
    assert torch.equal(window_attention(q, k, v, window=3), expected)


# -- bad input -------------------------------------------------------------------------------------


def changed(**options):
    q, k, v = inputs(8)
    return {"query": q, "key": k, "value": v, "window": 3} | options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window = 0"),
        ({"window": -2}, "window = -2"),
        ({"window": True}, "window = True"),
        ({"window": 2.0}, "window = 2.0"),
        ({"window": None}, "window = None"),
        ({"query": torch.zeros(3, 8, 6)}, r"query = .*\(3, 8, 6\)"),
        ({"query": [1.0]}, "query = "),
        ({"query": torch.zeros(2, 3, 8, 6, dtype=torch.int64)}, "query = .*int64"),
        ({"query": torch.zeros(2, 3, 8, 6, dtype=torch.float16)}, "query = .*float16"),
        ({"query": torch.zeros(2, 3, 0, 6)}, "query = "),
        ({"key": torch.zeros(2, 3, 9, 6, dtype=torch.float64)}, r"key = .*\(2, 3, 9, 6\)"),
        ({"key": torch.zeros(2, 1, 8, 6, dtype=torch.float64)}, "key = "),
        ({"value": torch.zeros(2, 3, 8, 6)}, "value = .*float32"),
        ({"value": torch.zeros(2, 3, 8, 6, dtype=torch.float64, device="meta")}, "value = .*meta"),
        ({"bias": torch.zeros(3, 4)}, r"bias = .*\(3, 4\).*\(3, 3\)"),
        ({"bias": torch.zeros(2, 3)}, r"bias = "),
        ({"bias": torch.zeros(1, 3, 3)}, r"bias = "),
        ({"bias": torch.zeros(3, 3, dtype=torch.int64)}, "bias = .*int64"),
        ({"bias": torch.zeros(3, 3, device="meta")}, "bias = .*meta"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=words) as error:
        window_attention(**changed(**options))
    assert "\n" not in str(error.value)
