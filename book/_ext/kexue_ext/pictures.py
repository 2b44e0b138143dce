"""Nine results as nine small pictures for the first page: the role {picture}`hubness`.

They are drawn by `kexue_lib` itself while the pages are built, from the same functions, in the same
colours and with the same meaning of a colour as in the chapters; what only a training can tell comes
from the record of the chapter. One drawing follows both themes, as all figures of the book do.
"""

import math
from functools import cache

from docutils import nodes
from sphinx.util.docutils import SphinxRole

from kexue_ext import card

FRAME = '<span class="kexue-picture" style="--kexue-paper:transparent">{}</span>'
SIZE = (2.6, 1.7)  # inches: three beside each other are as wide as the text
SEED = 9147
DRAWINGS = {}  # slug: (what is drawn and seen, function of axes and record)


class picture(nodes.Inline, nodes.TextElement):
    """Stands for a drawing until all records have been read."""


class Picture(SphinxRole):
    """A small drawing of what a chapter finds."""

    def run(self):
        """Leave a place."""
        if self.text not in DRAWINGS:
            error = f"{{picture}}: expected one of {', '.join(DRAWINGS)}, got {self.text!r}"
            return [], [self.inliner.reporter.error(error, line=self.lineno)]
        return [picture(name=self.text)], []


def drawing(slug, alt):
    """Add a function to the drawings."""

    def add(draw):
        DRAWINGS[slug] = (alt, draw)
        return draw

    return add


def svg(slug, record):
    """Return the drawing of a chapter as SVG; `record` maps names to values."""
    from kexue_lib import figures

    alt, draw = DRAWINGS[slug]
    with figures.style():
        fig, ax = figures.panels()
        fig.set_size_inches(*SIZE)
        ax.grid(visible=False)
        ax.tick_params(labelsize=8, length=2)
        ax.xaxis.label.set_size(9)
        ax.yaxis.label.set_size(9)
        draw(ax, record)
        try:
            return figures.svg(fig, alt=alt)
        finally:
            figures.plt.close(fig)


def say(ax, x, y, text, meaning, **how):
    """Write words in the colour of what they name, at places of the axes from 0 to 1."""
    from kexue_lib.figures import COLOURS

    ax.text(x, y, text, transform=ax.transAxes, size=9, color=COLOURS.get(meaning, "black"), **how)


def bell(x, mean, std):
    """Return the density of a normal distribution."""
    return (-(((x - mean) / std) ** 2) / 2).exp() / (std * math.sqrt(2 * math.pi))


# -- nine pictures ----------------------------------------------------------------------------


@drawing("hubness", card.ALT)
def hubs(ax, _):
    """Draw how often points are named, in 3 and in 100 dimensions."""
    import numpy as np

    from kexue_lib.figures import COLOURS

    named = card.counts()
    edges = np.arange(0, int(named[100].max()) + 6, 5)
    ax.hist(named[100], bins=edges, log=True, color=COLOURS["measured"])
    ax.hist(named[3], bins=edges, log=True, histtype="step", color=COLOURS["other"], lw=2)
    ax.set(yticks=[], xlabel="times a neighbour")
    ax.minorticks_off()
    ax.spines["left"].set_visible(False)
    say(ax, 0.16, 0.88, "3 dimensions", "other")
    say(ax, 0.3, 0.55, "100 dimensions", "measured")


@drawing(
    "sector",
    "The probability that four ducks fit into a sector: up to half a pond a short formula is exact, "
    "beyond it the formula rises above one and the true curve bends.",
)
def ducks(ax, _):
    """Draw the law for four ducks, and the formula that ends at half a pond."""
    import torch

    from kexue_lib import figures, sector

    turns = torch.linspace(0, 1, 121, dtype=torch.float64)
    ax.plot(turns * 360, 4 * turns**3, **figures.look("control", lw=1.6))
    ax.plot(turns * 360, sector.probability(4, turns), **figures.look("theory"))
    ax.axvline(180, color=figures.COLOURS["muted"], lw=0.8, ls=":")
    ax.set(ylim=(0, 1.25), xticks=(0, 180, 360), xticklabels=("0°", "180°", "360°"), yticks=(0, 1))
    say(ax, 0.2, 0.88, "short formula", "control")
    say(ax, 0.72, 0.5, "four ducks", "theory")


