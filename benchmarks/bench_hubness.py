"""Time the exact neighbour counts and the log volume beside their peers, all in one process, in turn."""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import scipy.special
import sklearn
import torch
from sklearn.neighbors import NearestNeighbors

from kexue_lib import hubness

CASES = [(10_000, 32), (10_000, 128), (20_000, 256), (50_000, 64)]


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


def measure(functions, rounds):
    """Run the functions in turn and return their times, one list each, and their last results."""
    times, results = {name: [] for name in functions}, {}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            results[name] = function()
            times[name].append(time.perf_counter() - start)
    return times, results


def rows_of(case, times, differing, goal):
    ours = times.pop("ours")
    for peer, theirs in times.items():
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        yield {
            "case": case,
            "ours_s": round(statistics.median(ours), 4),
            "peer": peer,
            "peer_s": round(statistics.median(theirs), 4),
            "ratio": [round(r, 2) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "differing_counts": differing.get(peer, 0),
            "goal": goal if "faiss" in peer else "",
        }


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="smallest case only, nothing written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    hubness.k_occurrence(torch.randn(600, 4), 3)  # compiled once, then kept on disk

    rows = []
    for n, d in CASES[:1] if options.quick else CASES:
        points = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
        functions = {
            "ours": lambda points=points: hubness.k_occurrence(points, 10).numpy(),
            "faiss IndexFlatL2": lambda points=points: faiss_counts(points, 10),
            "scikit-learn brute": lambda points=points: sklearn_counts(points, 10),
        }
        times, results = measure(functions, options.rounds if n < 20_000 else min(3, options.rounds))
        differing = {name: int((r != results["ours"]).sum()) for name, r in results.items()}
        rows += rows_of(f"counts, n = {n}, d = {d}, k = 10", times, differing, "1.3 times faster than faiss")
    dims = torch.linspace(0, 1e6, 10**6, dtype=torch.float64)
    functions = {
        "ours": lambda: hubness.log_unit_ball_volume(dims),
        "scipy gammaln": lambda: (
            dims.numpy() / 2 * np.log(np.pi) - scipy.special.gammaln(dims.numpy() / 2 + 1)
        ),
        "torch lgamma": lambda: dims / 2 * np.log(np.pi) - torch.lgamma(dims / 2 + 1),
    }
    rows += rows_of("log volume of a million dimensions", measure(functions, options.rounds)[0], {}, "")

    report = {
        "benchmark": "hubness",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads used": options.threads},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "faiss": faiss.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
        "command": "python benchmarks/bench_hubness.py " + " ".join(sys.argv[1:]),
        "rows": rows,
    }
    for row in rows:
        print(
            f"{row['case']:36} {row['peer']:20} {row['ratio'][1]:5.2f}x  differing {row['differing_counts']}"
        )
    if not options.quick:
        target = Path(__file__).parent.parent / "results" / "bench_hubness.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
