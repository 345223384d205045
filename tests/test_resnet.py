"""ResNet18 without its classifier: names, sizes, features by stage, the public weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qgraft.errors import ModelError, WeightsError
from qgraft.trunks.npz_weights import load_npz
from qgraft.trunks.resnet import NORM_EPS, ResNet18, load_torchvision

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


@pytest.mark.parametrize("stages", [(), (5,), (2, 2)])
def test_stages_that_do_not_exist(stages):
    with pytest.raises(ModelError, match="give different stages from 1 to 4"):
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


def torchvision_state(model):
    """Return made-up weights under torchvision's names, batch norm apart, statistics positive."""
    generator = torch.Generator().manual_seed(0)
    state = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            norm = name[:-1] + "1" if "downsample" in name else name.replace("conv", "bn")
            state[f"{name}.weight"] = torch.randn(layer.weight.shape, generator=generator) / 30
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{norm}.{part}"] = torch.rand(len(layer.weight), generator=generator) + 0.5
            state[f"{norm}.num_batches_tracked"] = torch.tensor(1)
    return state


def unfolded(state, name, norm, maps, stride, padding):
    """Return convolution and batch norm as torchvision computes them."""
    maps = F.conv2d(maps, state[f"{name}.weight"], None, stride, padding)
    parts = (state[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(maps, *parts, training=False, eps=NORM_EPS)


def test_the_whole_network_of_torchvision_is_folded(tmp_path):
    from safetensors.torch import save_file

    model = ResNet18((1, 2, 3, 4)).eval()
    assert model.n_features == 64 + 128 + 256 + 512
    state = torchvision_state(model)
    save_file(state, tmp_path / "resnet18.safetensors")
    load_torchvision(model, tmp_path / "resnet18.safetensors")
    maps = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.conv1(maps), unfolded(state, "conv1", "bn1", maps, 2, 3))
        block, maps = model.get_submodule("layer4.0"), torch.rand(2, 256, 4, 4)
        inner = unfolded(state, "layer4.0.conv1", "layer4.0.bn1", maps, 2, 1).relu()
        inner = unfolded(state, "layer4.0.conv2", "layer4.0.bn2", inner, 1, 1)
        skip = unfolded(state, "layer4.0.downsample.0", "layer4.0.downsample.1", maps, 2, 0)
        torch.testing.assert_close(block(maps), (inner + skip).relu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("layer3.1.bn2.running_var"), "is it torchvision's resnet18"),
        (lambda s: s.update({"conv1.weight": torch.zeros(8, 3, 7, 7)}), "holds conv1 of shape"),
        (lambda s: s.update({"bn1.bias": torch.zeros(3)}), "holds conv1 of shape"),
        (lambda s: s.update({"bn1.running_var": torch.full((64,), -1.0)}), "not finite in 'conv1"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_loaded(tmp_path, change, match):
    from safetensors.torch import save_file

    model = ResNet18((4,))
    before = model.conv1.weight.clone()
    state = torchvision_state(model)
    change(state)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError, match=match):
        load_torchvision(model, tmp_path / "wrong.safetensors")
    assert torch.equal(model.conv1.weight, before)
