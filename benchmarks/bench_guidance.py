"""Time a step of classifier-free guidance, and measure its memory, beside two plain calls of the network."""

import torch
from common import main, rows
from torch.profiler import ProfilerActivity, profile

from kexue_lib import ddpm, guidance

SCALE, SIGNAL, NOISE = 3.0, 0.6, 0.8
CASES = [(64, 64, 256), (512, 64, 256), (16, 3072, 512)]
BATCHED, APART = "two plain calls, batched as one", "two plain calls, one after the other"
GOALS = {BATCHED: "at most 1.05 times the calls", APART: "not slower"}


def peak(function):
    """Return the largest number of bytes that the function had allocated at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        kept = function()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    del kept
    return most


def functions_of(count, dim, width):
    """Return a guided step, and the network alone asked twice, in both ways, without any mixing."""
    generator = torch.Generator().manual_seed(0)
    network = ddpm.NoiseNetwork(dim, width, classes=10, generator=generator)
    with torch.no_grad():
        for weight in network.parameters():  # the last layers begin as zeros
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    x = torch.randn(count, dim, generator=generator)
    labels = torch.arange(count) % 10
    twice, both = torch.cat([x, x]), torch.cat([labels, torch.full((count,), 10)])
    model = guidance.classifier_free_model(network, labels, SCALE, untold=10)

    @torch.no_grad()
    def ours():
        return model(x, SIGNAL, NOISE)

    @torch.no_grad()
    def batched():
        return network(twice, SIGNAL, NOISE, both)

    @torch.no_grad()
    def apart():
        return network(x, SIGNAL, NOISE, labels), network(x, SIGNAL, NOISE)

    return {"ours": ours, BATCHED: batched, APART: apart}


def cases(rounds, threads, quick):
    """Yield the rows of all sizes."""
    for count, dim, width in CASES[:1] if quick else CASES:
        functions = functions_of(count, dim, width)
        memory = {name: peak(function) for name, function in functions.items()}

        def difference(results, peer, memory=memory):
            """Say how far the guess is from the formula applied to the peer's, and what both needed."""
            told, untold = results[peer].chunk(2) if peer == BATCHED else results[peer]
            exact = untold + SCALE * (told - untold)
            apart = float((results["ours"] - exact).abs().max() / exact.abs().max())
            return f"{apart:.1g} of the largest value; memory {memory['ours'] / memory[peer]:.2f} times"

        case = f"guided step, {count} x {dim}, width {width}"
        yield from rows(case, functions, rounds, threads, goals=GOALS, difference=difference)


if __name__ == "__main__":
    main(__file__, __doc__, cases, {})
