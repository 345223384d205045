"""Weights of convolutions and dense layers from a NumPy archive that nobody needs to trust.

A layer is `<layer>.bias` `(out,)` and either `<layer>.weight` in float32, or `<layer>.weight_int8`
with one scale per output channel, `<layer>.weight_scale` `(out,)`: weight = int8 * scale. The
archive may hold more layers than a network asks for. Nothing is unpickled, and nothing is unpacked
before its size is known to fit.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.errors import WeightsError

HEADER_BYTES = 4096  # more than any .npy header of such arrays


def find_weights(title: str, file: str, given: str | None) -> Path:
    """Return the weights file of a network: the one given, or `weights/` below `$QGRAFT_DATA`.

    Args:
        title: name of the network in messages.
        file: how the file is called inside a folder.
        given: a file, or a folder that holds it.

    Raises:
        WeightsError: there is no such file.
    """
    root = os.environ.get("QGRAFT_DATA")
    path = Path(given) if given else Path(root) / "weights" if root else None
    if path is not None and path.is_dir():
        path /= file
    if path is None or not path.is_file():
        missing = "none was given" if path is None else f"{path} is not a file"
        raise WeightsError(
            f"{title} starts from pretrained weights and {missing}; name them with --weights, or "
            f"set QGRAFT_DATA to a folder that holds {Path('weights') / file}"
        )
    return path


def load_npz(model: nn.Module, path: Path, *, what: str = "this network") -> None:
    """Put the weights of an archive into all convolutions and dense layers of `model`.

    Raises:
        WeightsError: the archive is missing, damaged, or not of this network.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            source = _Archive(archive, arrays)
            found = {name: source.layer(name, layer) for name, layer in layers.items()}
    except FileNotFoundError:
        raise WeightsError(f"weights file {path} does not exist") from None
    except (
        KeyError, ValueError, OSError, EOFError, RuntimeError, NotImplementedError,
        MemoryError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise WeightsError(f"{path} does not hold the weights of {what}: {error}") from None
    with torch.no_grad():  # all or nothing
        for name, (weight, bias) in found.items():
            layers[name].weight.copy_(torch.from_numpy(weight))
            if bias is not None:
                layers[name].get_parameter("bias").copy_(torch.from_numpy(bias))


class _Archive(NamedTuple):
    archive: zipfile.ZipFile
    arrays: np.lib.npyio.NpzFile

    def layer(
        self, name: str, layer: nn.Conv2d | nn.Linear
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return weight and bias of a layer."""
        shape, out = tuple(layer.weight.shape), (len(layer.weight),)
        if f"{name}.weight_int8.npy" in self.archive.namelist():
            weight = self._array(f"{name}.weight_int8", np.int8, shape)
            scale = self._array(f"{name}.weight_scale", np.float32, out)
            weight = weight * scale.reshape(-1, *[1] * (len(shape) - 1))
        else:
            weight = self._array(f"{name}.weight", np.float32, shape)
        has_bias = layer.bias is not None
        return weight, self._array(f"{name}.bias", np.float32, out) if has_bias else None

    def _array(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(kind)
        expected = int(np.prod(shape)) * dtype.itemsize
        size = self.archive.getinfo(f"{name}.npy").file_size
        if not 0 <= size - expected <= HEADER_BYTES:
            raise ValueError(f"{name} takes {size} bytes where {expected} of data are needed")
        array = self.arrays[name]
        if not isinstance(array, np.ndarray):  # what NumPy gives for a member that is no array
            raise ValueError(f"{name} is not an array")
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, needed is {dtype} {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
        return array
