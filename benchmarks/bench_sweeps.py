"""What a sweep costs beside the runs themselves: many runs of a chapter that does nothing.

    python benchmarks/bench_sweeps.py                 20 runs a round, 3 rounds; results/bench_sweeps.json
    python benchmarks/bench_sweeps.py --runs 1000     one long sweep besides, whose memory is watched

Each run starts a kernel of its own. The peers are a plain loop of `papermill.execute_notebook`, and joblib
with as many processes as we have workers.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import common
import psutil

WORKERS = 2
STUB = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Nothing

```{code-cell} ipython3
:tags: [parameters]

size: int = 1
```

```{code-cell} ipython3
:tags: [validate]

from kexue_lib.parameters import Integer, validate

validate(size=Integer(size, "nothing", 1, 100_000))
```

```{code-cell} ipython3
from kexue_lib.record import Record

Record({"double": (2 * size, "twice the size")})
```
"""
TOC = "format: jb-book\nroot: book/intro\nparts:\n- caption: P\n  chapters:\n  - file: book/nothing\n"


def stub_book(folder):
    """Make a book whose only chapter does nothing."""
    (folder / "book").mkdir(parents=True)
    (folder / "_toc.yml").write_text(TOC)
    (folder / "book" / "intro.md").write_text("# Intro\n")
    (folder / "book" / "nothing.md").write_text(STUB)
    os.environ["KEXUE_BOOK"] = str(folder)


def by_sweep(runs, folder, workers, say=None):
    from kexue_lib import sweeps

    found = sweeps.sweep(
        "nothing", {"size": range(1, runs + 1)}, folder, workers=workers, many=True, progress=say
    )
    assert list(found["double"]) == [2 * size for size in range(1, runs + 1)]


def one_run(source, folder, size):
    import papermill

    papermill.execute_notebook(source, folder / f"{size}.ipynb", {"size": size}, progress_bar=False)


def by_loop(runs, source, folder):
    folder.mkdir()
    for size in range(1, runs + 1):
        one_run(source, folder, size)


def by_joblib(runs, source, folder):
    from joblib import Parallel, delayed

    folder.mkdir()
    Parallel(n_jobs=WORKERS)(delayed(one_run)(source, folder, size) for size in range(1, runs + 1))


def memory():
    """Return the bytes of this process and of its workers, without the kernels, which end with their run."""
    own = psutil.Process()
    kept = [own, *own.children(recursive=True)]
    total = 0
    for process in kept:
        try:
            if not any("ipykernel" in word for word in process.cmdline()):
                total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=20, help="runs in a round")
    parser.add_argument("--runs", type=int, default=0, help="runs of the long sweep, if there is to be one")
    parser.add_argument("--quick", action="store_true", help="nothing written")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    load = [round(os.getloadavg()[0], 2)]
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        stub_book(place / "stub")
        import nbformat

        from kexue_lib import notebooks

        source = place / "nothing.ipynb"
        nbformat.write(notebooks.read_chapter("nothing"), source)
        ways = {
            "two workers": lambda folder: by_sweep(options.each, folder, WORKERS),
            "one worker": lambda folder: by_sweep(options.each, folder, 1),
            "papermill": lambda folder: by_loop(options.each, source, folder),
            "joblib": lambda folder: by_joblib(options.each, source, folder),
        }
        times = {name: [] for name in ways}
        for k in range(options.rounds):
            for name, way in ways.items():
                times[name].append(timed(way, place / f"{name} {k}"))
        # What a cluster needs to start and to stop is paid once, however many runs there are.
        start = statistics.median(timed(by_sweep, 1, place / f"start {k}", 1) for k in range(3))
        one = statistics.median(times["papermill"]) / options.each
        rows = []
        for ours, peer, goal in (
            ("one worker", "papermill", "at most 0.3 s more a run"),
            ("two workers", "papermill", ""),
            ("two workers", "joblib", ""),
        ):
            ratios = sorted(b / a for a, b in zip(times[ours], times[peer], strict=True))
            extra = (statistics.median(times[ours]) - (start - one)) / options.each - one
            rows.append(
                {
                    "case": f"{options.each} runs of an empty chapter, {ours}",
                    "ours_s": round(statistics.median(times[ours]), 2),
                    "peer": {"papermill": "papermill in a loop", "joblib": "joblib, two processes"}[peer],
                    "peer_s": round(statistics.median(times[peer]), 2),
                    "ratio": [round(r, 3) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
                    "difference": f"{extra:+.2f} s a run" if ours == "one worker" else None,
                    "goal": goal,
                }
            )
        if options.runs:
            seen = {}

            def say(ready, total, run):
                if ready in (total // 10, total):
                    seen[ready] = memory()

            spent = timed(by_sweep, options.runs, place / "long", WORKERS, say)
            ideal = options.runs * one / WORKERS
            low, high = (round(b / 1e6) for b in seen.values())
            rows.append(
                {
                    "case": f"{options.runs} runs of an empty chapter, two workers",
                    "ours_s": round(spent, 1),
                    "peer": "two loops of papermill, were each as fast as one alone",
                    "peer_s": round(ideal, 1),
                    "ratio": [round(ideal / spent, 3)] * 3,
                    "difference": f"memory without kernels {low} MB after a tenth, {high} MB at the end",
                    "goal": "0.8, no growth",
                }
            )
    report = {
        "benchmark": "sweeps",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": common.recorded.machine()["processor"], "cores": common.CORES},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("papermill", "distributed", "joblib")},
        "command": "python benchmarks/bench_sweeps.py " + " ".join(sys.argv[1:]),
        "rule": f"{options.rounds} rounds: the median, least and greatest ratio of paired rounds; start and "
        f"end of a cluster, {start - one:.1f} s, count in the times and not in the seconds a run",
        "load before and after": [*load, round(os.getloadavg()[0], 2)],
        "rows": rows,
    }
    for row in rows:
        print(row)
    print(report["rule"])
    if not options.quick:
        target = common.TARGET / "bench_sweeps.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
