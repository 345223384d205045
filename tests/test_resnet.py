"""ResNet18 up to its third stage: names, sizes, features by stage, the public weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qgraft.errors import ModelError
from qgraft.trunks.npz_weights import load_npz
from qgraft.trunks.resnet import ResNet18

WEIGHTS = "resnet18_imagenet_conv1_to_layer3_bnfolded.npz"


def test_layer_names_are_those_of_torchvision():
    layers = {"conv1"}
    for stage in (1, 2, 3):
        layers |= {f"layer{stage}.{block}.conv{i}" for block in (0, 1) for i in (1, 2)}
    layers |= {"layer2.0.downsample.0", "layer3.0.downsample.0"}
    weights = {name for name, _ in ResNet18().named_parameters()}
    assert weights == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_parameter_count_with_batch_norm_folded():
    """torchvision: 11,689,512; less `fc`, `layer4` and one number per batch norm channel."""
    fc, layer4 = 512 * 1000 + 1000, 8_393_728
    channels = 64 * 5 + 128 * 5 + 256 * 5
    expected = 11_689_512 - fc - layer4 - channels
    assert sum(p.numel() for p in ResNet18().parameters()) == expected


def test_features_of_several_stages_lie_side_by_side():
    model = ResNet18((3, 1)).eval()
    images = torch.rand(2, 1, 64, 64)
    assert model.n_features == 64 + 256
    with torch.no_grad():
        outputs = model(images)
        maps = (images.expand(-1, 3, -1, -1) - model.mean) / model.std
        maps = F.max_pool2d(model.conv1(maps).relu(), 3, 2, 1)
        assert maps.shape == (2, 64, 16, 16)
        maps = model.get_submodule("layer1")(maps)
        torch.testing.assert_close(outputs[:, :64], maps.mean((2, 3)))
    assert not [name for name, _ in ResNet18((1, 2)).named_parameters() if "layer3" in name]


@pytest.mark.parametrize("stages", [(), (4,), (2, 2)])
def test_stages_that_do_not_exist(stages):
    with pytest.raises(ModelError, match="give different stages from 1 to 3"):
        ResNet18(stages)


@pytest.mark.real_data
def test_the_public_weights_tell_ants_from_bees(real_data):
    """A nearest-mean rule on the third stage: random weights stay near chance."""
    from PIL import Image

    def features(model, part):
        rows, labels = [], []
        for label, name in enumerate(("ants", "bees")):
            for file in sorted((real_data / "hymenoptera" / part / name).glob("*.jpg"))[:40]:
                pixels = np.array(Image.open(file).convert("RGB").resize((128, 128)))
                with torch.inference_mode():
                    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
                    rows.append(model(image)[0])
                labels.append(label)
        return torch.stack(rows), torch.tensor(labels)

    model = ResNet18((3,)).eval()
    load_npz(model, real_data / "weights" / WEIGHTS)
    known, labels = features(model, "train")
    scale = known.std(0)
    means = torch.stack([(known / scale)[labels == k].mean(0) for k in (0, 1)])
    new, truth = features(model, "val")
    guesses = torch.cdist(new / scale, means).argmin(1)
    assert (guesses == truth).float().mean() > 0.65
