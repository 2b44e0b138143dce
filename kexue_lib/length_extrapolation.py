r"""Longer than in training: how attention knows positions, what it sees, and a small GPT to try it on.

A *distance* is the position of a query minus that of a key, in a tensor of any shape; its sign does not
matter. A *bias* is added to the logits of the attention. Numbers made from integers are float64. Masks are
True where a query (row) sees a key (column).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, gelu, rms_norm, scaled_dot_product_attention

from kexue_lib.arguments import integer, one_of, real, refuse
from kexue_lib.window import window_attention

PerHead = float | Tensor

# -- biases by distance --------------------------------------------------------------------------


def alibi_slopes(heads: int) -> Tensor:
    """Return the slopes of ALiBi's heads, float64 (heads,), by the rule that was published for them.

    For a power of two, ``2**(-8 * i / heads)`` for i = 1 ... heads. For other numbers the slopes of the
    largest power of two below, then every second of the slopes for twice that power.

    Raises
    ------
    ValueError
        If heads is not a positive integer.

    Examples
    --------
    >>> [math.log2(slope) for slope in alibi_slopes(3)]
    [-4.0, -8.0, -2.0]
    """
    heads = integer("heads", heads, 1)
    power = 1 << (heads.bit_length() - 1)
    exponents = torch.cat([torch.arange(1, power + 1) / power, torch.arange(1, 2 * power, 2) / (2 * power)])
    return torch.exp2(-8 * exponents[:heads].double())


def alibi_bias(distance: Tensor, slopes: PerHead) -> Tensor:
    r"""Return :math:`-\lambda|k|`, the bias of Press, Smith and Lewis (def-length-alibi).

    Parameters
    ----------
    distance : tensor of any shape
    slopes : float or tensor (heads,), > 0
        With a tensor the result has a first axis for the heads.

    Raises
    ------
    ValueError
        If a distance is not finite or a slope is not a positive number.
    """
    k = _distances(distance)
    return -_per_head("slopes", slopes, k) * k


def kerple_log_bias(distance: Tensor, r1: PerHead, r2: PerHead) -> Tensor:
    r"""Return :math:`-r_1\ln(1+r_2|k|)`, the logarithmic kernel of KERPLE (def-length-kerple).

    Parameters and errors are those of `alibi_bias`: `r1` and `r2` are floats or tensors (heads,), > 0.
    """
    k = _distances(distance)
    return -_per_head("r1", r1, k) * torch.log1p(_per_head("r2", r2, k) * k)


def kerple_power_bias(distance: Tensor, r1: PerHead, r2: PerHead) -> Tensor:
    r"""Return :math:`-r_1|k|^{r_2}`, the power kernel of KERPLE (def-length-kerple).

    Parameters and errors are those of `alibi_bias`; `r2` is in (0, 2], where the kernel is conditionally
    positive definite.
    """
    k = _distances(distance)
    return -_per_head("r1", r1, k) * k ** _per_head("r2", r2, k, high=2)


def sandwich_bias(distance: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    r"""Return Sandwich, the product of two sinusoidal vectors (eq-length-sandwich-product).

    .. math:: p_m\cdot p_n=\sum_{i<d/2}\cos(k\,b^{-2i/d}), \qquad k=m-n

    Raises
    ------
    ValueError
        If a distance is not finite, dim is not an even number >= 2, or base is not above 1.
    """
    k = _distances(distance)
    total = torch.zeros_like(k)
    for frequency in _frequencies(dim, base).tolist():  # one by one: no axis more than the distances have
        total += torch.cos(frequency * k)
    return total


def t5_bucket(distance: Tensor, buckets: int = 32, farthest: int = 128) -> Tensor:
    """Return which of T5's learned biases belongs to a distance >= 0, int64.

    Half of the buckets hold one distance each, the others intervals that grow geometrically up to the last,
    which begins before `farthest` and holds all that is beyond.

    Raises
    ------
    ValueError
        If a distance is negative or not an integer, buckets is not an even number >= 4, or farthest is not
        an integer above buckets / 2.
    """
    if not isinstance(distance, Tensor) or distance.is_floating_point() or bool((distance < 0).any()):
        raise refuse("distance", distance, "a tensor of integers >= 0: keys do not come after the query")
    exact = integer("buckets", buckets, 4) // 2
    if buckets % 2:
        raise refuse("buckets", buckets, "an even number")
    growth = math.log(integer("farthest", farthest, exact + 1) / exact)
    ratio = (distance.double() / exact).clamp_min(1).log() / growth
    # A distance at the very beginning of an interval must not fall below it by rounding.
    wide = exact + ((buckets - exact) * ratio + 1e-9).long()
    return torch.where(distance < exact, distance.long(), wide.clamp_max(buckets - 1))


# -- functions of the positions ------------------------------------------------------------------


def sinusoidal(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    r"""Return sines (columns 2i) and cosines (2i + 1) of :math:`n\,b^{-2i/d}`, float64 (n, dim).

    Raises
    ------
    ValueError
        If positions do not increase from 0 or more, dim is not an even number >= 2, or base is not above 1.
    """
    angles = _positions("positions", positions)[:, None] * _frequencies(dim, base, positions)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def rotary(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    r"""Turn the pairs (2i, 2i + 1) of queries or keys by the angles :math:`n\,b^{-2i/d}` (eq-length-rope).

    Parameters
    ----------
    x : tensor of shape (..., n, dim)
    positions : tensor (n,)
        Strictly increasing, >= 0.

    Returns
    -------
    tensor of the shape and type of x; computed at least in float32, angles in float64

    Raises
    ------
    ValueError
        If dim is odd, the number of positions is not n, or positions do not increase from 0 or more.
    """
    _vectors("x", x, positions)
    angles = _positions("positions", positions)[:, None] * _frequencies(x.shape[-1], base, positions)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    # A pair is a complex number: to turn it is to multiply it.
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).to(wide, copy=True).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles).to(pairs.dtype)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def xpos_decay(dim: int, gamma: float = 0.4, scale_base: float = 512.0) -> Tensor:
    r"""Return the decays of XPOS's pairs, float64 (dim/2,).

    .. math::
        \xi_i = \left(\frac{2i/d+\gamma}{1+\gamma}\right)^{1/B}, \qquad i = 0, \dots, d/2 - 1,

    with the paper's gamma, and B = `scale_base`.

    Raises
    ------
    ValueError
        If dim is not an even number >= 2, or gamma or scale_base is not positive.
    """
    share = torch.arange(_even("dim", dim) // 2).double() * 2 / dim
    gamma = real("gamma", gamma, 0, open_low=True)
    return ((share + gamma) / (1 + gamma)) ** (1 / real("scale_base", scale_base, 0, open_low=True))


def xpos_scores(
    query: Tensor,
    key: Tensor,
    query_positions: Tensor,
    key_positions: Tensor,
    *,
    xi: PerHead,
    base: float = 10000.0,
) -> Tensor:
    r"""Return the logits of XPOS, which shrink by :math:`\xi^{m-n}` with the distance (eq-length-xpos).

    .. math::
        s_{m,n} = \sum_i \xi_i^{m-n}\,
        \langle R_{m\theta_i} q_m^{(i)},\, R_{n\theta_i} k_n^{(i)}\rangle
        \quad (n \le m), \qquad s_{m,n} = -\infty \quad (n > m)

    The factors of queries and keys, :math:`\xi^m` and :math:`\xi^{-n}`, leave every range of numbers. Only
    their product is needed: near queries take their positions from the first of them, and so do the keys.

    Parameters
    ----------
    query, key : tensors of shapes (..., n, dim) and (..., m, dim)
    query_positions, key_positions : tensors (n,) and (m,)
        Strictly increasing, >= 0.
    xi : float or tensor (dim/2,)
        In (0, 1]: one decay, as in the post, or one for each pair, as from `xpos_decay`.

    Returns
    -------
    tensor of shape (..., n, m)

    Raises
    ------
    ValueError
        If shapes do not fit, dim is odd, positions do not increase from 0 or more, or xi is outside (0, 1].
    """
    _vectors("query", query, query_positions)
    _vectors("key", key, key_positions)
    if query.shape[-1] != key.shape[-1]:
        raise refuse("key", tuple(key.shape), f"vectors of the query's width {query.shape[-1]}")
    pairs = query.shape[-1] // 2
    rates = torch.as_tensor(xi, dtype=torch.float64, device=query.device)
    if rates.shape not in ((), (pairs,)) or not bool(((rates > 0) & (rates <= 1)).all()):
        raise refuse("xi", xi, f"a number in (0, 1], or {pairs} of them, one for each pair")
    rates = rates.log().expand(pairs).repeat_interleave(2)
    turned, keys = rotary(query, query_positions, base), rotary(key, key_positions, base)
    m, n = query_positions.double(), key_positions.double()
    # Within a span no factor is above 1e15, so that nothing overflows, and nothing that matters vanishes.
    span = float(15 * math.log(10) / -rates.min().clamp_max(-1e-300))
    groups = ((m - m[0]) / span).floor() if span >= 1 else m
    rows = []
    for group in groups.unique_consecutive():
        mine = groups == group
        origin = m[mine][0]
        ours = turned[..., mine, :] * (rates * (m[mine, None] - origin)).exp().to(query)
        theirs = keys * (rates * (n[:, None] - origin).clamp_max(span).neg()).exp().to(key)
        rows.append(ours @ theirs.mT)
    return torch.cat(rows, -2).masked_fill(n > m[:, None], -math.inf)


# -- entropy and masks ---------------------------------------------------------------------------


def attention_entropy(logits: Tensor) -> Tensor:
    r"""Return the entropy of a softmax on the last axis, :math:`-\sum p\ln p`, in nats (def-length-entropy).

    Parameters
    ----------
    logits : tensor of shape (..., n)
        ``-inf`` where a key is not seen.

    Raises
    ------
    ValueError
        If there is NaN or infinity, or a query that sees nothing.
    """
    entropy: Tensor = torch.special.entr(logits.softmax(-1)).sum(-1)
    if bool(entropy.isnan().any()):
        raise refuse("logits", "NaN, infinity or nothing to see", "in every row a number, others may be -inf")
    return entropy


def log_scale(count: int | Tensor, train_length: int) -> Tensor:
    r"""Return :math:`\ln n/\ln n_0`, by which ln n scaling multiplies logits of n keys (eq-length-scaled).

    Parameters
    ----------
    count : int or tensor
        Numbers of keys that are seen, >= 1: ``mask.sum(1)``, for example.
    train_length : int
        The number at which nothing changes, >= 2.

    Raises
    ------
    ValueError
        If a count is below 1 or train_length below 2.
    """
    counts = torch.as_tensor(count)
    if counts.numel() == 0 or not bool((counts >= 1).all()):
        raise refuse("count", count, "numbers of keys, at least 1")
    return counts.double().log() / math.log(integer("train_length", train_length, 2))


def causal_mask(length: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the mask (length, length) by which a query sees itself and all keys before it."""
    length = integer("length", length, 1)
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def window_mask(length: int, window: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the mask (length, length) by which a query sees itself and the window - 1 keys before it."""
    return causal_mask(length, device=device).triu(1 - integer("window", window, 1))


def sink_mask(length: int, window: int, sinks: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return `window_mask` to which the first `sinks` keys are added, for every query after them."""
    sunk = causal_mask(length, device=device)
    sunk[:, integer("sinks", sinks, 0) :] = False
    return sunk | window_mask(length, window, device=device)


# -- a small GPT ---------------------------------------------------------------------------------

ENCODINGS = (
    "none",
    "learned",
    "sinusoidal",
    "rope",
    "xpos",
    "alibi",
    "kerple_log",
    "kerple_power",
    "sandwich",
    "t5",
)


@dataclass(frozen=True)
class GPT:
    """A transformer that predicts the next symbol: what it knows of positions, its heads, its weights.

    ``weights`` has ``embed`` (vocabulary, dim) and ``head`` (dim, vocabulary), for each layer ``0.qkv``
    (dim, 3 dim), ``0.out`` (dim, dim), ``0.up`` (dim, 4 dim), ``0.down`` (4 dim, dim), and what its encoding
    learns.
    """

    encoding: str
    heads: int
    weights: dict[str, Tensor]

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return sum(name.endswith(".qkv") for name in self.weights)


def init_gpt(
    encoding: str,
    *,
    layers: int = 2,
    dim: int = 64,
    heads: int = 4,
    places: int = 1024,
    vocabulary: int = 256,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """Return a model with random weights, on the generator's device.

    Parameters
    ----------
    encoding : one of ENCODINGS
        Some are learned: a vector for each place ("learned"), a bias for each bucket and head ("t5"), r1 and
        r2 for each head ("kerple_log", "kerple_power"). Slopes of "alibi", and factors of "sandwich", are
        `alibi_slopes`. Layers share them.
    places : int
        Positions for which "learned" has a vector; those beyond the training length are never trained.

    Raises
    ------
    ValueError
        If the encoding is unknown, a size is not a positive integer, or dim / heads is not an even integer.
    """
    if encoding not in ENCODINGS:
        raise refuse("encoding", encoding, one_of(encoding, ENCODINGS))
    layers, heads = integer("layers", layers, 1), integer("heads", heads, 1)
    if integer("dim", dim, 1) % (2 * heads):
        raise refuse("dim", dim, f"a multiple of {2 * heads}, so that each of {heads} heads has pairs")
    sizes = {"embed": (integer("vocabulary", vocabulary, 1), dim)}
    for i in range(layers):
        sizes |= {f"{i}.qkv": (dim, 3 * dim), f"{i}.out": (dim, dim)}
        sizes |= {f"{i}.up": (dim, 4 * dim), f"{i}.down": (4 * dim, dim)}
    sizes["head"] = (dim, vocabulary)
    if encoding == "learned":
        sizes["places"] = (integer("places", places, 1), dim)
    weights = {
        name: torch.randn(size, generator=generator, dtype=dtype, device=generator.device)
        * (0.5 if name in ("embed", "places") else size[0] ** -0.5)
        for name, size in sizes.items()
    }
    zeros = weights["embed"].new_zeros
    if encoding == "t5":
        weights["buckets"] = zeros(heads, 32)
    elif encoding.startswith("kerple"):
        weights |= {"r1": zeros(heads), "r2": zeros(heads)}
    return GPT(encoding, heads, weights)


def gpt_logits(
    model: GPT,
    tokens: Tensor,
    mask: Tensor | None = None,
    *,
    window: int | None = None,
    scale: Tensor | None = None,
    last: int | None = None,
) -> Tensor:
    """Return the logits of the next symbol after each position.

    Parameters
    ----------
    tokens : int64 tensor of shape (batch, length)
    mask : bool tensor (length, length), optional
        What each query sees; `causal_mask` if left out.
    window : int, optional
        Instead of a mask: the same as ``window_mask(length, window)``, up to rounding, by `window_attention`.
    scale : tensor (length,), optional
        Factors of the logits of each query's attention, `log_scale` for example.
    last : int, optional
        Return the logits of so many last positions only.

    Returns
    -------
    tensor of shape (batch, length or last, vocabulary)

    Raises
    ------
    ValueError
        If tokens are not integers of the vocabulary or more than there are places, shapes do not fit, a query
        sees nothing, or both a mask and a window are given.
    """
    length = _tokens(model, tokens)
    scaled = _scaling(scale, length)
    if window is not None:
        if mask is not None:
            raise refuse("window", window, "None where a mask is given")
        width = min(integer("window", window, 1), length)
        bias = _bias(model, width)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return window_attention(scaled(q), k, v, window=width, bias=bias)

    else:
        plain = mask is None and _bias(model, 1) is None
        added = None if plain else _dense(model, mask, length)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return scaled_dot_product_attention(scaled(q), k, v, attn_mask=added, is_causal=plain)

    x = _run(model, tokens, attend)
    return (x if last is None else x[:, -integer("last", last, 1, length) :]) @ model.weights["head"]


def gpt_attention(
    model: GPT, tokens: Tensor, mask: Tensor | None = None, *, scale: Tensor | None = None
) -> Tensor:
    """Return the logits of the attention in every layer and head, -inf where a key is not seen.

    Parameters and errors are those of `gpt_logits`.

    Returns
    -------
    tensor of shape (layers, batch, heads, length, length)
    """
    length = _tokens(model, tokens)
    scaled = _scaling(scale, length)
    added = _dense(model, mask, length)
    kept = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append(scaled(q) @ k.mT / math.sqrt(q.shape[-1]) + added)
        return kept[-1].softmax(-1) @ v

    _run(model, tokens, attend)
    return torch.stack(kept)


def _run(model: GPT, tokens: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Return what the last layer hands to the head, (batch, length, dim)."""
    w, length = model.weights, tokens.shape[1]
    dim = w["embed"].shape[1]
    positions = torch.arange(length, device=tokens.device)
    x = w["embed"][tokens]
    if model.encoding == "learned":
        x = x + w["places"][:length]
    elif model.encoding == "sinusoidal":
        x = x + sinusoidal(positions, dim).to(x)
    for i in range(model.layers):
        heads = (rms_norm(x, (dim,)) @ w[f"{i}.qkv"]).unflatten(-1, (3, model.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if model.encoding in ("rope", "xpos"):
            q, k = rotary(q, positions), rotary(k, positions)
        if model.encoding == "xpos":  # from the middle of the text: the factors stay small
            moved = (positions - length // 2)[:, None] * xpos_decay(q.shape[-1]).to(x.device).log()
            grown = moved.repeat_interleave(2, -1).exp().to(x)
            q, k = q * grown, k / grown
        x = x + attend(q, k, v).transpose(1, 2).flatten(2) @ w[f"{i}.out"]
        x = x + gelu(rms_norm(x, (dim,)) @ w[f"{i}.up"]) @ w[f"{i}.down"]
    return rms_norm(x, (dim,))


def _bias(model: GPT, length: int) -> Tensor | None:
    """Return the bias at distances 0 ... length - 1, shape (heads, length), or None without one."""
    w = model.weights
    k = torch.arange(length, device=w["embed"].device)
    slopes = alibi_slopes(model.heads).to(k.device)
    if model.encoding == "alibi":
        bias = alibi_bias(k, slopes)
    elif model.encoding == "sandwich":
        bias = slopes[:, None] * sandwich_bias(k, w["embed"].shape[1])
    elif model.encoding == "kerple_log":
        bias = kerple_log_bias(k, w["r1"].exp(), w["r2"].exp())
    elif model.encoding == "kerple_power":
        bias = kerple_power_bias(k, w["r1"].exp(), 2 * w["r2"].sigmoid())
    elif model.encoding == "t5":
        bias = w["buckets"][:, t5_bucket(k)]
    else:
        return None
    return bias.to(w["embed"].dtype)


def _dense(model: GPT, mask: Tensor | None, length: int) -> Tensor:
    """Return what is added to the logits, (1, 1 or heads, length, length)."""
    bias, device, dtype = _bias(model, length), model.weights["embed"].device, model.weights["embed"].dtype
    sees = causal_mask(length, device=device) if mask is None else mask
    if sees.dtype != torch.bool or sees.shape != (length, length):
        raise refuse("mask", f"{sees.dtype} {tuple(sees.shape)}", f"a bool tensor ({length}, {length})")
    if not bool(sees.any(1).all()) or bool(sees.triu(1).any()):
        raise refuse("mask", "a query sees nothing, or a key after it", "a causal mask, such as causal_mask")
    k = torch.arange(length, device=device)
    row = torch.zeros(1, length, device=device, dtype=dtype) if bias is None else bias
    return row[:, (k[:, None] - k).clamp_min(0)].masked_fill(~sees, -math.inf)[None]


# -- training and judging ------------------------------------------------------------------------

Sample = Callable[[Generator], tuple[Tensor, Tensor]]


def train_gpt(
    model: GPT,
    sample: Sample,
    *,
    steps: int,
    generator: Generator,
    rate: float = 8e-3,
    warmup: int = 20,
) -> tuple[GPT, Tensor]:
    """Train a model by AdamW, with a rate that rises for `warmup` steps and falls like a cosine to zero.

    Parameters
    ----------
    sample : function
        ``sample(generator)`` returns inputs and targets, int64 (batch, length); a target of -100 is not
        judged. `text_sampler` and `repeat_sampler` make such functions.

    Returns
    -------
    model : GPT
        A new one; the one that was given keeps its weights.
    losses : tensor (steps,)
        Nats per judged symbol, before each step.

    Raises
    ------
    ValueError
        If steps or warmup is not a positive integer, or rate not a positive number.
    """
    steps, warmup = integer("steps", steps, 1), integer("warmup", warmup, 1)
    rate = real("rate", rate, 0, open_low=True)
    weights = {name: w.detach().clone().requires_grad_() for name, w in model.weights.items()}
    model = replace(model, weights=weights)
    # Weights that multiply are drawn to zero; what stands for symbols, places and biases is not.
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, w in weights.items():
        groups[name == "head" or "." in name].append(w)
    optimiser = torch.optim.AdamW(
        [{"params": kept, "weight_decay": 0.1 * decays} for decays, kept in groups.items() if kept],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )

    def share(step: int) -> float:
        return min((step + 1) / warmup, 1) * (1 + math.cos(math.pi * step / steps)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    losses = []
    for _ in range(steps):
        inputs, targets = sample(generator)
        loss = cross_entropy(gpt_logits(model, inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
    return replace(model, weights={name: w.detach() for name, w in weights.items()}), torch.stack(losses)


def text_sampler(text: Tensor, length: int = 64, batch: int = 16) -> Sample:
    """Return a function that draws pieces of a text (uint8) for `train_gpt`, each symbol to predict the next.

    Raises
    ------
    ValueError
        If length or batch is not a positive integer, or the text is not longer than a piece.
    """
    length, batch = integer("length", length, 1), integer("batch", batch, 1)
    _text("text", text, length + 1)

    def sample(generator: Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        starts = torch.randint(len(text) - length, (batch, 1), generator=generator, device=device)
        pieces = text.to(device)[starts + torch.arange(length + 1, device=device)].long()
        return pieces[:, :-1], pieces[:, 1:]

    return sample


def repeat_sampler(
    length: int, *, shortest: int, longest: int, vocabulary: int = 32, batch: int = 32
) -> Sample:
    """Return a function that draws sequences of random symbols that repeat, judged from the second time on.

    Each sequence has a period from `shortest` to `longest`. If these are equal, it is a task of copying at a
    distance; if not, of finding what came after the same symbols before (induction).

    Raises
    ------
    ValueError
        If a size is not a positive integer, or not ``shortest <= longest <= length``.
    """
    length, batch = integer("length", length, 1), integer("batch", batch, 1)
    longest = integer("longest", longest, 1, length)
    shortest = integer("shortest", shortest, 1, longest)
    vocabulary = integer("vocabulary", vocabulary, 2)

    def sample(generator: Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        periods = torch.randint(shortest, longest + 1, (batch, 1), generator=generator, device=device)
        once = torch.randint(vocabulary, (batch, longest), generator=generator, device=device)
        place = torch.arange(length + 1, device=device).expand(batch, -1)
        whole = once.gather(1, place % periods)
        return whole[:, :-1], whole[:, 1:].masked_fill(place[:, 1:] < periods, -100)

    return sample


def window_ends(text: Tensor, count: int, longest: int) -> Tensor:
    """Return `count` evenly spaced ends in a text that have ``longest + 1`` symbols before them.

    Raises
    ------
    ValueError
        If count or longest is not a positive integer, or the text is too short.
    """
    count, longest = integer("count", count, 1), integer("longest", longest, 1)
    _text("text", text, longest + count)
    return torch.linspace(longest + 1, len(text), count, dtype=torch.float64).long()


def loss_at_length(
    model: GPT,
    text: Tensor,
    ends: Tensor,
    length: int,
    *,
    targets: int = 32,
    mask: Tensor | None = None,
    window: int | None = None,
    scale: Tensor | None = None,
    batch: int = 16,
) -> Tensor:
    """Return the loss on the `targets` symbols before each end, when the model sees `length` symbols.

    The symbols that are judged, ``text[end - targets : end]``, are the same for every length: only how much
    stands before them differs. (Judged over whole texts, longer ones would look better, because fewer of
    their symbols have little before them.)

    Parameters
    ----------
    text : uint8 tensor
    ends : int64 tensor (count,)
        As from `window_ends`.
    mask, window, scale
        As in `gpt_logits`.
    batch : int
        How many windows to do at once.

    Returns
    -------
    tensor (count,): the mean loss of each window in nats per symbol

    Raises
    ------
    ValueError
        If sizes are not positive integers, targets is above length, or an end has not so much before it.
    """
    length, batch = integer("length", length, 1), integer("batch", batch, 1)
    targets = integer("targets", targets, 1, length)
    _text("text", text, length + 1)
    if ends.ndim != 1 or ends.is_floating_point() or bool(((ends <= length) | (ends > len(text))).any()):
        raise refuse("ends", ends, f"integers from {length + 1} to {len(text)}, as from window_ends")
    device, losses = model.weights["embed"].device, []
    for some in ends.split(batch):
        pieces = text[some[:, None] + torch.arange(-length - 1, 0)].long().to(device)
        with torch.no_grad():
            logits = gpt_logits(model, pieces[:, :-1], mask, window=window, scale=scale, last=targets)
        each = cross_entropy(logits.mT, pieces[:, -targets:], reduction="none")
        losses.append(each.mean(1))
    return torch.cat(losses)


# -- guards --------------------------------------------------------------------------------------


def _even(name: str, dim: int) -> int:
    if integer(name, dim, 2) % 2:
        raise refuse(name, dim, "an even number: sine and cosine, or the two numbers of a pair")
    return dim


def _frequencies(dim: int, base: float, like: Tensor | None = None) -> Tensor:
    """Return ``base**(-2i/dim)`` for the dim/2 pairs, float64."""
    exponents = torch.arange(_even("dim", dim) // 2, dtype=torch.float64) * (-2 / dim)
    frequencies = real("base", base, 1, open_low=True) ** exponents
    return frequencies if like is None else frequencies.to(like.device)


def _distances(distance: Tensor) -> Tensor:
    if not isinstance(distance, Tensor) or not bool(distance.isfinite().all()):
        raise refuse("distance", distance, "a tensor of finite numbers")
    return distance.abs() if distance.is_floating_point() else distance.abs().double()


def _per_head(name: str, value: PerHead, k: Tensor, high: float = math.inf) -> PerHead:
    """Return a number, or the numbers of the heads with axes for the distances behind."""
    if not isinstance(value, Tensor):
        return real(name, value, 0, high, open_low=True)
    if value.ndim != 1 or not bool(((value > 0) & (value <= high) & value.isfinite()).all()):
        raise refuse(name, value, f"a number in (0, {high}], or a tensor (heads,) of them")
    return value.view(-1, *[1] * k.ndim)


def _positions(name: str, positions: Tensor) -> Tensor:
    if not isinstance(positions, Tensor) or positions.ndim != 1 or not len(positions):
        raise refuse(name, positions, "a tensor (n,) of numbers")
    if not bool(positions.isfinite().all() & (positions[0] >= 0) & (positions.diff() > 0).all()):
        raise refuse(name, positions, "finite numbers that increase, from 0 or more")
    return positions.double()


def _vectors(name: str, x: Tensor, positions: Tensor) -> None:
    """Refuse vectors that are not floats (..., n, dim) for n positions, with dim even."""
    _positions("positions" if name == "x" else f"{name}_positions", positions)
    if x.ndim < 2 or not x.is_floating_point() or x.shape[-2] != len(positions):
        raise refuse(name, f"{x.dtype} {tuple(x.shape)}", f"real numbers (..., {len(positions)}, dim)")
    _even(f"the last axis of {name}", x.shape[-1])


def _tokens(model: GPT, tokens: Tensor) -> int:
    """Return how long they are."""
    size = len(model.weights["embed"])
    if tokens.ndim != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
        raise refuse("tokens", f"{tokens.dtype} {tuple(tokens.shape)}", "int64 of shape (batch, length)")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise refuse("tokens", (int(tokens.min()), int(tokens.max())), f"symbols from 0 to {size - 1}")
    length = tokens.shape[1]
    if model.encoding == "learned" and length > len(model.weights["places"]):
        raise refuse("tokens", f"{length} of them", f"at most the {len(model.weights['places'])} places")
    return length


def _scaling(scale: Tensor | None, length: int) -> Callable[[Tensor], Tensor]:
    """Return what multiplies the queries, (..., length, dim), and with them the logits."""
    if scale is None:
        return lambda q: q
    if scale.shape != (length,) or not bool(scale.isfinite().all()):
        raise refuse("scale", tuple(scale.shape), f"finite numbers ({length},)")
    return lambda q: q * scale[:, None].to(q)


def _text(name: str, text: Tensor, least: int) -> None:
    if text.ndim != 1 or text.dtype != torch.uint8 or len(text) < least:
        raise refuse(name, f"{text.dtype} {tuple(text.shape)}", f"uint8 (n,) with n >= {least}")
