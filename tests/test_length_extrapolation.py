"""Biases, rotations, masks, entropies by their formulas; a small GPT by a second writing of it."""

import itertools
import math
from fractions import Fraction

import mpmath
import pytest
import torch

from kexue_lib import length_extrapolation as le
from kexue_lib import recorded
from kexue_lib.length_extrapolation import ENCODINGS, GPT, gpt_attention, gpt_logits, init_gpt

# The position of a symbol is nowhere in these but in differences, and in how many symbols are seen.
RELATIVE = [name for name in ENCODINGS if name not in ("learned", "sinusoidal")]
K = torch.arange(4096)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def close(got, expected, rel=1e-12, floor=1e-13):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=rel, atol=floor)


# -- ALiBi -----------------------------------------------------------------------------------------


def published(heads):
    """Exponents of two by the published rule, which calls itself for numbers that are not powers of two."""
    if heads & (heads - 1) == 0:
        return [-Fraction(8 * i, heads) for i in range(1, heads + 1)]
    below = max(p for p in (1 << e for e in range(heads)) if p < heads)
    return published(below) + published(2 * below)[::2][: heads - below]


@pytest.mark.parametrize("heads", range(1, 129))
def test_slopes_are_those_of_the_published_rule(heads):
    slopes = le.alibi_slopes(heads)
    assert slopes.shape == (heads,)
    close(slopes.log2(), [float(e) for e in published(heads)], rel=1e-14)


def test_slopes_of_eight_heads_are_powers_of_two():
    assert le.alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert le.alibi_slopes(1).tolist() == [2.0**-8]
    close(le.alibi_slopes(12)[8:].log2(), [-0.5, -1.5, -2.5, -3.5])


def test_without_content_alibi_is_geometric():
    """Weights, mean distance, entropy and the window that holds 99 %, for eight heads."""
    k = torch.arange(20_000)
    bias = le.alibi_bias(k, le.alibi_slopes(8))
    p, slopes = bias.softmax(-1), le.alibi_slopes(8)[:, None]
    close(p, -torch.expm1(-slopes) * torch.exp(-slopes * k))
    close((p * k).sum(-1), (1 / torch.expm1(slopes)).flatten(), rel=1e-9)
    entropy = (slopes / torch.expm1(slopes) - torch.log(-torch.expm1(-slopes))).flatten()
    close(le.attention_entropy(bias), entropy, rel=1e-9)
    table = [5.49, 10.90, 21.76, 43.50, 86.99, 173.97, 347.94, 695.88]
    assert entropy.exp().tolist() == pytest.approx(table, abs=0.005)
    windows = (p.cumsum(-1) < 0.99).sum(-1) + 1
    assert windows.tolist() == [10, 19, 37, 74, 148, 295, 590, 1179]


def test_biases_have_an_axis_for_heads_and_do_not_see_the_sign():
    k = torch.tensor([[-3, 0], [3, 7]])
    for bias in (le.alibi_bias(k, 0.5), le.kerple_log_bias(k, 0.5, 2.0), le.kerple_power_bias(k, 0.5, 1.5)):
        assert bias.dtype == torch.float64 and bias.shape == (2, 2)
        assert bias[0, 0] == bias[1, 0] < 0 == bias[0, 1]
    slopes = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)
    assert le.alibi_bias(k, slopes)[1].tolist() == [[-0.75, 0], [-0.75, -1.75]]
    assert le.alibi_bias(k.float(), 0.5).dtype == torch.float32
    mixed = le.kerple_log_bias(k, slopes, 2.0)
    close(mixed[2], le.kerple_log_bias(k, 0.125, 2.0))


# -- KERPLE ----------------------------------------------------------------------------------------


def test_without_content_kerple_is_a_power_law_or_a_stretched_exponential():
    close(le.kerple_log_bias(K, 1.7, 0.3).exp(), (1 + 0.3 * K.double()) ** -1.7)
    close(le.kerple_power_bias(K, 0.01, 0.5).exp(), (-0.01 * K.double().sqrt()).exp())
    close(le.kerple_power_bias(K, 0.25, 1.0), le.alibi_bias(K, 0.25))


def eigenvalues_where_sums_vanish(bias):
    """Eigenvalues of a matrix of biases on the vectors whose entries sum to zero."""
    n = len(bias)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    return torch.linalg.eigvalsh(centre @ bias @ centre)


def test_kernels_of_kerple_are_conditionally_positive_definite():
    """And 2 is the last power that is; a larger one is refused."""
    distance = torch.arange(40)[:, None] - torch.arange(40)
    for power in (0.1, 0.5, 1.0, 1.7, 2.0):
        assert eigenvalues_where_sums_vanish(le.kerple_power_bias(distance, 0.01, power)).min() > -1e-11
    for r2 in (0.1, 1.0, 30.0):
        assert eigenvalues_where_sums_vanish(le.kerple_log_bias(distance, 1.5, r2)).min() > -1e-11
    assert eigenvalues_where_sums_vanish(-0.01 * distance.abs().double() ** 2.1).min() < -0.1


# -- Sandwich, sinusoids, T5 -----------------------------------------------------------------------


def test_sandwich_is_the_product_of_sinusoids():
    sinusoids = le.sinusoidal(torch.arange(200), 24, 500.0)
    distance = torch.arange(200)[:, None] - torch.arange(200)
    close(le.sandwich_bias(distance, 24, 500.0), sinusoids @ sinusoids.T, floor=1e-11)


