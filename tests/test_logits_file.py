"""Logits of a teacher from a file: every kind of number is read, every hostile file refused."""

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qgraft.errors import DataError
from qgraft.training.logits_file import read_logits


def npz(**arrays_):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays_)
    return buffer.getvalue()


LOGITS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32])
def test_logits_from_files(tmp_path, kind):
    path = tmp_path / "logits.npz"
    path.write_bytes(npz(logits=LOGITS.astype(kind), other=np.zeros(2)))
    np.testing.assert_array_equal(read_logits(path, 4, 3), LOGITS)
    path.write_bytes(npz(anything=np.asfortranarray(LOGITS.astype(kind))))
    np.testing.assert_array_equal(read_logits(path, 4, 3), LOGITS)
    tensors = tmp_path / "logits.safetensors"
    save_file({"logits": torch.from_numpy(LOGITS)}, tensors)
    np.testing.assert_array_equal(read_logits(tensors, 4, 3), LOGITS)


def with_header(header):
    """Return a .npz whose array has a header of one's own and no values."""
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("logits.npy", content)
    return buffer.getvalue()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 3000000000)}"
OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (4, 3)}"
CODE = "__import__('os').system('true')"
SHORT = "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 3)}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as logits"),
        (b"PK\x03\x04 not a zip", "cannot be read as logits"),
        (npz(logits=LOGITS)[:-30], "cannot be read as logits"),
        (npz(logits=LOGITS[:3]), r"holds logits \(3, 3\); the 4 training samples"),
        (npz(logits=np.full((4, 3), np.nan)), "not finite"),
        (npz(logits=np.array([["a"] * 3] * 4)), "something else than real numbers"),
        (npz(logits=LOGITS.astype(complex)), "something else than real numbers"),
        (npz(a=LOGITS, b=LOGITS), "no array 'logits'; its arrays: a, b"),
        (npz(), "no array 'logits'; its arrays: none"),
        (with_header(HUGE), "holds logits"),
        (with_header(OBJECTS), "something else than real numbers"),
        (with_header(CODE), "cannot be read as logits"),
        (with_header(SHORT), "more or fewer values"),
    ],
)
def test_hostile_logits(tmp_path, content, says):
    path = tmp_path / "logits.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_logits(path, 4, 3)


def test_logits_of_other_kinds(tmp_path):
    with pytest.raises(DataError, match=r"give a \.npz or \.safetensors file"):
        read_logits(tmp_path / "logits.pkl", 4, 3)
    for name in ("no.npz", "no.safetensors"):
        with pytest.raises(DataError, match="does not exist"):
            read_logits(tmp_path / name, 4, 3)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_logits(broken, 4, 3)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_logits(tmp_path / "folder.npz", 4, 3)


def test_mutated_logits_never_escape(tmp_path, mutants):
    good, rng = npz(logits=LOGITS), np.random.default_rng(0)
    path = tmp_path / "logits.npz"
    for _ in range(mutants(60)):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        with contextlib.suppress(DataError):
            assert read_logits(path, 4, 3).shape == (4, 3)
