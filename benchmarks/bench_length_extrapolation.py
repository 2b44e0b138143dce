"""Time causal attention through a window, beside compiled flex_attention, local-attention and a band mask."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from common import main, rows
from local_attention import LocalAttention
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from kexue_lib.length_extrapolation import alibi_bias, alibi_slopes
from kexue_lib.window import window_attention

HEADS, DIM = 8, 64
FORWARD = [(1024, 128), (4096, 128), (4096, 256), (4096, 512), (16_384, 256)]
TRAINING = [(4096, 256), (16_384, 256)]
FLEX, LOCAL, BAND = "flex_attention, compiled", "local-attention", "torch, band mask"
BIAS = "ours, with a bias"
PEAK = """
import re, torch
from kexue_lib.window import window_attention
q, k, v = torch.randn(3, 1, 8, 65536, 64).unbind()
window_attention(q, k, v, window=256)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def memory():
    """Return the peak of the memory of a process that does 65536 positions, inputs and torch included."""
    if not Path("/proc/self/status").exists():
        return {}
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", PEAK], cwd=root, capture_output=True, text=True, check=True)
    return {"megabytes at 65536 positions, 8 heads, window 256": round(int(run.stdout) * 1024 / 1e6)}


def band_mask(length, window):
    """Return the mask that a user of torch writes."""
    place = torch.arange(length)
    return (place <= place[:, None]) & (place > place[:, None] - window)


def flex(length, window):
    """Return compiled flex_attention for a window; the list of its blocks is made here, and not timed."""
    mask = create_block_mask(
        lambda b, h, q, k: (k <= q) & (k > q - window), None, None, length, length, device="cpu"
    )
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def local(window):
    """Return local-attention for a window; as it counts, one key less."""
    peer = LocalAttention(
        window_size=window - 1,
        causal=True,
        look_backward=1,
        look_forward=0,
        exact_windowsize=True,
        use_rotary_pos_emb=False,
        autopad=True,
        dim=DIM,
    )
    return lambda q, k, v: peer(q[0], k[0], v[0])[None]


def products(window):
    """Return the multiplications of a window without anything else: what no program for it can beat."""

    def both(q, k, v):
        for start in range(0, q.shape[2], 64):
            first = max(0, start - window + 64)
            logits = torch.bmm(q[0, :, start : start + 64], k[0, :, first : first + window].mT)
            torch.bmm(logits, v[0, :, first : first + window])

    return both


def forward(functions, given):
    """Return functions without arguments, and without gradients."""

    def of(function):
        def run():
            with torch.no_grad():
                return function(*given)

        return run

    return {name: of(function) for name, function in functions.items()}


def training(functions, given, bias):
    """Return functions that go forward and back, and return the gradients of queries, keys and values."""
    used = [x.clone().requires_grad_() for x in given]
    direction = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1))

    def of(function, inputs):
        return lambda: torch.stack(torch.autograd.grad(function(*used), inputs, direction)[:3])

    return {
        name: of(function, [*used, bias] if name == BIAS else used) for name, function in functions.items()
    }


def difference(results, peer):
    """Say how far the results are apart, where they should be the same."""
    a, b = results["ours"], results[peer]
    if b is None or peer == BIAS:
        return ""
    return f"max. difference {float((a - b).abs().max()):.1e}"


def cases(rounds, threads, quick):
    """Yield the rows of all cases."""
    kinds = [("forward", *size) for size in FORWARD] + [("training", *size) for size in TRAINING]
    if quick:
        kinds = [kinds[0], kinds[2], kinds[5]]
    for kind, length, window in kinds:
        torch.compiler.reset()  # flex_attention for this length, and not for any
        g = torch.Generator().manual_seed(0)
        given = [torch.randn(1, HEADS, length, DIM, generator=g) for _ in range(3)]
        bias = alibi_bias(torch.arange(window), alibi_slopes(HEADS)).float()
        if kind == "training":
            bias.requires_grad_()

        def ours(q, k, v, window=window):
            return window_attention(q, k, v, window=window)

        def biased(q, k, v, window=window, bias=bias):
            return window_attention(q, k, v, window=window, bias=bias)

        def masked(q, k, v, length=length, window=window):
            return scaled_dot_product_attention(q, k, v, attn_mask=band_mask(length, window))

        functions = {"ours": ours, BIAS: biased, LOCAL: local(window)}
        goals = {BIAS: "at most 1.15 times as long"}
        if length <= 4096:  # for longer texts the mask takes gigabytes
            functions[BAND] = masked
        if kind == "training":
            goals |= {LOCAL: "3 times faster", BAND: "8 times faster"} if length == 4096 else {}
            timed = training(functions, given, bias)  # flex_attention has no gradients on a processor
        else:
            functions |= {FLEX: flex(length, window), "its products alone": products(window)}
            goals[FLEX] = f"{1.2 if window >= 256 else 1.1} times faster"
            goals |= {LOCAL: "5 times faster"} if length == 16_384 else {}
            timed = forward(functions, given)
        case = f"{kind}, {length} positions, window {window}"
        yield from rows(case, timed, rounds, threads, goals=goals, difference=difference)


if __name__ == "__main__":
    main(__file__, __doc__, cases, {"local-attention": version("local-attention")}, more=memory)
