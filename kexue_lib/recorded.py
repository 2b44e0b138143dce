"""What a chapter found in a run too long to be repeated for every reader: kept with its date and machine."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kexue_lib import notebooks, record
from kexue_lib.arguments import refuse
from kexue_lib.tables import Table

PACKAGES = ("torch", "numpy", "scipy", "sympy")


@dataclass(frozen=True)
class Recorded:
    """One run: day, machine, versions, parameters, seconds, and its record (as `record.Record`)."""

    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    parameters: dict[str, Any]
    seconds: float
    record: dict[str, dict[str, Any]]

    def about(self) -> str:
        """Return in words when, where and with what it ran, and for how long."""
        where, tools = (
            ", ".join(f"{name} {value}" for name, value in items.items())
            for items in (self.machine, self.versions)
        )
        took = f"{self.seconds / 60:.0f} minutes" if self.seconds >= 120 else f"{self.seconds:.0f} seconds"
        return f"recorded on {self.date} in {took} ({where}; {tools})"


def path(slug: str) -> Path:
    """Return where the results of a chapter's full profile are kept."""
    return notebooks.book_root() / "results" / f"full_{slug}.json"


def load(slug: str) -> Recorded | None:
    """Return the recorded run of a chapter's full profile, None if there is none.

    Raises
    ------
    ValueError
        If there is a file and it is none of ours.
    """
    kept = path(slug)
    try:
        return Recorded(**json.loads(kept.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise refuse("recorded results", kept.name, "a file that `make full` wrote, or none") from None


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
        datetime.now(UTC).date().isoformat(),
        machine(),
        versions(),
        dict(run.get("parameters") or {}),
        round(run.get("duration") or 0.0, 1),
        found,
    )
    path(slug).parent.mkdir(exist_ok=True)
    notebooks.write(path(slug), json.dumps(asdict(kept), ensure_ascii=False, indent=1) + "\n")
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
