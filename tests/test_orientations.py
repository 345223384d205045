"""The eight orientations: a group, drawn evenly, and averaged away."""

import pytest
import torch
from torch import nn

from qgraft.errors import ModelError
from qgraft.seeds import torch_stream
from qgraft.training.loop import Recipe, Samples, predict_logits, train
from qgraft.trunks.orientations import N_ORIENTATIONS, OrientationMean, augmented, oriented


def images(n=6, side=12, seed=0):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def network(seed=0):
    with torch_stream(seed, "network"):
        return nn.Sequential(nn.Conv2d(1, 5, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(125, 4))


def test_the_orientations_are_the_symmetries_of_the_square():
    """Closed under composition, eight different ones, all of which keep the corners corners."""
    square = torch.arange(9.0).reshape(3, 3)
    all_eight = {tuple(oriented(square, k).flatten().tolist()) for k in range(N_ORIENTATIONS)}
    assert len(all_eight) == N_ORIENTATIONS
    for first in range(N_ORIENTATIONS):
        for second in range(N_ORIENTATIONS):
            twice = oriented(oriented(square, first), second)
            assert tuple(twice.flatten().tolist()) in all_eight
    assert torch.equal(oriented(square, 0), square)
    assert torch.equal(oriented(square, 5), torch.rot90(square).flip(1))


@pytest.mark.parametrize("orientation", range(N_ORIENTATIONS))
def test_averaged_features_are_invariant(orientation):
    model = OrientationMean(network()).eval()
    with torch.no_grad():
        expected = model(images())
        turned = model(oriented(images(), orientation))
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-6)
    alone = [network()(oriented(images(), k)) for k in range(N_ORIENTATIONS)]
    torch.testing.assert_close(expected, torch.stack(alone).mean(0).detach())
    assert not torch.allclose(alone[0], alone[5], atol=1e-3)


def test_augmented_images_each_lie_in_their_own_orientation():
    many = images(20)
    orientations = torch.arange(20) % N_ORIENTATIONS
    result = augmented(many, orientations)
    for one, image, k in zip(result, many, orientations.tolist(), strict=True):
        assert torch.equal(one, oriented(image, k))


class Spy(nn.Module):
    """Keep every batch that comes by."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch):
        if self.training:
            self.seen.append(batch.clone())
        return batch.flatten(1)


def spied(seed, epochs):
    spy = Spy()
    with torch_stream(0, "spied"):
        model = nn.Sequential(OrientationMean(spy), nn.Linear(144, 2))
    data = Samples(images(40), torch.arange(40) % 2)
    train(model, data, None, Recipe(epochs, 0.001, 8), seed=seed)
    return torch.cat(spy.seen).reshape(epochs, 40, 12, 12)


def test_augmentation_is_a_function_of_seed_and_epoch():
    first, again, other = spied(1, 3), spied(1, 3), spied(2, 3)
    assert torch.equal(first, again)
    assert torch.equal(first[:2], spied(1, 2))  # whatever comes later
    assert not torch.equal(first, other)
    assert not torch.equal(first[0].sort(0).values, first[1].sort(0).values)


def test_augmentation_covers_the_group_evenly():
    known = {tuple(image.flatten().tolist()): i for i, image in enumerate(images(40)[:, 0])}
    counts = torch.zeros(N_ORIENTATIONS)
    for image in spied(0, 10).flatten(0, 1):
        back = [oriented(image, k) for k in range(N_ORIENTATIONS)]
        (found,) = [k for k, b in enumerate(back) if tuple(b.flatten().tolist()) in known]
        counts[found] += 1
    expected = 400 / N_ORIENTATIONS
    assert counts.sum() == 400
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-squared, 7 degrees, p = 0.001


def test_evaluation_draws_nothing():
    model = OrientationMean(network())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    predict_logits(model, images())
    assert torch.equal(torch.rand(2), expected)


def test_oblong_images_are_refused():
    with pytest.raises(ModelError, match=r"need square images, got \(2, 1, 4, 6\)"):
        OrientationMean(nn.Flatten())(torch.zeros(2, 1, 4, 6))
