"""Lion: its update to the last bit, the contract of an optimiser, and the mathematics of the sign."""

import copy
import functools
import io
import itertools
import logging
import math
import pickle
import re
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import integrate, stats
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from kexue_lib import lion, recorded
from kexue_lib.lion import Lion

WAYS = {"eager": False, "fused": True, "as it comes": None}
TYPES = [torch.float32, torch.float64]
SHORT = [torch.bfloat16, torch.float16]  # no pass for these
SHAPES = [(4097,), (33, 7), (), (0, 3), (2, 3, 4, 5), (1,)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=rng(seed), dtype=dtype)


def reference(p, m, g, lr, betas, decay):
    """Follow the published program line by line: its operations, so its roundings."""
    p = p * (1 - lr * decay)
    blend = m * betas[0] + g * (1 - betas[0])
    return p.add(blend.sign(), alpha=-lr), (m * betas[1]).add(g, alpha=1 - betas[1])


def same(a, b):
    """Bit for bit, signs of zero and NaN included."""
    assert a.dtype == b.dtype and a.shape == b.shape
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.element_size()]
    return torch.equal(a.detach().contiguous().view(kind), b.detach().contiguous().view(kind))


def made(dtype=torch.float32, shapes=SHAPES, seed=0):
    generator = rng(seed)
    return [Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def gradients(params, steps, seed=1):
    """Yield gradients of all sizes, some of them zero in part or altogether, once for each step."""
    generator = rng(seed)
    for step in range(steps):
        for p in params:
            g = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            g = g * torch.rand(p.shape, generator=generator, dtype=p.dtype).round()
            p.grad = g * (0.0 if step % 7 == 3 else 10.0 ** (step % 5 - 2))
        yield step


def trained(params, steps=20, seed=1, **options):
    optimizer = Lion(params, **({"lr": 1e-2, "weight_decay": 0.1} | options))
    for _ in gradients(params, steps, seed):
        optimizer.step()
    return optimizer


def pair(optimizer):
    return [(p, optimizer.state[p]["exp_avg"]) for group in optimizer.param_groups for p in group["params"]]


def agree(one, two):
    rows = list(zip(pair(one), pair(two), strict=True))
    return rows and all(same(a, c) and same(b, d) for (a, b), (c, d) in rows)


# -- the update ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "dtype"),
    [*itertools.product(WAYS, TYPES), *itertools.product(["eager", "as it comes"], SHORT)],
)
def test_two_hundred_steps_equal_the_reference_to_the_last_bit(way, dtype):
    options = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
    other = {"lr": 3e-2, "betas": (0.95, 0.98), "weight_decay": 0.0}
    params = made(dtype)
    optimizer = Lion([{"params": params[:3]}, {"params": params[3:], **other}], **options, fused=WAYS[way])
    expected = [(p.detach().clone(), torch.zeros_like(p)) for p in params]
    for _ in gradients(params, 200):
        optimizer.step()
        for i, p in enumerate(params):
            o = options if i < 3 else other
            expected[i] = reference(*expected[i], p.grad, o["lr"], o["betas"], o["weight_decay"])
    for (p, m), (q, n) in zip(pair(optimizer), expected, strict=True):
        assert same(p, q) and same(m, n)


@pytest.mark.parametrize("dtype", TYPES)
def test_pure_update_is_that_of_the_optimiser_for_each_copy(dtype):
    rates = torch.tensor([1e-3, 3e-2, 0.3], dtype=torch.float64)[:, None, None]
    decays = torch.tensor([0.0, 0.1, 1.7])[:, None, None]
    start = normal(3, 5, 7, dtype=dtype)
    param, momentum = start, torch.zeros_like(start)
    copies = [Parameter(row.clone()) for row in start]
    rows = zip(copies, rates.flatten().tolist(), decays.flatten().tolist(), strict=True)
    optimizers = [Lion([p], lr=lr, betas=(0.8, 0.9), weight_decay=wd) for p, lr, wd in rows]
    for step in range(50):
        grad = normal(3, 5, 7, seed=step, dtype=dtype)
        param, momentum = lion.lion_update(param, momentum, grad, rates, (0.8, 0.9), decays)
        for p, g, optimizer in zip(copies, grad, optimizers, strict=True):
            p.grad = g
            optimizer.step()
    for p, optimizer, q, m in zip(copies, optimizers, param, momentum, strict=True):
        assert same(p, q) and same(optimizer.state[p]["exp_avg"], m)


def test_golden_vector_of_a_peer():
    p = Parameter(torch.ones(1))
    optimizer = Lion([p], lr=1e-3)
    for step, slope in enumerate([0.01, *(k / 10 for k in range(1, 11))], 1):
        p.grad = torch.full((1,), slope)
        optimizer.step()
        assert p.item() == pytest.approx(1 - step / 1000, abs=3e-7)


@pytest.mark.parametrize("way", WAYS)
def test_a_tie_moves_nothing_and_still_decays(way):
    p = Parameter(torch.tensor([1.0, 1.0, -0.0], dtype=torch.float64))
    optimizer = Lion([p], lr=0.25, betas=(0.5, 0.5), weight_decay=0.5, fused=WAYS[way])
    p.grad = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    optimizer.step()
    assert p.tolist() == [1 * 0.875 - 0.25, 0.875, 0] and math.copysign(1, p[2].item()) == -1
    p.grad = torch.tensor([-0.5, 0.0, 0.0], dtype=torch.float64)  # 0.5 * 0.5 - 0.5 * 0.5
    optimizer.step()
    assert p.tolist() == [0.625 * 0.875, 0.875**2, 0]
    assert optimizer.state[p]["exp_avg"].tolist() == [0, 0, 0]


