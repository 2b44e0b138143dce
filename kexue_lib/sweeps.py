"""Sweeps: a chapter run for many parameters, on one machine or a cluster, resumable, and its table.

A sweep is a folder: ``manifest.json`` says what was asked for, and ``runs`` has for each point of the grid an
executed notebook and a small JSON with its record. These are written by the process that was asked, each in
one step, whatever dies in between; the workers need not share its disk.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib import notebooks
from kexue_lib.arguments import integer, refuse
from kexue_lib.parameters import Integer, Parameter, resolve_device

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, dict[str, Any]], None]
MOST = 10_000  # points that are run without being asked twice
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


# -- what to run -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One run: the name of its files, the values of all parameters, and a hash of all it depends on."""

    name: str
    values: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Plan:
    """A chapter, the values of the parameters that were named, and the points they make."""

    slug: str
    swept: dict[str, list[Any]]
    points: list[Point]


def plan(
    slug: str, parameters: Mapping[str, str | Sequence[Any]], *, pairs: bool = False, many: bool = False
) -> Plan:
    """Check every point of a sweep before anything runs.

    Parameters
    ----------
    slug : str
        The chapter.
    parameters : mapping of str to str or sequence
        Values by name: a sequence, or text such as ``"16,64,256"`` or, for whole numbers, ``"0..4"``, both
        ends included.
    pairs : bool
        Whether the first values go together, the second, and so on; otherwise all combinations are points.
        One value alone goes with all.
    many : bool
        Whether more than 10 000 points are meant.

    Raises
    ------
    ValueError
        If the chapter or a name is unknown, a value is refused by the chapter or named twice, lengths differ
        (with `pairs`), or there are too many points.
    """
    spec = notebooks.check_parameters(slug)[1].parameters
    unknown = [name for name in parameters if name not in spec]
    if unknown:
        notebooks.check_parameters(slug, dict.fromkeys(unknown, ""))  # says so, and what was meant
    # The number of points is known before there are any, which may be more than memory holds.
    counts = {name: _count(spec[name], values) for name, values in parameters.items()}
    total = max(counts.values(), default=1) if pairs else math.prod(counts.values())
    if total > MOST and not many:
        raise refuse("number of points", total, f"at most {MOST}, or --yes")
    swept = {name: _values(name, spec[name], values) for name, values in parameters.items()}
    if pairs:
        lengths = {name: len(values) for name, values in swept.items() if len(values) > 1}
        if len(set(lengths.values())) > 1:
            raise refuse("numbers of values", lengths, "the same for all, or 1, when they go in pairs")
        rows: Iterable[tuple[Any, ...]] = zip(
            *(values * total if len(values) == 1 else values for values in swept.values()), strict=True
        )
    else:
        rows = itertools.product(*swept.values())
    check, code = notebooks.checker(slug), fingerprint(slug)
    points, wrong = [], []
    for row in rows if swept else [()]:
        values = dict(zip(swept, row, strict=True))
        try:
            table = check(values)
        except ValueError as refusal:
            wrong.append(str(refusal))
            continue
        whole = {name: parameter.value for name, parameter in table.parameters.items()}
        key = hashlib.sha256(json.dumps([slug, whole, code], sort_keys=True).encode()).hexdigest()[:32]
        points.append(Point(_name(values, key), whole, key))
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ValueError("; ".join(dict.fromkeys(wrong[:3])) + more)
    if len({point.name for point in points}) < len(points):
        raise ValueError("two points of the sweep have the same values")
    return Plan(slug, swept, points)


def _range(parameter: Parameter, text: str) -> range | None:
    found = re.fullmatch(r"([+-]?\d+)\.\.([+-]?\d+)", text, re.ASCII)
    if found is None or not isinstance(parameter, Integer):
        return None
    return range(int(found[1]), int(found[2]) + 1)


def _count(parameter: Parameter, values: str | Sequence[Any]) -> int:
    if not isinstance(values, str):
        return len(values)
    parts = [_range(parameter, text) for text in values.split(",")]
    return sum(1 if part is None else len(part) for part in parts)


