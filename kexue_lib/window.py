r"""Causal attention through a window, with its gradients: time O(length x window), memory O(length).

A query sees itself and the window - 1 keys before it. Queries are taken in blocks of 64: a block sees at
most ``64 + window - 1`` keys, and nothing of the size length x window is ever kept, because the backward pass
computes each block's probabilities anew.
"""

import logging
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from kexue_lib.arguments import integer, refuse

BLOCK = 64
MANY = 64  # blocks that are done in one call: more take more memory, and no less time
LONG = 2048  # on a GPU, shorter texts are done before a compiler has begun
_log = logging.getLogger(__name__)
FLOATS = (torch.float64, torch.float32, torch.bfloat16)


def window_attention(
    query: Tensor, key: Tensor, value: Tensor, *, window: int, bias: Tensor | None = None
) -> Tensor:
    r"""Causal attention in which each query sees itself and the ``window - 1`` keys before it.

    .. math::
        o_m = \sum_{k=0}^{\min(w-1,\,m)} p_{m,k}\, v_{m-k}, \qquad
        p_{m,k} \propto \exp\Bigl(\frac{q_m \cdot k_{m-k}}{\sqrt d} + b_k\Bigr)

    Parameters
    ----------
    query, key, value : tensors of shape (batch, heads, length, dim)
        Of one shape, float64, float32 or bfloat16, on one device.
    window : int
        How many keys a query sees, itself included, >= 1. (Other programs count differently: with
        ``exact_windowsize`` of local-attention, for example, a window of w lets a query see w + 1 keys.)
    bias : tensor, optional
        Broadcasts to (heads, window); entry j is added to the logits at distance j.

    Returns
    -------
    tensor of shape (batch, heads, length, dim)
        Its gradients with respect to all four inputs exist, but cannot be differentiated again.

    Raises
    ------
    ValueError
        If shapes, types or devices do not fit, or the window is not a positive integer.
    """
    window = integer("window", window, 1)
    if not isinstance(query, Tensor) or query.ndim != 4 or 0 in query.shape or query.dtype not in FLOATS:
        shown = f"{query.dtype} {tuple(query.shape)}" if isinstance(query, Tensor) else query
        raise refuse("query", shown, "shape (batch, heads, length, dim), float64, float32 or bfloat16")
    for name, other in (("key", key), ("value", value)):
        if other.shape != query.shape or other.dtype != query.dtype or other.device != query.device:
            shown = f"{other.dtype} {tuple(other.shape)} on {other.device}"
            raise refuse(name, shown, f"the query's {query.dtype} {tuple(query.shape)} on {query.device}")
    heads, length = query.shape[1:3]
    if bias is not None:
        fits = bias.ndim <= 2 and all(
            a in (1, b) for a, b in zip(reversed(bias.shape), (window, heads), strict=False)
        )
        if not fits or not bias.is_floating_point() or bias.device != query.device:
            shown = f"{bias.dtype} {tuple(bias.shape)} on {bias.device}"
            raise refuse(
                "bias", shown, f"real numbers that broadcast to ({heads}, {window}) on {query.device}"
            )
        # No query looks back further than to the first key.
        bias = bias.to(query.dtype).expand(heads, window)[:, :length]
    window = min(window, length)
    if query.is_cuda and length >= LONG and not (bias is not None and bias.requires_grad):
        # Without a compiler, or for a type or width that it does not know, our blocks serve as well.
        try:
            return _flex(query, key, value, window, bias, _compiled_flex())
        except Exception as error:
            _log.warning("window_attention: blocks, as flex_attention failed (%s)", error)
    out: Tensor = _Window.apply(query, key, value, window, bias)  # type: ignore[no-untyped-call]
    return out