def test_ties_in_exact_numbers_are_broken_as_the_reference_breaks_them():
    """From momentum 0 the second mean is 0.9 * 0.01 g - 0.1 * 0.09 g: its sign is rounding, all of it."""
    first = normal(20_000, dtype=torch.float32)
    moved = {}
    for way, fused in WAYS.items():
        p = Parameter(torch.zeros(20_000))
        optimizer = Lion([p], lr=1.0, fused=fused)
        q, m = torch.zeros(20_000), torch.zeros(20_000)
        for g in (first, -0.09 * first):
            p.grad = g
            optimizer.step()
            q, m = reference(q, m, g, 1.0, (0.9, 0.99), 0.0)
        assert same(p, q)
        moved[way] = q + first.sign()
    assert {-1.0, 0.0, 1.0} == set(moved["fused"].tolist())
    with_lerp = -torch.lerp(0.01 * first, -0.09 * first, 0.1).sign()
    assert (with_lerp != moved["fused"]).float().mean() > 0.05


def test_the_pass_on_several_threads(monkeypatch):
    class Late(threading.Thread):
        def run(self):
            time.sleep(0.05)
            super().run()

    monkeypatch.setattr(lion.threading, "Thread", Late)
    threads = torch.get_num_threads()
    count = 5 * lion._SHARE // 2
    start, g = normal(count, dtype=torch.float32), normal(count, seed=1, dtype=torch.float32)
    sizes = [1, 12345, lion._SHARE + 3, 0, 777]
    expected = [reference(start, torch.zeros(count), g, 1e-3, (0.9, 0.99), 0.1)]
    try:
        for use in (1, 2, 5):
            torch.set_num_threads(use)
            params = [Parameter(x.clone()) for x in start.split([*sizes, count - sum(sizes)])]
            for p, slope in zip(params, g.split([*sizes, count - sum(sizes)]), strict=True):
                p.grad = slope
            optimizer = Lion(params, lr=1e-3, weight_decay=0.1, fused=True)
            optimizer.step()
            for i, whole in enumerate(expected[0]):
                assert same(torch.cat([row[i].detach() for row in pair(optimizer)]), whole)
    finally:
        torch.set_num_threads(threads)


KINDS = ["plain", "transposed", "every other", "channels last"]


def strided(kind, shape, generator):
    """Return a tensor of the shape with other strides than usual."""
    full = torch.randn(shape, generator=generator)
    if kind == "transposed":
        return full.transpose(0, -1).contiguous().transpose(0, -1) if shape else full
    if kind == "every other":
        return torch.randn([*shape, 2], generator=generator)[..., 0]
    if kind == "channels last" and len(shape) == 4:
        return full.contiguous(memory_format=torch.channels_last)
    return full


@settings(max_examples=60, deadline=None)
@given(
    some.lists(some.integers(0, 5), max_size=4),
    some.lists(some.sampled_from(KINDS), min_size=2, max_size=2),
    some.sampled_from([None, False]),
    some.booleans(),
    some.integers(0, 99),
)
def test_shapes_and_strides(shape, kinds, fused, maximize, seed):
    generator = rng(seed)
    p = Parameter(strided(kinds[0], shape, generator))
    optimizer = Lion([p], lr=0.1, weight_decay=0.1, fused=fused, maximize=maximize)
    q, m = p.detach().clone(), torch.zeros(shape)
    layout = p.stride()
    for kind in kinds[::-1]:
        p.grad = strided(kind, shape, generator)
        optimizer.step()
        q, m = reference(q, m, -p.grad if maximize else p.grad, 0.1, (0.9, 0.99), 0.1)
    assert p.stride() == layout and same(p, q) and same(optimizer.state[p]["exp_avg"], m)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2)])
def test_gradient_and_momentum_laid_out_unlike_the_parameter(kind, shape):
    """Gradients come from any program, and a momentum from the checkpoint of a model in another layout."""
    for other, third in itertools.product(KINDS, KINDS):
        p, g, m = (strided(name, shape, rng(i)) for i, name in enumerate((kind, other, third)))
        q, n = reference(p, m, g, 0.1, (0.9, 0.99), 0.1)
        p = Parameter(p)
        p.grad = g
        optimizer = Lion([p], lr=0.1, weight_decay=0.1)
        optimizer.state[p]["exp_avg"] = m
        optimizer.step()
        assert same(p, q) and same(m, n)


def test_parameters_that_are_views_of_one_buffer_and_their_neighbours():
    buffer = normal(100, dtype=torch.float32)
    before = buffer.clone()
    p, q = Parameter(buffer[10:30]), Parameter(buffer[50:80].view(5, 6))
    p.grad, q.grad = torch.ones(20), torch.ones(5, 6)
    Lion([p, q], lr=0.5).step()
    moved = buffer - before
    assert torch.allclose(moved[10:30], torch.tensor(-0.5)) and torch.allclose(moved[50:80], moved[10])
    assert not moved[:10].any() and not moved[30:50].any() and not moved[80:].any()


def test_what_lies_negated_in_memory():
    p = Parameter(torch.zeros(4))
    p.grad = torch._neg_view(torch.ones(4))
    assert p.grad.is_neg() and p.grad.is_contiguous()
    Lion([p], lr=1.0).step()
    assert p.tolist() == [1, 1, 1, 1]


