r"""Gaussian mixtures under noise, in closed form: the exact oracle of the chapters on diffusion.

Data x_0 from a mixture become ``x_t = signal * x_0 + noise * eps``, which is a mixture again; its
density, score and Hessian, and all that can be known of x_0 and eps from x_t, are finite sums. ``signal``
and ``noise`` are numbers on the standard-deviation scale. All is float64 and by log-sum-exp, so that it
holds far out in the tails. Where x_t has no density (points without noise), functions of it refuse.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kexue_lib.arguments import integer, real, refuse

Level = float | Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """Weights (k,), means (k, d), and covariances (k,), for multiples of the identity, or (k, d, d).

    Make one with `gaussian_mixture`, which checks it.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def dim(self) -> int:
        """Return the dimension d."""
        return self.means.shape[1]

    @property
    def isotropic(self) -> bool:
        """Tell whether covariances are multiples of the identity."""
        return self.covariances.ndim == 1

    def to(self, device: str | torch.device) -> "GaussianMixture":
        """Return the mixture on another device."""
        return GaussianMixture(*(part.to(device) for part in (self.weights, self.means, self.covariances)))


def gaussian_mixture(
    means: Tensor, covariances: Tensor | float, weights: Tensor | None = None
) -> GaussianMixture:
    """Return a mixture of Gaussians, checked, in float64.

    Parameters
    ----------
    means : tensor (k, d)
    covariances : float, tensor (k,) or tensor (k, d, d)
        Variances of isotropic parts (0 is a point), or positive semidefinite matrices.
    weights : tensor (k,), optional
        Positive, with sum 1; equal ones if left out.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, weights are not a law, or a covariance is not one.
    """
    means = torch.as_tensor(means, dtype=torch.float64)
    if means.ndim != 2 or 0 in means.shape or not bool(means.isfinite().all()):
        raise refuse("means", tuple(means.shape), "finite, of shape (k, d) with k and d at least 1")
    count, dim = means.shape
    covariances = torch.as_tensor(covariances, dtype=torch.float64, device=means.device)
    if covariances.ndim == 0:
        covariances = covariances.expand(count).clone()
    if covariances.shape not in ((count,), (count, dim, dim)):
        raise refuse("covariances", tuple(covariances.shape), f"shape ({count},) or ({count}, {dim}, {dim})")
    if not bool(covariances.isfinite().all()):
        raise refuse("covariances", "NaN or infinity", "finite numbers")
    if covariances.ndim == 1:
        least = float(covariances.min())
    else:
        scale = covariances.abs().amax((1, 2), keepdim=True)
        if bool(((covariances - covariances.mT).abs() > 1e-12 * scale).any()):
            raise refuse("covariances", "a matrix that is not symmetric", "symmetric matrices")
        values = torch.linalg.eigvalsh(covariances)
        least = float((values[:, 0] + 1e-12 * values[:, -1].abs()).min())
    if least < 0:
        raise refuse("covariances", least, "no negative variance in any direction")
    if weights is None:
        weights = means.new_full((count,), 1 / count)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=means.device)
    if weights.shape != (count,) or not bool((weights > 0).all()) or abs(float(weights.sum()) - 1) > 1e-6:
        raise refuse("weights", weights.tolist(), f"{count} positive numbers with sum 1")
    # Of single precision the sum is 1 only nearly.
    return GaussianMixture(weights / weights.sum(), means, covariances)


