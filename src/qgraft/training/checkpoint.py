"""Files of a run: written whole or not at all, weights as safetensors, numbers as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgraft.errors import RunError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


METADATA, CHECKSUM = "qgraft", "sha256"


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` so that `path` always holds either the old bytes or all the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    data = content.encode() if isinstance(content, str) else content
    try:
        with part.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given; NaN is refused."""
    atomic_write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        RunError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is missing: is this the folder of a finished run?") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> None:
    """Write named tensors and string metadata as one safetensors file with a checksum."""
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key, since safetensors writes several in no particular order and bytes should repeat.
    described = {**metadata, CHECKSUM: _checksum(flat, metadata)}
    atomic_write(path, save(flat, {METADATA: json.dumps(described, sort_keys=True)}))


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the named tensors of a safetensors file.

    Raises:
        WeightsError: the file is missing, damaged or of another format.
    """
    return load_tensors_with_metadata(path)[0]


def load_tensors_with_metadata(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the named tensors and the string metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            # get_tensor maps the file; clone so that the file may be replaced meanwhile.
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
            metadata = json.loads((handle.metadata() or {}).get(METADATA, "{}"))
    except FileNotFoundError:
        raise WeightsError(f"weights file {path} does not exist") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a readable safetensors file ({error}); qgraft loads no other format"
        ) from None
    stored = metadata.pop(CHECKSUM, None)
    if stored is not None and stored != _checksum(tensors, metadata):
        raise WeightsError(f"{path} was changed after it was written; delete it and run again")
    return tensors, metadata
