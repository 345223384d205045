"""Stage 1: train a network from several initialisations and keep the best."""

from __future__ import annotations

from collections.abc import Iterator
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
from qgraft.studies.run import Run, Unit
from qgraft.training.kept import EpochRecord, finished_epochs, load_trained, store_trained
from qgraft.training.loop import Recipe, Samples, keep_freed_memory, predict_logits, train
from qgraft.trunks.features import cached_features
from qgraft.trunks.orientations import OrientationMean
from qgraft.trunks.pretrained import FEATURES, STANDARDISE
from qgraft.trunks.registry import TRUNKS, build_trunk, load_pretrained
from qgraft.trunks.surface_cnn import Standardise

# Cost of one training image, in training images of CM-2, to weigh the progress bar.
IMAGE_COST = {name: trunk.image_cost for name, trunk in TRUNKS.items()}
# Of pretrained networks, chosen on folds of the development part of NEU-DET, protocol `clean`.
DENSE_EPOCHS = 60
TUNE_BATCH = 32
MIXUP = 0.4


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
    epochs = classical_recipe(trunk, config).epochs
    return IMAGE_COST[trunk] * len(splits.train) * epochs * config.inits


def classical_recipe(trunk: str, config: TrainingConfig) -> Recipe:
    """Return how a network is trained; a pretrained one is tuned in few and small steps."""
    if TRUNKS[trunk].weights:
        epochs, rate = config.tune_epochs, config.tune_learning_rate
        return Recipe(
            epochs,
            rate,
            TUNE_BATCH,
            config.mixed_precision,
            fades=True,
            mixup=MIXUP,
            warms=True,
        )
    return Recipe(config.epochs, config.learning_rate, config.batch_size, config.mixed_precision)


def train_classical(
    run: Run, trunk: str, images: ImageSet, splits: Splits, config: TrainingConfig
) -> Trained:
    """Train `config.inits` networks, keep the one with the best F1 on the selection part.

    Under `paper` the selection part is the test part: that is how the published figures were
    chosen, and the report says so. Under `clean` it is apart from everything that is scored.

    Raises:
        WeightsError: a pretrained network's weights are missing or damaged.
    """
    scored = splits.holdout if len(splits.holdout) else splits.select
    models, curves, selection, probabilities = [], [], [], []
    for init in range(config.inits):
        model, history = train_network(run, trunk, images, splits, config, init)
        models.append(model)
        curves.append(history)
        selected = image_probabilities(model, images, splits.select)
        selection.append(score(selected, images.labels[splits.select])["f1"])
        probabilities.append(image_probabilities(model, images, scored))
    kept = int(np.argmax(selection))
    return Trained(models[kept].eval(), kept, probabilities, scored, curves)


def network_units(
    trunk: str, images: ImageSet, splits: Splits, config: TrainingConfig
) -> Iterator[Unit]:
    """Give the trainings on images that can go on at the same time, one per initialisation.

    A pretrained network gets its weights and dense layers here, where its weights are.
    """
    if not classical_recipe(trunk, config).epochs:
        return
    for init in range(config.inits):
        begun = None
        if TRUNKS[trunk].weights:
            begun = _begun_network(trunk, images, splits, config, init)[0]
        file = str(trunk_file(Path(), trunk, init))
        yield Unit(_network_unit, (images, splits, config), (trunk, init, begun), (file,))


def _network_unit(
    run: Run,
    images: ImageSet,
    splits: Splits,
    config: TrainingConfig,
    trunk: str,
    init: int,
    begun: nn.Sequential | None,
) -> None:
    keep_freed_memory()
    train_network(run, trunk, images, splits, config, init, begun)


def train_network(
    run: Run,
    trunk: str,
    images: ImageSet,
    splits: Splits,
    config: TrainingConfig,
    init: int,
    begun: nn.Sequential | None = None,
) -> tuple[nn.Sequential, list[EpochRecord]]:
    """Train one initialisation, or go on with it; return the network and its epoch records.

    Args:
        run: where its checkpoint is.
        trunk: which network.
        images: all images.
        splits: who may see which of them.
        config: training settings.
        init: its number.
        begun: a pretrained network with its dense layers trained, if it is there already.
    """
    recipe, title = classical_recipe(trunk, config), TRUNKS[trunk].title
    file, history = trunk_file(run.folder, trunk, init), []
    work = IMAGE_COST[trunk] * len(splits.train)
    note = f"{title} from images, initialisation {init + 1} of {config.inits}"
    with run.timed(f"{title}/classical"):
        if TRUNKS[trunk].weights and finished_epochs(file) >= max(1, recipe.epochs):
            model = _untrained(trunk, images)
            history = load_trained(file, model)
            run.each_epoch(work, note)(recipe.epochs, history)
            return model, history
        if begun is None:
            begun, history = _begun_network(trunk, images, splits, config, init)
        if not recipe.epochs:
            store_trained(file, begun, history)
            return begun, history
        samples = Samples(image_tensor(images), torch.from_numpy(images.labels))
        history = train(
            begun,
            samples.subset(splits.train),
            samples.subset(splits.select),
            recipe,
            seed=derive(config.seed, f"train {trunk}", init),
            checkpoint=file,
            on_epoch=run.each_epoch(work, note),
        )
    return begun, history