@drawing(
    "cross",
    "A plus of five squares whose sections are painted in three colours; in each square two sides agree, "
    "and this dominant colour is written inside.",
)
def plus(ax, _):
    """Draw a colouring that counts, with the patterns that the chapter gives its colours."""
    from kexue_lib import cross
    from kexue_lib.figures import COLOURS, LINES
    from kexue_lib.randomness import stream

    figure, names = cross.plus(), list(COLOURS)[:3]
    colouring = cross.sample(figure, 3, "bars", generator=stream(SEED, "plus")).tolist()
    for (y, x), colour in zip(figure.segments, colouring, strict=True):
        dy, dx = (0, 0.86) if y % 2 == 0 else (0.86, 0)
        looks = {"color": COLOURS[names[colour]], "linestyle": LINES[names[colour]]}
        ax.plot([x - dx, x + dx], [y - dy, y + dy], linewidth=3, **looks)
    for (row, column), colour in zip(figure.squares, cross.dominants(figure, colouring), strict=True):
        where = {"ha": "center", "va": "center_baseline", "weight": "bold"}
        ax.text(2 * column + 1, 2 * row + 1, "BOT"[colour], size=10, color=COLOURS[names[colour]], **where)
    ax.set(aspect="equal")
    ax.axis("off")


def two_clusters(*variances):
    """Return a law of two bells on a line."""
    import torch

    from kexue_lib import mixture

    parts = [[-1.5], [1.0]], variances, (1 / 3, 2 / 3)
    return mixture.gaussian_mixture(*(torch.tensor(part, dtype=torch.float64) for part in parts))


@drawing(
    "ddpm",
    "Paths from noise to two clusters of data: smooth ones without fresh noise, ragged ones with it; "
    "all end in the clusters.",
)
def samplers(ax, _):
    """Draw paths of two samplers that ask one model."""
    import torch

    from kexue_lib import ddpm, figures
    from kexue_lib.randomness import stream

    own, model = stream(SEED, "samplers"), ddpm.perfect(two_clusters(0.003, 0.003))
    chain = ddpm.evenly(ddpm.cosine(1000), 100)
    start = torch.randn(12, 1, generator=own, dtype=torch.float64)
    smooth = ddpm.ddim(model, chain, start, keep=True)[..., 0]
    ragged = ddpm.ancestral(model, chain, start[:3], generator=own, keep=True)[..., 0]
    ax.plot(smooth, color=figures.COLOURS["theory"], ls="-", lw=0.8, alpha=0.8)
    ax.plot(ragged, color=figures.COLOURS["measured"], ls="-", lw=0.9)
    ax.set(yticks=[], xticks=(0, 100), xticklabels=("noise", "data"), ylim=(-3.2, 3.6))
    say(ax, 0.03, 0.88, "none added", "theory")
    say(ax, 0.52, 0.88, "noise added", "measured")


