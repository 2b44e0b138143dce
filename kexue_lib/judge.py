"""How good are generated digits? A classifier of real ones, and the Fréchet distance of its features.

With 64 pixels and a small classifier these are toy versions of the Inception score and FID: good for
comparing samples on one page, not for comparing with any published number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kexue_lib.arguments import integer, refuse
from kexue_lib.data import Images
from kexue_lib.networks import init_mlp, mlp


@dataclass(frozen=True)
class Judge:
    """A trained classifier: images (n, pixels) to class probabilities, or to the features before them."""

    weights: list[Tensor]

    def features(self, images: Tensor) -> Tensor:
        """Return the last hidden layer, shape (n, 32)."""
        return mlp(self.weights, images[None], layers=2)[0]

    def probabilities(self, images: Tensor) -> Tensor:
        """Return class probabilities, shape (n, classes)."""
        return mlp(self.weights, images[None])[0].softmax(-1)

    def accuracy(self, real: Images) -> float:
        """Return the share of images whose most probable class is their label."""
        return float((self.probabilities(real.images).argmax(1) == real.labels).double().mean())


def train_judge(real: Images, *, generator: torch.Generator, steps: int = 800) -> Judge:
    """Train a classifier pixels → 128 → 32 → classes on slightly noisy images (Adam, batches of 128).

    The noise keeps it from being sure about images that are a little off.

    Raises
    ------
    ValueError
        If there are no images, they are not finite, or steps is not a positive integer.
    """
    if not len(real) or not bool(torch.isfinite(real.images).all()):
        raise refuse("real", f"{len(real)} images", "at least one labelled image, and all finite")
    classes, pixels = int(real.labels.max()) + 1, real.images.shape[1]
    weights = init_mlp([pixels, 128, 32, classes], 1, generator=generator)
    optimiser = torch.optim.Adam(weights, lr=2e-3)
    for _ in range(integer("steps", steps, 1)):
        batch = real[torch.randint(len(real), (128,), generator=generator)]
        noise = torch.randn(batch.images.shape, generator=generator)
        logits = mlp(weights, (batch.images + 0.05 * noise)[None])[0]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        optimiser.step()
    return Judge([w.detach() for w in weights])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Squared Fréchet (2-Wasserstein) distance of the Gaussians fitted to two samples.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})`` (Dowson and Landau, 1982). Finite
    samples make it too large on average; compare samples of one size only.

    Parameters
    ----------
    a, b : tensors of shape (n, m) and (l, m), n and l >= 2

    Raises
    ------
    ValueError
        If shapes do not fit or values are not finite.
    """
    for name, sample in (("a", a), ("b", b)):
        if sample.ndim != 2 or sample.shape[0] < 2 or not 0 < sample.shape[1] == b.shape[-1]:
            raise refuse(name, tuple(sample.shape), "shape (n, m) with n >= 2 and the same m for both")
        if not bool(torch.isfinite(sample).all()):
            raise refuse(name, "NaN or infinity", "finite features")
    a, b = a.double(), b.double()
    of_a, of_b = _covariance(a), _covariance(b)
    values, vectors = torch.linalg.eigh(of_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ of_b @ root).clamp(min=0).sqrt().sum()
    spread = of_a.trace() + of_b.trace() - 2 * inner
    return max(float((a.mean(0) - b.mean(0)).square().sum() + spread), 0.0)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)