def _blocks(length: int, window: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the queries of each block, the keys they see, and which columns of the mask these are."""
    for start in range(0, length, BLOCK):
        stop, first = min(start + BLOCK, length), max(0, start - window + 1)
        before = start - window + 1
        yield slice(start, stop), slice(first, stop), slice(first - before, stop - before)


def _full_blocks(length: int, window: int) -> range:
    """Return where the blocks begin that are whole and see all their keys."""
    return range(-(-(window - 1) // BLOCK) * BLOCK, length // BLOCK * BLOCK, BLOCK)


def _overlapping(x: Tensor, first: int, size: int, count: int) -> Tensor:
    """Return a view (heads, count, size, dim): parts of x (heads, length, dim), each BLOCK after the last."""
    head, place, unit = x.stride()
    shape, strides = (len(x), count, size, x.shape[-1]), (head, BLOCK * place, place, unit)
    return x.as_strided(shape, strides, x.storage_offset() + first * place)


def _mask(window: int, bias: Tensor | None, like: Tensor) -> Tensor:
    """Return (heads or 1, BLOCK, BLOCK + window - 1): what is added to the logits of any block.

    Query a of a block sees key b, counted from the first that the block sees, at distance a + window - 1 - b.
    """
    row = like.new_zeros(1, window) if bias is None else bias.detach()
    # Each row is the one before, moved by one: "entries, then BLOCK times -inf" again and again, read in rows
    # that are one shorter.
    row = pad(row.flip(-1), (0, BLOCK), value=-math.inf)
    return row.repeat(1, BLOCK)[:, : BLOCK * (BLOCK + window - 1)].view(-1, BLOCK, BLOCK + window - 1)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, window: int, bias: Tensor | None
    ) -> Tensor:
        # Four axes: with three, torch would leave its fast kernel.
        mask, out = _mask(window, bias, query)[None], torch.empty_like(query)
        full = _full_blocks(query.shape[2], window)
        for q, k, columns in _blocks(query.shape[2], window):
            if full.start <= q.start < full.stop:
                continue
            rows = mask[:, :, : q.stop - q.start, columns]
            out[:, :, q] = scaled_dot_product_attention(
                query[:, :, q], key[:, :, k], value[:, :, k], attn_mask=rows
            )
        # The others many at once, head by head: a head's part of the mask is read once, and stays near.
        for start in full[::MANY]:
            count = min(MANY, (full.stop - start) // BLOCK)
            for x, k, v, o in zip(query, key, value, out, strict=True):
                _overlapping(o, start, BLOCK, count).copy_(
                    scaled_dot_product_attention(
                        _overlapping(x, start, BLOCK, count),
                        _overlapping(k, start - window + 1, mask.shape[-1], count),
                        _overlapping(v, start - window + 1, mask.shape[-1], count),
                        attn_mask=mask.transpose(0, 1),
                    )
                )
        ctx.save_for_backward(query, key, value, out, *(() if bias is None else (bias,)))
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # with create_graph=True; otherwise they would silently count as constant
            raise RuntimeError("window_attention: its gradients cannot be differentiated again")
        query, key, value, out, *rest = ctx.saved_tensors
        (batch, heads, length, dim), window = query.shape, ctx.window
        # Sums over many keys, and differences: bfloat16 is too coarse for them.
        work = torch.float32 if query.dtype == torch.bfloat16 else query.dtype
        mask = _mask(window, rest[0] if rest else None, query).to(work)
        flat = (x.reshape(batch * heads, length, dim) for x in (query, key, value, out, grad))
        query, key, value, out, grad = flat
        d_query, d_key, d_value = (torch.zeros_like(query, dtype=work) for _ in range(3))
        d_mask = mask.new_zeros(heads, *mask.shape[1:]) if ctx.needs_input_grad[4] else None
        for q, k, columns in _blocks(length, window):
            size = (batch, heads, q.stop - q.start, k.stop - k.start)
            ours, theirs, g = query[:, q].to(work) / math.sqrt(dim), key[:, k].to(work), grad[:, q].to(work)
            logits = torch.bmm(ours, theirs.mT).view(size)
            p = logits.add_(mask[:, : size[2], columns]).softmax(-1).flatten(0, 1)
            d_value[:, k].baddbmm_(p.mT, g)
            # The softmax's derivative is p * (d_p - sum of p d_p); the sum is the output times its gradient.
            mean = (g * out[:, q]).sum(-1, keepdim=True)
            d_logits = torch.bmm(g, value[:, k].to(work).mT).sub_(mean).mul_(p)
            d_key[:, k].baddbmm_(d_logits.mT, ours)
            torch.bmm(d_logits, theirs, out=d_query[:, q])
            if d_mask is not None:
                for d in d_logits.view(size):
                    d_mask[:, : size[2], columns] += d
        d_query /= math.sqrt(dim)
        d_bias = None
        if d_mask is not None:  # sums along the diagonals, by the way of _mask backwards
            rows = pad(d_mask.flatten(1), (0, BLOCK)).view(heads, BLOCK, BLOCK + window)
            d_bias = rows.sum(1)[:, :window].flip(-1).to(rest[0].dtype)
        shape, dtype = (batch, heads, length, dim), ctx.saved_tensors[0].dtype
        grads = (d.view(shape).to(dtype) for d in (d_query, d_key, d_value))
        return *grads, None, d_bias


# -- on a GPU ------------------------------------------------------------------------------------


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)


def _block_mask(length: int, window: int, device: torch.device | str, block: int = 128) -> BlockMask:
    """Return which blocks of keys a block of queries sees, without the table of length x length."""

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k > q - window)

    last = torch.arange(-(-length // block), device=device, dtype=torch.int32)
    first = (last * block - window + 1).clamp_min(0) // block
    counts, numbers = last - first + 1, (first[:, None] + last).clamp_max(len(last) - 1)
    return BlockMask.from_kv_blocks(
        counts[None, None], numbers[None, None], BLOCK_SIZE=block, mask_mod=sees, seq_lengths=(length, length)
    )


def _flex(
    query: Tensor, key: Tensor, value: Tensor, window: int, bias: Tensor | None, flex: Callable[..., Tensor]
) -> Tensor:
    """Give the same to flex_attention."""

    def added(logit: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return logit if bias is None else logit + bias[head, (q - k).clamp(0, window - 1)]

    mask = _block_mask(query.shape[2], window, query.device)
    return flex(query, key, value, score_mod=None if bias is None else added, block_mask=mask)
