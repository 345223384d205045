"""Files of a run: written whole or not at all, weights as safetensors, numbers as JSON.

A weights file carries the SHA-256 of all its bytes, so a changed one is never loaded. A checkpoint
that is rewritten keeps the one before it until the run is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgraft.errors import RunError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


METADATA, CHECKSUM = "qgraft", "sha256"
MAX_WEIGHT_BYTES = 2 * 2**30
MAX_JSON_BYTES = 200_000_000

# The metadata is JSON inside a JSON header, hence the backslashes.
_STORED_SUM = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')
_NO_SUM = "0" * 64

Tensors = dict[str, "torch.Tensor"]


class DamagedError(WeightsError):
    """A weights file does not hold the bytes that were written."""


class RecoveryWarning(UserWarning):
    """Something was damaged and a run goes on without it."""


def atomic_write(path: Path, content: bytes | str, *, previous: Path | None = None) -> None:
    """Write `content` so that `path` always holds either the old bytes or all the new ones.

    With `previous`, the old file moves there just before the new one takes its place.

    Raises:
        OSError: the disk is full, rights are missing or the device fails; it names `path`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_part(part, content.encode() if isinstance(content, str) else content)
            if previous and path.exists():
                os.replace(path, previous)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def _write_part(part: Path, data: bytes) -> None:
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]  # a nearly full disk takes less than asked
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def previous_of(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(f".{path.name}.previous")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given; NaN is refused."""
    atomic_write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        RunError: the file is missing, is not JSON or is too large.
    """
    try:
        return json.loads(read_regular(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: is this the folder of a finished run?") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def read_regular(path: Path, limit: int, *, follow_links: bool = True) -> bytes:
    """Return the bytes of a regular file; a pipe or a device could be read for ever.

    Raises:
        OSError: it cannot be opened, or is a link and none is followed.
        ValueError: it is something else, or larger than `limit`.
    """
    link = 0 if follow_links else os.O_NOFOLLOW
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | link)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a file")
        if facts.st_size > limit:
            raise ValueError(f"{facts.st_size:,} bytes, more than {limit:,}")
        with open(handle, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(handle)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> None:
    """Write named tensors and string metadata as one safetensors file with a checksum."""
    atomic_write(path, _packed(tensors, metadata))


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> None:
    """Do what `save_tensors` does and keep the file before it, for `load_newest`."""
    atomic_write(path, _packed(tensors, metadata), previous=previous_of(path))


def _packed(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key, since safetensors writes several in no particular order and bytes should repeat.
    described = json.dumps({**metadata, CHECKSUM: _NO_SUM}, sort_keys=True)
    data = save(flat, {METADATA: described})
    stored = _STORED_SUM.search(data, 0, _header_end(data))
    assert stored
    start, end = stored.span(1)
    return b"".join((data[:start], hashlib.sha256(data).hexdigest().encode(), data[end:]))


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _require_unchanged(data: bytes, name: str) -> None:
    """Compare the checksum of all bytes with the one written among them.

    Raises:
        DamagedError: they differ, or no checksum was written.
    """
    found = list(_STORED_SUM.finditer(data, 0, min(_header_end(data), len(data))))
    if len(found) != 1:
        raise DamagedError(
            f"{name} is not a readable safetensors file written by qgraft: it has no checksum; "
            "bring weights from elsewhere in by qgraft convert-weights"
        )
    sha, rest = hashlib.sha256(), memoryview(data)
    start, end = found[0].span(1)
    for piece in (rest[:start], _NO_SUM.encode(), rest[end:]):
        sha.update(piece)
    if sha.hexdigest() != found[0][1].decode():
        raise DamagedError(
            f"{name} is damaged or was changed after it was written (its checksum differs); "
            "delete it and run again"
        )


def load_tensors(path: Path, *, foreign: bool = False) -> Tensors:
    """Return the named tensors of a safetensors file.

    Args:
        path: the file.
        foreign: take a file that qgraft did not write, which has no checksum.

    Raises:
        WeightsError: the file is missing, damaged or of another format.
    """
    return load_tensors_with_metadata(path, foreign=foreign)[0]


def load_tensors_with_metadata(
    path: Path, *, foreign: bool = False
) -> tuple[Tensors, dict[str, str]]:
    """Return the named tensors and the string metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing, damaged or of another format.
    """
    try:
        data = read_regular(path, MAX_WEIGHT_BYTES)
    except FileNotFoundError:
        raise WeightsError(f"weights file {path} does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"weights file {path} cannot be read ({reason})") from None
    return parse_tensors(data, str(path), foreign=foreign)


def parse_tensors(
    data: bytes, name: str, *, foreign: bool = False
) -> tuple[Tensors, dict[str, str]]:
    """Do what `load_tensors_with_metadata` does with bytes; `name` is what to call them.

    Raises:
        WeightsError: the bytes are damaged or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not foreign:
        _require_unchanged(data, name)
    try:
        tensors = load(data)
        header = json.loads(data[8 : _header_end(data)])
        metadata = {} if foreign else json.loads(header["__metadata__"][METADATA])
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise WeightsError(
            f"{name} is not a readable safetensors file ({error}); qgraft loads no other format"
        ) from None
    return tensors, {key: str(value) for key, value in metadata.items() if key != CHECKSUM}


def load_newest(path: Path) -> tuple[Tensors, dict[str, str]] | None:
    """Return the newest intact checkpoint at `path`, or None.

    What is damaged is warned about and put aside under a hidden name.

    Raises:
        WeightsError: a file is there that cannot be read or is no weights file.
    """
    previous = previous_of(path)
    for file in (path, previous):
        if not file.exists():
            continue
        try:
            loaded = load_tensors_with_metadata(file)
        except DamagedError as error:
            rest = file is path and previous.exists()
            message = "going on from the one before it" if rest else "starting this part again"
            warnings.warn(f"{str(error).split(';')[0]}; {message}", RecoveryWarning, stacklevel=2)
            os.replace(file, path.with_name(f".{path.name}.damaged"))
            continue
        if file is previous:  # so that the next one to be kept is intact
            os.replace(previous, path)
        return loaded
    return None
