"""A noisy dressed head: qgraft's density matrix against PennyLane's `default.mixed`.

The same head (5 qubits, depth 3, batch 64, depolarising noise after every gate on each of its
qubits) takes the same training steps in alternation in one process, one thread each.

    python benchmarks/noise.py [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pennylane as qml
import torch
from torch import nn

from qgraft.heads.dressed import DressedHead
from qgraft.heads.measured import circuit_inputs, measured_head
from qgraft.seeds import torch_stream
from qgraft.simulate.execution import Execution
from qgraft.simulate.noise import depolarizing

N_FEATURES, N_QUBITS, DEPTH, BATCH, STRENGTH = 128, 5, 3, 64, 0.01


def pennylane_expvals(head: DressedHead) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the head's circuit with its noise on `default.mixed`, one call for a batch."""
    device = qml.device("default.mixed", wires=N_QUBITS)

    @qml.qnode(device, interface="torch", diff_method="backprop")
    def circuit(angles, weights):
        for op in head.circuit.ops:
            values = [(angles.T if p.source == "angle" else weights)[p.index] for p in op.params]
            getattr(qml, op.gate)(*values, wires=list(op.qubits))
            for qubit in op.qubits:
                qml.DepolarizingChannel(STRENGTH, wires=qubit)
        return [qml.expval(qml.Z(wire)) for wire in range(N_QUBITS)]

    return lambda angles: torch.stack(circuit(angles, head.weights), dim=-1)


def step(logits: Callable[[], torch.Tensor], labels: torch.Tensor, head: nn.Module) -> None:
    for parameter in head.parameters():
        parameter.grad = None
    nn.functional.cross_entropy(logits(), labels).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch_stream(0, "noise benchmark"):
        head = DressedHead(N_FEATURES, 2, n_qubits=N_QUBITS, depth=DEPTH)
        features, labels = torch.randn(BATCH, N_FEATURES), torch.randint(0, 2, (BATCH,))
    noisy = measured_head(head, Execution(noise=depolarizing(STRENGTH)))
    theirs = pennylane_expvals(head)

    def ours_logits() -> torch.Tensor:
        return noisy(features)

    def their_logits() -> torch.Tensor:
        return head.post(theirs(circuit_inputs(head, features)).to(features))

    difference = (ours_logits() - their_logits()).abs().max().item()
    times: dict[str, list[float]] = {"qgraft": [], "pennylane default.mixed": []}
    for _ in range(options.rounds):
        for name, logits, steps in (
            ("qgraft", ours_logits, 20),
            ("pennylane default.mixed", their_logits, 1),
        ):
            step(logits, labels, head)
            start = time.perf_counter()
            for _ in range(steps):
                step(logits, labels, head)
            times[name].append((time.perf_counter() - start) / steps)
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    ours, peer = medians.values()
    result = {
        "workload": f"{N_QUBITS} qubits, depth {DEPTH}, batch {BATCH}, float32, a training step",
        "milliseconds": {name: round(value, 3) for name, value in medians.items()},
        "ratio": round(peer / ours, 1),
        "largest_difference_of_logits": difference,
        "rounds": options.rounds,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pennylane": qml.__version__,
        },
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
