"""ResNet18 (He et al., CVPR 2016) without its classifier, batch norm folded in.

Names of the layers are torchvision's (`layer2.0.downsample.0`). The maps of the third stage see 99
pixels of the image each, which is enough for textures; later layers know things, not surfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.errors import ModelError, WeightsError
from qgraft.training.checkpoint import load_tensors

WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512}  # channels of every stage
NORM_EPS = 1e-5  # of torchvision's batch norm
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in 0..1


class _Block(nn.Module):
    """Two convolutions added to the input, which is narrowed down where the shape changes."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        is_same = stride == 1 and width == out
        self.downsample = (
            nn.Identity() if is_same else nn.Sequential(nn.Conv2d(width, out, 1, stride))
        )

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(maps))) + self.downsample(maps))


class ResNet18(nn.Module):
    """Channel means after several stages of ResNet18, side by side; later stages are dropped.

    Args:
        stages: numbers of the stages whose maps are averaged, 1 to 4.

    Raises:
        ModelError: no such stage.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__()
        if not stages or len(set(stages)) < len(stages) or set(stages) - set(WIDTHS):
            raise ModelError(f"stages {tuple(stages)}: give different stages from 1 to 4")
        self.stages = tuple(sorted(stages))
        self.n_features = sum(WIDTHS[stage] for stage in stages)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        width = 64
        for stage in range(1, max(stages) + 1):
            out = WIDTHS[stage]
            blocks = _Block(width, out, 1 if stage == 1 else 2), _Block(out, out, 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            width = out
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, 1 or 3, h, w)` in 0..1 to `(n, n_features)`, shallow stages first."""
        maps = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        maps = F.max_pool2d(F.relu(self.conv1(maps)), 3, 2, 1)
        pooled = []
        for stage in range(1, max(self.stages) + 1):
            maps = self.get_submodule(f"layer{stage}")(maps)
            if stage in self.stages:
                pooled.append(maps.mean((2, 3)))
        return torch.cat(pooled, 1)

    def extra_repr(self) -> str:
        """Describe what no weight tells."""
        return f"stages={self.stages}"


def load_torchvision(model: ResNet18, path: Path) -> None:
    """Put torchvision's `resnet18` weights, a safetensors file, into `model`; batch norm is folded.

    Raises:
        WeightsError: the file is missing or damaged, or not of this network.
    """
    tensors = load_tensors(path, foreign=True)
    folded = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        norm = name[:-1] + "1" if "downsample" in name else name.replace("conv", "bn")
        try:
            weight = tensors[f"{name}.weight"].float()
            gain, shift, mean, spread = (
                tensors[f"{norm}.{part}"].float()
                for part in ("weight", "bias", "running_mean", "running_var")
            )
        except KeyError as error:
            raise WeightsError(f"{path} holds no {error}; is it torchvision's resnet18?") from None
        if weight.shape != layer.weight.shape or {
            *map(tuple, (gain.shape, shift.shape, mean.shape, spread.shape))
        } != {(len(weight),)}:
            raise WeightsError(
                f"{path} holds {name} of shape {tuple(weight.shape)}; is it resnet18?"
            )
        factor = gain / (spread + NORM_EPS).sqrt()
        folded[f"{name}.weight"] = weight * factor[:, None, None, None]
        folded[f"{name}.bias"] = shift - mean * factor
    broken = [name for name, tensor in folded.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(f"{path} holds values that are not finite in {broken[0]!r}")
    model.load_state_dict(folded, strict=False)
