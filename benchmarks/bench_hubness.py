"""Time the exact neighbour counts and the log volume beside their peers.

Without `--threads` the program starts itself once for one thread and once for two, each time in a process
of its own; every peer then runs in that same process, in turn with us. One file per number of threads.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import psutil
import scipy.special
import sklearn
import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from kexue_lib import hubness

CASES = [(10_000, 32), (10_000, 128), (20_000, 256), (50_000, 64)]
CORES = os.cpu_count()
RULE = (
    "the median, least and greatest ratio of paired rounds in which all run in turn, 0.1 s apart; a round "
    "in which other programs needed our processors is measured again, at most as often as there are rounds"
)
# They choose kernels for another processor than this one and would slow down faiss and scikit-learn.
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def faiss_counts(points, k):
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points.numpy())
    found = index.search(points.numpy(), k + 1)[1]
    others = found != np.arange(len(points))[:, None]
    others[others.all(1), -1] = False
    return np.bincount(found[others], minlength=len(points))


def sklearn_counts(points, k):
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=torch.get_num_threads())
    found = search.fit(points.numpy()).kneighbors(return_distance=False)
    return np.bincount(found.ravel(), minlength=len(points))


def float64_counts(points, k):
    """Count by float64 distances alone, for comparison: slow, and blind to ties, which here are none."""
    x = points.double()
    squares = (x**2).sum(1)
    counts = torch.zeros(len(x), dtype=torch.int64)
    for rows in torch.arange(len(x)).split(256):
        block = torch.addmm(squares[None], x[rows], x.T, alpha=-2)
        block[rows - rows[0], rows] = torch.inf
        counts += torch.bincount(block.topk(k, largest=False).indices.flatten(), minlength=len(x))
    return counts.numpy()


def needed_by_others(function):
    """Run the function and return how many processors other programs kept busy meanwhile."""

    def busy():
        cpu, own = psutil.cpu_times(), psutil.Process().cpu_times()
        return cpu.user + cpu.nice + cpu.system + getattr(cpu, "steal", 0) - own.user - own.system

    start, before = time.perf_counter(), busy()
    function()
    return (busy() - before) / (time.perf_counter() - start)


def measure(functions, rounds, threads):
    """Run the functions in turn; return a list of times for each, the last results, the disturbances."""
    times, results, others, repeated = {name: [] for name in functions}, {}, [], 0

    def one_round():
        for name, function in functions.items():
            time.sleep(0.1)  # the threads of OpenMP spin for a while when their work is done
            start = time.perf_counter()
            results[name] = function()
            latest[name] = time.perf_counter() - start

    while len(others) < rounds:
        latest = {}
        needed = needed_by_others(one_round)
        if needed > CORES - threads + 0.1 and repeated < rounds:
            repeated += 1
            continue
        others.append(round(needed, 2))
        for name, seconds in latest.items():
            times[name].append(seconds)
    return times, results, {"others": others, "repeated": repeated}


def rows_of(case, times, differing, disturbed, goal):
    ours = times.pop("ours")
    for peer, theirs in times.items():
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        yield {
            "case": case,
            "ours_s": round(statistics.median(ours), 4),
            "peer": peer,
            "peer_s": round(statistics.median(theirs), 4),
            "ratio": [round(r, 2) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "differing_counts": differing.get(peer),
            "goal": goal if "faiss" in peer else "",
        } | disturbed


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run(threads, options):
    """Measure all cases in this process."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    hubness.k_occurrence(torch.randn(600, 4), 3)  # compiled once, then kept on disk
    hubness.log_unit_ball_volume(2.0)
    load = [round(os.getloadavg()[0], 2)]
    rows = []
    for n, d in CASES[:1] if options.quick else CASES:
        case = f"counts, n = {n}, d = {d}, k = 10"
        points = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
        functions = {
            "ours": lambda points=points: hubness.k_occurrence(points, 10).numpy(),
            "faiss IndexFlatL2": lambda points=points: faiss_counts(points, 10),
            "scikit-learn brute": lambda points=points: sklearn_counts(points, 10),
        }
        times, results, disturbed = measure(functions, options.rounds, threads)
        results["float64 alone (once)"] = float64_counts(points, 10)
        differing = {name: int((r != results["ours"]).sum()) for name, r in results.items()}
        rows += rows_of(case, times, differing, disturbed, "1.3 times faster than faiss")
        rows.append(
            {"case": case, "peer": "float64 alone (once)", "differing_counts": differing.popitem()[1]}
        )
    for largest in (100, 10**6):
        dims = torch.linspace(0, largest, 10**6, dtype=torch.float64)
        array = dims.numpy()
        functions = {
            "ours": lambda dims=dims: hubness.log_unit_ball_volume(dims),
            "scipy gammaln": lambda d=array: d / 2 * np.log(np.pi) - scipy.special.gammaln(d / 2 + 1),
            "torch lgamma": lambda d=dims: d / 2 * np.log(np.pi) - torch.lgamma(d / 2 + 1),
        }
        times, _, disturbed = measure(functions, 4 * options.rounds, threads)
        rows += rows_of(f"log volumes, a million up to {largest}", times, {}, disturbed, "")
    return {
        "benchmark": f"hubness, {threads} thread{'s' * (threads > 1)}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": CORES, "threads used": threads},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "faiss": faiss.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "command": "python benchmarks/bench_hubness.py " + " ".join(sys.argv[1:]),
        "rule": f"{options.rounds} rounds: {RULE}",
        "load before and after": [*load, round(os.getloadavg()[0], 2)],
        "OpenBLAS of the peers": sorted(
            f"{blas['version']} {blas['architecture']} in {Path(blas['filepath']).parts[-2]}"
            for blas in threadpool_info()
            if blas["internal_api"] == "openblas"
        ),
        "rows": rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="left out: first 1, then 2")
    parser.add_argument("--quick", action="store_true", help="smallest case only, nothing written")
    options = parser.parse_args()
    if options.threads is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        for threads in (1, 2):
            if allowed:  # one thread stays on one core
                os.sched_setaffinity(0, sorted(allowed)[-threads:])
            env = {k: v for k, v in os.environ.items() if k not in SLOWING} | {
                "OMP_NUM_THREADS": str(threads)
            }
            command = [sys.executable, __file__, *sys.argv[1:], "--threads", str(threads)]
            subprocess.run(command, env=env, check=True)
        return
    report = run(options.threads, options)
    print(f"-- {report['benchmark']}, load {report['load before and after']}")
    for row in report["rows"]:
        speed = (
            f"{row['ratio'][1]:5.2f} ({row['ratio'][0]:.2f} to {row['ratio'][2]:.2f})"
            if "ratio" in row
            else ""
        )
        print(f"{row['case']:45} {row['peer']:20} {speed:22} differing {row['differing_counts']}")
    if not options.quick:
        target = Path(__file__).parent.parent / "results" / f"bench_hubness_{options.threads}.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