def _values(name: str, parameter: Parameter, values: str | Sequence[Any]) -> list[Any]:
    """Return the values of one parameter, each as text or value; the chapter judges them."""
    found: list[Any] = []
    for text in values.split(",") if isinstance(values, str) else values:
        whole = _range(parameter, text) if isinstance(text, str) else None
        if whole is not None and not len(whole):
            raise refuse(name, text, "a range whose last number is not below its first")
        found += [parameter.parse(text) if isinstance(text, str) else text] if whole is None else whole
    if not found:
        raise refuse(name, values, "at least one value")
    if len(set(map(repr, found))) < len(found):
        raise refuse(name, values, "different values")
    return found


def _name(values: Mapping[str, Any], key: str) -> str:
    """Return the name of a point's files: its values where they make a safe name."""
    name = ",".join(f"{n}={v}" for n, v in values.items()) or "defaults"
    return name if re.fullmatch(r"[\w=,.+-]{1,150}", name, re.ASCII) else key


def fingerprint(slug: str) -> str:
    """Return a hash of what decides a run beside its parameters: chapter, library, lock, torch."""
    from importlib.metadata import version

    total, root = hashlib.sha256(version("torch").encode()), notebooks.book_root()
    lock = root / "requirements.lock"
    library = sorted(Path(__file__).parent.glob("*.py"))
    for path in (root / "book" / f"{slug}.md", *library, *([lock] if lock.is_file() else [])):
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


# -- running -----------------------------------------------------------------------------------


