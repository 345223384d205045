"""The inputs of the QCNN study: features of a pre-trained trunk, or of eight numbers without one.

`transfer` is the study's own: a network trained on the source task, cut after its batch norm,
frozen. `pca` and `autoencoder` take no source task: they are the inputs of the purely quantum
classifiers of Hur, Kim and Park (arXiv 2108.00661), angles from 0 to pi.
"""

from __future__ import annotations

import hashlib
from math import pi
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.data.digits import TransferData
from qgraft.data.idx import Digits
from qgraft.data.imageset import ImageSet
from qgraft.errors import ConfigError
from qgraft.evaluation.audit import Finding, audit_parts
from qgraft.evaluation.audit.findings import worst_first
from qgraft.seeds import derive, torch_stream
from qgraft.studies.qcnn_cells import PairTask
from qgraft.studies.run import Run
from qgraft.training.kept import load_trained
from qgraft.training.loop import Recipe, Samples, keep_freed_memory, predict_logits, train
from qgraft.training.one_thread import one_thread
from qgraft.trunks.fashion_cnn import fashion_cnn, trunk_of
from qgraft.trunks.features import cached_features

Inputs = Literal["transfer", "pca", "autoencoder"]
TRUNK_RATE, TRUNK_BATCH = 1e-3, 32  # Keras's defaults, as published
CODE_EPOCHS, CODE_RATE, CODE_BATCH = 10, 1e-3, 32


def trained_trunk(
    run: Run, data: TransferData, n_features: int, *, epochs: int, seed: int, kept: str | None
) -> nn.Sequential:
    """Return the frozen trunk with `n_features` outputs, trained on the source task if need be.

    Published is the checkpoint with the best training accuracy. Training is reproducible, so
    where that is not the last epoch the network is trained again up to the best one.

    Args:
        run: where the trunk is kept.
        data: the source task.
        n_features: width of the features.
        epochs: passes over the source task.
        seed: decides initial weights and batches.
        kept: folder with trunks of an earlier run to take instead, or None.
    """
    name = f"source-{n_features}.safetensors"

    def new_network() -> nn.Sequential:
        with torch_stream(seed, "trunk", n_features):
            return fashion_cnn(n_features, data.n_source_classes)

    network = new_network()
    if kept:
        load_trained(Path(kept) / name, network)
        return trunk_of(network)
    keep_freed_memory()
    path = run.folder / "trunks" / name
    images = _samples(data.source)
    on_epoch = run.each_epoch(float(len(images.labels)), f"network with {n_features} features")
    with run.timed(f"trunk-{n_features}"):
        recipe = Recipe(epochs, TRUNK_RATE, TRUNK_BATCH)
        history = train(
            network, images, None, recipe, seed=seed, checkpoint=path, on_epoch=on_epoch
        )
        best = int(np.argmax([record["train_accuracy"] for record in history])) + 1
        if best < epochs:
            network = new_network()
            path = path.with_name(f"source-{n_features}-best.safetensors")
            recipe = Recipe(best, TRUNK_RATE, TRUNK_BATCH)
            train(network, images, None, recipe, seed=seed, checkpoint=path)
    return trunk_of(network)


def pair_tasks(
    data: TransferData, pairs: tuple[tuple[int, int], ...], trunk: nn.Module
) -> list[PairTask]:
    """Return the trunk's features of every pair of digits."""
    tasks = []
    for pair in pairs:
        parts = _pair_parts(data, pair)
        features = [cached_features(trunk, _images(part), _digest(part)) for part in parts]
        tasks.append(_task(pair, parts, features))
    return tasks


def audit_pairs(data: TransferData, pairs: tuple[tuple[int, int], ...]) -> list[Finding]:
    """Return what is wrong with the images of every pair."""
    found = []
    for pair in pairs:
        classes = tuple(str(digit) for digit in sorted(pair))
        named = {
            place: ImageSet(
                part.images,
                np.searchsorted(sorted(pair), part.labels),
                np.arange(len(part.labels)),
                tuple(f"image {number} of the pair" for number in range(len(part.labels))),
                classes,
            )
            for place, part in zip(("training", "test"), _pair_parts(data, pair), strict=True)
        }
        found += audit_parts(named, f"{pair[0]}-{pair[1]}")
    return worst_first(found)


def reduced_tasks(
    data: TransferData,
    pairs: tuple[tuple[int, int], ...],
    inputs: Literal["pca", "autoencoder"],
    width: int,
    *,
    seed: int,
) -> list[PairTask]:
    """Return `width` angles per image, made from the training images of each pair alone."""
    reduce = _pca if inputs == "pca" else _autoencoder
    tasks = []
    for pair in pairs:
        parts = _pair_parts(data, pair)
        flat = [_images(part).flatten(1).float() / 255 for part in parts]
        training, test = reduce(flat[0], flat[1], width, derive(seed, f"{inputs} {pair}", width))
        low, high = float(training.min()), float(training.max())
        scaled = [pi * (part - low) / (high - low) for part in (training, test)]
        tasks.append(_task(pair, parts, scaled))
    return tasks


def _pair_parts(data: TransferData, pair: tuple[int, int]) -> tuple[Digits, Digits]:
    parts = data.training.only(pair), data.test.only(pair)
    for digit in pair:
        if any(digit not in part.labels for part in parts):
            known = sorted(set(data.training.labels.tolist()) & set(data.test.labels.tolist()))
            raise ConfigError(
                f"pair {pair[0]}-{pair[1]}: there are no images of class {digit}; classes are "
                f"{', '.join(map(str, known))}"
            )
    return parts


def _task(pair: tuple[int, int], parts: tuple[Digits, Digits], features: list[Tensor]) -> PairTask:
    """Return the task; label 1 is the first class, as published."""
    labels = [torch.from_numpy((part.labels == pair[0]).astype(np.int64)) for part in parts]
    samples = [Samples(x.contiguous(), y) for x, y in zip(features, labels, strict=True)]
    return PairTask(f"{pair[0]}-{pair[1]}", *samples)


def _pca(training: Tensor, test: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
    from sklearn.decomposition import PCA

    pca = PCA(width, svd_solver="full", random_state=seed % 2**32).fit(training.numpy())
    reduced = (pca.transform(part.numpy()) for part in (training, test))
    first, second = (torch.from_numpy(part).float() for part in reduced)
    return first, second


@one_thread()
def _autoencoder(training: Tensor, test: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the codes of a one-layer autoencoder, ReLU in and sigmoid out (arXiv 2108.00661)."""
    pixels = training.shape[1]
    with torch_stream(seed, "autoencoder") as generator:
        encoder = nn.Sequential(nn.Linear(pixels, width), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(width, pixels), nn.Sigmoid())
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.Adam(parameters, CODE_RATE, fused=True)
        for _ in range(CODE_EPOCHS):
            order = torch.randperm(len(training), generator=generator)
            for index in order.split(CODE_BATCH):
                batch = training[index]
                optimiser.zero_grad(set_to_none=True)
                nn.functional.mse_loss(decoder(encoder(batch)), batch).backward()
                optimiser.step()
    return predict_logits(encoder, training), predict_logits(encoder, test)


def _images(digits: Digits) -> Tensor:
    return torch.from_numpy(digits.images)[:, None]


def _samples(digits: Digits) -> Samples:
    return Samples(_images(digits), torch.from_numpy(digits.labels))


def _digest(digits: Digits) -> str:
    sha = hashlib.sha256(repr(digits.images.shape).encode())
    sha.update(digits.images.tobytes())
    return sha.hexdigest()
