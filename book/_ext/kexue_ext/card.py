"""The picture that other sites show with a link to the book, drawn from a result of its first chapter."""

from functools import cache
from io import BytesIO

SIZE = (1200, 630)
ALT = (
    "How often a point is among the ten nearest neighbours of others: about ten times in 3 dimensions; "
    "in 100, many never and one for a quarter of all points."
)
SUBTITLE = "The mathematics of a blog, derived, checked and run"
PAPER, INK, FAINT = "#0b1f36", "#ffffff", "#9fb3c8"
POINTS, K, SEED = 2000, 10, 9147


@cache
def counts():
    """Return dimension → how often each of many Gaussian points is named by the others."""
    from kexue_lib import hubness
    from kexue_lib.randomness import stream

    def cloud(d):
        return hubness.sample_coordinates(POINTS, d, "gaussian", generator=stream(SEED, "card", d))

    return {d: hubness.k_occurrence(cloud(d), K).numpy() for d in (3, 100)}


def png(title):
    """Return the picture; the same title gives the same bytes with the same versions."""
    import numpy as np
    from matplotlib.figure import Figure

    from kexue_lib import figures

    named = counts()
    with figures.style():
        fig = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER, layout="none")
        fig.text(0.06, 0.855, title, size=45, weight="bold", color=INK, va="center")
        fig.text(0.062, 0.742, SUBTITLE, size=25, color=FAINT, va="center")
        ax = fig.add_axes((0.06, 0.15, 0.88, 0.5), facecolor="none")
        top = int(named[100].max())
        edges = np.arange(0, top + 6, 5)
        ax.hist(named[100], bins=edges, log=True, color=figures.COLOURS["measured"], rwidth=0.86)
        ax.hist(named[3], bins=edges, log=True, histtype="step", color="#5fd0cc", linewidth=3.5)
        ax.set(xlim=(-2, top + 12), ylim=(0.75, 3000), yticks=[], xticks=range(0, top, 100))
        ax.minorticks_off()
        ax.grid(False)
        ax.spines["left"].set_visible(False)
        ax.spines["bottom"].set_color(FAINT)
        ax.tick_params(labelsize=16, colors=FAINT, length=0, pad=8)
        ax.text(32, 900, "3 dimensions", size=25, color="#5fd0cc", va="center")
        ax.text(62, 120, "100 dimensions", size=25, color="#f5a040", va="center")
        about = dict(color=INK, size=19, ha="right", va="bottom")
        ax.text(top + 8, 2.6, f"one point is a neighbour of {top}", **about)
        ax.plot([top // 5 * 5 + 2.5] * 2, [1.25, 2.4], color=INK, linewidth=1.2, solid_capstyle="butt")
        words = f"how many of {POINTS} points have a point among their {K} nearest neighbours"
        fig.text(0.94, 0.04, words, size=16, color=FAINT, ha="right", va="center")
        stream = BytesIO()
        fig.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
