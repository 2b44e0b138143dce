"""The picture that other sites show with a link to the book, drawn from a result of its first chapter."""

from functools import cache
from io import BytesIO

from matplotlib.figure import Figure

SIZE = (1200, 630)
ALT = (
    "Two histograms of how often a point is among the ten nearest neighbours of others: "
    "narrow in 3 dimensions, with a long tail of hubs in 100."
)
INK, PAPER = "#16232f", "#ffffff"


@cache
def counts():
    """Return how often each of 2000 Gaussian points is named in 3 and in 100 dimensions."""
    from kexue_lib import hubness
    from kexue_lib.randomness import stream

    clouds = {
        d: hubness.sample_coordinates(2000, d, "gaussian", generator=stream(9147, "card", d))
        for d in (3, 100)
    }
    return {d: hubness.k_occurrence(cloud, 10).numpy() for d, cloud in clouds.items()}


def png(title):
    """Return the picture."""
    import numpy as np
    from matplotlib.patches import Rectangle

    from kexue_lib import figures

    with figures.style():
        fig = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER, layout="none")
        whole = fig.add_axes((0, 0, 1, 1))
        whole.set(xlim=(0, SIZE[0]), ylim=(0, SIZE[1]))
        whole.axis("off")
        whole.add_patch(Rectangle((0, 0), 18, SIZE[1], color=figures.COLOURS["theory"], linewidth=0))
        whole.text(70, 545, title, size=46, weight="bold", color=INK, va="center")
        whole.text(72, 468, "A blog's mathematics, derived, checked and run", size=25, color=INK, va="center")
        found = counts()
        top = max(map(max, found.values()))
        for column, (d, named) in enumerate(found.items()):
            ax = fig.add_axes((0.06 + 0.475 * column, 0.155, 0.43, 0.44))
            edges = np.arange(0, top + 5, 4)
            ax.hist(named, bins=edges, log=True, color=figures.COLOURS["measured"], rwidth=0.9)
            ax.set(xlim=(0, top), ylim=(0.7, 2500), yticks=[])
            ax.minorticks_off()
            ax.spines[["left"]].set_visible(False)
            ax.grid(False)
            ax.tick_params(labelsize=17, colors=INK)
            ax.text(0.97, 0.9, f"{d} dimensions", size=24, color=INK, ha="right", transform=ax.transAxes)
        words = "how often a point is among the ten nearest neighbours of others"
        whole.text(SIZE[0] / 2 + 10, 26, words, size=19, color=INK, ha="center", va="center")
        stream = BytesIO()
        fig.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
