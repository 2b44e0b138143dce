"""What benchmarks have in common: paired rounds in one process, for one thread and for two, and a record.

A benchmark names its cases; each case is a set of functions, ours among them, that run in turn.
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

import psutil
import torch

from kexue_lib import recorded

CORES = os.cpu_count()
RULE = (
    "the median, least and greatest ratio of paired rounds in which all run in turn, 0.1 s apart, each as "
    "often as fills 0.05 s; a round in which other programs needed our processors is measured again, at most "
    "as often as there are rounds"
)
TARGET = Path(__file__).parent.parent / "results"


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
    repeats = {}

    def one_round():
        for name, function in functions.items():
            time.sleep(0.1)  # threads spin for a while when their work is done
            start = time.perf_counter()
            for _ in range(repeats[name]):
                results[name] = function()
            latest[name] = (time.perf_counter() - start) / repeats[name]

    for name, function in functions.items():
        function()  # what is compiled or kept, once
        start = time.perf_counter()
        function()
        repeats[name] = 1 + int(0.05 / (time.perf_counter() - start))
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


def rows(case, functions, rounds, threads, *, goals=None, difference=lambda results, peer: None):
    """Measure one case, in which "ours" is compared with all others; yield a row for each of them."""
    times, results, disturbed = measure(functions, rounds, threads)
    ours = times.pop("ours")
    for peer, theirs in times.items():
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        yield {
            "case": case,
            "ours_s": round(statistics.median(ours), 6),
            "peer": peer,
            "peer_s": round(statistics.median(theirs), 6),
            "ratio": [round(r, 4) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "difference": difference(results, peer),
            "goal": (goals or {}).get(peer, ""),
        } | disturbed


def main(file, description, cases, versions, *, threads=(1, 2), unset=(), more=dict):
    """Run a benchmark: `cases(rounds, threads, quick)` yields its rows, versions names what it compares.

    Without `--threads` the program starts itself once for each of `threads`, each time in a process of its
    own, because some peers choose their threads when they are imported. Environment variables in `unset`
    would slow a peer down; `more()` is what else the record should hold.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help=f"left out: in turn {' and '.join(map(str, threads))}")
    parser.add_argument("--quick", action="store_true", help="few cases, nothing written")
    options = parser.parse_args()
    if options.threads is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        for count in threads:
            if allowed:  # one thread stays on one core
                os.sched_setaffinity(0, sorted(allowed)[-count:])
            kept = {name: value for name, value in os.environ.items() if name not in unset}
            env = kept | {"OMP_NUM_THREADS": str(count)}
            command = [sys.executable, file, *sys.argv[1:], "--threads", str(count)]
            subprocess.run(command, env=env, check=True)
        return
    name, threads = Path(file).stem.removeprefix("bench_"), options.threads
    torch.set_num_threads(threads)
    load = [round(os.getloadavg()[0], 2)]
    found = list(cases(options.rounds, threads, options.quick))
    report = {
        "benchmark": f"{name}, {threads} thread{'s' * (threads > 1)}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": recorded.machine()["processor"], "cores": CORES, "threads used": threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__} | versions,
        "command": f"python benchmarks/bench_{name}.py " + " ".join(sys.argv[1:]),
        "rule": f"{options.rounds} rounds: {RULE}",
        "load before and after": [*load, round(os.getloadavg()[0], 2)],
        **more(),
        "rows": found,
    }
    print(f"-- {report['benchmark']}, load {report['load before and after']}")
    for row in found:
        low, middle, high = row["ratio"]
        speed = f"{middle:6.2f} ({low:.2f} to {high:.2f})"
        print(f"{row['case']:42} {row['peer']:36} {row['ours_s']:9.5f} s {speed:26} {row['difference']}")
    if not options.quick:
        target = TARGET / f"bench_{name}_{threads}.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
