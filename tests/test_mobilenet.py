"""MobileNetV2: size, names, padding, features by depth, and what the public weights recognise."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from qgraft.errors import ModelError
from qgraft.trunks.mobilenet import WIDTHS, DepthFeatures, MobileNetV2, _SameConv
from qgraft.trunks.npz_weights import load_npz


def test_parameter_count_with_batch_norm_folded():
    """Published: 3,504,872 with 1,000 classes and 34,112 batch norm scales and shifts.

    Folding turns each pair of scale and shift into one bias.
    """
    model = MobileNetV2(n_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 3_504_872 - 34_112 // 2


def test_layer_names_are_those_of_torchvision():
    """Batch norm is folded, so only the layers before it are left: `.0`, `.0`, then the number."""
    layers = {"features.0.0", "features.1.conv.0.0", "features.1.conv.1", "features.18.0"}
    for block in range(2, 18):
        layers |= {f"features.{block}.conv.{layer}" for layer in ("0.0", "1.0", "2")}
    layers.add("classifier.1")
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(MobileNetV2().state_dict()) == expected


@pytest.mark.parametrize("size", [7, 8, 31])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_by_its_definition(size, stride):
    """TensorFlow pads ceil(size / stride) outputs, the odd pixel right and below."""
    conv = _SameConv(2, 3, 3, stride)
    images = torch.randn(1, 2, 2 * size, 2 * size)
    outputs = -(-2 * size // stride)
    total = max((outputs - 1) * stride + 3 - 2 * size, 0)
    low, high = total // 2, total - total // 2
    padded = F.pad(images, (low, high, low, high))
    expected = F.conv2d(padded, conv.weight, conv.bias, stride)
    torch.testing.assert_close(conv(images), expected)


def test_widths_are_those_of_the_maps():
    maps = torch.zeros(1, 3, 64, 64)
    features = MobileNetV2().features
    for number, layer in enumerate(features):
        maps = layer(maps)
        assert maps.shape[1] == WIDTHS[number]
    assert maps.shape == (1, 1280, 2, 2)


def test_features_of_several_depths_lie_side_by_side():
    model = MobileNetV2(n_classes=3).eval()
    grey = torch.rand(2, 1, 64, 64)
    features = DepthFeatures(model.features, (18, 6, 13)).eval()
    assert features.n_features == 32 + 96 + 1280
    with torch.no_grad():
        torch.testing.assert_close(model(grey), model(grey.expand(-1, 3, -1, -1)))
        outputs = features(grey)
        signed = grey.expand(-1, 3, -1, -1) * 2 - 1
        torch.testing.assert_close(outputs[:, :32], model.features[:7](signed).mean((2, 3)))
        torch.testing.assert_close(outputs[:, 128:], model.features(signed).mean((2, 3)))
    assert len(DepthFeatures(model.features, (6,)).features) == 7  # nothing is computed in vain


@pytest.mark.parametrize("depths", [(), (3, 3), (19,), (-1,)])
def test_depths_that_do_not_exist(depths):
    with pytest.raises(ModelError, match="give different layers from 0 to 18"):
        DepthFeatures(MobileNetV2().features, depths)


@pytest.mark.real_data
def test_the_public_weights_know_ants(real_data):
    model = MobileNetV2().eval()
    load_npz(model, real_data / "weights" / "mobilenet_v2_imagenet_int8.npz")
    names = (real_data / "weights" / "imagenet_labels_1001.txt").read_text().splitlines()
    files = sorted((real_data / "hymenoptera" / "val" / "ants").glob("*.jpg"))[:16]
    pixels = [np.asarray(Image.open(f).convert("RGB").resize((224, 224))) for f in files]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        top = model(images).topk(5).indices
    hits = ["ant, emmet, pismire" in [names[i] for i in row] for row in top]
    assert np.mean(hits) > 0.6
