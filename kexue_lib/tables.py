"""Tables of results that read well in a page, in a notebook and in a terminal."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from kexue_lib.arguments import refuse


class Table:
    """Columns under their headings; the first names the rows.

    Parameters
    ----------
    columns : mapping of str to sequence
        Heading → cells, all of one length; a cell is shown as ``str`` gives it, so format numbers first.
    caption : str
        What the table shows, in a sentence.

    Raises
    ------
    ValueError
        If there is no column, columns differ in length, or the caption is empty.

    Examples
    --------
    >>> print(Table({"n": [1, 2], "volume": ["2", "π"]}, caption="Unit balls."))
    n  volume
    1  2
    2  π
    """

    def __init__(self, columns: Mapping[str, Sequence[object]], *, caption: str) -> None:
        lengths = {heading: len(cells) for heading, cells in columns.items()}
        if len({*lengths.values()}) != 1 or any(isinstance(cells, str) for cells in columns.values()):
            raise refuse("columns", lengths, "at least one column, lists of cells all of one length")
        if not isinstance(caption, str) or not caption.strip():
            raise refuse("caption", caption, "a sentence that says what the table shows")
        self.headings = list(columns)
        self.rows = [[str(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        self.caption = caption

    def __str__(self) -> str:
        lines = [self.headings, *self.rows]
        widths = [max(len(line[c]) for line in lines) for c in range(len(self.headings))]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        markup = html_table("kexue-results", self.headings, self.rows, caption=self.caption)
        return {"text/plain": str(self), "text/html": markup}


def html_table(
    kind: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    row_heading: str = "{}",
) -> str:
    """Return the HTML of a table whose first column names the rows; everything in it is escaped.

    Parameters
    ----------
    kind : str
        Class of the table; the book knows those that begin with ``kexue-``.
    row_heading : str
        Markup around a row's name, as ``<code>{}</code>``.
    """
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{row_heading.format(html.escape(str(first)))}</th>'
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f'<table class="{kind}">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
