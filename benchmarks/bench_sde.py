"""Time Euler steps of the reverse Ornstein-Uhlenbeck equation beside torchsde, diffrax, the noise alone."""

import math
from importlib.metadata import version

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import torch
import torchsde
from common import main, rows

from kexue_lib import sde

HORIZON, VARIANCE = 4.0, 0.25
CASES = [(20_000, 2, 200), (1000, 2, 200)]
NOISE = "the noise alone, torch"
GOALS = {
    NOISE: "at most 1.1 times the noise",
    "torchsde, as it comes": "8 times faster",
    "diffrax, jitted": "1.7 times faster",
}


def spread(t, exp=math.exp):
    """Variance of the process at time t."""
    return VARIANCE * exp(-t) + 1 - exp(-t)


def exact(steps):
    """Variance after Euler's steps, exactly: all of them take the same."""
    h, variance = HORIZON / steps, spread(HORIZON)
    for i in range(steps):
        variance *= (1 + h * (0.5 - 1 / spread(HORIZON - i * h))) ** 2
        variance += h
    return variance


class Reverse(torch.nn.Module):
    """The equation for torchsde, in the time that is left."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, start):
        super().__init__()
        self.one = torch.ones_like(start)

    def f(self, s, y):  # noqa: D102 (torchsde's name of the drift)
        return y * (0.5 - 1 / spread(HORIZON - float(s)))

    def g(self, s, y):  # noqa: D102 (of the diffusion)
        return self.one


def torchsde_solver(start, steps, *, tree):
    """Return a solver; `tree`: Brownian motion whose tree is made for these steps, its fastest setting."""
    equation, times, h = Reverse(start), torch.tensor([0.0, HORIZON]), HORIZON / steps

    def solve():
        kind = {"t0": 0.0, "t1": HORIZON, "size": tuple(start.shape), "dtype": start.dtype}
        motion = torchsde.BrownianInterval(**kind, dt=h, cache_size=None) if tree else None
        with torch.no_grad():
            return torchsde.sdeint(equation, start, times, bm=motion, dt=h, method="euler")[-1]

    return solve


def diffrax_solver(start, steps):
    """Return a compiled solver; other random bits (rbg) and other adjoints are not faster."""
    shape, h, first = tuple(start.shape), HORIZON / steps, jnp.asarray(start.numpy())

    @jax.jit
    def compiled(y, key):
        motion = diffrax.UnsafeBrownianPath(shape=shape, key=key)
        drift = diffrax.ODETerm(lambda s, y, _: y * (0.5 - 1 / spread(HORIZON - s, jnp.exp)))
        one = lineax.DiagonalLinearOperator(jnp.ones(shape))
        terms = diffrax.MultiTerm(drift, diffrax.ControlTerm(lambda s, y, _: one, motion))
        options = {"adjoint": diffrax.ForwardMode(), "max_steps": steps + 2}
        return diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, HORIZON, h, y, **options).ys[-1]

    keys = iter(jax.random.split(jax.random.key(0), 10_000))
    return lambda: compiled(first, next(keys)).block_until_ready()


def cases(rounds, threads, quick):
    """Yield the rows of all cases."""
    process = sde.constant_rate(1.0, HORIZON)
    for count, dim, steps in CASES[1:] if quick else CASES:
        g = torch.Generator().manual_seed(0)
        start = torch.randn(count, dim, generator=g) * math.sqrt(spread(HORIZON))
        times, buffer = sde.even_times(HORIZON, 0, steps), torch.empty_like(start)

        def drift(x, t):
            return x * (1 / spread(t) - 0.5)

        def score(x, signal, noise):
            return x * (-1 / (signal**2 * VARIANCE + noise**2))

        def ours(equation=(drift, 1.0), start=start, times=times, g=g):
            return sde.euler_maruyama(*equation, start, times, generator=g)

        def whole(start=start, times=times, g=g):
            return sde.euler_maruyama(*sde.reverse(process, score), start, times, generator=g)

        def noise(buffer=buffer, steps=steps, g=g):
            for _ in range(steps):
                buffer.normal_(generator=g)

        value = exact(steps)
        error = value * math.sqrt(2 / (count * dim))

        def difference(results, peer, value=value, error=error):
            """Say how far both variances at the end are from the exact one."""
            if results[peer] is None:
                return None
            off = [(float(np.var(np.asarray(results[name]))) - value) / error for name in ("ours", peer)]
            return f"end variance {off[0]:+.1f} and {off[1]:+.1f} standard errors from the exact {value:.4f}"

        functions = {
            "ours": ours,
            NOISE: noise,
            "torchsde, as it comes": torchsde_solver(start, steps, tree=False),
            "torchsde, tree for these steps": torchsde_solver(start, steps, tree=True),
            "diffrax, jitted": diffrax_solver(start, steps),
            "ours, with reverse(process, score)": whole,
        }
        goals = GOALS if count == CASES[0][0] else {}
        case = f"{count} x {dim}, {steps} steps"
        yield from rows(case, functions, rounds, threads, goals=goals, difference=difference)


if __name__ == "__main__":
    versions = {"torchsde": version("torchsde"), "diffrax": diffrax.__version__, "jax": jax.__version__}
    main(__file__, __doc__, cases, versions)