def sample(mixture: GaussianMixture, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points (count, d) of the mixture and the part (count,) that each came from."""
    count = integer("count", count, 0)
    device = generator.device
    part = torch.multinomial(mixture.weights.to(device), max(count, 1), True, generator=generator)[:count]
    z = torch.randn(count, mixture.dim, generator=generator, dtype=torch.float64, device=device)
    spread = mixture.covariances.to(device)
    if mixture.isotropic:
        z = z * spread.sqrt()[part, None]
    else:
        values, vectors = torch.linalg.eigh(spread)
        roots = vectors * values.clamp(min=0).sqrt()[:, None, :]
        z = (roots[part] @ z[..., None])[..., 0]
    return mixture.means.to(device)[part] + z, part


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Return mean (d,) and covariance (d, d) of the whole mixture."""
    w, means = mixture.weights, mixture.means
    mean = w @ means
    centred = means - mean
    within = torch.einsum("k,kde->de", w, _matrices(mixture))
    return mean, within + centred.T @ (w[:, None] * centred)


def noised(mixture: GaussianMixture, signal: Level, noise: Level) -> GaussianMixture:
    """Return the law of ``signal * x_0 + noise * eps``, which is a mixture with the same weights."""
    signal, noise = _level("signal", signal), _level("noise", noise)
    identity = 1.0 if mixture.isotropic else _identity(mixture)
    spread = signal**2 * mixture.covariances + noise**2 * identity
    return GaussianMixture(mixture.weights, signal * mixture.means, spread)


def log_density(mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0) -> Tensor:
    """Return the log density (n,) of x_t at x (n, d)."""
    return _joint(*_under_noise(mixture, x, signal, noise)).logsumexp(1)


def class_probabilities(
    mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0
) -> Tensor:
    """Return the probabilities (n, k) that x_t = x (n, d) came from each part."""
    return _joint(*_under_noise(mixture, x, signal, noise)).softmax(1)


def score(mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0) -> Tensor:
    """Return the gradient (n, d) of the log density of x_t at x (n, d)."""
    law, x = _under_noise(mixture, x, signal, noise)
    r = _joint(law, x).softmax(1)
    if law.isotropic:
        pull = r / law.covariances
        return pull @ law.means - pull.sum(1, keepdim=True) * x
    return _mean(r, _slopes(law, x))


def hessian(mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0) -> Tensor:
    """Return the matrix of second derivatives (n, d, d) of the log density of x_t at x (n, d).

    It is the covariance of the parts' scores over the class probabilities, less their mean precision.
    """
    law, x = _under_noise(mixture, x, signal, noise)
    r = _joint(law, x).softmax(1)
    spread = torch.cat([_covariance(r[rows], _slopes(law, x[rows])) for rows in _rows(law, x)])
    if law.isotropic:
        return spread - torch.diag_embed((r / law.covariances).sum(1, keepdim=True).expand(x.shape))
    return spread - torch.einsum("nk,kde->nde", r, _precisions(law))


def denoised(mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0) -> Tensor:
    """Return E[x_0 | x_t = x], shape (n, d): the posterior means of the parts, by their probabilities."""
    law, x = _under_noise(mixture, x, signal, noise)
    r = _joint(law, x).softmax(1)
    gain = _gains(mixture, law, signal)
    if law.isotropic:
        return (r * (1 - float(signal) * gain)) @ mixture.means + (r @ gain)[:, None] * x
    return _mean(r, _posterior_means(mixture, law, gain, x))


def denoised_covariance(
    mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0
) -> Tensor:
    """Return Cov(x_0 | x_t = x), shape (n, d, d): within the parts, and between their posterior means."""
    law, x = _under_noise(mixture, x, signal, noise)
    r = _joint(law, x).softmax(1)
    gain = _gains(mixture, law, signal)
    between = torch.cat(
        [_covariance(r[rows], _posterior_means(mixture, law, gain, x[rows])) for rows in _rows(law, x)]
    )
    if law.isotropic:  # c - signal * gain * c, without the cancellation
        within = float(noise) ** 2 * mixture.covariances / law.covariances
        return between + torch.diag_embed((r @ within)[:, None].expand(x.shape))
    within = mixture.covariances - float(signal) * gain @ mixture.covariances
    return between + torch.einsum("nk,kde->nde", r, within)


def predicted_noise(mixture: GaussianMixture, x: Tensor, signal: Level = 1.0, noise: Level = 0.0) -> Tensor:
    """Return E[eps | x_t = x], shape (n, d), which is ``-noise * score``: the perfect noise model."""
    return -float(noise) * score(mixture, x, signal, noise)


# -- parts ------------------------------------------------------------------------------------


def _level(name: str, value: Level) -> float:
    return real(name, float(value), 0)


def _under_noise(
    mixture: GaussianMixture, x: Tensor, signal: Level, noise: Level
) -> tuple[GaussianMixture, Tensor]:
    """Return the law of x_t, which must have a density, and x in float64."""
    if x.ndim != 2 or x.shape[1] != mixture.dim:
        raise refuse("x", tuple(x.shape), f"shape (n, {mixture.dim})")
    law = noised(mixture, signal, noise)
    flat = law.covariances if law.isotropic else torch.linalg.eigvalsh(law.covariances)
    if not bool((flat > 0).all()):
        raise refuse("noise", float(noise), "a positive number, where the mixture itself has no density")
    return law, x.double()


def _matrices(mixture: GaussianMixture) -> Tensor:
    if not mixture.isotropic:
        return mixture.covariances
    return mixture.covariances[:, None, None] * _identity(mixture)


def _identity(mixture: GaussianMixture) -> Tensor:
    return torch.eye(mixture.dim, dtype=torch.float64, device=mixture.means.device)


def _joint(law: GaussianMixture, x: Tensor) -> Tensor:
    """Return the logarithms (n, k) of weight times density of each part."""
    if law.isotropic:
        # Not by a product of matrices: far out, that would lose the small differences between parts.
        distances = torch.cdist(x, law.means, compute_mode="donot_use_mm_for_euclid_dist")
        squares = distances.square() / law.covariances
        volumes = law.dim * law.covariances.log()
    else:
        roots = torch.linalg.cholesky(law.covariances)
        centred = (x[:, None, :] - law.means).movedim(0, 2)  # (k, d, n)
        squares = torch.linalg.solve_triangular(roots, centred, upper=False).square().sum(1).T
        volumes = 2 * roots.diagonal(dim1=1, dim2=2).log().sum(1)
    return law.weights.log() - (squares + volumes + law.dim * math.log(2 * math.pi)) / 2


def _precisions(law: GaussianMixture) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(law.covariances))


