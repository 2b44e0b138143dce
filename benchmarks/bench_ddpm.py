"""Time the steps of the samplers, with a model that costs nothing, beside diffusers and the noise alone."""

from importlib.metadata import version

import torch
from common import main, rows
from diffusers import DDIMScheduler, DDPMScheduler

from kexue_lib import ddpm

STEPS = 50
SIZES = [(1000, 2), (64, 3072)]
NOISE = "the noise alone"
TOY, LARGE = "5 times faster", "1.8 times faster"


def free(x, *_):
    """Predict noise for free."""
    return x


def diffusers_run(kind, start, seeds, **options):
    """Return a run of a scheduler, with its quickest options, and the times that it chooses."""
    scheduler = kind(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps.tolist()

    def run():
        x, g = start, seeds()
        for t in times:
            x = scheduler.step(free(x, t), t, x, generator=g, return_dict=False, **options)[0]
        return x

    return run, times


def cases(rounds, threads, quick):
    """Yield the rows of all samplers and sizes."""
    generator = torch.Generator()

    def seeds():
        return generator.manual_seed(0)

    for count, dim in SIZES[:1] if quick else SIZES:
        start = torch.randn(count, dim, generator=seeds())
        buffer = torch.empty_like(start)

        def noise(buffer=buffer):
            g = seeds()
            for _ in range(STEPS - 1):  # the last step adds none
                buffer.normal_(generator=g)

        toy = count * dim < 10_000
        for name, kind, options in (
            ("DDIM, eta = 0", DDIMScheduler, {"eta": 0.0}),
            ("DDIM, eta = 1", DDIMScheduler, {"eta": 1.0}),
            ("ancestral", DDPMScheduler, {}),
        ):
            theirs, times = diffusers_run(kind, start, seeds, **options)
            schedule = ddpm.subsequence(ddpm.linear(), [0, *(t + 1 for t in reversed(times))])
            sampler = ddpm.ddim if options else ddpm.ancestral

            def ours(sampler=sampler, schedule=schedule, start=start, options=options):
                return sampler(free, schedule, start, generator=seeds(), **options)

            def difference(results, peer):
                """Say how far the two results are from each other: the random numbers are the same."""
                if results[peer] is None:
                    return None
                apart = (results["ours"] - results[peer]).abs().max() / results[peer].abs().max()
                return f"{float(apart):.1g} of the largest value"

            peer = f"diffusers {kind.__name__}"
            functions = {"ours": ours, peer: theirs}
            goals = {peer: TOY if toy else LARGE}
            if options != {"eta": 0.0}:
                functions[NOISE] = noise
                goals[NOISE] = "" if toy else "at most 1.15 times the noise"
            case = f"{name}, {count} x {dim}, {STEPS} steps"
            yield from rows(case, functions, rounds, threads, goals=goals, difference=difference)


if __name__ == "__main__":
    main(__file__, __doc__, cases, {"diffusers": version("diffusers")})
