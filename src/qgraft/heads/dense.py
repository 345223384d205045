"""The classical head: dense layers with ReLU and dropout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from qgraft.errors import ModelError


class DenseHead(nn.Sequential):
    """Linear, ReLU and dropout per hidden layer, then a Linear layer to the logits.

    Args:
        n_features: width of the input.
        n_classes: number of logits.
        widths: hidden widths; none makes a linear classifier.
        dropout: one probability for all hidden layers, or one per layer.

    Raises:
        ModelError: the number of dropouts is not the number of hidden layers.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float | Sequence[float] = 0.0,
    ) -> None:
        rates = [dropout] * len(widths) if isinstance(dropout, int | float) else list(dropout)
        if len(rates) != len(widths):
            raise ModelError(f"{len(widths)} hidden layers need as many dropouts, got {dropout}")
        layers: list[nn.Module] = []
        width = n_features
        for out, rate in zip(widths, rates, strict=True):
            layers += [nn.Linear(width, out), nn.ReLU()]
            if rate:
                layers.append(nn.Dropout(rate))
            width = out
        super().__init__(*layers, nn.Linear(width, n_classes))
