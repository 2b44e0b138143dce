"""Random numbers of a chapter: one seed, and a stream of its own for each use."""

import hashlib

import torch

from kexue_lib.arguments import integer, refuse


def stream(seed: int, *use: object, device: str = "cpu") -> torch.Generator:
    """Return a generator that depends on the seed and on what it is for, and on nothing else.

    An experiment that draws more numbers, or one that is added, does not change the others.

    Parameters
    ----------
    seed : int
        The chapter's seed, 0 to 2**63 - 1.
    *use : str or number
        What the numbers are for: ``stream(seed, "latents")``, ``stream(seed, "clouds", dim)``.

    Raises
    ------
    ValueError
        If the seed is not an integer in the range, or a use is neither word nor number.

    Examples
    --------
    >>> a, b = stream(1, "clouds", 3), stream(1, "clouds", 3)
    >>> bool(torch.equal(torch.rand(2, generator=a), torch.rand(2, generator=b)))
    True
    """
    seed = integer("seed", seed, 0, 2**63 - 1)
    for word in use:
        if not isinstance(word, str | int | float):
            raise refuse("use", word, "words and numbers, which mean the same in every run")
    digest = hashlib.sha256(repr((seed, *use)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
