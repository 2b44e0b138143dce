"""Real data that is already on every reader's machine."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kexue_lib.arguments import refuse


@dataclass(frozen=True)
class Images:
    """Pictures and what they show: ``images`` float32 (n, pixels) in [0, 1], ``labels`` int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 2 or self.labels.shape != self.images.shape[:1]:
            shapes = tuple(self.images.shape), tuple(self.labels.shape)
            raise refuse("images and labels", shapes, "shapes (n, pixels) and (n,)")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.images[index], self.labels[index])


@cache
def _digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Images(torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target).long())


def digits() -> Images:
    """Return the 1797 handwritten digits of 8 x 8 grey pixels that ship with scikit-learn.

    They are the test part of Alpaydin and Kaynak's optical recognition data (UCI, 1998).

    Examples
    --------
    >>> len(digits()), digits().images.shape, float(digits().images.max())
    (1797, torch.Size([1797, 64]), 1.0)
    """
    whole = _digits()
    return Images(whole.images.clone(), whole.labels.clone())  # nobody can spoil them for the next cell


def digits_split() -> tuple[Images, Images]:
    """Return 1198 digits to learn from and 599 to be judged by (every third), the same for everyone."""
    whole = digits()
    held_out = torch.arange(len(whole)) % 3 == 2
    return whole[~held_out], whole[held_out]
