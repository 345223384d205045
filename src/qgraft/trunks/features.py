"""A frozen trunk never changes, so its features are computed once and kept by content.

The key of a cached file covers the pixels, the weights and what can change the arithmetic
(torch version, CPU capability), so a stale file cannot be mistaken for a fresh one.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from qgraft.errors import WeightsError
from qgraft.training.checkpoint import load_tensors, save_tensors
from qgraft.training.loop import predict_logits
from qgraft.trunks.orientations import OrientationMean

CACHE_BYTES = 4 * 2**30
PART_AGE_S = 24 * 3600


def cache_folder() -> Path:
    """Return the folder of cached features: `$QGRAFT_CACHE`, or `~/.cache/qgraft`."""
    return Path(os.environ.get("QGRAFT_CACHE") or Path.home() / ".cache" / "qgraft") / "features"


def cached_features(trunk: nn.Module, images: torch.Tensor, images_digest: str) -> torch.Tensor:
    """Return the features `(n, n_features)` of uint8 images `(n, c, h, w)`, computed at most once.

    Args:
        trunk: the frozen trunk, used in eval mode.
        images: the images.
        images_digest: a hash of the images, for example `ImageSet.digest()`.
    """
    shared = _shared_layers(trunk)
    if isinstance(trunk, nn.Sequential) and 0 < shared < len(trunk):
        first = cached_features(trunk[:shared], images, images_digest)
        return predict_logits(trunk[shared:], first, batch_size=64)
    path = cache_folder() / f"{_key(trunk, images_digest)}.safetensors"
    if path.exists():
        try:
            features = load_tensors(path)["features"]
        except WeightsError:
            path.unlink(missing_ok=True)  # a damaged cache file is only a slow start
        else:
            os.utime(path)
            return features
    features = predict_logits(trunk, images, batch_size=64)
    with suppress(OSError):  # a cache that cannot be written only costs time later
        save_tensors(path, {"features": features})
        _prune(path.parent)
    return features


def _shared_layers(trunk: nn.Module) -> int:
    """Return how many layers to cache: to the mean over orientations, after which all is cheap.

    Grafts that cut a network at different dense layers then share one file.
    """
    places = [k for k, layer in enumerate(trunk.children()) if isinstance(layer, OrientationMean)]
    return places[-1] + 1 if places else 0


def _key(trunk: nn.Module, images_digest: str) -> str:
    sha = hashlib.sha256(images_digest.encode())
    sha.update(f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {trunk}".encode())
    for name, tensor in trunk.state_dict().items():
        sha.update(name.encode())
        sha.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()


def _prune(folder: Path) -> None:
    """Delete the files unused for longest until the cache is within its size.

    What a killed process left half-written goes too, once it is too old to belong to a live one.
    """
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > PART_AGE_S:
                part.unlink()
    files = sorted(folder.glob("*.safetensors"), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for file in files[1:]:  # the newest stays, however large
        total += file.stat().st_size
        if total > CACHE_BYTES:
            file.unlink(missing_ok=True)
