"""The recorded benchmarks (results/bench_*.json), and how a GPU agrees (results/gpu.json), as tables."""

import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

NOTES = ("rule", "load before and after", "OpenBLAS of the peers")
COLUMNS = ("Case", "Ours", "Peer", "Peer's time", "Speed-up (least to most)", "Difference", "Goal")


def seconds(number):
    r"""Return a duration in a unit that suits it.

    >>> seconds(0.0123), seconds(4.2), seconds(None)
    ('12.3\xa0ms', '4.2\xa0s', '–')
    """
    if number is None:
        return "–"
    return f"{number * 1e3:.3g}\N{NO-BREAK SPACE}ms" if number < 1 else f"{number:.3g}\N{NO-BREAK SPACE}s"


def times(ratio):
    """Return a speed-up with two decimals, or two digits where it is small: a loss is not shown as 0.00.

    >>> times(4), times(0.0013)
    ('4.00', '0.0013')
    """
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def worded(fact):
    """Return a list as one line of text, anything else as it is."""
    return ", ".join(map(str, fact)) if isinstance(fact, list) else fact


def row(result):
    """Return the cells of one measured case."""
    ratio = result.get("ratio")
    speed = "{1} ({0} to {2})".format(*map(times, ratio)) if ratio else "–"
    shown = [result["case"], seconds(result.get("ours_s")), result.get("peer") or "–"]
    shown += [seconds(result.get("peer_s")), speed]
    apart = result.get("difference", result.get("differing_counts"))  # in words, or a number of results
    return [*shown, "–" if apart is None else str(apart), result.get("goal") or "–"]


def listed(facts):
    """Return a dictionary as one line of text."""
    return ", ".join(f"{key} {value}" for key, value in facts.items())


class Benchmarks(SphinxDirective):
    """One section of text and a table for each recorded benchmark."""

    def run(self):
        """Read the files; the page depends on them."""
        found = []
        for path in sorted(Path(self.env.srcdir, "results").glob("bench_*.json")):
            self.env.note_dependency(str(path))
            found += self.section(json.loads(path.read_text(encoding="utf-8")))
        return found or [nodes.paragraph("", "No benchmark has been recorded yet.")]

    def section(self, one):
        """Return what is known about one benchmark."""
        about = nodes.paragraph("", f"Recorded on {one['date']} with ")
        about += [nodes.literal("", one["command"]), nodes.Text(". Machine: ")]
        about += nodes.Text(f"{listed(one['machine'])}. Versions: {listed(one['versions'])}.")
        notes = {key: one[key] for key in NOTES if key in one}
        about += nodes.Text(
            "".join(f" {key[0].upper()}{key[1:]}: {worded(what)}." for key, what in notes.items())
        )
        return [nodes.rubric("", one["benchmark"]), about, table([COLUMNS, *map(row, one["rows"])])]


class Gpu(SphinxDirective):
    """What `make gpu` recorded: the times of each chapter, and each entry of its record on both devices."""

    def run(self):
        """Read the file; the page depends on it."""
        path = Path(self.env.srcdir, "results", "gpu.json")
        self.env.note_dependency(str(path))
        if not path.is_file():
            return [nodes.paragraph("", "No run on a GPU has been recorded yet.")]
        kept = json.loads(path.read_text(encoding="utf-8"))
        about = f"Recorded on {kept['date']}, profile {kept['profile']}. Machine: {listed(kept['machine'])}."
        times = [("Chapter", "CPU", "GPU", "Speed-up", "Agree", "Differ", "No error stated")]
        entries = [("Chapter", "Entry", "CPU", "GPU", "Tolerance", "Verdict")]
        for chapter in kept["chapters"]:
            found = [entry["verdict"] for entry in chapter["entries"]]
            counts = (found.count(word) for word in ("agree", "differ", "no error stated"))
            ratio = chapter["cpu_s"] / chapter["gpu_s"]
            spent = (seconds(chapter["cpu_s"]), seconds(chapter["gpu_s"]), f"{ratio:.2f}")
            times.append((chapter["chapter"], *spent, *map(str, counts)))
            for entry in chapter["entries"]:
                shown = (
                    "–" if entry[key] is None else f"{entry[key]:.4g}"
                    for key in ("one", "other", "tolerance")
                )
                entries.append((chapter["chapter"], entry["name"], *shown, entry["verdict"]))
        versions = nodes.paragraph("", f"{about} Versions: {listed(kept['versions'])}.")
        return [versions, table(times), table(entries)]


def table(rows, *classes):
    """Return a table whose first row is its heading."""
    cells = [nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in line)) for line in rows]
    group = nodes.tgroup("", cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    group += [nodes.thead("", cells[0]), nodes.tbody("", *cells[1:])]
    return nodes.table("", group, classes=list(classes))