def test_the_pass_makes_no_tensor():
    class Count(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.made += not str(function).startswith("profiler.")
            return function(*args, **(kwargs or {}))

    made_by = {}
    for way, fused in WAYS.items():
        params = made()
        optimizer = trained(params, 1, fused=fused)
        with Count() as count:
            optimizer.step()
        made_by[way] = count.made
    assert made_by["fused"] == made_by["as it comes"] == 0 < made_by["eager"]


# -- peers ---------------------------------------------------------------------------------------


def peer_lion_pytorch(params, lr, weight_decay):
    return pytest.importorskip("lion_pytorch").Lion(params, lr=lr, weight_decay=weight_decay)


def peer_pytorch_optimizer(params, lr, weight_decay):
    module = pytest.importorskip("pytorch_optimizer")
    return module.Lion(params, lr=lr, weight_decay=weight_decay, foreach=False)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("peer", [peer_lion_pytorch, peer_pytorch_optimizer])
def test_peers_in_torch(peer, dtype):
    ours, theirs = made(dtype), made(dtype)
    optimizer = peer(theirs, 1e-2, 0.1)
    for _ in gradients(theirs, 200):
        optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert not same(p, q) or p.numel() == 0
    trained(ours, 200)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def test_peer_in_jax():
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    (p,) = params = made(torch.float64, [(50, 3)])
    with jax.enable_x64(True):
        x = jax.numpy.asarray(p.detach().numpy())
        transform = optax.lion(1e-2, b1=0.9, b2=0.99, weight_decay=0.1)
        update, state = jax.jit(transform.update), transform.init(x)
        for _ in gradients(params, 100):
            change, state = update(jax.numpy.asarray(p.grad.numpy()), state, x)
            x = optax.apply_updates(x, change)
        x = torch.tensor(np.asarray(x))
    trained(params, 100)
    torch.testing.assert_close(p.detach(), x, rtol=0, atol=1e-13)


def test_checkpoints_go_to_a_peer_and_back():
    ours, theirs = made(), made()
    first = trained(ours, 10)
    second = peer_lion_pytorch(theirs, 9.0, 9.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    with torch.no_grad():
        for p, q in zip(theirs, ours, strict=True):
            p.copy_(q)
    for _ in gradients(theirs, 10, seed=2):
        second.step()
    third = Lion(theirs, lr=9.0)
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    for _ in gradients(theirs, 10, seed=3):
        third.step()
    for seed in (2, 3):
        for _ in gradients(ours, 10, seed=seed):
            first.step()
    assert agree(first, third)


# -- the contract of an optimiser ----------------------------------------------------------------


@pytest.mark.parametrize("reader", WAYS)
@pytest.mark.parametrize("writer", WAYS)
def test_a_checkpoint_continues_the_path_in_any_way(writer, reader):
    straight = made()
    one = trained(straight, 10)
    other = made()
    file = io.BytesIO()
    saved = trained(other, 10, fused=WAYS[writer])
    torch.save({"model": other, "optimizer": saved.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    params = [Parameter(p.detach().clone()) for p in loaded["model"]]
    resumed = Lion(params, lr=7.0, weight_decay=7.0, betas=(0.1, 0.1), fused=WAYS[reader])
    resumed.load_state_dict(loaded["optimizer"])
    assert resumed.fused is WAYS[reader]
    for each, optimizer in ((straight, one), (params, resumed)):
        for _ in gradients(each, 10, seed=5):
            optimizer.step()
    assert agree(one, resumed)


def test_a_checkpoint_is_as_large_as_the_momentum():
    params = made(shapes=[(1000, 100), (1000,), (7,)])
    optimizer = trained(params, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    numbers = sum(p.numel() for p in params)
    assert 4 * numbers == lion.state_bytes(optimizer) <= file.tell() < 4 * numbers + 5000
    # One buffer, where Adam has two and counts steps.
    adam = torch.optim.AdamW(params)
    adam.step()
    assert lion.state_bytes(adam) == 8 * numbers + 4 * len(params)
    assert lion.state_bytes(Lion(params)) == 0
    optimizer.state[params[1]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"][0, :10]
    assert lion.state_bytes(optimizer) == 4 * (numbers - 1000)


def test_a_checkpoint_in_the_layout_of_the_reference():
    """There the groups know neither maximize nor fused."""
    (p,) = params = made(shapes=[(5,)])
    state = {
        "state": {0: {"exp_avg": torch.arange(5.0)}},
        "param_groups": [{"lr": 0.5, "betas": (0.0, 0.5), "weight_decay": 0.0, "params": [0]}],
    }
    optimizer = Lion(params)
    optimizer.load_state_dict(state)
    before = p.detach().clone()
    p.grad = torch.tensor([-1.0, -1, -1, 1, 1])
    optimizer.step()
    assert same(p, before + torch.tensor([0.5, 0.5, 0.5, -0.5, -0.5]))
    assert optimizer.state[p]["exp_avg"].tolist() == [-0.5, 0, 0.5, 2, 2.5]
    assert set(optimizer.state_dict()["state"][0]) == {"exp_avg"}


def test_a_checkpoint_of_another_shape_is_refused():
    one, two = trained(made(shapes=[(2, 3)]), 1), trained(made(shapes=[(3, 2)]), 1)
    before = copy.deepcopy(two.state_dict())
    with pytest.raises(ValueError, match=re.escape("exp_avg.shape = (2, 3): expected (3, 2), as its")):
        two.load_state_dict(one.state_dict())
    assert same(two.state_dict()["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_groups_have_options_of_their_own():
    a, b, c, d = params = [Parameter(torch.ones(2)) for _ in range(4)]
    groups = [
        {"params": [a]},
        {"params": [b], "lr": 0.25, "weight_decay": 0.0},
        {"params": [c], "maximize": True},
    ]
    optimizer = Lion(groups, lr=0.5, weight_decay=0.5)
    for p in params:
        p.grad = torch.ones(2)
    optimizer.step()
    assert [p[0].item() for p in params] == [0.25, 0.75, 1.25, 1.0]
    optimizer.add_param_group({"params": [d], "betas": (0.0, 0.0)})
    d.grad = torch.tensor([-1.0, 3.0])
    optimizer.step()
    assert d.tolist() == [1.25, 0.25] and optimizer.state[d]["exp_avg"].tolist() == [-1, 3]
    assert optimizer.param_groups[3]["lr"] == 0.5


@pytest.mark.parametrize("way", WAYS)
def test_maximize_is_descent_of_the_negated_gradient(way):
    up, down = made(), made()
    one = Lion(up, lr=0.1, weight_decay=0.2, maximize=True, fused=WAYS[way])
    two = Lion(down, lr=0.1, weight_decay=0.2, fused=WAYS[way])
    for _ in gradients(up, 5):
        for p, q in zip(up, down, strict=True):
            q.grad = -p.grad
        one.step()
        two.step()
    assert agree(one, two)


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_without_gradient_is_left_alone(way):
    a, b = made(shapes=[(3,), (4,)])
    before = b.detach().clone()
    optimizer = Lion([a, b], weight_decay=1.0, fused=WAYS[way])
    a.grad = torch.ones(3)
    optimizer.step()
    assert same(b, before) and b not in optimizer.state and a in optimizer.state
    optimizer.zero_grad()
    assert a.grad is None
    before = a.detach().clone()
    optimizer.step()
    assert same(a, before)
    a.grad = torch.ones(3)
    optimizer.zero_grad(set_to_none=False)
    assert a.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_rosenbrock(way):
    """A valley with a bend, from (1.5, 1.5) to the minimum at (1, 1), with a rate that falls."""
    p = Parameter(torch.tensor([1.5, 1.5]))
    optimizer = Lion([p], lr=1e-2, fused=WAYS[way])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)

    def loss():
        optimizer.zero_grad()
        x, y = p
        value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        value.backward()
        return value

    start = loss().item()
    for _ in range(800):
        value = optimizer.step(loss)
        schedule.step()
    assert start > 50 and value.item() < 1e-2
    torch.testing.assert_close(p.detach(), torch.ones(2), atol=0.1, rtol=0)


def test_the_closure_runs_once_before_the_step_with_gradients():
    p = Parameter(torch.tensor([3.0]))
    optimizer = Lion([p], lr=1.0)
    seen = []

    def closure():
        assert torch.is_grad_enabled()
        seen.append(p.item())
        optimizer.zero_grad()
        value = (p**2).sum()
        value.backward()
        return value.item()

    assert optimizer.step(closure) == 9.0 and seen == [3.0] and p.item() == 2.0
    assert optimizer.step() is None


def test_schedulers_change_the_rate():
    p = Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Lion([p], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(4):
        p.grad = torch.ones_like(p)
        optimizer.step()
        schedule.step()
    assert p.item() == -(1 + 0.5 + 0.25 + 0.125)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_rate_may_be_a_tensor(way, shape):
    p = Parameter(torch.zeros(2, dtype=torch.float64))
    rate = torch.full(shape, 0.5)
    optimizer = Lion([p], lr=rate, fused=WAYS[way])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        p.grad = torch.tensor([1.0, -1.0], dtype=torch.float64)
        optimizer.step()
        schedule.step()
    assert p.tolist() == [-0.875, 0.875] and optimizer.param_groups[0]["lr"] == 0.0625


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_their_own_way(copied, way):
    params = made()
    optimizer = trained(params, 5, fused=WAYS[way])
    (optimizer2, params2) = copied((optimizer, params))
    assert optimizer2.fused is WAYS[way] and agree(optimizer, optimizer2)
    for _ in gradients(params2, 5, seed=2):
        optimizer2.step()
    assert not agree(optimizer, optimizer2)
    for _ in gradients(params, 5, seed=2):
        optimizer.step()
    assert agree(optimizer, optimizer2)


@pytest.mark.parametrize("way", ["eager", "as it comes"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_momentum_follows_a_model_to_another_type(dtype, way):
    model = torch.nn.Linear(4, 3)
    optimizer = Lion(model.parameters(), lr=0.1, fused=WAYS[way])
    expected = {}
    for step in range(4):
        if step == 2:
            expected = {p: m.to(dtype) for p, m in pair(optimizer)}
            model.to(dtype)
        for i, p in enumerate(model.parameters()):
            p.grad = normal(*p.shape, seed=10 * step + i, dtype=p.dtype)
            if step >= 2:
                expected[p] = (expected[p] * 0.99).add(p.grad, alpha=1 - 0.99)
        optimizer.step()
    for p, m in pair(optimizer):
        assert m.dtype == p.dtype == dtype and same(m, expected[p])


def test_references_to_parameters_and_loading_a_model_stay_good():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    held = list(model.parameters())
    places = [p.data_ptr() for p in held]
    optimizer = Lion(model.parameters(), lr=0.5, fused=True)
    saved = copy.deepcopy(model.state_dict())
    for p in held:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [p.data_ptr() for p in model.parameters()] == places
    model.load_state_dict(saved)
    optimizer.step()
    for p, start in zip(held, saved.values(), strict=True):
        assert torch.equal(p, start - 0.5)
    for p in held:
        p.data = torch.zeros_like(p)
    optimizer.step()
    assert all((p == -0.5).all() for p in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_autograd_notices_the_step(way):
    """A graph that kept the old values must not run backward through the new ones."""
    p = Parameter(torch.ones(3))
    optimizer = Lion([p], fused=WAYS[way])
    kept = (p**2).sum()
    p.grad = torch.ones(3)
    version = p._version
    optimizer.step()
    assert p._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_types_mixed_in_one_group():
    types = [torch.float32, torch.bfloat16, torch.float64, torch.float32]
    one, two = ([p for dtype in types for p in made(dtype, [(20,), (3, 3)])] for _ in range(2))
    optimizer = trained(one, 30)
    assert all(m.dtype == p.dtype for p, m in pair(optimizer))
    assert agree(optimizer, trained(two, 30, fused=False))


def test_bfloat16_serves_the_momentum_but_not_the_parameter():
    g = normal(200, 2000, dtype=torch.float32) + 0.02
    short, long = torch.zeros(2000, dtype=torch.bfloat16), torch.zeros(2000)
    equal = 0.0
    for row in g:
        signs = [(m * 0.9 + x * 0.1).sign() for m, x in ((short, row.bfloat16()), (long, row))]
        equal += signs[0].eq(signs[1]).float().mean().item()
        short = lion.lion_update(short, short, row.bfloat16(), 0.0)[1]
        long = lion.lion_update(long, long, row, 0.0)[1]
    assert equal / 200 > 0.98
    for size, moves in ((0.03, True), (0.04, False), (1.0, False)):
        p = Parameter(torch.full((1,), size, dtype=torch.bfloat16))
        before = p.item()
        p.grad = torch.ones_like(p)
        Lion([p], lr=1e-4).step()
        assert (p.item() != before) is moves


def test_grad_scaler_skips_steps_that_overflow():
    p = Parameter(torch.ones(2))
    optimizer = Lion([p], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for factor, expected in ((1.0, 0.5), (math.inf, 0.5), (math.nan, 0.5), (1.0, 0.0)):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert p.tolist() == [expected] * 2
    assert scaler.get_scale() == 1.0
    assert optimizer.state[p]["exp_avg"].tolist() == pytest.approx([0.01 * 1.99] * 2)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_stays_in_the_momentum(way):
    p = Parameter(torch.zeros(4))
    optimizer = Lion([p], lr=1.0, weight_decay=0.0, fused=WAYS[way])
    for g in ([math.nan, math.inf, -math.inf, 1.0], [1.0, -1e9, 1e9, 1.0], [1.0, -1e9, math.inf, 1.0]):
        p.grad = torch.tensor(g)
        optimizer.step()
    assert p.tolist()[:2] == [0.0, -3.0] and p.tolist()[3] == -3.0 and torch.isfinite(p).all()
    finite = torch.isfinite(optimizer.state[p]["exp_avg"])
    assert finite.tolist() == [False, False, False, True]


def test_sparse_gradients_are_refused_before_anything_is_changed():
    a, b = Parameter(torch.ones(3)), Parameter(torch.ones(3, 2))
    optimizer = Lion([a, b])
    a.grad, b.grad = torch.ones(3), torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match=r"grad\.layout = torch\.sparse_coo: expected dense gradients"):
        optimizer.step()
    assert a.tolist() == [1, 1, 1] and not optimizer.state


def test_hooks_and_names():
    p = Parameter(torch.ones(1))
    seen = []
    optimizer = Lion([("weight", p)], lr=0.5)
    optimizer.register_step_pre_hook(lambda *_: seen.append(p.item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(p.item()))
    p.grad = torch.ones(1)
    optimizer.step()
    assert seen == [1.0, 0.5] and optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight"]


def test_a_function_that_torch_traces():
    p, q = (Parameter(torch.ones(3)) for _ in range(2))
    one, two = Lion([p], lr=0.25, weight_decay=0.5), Lion([q], lr=0.25, weight_decay=0.5)
    p.grad, q.grad = torch.tensor([1.0, 0, -1]), torch.tensor([1.0, 0, -1])
    traced = torch.compile(one.step, backend="eager")
    for _ in range(2):
        traced()
        two.step()
    assert same(p, q)


def test_one_line_says_which_way_it_goes(caplog, monkeypatch):
    lion._kernel.cache_clear()
    with caplog.at_level(logging.INFO, "kexue_lib.lion"):
        trained(made(), 3)
        trained(made(), 3)
    assert [r.getMessage() for r in caplog.records] == ["Lion, torch.float32: one pass compiled by numba"]
    caplog.clear()

    def broken(*_, **__):
        raise OSError("no such processor")

    monkeypatch.setattr(lion, "_kernel", functools.cache(lion._kernel.__wrapped__))
    monkeypatch.setattr(lion.numba, "cfunc", broken)
    params = made()
    with caplog.at_level(logging.INFO, "kexue_lib.lion"):
        optimizer = trained(params, 3)
        with pytest.raises(ValueError, match=re.escape("no pass for torch.float32 on cpu")):
            Lion(made(), fused=True)
    assert agree(optimizer, trained(made(), 3, fused=False))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "no such processor" in record.getMessage()


def test_machine_code_without_a_folder(monkeypatch):
    """As on a disk that nobody may write to."""
    made_by_numba = lion.numba.cfunc

    def cfunc(signature, cache=False):
        if cache:
            raise RuntimeError("cannot cache function")
        return made_by_numba(signature)

    monkeypatch.setattr(lion, "_kernel", functools.cache(lion._kernel.__wrapped__))
    monkeypatch.setattr(lion.numba, "cfunc", cfunc)
    one = trained(made(shapes=[(9,)]), 3, fused=True)
    assert agree(one, trained(made(shapes=[(9,)]), 3, fused=False))


BAD = {
    "lr = -0.1: expected a finite number in [0, inf]": {"lr": -0.1},
    "lr = nan: expected": {"lr": math.nan},
    "lr = 'fast': expected": {"lr": "fast"},
    "lr = True: expected": {"lr": True},
    "lr = tensor([0.1000, 0.2000]): expected a number or": {"lr": torch.tensor([0.1, 0.2])},
    "lr = -1.0: expected": {"lr": torch.tensor(-1.0)},
    "betas = (0.9, 1.0): expected two numbers in [0, 1)": {"betas": (0.9, 1.0)},
    "betas = (-0.1, 0.9): expected": {"betas": (-0.1, 0.9)},
    "betas = 0.9: expected": {"betas": 0.9},
    "betas = (0.9, 0.99, 0.999): expected": {"betas": (0.9, 0.99, 0.999)},
    "betas = (nan, 0.9): expected": {"betas": (math.nan, 0.9)},
    "weight_decay = -1.0: expected": {"weight_decay": -1.0},
    "weight_decay = inf: expected": {"weight_decay": math.inf},
    "maximize = 1: expected False or True": {"maximize": 1},
    "fused = 'yes': expected None, False or True": {"fused": "yes"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_are_refused(message):
    option = BAD[message]
    p = Parameter(torch.ones(2))
    with pytest.raises(ValueError) as caught:
        Lion([p], **option)
    assert str(caught.value).startswith(message)
    if "fused" in option:
        return
    with pytest.raises(ValueError):  # also where no group needs it
        Lion([{"params": [p], "lr": 0.1, "betas": (0, 0), "weight_decay": 0.0, "maximize": False}], **option)
    optimizer = Lion([p])
    with pytest.raises(ValueError) as caught:
        optimizer.add_param_group({"params": [Parameter(torch.ones(2))], **option})
    assert str(caught.value).startswith(message) and len(optimizer.param_groups) == 1


def test_parameters_that_do_not_fit():
    with pytest.raises(ValueError, match=r"param\.dtype = torch\.complex64: expected a real floating type"):
        Lion([Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(
        ValueError, match=re.escape("fused = True: expected None or False: no pass for torch.bfloat16")
    ):
        Lion([Parameter(torch.ones(2, dtype=torch.bfloat16))], fused=True)
    with pytest.raises(ValueError, match=re.escape("no pass for torch.float32 on meta")):
        Lion([Parameter(torch.ones(2, device="meta"))], fused=True)
    assert Lion([Parameter(torch.ones(2))], lr=0, betas=(0, 0)).param_groups[0]["lr"] == 0


# -- other single steps --------------------------------------------------------------------------


def by_torch(kind, p, steps, **options):
    """Run an optimiser of torch; return the parameter after each step."""
    p, rows = Parameter(p.clone()), []
    optimizer = kind([p], **options)
    for step in range(steps):
        p.grad = normal(*p.shape, seed=step) * (1 + step % 3) + p.detach() / 10
        optimizer.step()
        rows.append(p.detach().clone())
    return torch.stack(rows)


def slopes(p, step):
    return normal(*p.shape[1:], seed=step) * (1 + step % 3) + p / 10


GRID = [(0.1, 0.0), (0.01, 0.3), (0.3, 1.1)]


def columns():
    return (torch.tensor(column, dtype=torch.float64)[:, None, None] for column in zip(*GRID, strict=True))


def test_adamw_of_many_copies():
    start = normal(4, 5)
    rates, decays = columns()
    p = start.expand(3, 4, 5)
    first, second = torch.zeros_like(p), torch.zeros_like(p)
    for step in range(40):
        g = slopes(p, step)
        p, first, second = lion.adamw_update(p, first, second, g, step + 1, rates, (0.8, 0.97), 1e-3, decays)
    for row, (lr, decay) in zip(p, GRID, strict=True):
        options = {"lr": lr, "weight_decay": decay, "betas": (0.8, 0.97), "eps": 1e-3}
        expected = by_torch(torch.optim.AdamW, start, 40, **options)[-1]
        torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-14)


def test_sgd_of_many_copies():
    start = normal(4, 5)
    rates, decays = columns()
    p = start.expand(3, 4, 5)
    momentum = torch.zeros_like(p)
    for step in range(40):
        p, momentum = lion.sgd_update(p, momentum, slopes(p, step), rates, 0.8, decays)
    for row, (lr, decay) in zip(p, GRID, strict=True):
        expected = by_torch(torch.optim.SGD, start, 40, lr=lr, weight_decay=decay, momentum=0.8)[-1]
        torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-14)


def test_signum_is_lion_with_equal_rates():
    start = normal(4, 5)
    rates, decays = columns()
    p = start.expand(3, 4, 5)
    momentum = torch.zeros_like(p)
    for step in range(40):
        p, momentum = lion.signum_update(p, momentum, slopes(p, step), rates, 0.8, decays)
    for row, (lr, decay) in zip(p, GRID, strict=True):
        equal = by_torch(Lion, start, 40, lr=lr, weight_decay=decay, betas=(0.8, 0.8))[-1]
        assert torch.equal(row, equal)
        other = by_torch(Lion, start, 40, lr=lr, weight_decay=decay, betas=(0.8, 0.9))[-1]
        assert not torch.allclose(row, other)


def test_updates_leave_their_arguments_alone_and_keep_the_type():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        p, g, zero = normal(3, dtype=dtype), normal(3, seed=1, dtype=dtype), torch.zeros(3, dtype=dtype)
        kept = p.clone(), g.clone()
        rate = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        found = [
            *lion.lion_update(p, zero, g, rate, weight_decay=rate),
            *lion.signum_update(p, zero, g, rate, weight_decay=rate),
            *lion.adamw_update(p, zero, zero, g, 1, rate, weight_decay=rate),
            *lion.sgd_update(p, zero, g, rate, weight_decay=rate),
        ]
        assert {t.dtype for t in found} == {dtype}
        assert same(p, kept[0]) and same(g, kept[1]) and not zero.any()


def test_defaults_are_those_of_the_optimisers():
    p, g, zero = normal(3), normal(3, seed=1), torch.zeros(3, dtype=torch.float64)
    for kind, options, found in (
        (Lion, {}, lion.lion_update(p, zero, g, 0.1)),
        (torch.optim.AdamW, {"weight_decay": 0.0}, lion.adamw_update(p, zero, zero, g, 1, 0.1)),
        (torch.optim.SGD, {"momentum": 0.9}, lion.sgd_update(p, zero, g, 0.1)),
    ):
        q = Parameter(p.clone())
        q.grad = g
        optimizer = kind([q], lr=0.1, **options)
        optimizer.step()
        torch.testing.assert_close(found[0], q.detach(), rtol=1e-14, atol=0)
        values = [v for v in optimizer.state[q].values() if torch.is_tensor(v) and v.dim()]
        for ours, theirs in zip(found[1:], values, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
    found = lion.signum_update(p, zero, g, 0.1)
    assert same(found[1], 0.1 * g) or torch.allclose(found[1], 0.1 * g, rtol=1e-14, atol=0)
    assert torch.equal(found[0], p - 0.1 * g.sign())


# -- mathematics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_the_size_of_the_gradient_does_not_matter(factor):
    start = normal(50)
    scale = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    one = lion.lion_path(lambda x: scale * x, start, 60, 0.01, weight_decay=0.1)
    two = lion.lion_path(lambda x: factor * (scale * x), start, 60, 0.01, weight_decay=0.1)
    assert torch.equal(one, two)


def test_path_and_its_rates():
    start = normal(3, 2)
    points = lion.lion_path(torch.ones_like, start, 4, 0.25)
    assert points.shape == (5, 3, 2)
    steps = torch.arange(5, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(points, start - 0.25 * steps, rtol=0, atol=1e-15)
    rates = [0.5, 0.25, 0.0]
    for lr in (rates, tuple(rates), torch.tensor(rates)):
        points = lion.lion_path(torch.ones_like, torch.zeros(1), 3, lr)
        assert points.flatten().tolist() == [0, -0.5, -0.75, -0.75]
    assert lion.lion_path(torch.ones_like, start, 0, 0.1).shape == (1, 3, 2)
    for short_or_long in ([0.1], [0.1] * 4, torch.ones(4)):
        with pytest.raises(ValueError, match=r"lr = .*: expected a number or 3 numbers, one for each step"):
            lion.lion_path(torch.ones_like, start, 3, short_or_long)
    with pytest.raises(ValueError, match="steps = -1: expected"):
        lion.lion_path(torch.ones_like, start, -1, 0.1)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.5, 0.5), (0.0, 0.7), (0.8, 0.0)])
def test_kernel_is_the_impulse_response(betas):
    """One gradient 1, then zeros: the mean whose sign is taken shows the weights one after the other."""
    count, weights, m = 60, [], torch.zeros((), dtype=torch.float64)
    for step in range(count):
        g = torch.tensor(float(step == 0), dtype=torch.float64)
        weights.append(betas[0] * m + (1 - betas[0]) * g)
        m = lion.lion_update(m, m, g, 0.0, betas)[1]
    kernel = lion.lion_kernel(betas, count)
    torch.testing.assert_close(kernel, torch.stack(weights), rtol=1e-12, atol=1e-300)
    long = lion.lion_kernel(betas, 5000)
    lags = torch.arange(5000, dtype=torch.float64)
    assert long.sum().item() == pytest.approx(1, abs=1e-12)
    assert (lags * long).sum().item() == pytest.approx(lion.mean_lag(betas), abs=1e-9)
    assert long.square().sum().item() == pytest.approx(lion.noise_factor(betas), rel=1e-12)


def test_known_numbers_of_kernel_and_sizes():
    assert lion.mean_lag((0.9, 0.99)) == pytest.approx(90) and lion.mean_lag((0.95, 0.98)) == pytest.approx(
        47.5
    )
    assert lion.noise_factor((0.9, 0.99)) == pytest.approx(0.0140704, abs=5e-8)
    assert lion.noise_factor((0.95, 0.98)) == pytest.approx(0.0116162, abs=5e-8)
    for beta in (0.0, 0.3, 0.9, 0.99):
        assert lion.noise_factor((beta, beta)) == pytest.approx((1 - beta) / (1 + beta), rel=1e-12)
    assert lion.adam_rms() == pytest.approx(0.2294157, abs=5e-8)
    assert lion.adam_bound() == pytest.approx(7.27, abs=5e-3)
    with pytest.raises(ValueError, match=r"betas = \(0.9, 0.8\): expected betas\[0\]\*\*2 < betas\[1\]"):
        lion.adam_bound((0.9, 0.8))
    with pytest.raises(ValueError, match=r"betas = .*: expected two numbers"):
        lion.lion_kernel((0.9, 1.0), 5)
    with pytest.raises(ValueError, match="lags = 0: expected an integer >= 1"):
        lion.lion_kernel((0.9, 0.99), 0)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.7), (0.5, 0.9)])
def test_bound_of_adam_is_attained_and_never_passed(betas):
    """By gradients that were larger, by beta1 / beta2 for each step, the longer ago."""
    worst = (betas[0] / betas[1]) ** torch.arange(299, -1, -1, dtype=torch.float64)
    bound, zero = lion.adam_bound(betas), torch.zeros(101, dtype=torch.float64)
    state, largest = (zero, zero, zero), zero
    for step, g in enumerate(torch.cat([worst[:, None], normal(300, 100)], 1), 100_000):
        state = lion.adamw_update(zero, *state[1:], g, step, 1.0, betas, 0.0)
        largest = torch.maximum(largest, state[0].abs())
    assert (largest <= bound * (1 + 1e-12)).all()
    assert (largest > 0.999 * bound).tolist() == [True] + [False] * 100


def test_adam_in_pure_noise_has_the_rms_of_its_kernel():
    p = torch.zeros(4000, dtype=torch.float64)
    first, second, values = p, p, []
    for step in range(1, 2001):
        before = p
        g = normal(4000, seed=step)
        p, first, second = lion.adamw_update(p, first, second, g, step, 1.0, (0.9, 0.9999))
        if step % 50 == 0 and step >= 1000:
            values.append((p - before).square())
    squares = torch.stack(values)
    error = squares.mean(0).std().item() / math.sqrt(4000)
    # The second moment itself is noisy after so many steps: by 2 / (effective number of gradients).
    assert squares.mean().item() == pytest.approx(lion.adam_rms() ** 2, abs=5.85 * error + 2e-3 * 0.0526)


def test_first_step_of_adam_is_the_sign():
    g = torch.tensor([3.0, -1e-3, 7e-8, 0.0], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    found, *state = lion.adamw_update(zero, zero, zero, g, 1, 1.0, eps=0.0)
    assert torch.allclose(found[:3], torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64), rtol=1e-12, atol=0)
    for step in range(2, 30):
        found, *state = lion.adamw_update(zero, *state, g, step, 1.0, eps=0.0)
        assert torch.allclose(found[:3], -g[:3].sign(), rtol=1e-12, atol=0)


@settings(max_examples=50, deadline=None)
@given(some.floats(0.001, 0.9), some.floats(0.1, 3), some.integers(0, 999))
def test_box_attracts_and_keeps(rate, decay, seed):
    """Whatever the gradients, each coordinate's distance falls by 1 - lr * decay in each step."""
    if rate * decay > 1:
        rate = 1 / decay
    generator = rng(seed)
    points = lion.lion_path(
        lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype),
        4 / decay * normal(30, seed=seed),
        60,
        rate,
        weight_decay=decay,
    )
    distance = lion.box_distance(points, decay)
    assert (distance[1:] <= (1 - rate * decay) * distance[:-1] + 1e-12 / decay).all()
    assert distance[0].max() > 0


def test_the_worst_gradients_attain_the_rate_of_the_box():
    start = torch.tensor([5.0, -7.0], dtype=torch.float64)
    points = lion.lion_path(lambda x: -x, start, 50, 0.1, weight_decay=0.5)
    distance = lion.box_distance(points, 0.5)
    expected = distance[0] * 0.95 ** torch.arange(51, dtype=torch.float64)[:, None]
    torch.testing.assert_close(distance, expected, rtol=1e-12, atol=0)
    assert not lion.box_distance(points, 0.0).any()
    assert lion.box_distance(torch.tensor([-3.0, 0.5, 2.5]), 0.5).tolist() == [1, 0, 0.5]
    with pytest.raises(ValueError, match="weight_decay = -1: expected"):
        lion.box_distance(points, -1)


def test_no_valley_along_the_axes_is_narrow():
    """Factors that are powers of two change no rounding, so paths are the same to the last bit."""
    start, count = normal(3), 300
    rates = 0.05 * (1 - torch.arange(count) / count)
    curved = torch.tensor([1.0, 2.0**-14, 2.0**5], dtype=torch.float64)
    one = lion.lion_path(lambda x: x, start, count, rates, weight_decay=0.3)
    assert same(lion.lion_path(lambda x: curved * x, start, count, rates, weight_decay=0.3), one)
    turn = torch.linalg.qr(normal(3, 3, seed=1)).Q
    turned = lion.lion_path(
        lambda x: turn @ (curved * (turn.T @ x)), turn @ start, count, rates, weight_decay=0.3
    )
    assert not torch.allclose(turned @ turn, one, atol=0.1)


@pytest.mark.parametrize(("target", "found"), [(0.5, 0.5), (3.0, 1.0), (-0.2, -0.2)])
def test_decay_shrinks_nothing_inside_the_box(target, found):
    start = torch.zeros(1, dtype=torch.float64)
    points = lion.lion_path(lambda x: x - target, start, 1500, 0.01, weight_decay=1.0)
    mean = points[1000:].mean().item()
    assert mean == pytest.approx(found, abs=0.01)
    assert abs(mean - target / 2) > 0.08  # ridge regression of the same coefficient


@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_the_last_cycle_has_the_amplitude_of_the_rate(rate):
    points = lion.lion_path(lambda x: x, torch.tensor([0.3337], dtype=torch.float64), int(3 / rate), rate)
    end = points[-int(1 / rate) :]
    assert (end.max() - end.min()).item() / 2 / rate == pytest.approx(1, abs=1e-6)


def test_drift_is_the_mean_sign():
    for batch, known in ((1, 0.01596), (64, 0.12712), (256, 0.25103), (4096, 0.79945)):
        assert lion.sign_drift(0.02, 1.0, batch).item() == pytest.approx(known, abs=5e-6)
        spread = 1 / math.sqrt(batch)
        density = functools.partial(stats.norm.pdf, loc=0.02, scale=spread)
        right = integrate.quad(density, 0, 0.02 + 12 * spread, epsabs=1e-13, points=[0.02])[0]
        assert lion.sign_drift(0.02, 1.0, batch).item() == pytest.approx(2 * right - 1, abs=1e-9)
    means, sizes = torch.tensor([[-0.3], [0.0], [0.1]]), torch.tensor([1, 16])
    table = lion.sign_drift(means, 0.7, sizes)
    assert table.dtype == torch.float64 and table.shape == (3, 2)
    sample = 0.7 * normal(16, 3, 40_000).cumsum(0)[[0, 15]]
    sample += means.double() * torch.tensor([1.0, 16.0])[:, None, None]
    signs = sample.sign()
    error = signs.std(-1) / math.sqrt(40_000)
    assert (((signs.mean(-1) - table.T).abs()) < 5.85 * error).all()
    with pytest.raises(ValueError, match=re.escape("std = 0.0: expected numbers > 0")):
        lion.sign_drift(0.1, 0.0)
    with pytest.raises(ValueError, match=re.escape("batch = -2.0: expected numbers > 0")):
        lion.sign_drift(0.1, 1.0, torch.tensor([4, -2]))


def test_rule_of_thumb():
    lr, decay = lion.amos_rule(1.11e-3, 1 / math.sqrt(768))
    assert lr == pytest.approx(4.005e-5, rel=1e-3) and decay == pytest.approx(0.01538, rel=1e-3)
    for step, kappa, q in itertools.product((0, 7), (0.0, 0.5), (1.0, 3.0)):
        lr, decay = lion.amos_rule(1e-3, 0.04, step, kappa=kappa, q=q)
        assert lr * decay == pytest.approx(1e-6 / (2 * q) / (kappa * step + 1), rel=1e-12)
        assert lr == pytest.approx(1e-3 * 0.04 / (kappa * step + 1), rel=1e-12)
    for name, bad in (("relative", (0.0, 1.0)), ("scale", (0.1, -1.0)), ("step", (0.1, 1.0, -1))):
        with pytest.raises(ValueError, match=f"{name} = "):
            lion.amos_rule(*bad)
    for name in ("kappa", "q"):
        with pytest.raises(ValueError, match=f"{name} = "):
            lion.amos_rule(0.1, 1.0, **{name: -1.0})


# -- what the chapter says about its recorded run ------------------------------------------------


def test_the_full_profile_found_what_the_chapter_says():
    """Words in the chapter tell the recorded run; when it is made anew, they must still be true."""
    kept = recorded.load("lion")
    assert kept is not None and kept.seconds < 45 * 60
    value = {name: entry["value"] for name, entry in kept.record.items()}
    gap = {
        m: value[f"text_{m}_gap"] / kept.record[f"text_{m}_gap"]["error"] for m in ("lion", "signum", "sgd")
    }
    assert gap["sgd"] > 5 and gap["lion"] > 4 and abs(gap["signum"]) < 2
    for method in ("lion", "adamw", "signum", "sgd"):
        best, *others = (value[f"text_{method}_{what}"] for what in ("tuned", "half", "double", "plain"))
        assert best < min(others)
        assert value[f"text_{method}_decay"] > 0
    assert value["text_lion_decay"] > 10 * value["text_adamw_decay"]
    assert 3 < value["text_ratio_plain"] < 10 and value["text_ratio"] == pytest.approx(1, abs=0.2)
    tuned, plain = (value[f"text_lion_{w}"] - value[f"text_adamw_{w}"] for w in ("tuned", "plain"))
    assert plain > 2 * tuned > 0

    def change(method):
        """Return the change of a method's loss over AdamW's from batch 8 to 1024, in standard errors."""
        small, tail = (kept.record[f"{method}_{size}"] for size in ("small", "large"))
        return (tail["value"] - small["value"]) / math.hypot(tail["error"], small["error"])

    assert change("signum") < -4 and change("lion") > 2
