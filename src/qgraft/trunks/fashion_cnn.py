"""The Fashion-MNIST network of Kim, Huh and Park (arXiv 2208.14708), cut after its batch norm.

Three convolutions, a dense layer to the `n_features` inputs of a circuit, batch norm, two more
dense layers. Transferred is everything up to and including the batch norm: its outputs are signed.
Initial weights, momentum and epsilon are those of Keras, in which it was published.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

N_CLASSES = 10
DENSE_REPLACED = 2  # the layers after the batch norm


def fashion_cnn(
    n_features: Literal[256, 8] | int = 256, n_classes: int = N_CLASSES
) -> nn.Sequential:
    """Build the network from images `(batch, 1, 28, 28)` in 0..1 to logits.

    With 256 features it has 212,500 numbers (`n_numbers`) as published, with 8 features 60,972.
    """
    layers: list[nn.Module] = []
    for width, out, pools in ((1, 32, True), (32, 64, True), (64, 64, False)):
        # ReLU is monotone, so it commutes with max pooling: after the pool it costs a quarter.
        layers += [nn.Conv2d(width, out, 3), *([nn.MaxPool2d(2)] if pools else []), nn.ReLU()]
    layers += [
        nn.Flatten(),
        nn.Linear(576, n_features),
        nn.ReLU(),
        nn.BatchNorm1d(n_features, eps=1e-3, momentum=0.01),
        nn.Linear(n_features, 30),
        nn.ReLU(),
        nn.Linear(30, n_classes),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(*layers)


def n_numbers(model: nn.Module) -> int:
    """Count parameters and running statistics, as Keras does."""
    running = [
        b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))
    ]
    return sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in running)


def trunk_of(model: nn.Sequential) -> nn.Sequential:
    """Return the layers up to and including the batch norm, frozen and in evaluation mode."""
    ends = [k for k, layer in enumerate(model) if isinstance(layer, nn.BatchNorm1d)]
    return nn.Sequential(*list(model)[: ends[0] + 1]).requires_grad_(False).eval()
