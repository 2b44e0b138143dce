"""Several copies of a small network, trained side by side as one batched computation.

A copy has its own weights and sees its own data; the sum of the copies' losses has the gradients of
each alone, so one optimiser trains them all. Intervals over copies cost little more than one run.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kexue_lib.arguments import integer, refuse


def init_mlp(
    sizes: Sequence[int], copies: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Return weights and biases of `copies` multilayer perceptrons, ready for an optimiser.

    Parameters
    ----------
    sizes : sequence of int
        Widths from input to output, at least two.
    copies : int
        Number of independent networks, >= 1.

    Returns
    -------
    list of tensors: for each layer weights (copies, in, out), normal with variance 2 / in (He et al.,
    2015), and biases (copies, 1, out), zero; on the generator's device, with ``requires_grad``.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or a size or `copies` is not a positive integer.
    """
    if len(sizes) < 2:
        raise refuse("sizes", sizes, "at least an input and an output width")
    copies = integer("copies", copies, 1)
    weights = []
    for width_in, width_out in pairwise(integer("sizes", size, 1) for size in sizes):
        shape = (copies, width_in, width_out)
        w = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
        weights += [w * math.sqrt(2 / width_in), w.new_zeros(copies, 1, width_out)]
    return [w.requires_grad_() for w in weights]


def mlp(weights: Sequence[Tensor], x: Tensor, *, layers: int | None = None) -> Tensor:
    """Apply the networks, leaky rectifiers (slope 0.2) between the layers.

    Parameters
    ----------
    weights : list of tensors from `init_mlp`
    x : tensor of shape (copies, batch, in); for one batch seen by all copies, ``x.expand(copies, -1, -1)``
    layers : int, optional
        Stop after so many layers, with the rectifier: the features before the last layer, say.

    Returns
    -------
    tensor of shape (copies, batch, out)

    Raises
    ------
    ValueError
        If weights are not pairs, or there are not so many layers.
    """
    if not weights or len(weights) % 2:
        raise refuse("weights", f"{len(weights)} tensors", "weights and biases, as from init_mlp")
    depth = len(weights) // 2
    stop = depth if layers is None else integer("layers", layers, 1, depth)
    for layer in range(stop):
        x = torch.baddbmm(weights[2 * layer + 1], x, weights[2 * layer])
        if layer < depth - 1:
            x = torch.nn.functional.leaky_relu(x, 0.2)
    return x
