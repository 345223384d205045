"""MobileNetV2: size, padding, weights, and what the public weights recognise."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from qgraft.errors import WeightsError
from qgraft.trunks.mobilenet import MobileNetV2, _SameConv, load_int8


def test_parameter_count_with_batch_norm_folded():
    """Published: 3,504,872 with 1,000 classes and 34,112 batch norm scales and shifts.

    Folding turns each pair of scale and shift into one bias.
    """
    model = MobileNetV2(n_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 3_504_872 - 34_112 // 2


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


def test_grey_is_three_equal_channels():
    model = MobileNetV2(n_classes=3).eval()
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(grey), model(grey.expand(-1, 3, -1, -1)))
        features = model.depth_features(grey)
    assert features.shape == (2, 32 + 96 + 1280)
    maps = model.features(grey.expand(-1, 3, -1, -1) * 2 - 1)
    torch.testing.assert_close(features[:, 128:], maps.mean((2, 3)))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        load_int8(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(WeightsError, match="does not hold the weights of MobileNetV2"):
        load_int8(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", **{"features.0.0.weight_scale": np.array([object()])})
    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_int8(tmp_path / "pickled.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_int8(tmp_path / "text.npz")


@pytest.mark.real_data
def test_the_public_weights_know_ants(real_data):
    model = load_int8(real_data / "weights" / "mobilenet_v2_imagenet_int8.npz")
    names = (real_data / "weights" / "imagenet_labels_1001.txt").read_text().splitlines()
    files = sorted((real_data / "hymenoptera" / "val" / "ants").glob("*.jpg"))[:16]
    pixels = [np.asarray(Image.open(f).convert("RGB").resize((224, 224))) for f in files]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        top = model(images).topk(5).indices
    hits = ["ant, emmet, pismire" in [names[i] for i in row] for row in top]
    assert np.mean(hits) > 0.6
