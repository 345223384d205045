"""Weights from strangers: a changed file is never loaded."""

import json
import os
import pickle
import random
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from qgraft.errors import RunError, WeightsError
from qgraft.training.checkpoint import (
    MAX_WEIGHT_BYTES,
    load_newest,
    load_tensors,
    parse_tensors,
    read_json,
    save_tensors,
)
from qgraft.training.kept import load_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the bytes of a small weights file."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_tensors(file, {"a": torch.arange(24.0), "b": torch.ones(2, 3)}, history="[]")
    return file.read_bytes()


def mutant(rng, data):
    """Change up to four bytes; sometimes cut, repeat or move a piece."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    kind = rng.random()
    at = rng.randrange(len(changed))
    if kind < 0.1:
        del changed[at:]
    elif kind < 0.15:
        changed[at:at] = changed[: rng.randrange(64)]
    elif kind < 0.2:
        del changed[at : at + rng.randint(1, 8)]
    return bytes(changed)


def test_no_changed_file_is_ever_loaded(weights, mutants):
    rng, tried = random.Random(5), 0
    for _ in range(mutants(200_000)):
        changed = mutant(rng, weights)
        if changed == weights:
            continue
        tried += 1
        try:
            parse_tensors(changed, "w")
        except WeightsError:
            continue
        raise AssertionError(f"loaded a changed file: {changed!r}")
    assert tried > mutants(190_000)


def test_foreign_files_load_or_are_refused(weights, mutants):
    rng, loaded = random.Random(6), 0
    for _ in range(mutants(20_000)):
        try:
            tensors, metadata = parse_tensors(mutant(rng, weights), "w", foreign=True)
        except WeightsError:
            continue
        loaded += 1
        assert not metadata
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert loaded  # flipped numbers of a file without a checksum cannot be seen


def container(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


ABUSES = {
    "empty": b"",
    "no header": struct.pack("<Q", 100),
    "header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header beyond the end": struct.pack("<Q", 10**9) + b"{}",
    "header of 100 MB": container(b"{" + b" " * 100_000_001),
    "no JSON": container(b"\xff\xfe{}"),
    "a list": container([1, 2]),
    "deep JSON": container(b'{"__metadata__":' * 5000 + b"1" + b"}" * 5000),
    "bytes beyond the end": container({"a": entry(end=8)}, b"\0" * 4),
    "bytes left over": container({"a": entry()}, b"\0" * 64),
    "overlap": container({"a": entry(), "b": entry(begin=4, end=12)}, b"\0" * 12),
    "hole": container({"a": entry(), "b": entry(begin=12, end=20)}, b"\0" * 20),
    "backwards": container({"a": entry(begin=8, end=0)}, b"\0" * 8),
    "negative": container({"a": entry(begin=-8, end=0)}, b"\0" * 8),
    "shape too large": container({"a": entry(shape=(2**62, 4))}, b"\0" * 8),
    "shape overflows": container({"a": entry(shape=(2**63, 2**63))}, b"\0" * 8),
    "shape negative": container({"a": entry(shape=(-2,))}, b"\0" * 8),
    "unknown type": container({"a": entry(dtype="OBJECT")}, b"\0" * 8),
    "metadata of numbers": container({"__metadata__": {"a": 1}, "b": entry()}, b"\0" * 8),
    "a pickle": pickle.dumps({"a": 1}),
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("abuse", ABUSES)
@pytest.mark.parametrize("foreign", [False, True])
def test_abuses_of_the_format(abuse, foreign):
    with pytest.raises(WeightsError, match=r"^w is not a readable safetensors file"):
        parse_tensors(ABUSES[abuse], "w", foreign=foreign)


def test_one_name_twice_never_gives_half_a_tensor():
    twice = b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)
    try:
        tensors, _ = parse_tensors(container(twice, b"\0" * 8), "w", foreign=True)
    except WeightsError:
        return
    assert tensors["a"].shape == (2,)


def test_files_that_could_be_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(WeightsError, match=r"cannot be read \(not a file\)"):
            load_tensors(path)
        with pytest.raises(RunError, match=r"is not valid JSON \(not a file\)"):
            read_json(path)
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(MAX_WEIGHT_BYTES + 1)
    with pytest.raises(WeightsError, match=r"cannot be read \(2,147,483,649 bytes, more than"):
        load_tensors(tmp_path / "huge")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_newest(tmp_path / "huge")


def test_weights_must_have_the_type_of_the_network(tmp_path):
    model = nn.Linear(2, 2)
    doubled = {name: tensor.double() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match="2 tensors missing, unexpected or of another shape"):
        load_weights(model, doubled, tmp_path)
