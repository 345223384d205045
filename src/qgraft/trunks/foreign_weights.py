"""Weights from elsewhere in, a safetensors file with a checksum out.

Reading a pickle can run whatever its author wrote into it, so it happens once, on request, in a
process of its own (see `unpickle`), never where a model is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from qgraft.errors import WeightsError
from qgraft.training.checkpoint import MAX_WEIGHT_BYTES, load_tensors, save_tensors
from qgraft.trunks.unpickle import SECONDS

MIN_TORCH = (2, 10)  # earlier ones could be made to run code (CVE-2025-32434, CVE-2026-24747)
MAX_ENTRIES = 20_000


def convert_weights(source: Path, target: Path) -> int:
    """Convert a `.pth`, `.pt` or foreign `.safetensors` file and return the number of tensors.

    Raises:
        WeightsError: the file is missing, too large, hostile or not a dictionary of tensors, or
            `target` exists.
    """
    if target.exists():
        raise WeightsError(f"{target} exists; name a new file")
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target} must end in .safetensors")
    if not source.is_file():
        raise WeightsError(f"weights file {source} does not exist or is not a file")
    if source.stat().st_size > MAX_WEIGHT_BYTES:
        raise WeightsError(f"{source} is larger than {MAX_WEIGHT_BYTES // 2**30} GB")
    if source.suffix == ".safetensors":
        tensors = load_tensors(source, foreign=True)
    else:
        _require_safe_torch()
        _require_honest_zip(source)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.safetensors"
            _unpickle(source, plain)
            tensors = load_tensors(plain)
    save_tensors(target, tensors)
    return len(tensors)


def _require_safe_torch() -> None:
    from importlib.metadata import version

    have = version("torch")
    if tuple(map(int, have.split("+")[0].split(".")[:2])) < MIN_TORCH:
        raise WeightsError(f"torch {have} cannot open such files safely; install 2.10 or later")


def _require_honest_zip(source: Path) -> None:
    """Refuse archives that unpack to more than a file may hold.

    Raises:
        WeightsError: it does.
    """
    from zipfile import BadZipFile, ZipFile, is_zipfile

    if not is_zipfile(source):
        return  # the format of torch before 1.6; memory is limited in any case
    try:
        with ZipFile(source) as archive:
            entries = archive.infolist()
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{source} is a damaged archive ({error})") from None
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or unpacked > MAX_WEIGHT_BYTES:
        raise WeightsError(
            f"{source} unpacks to {len(entries):,} entries and {unpacked:,} bytes; allowed are "
            f"{MAX_ENTRIES:,} and {MAX_WEIGHT_BYTES:,}"
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise WeightsError(f"{source} holds two entries of one name, which readers see differently")


def _unpickle(source: Path, target: Path) -> None:
    """Let a child process convert the file.

    Raises:
        WeightsError: it refused, died or took too long.
    """
    words = [sys.executable, "-P", "-m", "qgraft.trunks.unpickle", str(source), str(target)]
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LD_LIBRARY_PATH")}
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**kept, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=2 * SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(f"{source} took longer than {2 * SECONDS} s to read") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] if done.returncode == 3 else []
        reason = said[0] if said else f"the process that read it ended with {done.returncode}"
        raise WeightsError(f"{source} cannot be converted: {reason}; nothing in it was used")