@drawing(
    "sde",
    "Three crowds led back from noise: with noise and without it they fill the true law, with half the "
    "score they miss it.",
)
def crowds(ax, _):
    """Draw where crowds end that one score leads back, and one that half a score leads."""
    import torch

    from kexue_lib import figures, mixture, sde
    from kexue_lib.randomness import stream

    law, count, own = two_clusters(0.04, 0.09), 20_000, stream(SEED, "crowds")
    process = sde.constant_rate(1.0, horizon=6.0)
    times = 6 * torch.linspace(1, 0.01, 151, dtype=torch.float64) ** 2  # short steps near the data
    start = torch.randn(count, 1, generator=own, dtype=torch.float64)
    edges = torch.linspace(-3, 3, 61, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2

    def score(x, signal, noise):
        return mixture.score(law, x, signal, noise)

    def half(x, signal, noise):
        return score(x, signal, noise) / 2

    for model, sigma, looks in (
        (score, 1.0, figures.look("measured", ms=3)),
        (score, 0.0, figures.look("other", marker="x", linestyle="none", ms=3.5)),
        (half, 1.0, figures.look("control", lw=1.6)),
    ):
        pair = sde.reverse(process, model, sigma=sigma)
        end = sde.euler_maruyama(*pair, start, times, generator=own)[:, 0]
        ax.plot(middles, torch.histogram(end, edges, density=True).hist, **looks)
    fine = torch.linspace(-3, 3, 301, dtype=torch.float64)
    ax.plot(fine, mixture.log_density(law, fine[:, None]).exp(), **figures.look("theory", lw=1.2))
    ax.set(yticks=[], xticks=[])
    ax.spines["left"].set_visible(False)
    say(ax, 0.0, 0.9, "one score,", "measured")
    say(ax, 0.0, 0.76, "any noise", "other")
    say(ax, 0.8, 0.3, "half\na score", "control")


@drawing(
    "optimal_variance",
    "What a step's width costs, against the number of jumps: with few jumps a narrow step loses far more "
    "nats than a wide one, with many it loses less.",
)
def prices(ax, _):
    """Draw the excess of the two usual variances for data at plus and minus one."""
    import torch

    from kexue_lib import ddpm, figures
    from kexue_lib import optimal_variance as ov

    counts, whole = (2, 3, 5, 10, 20, 50, 100, 200, 500, 999), ddpm.linear(1000)
    lost = {"small": [], "large": []}
    for count in counts:
        even = torch.linspace(1, 1000, count + 1, dtype=torch.float64).round().long()
        chain = ddpm.subsequence(whole, [0, *even.tolist()])
        left = ov.two_point_posterior_variance(chain.snr[1:])
        best = ov.reverse_variance(ov.bridges(chain), left)
        for name, table in (("small", ddpm.small_variance(chain)), ("large", ddpm.large_variance(chain))):
            # The step into the data is the same for all numbers of jumps.
            lost[name].append(float(ov.expected_excess_kl(table[1:], best[1:]).sum()))
    ax.plot(counts, lost["small"], **figures.look("control"))
    ax.plot(counts, lost["large"], **figures.look("other"))
    ax.set(xscale="log", yscale="log", xlabel="jumps", ylabel="nats lost")
    say(ax, 0.42, 0.85, "narrow step", "control")
    say(ax, 0.2, 0.1, "wide step", "other")


@drawing(
    "guidance",
    "Three bells: the promised law, what comes out without noise, much narrower, and with noise, in between.",
)
def bells(ax, record):
    """Draw the promised law and the two that come out."""
    import torch

    from kexue_lib import figures

    x = torch.linspace(-1.4, 1.4, 281, dtype=torch.float64)
    for name, meaning in (("story_std", "theory"), ("ode_std", "measured"), ("sde_std", "extra")):
        looks = figures.look(meaning, marker="none", linestyle=figures.LINES[meaning])
        ax.plot(x, bell(x, 0.0, record[name]), **looks)
    ax.set(yticks=[], xticks=[])
    ax.spines["left"].set_visible(False)
    say(ax, 0.0, 0.2, "promised", "theory")
    say(ax, 0.57, 0.85, "without noise", "measured")
    say(ax, 0.68, 0.4, "with noise", "extra")


@drawing(
    "length_extrapolation",
    "How much a model loses on texts much longer than in training: rotary positions lose much if all is "
    "seen, and nothing to speak of with a window.",
)
def lengths(ax, record):
    """Draw what models lose on long texts, with and without a window."""
    from kexue_lib.figures import COLOURS

    names = {"rope": "RoPE", "learned": "learned", "alibi": "ALiBi"}
    for row, name in enumerate(names):
        for shift, see, meaning in ((-0.18, "full", "control"), (0.18, "window", "measured")):
            if (value := record.get(f"{name}_{see}")) is not None:
                ax.barh(row + shift, value, 0.3, color=COLOURS[meaning])
    ax.set(yticks=range(3), yticklabels=names.values(), xlabel="nats lost on long texts")
    ax.invert_yaxis()
    say(ax, 0.45, 0.22, "all seen", "control")
    say(ax, 0.45, 0.05, "a window", "measured")


@drawing(
    "lion",
    "Six weights under constant pulls of different strength: Lion brings all of them to one wall, a "
    "spring holds each at its own place.",
)
def walls(ax, _):
    """Draw weights under constant pulls: Lion with decay, and gradient descent with decay."""
    import torch

    from kexue_lib import figures, lion

    pulls = torch.tensor([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75], dtype=torch.float64)
    decay, lr, steps = 1.0, 0.01, 500
    path = lion.lion_path(lambda _: -pulls, torch.zeros_like(pulls), steps, lr, weight_decay=decay)
    spring = torch.stack([pulls * (1 - (1 - lr * decay) ** t) / decay for t in range(steps + 1)])
    ax.plot(spring, color=figures.COLOURS["other"], ls=figures.LINES["other"], lw=1)
    ax.plot(path, color=figures.COLOURS["measured"], ls="-", lw=1.8)
    for wall in (-1 / decay, 1 / decay):
        ax.axhline(wall, color=figures.COLOURS["muted"], lw=1, ls="--")
    ax.set(yticks=(-1, 1), yticklabels=("−1/λ", "1/λ"), xticks=[])
    ax.set(ylim=(-1.25, 1.45), xlabel="steps")
    say(ax, 0.3, 0.88, "Lion: a wall", "measured")
    say(ax, 0.62, 0.42, "a spring", "other")


# -- on the page ------------------------------------------------------------------------------


@cache
def drawn(slug, items):
    """Return the drawing of a chapter; the same record is drawn once a build."""
    return svg(slug, dict(items))


def fill(app, doctree, docname):
    """Put the drawings in their places."""
    for node in list(doctree.findall(picture)):
        page = getattr(app.env, "kexue", {}).get(f"book/{node['name']}", {})
        numbers = {
            name: entry["value"]
            for name, entry in page.get("record", {}).items()
            if isinstance(entry["value"], int | float)
        }
        markup = drawn(node["name"], tuple(sorted(numbers.items())))
        node.replace_self(nodes.raw("", FRAME.format(markup), format="html"))


def setup(app):
    """Register what this file defines."""
    app.add_node(picture)
    app.add_role("picture", Picture())
    app.connect("doctree-resolved", fill)