def _begun_network(
    trunk: str, images: ImageSet, splits: Splits, config: TrainingConfig, init: int
) -> tuple[nn.Sequential, list[EpochRecord]]:
    """Return a network as its training on images finds it, and the records of what went before."""
    seed = derive(config.seed, trunk, init)
    model = new_network(trunk, images, splits, seed=seed, weights=config.weights)
    if not TRUNKS[trunk].weights:
        return model, []
    return model, train_dense(model, images, splits, config, init)


def load_classical(path: Path, trunk: str, images: ImageSet, splits: Splits) -> Trained:
    """Load a network trained by an earlier run and score it like a single initialisation.

    Raises:
        WeightsError: the file is not a trained network of this kind, or of other classes.
    """
    model = _untrained(trunk, images)
    history = load_trained(path, model)
    scored = splits.holdout if len(splits.holdout) else splits.select
    probabilities = image_probabilities(model, images, scored)
    return Trained(model.eval(), 0, [probabilities], scored, [history])


def new_network(
    trunk: str, images: ImageSet, splits: Splits, *, seed: int, weights: str | None = None
) -> nn.Sequential:
    """Build a network, standardised to the training part, with fresh or pretrained weights.

    Raises:
        WeightsError: a pretrained network's weights are missing or damaged.
    """
    with torch_stream(seed, "initialise"):
        model = _untrained(trunk, images)
    if TRUNKS[trunk].weights:
        load_pretrained(trunk, model, weights)
        features = cached_features(model[:STANDARDISE], image_tensor(images), images.digest())
        learned = features[splits.train]
        model[STANDARDISE] = Standardise(learned.mean(0), learned.std(0).clamp_min(1e-3))
        return model
    sums, squares, count = 0.0, 0.0, 0
    for part in np.array_split(splits.train, max(1, len(splits.train) // 256)):
        pixels = images.images[part].astype(np.float64) / 255
        sums, squares, count = sums + pixels.sum(), squares + (pixels**2).sum(), count + pixels.size
    mean = sums / count
    model[0] = Standardise(mean, max((squares / count - mean**2) ** 0.5, 1e-3))
    return model


def _untrained(trunk: str, images: ImageSet) -> nn.Sequential:
    model = bare_network(trunk, 1 if images.images.ndim == 3 else 3, len(images.class_names))
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def bare_network(trunk: str, channels: int, n_classes: int) -> nn.Sequential:
    """Build a network with fresh weights, drawn from torch's generator."""
    return build_trunk(trunk, channels=channels, n_classes=n_classes)


def train_dense(
    model: nn.Sequential, images: ImageSet, splits: Splits, config: TrainingConfig, init: int
) -> list[EpochRecord]:
    """Train the dense layers of a pretrained network on the features it has as it came.

    Tuning the whole network starts from there, for random dense layers would spoil the features
    before they can learn from them (Kumar et al., ICLR 2022).
    """
    first = STANDARDISE + 1
    features = cached_features(model[:first], image_tensor(images), images.digest())
    samples = Samples(features, torch.from_numpy(images.labels))
    return train(
        model[first:],
        samples.subset(splits.train),
        samples.subset(splits.select),
        Recipe(DENSE_EPOCHS, config.learning_rate, config.batch_size, fades=True, mixup=MIXUP),
        seed=derive(config.seed, "train dense", init),
    )


def trunk_file(folder: Path, trunk: str, init: int) -> Path:
    """Return where an initialisation keeps its weights."""
    return folder / "trunks" / trunk / f"init-{init}.safetensors"


def image_probabilities(model: nn.Sequential, images: ImageSet, part: np.ndarray) -> np.ndarray:
    """Return class probabilities `(n, n_classes)` of the images at `part`."""
    if len(model) > FEATURES and isinstance(model[FEATURES], OrientationMean):
        outputs = cached_features(model, image_tensor(images), images.digest())  # heads need it too
        return outputs[part].softmax(-1).numpy()
    return probabilities_of(model, image_tensor(images)[part])


def probabilities_of(model: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Return class probabilities `(n, n_classes)` of images or features."""
    return predict_logits(model, inputs).softmax(-1).numpy()
