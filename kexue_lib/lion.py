r"""Lion: an optimiser that moves every number by the same amount, in one pass over the memory.

With momentum m, gradient g and the two rates :math:`\beta_1, \beta_2` one step is

.. math::

    u = \operatorname{sign}(\beta_1 m + (1-\beta_1) g), \qquad
    \theta \leftarrow (1 - \eta\lambda)\,\theta - \eta u, \qquad
    m \leftarrow \beta_2 m + (1-\beta_2) g

with rate :math:`\eta` (``lr``) and decoupled decay :math:`\lambda` (``weight_decay``), applied before the
sign step, to the old parameter. `Lion` is the optimiser. The functions ``*_update`` are single steps that
return new tensors; their ``lr`` and ``weight_decay`` may be tensors, so that many copies of a model, each
with rates of its own, train as one.
"""

import ctypes
import functools
import logging
import math
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numba
import torch
from numba import carray  # type: ignore[attr-defined]
from numba.extending import intrinsic
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter
from torch.optim import Optimizer

from kexue_lib.arguments import integer, real, refuse
from kexue_lib.compiled import compiled

Rate = float | Tensor
Betas = tuple[float, float]
_log = logging.getLogger(__name__)

# -- the optimiser -----------------------------------------------------------------------------


class Lion(Optimizer):
    r"""Lion for PyTorch: one buffer of state, and on a CPU one pass that reads and writes each number once.

    Its roundings are those of the reference implementation. The momentum is ``state[p]["exp_avg"]``, zero
    at first, as in the reference, so that checkpoints go both ways; it has the type and the device of its
    parameter, and follows it (``model.to``). In bfloat16 that serves the momentum, whose sign alone
    matters, but not the parameter: a step of 1e-4 is lost where ``|p| > 1/32``. Keep float32 parameters and
    compute in bfloat16 (``torch.autocast``).

    ``sign(0) = 0``: where all gradients have been zero a parameter only decays. A parameter without gradient
    is left alone, decay included. A NaN stays in the momentum for ever, where its sign counts as 0, and an
    infinity keeps its sign: the parameters stay finite and nothing looks wrong. Catch such gradients
    before the step (``torch.nn.utils.clip_grad_norm_(..., error_if_nonfinite=True)``, or a ``GradScaler``,
    which skips the step); ``torch.isfinite`` of the momentum tells afterwards.

    Parameters
    ----------
    params : iterable of tensors, of pairs (name, tensor) or of groups
        Real; groups may have ``lr``, ``betas``, ``weight_decay`` and ``maximize`` of their own.
    lr : float or tensor of one element, >= 0
        A tensor is read at each step, which waits for its device.
    betas : pair of floats in [0, 1)
    weight_decay : float, >= 0
    fused : bool, optional
        The pass compiled by numba: None, wherever it can run (dense contiguous float32 or float64 on a CPU);
        False, never; True, refuse parameters for which it cannot. Elsewhere plain torch operations do the
        same, on CUDA on all tensors at once. It works on the tensors where they are, on
        ``torch.get_num_threads()`` threads, and needs no scratch memory.
    maximize : bool
        Step along the gradient instead of against it.

    Raises
    ------
    ValueError
        If an argument is not as described, a parameter is complex, or (in `step`, before anything is
        changed) a gradient is sparse.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Rate = 1e-4,
        betas: Betas = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if fused not in (None, False, True):
            raise refuse("fused", fused, "None, False or True")
        self.fused = fused  # not in the groups: a checkpoint shall not decide how its reader computes
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        _check_group(defaults)
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickles and copies keep."""
        return super().__getstate__() | {"fused": self.fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, also from an implementation that knows fewer options."""
        for p, kept in state["state"].items():
            shape = kept["exp_avg"].shape if "exp_avg" in kept else None
            if isinstance(p, Tensor) and shape not in (None, p.shape):
                raise refuse("exp_avg.shape", tuple(shape), f"{tuple(p.shape)}, as its parameter has")
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; refuse them as the constructor does."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group)
            for p in group["params"]:
                if not p.is_floating_point():
                    raise refuse("param.dtype", p.dtype, "a real floating type")
                if self.fused and not (_plain(p) and _kernel(p.dtype)):
                    allowed = f"None or False: no pass for {p.dtype} on {p.device.type}"
                    raise refuse("fused", self.fused, allowed)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step; return the loss of the closure, which is computed first, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        for _, params in work:
            for p in params:
                if p.grad.layout != torch.strided:
                    raise refuse("grad.layout", p.grad.layout, "dense gradients: Lion moves every number")
        for group, params in work:
            self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        """Update the parameters of one group, each on the fastest way that serves it."""
        (beta1, beta2), lr = group["betas"], float(group["lr"])
        decay, ascent = float(group["weight_decay"]), group["maximize"]
        rule = (1 - lr * decay, -lr, beta1, 1 - beta1, beta2, 1 - beta2)
        one_pass: dict[torch.dtype, list[Tensor]] = {}
        on_gpu: dict[Any, list[list[Tensor]]] = {}
        wanted = self.fused is not False and not torch.compiler.is_compiling()
        for p in params:
            g, m = p.grad, self._momentum(p)
            if wanted and _plain(p) and _fit(p, g, m) and _kernel(p.dtype):
                one_pass.setdefault(p.dtype, []).extend((p, g, m))
            elif p.is_cuda and g.dtype == p.dtype:
                on_gpu.setdefault((p.device, p.dtype), []).append([p, g, m])
            else:
                _step_tensor(p, -g if ascent else g, m, rule)
        for dtype, tensors in one_pass.items():
            _step_once(dtype, tensors, (*rule, -1.0 if ascent else 1.0))
        for rows in on_gpu.values():
            ps, gs, ms = (list(column) for column in zip(*rows, strict=True))
            _step_list(ps, list(torch._foreach_neg(gs)) if ascent else gs, ms, rule)

    def _momentum(self, p: Tensor) -> Tensor:
        """Return the momentum, made at the first gradient, of the parameter's present type and device."""
        state = self.state[p]
        m: Tensor | None = state.get("exp_avg")
        if m is None:
            m = state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        elif m.dtype != p.dtype or m.device != p.device:
            m = state["exp_avg"] = m.to(p)
        return m


def _check_group(group: dict[str, Any]) -> None:
    lr, betas = group["lr"], group["betas"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1 or lr.is_complex():
            raise refuse("lr", lr, "a number or a real tensor of one element")
        lr = lr.item()
    real("lr", lr, 0)
    _check_betas(betas)
    real("weight_decay", group["weight_decay"], 0)
    if not isinstance(group["maximize"], bool):
        raise refuse("maximize", group["maximize"], "False or True")


def _check_betas(betas: Any) -> Betas:
    try:
        first, second = (real("betas", beta, 0, 1) for beta in betas)
    except (TypeError, ValueError):
        first = second = 1.0
    if not max(first, second) < 1:
        raise refuse("betas", betas, "two numbers in [0, 1)")
    return first, second


def _step_tensor(p: Tensor, g: Tensor, m: Tensor, rule: tuple[float, ...]) -> None:
    """Update with plain operations, those of the reference in its order: its roundings are the standard."""
    keep, rate, beta1, new1, beta2, new2 = rule
    p.mul_(keep)
    p.add_((m * beta1 + g * new1).sign_(), alpha=rate)
    m.mul_(beta2).add_(g, alpha=new2)


def _step_list(ps: list[Tensor], gs: list[Tensor], ms: list[Tensor], rule: tuple[float, ...]) -> None:
    """Do the same on a GPU, many tensors with one call (on a CPU that is slower and rounds differently)."""
    keep, rate, beta1, new1, beta2, new2 = rule
    torch._foreach_mul_(ps, keep)
    u = torch._foreach_mul(ms, beta1)
    torch._foreach_add_(u, torch._foreach_mul(gs, new1))
    torch._foreach_sign_(u)
    torch._foreach_add_(ps, u, alpha=rate)
    torch._foreach_mul_(ms, beta2)
    torch._foreach_add_(ms, gs, alpha=new2)


# -- one pass ----------------------------------------------------------------------------------
# The step is bound by memory: five streams of numbers, of which a program of separate operations moves
# nineteen. numba's pass over the tensors where they are moves five, at nearly the pace of torch.compile
# on a flat copy, with neither a C++ compiler nor a copy of the gradients, and parameters,
# momentum and checkpoints stay what they are. Its threads are Python's, alive for one step: torch's own
# spin while they wait, and a machine with other work to do then waits with them.

_NUMBERS = {torch.float32: (numba.float32, "f"), torch.float64: (numba.float64, "d")}
_KINDS = (Parameter, Tensor)
_SHARE = 1 << 19  # numbers that are worth the start of a thread


@intrinsic
def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c with one rounding, as torch's add does with its factor alpha."""
    return a(a, b, c), lambda target, builder, signature, arguments: builder.fma(*arguments)


@compiled
def _pass(p: Any, g: Any, m: Any, rule: Any) -> None:
    """Update one piece of a tensor: p, g, m (n,), rule (8,)."""
    keep, rate, beta1, new1, beta2, new2, sense, nothing = rule
    for i in range(p.shape[0]):
        slope, mean = sense * g[i], m[i]
        mixed = mean * beta1 + slope * new1
        # Also for NaN nothing, as with torch.sign.
        p[i] = p[i] * keep + (rate if mixed > 0 else (-rate if mixed < 0 else nothing))
        m[i] = _fma(slope, new2, mean * beta2)  # type: ignore[call-arg]


def _pieces(pointers: Any, sizes: Any, rule: Any, count: int, start: int, stop: int) -> None:
    """Update the numbers start ... stop of all tensors, counted through; three pointers for each."""
    first = 0
    for t in range(count):
        size = sizes[t]
        low, high = max(start - first, 0), min(stop - first, size)
        if low < high:
            p = carray(pointers[3 * t], size)[low:high]
            g = carray(pointers[3 * t + 1], size)[low:high]
            m = carray(pointers[3 * t + 2], size)[low:high]
            r = carray(rule, 8)
            _pass(p, g, m, (r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]))
        first += size


@functools.cache
def _kernel(dtype: torch.dtype) -> Callable[..., None] | None:
    """Return the compiled pass, made once and kept for later, or None where there is none; log which."""
    if dtype not in _NUMBERS:
        return None
    pointer = numba.types.CPointer(_NUMBERS[dtype][0])
    addresses = (numba.types.CPointer(pointer), numba.types.CPointer(numba.int64), pointer)
    signature = numba.void(*addresses, *[numba.int64] * 3)
    try:
        try:
            made = numba.cfunc(signature, cache=True)(_pieces)
        except RuntimeError:  # no folder to keep the machine code in
            made = numba.cfunc(signature)(_pieces)
    except Exception as error:
        _log.warning("Lion, %s: plain torch operations, as numba failed (%s)", dtype, error)
        return None
    _log.info("Lion, %s: one pass compiled by numba", dtype)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3)(int(made.address or 0))
    call.made = made  # type: ignore[attr-defined]  # the machine code lives as long as this does
    return call


