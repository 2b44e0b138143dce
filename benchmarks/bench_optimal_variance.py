"""Time the estimate of posterior variances beside the noise that it needs, and shortest paths by loops."""

import resource
import subprocess
import sys
from itertools import pairwise

import numpy as np
import torch
from common import main, rows

from kexue_lib import ddpm
from kexue_lib import optimal_variance as ov

SCHEDULE = ddpm.linear()
NOISE = "the noise alone"
PYTHON, NUMPY = "a plain Python loop", "a loop over jumps in numpy"
COUNT = 10_000


def free(x, *_):
    """Predict noise for free."""
    return x


def estimate(count, dim, steps=1000):
    """Return a run of the estimate, whose batches are those of the library."""
    schedule, x0 = ddpm.evenly(SCHEDULE, steps), torch.randn(count, dim, generator=seeds())
    return lambda: ov.noise_statistics(free, schedule, x0, generator=seeds()).second_moment.mean(1)


def seeds():
    """Return a generator that always draws the same."""
    return torch.Generator().manual_seed(0)


def estimates(rounds, threads, quick):
    """Yield the rows of the estimate for all 1000 levels, or 100 of them."""
    levels = 100 if quick else 1000
    for dim in [2] if quick else [2, 64]:
        ours, buffer = estimate(COUNT, dim, levels), torch.empty(1000, dim)

        def alone(buffer=buffer):
            g = seeds()
            for _ in range(levels * COUNT // len(buffer)):
                buffer.normal_(generator=g)

        case = f"estimate, {levels} levels, {COUNT} x {dim}"
        yield from rows(case, {"ours": ours, NOISE: alone}, rounds, threads)


def in_python(cost, jumps):
    """Return the cheapest path, found as one would write it down."""
    cost, last = cost.tolist(), len(cost) - 1
    best, origins = {1: 0.0}, []
    for _ in range(jumps):
        new, origin = {}, {}
        for t in range(2, last + 1):
            for s, so_far in best.items():
                if s < t and (t not in new or so_far + cost[s][t] < new[t]):
                    new[t], origin[t] = so_far + cost[s][t], s
        best = new
        origins.append(origin)
    path = [last]
    for origin in reversed(origins):
        path.insert(0, origin[path[0]])
    return path


def in_numpy(cost, jumps):
    """Return the cheapest path, with one addition of a whole matrix for each jump."""
    table = cost.numpy()
    best = np.full(len(table), np.inf)
    best[1] = 0
    origins = []
    for _ in range(jumps):
        total = best[:, None] + table
        origins.append(total.argmin(0))
        best = total[origins[-1], np.arange(len(table))]
    path = [len(table) - 1]
    for origin in reversed(origins):
        path.insert(0, int(origin[path[0]]))
    return path


def paths(rounds, threads, quick):
    """Yield the rows of the shortest paths among 1000 steps."""
    cost = ov.jump_costs(SCHEDULE, ov.two_point_posterior_variance(SCHEDULE.snr[1:]))

    def difference(results, peer):
        def total(path):
            return sum(float(cost[s, t]) for s, t in pairwise(path))

        return f"{total(results['ours']) - total(results[peer]):.1g} in the cost of the path"

    for jumps, peers in ((10, {PYTHON: in_python, NUMPY: in_numpy}), (999, {NUMPY: in_numpy})):
        if quick and jumps > 10:
            continue
        functions = {"ours": lambda jumps=jumps: ov.optimal_trajectory(cost, jumps, first=1)} | {
            name: lambda peer=peer, jumps=jumps: peer(cost, jumps) for name, peer in peers.items()
        }
        goals = dict.fromkeys(peers, "ours under 1 s")
        case = f"path of {jumps} jumps among 1000 steps"
        yield from rows(case, functions, rounds, threads, goals=goals, difference=difference)


def cases(rounds, threads, quick):
    """Yield the rows of both."""
    yield from estimates(rounds, threads, quick)
    yield from paths(rounds, threads, quick)


def memory():
    """Return what the estimate adds to the peak of memory, for few levels and many, each in a new process."""
    peaks = {}
    for steps in (10, 100):
        command = [sys.executable, __file__, "peak", str(steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[f"{steps} levels, {COUNT} x 64"] = float(done.stdout)
    return {"peak of memory above that of the data, MB": peaks}


def peak():
    """Return the peak of this process's memory in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        run = estimate(COUNT, 64, int(sys.argv[2]))
        before = peak()
        run()
        print(round(peak() - before, 1))
    else:
        main(__file__, __doc__, cases, {"numpy": np.__version__}, more=memory)
