"""Run chapters on the CPU and on a GPU, compare their records, and keep the table.  `make gpu` runs it.

    python tools/gpu.py                     all chapters, full profile
    python tools/gpu.py sde --profile quick

The notebooks go to out/gpu, the table to results/gpu.json, also if a chapter fails or an entry differs; then
the exit status is 1. With chapters named or another profile nothing is recorded, only printed.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from kexue_lib import notebooks, recorded
from kexue_lib.parameters import resolve_device


def compared(slug, profile, folder):
    """Return one chapter's times and the agreement of its entries."""
    ran = {
        device: notebooks.run(
            slug,
            folder / f"{slug}.{device}.ipynb",
            {"device": device, "profile": profile},
            force=True,
            progress=True,
        )
        for device in ("cuda", "cpu")
    }
    gpu, cpu = (round(ran[device].metadata["papermill"]["duration"], 1) for device in ("cuda", "cpu"))
    entries = recorded.agreement(*(notebooks.record_of(ran[device]) for device in ("cpu", "cuda")))
    return {"chapter": slug, "cpu_s": cpu, "gpu_s": gpu, "entries": entries}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER")
    parser.add_argument("--profile", choices=("quick", "full"), default="full")
    options = parser.parse_args()
    try:
        resolve_device("cuda")
    except ValueError as problem:
        print(f"gpu: {problem}", file=sys.stderr)
        return 2
    import torch

    folder, found, status = Path("out/gpu"), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for slug in options.chapters or notebooks.chapters():
        try:
            found.append(compared(slug, options.profile, folder))
        except (ValueError, notebooks.RunFailed) as problem:
            status = 1
            print(f"gpu: {problem}", file=sys.stderr)
            continue
        one = found[-1]
        wrong = [entry["name"] for entry in one["entries"] if entry["verdict"] in ("differ", "missing")]
        status = status or int(bool(wrong))
        print(f"{slug}: {one['cpu_s']} s on the CPU, {one['gpu_s']} s on the GPU; differ: {wrong or 'none'}")
    kept = {
        "date": datetime.now(UTC).date().isoformat(),
        "profile": options.profile,
        "machine": recorded.machine(),
        "versions": recorded.versions() | {"CUDA": torch.version.cuda, "driver": driver()},
        "chapters": found,
    }
    if found and not options.chapters and options.profile == "full":
        notebooks.write(Path("results", "gpu.json"), json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
    return status


def driver():
    """Return the version of the GPU's driver, as the system tells it."""
    about = Path("/proc/driver/nvidia/version")
    words = about.read_text().split() if about.is_file() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


if __name__ == "__main__":
    sys.exit(main())
