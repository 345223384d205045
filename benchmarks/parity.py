"""The suite's random-circuit check at full size: native kernels against PennyLane.

Draws random circuits of 1 to 10 qubits as `tests/test_native.py` does, and compares values and
the gradients of angles and weights in float64 and float32 with default.qubit in float64. Errors
are relative to max(1, largest reference value).

    python benchmarks/parity.py [--circuits 2000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import test_native as suite
from qgraft.simulate.native import native_expvals


def errors_of(seed: int) -> dict[str, float]:
    """Return the largest error of one circuit, by dtype and quantity."""
    n_qubits = 1 + seed % 10
    circuit = suite.random_circuit(seed, n_qubits)
    batch = 3 if n_qubits < 8 else 1
    found: dict[str, float] = {}
    for dtype, name in ((torch.float64, "float64"), (torch.float32, "float32")):
        numbers = suite.random_numbers(circuit, dtype, batch, seed)
        reference = suite.value_and_gradients(
            suite.pennylane_expvals, circuit, suite.exact(numbers)
        )
        ours = suite.value_and_gradients(native_expvals, circuit, numbers)
        for kind, mine, theirs in zip(
            ("value", "angle gradient", "weight gradient"), ours, reference, strict=True
        ):
            scale = max(1.0, float(theirs.detach().abs().max()) if theirs.numel() else 1.0)
            gap = (
                float((mine.detach().double() - theirs.detach()).abs().max())
                if theirs.numel()
                else 0.0
            )
            found[f"{name} {kind}"] = gap / scale
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--circuits", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    worst: dict[str, float] = {}
    for seed in range(options.circuits):
        for key, error in errors_of(seed).items():
            worst[key] = max(worst.get(key, 0.0), error)
        if seed % 200 == 199:
            print(seed + 1, {key: f"{error:.1e}" for key, error in worst.items()}, flush=True)
    if options.json:
        report = {"circuits": options.circuits, "largest_error": worst}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
