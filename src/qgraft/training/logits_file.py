"""A teacher that exists only as numbers: its logits on the training samples, from a file.

`.npz` and `.safetensors` are read. Names, type and shape are checked before any array is unpacked,
and nothing in a file is ever executed.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from qgraft.errors import DataError, WeightsError
from qgraft.training.checkpoint import load_tensors, read_regular

LOGITS = "logits"
MAX_BYTES = 2**30
SHOWN = 5  # names of arrays in a message


def read_logits(path: Path, n: int, n_classes: int) -> Tensor:
    """Return the logits `(n, n_classes)` in a .npz or .safetensors file.

    The array is called `logits`, or is the only one; its rows are the training samples in order.

    Raises:
        DataError: the file is missing, damaged, or does not hold such logits.
    """
    if path.suffix == ".npz":
        logits = _from_npz(path, (n, n_classes))
    elif path.suffix == ".safetensors":
        logits = _from_safetensors(path, (n, n_classes))
    else:
        raise DataError(f"{path} is not a file of logits; give a .npz or .safetensors file")
    if not torch.isfinite(logits).all():
        raise DataError(f"{path} holds logits that are not finite")
    return logits


def _from_safetensors(path: Path, shape: tuple[int, int]) -> Tensor:
    try:
        tensors = load_tensors(path, foreign=True)
    except WeightsError as error:
        raise DataError(str(error)) from None
    tensor = tensors[_chosen(path, list(tensors))]
    _check(path, tuple(tensor.shape), shape, is_number=not tensor.is_complex())
    return tensor.float()


def _from_npz(path: Path, shape: tuple[int, int]) -> Tensor:
    try:
        data = read_regular(path, MAX_BYTES)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            with archive.open(f"{_chosen(path, names)}.npy") as member:
                return _array(path, member, shape)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (
        OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, SyntaxError,
        TypeError, MemoryError, zlib.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise DataError(f"{path} cannot be read as logits: {error}") from None


def _array(path: Path, member: IO[bytes], shape: tuple[int, int]) -> Tensor:
    """Return an array whose header is checked before its values are unpacked."""
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(member)
    if version not in readers:
        raise ValueError(f"an array of version {version}")
    found, by_columns, kind = readers[version](member)
    _check(path, found, shape, is_number=kind.kind in "fiu")
    size = shape[0] * shape[1] * kind.itemsize
    values = member.read(size + 1)
    if len(values) != size:
        raise ValueError("more or fewer values than its header promises")
    array = np.frombuffer(values, kind).reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(array.astype(np.float32))


def _chosen(path: Path, names: list[str]) -> str:
    """Return the name of the array that holds the logits."""
    if LOGITS in names:
        return LOGITS
    if len(names) != 1:
        shown = ", ".join(sorted(names)[:SHOWN]) or "none"
        raise DataError(f"{path} has no array {LOGITS!r}; its arrays: {shown}")
    return names[0]


def _check(path: Path, found: tuple[int, ...], shape: tuple[int, int], *, is_number: bool) -> None:
    if not is_number:
        raise DataError(f"{path} holds something else than real numbers")
    if found != shape:
        raise DataError(
            f"{path} holds logits {found}; the {shape[0]:,} training samples in their order and "
            f"{shape[1]} classes need {shape}"
        )