def test_values_of_sandwich():
    exponents = [mpmath.mpf(-2 * i) / 128 for i in range(64)]
    for k in (0, 1, 12, 1000, 10**6):
        exact = mpmath.fsum(mpmath.cos(k * mpmath.mpf(10_000) ** e) for e in exponents)
        assert float(le.sandwich_bias(torch.tensor(k), 128)) == pytest.approx(float(exact), abs=1e-8)
    values = le.sandwich_bias(torch.arange(65), 128)
    table = {1: 62.0937, 2: 57.3819, 4: 48.5860, 8: 45.7205, 16: 39.7017, 32: 35.6778, 64: 30.5201}
    assert {k: round(float(values[k]), 4) for k in table} == table
    assert int((values.diff() > 0).nonzero()[0]) == 11  # from 11 to 12, for the first time


def test_sinusoids_turn_when_positions_move():
    p = le.sinusoidal(torch.tensor([0, 1, 5, 9]), 8, 100.0)
    assert p[0].tolist() == [0, 1] * 4
    for i, (sine, cosine) in enumerate(p[2].view(4, 2).tolist()):
        assert sine == pytest.approx(math.sin(5 * 100 ** (-2 * i / 8)), rel=1e-12)
        assert cosine == pytest.approx(math.cos(5 * 100 ** (-2 * i / 8)), rel=1e-12)


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 64), (4, 3), (6, 50), (64, 1000)])
def test_buckets_of_t5_are_intervals_that_grow(buckets, farthest):
    """By whole numbers: interval j begins where (k / exact)**(buckets - exact) >= (farthest / exact)**j."""
    exact = buckets // 2
    found = le.t5_bucket(torch.arange(1500), buckets, farthest).tolist()
    for k in range(1500):
        if k < exact:
            expected = k
        else:
            grown = (Fraction(k, exact) ** (buckets - exact), Fraction(farthest, exact))
            j = 0
            while j < buckets - exact - 1 and grown[0] >= grown[1] ** (j + 1):
                j += 1
            expected = exact + j
        assert found[k] == expected, k


# -- rotations -------------------------------------------------------------------------------------


def turn(pair, angle):
    a, b = pair
    return (a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle))


def test_rotary_turns_each_pair():
    x, positions = normal(3, 4, 6), torch.tensor([0, 2, 3, 50])
    y = le.rotary(x, positions, 50.0)
    for row, position in enumerate(positions.tolist()):
        for i in range(3):
            expected = turn(x[1, row, 2 * i : 2 * i + 2].tolist(), position * 50 ** (-2 * i / 6))
            assert y[1, row, 2 * i : 2 * i + 2].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert torch.equal(y[:, 0], x[:, 0])


def test_products_of_rotated_vectors_know_only_differences():
    q, k, place = normal(100, 16, seed=1), normal(100, 16, seed=2), torch.arange(100)
    scores = [le.rotary(q, place + s) @ le.rotary(k, place + s).T for s in (0, 12_345)]
    close(scores[1], scores[0], rel=1e-9, floor=1e-9)
    shifted = le.rotary(q, place + 1) @ le.rotary(k, place).T
    assert (shifted - scores[0]).abs().max() > 1


def test_rotary_keeps_types_and_lengths_and_is_exact_far_away():
    x = normal(5, 8)
    places = torch.tensor([0, 1, 10**3, 10**6, 10**7])
    wide = le.rotary(x, places)
    close(wide.norm(dim=-1), x.norm(dim=-1))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        narrow = le.rotary(x.to(dtype), places)
        assert narrow.dtype == dtype
        close(narrow.double(), wide, rel=tolerance, floor=tolerance)
    part = torch.cat([x[:, :1], x], 1)[:, 1:]  # begins in the middle of a pair of its storage
    assert torch.equal(le.rotary(part, places), wide)


def test_rotary_of_another_program():
    peer = pytest.importorskip("rotary_embedding_torch")
    x = normal(1, 2, 30, 16).float()
    theirs = peer.RotaryEmbedding(dim=16).rotate_queries_or_keys(x)
    close(le.rotary(x, torch.arange(30)).double(), theirs.double(), rel=1e-4, floor=1e-5)


