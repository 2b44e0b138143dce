"""What a chapter found in a run too long to be repeated for every reader: kept with its date and machine."""

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kexue_lib import notebooks, record
from kexue_lib.arguments import refuse
from kexue_lib.tables import Table

if TYPE_CHECKING:
    import pandas as pd

Found = TypeVar("Found", bound="Run")
PACKAGES = ("torch", "numpy", "scipy", "sympy")


@dataclass(frozen=True)
class Run:
    """When, where and with what something ran, and for how many seconds."""

    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    seconds: float

    def about(self) -> str:
        """Return in words when, where and with what it ran, and for how long."""
        where, tools = (
            ", ".join(f"{name} {value}" for name, value in items.items())
            for items in (self.machine, self.versions)
        )
        took = f"{self.seconds / 60:.0f} minutes" if self.seconds >= 120 else f"{self.seconds:.0f} seconds"
        return f"recorded on {self.date} in {took} ({where}; {tools})"


@dataclass(frozen=True)
class Recorded(Run):
    """One run of a chapter: its parameters, and its record (as `record.Record`)."""

    parameters: dict[str, Any]
    record: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Swept(Run):
    """A sweep: the command that makes it anew, and column by column what `sweeps.table` returned."""

    command: str
    table: dict[str, list[Any]]


def path(slug: str, kind: str = "full") -> Path:
    """Return where the results of a chapter's full profile (or its ``sweep``) are kept."""
    return notebooks.book_root() / "results" / f"{kind}_{slug}.json"


def load(slug: str) -> Recorded | None:
    """Return the recorded run of a chapter's full profile, None if there is none.

    Raises
    ------
    ValueError
        If there is a file and it is none of ours.
    """
    return _read(path(slug), Recorded)


def load_sweep(slug: str) -> Swept | None:
    """Return the recorded sweep of a chapter, None if there is none.

    Raises
    ------
    ValueError
        If there is a file and it is none of ours.
    """
    return _read(path(slug, "sweep"), Swept)


def _read(kept: Path, kind: type[Found]) -> Found | None:
    try:
        return kind(**json.loads(kept.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise refuse(
            "recorded results", kept.name, "a file that `make full` or `make sweeps` wrote"
        ) from None


def save(slug: str, notebook: Any) -> Recorded:
    """Keep what an executed notebook found, in the place of what was kept before, and return it.

    Raises
    ------
    ValueError
        If the notebook has no record: it did not get to its end.
    """
    found, run = notebooks.record_of(notebook), notebook.metadata.get("papermill", {})
    if not found:
        raise refuse("notebook", f"without a record, of {slug}", "one that ran to its end")
    kept = Recorded(
        *_here(),
        round(run.get("duration") or 0.0, 1),
        dict(run.get("parameters") or {}),
        found,
    )
    return _write(path(slug), kept)


def save_sweep(slug: str, command: str, found: "pd.DataFrame", seconds: float) -> Swept:
    """Keep what a sweep found (see `sweeps.table`) and how long it took, and return it.

    Raises
    ------
    ValueError
        If not all of its runs got to their end.
    """
    if not (found["status"] == "done").all():
        raise refuse(
            "sweep", f"with {(found['status'] != 'done').sum()} runs missing", "one that is finished"
        )
    columns = json.loads(found.drop(columns=["status", "failure"]).to_json(orient="split"))
    table = dict(zip(columns["columns"], zip(*columns["data"], strict=True), strict=True))
    kept = Swept(*_here(), round(seconds, 1), command, {name: list(cells) for name, cells in table.items()})
    return _write(path(slug, "sweep"), kept)


def _here() -> tuple[str, dict[str, str | int], dict[str, str]]:
    return datetime.now(UTC).date().isoformat(), machine(), versions()


def _write(place: Path, kept: Found) -> Found:
    place.parent.mkdir(exist_ok=True)
    notebooks.write(place, json.dumps(asdict(kept), ensure_ascii=False, indent=1) + "\n")
    return kept


def beside(found: Mapping[str, Mapping[str, Any]], slug: str) -> Table:
    """Return a table of a run's record, beside the recorded one of the full profile if there is one.

    Parameters
    ----------
    found : record of the run that asks
    slug : the chapter

    Raises
    ------
    ValueError
        If there is a file of recorded results and it is none of ours.
    """
    kept = load(slug)
    full = kept.record if kept else {}
    names = [*found, *(name for name in full if name not in found)]
    columns = {"name": names, "this run": [_text(found.get(name)) for name in names]}
    if kept:
        columns["full profile"] = [_text(full.get(name)) for name in names]
    columns["meaning"] = [(found.get(name) or full[name])["meaning"] for name in names]
    about = f"and the full profile, {kept.about()}" if kept else "no run of the full profile is recorded yet"
    return Table(columns, caption=f"What this run found; {about}.")


def agreement(
    one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return, entry by entry, whether two records of a chapter agree, as for a processor and a GPU.

    These draw other random numbers from the same seed. Numbers with errors agree if they differ by at most
    five times the root of the sum of the squared errors; numbers without, if they are the same to six digits.
    If such a number is not, it may be one that chance decides, and then nothing is said.

    Returns
    -------
    list of dict
        ``name``, ``one``, ``other``, ``tolerance``, and ``verdict``: ``agree``, ``differ``, ``no error
        stated``, or ``missing`` where one of the records has no such entry.
    """
    rows = []
    for name in [*one, *(name for name in other if name not in one)]:
        row: dict[str, Any] = {"name": name, "one": None, "other": None, "tolerance": None}
        if name not in one or name not in other:
            rows.append(row | {"verdict": "missing"})
            continue
        a, b = one[name], other[name]
        errors = [a["error"], b["error"]]
        stated = None not in errors and any(errors)
        tolerance = 5 * math.hypot(*errors) if stated else 1e-6 * max(abs(a["value"]), abs(b["value"]))
        same = abs(a["value"] - b["value"]) <= tolerance
        verdict = "agree" if same else "differ" if stated else "no error stated"
        found = {"one": a["value"], "other": b["value"], "tolerance": tolerance, "verdict": verdict}
        rows.append(row | found)
    return rows


def _text(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    error = entry["error"] is not None
    return record.formatted(entry, ".3g", error=error)


def machine() -> dict[str, str | int]:
    """Return the processor, how many cores it has, how many of them are used, and the GPU if there is one."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    processors = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cores = os.cpu_count() or 1
    used = os.environ.get("OMP_NUM_THREADS", "")
    found: dict[str, str | int] = {
        "processor": processors[0] if processors else platform.machine(),
        "cores": cores,
        "threads": int(used) if used.isdigit() else cores,
    }
    return found | ({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    return {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES}
