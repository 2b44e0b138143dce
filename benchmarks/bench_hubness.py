"""Time the exact neighbour counts and the log volume beside their peers."""

from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
import scipy.special
import torch
from common import main, rows
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from kexue_lib import hubness

CASES = [(10_000, 32), (10_000, 128), (20_000, 256), (50_000, 64)]
GOALS = {"faiss IndexFlatL2": "1.3 times faster"}
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
    for some in torch.arange(len(x)).split(256):
        block = torch.addmm(squares[None], x[some], x.T, alpha=-2)
        block[some - some[0], some] = torch.inf
        counts += torch.bincount(block.topk(k, largest=False).indices.flatten(), minlength=len(x))
    return counts.numpy()


def cases(rounds, threads, quick):
    """Yield the rows of the counts and of the volumes."""
    faiss.omp_set_num_threads(threads)
    for n, d in CASES[:1] if quick else CASES:
        points = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
        reference = float64_counts(points, 10)

        def difference(results, peer, reference=reference):
            """Say how many counts differ from those by float64 distances alone."""
            ours, theirs = (int((results[name] != reference).sum()) for name in ("ours", peer))
            return f"{ours} and {theirs} counts differ from those of float64 distances"

        functions = {
            "ours": lambda points=points: hubness.k_occurrence(points, 10).numpy(),
            "faiss IndexFlatL2": lambda points=points: faiss_counts(points, 10),
            "scikit-learn brute": lambda points=points: sklearn_counts(points, 10),
        }
        case = f"counts, n = {n}, d = {d}, k = 10"
        yield from rows(case, functions, rounds, threads, goals=GOALS, difference=difference)
    for largest in (100, 10**6):
        dims = torch.linspace(0, largest, 10**6, dtype=torch.float64)
        array = dims.numpy()
        functions = {
            "ours": lambda dims=dims: hubness.log_unit_ball_volume(dims),
            "scipy gammaln": lambda d=array: d / 2 * np.log(np.pi) - scipy.special.gammaln(d / 2 + 1),
            "torch lgamma": lambda d=dims: d / 2 * np.log(np.pi) - torch.lgamma(d / 2 + 1),
        }
        yield from rows(f"log volumes, a million up to {largest}", functions, 4 * rounds, threads)


def openblas():
    """Return which OpenBLAS the peers use, with which kernels."""
    found = (blas for blas in threadpool_info() if blas["internal_api"] == "openblas")
    names = {f"{b['version']} {b['architecture']} in {Path(b['filepath']).parts[-2]}" for b in found}
    return {"OpenBLAS of the peers": sorted(names)}


if __name__ == "__main__":
    peers = {"faiss": faiss.__version__} | {
        name: version(name) for name in ("scikit-learn", "numpy", "scipy")
    }
    main(__file__, __doc__, cases, peers, unset=SLOWING, more=openblas)