def sweep(
    slug: str,
    parameters: Mapping[str, str | Sequence[Any]],
    folder: Path | str,
    *,
    pairs: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    force: bool = False,
    many: bool = False,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Run a chapter for all points of a grid and return what was found, as `table` does.

    Parameters
    ----------
    slug, parameters, pairs, many
        See `plan`.
    folder : path
        The sweep's folder; made if missing.
    workers : int, optional
        Runs at once on this machine; by default as many as processors, at most eight.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://host:8786``, instead of processes of our own. Its workers
        need this library and this book.
    resume, force : bool
        What to do with a folder that has a sweep: keep the runs that finished with the same parameters,
        chapter, library and lock, or run all anew.
    progress : function, optional
        Called after each run with the number of finished points, of all points, and the run's result.

    Raises
    ------
    ValueError
        If `plan` refuses a point, the folder is refused or another command is at work in it, or the scheduler
        cannot be reached, or has another chapter or library than we have. Nothing is written then.
    """
    whole = plan(slug, parameters, pairs=pairs, many=many)
    return run(
        whole,
        folder,
        workers=workers,
        scheduler=scheduler,
        resume=resume,
        force=force,
        progress=progress,
    )


def run(
    plan: Plan,
    folder: Path | str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Run the points of a plan; arguments and errors are those of `sweep`."""
    folder = Path(folder)
    count = integer("workers", default_workers() if workers is None else workers, 1)
    if scheduler is not None and workers is not None:
        raise refuse("workers", workers, "none beside a scheduler, which has its own")
    if scheduler is None and any(point.values.get("device") == "cuda" for point in plan.points):
        resolve_device("cuda")
    _check_folder(folder, plan, resume=resume, force=force)
    with contextlib.ExitStack() as held:
        if old := folder.exists():
            held.enter_context(_alone(folder))
        done = {} if force else finished(folder)
        left = [point for point in plan.points if done.get(point.name) != point.key]
        with _client(count if left else 0, scheduler, plan.slug) as client:
            if not old:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(_alone(folder))
            _begin(folder, plan, force=force)
            ready = len(plan.points) - len(left)
            for point, result in _results(client, plan.slug, left) if left else []:
                _keep(folder, plan.slug, point, result)
                ready += 1
                if progress:
                    progress(ready, len(plan.points), {"name": point.name} | result)
    return table(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder against a second command; the system lets go of it when a command is killed."""
    try:
        import fcntl
    except ImportError:  # on Windows it is up to the reader
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refuse("folder", str(folder), "one that no other sweep is at work in") from None
        except OSError:
            pass  # some network disks cannot lock
        yield
    finally:
        os.close(handle)


def default_workers() -> int:
    """Return how many runs go on at once on this machine: as many as processors, at most eight."""
    return min(8, os.cpu_count() or 1)


def expected_seconds(slug: str, folder: Path | str) -> float | None:
    """Return what a run took: in this sweep's folder, or when the book was made; None if neither is known."""
    seconds = [run["seconds"] for _, run in _runs(Path(folder)) if run["error"] is None]
    if seconds:
        return float(sum(seconds) / len(seconds))
    return notebooks.last_seconds(slug)


def _check_folder(folder: Path, plan: Plan, *, resume: bool, force: bool) -> None:
    if resume and force:
        raise ValueError("resume and force: expected one of them, or none")
    if not folder.exists():
        base = next(place for place in folder.absolute().parents if place.exists())
        try:
            tempfile.TemporaryFile(dir=base).close()
        except OSError:
            raise refuse("folder", str(folder), "a place where you may write") from None
        return
    try:
        tempfile.TemporaryFile(dir=folder).close()
        empty = not any(folder.iterdir())
    except OSError:
        raise refuse("folder", str(folder), "a folder where you may write, or none yet") from None
    if empty:
        return
    old = manifest(folder)
    if old["chapter"] != plan.slug or old["swept"] != plan.swept:
        raise refuse("folder", str(folder), f"another one: it has a sweep of {_described(old)}")
    if not resume and not force:
        raise refuse("folder", str(folder), "a new one, or --resume to go on, or --force to begin anew")


def _described(old: Mapping[str, Any]) -> str:
    swept = " ".join(f"{name}={','.join(map(str, values))}" for name, values in old["swept"].items())
    return f"{old['chapter']} {swept}".strip()[:200]


def manifest(folder: Path) -> dict[str, Any]:
    """Return what a sweep's folder says about itself; refuse a folder that has none."""
    try:
        found = json.loads((folder / "manifest.json").read_text("utf-8"))
        whole = isinstance(found["chapter"], str) and isinstance(found["swept"], dict)
        whole = whole and isinstance(found["keys"], dict)
        whole = whole and all(isinstance(values, list) for values in found["swept"].values())
        whole = whole and all(
            isinstance(name, str) and re.fullmatch(r"[\w=,.+-]+", name) for name in found["points"]
        )
        if not whole:
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise refuse("folder", str(folder), "a folder that `kexue sweep` made") from None
    return dict(found)


def finished(folder: Path) -> dict[str, str]:
    """Return the keys of the runs that got to their end, by name."""
    return {name: run["key"] for name, run in _runs(folder) if run["error"] is None}


def _runs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((folder / "runs").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):  # another program's, or gone meanwhile
            found = json.loads(path.read_text("utf-8"))
            if isinstance(found, dict) and {"key", "values", "error", "seconds", "record"} <= found.keys():
                yield path.stem, found


def _begin(folder: Path, plan: Plan, *, force: bool) -> None:
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    if force:
        for kind in ("*.json", "*.ipynb"):
            for path in (folder / "runs").glob(kind):
                path.unlink()
    notebooks.write(
        folder / "manifest.json",
        json.dumps(
            {
                "chapter": plan.slug,
                "title": notebooks.title(plan.slug),
                "swept": plan.swept,
                "points": {point.name: point.values for point in plan.points},
                "keys": {point.name: point.key for point in plan.points},
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            ensure_ascii=False,
            indent=1,
        ),
    )


def _keep(folder: Path, slug: str, point: Point, result: dict[str, Any]) -> None:
    """Write a run's notebook, and then the small file that says that it is there."""
    good, bad = (folder / "runs" / f"{point.name}{end}" for end in (".ipynb", ".failed.ipynb"))
    kept, other = (good, bad) if result["error"] is None else (bad, good)
    notebooks.write(kept, result.pop("notebook"))
    notebooks.write(
        folder / "runs" / f"{point.name}.json",
        json.dumps(
            {"chapter": slug, "key": point.key, "values": point.values}
            | result
            | {"written": datetime.now(UTC).isoformat(timespec="seconds")},
            ensure_ascii=False,
            indent=1,
        ),
    )
    other.unlink(missing_ok=True)


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None, slug: str) -> Iterator[Any]:
    """Yield a Dask client, or None where there is nothing to run."""
    if not workers:
        yield None
        return
    import distributed

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            threads = max(1, (os.cpu_count() or 1) // workers)
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",  # any free port; nobody else is to see it
                    memory_limit=None,  # a run's memory is its kernel's, which Dask does not see
                    silence_logs=50,
                    env=dict.fromkeys(THREADS, str(threads)),
                    local_directory=stack.enter_context(
                        tempfile.TemporaryDirectory(prefix="kexue-", ignore_cleanup_errors=True)
                    ),
                )
            )
            yield stack.enter_context(distributed.Client(cluster))
            return
        try:
            client = stack.enter_context(distributed.Client(scheduler, timeout=5))
        except (OSError, ValueError, TypeError) as problem:
            raise refuse(
                "scheduler", scheduler, "the address of a Dask scheduler that answers, as tcp://host:8786"
            ) from problem
        if not client.scheduler_info()["workers"]:
            raise refuse("scheduler", scheduler, "one that has workers")
        ours, theirs = fingerprint(slug), client.run(_try_fingerprint, slug)
        other = [worker for worker, found in theirs.items() if found != ours]
        if other:
            raise refuse("worker", other[0], f"one with the same chapter, library and lock as here: {slug}")
        yield client


def _try_fingerprint(slug: str) -> str:
    try:
        return fingerprint(slug)
    except Exception as problem:
        return repr(problem)


def _results(client: Any, slug: str, points: list[Point]) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Yield what the workers bring, in the order in which they finish; two points a worker are on the way."""
    import distributed

    waiting, flight = iter(points), distributed.as_completed()
    under_way: dict[str, Point] = {}

    def send(count: int) -> None:
        for point in itertools.islice(waiting, count):
            future = client.submit(
                _run_point, slug, point.values, key=f"{point.name}-{point.key}", pure=False, retries=0
            )
            under_way[future.key] = point
            flight.add(future)

    threads = sum(worker["nthreads"] for worker in client.scheduler_info()["workers"].values())
    send(2 * max(1, threads))
    for future in flight:
        point = under_way.pop(future.key)
        if future.status == "finished":
            result = future.result()
        else:  # it took a worker down with it, and again
            problem = future.exception()
            result = {"error": f"{type(problem).__name__}: {problem}"[:300], "seconds": 0.0, "record": {}}
            result["notebook"] = _untouched(slug)
        del future  # the cluster forgets the result
        send(1)
        yield point, result


def _untouched(slug: str) -> str:
    import nbformat

    notebook = notebooks.read_chapter(slug)
    notebooks.make_plain(slug, notebook)
    return str(nbformat.writes(notebook))


def _run_point(slug: str, values: dict[str, Any]) -> dict[str, Any]:
    """Run one point in a worker and return its notebook as text, record, seconds, and error or None."""
    begin, error = time.monotonic(), None
    with tempfile.TemporaryDirectory(prefix="kexue-", ignore_cleanup_errors=True) as folder:
        output = Path(folder, "run.ipynb")
        found: dict[str, Any] = {}
        try:
            found = notebooks.record_of(notebooks.run(slug, output, values))
        except notebooks.RunFailed as failure:
            error = str(failure).rpartition(" (see ")[0]
            output = output.with_suffix(".failed.ipynb")
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"[:300]
        text = output.read_text("utf-8") if output.exists() else _untouched(slug)
    return {"error": error, "seconds": time.monotonic() - begin, "record": found, "notebook": text}


# -- what was found ----------------------------------------------------------------------------


def table(folder: Path | str) -> "pd.DataFrame":
    """Return a row for each point of a sweep, also while it runs.

    Columns are all parameters, ``status`` (``done``, ``failed`` or ``open``), ``seconds``, ``failure``, and
    for each entry of the record its value and, as ``NAME_error``, its error. A run of another version of
    chapter or library, which a resumed sweep has not yet come to, counts as open.
    """
    import pandas as pd

    folder = Path(folder)
    about, runs, rows = manifest(folder), dict(_runs(folder)), []
    for name, values in about["points"].items():
        run = runs.get(name)
        row = {**values, "status": "open", "seconds": math.nan, "failure": ""}
        if run is not None and run["key"] == about["keys"].get(name):
            row |= {
                "status": "done" if run["error"] is None else "failed",
                "seconds": run["seconds"],
                "failure": run["error"] or "",
            }
            for entry, found in run["record"].items():
                row[entry] = found["value"]
                if found["error"] is not None:
                    row[f"{entry}_error"] = found["error"]
        rows.append(row)
    return pd.DataFrame(rows)
