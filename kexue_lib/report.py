"""What a sweep found: a table, a summary over seeds, a figure for each number, a page that stands alone."""

import html
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib import figures, notebooks, sweeps
from kexue_lib.arguments import refuse
from kexue_lib.tables import html_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST_LINES = 5  # of one figure: the colours that colour-blind eyes tell apart
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #7b818866; }}
th[scope=row], caption {{ text-align: left; }}
figure {{ margin: 1.5rem 0; max-width: 40rem; }}
svg {{ width: 100%; height: auto; }}
</style>
<body>
<main>
<h1>{title}</h1>
<p>{about}</p>
{body}
</main>
</body>
</html>
"""


def report(folder: Path | str) -> dict[str, Path]:
    """Write the report of a sweep, finished or not, into its folder ``report``; return the files.

    They are ``table.csv`` and ``table.parquet`` (see `sweeps.table`), ``summary.csv`` (mean, standard
    deviation and half-width of the 95 % interval over seeds, for each other point and each entry of the
    record) and ``index.html``.

    Raises
    ------
    ValueError
        If the folder has no sweep, or cannot be written.
    """
    folder = Path(folder)
    about, found = sweeps.manifest(folder), sweeps.table(folder)
    names = entries(found)
    varied = [name for name in about["swept"] if len(about["swept"][name]) > 1]
    short = summary(found, [name for name in varied if name != "seed"], names)
    target = folder / "report"
    try:
        target.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=target).close()
    except OSError:
        raise refuse("folder", str(folder), "a folder where you may write") from None
    files = {end: target / end for end in ("table.csv", "table.parquet", "summary.csv", "index.html")}
    notebooks.write(files["table.csv"], found.to_csv(index=False))
    notebooks.write(files["summary.csv"], short.to_csv(index=False))
    part = target / ".table.parquet.part"
    found.to_parquet(part, index=False)
    part.replace(files["table.parquet"])
    notebooks.write(files["index.html"], _page(about, found, short, varied, names))
    return files


def entries(found: "pd.DataFrame") -> list[str]:
    """Return the names of the record's entries in a sweep's table."""
    later = list(found.columns)[list(found.columns).index("failure") + 1 :]
    return [name for name in later if not (name.endswith("_error") and name[:-6] in later)]


def summary(found: "pd.DataFrame", by: list[str], names: list[str]) -> "pd.DataFrame":
    """Return a row for each point and entry: number of runs, mean, deviation, half-width of 95 %.

    Parameters
    ----------
    found : table from `sweeps.table`
    by : names of the parameters that make a point; runs that agree in them are repetitions
    names : entries of the record
    """
    import pandas as pd
    from scipy.stats import t

    done = found[found["status"] == "done"]
    groups = done.groupby(by, sort=False, dropna=False) if by else [((), done)]
    rows = []
    for point, group in groups:
        for name in names:
            values = group[name].dropna() if name in group else group["seconds"].iloc[:0]
            if count := len(values):
                spread = float(values.std()) if count > 1 else math.nan
                half = spread / math.sqrt(count) * t.ppf(0.975, count - 1) if count > 1 else math.nan
                numbers = {"runs": count, "mean": values.mean(), "std": spread, "half_width": half}
                rows.append(dict(zip(by, point, strict=True)) | {"entry": name} | numbers)
    return pd.DataFrame(rows, columns=[*by, "entry", "runs", "mean", "std", "half_width"])


def _page(
    about: dict[str, Any], found: "pd.DataFrame", short: "pd.DataFrame", varied: list[str], names: list[str]
) -> str:
    counts = {state: int((found["status"] == state).sum()) for state in ("done", "failed", "open")}
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    seconds = found.loc[found["status"] == "done", "seconds"].mean()
    took = f" A run took {seconds:.1f} s on average." if counts["done"] else ""
    swept = "; ".join(f"{name} = {', '.join(map(str, about['swept'][name]))}" for name in about["swept"])
    parts = []
    failed = found[found["status"] == "failed"]
    if len(failed):
        cells = [[*(str(row[name]) for name in varied), row["failure"]] for _, row in failed.iterrows()]
        parts.append("<h2>Failed</h2>" + _table([*varied, "failure"], cells))
    if counts["done"]:
        import matplotlib.pyplot as plt

        heading, *lines = _axis(found, varied)
        for name in names:
            fig = figure(short, name, heading, lines)
            alt = f"{name} for {heading or 'the one point'} of the sweep, with intervals over seeds."
            parts.append(f"<figure>{figures.svg(fig, alt=alt)}</figure>")
            plt.close(fig)
        columns = [column for column in short.columns if column not in ("std",)]
        cells = [[_text(row[column]) for column in columns] for _, row in short.iterrows()]
        parts.append("<h2>Summary over seeds</h2>" + _table(columns, cells))
    return PAGE.format(
        title=html.escape(f"Sweep of {about['chapter']}"),
        about=html.escape(f"{about['title']}. {swept or 'Default values'}: {words}.{took}"),
        body="\n".join(parts),
    )


def _axis(found: "pd.DataFrame", varied: list[str]) -> list[str]:
    """Return the parameter of the horizontal axis, the numeric one with most values, and the others."""
    import pandas as pd

    names = [name for name in varied if name != "seed"]
    if not names:
        return [""]
    numbers = [name for name in names if pd.api.types.is_numeric_dtype(found[name])]
    first = max(numbers or names, key=lambda name: found[name].nunique())
    return [first, *(name for name in names if name != first)]


def drawing(table: Mapping[str, Sequence[Any]], entry: str) -> "Figure":
    """Return the figure of one entry for the table of a finished sweep, given column by column.

    Raises
    ------
    ValueError
        If the table has no such entry.
    """
    import pandas as pd

    found = pd.DataFrame(table).assign(status="done")
    if entry not in found.columns:
        raise refuse("entry", entry, f"one of {', '.join(found.columns)}")
    given = list(found.columns)[: list(found.columns).index("seconds")]
    varied = [name for name in given if found[name].nunique() > 1]
    heading, *lines = _axis(found, varied)
    by = [name for name in varied if name != "seed"]
    return figure(summary(found, by, [entry]), entry, heading, lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _table(headings: list[str], rows: list[list[str]]) -> str:
    return f'<div class="wide">{html_table("sweep", headings, rows)}</div>'


def figure(short: "pd.DataFrame", name: str, axis: str, lines: list[str]) -> "Figure":
    """Return the figure of one entry of a `summary`: its mean against a parameter, intervals over seeds.

    Parameters
    ----------
    axis : parameter of the horizontal axis, "" if there is one point only
    lines : other parameters; each of their combinations is a line, at most five are drawn
    """
    import pandas as pd

    rows = short[short["entry"] == name]
    with figures.style():
        fig, ax = figures.panels()
        groups = rows.groupby(lines, sort=False) if lines else [((), rows)]
        for (point, group), meaning in zip(groups, list(figures.COLOURS)[:MOST_LINES], strict=False):
            numeric = axis and pd.api.types.is_numeric_dtype(group[axis])
            group = group.sort_values(axis) if numeric else group
            x = group[axis] if numeric else [str(v) for v in group[axis]] if axis else ["all"]
            label = ", ".join(f"{k} = {v}" for k, v in zip(lines, point, strict=True))
            ax.errorbar(
                x,
                group["mean"],
                yerr=group["half_width"].fillna(0),
                label=label or None,
                color=figures.COLOURS[meaning],
                linestyle=figures.LINES[meaning],  # all are lines here, whatever the colour means elsewhere
                marker=figures.MARKERS[meaning],
            )
        if axis and pd.api.types.is_numeric_dtype(rows[axis]) and rows[axis].min() > 0:
            spread = rows[axis].max() / rows[axis].min()
            ax.set_xscale("log" if spread >= 20 else "linear")
        if rows["mean"].min() > 0 and rows["mean"].max() / rows["mean"].min() >= 20:
            ax.set_yscale("log")
        ax.set(xlabel=axis, ylabel=name)
        if lines:
            ax.legend()
    return fig