def _plain(p: Tensor) -> bool:
    """Say whether the pass may write to the memory of p: a tensor of a CPU, no subclass, no view negated."""
    return type(p) in _KINDS and p.is_cpu and p.dtype in _NUMBERS and not p.is_neg()


def _fit(p: Tensor, g: Tensor, m: Tensor) -> bool:
    """Say whether gradient and momentum lie in memory like p, and all without gaps."""
    if not (_plain(g) and type(m) is Tensor and g.dtype is p.dtype and p.numel() == g.numel() == m.numel()):
        return False
    if p.is_contiguous() and g.is_contiguous() and m.is_contiguous():
        return True
    dense = all(t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in (p, g, m))
    return dense and p.shape == g.shape == m.shape


def _step_once(dtype: torch.dtype, tensors: list[Tensor], rule: tuple[float, ...]) -> None:
    """Run the pass over tensors p, g, m, p, g, m, ... of one type, on as many threads as are worth it."""
    call = _kernel(dtype)
    assert call is not None
    pointers = array("q", [t.data_ptr() for t in tensors])
    sizes = array("q", [t.numel() for t in tensors[::3]])
    numbers = array(_NUMBERS[dtype][1], (*rule, -0.0))  # x + -0.0 is x, also for -0.0
    addresses = [a.buffer_info()[0] for a in (pointers, sizes, numbers)]

    def work(low: int, high: int, alive: object = (tensors, pointers, sizes, numbers)) -> None:
        call(*addresses, len(sizes), low, high)  # what it works on is alive also when a user interrupts us

    total = sum(sizes)
    threads = max(min(torch.get_num_threads(), total // _SHARE), 1)
    pieces = list(pairwise(total * i // threads for i in range(threads + 1)))
    helpers = [threading.Thread(target=work, args=piece) for piece in pieces[1:]]
    for helper in helpers:
        helper.start()
    work(*pieces[0])
    for helper in helpers:
        helper.join()
    # Autograd must notice that what it has kept for a backward pass is gone.
    increment_version([t for i, t in enumerate(tensors) if i % 3 != 1])


# -- single steps of many copies ---------------------------------------------------------------


def _rates(lr: Rate, decay: Rate, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return lr and 1 - lr * decay, computed in float64, rounded once to the type of the parameter."""
    rate, decay = (torch.as_tensor(x, dtype=torch.float64, device=like.device) for x in (lr, decay))
    return rate.to(like.dtype), (1 - rate * decay).to(like.dtype)


def lion_update(
    param: Tensor,
    momentum: Tensor,
    grad: Tensor,
    lr: Rate,
    betas: Betas = (0.9, 0.99),
    weight_decay: Rate = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return parameter and momentum after one step of Lion, to the last bit that of `Lion`.

    Parameters
    ----------
    param, momentum, grad : tensors of one shape
    lr, weight_decay : float, or tensor that broadcasts to this shape
    betas : pair of floats
    """
    rate, keep = _rates(lr, weight_decay, param)
    sign = (momentum * betas[0] + grad * (1 - betas[0])).sign()
    return param * keep - rate * sign, (momentum * betas[1]).add(grad, alpha=1 - betas[1])


def signum_update(
    param: Tensor, momentum: Tensor, grad: Tensor, lr: Rate, beta: float = 0.9, weight_decay: Rate = 0.0
) -> tuple[Tensor, Tensor]:
    """Return parameter and momentum after a step along the sign of the mean gradient (eq-lion-signum).

    The decay is decoupled. Arguments as in `lion_update`.
    """
    rate, keep = _rates(lr, weight_decay, param)
    momentum = (momentum * beta).add(grad, alpha=1 - beta)
    return param * keep - rate * momentum.sign(), momentum


def adamw_update(
    param: Tensor,
    first: Tensor,
    second: Tensor,
    grad: Tensor,
    step: int,
    lr: Rate,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Rate = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameter and both moments after step number ``step`` (from 1) of AdamW.

    The decay is decoupled. Other arguments as in `lion_update`.
    """
    rate, keep = _rates(lr, weight_decay, param)
    first = (first * betas[0]).add(grad, alpha=1 - betas[0])
    second = (second * betas[1]).addcmul(grad, grad, value=1 - betas[1])
    mean, square = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
    return param * keep - rate * (mean / (square.sqrt() + eps)), first, second


def sgd_update(
    param: Tensor, momentum: Tensor, grad: Tensor, lr: Rate, beta: float = 0.9, weight_decay: Rate = 0.0
) -> tuple[Tensor, Tensor]:
    """Return parameter and momentum after a step of SGD as torch has it: the momentum is a sum, no mean.

    The decay is part of the gradient, ``grad + weight_decay * param``. Arguments as in `lion_update`.
    """
    rate, decay = _rates(lr, 0.0, param)[0], _rates(weight_decay, 0.0, param)[0]
    momentum = momentum * beta + (grad + decay * param)
    return param - rate * momentum, momentum


def lion_path(
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    lr: Rate | Sequence[float],
    betas: Betas = (0.9, 0.99),
    weight_decay: Rate = 0.0,
) -> Tensor:
    """Return all points of a path of Lion from momentum zero, (steps + 1, ...).

    ``lr`` is a number, or a sequence or a tensor (steps,) of one number for each step.
    """
    steps = integer("steps", steps, 0)
    rates: Any = lr if isinstance(lr, Sequence) or (isinstance(lr, Tensor) and lr.dim()) else [lr] * steps
    if len(rates) != steps:
        raise refuse("lr", lr, f"a number or {steps} numbers, one for each step")
    points, momentum = [start], torch.zeros_like(start)
    for rate in rates:
        point = points[-1]
        point, momentum = lion_update(point, momentum, gradient(point), rate, betas, weight_decay)
        points.append(point)
    return torch.stack(points)


# -- what can be said about it -----------------------------------------------------------------


def lion_kernel(betas: Betas, lags: int) -> Tensor:
    r"""Return the weights, (lags,) float64, of past gradients in the mean whose sign is taken.

    :math:`1-\beta_1` for the newest, :math:`\beta_1 (1-\beta_2) \beta_2^{j-1}` for the one j steps ago
    (eq-lion-kernel); together 1.
    """
    beta1, beta2 = _check_betas(betas)
    past = torch.arange(integer("lags", lags, 1), dtype=torch.float64) - 1
    weights = beta1 * (1 - beta2) * beta2**past
    weights[0] = 1 - beta1
    return weights


def mean_lag(betas: Betas) -> float:
    r"""Return the mean age, in steps, of the gradients in Lion's mean: :math:`\beta_1/(1-\beta_2)`."""
    beta1, beta2 = _check_betas(betas)
    return beta1 / (1 - beta2)


def noise_factor(betas: Betas) -> float:
    r"""Return the variance of Lion's mean of independent gradients of variance 1 (eq-lion-noise).

    :math:`(1-\beta_1)^2 + \beta_1^2 (1-\beta_2)/(1+\beta_2)`; with two equal rates that of a running mean.
    """
    beta1, beta2 = _check_betas(betas)
    return (1 - beta1) ** 2 + beta1**2 * (1 - beta2) / (1 + beta2)


def adam_rms(beta1: float = 0.9) -> float:
    r"""Return the size of Adam's update in pure noise, as :math:`\beta_2 \to 1` (eq-lion-rms)."""
    return math.sqrt(noise_factor((beta1, beta1)))


def adam_bound(betas: Betas = (0.9, 0.999)) -> float:
    r"""Return the largest update Adam can make in units of its rate, in the limit of many steps.

    .. math::

        (1-\beta_1) \Big/ \sqrt{(1-\beta_2)(1-\beta_1^2/\beta_2)}

    by the Cauchy-Schwarz inequality (eq-lion-bound). It needs :math:`\beta_1^2 < \beta_2`.
    """
    beta1, beta2 = _check_betas(betas)
    if not beta1**2 < beta2:
        raise refuse("betas", betas, "betas[0]**2 < betas[1]: otherwise there is no bound")
    return (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))


def sign_drift(mean: Rate, std: Rate, batch: Rate = 1) -> Tensor:
    r"""Return the expected sign of the mean of ``batch`` Gaussian gradients (eq-lion-drift), float64.

    It is :math:`\operatorname{erf}\bigl(\sqrt{B/2}\;\mu/\sigma\bigr)`. The arguments are numbers or tensors
    that broadcast; ``std`` and ``batch`` > 0.
    """
    mu, sigma, size = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, std, batch))
    for name, value in {"std": sigma, "batch": size}.items():
        if not bool((value > 0).all()):
            raise refuse(name, value.min().item(), "numbers > 0")
    drift: Tensor = torch.special.erf(mu / sigma * (size / 2).sqrt())
    return drift


def amos_rule(
    relative: float, scale: float, step: int = 0, *, kappa: float = 0.0, q: float = 1.0
) -> tuple[float, float]:
    r"""Return rate and decay of the post's rule of thumb (eq-lion-amos).

    Parameters
    ----------
    relative : float, > 0
        :math:`\alpha_0`, the change of a parameter in one step relative to its size.
    scale : float, > 0
        :math:`\sigma`, that size: the root mean square at which a parameter shall stay.
    step, kappa : t >= 0 and :math:`\kappa \ge 0`
        The rate falls as :math:`1/(\kappa t + 1)`.
    q : float, > 0

    Returns
    -------
    tuple
        :math:`\eta = \alpha_0\sigma/(\kappa t+1)` and :math:`\lambda = \alpha_0/(2 q \sigma)`.
    """
    relative = real("relative", relative, 0, open_low=True)
    scale, q = real("scale", scale, 0, open_low=True), real("q", q, 0, open_low=True)
    falling = real("kappa", kappa, 0) * integer("step", step, 0) + 1
    return relative * scale / falling, relative / (2 * q * scale)


def box_distance(param: Tensor, weight_decay: float) -> Tensor:
    r"""Return how far each number lies outside of :math:`[-1/\lambda, 1/\lambda]` (eq-lion-box); 0 inside.

    For decay 0 the box is everything.
    """
    decay = real("weight_decay", weight_decay, 0)
    return (param.abs() - (1 / decay if decay else math.inf)).clamp(min=0)


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of all tensors an optimiser keeps, each storage once."""
    values = (value for state in optimizer.state.values() for value in state.values())
    storages = [value.untyped_storage() for value in values if torch.is_tensor(value)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
