"""Stage 1: train a network from several initialisations and keep the best."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.config import TrainingConfig
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.evaluation.metrics import score
from qgraft.seeds import derive, torch_stream
from qgraft.studies.run import Run
from qgraft.training.loop import EpochRecord, Recipe, Samples, load_trained, predict_logits, train
from qgraft.trunks.surface_cnn import Standardise, published_name, surface_cnn

# Cost of one training image, in training images of CM-2, to weigh the progress bar.
IMAGE_COST = {"cm1": 10.0, "cm2": 1.0, "cm3": 0.9}


class Trained(NamedTuple):
    """The network kept, and how every initialisation did.

    Attributes:
        model: the network of the best initialisation, in eval mode.
        kept: its number.
        probabilities: class probabilities `(n_scored, n_classes)` of each initialisation.
        scored: indices of the images scored (`paper`: test part, `clean`: hold-out).
        curves: epoch records of each initialisation.
    """

    model: nn.Sequential
    kept: int
    probabilities: list[np.ndarray]
    scored: np.ndarray
    curves: list[list[EpochRecord]]


def image_tensor(images: ImageSet) -> torch.Tensor:
    """Return the pixels as uint8 `(n, c, h, w)` without copying them."""
    pixels = torch.from_numpy(images.images)
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def classical_work(trunk: str, splits: Splits, config: TrainingConfig) -> float:
    """Return the training images of all initialisations, in images of CM-2."""
    return IMAGE_COST[trunk] * len(splits.train) * config.epochs * config.inits


def train_classical(
    run: Run, trunk: str, images: ImageSet, splits: Splits, config: TrainingConfig
) -> Trained:
    """Train `config.inits` networks, keep the one with the best F1 on the selection part.

    Under `paper` the selection part is the test part: that is how the published figures were
    chosen, and the report says so. Under `clean` it is apart from everything that is scored.
    """
    pixels, labels = image_tensor(images), torch.from_numpy(images.labels)
    training = Samples(pixels[splits.train], labels[splits.train])
    validation = Samples(pixels[splits.select], labels[splits.select])
    recipe = Recipe(config.epochs, config.learning_rate, config.batch_size, config.mixed_precision)
    scored = splits.holdout if len(splits.holdout) else splits.select
    models, curves, selection, probabilities = [], [], [], []
    for init in range(config.inits):
        note = f"{published_name(trunk)} from images, initialisation {init + 1} of {config.inits}"
        work = IMAGE_COST[trunk] * len(splits.train)
        model = new_network(trunk, images, splits, seed=derive(config.seed, trunk, init))
        with run.timed(f"{published_name(trunk)}/classical"):
            history = train(
                model,
                training,
                validation,
                recipe,
                seed=derive(config.seed, f"train {trunk}", init),
                checkpoint=trunk_file(run.folder, trunk, init),
                on_epoch=run.each_epoch(work, note),
            )
        models.append(model)
        curves.append(history)
        selection.append(
            score(probabilities_of(model, validation.inputs), images.labels[splits.select])["f1"]
        )
        probabilities.append(probabilities_of(model, pixels[scored]))
    kept = int(np.argmax(selection))
    return Trained(models[kept].eval(), kept, probabilities, scored, curves)


def load_classical(path: Path, trunk: str, images: ImageSet, splits: Splits) -> Trained:
    """Load a network trained by an earlier run and score it like a single initialisation.

    Raises:
        WeightsError: the file is not a trained network of this kind, or of other classes.
    """
    model = new_network(trunk, images, splits, seed=0)
    history = load_trained(path, model)
    scored = splits.holdout if len(splits.holdout) else splits.select
    probabilities = probabilities_of(model, image_tensor(images)[scored])
    return Trained(model.eval(), 0, [probabilities], scored, [history])


def new_network(trunk: str, images: ImageSet, splits: Splits, *, seed: int) -> nn.Sequential:
    """Build a network with fresh weights, standardised to the training part of the images."""
    channels = 1 if images.images.ndim == 3 else 3
    with torch_stream(seed, "initialise"):
        model = surface_cnn(trunk, channels=channels, n_classes=len(images.class_names))
    sums, squares, count = 0.0, 0.0, 0
    for part in np.array_split(splits.train, max(1, len(splits.train) // 256)):
        pixels = images.images[part].astype(np.float64) / 255
        sums, squares, count = sums + pixels.sum(), squares + (pixels**2).sum(), count + pixels.size
    mean = sums / count
    model[0] = Standardise(mean, max((squares / count - mean**2) ** 0.5, 1e-3))
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def trunk_file(folder: Path, trunk: str, init: int) -> Path:
    """Return where an initialisation keeps its weights."""
    return folder / "trunks" / trunk / f"init-{init}.safetensors"


def probabilities_of(model: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Return class probabilities `(n, n_classes)` of images or features."""
    return predict_logits(model, inputs).softmax(-1).numpy()