def xpos_by_definition(q, k, m, n, xi, base=10_000):
    """One logit: each pair turned by the distance, and shrunk."""
    total = 0.0
    for i in range(len(q) // 2):
        moved = turn(q[2 * i : 2 * i + 2], (m - n) * base ** (-2 * i / len(q)))
        total += xi[i] ** (m - n) * (moved[0] * k[2 * i] + moved[1] * k[2 * i + 1])
    return total


@pytest.mark.parametrize("xi", [0.9, 1.0, 1e-30, "paper", "mixed"])
def test_xpos_shrinks_by_the_distance(xi):
    """At positions with gaps, some beyond the range in which factors of queries and keys exist apart."""
    decays = {"paper": le.xpos_decay(6), "mixed": torch.tensor([1.0, 0.5, 1e-3])}.get(xi, xi)
    each = [xi] * 3 if isinstance(xi, float) else decays.tolist()
    m, n = torch.tensor([3, 4, 90, 2000, 2001, 10**6]), torch.tensor([0, 3, 4, 60, 1990, 2000, 999_990])
    q, k = normal(6, 6, seed=3), normal(7, 6, seed=4)
    scores = le.xpos_scores(q, k, m, n, xi=decays)
    for a, b in itertools.product(range(6), range(7)):
        if n[b] > m[a]:
            assert scores[a, b] == -math.inf
        else:
            exact = xpos_by_definition(q[a].tolist(), k[b].tolist(), int(m[a]), int(n[b]), each)
            assert float(scores[a, b]) == pytest.approx(exact, rel=1e-8, abs=1e-9)


def test_xpos_is_finite_at_a_million():
    """Where the factors of queries and keys apart are 0 and infinite."""
    place = torch.arange(10**6 - 300, 10**6)
    q, k = normal(2, 300, 8, seed=5).float(), normal(2, 300, 8, seed=6).float()
    for xi in (0.98, le.xpos_decay(8), 1e-3):
        far = le.xpos_scores(q, k, place, place, xi=xi)
        near = le.xpos_scores(q.double(), k.double(), place - place[0], place - place[0], xi=xi)
        assert torch.equal(far.isfinite(), le.causal_mask(300).expand_as(far))
        torch.testing.assert_close(far.double(), near, rtol=1e-4, atol=1e-4)
    assert not (torch.tensor(0.98) ** -place.float()).isfinite().any()


def test_gradients_of_xpos_are_finite_where_keys_come_long_after():
    """What is hidden by the mask must not spoil them by infinity times zero."""
    m, n = torch.tensor([5, 6]), torch.tensor([4, 5, 6, 10**6])
    q, k = (x.requires_grad_() for x in (normal(2, 6, seed=3), normal(4, 6, seed=4)))
    for xi in (0.5, 1e-30, le.xpos_decay(6)):
        scores = le.xpos_scores(q, k, m, n, xi=xi)
        grads = torch.autograd.grad(scores[scores.isfinite()].pow(2).sum(), (q, k))
        assert all(g.isfinite().all() for g in grads)
        assert grads[1][0].abs().max() > 0 == grads[1][3].abs().max()


def test_xpos_is_the_rotary_score_times_the_decay():
    q, k, place = normal(50, 8, seed=7), normal(50, 8, seed=8), torch.arange(50)
    scores, distance = le.xpos_scores(q, k, place, place, xi=0.8), place[:, None] - place
    seen = le.causal_mask(50)
    plain = le.rotary(q, place) @ le.rotary(k, place).T
    close(scores[seen], (plain * 0.8 ** distance.double())[seen])


def test_xpos_of_another_program():
    peer = pytest.importorskip("rotary_embedding_torch")
    q, k, place = normal(2, 30, 16, seed=9).float(), normal(2, 30, 16, seed=10).float(), torch.arange(30)
    rotation = peer.RotaryEmbedding(dim=16, use_xpos=True, xpos_scale_base=512)
    a, b = rotation.rotate_queries_and_keys(q[None], k[None])
    ours = le.xpos_scores(q, k, place, place, xi=le.xpos_decay(16))
    seen = le.causal_mask(30).expand_as(ours)
    close(ours[seen].double(), (a @ b.mT)[0][seen].double(), rel=1e-4, floor=1e-4)


def test_decays_of_xpos():
    close(le.xpos_decay(4), [(0.4 / 1.4) ** (1 / 512), (0.9 / 1.4) ** (1 / 512)], rel=1e-14)
    close(le.xpos_decay(2, 1.0, 2.0), [0.5**0.5], rel=1e-14)


# -- entropy and masks -----------------------------------------------------------------------------


def test_entropy_of_known_distributions():
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    close(le.attention_entropy(p.log() + 7), 1.5 * math.log(2))
    close(le.attention_entropy(torch.zeros(3, 5, dtype=torch.float64)), [math.log(5)] * 3)
    hidden = torch.tensor([0.0, -math.inf, 0.0, -math.inf], dtype=torch.float64)
    close(le.attention_entropy(hidden), math.log(2))
    close(le.attention_entropy(torch.tensor([0.0, -1000.0])).double(), 0.0)


def test_entropy_grows_like_the_logarithm_of_the_number_of_keys():
    """For independent normal logits, ln n - sigma**2 / 2 while sigma < sqrt(2 ln n); 1 % at n = 16384."""
    for sigma in (0.5, 1.0, 2.0):
        found = le.attention_entropy(sigma * normal(50, 16_384, seed=11)).mean()
        assert float(found) == pytest.approx(math.log(16_384) - sigma**2 / 2, rel=0.01)


def test_scale_is_one_at_the_length_of_training():
    assert float(le.log_scale(512, 512)) == 1
    close(le.log_scale(torch.tensor([1, 8, 512, 512**2]), 512), [0, 1 / 3, 1, 2])


def test_masks_count():
    assert le.causal_mask(5).sum(1).tolist() == [1, 2, 3, 4, 5]
    assert le.window_mask(6, 3).sum(1).tolist() == [1, 2, 3, 3, 3, 3]
    assert torch.equal(le.window_mask(6, 6), le.causal_mask(6))
    assert torch.equal(le.window_mask(6, 1), torch.eye(6).bool())
    assert le.window_mask(6, 3)[4].tolist() == [False, False, True, True, True, False]
    assert le.sink_mask(6, 2, 1)[4].tolist() == [True, False, False, True, True, False]
    assert le.sink_mask(6, 2, 2)[0].tolist() == [True] + [False] * 5
    assert torch.equal(le.sink_mask(9, 4, 0), le.window_mask(9, 4))


# -- a small GPT -----------------------------------------------------------------------------------


def model_of(encoding, *, dtype=torch.float64, **sizes):
    """Return a model whose learned positions do something."""
    sizes = {"dim": 24, "heads": 3, "vocabulary": 11, "places": 100} | sizes
    model = init_gpt(encoding, generator=rng(20), dtype=dtype, **sizes)
    g = rng(21)
    for name in ("r1", "r2", "buckets"):
        if name in model.weights:
            model.weights[name] += torch.randn(model.weights[name].shape, generator=g, dtype=dtype)
    return model


def symbols(*shape, seed=22, vocabulary=11):
    return torch.randint(vocabulary, shape, generator=rng(seed))


def position_term(model, a, b, q, k, h):
    """Return the logit of query a and key b in head h, from q and k before anything is known of positions."""
    w, dim = model.weights, model.weights["embed"].shape[1]
    plain = float(q @ k)
    share = math.sqrt(len(q))
    slope = 2.0 ** float(published(model.heads)[h])
    distance = a - b
    if model.encoding == "rope":
        return xpos_by_definition(q.tolist(), k.tolist(), a, b, [1.0] * (len(q) // 2)) / share
    if model.encoding == "xpos":
        xi = [((2 * i / len(q) + 0.4) / 1.4) ** (1 / 512) for i in range(len(q) // 2)]
        return xpos_by_definition(q.tolist(), k.tolist(), a, b, xi) / share
    if model.encoding == "alibi":
        return plain / share - slope * distance
    if model.encoding == "sandwich":
        cosines = sum(math.cos(distance * 10_000 ** (-2 * i / dim)) for i in range(dim // 2))
        return plain / share + slope * cosines
    if model.encoding == "kerple_log":
        r1, r2 = (math.exp(w[name][h]) for name in ("r1", "r2"))
        return plain / share - r1 * math.log(1 + r2 * distance)
    if model.encoding == "kerple_power":
        r1, r2 = math.exp(w["r1"][h]), 2 / (1 + math.exp(-w["r2"][h]))
        return plain / share - r1 * distance**r2
    if model.encoding == "t5":
        return plain / share + float(w["buckets"][h, le.t5_bucket(torch.tensor(distance))])
    return plain / share


def by_hand(model, tokens, sees):
    """Return the logits of the next symbol for one sequence, in loops; and those of the attention."""
    w, dim = model.weights, model.weights["embed"].shape[1]
    n, size, attention = len(tokens), dim // model.heads, []

    def rms(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()

    x = w["embed"][tokens]
    if model.encoding == "learned":
        x = x + w["places"][:n]
    if model.encoding == "sinusoidal":
        angles = torch.arange(n)[:, None] * 10_000.0 ** (-2 * torch.arange(dim // 2).double() / dim)
        x = x + torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    for i in range(model.layers):
        q, k, v = (rms(x) @ w[f"{i}.qkv"]).split(dim, -1)
        out, kept = torch.zeros_like(x), torch.full((model.heads, n, n), -math.inf, dtype=x.dtype)
        for h, a in itertools.product(range(model.heads), range(n)):
            part = slice(h * size, (h + 1) * size)
            for b in range(a + 1):
                if sees(a, b):
                    kept[h, a, b] = position_term(model, a, b, q[a, part], k[b, part], h)
            out[a, part] = kept[h, a].softmax(-1) @ v[:, part]
        attention.append(kept)
        x = x + out @ w[f"{i}.out"]
        inner = rms(x) @ w[f"{i}.up"]
        x = x + (inner * (1 + torch.erf(inner / math.sqrt(2))) / 2) @ w[f"{i}.down"]
    return rms(x) @ w["head"], torch.stack(attention)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_model_is_what_it_says(encoding):
    model, tokens = model_of(encoding), symbols(2, 12)
    for mask, sees in (
        (None, lambda a, b: True),
        (le.window_mask(12, 4), lambda a, b: a - b < 4),
        (le.sink_mask(12, 4, 2), lambda a, b: a - b < 4 or b < 2),
    ):
        expected, attention = by_hand(model, tokens[1], sees)
        close(gpt_logits(model, tokens, mask)[1], expected, rel=1e-9, floor=1e-10)
        close(gpt_attention(model, tokens, mask)[:, 1], attention, rel=1e-9, floor=1e-10)
    close(gpt_logits(model, tokens, last=3), gpt_logits(model, tokens)[:, -3:])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_window_is_its_mask_by_a_faster_way(encoding):
    model, tokens = model_of(encoding, layers=3), symbols(2, 90)
    for window in (1, 5, 64, 90, 200):
        slow = gpt_logits(model, tokens, le.window_mask(90, window))
        close(gpt_logits(model, tokens, window=window), slow, rel=1e-9, floor=1e-10)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_positions_within_the_window_do_not_notice_it(encoding):
    """Bit by bit, in the precision of training; and the next position does notice."""
    model, tokens = model_of(encoding, dtype=torch.float32), symbols(3, 80)
    full, near = (
        gpt_logits(model, tokens, le.causal_mask(80)),
        gpt_logits(model, tokens, le.window_mask(80, 30)),
    )
    assert torch.equal(near[:, :30], full[:, :30])
    assert not torch.equal(near[:, 30], full[:, 30])


@pytest.mark.parametrize(("layers", "window"), [(1, 1), (1, 7), (2, 5), (3, 4), (4, 2)])
def test_the_receptive_field_is_layers_times_window_less_one_plus_one(layers, window):
    model, tokens = model_of("alibi", layers=layers), symbols(1, 40)
    embedded = torch.eye(11, dtype=torch.float64)[tokens] @ model.weights["embed"]
    embedded.requires_grad_()
    # A vocabulary in which each symbol of the sequence has a row of its own.
    own = GPT("alibi", model.heads, model.weights | {"embed": embedded[0]})
    out = gpt_logits(own, torch.arange(40)[None], le.window_mask(40, window))
    (grad,) = torch.autograd.grad(out[0, -1].pow(2).sum(), embedded)
    seen = grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(40 - (layers * (window - 1) + 1), 40))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_behind_a_window_relative_positions_forget_where_they_are(encoding):
    """What stands before the receptive field does not matter: neither what it is nor how much."""
    model, tokens = model_of(encoding, layers=2), symbols(1, 80)
    short, long = (gpt_logits(model, tokens[:, -n:], window=6, last=20) for n in (30, 80))
    if encoding in RELATIVE:
        close(short, long, rel=1e-9, floor=1e-10)
    else:
        assert (short - long).abs().max() > 1e-2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_future_is_not_seen(encoding):
    model, tokens = model_of(encoding), symbols(1, 40)
    changed = tokens.clone()
    changed[:, 25:] = (changed[:, 25:] + 1) % 11
    for options in ({}, {"window": 8}, {"mask": le.sink_mask(40, 8, 3)}):
        before, after = (gpt_logits(model, x, **options) for x in (tokens, changed))
        assert torch.equal(before[:, :25], after[:, :25])
        assert (before[:, 25] - after[:, 25]).abs().max() > 1e-3


def test_without_positions_the_order_of_what_came_before_does_not_matter():
    """One layer, no encoding: the last logits are those of a bag of symbols; with one they are not."""
    tokens = symbols(1, 20)
    mixed = torch.cat([tokens[:, torch.randperm(19, generator=rng(23))], tokens[:, -1:]], 1)
    for encoding in ENCODINGS:
        model = model_of(encoding, layers=1)
        difference = (gpt_logits(model, tokens, last=1) - gpt_logits(model, mixed, last=1)).abs().max()
        assert (difference < 1e-12) == (encoding == "none"), encoding


def test_a_scale_multiplies_the_logits_of_its_query():
    """Those of the content alone, as a factor of q."""
    tokens, scale = symbols(2, 12), torch.linspace(0.5, 2, 12, dtype=torch.float64)
    for encoding in ("none", "rope", "alibi"):
        model = model_of(encoding, layers=1)
        plain, scaled = (gpt_attention(model, tokens, scale=s)[0] for s in (None, scale))
        bias = 0.0
        if encoding == "alibi":
            k = torch.arange(12)
            bias = le.alibi_bias(k[:, None] - k, le.alibi_slopes(3))
        seen = le.causal_mask(12).expand_as(plain)
        close(scaled[seen], ((plain - bias) * scale[:, None] + bias)[seen], rel=1e-10, floor=1e-11)
        ways = [gpt_logits(model, tokens, scale=scale, **way) for way in ({}, {"window": 12})]
        close(ways[0], ways[1], rel=1e-9, floor=1e-10)
        assert (ways[0] - gpt_logits(model, tokens)).abs().max() > 1e-3


def test_weights_have_the_sizes_that_are_told():
    model = init_gpt("t5", generator=rng())
    assert model.layers == 2
    sizes = {name: tuple(w.shape) for name, w in model.weights.items()}
    assert sizes == {
        "embed": (256, 64),
        **{
            f"{i}.{name}": size
            for i in (0, 1)
            for name, size in {"qkv": (64, 192), "out": (64, 64), "up": (64, 256), "down": (256, 64)}.items()
        },
        "head": (64, 256),
        "buckets": (4, 32),
    }
    # Sums of as many terms as there are inputs have variance one; 16384 numbers tell it to 1.1 %.
    for name, inputs in (("0.up", 64), ("1.down", 256), ("head", 64), ("embed", 4)):
        assert float(model.weights[name].var()) == pytest.approx(1 / inputs, rel=5.85 * 0.011), name
    assert init_gpt("learned", places=77, generator=rng()).weights["places"].shape == (77, 64)
    twice = [init_gpt("rope", generator=rng(5)).weights["0.up"] for _ in range(2)]
    assert torch.equal(*twice)


# -- training --------------------------------------------------------------------------------------


def least_loss(transition, length):
    """Nats per symbol of a Markov chain that begins anywhere, exactly: the mean over its positions."""
    state, total = torch.full((len(transition),), 1 / len(transition), dtype=torch.float64), 0.0
    for _ in range(length):
        total += float(state @ torch.special.entr(transition).sum(1))
        state = state @ transition
    return total / length


def test_training_reaches_the_entropy_of_a_markov_chain():
    """The least possible loss is known; 41,000 symbols tell the mean of the last steps to about 0.005."""
    transition = (2 * normal(5, 5, seed=24)).softmax(-1)
    least = least_loss(transition, 16)

    def sample(generator):
        rows = [torch.randint(5, (64,), generator=generator)]
        for _ in range(16):
            rows.append(torch.multinomial(transition[rows[-1]], 1, generator=generator).flatten())
        x = torch.stack(rows, 1)
        return x[:, :-1], x[:, 1:]

    start = init_gpt("alibi", dim=16, heads=2, vocabulary=5, generator=rng(25))
    kept = {name: w.clone() for name, w in start.weights.items()}
    model, losses = le.train_gpt(start, sample, steps=150, generator=rng(26))
    assert all(torch.equal(w, kept[name]) and not w.requires_grad for name, w in start.weights.items())
    assert not any(w.requires_grad for w in model.weights.values())
    assert losses.shape == (150,) and float(losses[0]) > least + 0.5
    inputs, targets = sample(rng(26))
    first = torch.nn.functional.cross_entropy(gpt_logits(start, inputs).flatten(0, 1), targets.flatten())
    assert float(losses[0]) == pytest.approx(float(first), rel=1e-6)
    assert abs(float(losses[-40:].mean()) - least) < 0.02
    assert (model.weights["0.up"] - kept["0.up"]).abs().max() > 0.1


def test_training_twice_gives_the_same():
    start = model_of("t5", dtype=torch.float32)
    sample = le.repeat_sampler(12, shortest=3, longest=5, vocabulary=11)
    (a, first), (b, second) = (le.train_gpt(start, sample, steps=5, generator=rng(26)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(w, b.weights[name]) for name, w in a.weights.items())


def test_what_is_not_judged_does_not_teach():
    def sample(generator):
        x = torch.randint(11, (8, 6), generator=generator)
        return x, torch.full_like(x, -100).index_fill(1, torch.tensor([5]), 3)

    model, losses = le.train_gpt(model_of("rope"), sample, steps=30, generator=rng(27))
    assert float(losses[-1]) < 0.05
    logits = gpt_logits(model, symbols(4, 6))
    assert (logits[:, -1].argmax(-1) == 3).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_that_an_encoding_learns_is_trained(encoding):
    start = init_gpt(encoding, dim=16, heads=2, vocabulary=8, places=20, generator=rng(28))
    sample = le.repeat_sampler(12, shortest=3, longest=3, vocabulary=8, batch=8)
    model, _ = le.train_gpt(start, sample, steps=3, generator=rng(29), warmup=1)
    for name, w in model.weights.items():
        assert w.isfinite().all() and not torch.equal(w, start.weights[name]), name
    if encoding == "learned":  # places beyond the training length keep their first values
        assert torch.equal(model.weights["places"][12:], start.weights["places"][12:])


def test_copying_needs_what_lies_within_the_receptive_field():
    """A period of 8, learned with a full view: a window of 8 reaches what is due, a window of 7 does not."""
    sample = le.repeat_sampler(24, shortest=8, longest=8, vocabulary=6, batch=32)
    start = init_gpt("rope", dim=32, heads=2, vocabulary=6, layers=1, generator=rng(30))
    model, _ = le.train_gpt(start, sample, steps=250, generator=rng(31))
    inputs, targets = le.repeat_sampler(24, shortest=8, longest=8, vocabulary=6, batch=200)(rng(32))
    right = {}
    for window in (24, 8, 7):
        answers = gpt_logits(model, inputs, window=window).argmax(-1)
        right[window] = float((answers == targets)[targets >= 0].double().mean())
    assert right[24] > 0.99 and right[8] > 0.95
    assert right[7] < 0.5


# -- texts and tasks -------------------------------------------------------------------------------

TEXT = torch.randint(11, (3000,), generator=rng(33)).to(torch.uint8)


def test_samples_of_a_text_predict_the_next_symbol():
    text = (torch.arange(200) % 256).to(torch.uint8)
    inputs, targets = le.text_sampler(text, 7, 2000)(rng(34))
    assert inputs.shape == targets.shape == (2000, 7) and inputs.dtype == torch.int64
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert (int(inputs.min()), int(targets.max())) == (0, 199)  # the first and the last symbol are drawn


@pytest.mark.parametrize(("shortest", "longest"), [(5, 5), (3, 9), (1, 20)])
def test_what_is_judged_has_been_seen_a_period_before(shortest, longest):
    inputs, targets = le.repeat_sampler(20, shortest=shortest, longest=longest, batch=300)(rng(35))
    assert inputs.shape == targets.shape == (300, 20)
    periods = []
    for x, y in zip(inputs.tolist(), targets.tolist(), strict=True):
        judged = [i for i, symbol in enumerate(y) if symbol >= 0]
        period = judged[0] + 1 if judged else 21
        periods.append(period)
        assert judged == list(range(period - 1, 20)) and set(y[: period - 1]) <= {-100}
        assert all(y[i] == x[i + 1 - period] for i in judged)
        assert all(y[i] == x[i + 1] for i in judged if i < 19)
    assert set(periods) == set(range(shortest, longest + 1))
    assert len(set(inputs[:, 0].tolist())) == 32


def test_ends_are_spread_evenly():
    assert le.window_ends(TEXT, 1, 100).tolist() == [101]
    ends = le.window_ends(TEXT, 30, 100)
    assert (int(ends[0]), int(ends[-1]), len(ends)) == (101, 3000, 30)
    assert ends.diff().min() >= 99 and ends.diff().max() <= 100


def test_losses_at_all_lengths_are_those_of_the_same_symbols():
    model, ends = model_of("rope"), torch.tensor([200, 260, 3000])
    for length, targets in ((1, 1), (8, 8), (40, 8), (199, 5)):
        found = le.loss_at_length(model, TEXT, ends, length, targets=targets, batch=2)
        for end, loss in zip(ends.tolist(), found.tolist(), strict=True):
            given = TEXT[end - length - 1 : end - 1].long()
            p = gpt_logits(model, given[None])[0].log_softmax(-1)
            judged = TEXT[end - targets : end].long()
            exact = -sum(float(p[length - targets + j, symbol]) for j, symbol in enumerate(judged)) / targets
            assert loss == pytest.approx(exact, rel=1e-12)


def test_a_mask_a_window_and_a_scale_reach_the_model():
    model, ends = model_of("alibi"), torch.tensor([100, 700])
    scale = torch.linspace(0.5, 2, 50, dtype=torch.float64)
    plain = le.loss_at_length(model, TEXT, ends, 50)
    ways = [{"mask": le.window_mask(50, 9)}, {"window": 9}, {"scale": scale}]
    masked, windowed, scaled = (le.loss_at_length(model, TEXT, ends, 50, **way) for way in ways)
    close(masked, windowed, rel=1e-10)
    assert (plain - masked).abs().min() > 1e-6 and (plain - scaled).abs().min() > 1e-6


def test_in_a_window_relative_models_lose_the_same_at_every_length():
    for encoding in RELATIVE:
        model, ends = model_of(encoding), le.window_ends(TEXT, 5, 300)
        losses = [le.loss_at_length(model, TEXT, ends, n, targets=8, window=10) for n in (40, 100, 300)]
        close(losses[0], losses[1], rel=1e-9)
        close(losses[0], losses[2], rel=1e-9)


# -- bad input -------------------------------------------------------------------------------------

PLACES, GIVEN = torch.arange(4), torch.zeros(4, 6)
BYTES = torch.zeros(50, dtype=torch.uint8)
SMALL = init_gpt("learned", dim=8, heads=2, vocabulary=5, places=6, generator=rng())
TOKENS = torch.zeros(1, 5, dtype=torch.int64)
EYE = torch.eye(5).bool()

BAD = {
    "heads = 0": lambda: le.alibi_slopes(0),
    "heads = 2.0": lambda: le.alibi_slopes(2.0),
    "slopes = 0": lambda: le.alibi_bias(K, 0),
    "slopes = -1.0": lambda: le.alibi_bias(K, -1.0),
    "slopes = tensor": lambda: le.alibi_bias(K, torch.tensor([1.0, -1.0])),
    "slopes = tensor.*nan": lambda: le.alibi_bias(K, torch.tensor([math.nan])),
    "slopes = tensor.*inf": lambda: le.alibi_bias(K, torch.tensor([math.inf])),
    r"slopes = tensor\(1\.\)": lambda: le.alibi_bias(K, torch.tensor(1.0)),
    "distance = tensor.*nan": lambda: le.alibi_bias(torch.tensor(math.nan), 1.0),
    "distance = 3": lambda: le.sandwich_bias(3, 8),
    "r1 = 0.0": lambda: le.kerple_log_bias(K, 0.0, 1.0),
    "r2 = -1": lambda: le.kerple_log_bias(K, 1.0, -1),
    "r2 = 2.1": lambda: le.kerple_power_bias(K, 1.0, 2.1),
    "r2 = 0": lambda: le.kerple_power_bias(K, 1.0, 0),
    "dim = 7": lambda: le.sandwich_bias(K, 7),
    "base = 1": lambda: le.sandwich_bias(K, 8, 1),
    "dim = 0": lambda: le.sinusoidal(PLACES, 0),
    "distance = tensor.*-1": lambda: le.t5_bucket(torch.tensor([-1])),
    "distance = tensor": lambda: le.t5_bucket(torch.tensor([1.0])),
    "buckets = 5": lambda: le.t5_bucket(K, 5),
    "buckets = 2": lambda: le.t5_bucket(K, 2),
    "farthest = 16": lambda: le.t5_bucket(K, 32, 16),
    "the last axis of x = 5": lambda: le.rotary(torch.zeros(4, 5), PLACES),
    r"x = .*\(3, 6\)": lambda: le.rotary(torch.zeros(3, 6), PLACES),
    "x = .*int64": lambda: le.rotary(torch.zeros(4, 6, dtype=torch.int64), PLACES),
    "positions = tensor.*-1": lambda: le.rotary(GIVEN, PLACES - 1),
    "positions = tensor.*0, 0": lambda: le.rotary(GIVEN, PLACES * 0),
    "positions = tensor.*3, 2": lambda: le.sinusoidal(PLACES.flip(0), 8),
    "positions = tensor.*inf": lambda: le.sinusoidal(torch.tensor([0, math.inf]), 8),
    "positions = 4": lambda: le.rotary(GIVEN, 4),
    r"positions = tensor\(\[\]": lambda: le.sinusoidal(torch.tensor([]), 8),
    "gamma = 0": lambda: le.xpos_decay(8, 0),
    "scale_base = -1": lambda: le.xpos_decay(8, scale_base=-1),
    "xi = 0.0": lambda: le.xpos_scores(GIVEN, GIVEN, PLACES, PLACES, xi=0.0),
    "xi = 1.1": lambda: le.xpos_scores(GIVEN, GIVEN, PLACES, PLACES, xi=1.1),
    "xi = nan": lambda: le.xpos_scores(GIVEN, GIVEN, PLACES, PLACES, xi=math.nan),
    "xi = tensor": lambda: le.xpos_scores(GIVEN, GIVEN, PLACES, PLACES, xi=torch.ones(4)),
    r"key = \(4, 8\)": lambda: le.xpos_scores(GIVEN, torch.zeros(4, 8), PLACES, PLACES, xi=0.9),
    "key_positions = tensor.*-1": lambda: le.xpos_scores(GIVEN, GIVEN, PLACES, PLACES - 1, xi=0.9),
    r"query = .*\(4, 6\)": lambda: le.xpos_scores(GIVEN, GIVEN, PLACES[:3], PLACES, xi=0.9),
    "logits = 'NaN": lambda: le.attention_entropy(torch.full((2,), -math.inf)),
    "count = 0": lambda: le.log_scale(0, 64),
    "train_length = 1": lambda: le.log_scale(5, 1),
    "length = 0": lambda: le.causal_mask(0),
    "window = 0": lambda: le.window_mask(5, 0),
    "sinks = -1": lambda: le.sink_mask(5, 2, -1),
    "encoding = 'rope2'.*rope": lambda: init_gpt("rope2", generator=rng()),
    "dim = 12": lambda: init_gpt("none", dim=12, heads=4, generator=rng()),
    "layers = 0": lambda: init_gpt("none", layers=0, generator=rng()),
    "places = 0": lambda: init_gpt("learned", places=0, generator=rng()),
    "vocabulary = 0": lambda: init_gpt("none", vocabulary=0, generator=rng()),
    r"tokens = \(0, 5\)": lambda: gpt_logits(SMALL, torch.tensor([[0, 5]])),
    "tokens = .*int32": lambda: gpt_logits(SMALL, TOKENS.int()),
    r"tokens = .*\(5,\)": lambda: gpt_logits(SMALL, TOKENS[0]),
    "tokens = '7 of them'": lambda: gpt_logits(SMALL, torch.zeros(1, 7, dtype=torch.int64)),
    "window = 3": lambda: gpt_logits(SMALL, TOKENS, EYE, window=3),
    "window = -1": lambda: gpt_logits(SMALL, TOKENS, window=-1),
    "mask = .*float32": lambda: gpt_logits(SMALL, TOKENS, torch.eye(5)),
    r"mask = .*\(4, 4\)": lambda: gpt_logits(SMALL, TOKENS, EYE[:4, :4]),
    "mask = 'a query sees nothing, or": lambda: gpt_logits(
        SMALL, TOKENS, EYE & (TOKENS.new_tensor([[1, 1, 0, 1, 1]]) > 0)
    ),
    "mask = .* or a key after it'": lambda: gpt_attention(SMALL, TOKENS, ~EYE | EYE),
    r"scale = \(4,\)": lambda: gpt_logits(SMALL, TOKENS, scale=torch.ones(4)),
    r"scale = \(5,\)": lambda: gpt_logits(SMALL, TOKENS, scale=torch.full((5,), math.nan)),
    "last = 6": lambda: gpt_logits(SMALL, TOKENS, last=6),
    "steps = 0": lambda: le.train_gpt(SMALL, le.text_sampler(BYTES, 4), steps=0, generator=rng()),
    "warmup = 0": lambda: le.train_gpt(SMALL, le.text_sampler(BYTES, 4), steps=1, warmup=0, generator=rng()),
    "rate = -1": lambda: le.train_gpt(SMALL, le.text_sampler(BYTES, 4), steps=1, rate=-1, generator=rng()),
    r"text = .*\(50,\).*51": lambda: le.text_sampler(BYTES, 50),
    "text = .*int64": lambda: le.text_sampler(BYTES.long(), 5),
    "batch = 0": lambda: le.text_sampler(BYTES, 5, 0),
    "longest = 9": lambda: le.repeat_sampler(8, shortest=1, longest=9),
    "shortest = 5": lambda: le.repeat_sampler(8, shortest=5, longest=4),
    "vocabulary = 1": lambda: le.repeat_sampler(8, shortest=1, longest=2, vocabulary=1),
    "count = 0.*integer": lambda: le.window_ends(BYTES, 0, 5),
    r"text = .*\(50,\).*60": lambda: le.window_ends(BYTES, 10, 50),
    "targets = 6": lambda: le.loss_at_length(SMALL, BYTES, torch.tensor([9]), 5, targets=6),
    r"ends = tensor\(\[5\]\)": lambda: le.loss_at_length(SMALL, BYTES, torch.tensor([5]), 5, targets=1),
    r"ends = tensor\(\[51\]\)": lambda: le.loss_at_length(SMALL, BYTES, torch.tensor([51]), 5, targets=1),
    r"ends = tensor\(\[9\.\]\)": lambda: le.loss_at_length(SMALL, BYTES, torch.tensor([9.0]), 5, targets=1),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_refused_in_one_sentence(words):
    with pytest.raises(ValueError, match=f"^{words}") as error:
        BAD[words]()
    assert "\n" not in str(error.value)


# -- what the chapter says about its recorded run ------------------------------------------------


def test_the_full_profile_found_what_the_chapter_says():
    """Words in the chapter tell the recorded run, by Student's bounds for three seeds."""
    kept = recorded.load("length_extrapolation")
    assert kept is not None and kept.record["seeds"]["value"] == 3
    perhaps, clear = 4.303, 9.925

    def errors(name):
        entry = kept.record[f"seeds_{name}"]
        return entry["value"] / entry["error"]

    for name in ("alibi_above", "kerple_log_above", "sandwich_above"):
        assert abs(errors(name)) < perhaps
    for name in ("xpos_above", "sinusoidal_window", "sandwich_short", "rope_scaled"):
        assert perhaps < errors(name) < clear
    assert -clear < errors("kerple_power_above") < -perhaps
    for name in ("t5_above", "learned_window", "none_short", "t5_short", "alibi_scaled", "sandwich_all"):
        assert errors(name) > clear
