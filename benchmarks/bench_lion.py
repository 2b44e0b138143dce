"""Time a step of Lion beside other Lions, fused AdamW, and the memory alone; weigh its scratch memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import lion_pytorch
import psutil
import pytorch_optimizer
import torch
from common import main, rows
from torch.nn import Parameter

from kexue_lib.lion import Lion, state_bytes

OPTIONS = {"lr": 1e-4, "weight_decay": 0.1}
MEMORY = "the memory alone: 20 bytes a number"
FLAT = "torch.compile, one flat buffer"
EAGER = "ours, plain operations"
OPTIMISERS = {
    "ours": lambda params: Lion(params, **OPTIONS),
    EAGER: lambda params: Lion(params, **OPTIONS, fused=False),
    "lion-pytorch": lambda params: lion_pytorch.Lion(params, **OPTIONS),
    "pytorch_optimizer": lambda params: pytorch_optimizer.Lion(params, **OPTIONS, foreach=False),
    "AdamW of torch, fused": lambda params: torch.optim.AdamW(params, **OPTIONS, fused=True),
}
GOALS = {
    1: {MEMORY: "at most 1.25 times the memory: 0.8", "AdamW of torch, fused": "1.6 times faster"},
    2: {MEMORY: "at most 1.25 times the memory: 0.8", "AdamW of torch, fused": "1.2 times faster"},
}
BEST = {"lion-pytorch": "2.3 times faster", "pytorch_optimizer": "2.3 times faster"}
TRANSFORMERS = {10: 240, 100: 768}  # million parameters: width


def shapes(millions):
    """Return the shapes of a transformer's parameters, or, for 0 million, of a perceptron."""
    if not millions:
        return [(100, 64), (100,), (30, 100), (30,), (10, 30), (10,)]
    d = TRANSFORMERS[millions]
    block = [(3 * d, d), (3 * d,), (d, d), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,), *[(d,)] * 4]
    return [(8192 if millions < 100 else 20_000, d), *block * 12]


def parameters(millions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = []
    for shape in shapes(millions):
        p = Parameter(torch.randn(shape, generator=generator), requires_grad=False)
        p.grad = torch.randn(shape, generator=generator)
        params.append(p)
    return params


def flat(params):
    """Return the step that torch compiles for parameters, gradients and momentum in one piece each."""
    p, g = (torch.cat([t.reshape(-1) for t in each]) for each in (params, [p.grad for p in params]))
    m = torch.zeros_like(p)

    @torch.compile(dynamic=True)
    def update(p, g, m, lr: float, decay: float, beta1: float, beta2: float):
        u = (m * beta1 + g * (1 - beta1)).sign()
        p.mul_(1 - lr * decay).add_(u, alpha=-lr)
        m.mul_(beta2).add_(g, alpha=1 - beta2)

    return lambda: update(p, g, m, OPTIONS["lr"], OPTIONS["weight_decay"], 0.9, 0.99)


def agreement(peer, steps=200):
    """Say whether ours and a peer walk the same path, to the last bit."""
    if peer not in OPTIMISERS or "AdamW" in peer:
        return None
    ends = []
    for name in ("ours", peer):
        params = parameters(0)
        optimiser, generator = OPTIMISERS[name](params), torch.Generator().manual_seed(1)
        for _ in range(steps):
            for p in params:
                p.grad.normal_(generator=generator)
            optimiser.step()
        ends.append(torch.cat([p.reshape(-1) for p in params]))
    different = int((ends[0] != ends[1]).sum())
    return f"{different} of {ends[0].numel()} numbers differ after {steps} steps"


def cases(rounds, threads, quick):
    """Yield the rows of all cases; all optimisers share parameters and gradients, for memory's sake."""
    for millions in (0, 10) if quick else (0, 10, 100):
        params = parameters(millions)
        count = sum(p.numel() for p in params)
        functions = {name: make(params).step for name, make in OPTIMISERS.items()}
        goals = {EAGER: "not slower"}
        if millions:
            buffer = torch.rand(count * 5 // 2)  # 8 bytes of each move
            functions[MEMORY] = lambda buffer=buffer: buffer.mul_(1.0000001)
            if not quick:
                functions[FLAT] = flat(params)
            goals = GOALS[threads] | BEST if millions == 100 else {}
        case = f"{count / 1e6:.4g} million numbers in {len(params)} tensors"
        yield from rows(
            case, functions, rounds, threads, goals=goals, difference=lambda _, peer: agreement(peer)
        )


WEIGH = """
import json, sys
sys.path.insert(0, "benchmarks")
import bench_lion as b
print(json.dumps(b.scratch(sys.argv[1])))
"""
START = """
import json, time, torch
from kexue_lib import lion
p = torch.nn.Parameter(torch.zeros(10))
p.grad = torch.ones(10)
torch.optim.SGD([p]).step()  # what torch loads for any optimiser
start = time.perf_counter()
lion.Lion([p]).step()
print(json.dumps(time.perf_counter() - start))
"""


def scratch(name, count=20_000_000):
    """Return the bytes a parameter that steps take beside state, parameters and gradients, at most."""
    process, small = psutil.Process(), Parameter(torch.zeros(1000))
    small.grad = torch.ones(1000)
    for _ in range(3):
        OPTIMISERS[name]([small]).step()  # what is loaded or compiled at the first step
    params = []
    for _ in range(4):
        p = Parameter(torch.empty(count // 4).normal_(), requires_grad=False)
        p.grad = torch.empty(count // 4).normal_()
        params.append(p)
    optimiser, before = OPTIMISERS[name](params), process.memory_info().rss
    import resource  # not on every system

    for _ in range(3):
        optimiser.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(round((peak - before - state_bytes(optimiser)) / count, 3), 0.0)


def fresh(program, *arguments, **variables):
    """Run a program of Python in a process of its own; return what it prints."""
    command = [sys.executable, "-c", program, *arguments]
    run = subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout)


def more():
    """Weigh scratch memory; time the first step with nothing compiled, and in the next process."""
    if "--quick" in sys.argv:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        first, second = (round(fresh(START, NUMBA_CACHE_DIR=folder), 2) for _ in range(2))
    start = time.perf_counter()
    flat(parameters(0))()
    return {
        "scratch memory, bytes a parameter": {name: fresh(WEIGH, name) for name in OPTIMISERS},
        "first step, s": {
            "compiled": first,
            "in the next process": second,
            FLAT: round(time.perf_counter() - start, 2),
        },
    }


if __name__ == "__main__":
    versions = {name: version(name) for name in ("lion-pytorch", "pytorch-optimizer", "numba")}
    main(__file__, __doc__, cases, versions, more=more)