def _slopes(law: GaussianMixture, x: Tensor) -> Tensor:
    """Return the score (n, k, d) of each part."""
    centred = law.means - x[:, None, :]
    if law.isotropic:
        return centred / law.covariances[:, None]
    slopes: Tensor = torch.einsum("kde,nke->nkd", _precisions(law), centred)
    return slopes


def _gains(mixture: GaussianMixture, law: GaussianMixture, signal: Level) -> Tensor:
    """Return by how much x_0 follows x_t in each part, (k,) or (k, d, d): Cov(x_0, x_t) / Var(x_t)."""
    if law.isotropic:
        return float(signal) * mixture.covariances / law.covariances
    gains: Tensor = torch.linalg.solve(law.covariances, mixture.covariances)
    return float(signal) * gains  # symmetric, because both matrices have the same axes


def _posterior_means(mixture: GaussianMixture, law: GaussianMixture, gain: Tensor, x: Tensor) -> Tensor:
    """Return E[x_0 | x_t = x, part], shape (n, k, d)."""
    centred = x[:, None, :] - law.means
    if law.isotropic:
        return mixture.means + gain[:, None] * centred
    return mixture.means + torch.einsum("kde,nke->nkd", gain, centred)


def _mean(r: Tensor, values: Tensor) -> Tensor:
    """Return the mean (n, d) of values (n, k, d) that have probabilities r (n, k)."""
    return (r[:, None, :] @ values)[:, 0]


def _covariance(r: Tensor, values: Tensor) -> Tensor:
    """Return the covariance (n, d, d) of values (n, k, d) that have probabilities r (n, k)."""
    centred = values - _mean(r, values)[:, None, :]
    return (r[..., None] * centred).mT @ centred


def _rows(law: GaussianMixture, x: Tensor) -> list[slice]:
    """Return slices of the rows of x, so small that (n, k, d) stays below 2**22 numbers."""
    size = max(1, 2**22 // law.means.numel())
    return [slice(start, start + size) for start in range(0, max(len(x), 1), size)]
