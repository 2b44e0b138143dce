"""The digits are the ones of scikit-learn, whole, and nobody can spoil them."""

import pytest
import torch

from kexue_lib.data import Images, digits, digits_split


def test_the_digits_are_grey_and_labelled():
    whole = digits()
    assert whole.images.shape == (1797, 64)
    assert whole.images.dtype == torch.float32
    assert (whole.images.min(), whole.images.max()) == (0, 1)
    assert sorted(set(whole.labels.tolist())) == list(range(10))


def test_the_parts_are_disjoint_complete_and_balanced():
    learn, judged = digits_split()
    assert len(learn) + len(judged) == 1797
    rows = torch.cat([learn.images, judged.images])
    assert torch.equal(rows.sum(0), digits().images.sum(0))
    shares = [torch.bincount(part.labels) / len(part) for part in (learn, judged)]
    assert (shares[0] - shares[1]).abs().max() < 0.02


def test_a_change_does_not_reach_the_next_reader():
    digits().images.zero_()
    assert digits().images.max() == 1


def test_parts_keep_pictures_and_labels_together():
    whole, (learn, judged) = digits(), digits_split()
    assert (len(learn), len(judged)) == (1198, 599)
    assert torch.equal(judged.labels, whole.labels[2::3])
    chosen = whole[torch.tensor([5, 9])]
    assert torch.equal(chosen.labels, whole.labels[[5, 9]])
    assert torch.equal(chosen.images, whole.images[[5, 9]])
    whole.labels.zero_()
    assert digits().labels.max() == 9


def test_pictures_need_their_labels():
    with pytest.raises(ValueError, match="images and labels"):
        Images(torch.zeros(3, 64), torch.zeros(4))
