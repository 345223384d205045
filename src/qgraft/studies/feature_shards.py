"""Features of large image sets, a shard at a time: written by any number of workers, read in turn.

A shard is one safetensors file with a checksum: `features` `(n, n_features)`, `labels` and, as JSON
beside them, names, groups and splits. Neither the images nor the features need ever be in memory
together. A shard that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.data.folders import list_images, numbered_labels
from qgraft.data.images import as_channels, decode_image, read_bytes, resize
from qgraft.data.manifest import Entry, listing
from qgraft.errors import ConfigError, DataError, ImageError, RunError, WeightsError
from qgraft.grafting import graft
from qgraft.seeds import numpy_rng
from qgraft.studies.run import Run, Unit, keep_data
from qgraft.training.checkpoint import (
    load_newest,
    parse_tensors,
    read_json,
    save_tensors,
    write_json,
)
from qgraft.training.kept import load_trained
from qgraft.training.loop import Samples, predict_logits
from qgraft.trunks.pretrained import STANDARDISE
from qgraft.trunks.registry import TRUNKS, build_trunk, load_pretrained
from qgraft.trunks.surface_cnn import INPUT_SIZE

MANIFEST = "manifest.json"
BATCH = 64


class Source(NamedTuple):
    """What features are made from, and how.

    Attributes:
        data: folder or CSV manifest of images.
        trunk: the network.
        trunk_weights: its file in a run directory; needed where it comes without weights.
        weights: the weights a pretrained network comes with, a file or its folder.
        replace_last: dense layers to leave out, or all of them.
        channels: 1 for grey, 3 for colour.
        shard_size: images in a shard.
        on_error: whether an unreadable image ends it all or is left out and listed.
    """

    data: str
    trunk: str = "cm2"
    trunk_weights: str | None = None
    weights: str | None = None
    replace_last: int | Literal["all"] = "all"
    channels: Literal[1, 3] = 1
    shard_size: int = 512
    on_error: Literal["fail", "skip"] = "fail"


class Shard(NamedTuple):
    """One shard as read: samples, and for each its name, group and split."""

    samples: Samples
    names: list[str]
    groups: list[str]
    splits: list[str | None]


def frozen_trunk(source: Source) -> nn.Module:
    """Return the network that gives the features, without the layers left out.

    Raises:
        ConfigError: no such network.
        WeightsError: its weights are missing or damaged.
        ModelError: it cannot be cut there.
    """
    model = build_trunk(source.trunk, channels=source.channels)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if source.trunk_weights:
        load_trained(Path(source.trunk_weights), model)
        return graft(model, source.replace_last, head="dense").trunk
    if not TRUNKS[source.trunk].weights:
        raise WeightsError(
            f"{TRUNKS[source.trunk].title} comes without weights; name those of a run with "
            "--trunk-weights, such as runs/fit/trunks/cm2/init-0.safetensors"
        )
    load_pretrained(source.trunk, model, source.weights)
    return model[:STANDARDISE].eval()


def extract_shards(run: Run, source: Source) -> dict[str, Any]:
    """Make the shards that are not in `run.folder` yet and return its manifest.

    Raises:
        DataError: the layout is wrong, or an image is unreadable and none may be left out.
    """
    if source.shard_size < 1:
        raise ConfigError(f"shards of {source.shard_size} images: give 1 or more")
    trunk = frozen_trunk(source)
    folder, entries, findings = list_images(Path(source.data))
    class_names, labels = numbered_labels([entry.label for entry in entries])
    digest = hashlib.sha256(json.dumps([list(entry) for entry in entries]).encode()).hexdigest()
    keep_data(run.folder, {"summary": {"n": len(entries)}, "digest": digest, "splits": None})
    places = range(0, len(entries), source.shard_size)
    run.work = float(len(entries))

    def unit(number: int) -> Unit:
        part = slice(places[number], places[number] + source.shard_size)
        contents = [_content(folder / entry.name) for entry in entries[part]]
        own = number, entries[part], labels[part], contents
        return Unit(_extract, (trunk, source), own, (str(_file(number)),))

    missing = [n for n in range(len(places)) if load_newest(run.folder / _file(n)) is None]
    run.advance((len(places) - len(missing)) * source.shard_size, "shards made before")
    run.spread(run, map(unit, missing))
    for number in missing:
        if not (run.folder / _file(number)).exists():
            made = unit(number)
            made.function(run, *made.shared, *made.own)
    manifest = {
        "source": source._asdict(),
        "class_names": list(class_names),
        "findings": findings,
        **_described(run.folder, len(places)),
    }
    write_json(run.folder / MANIFEST, manifest)
    run.finish()
    return manifest


def _file(number: int) -> Path:
    return Path("features") / f"shard-{number:06d}.safetensors"


def _content(path: Path) -> bytes | str:
    """Return the bytes of an image, or what is wrong with the file."""
    try:
        return read_bytes(path)
    except ImageError as error:
        return str(error)


def _extract(
    run: Run,
    trunk: nn.Module,
    source: Source,
    number: int,
    entries: Sequence[Entry],
    labels: np.ndarray,
    contents: Sequence[bytes | str],
) -> None:
    """Decode the images of one shard and store their features."""
    images, kept, faults = [], [], []
    for place, (entry, content) in enumerate(zip(entries, contents, strict=True)):
        try:
            images.append(_pixels(entry.name, content, source.channels))
            kept.append(place)
        except ImageError as error:
            faults.append(str(error))
    if faults and source.on_error == "fail":
        raise DataError(
            f"{source.data} has {listing(faults, 'unreadable file')}\n"
            "Mend or remove them, or go on without them: --on-error skip"
        )
    with torch.no_grad():
        parts = [predict_logits(trunk, part).flatten(1) for part in _batches_of(images)]
    features = torch.cat(parts) if parts else torch.zeros(0, 0)
    facts = {
        "names": [entries[k].name for k in kept],
        "groups": [entries[k].group or entries[k].name for k in kept],
        "splits": [entries[k].split for k in kept],
        "skipped": faults,
    }
    tensors = {"features": features, "labels": torch.from_numpy(labels[kept])}
    save_tensors(run.folder / _file(number), tensors, facts=json.dumps(facts))
    run.advance(float(len(entries)), f"shard {number}, {len(entries)} images")


def _pixels(name: str, content: bytes | str, channels: Literal[1, 3]) -> np.ndarray:
    if isinstance(content, str):
        raise ImageError(content)
    return resize(as_channels(decode_image(content, name), channels), INPUT_SIZE)


def _batches_of(images: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(np.stack(images[start : start + BATCH]))
        yield pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _described(folder: Path, n_shards: int) -> dict[str, Any]:
    shards, skipped, widths = [], [], set()
    for number in range(n_shards):
        data = (folder / _file(number)).read_bytes()
        tensors, metadata = parse_tensors(data, str(_file(number)))
        features = tensors["features"]
        skipped += json.loads(metadata["facts"])["skipped"]
        widths |= {features.shape[1]} if len(features) else set()
        sha = hashlib.sha256(data).hexdigest()
        shards.append({"file": str(_file(number)), "sha256": sha, "images": len(features)})
    return {
        "n_images": sum(shard["images"] for shard in shards),
        "n_features": max(widths, default=0),
        "skipped": skipped,
        "shards": shards,
    }


class FeatureShards:
    """Shards in a folder, to be read one after the other.

    Args:
        folder: where `extract_shards` has left them.

    Raises:
        RunError: its manifest is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        try:
            self.class_names = tuple(manifest["class_names"])
            self.n_features = int(manifest["n_features"])
            self._shards = [
                (folder / shard["file"], str(shard["sha256"]), int(shard["images"]))
                for shard in manifest["shards"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            message = f"{folder / MANIFEST} is damaged ({error!r}); run qgraft features again"
            raise RunError(message) from None

    def __len__(self) -> int:
        return sum(n for _, _, n in self._shards)

    def __iter__(self) -> Iterator[Shard]:
        return (self._read(number) for number in range(len(self._shards)))

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[Samples]:
        """Yield the samples of an epoch in batches, with one shard in memory at a time.

        Shards come in an order, and the samples of each, that (seed, epoch) decides. The last
        batch may be smaller.
        """
        rng = numpy_rng(seed, "shards", epoch)
        inputs, labels = torch.zeros(0, self.n_features), torch.zeros(0, dtype=torch.int64)
        for number in rng.permutation(len(self._shards)):
            shard = self._read(int(number)).samples
            order = torch.from_numpy(rng.permutation(len(shard.labels)))
            inputs = torch.cat([inputs, shard.inputs[order]])
            labels = torch.cat([labels, shard.labels[order]])
            whole = len(labels) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                part = slice(start, start + batch_size)
                yield Samples(inputs[part], labels[part])
            inputs, labels = inputs[whole:].clone(), labels[whole:].clone()
        if len(labels):
            yield Samples(inputs, labels)

    def _read(self, number: int) -> Shard:
        """Return one shard.

        Raises:
            WeightsError: it is missing, damaged, or not the one that the manifest names.
        """
        path, sha, n = self._shards[number]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WeightsError(f"shard {path} cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != sha:
            raise WeightsError(f"shard {path} is not the one of {MANIFEST}; delete it and resume")
        tensors, metadata = parse_tensors(data, str(path))
        facts = json.loads(metadata["facts"])
        inputs = tensors["features"].view(n, self.n_features)
        samples = Samples(inputs, tensors["labels"])
        return Shard(samples, facts["names"], facts["groups"], facts["splits"])
