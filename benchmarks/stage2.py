"""Stage 2 of the surface study from cached features: qgraft against PennyLane's torch layer.

The same head (5 qubits, depth 3, float32, batch 64, Adam) takes the same steps on the same
features. Both are timed in alternation in one process, one thread each; the medians and their
ratio are printed, and what the ratio means for 3 hybrids x 6 folds x 40 epochs.

    python benchmarks/stage2.py [--features 64 128 2048] [--steps 29] [--rounds 5] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pennylane as qml
import torch
from torch import nn

from qgraft.heads.dressed import DressedHead
from qgraft.seeds import torch_stream

N_QUBITS, DEPTH, BATCH = 5, 3, 64
STEPS_PER_STUDY = 6 * 40 * 29  # folds x epochs x batches of 1,838 images, per hybrid


def pennylane_head(n_features: int) -> nn.Module:
    """Build the head as its users write it today, the fastest of PennyLane's torch routes."""
    device = qml.device("default.qubit", wires=N_QUBITS)

    @qml.qnode(device, interface="torch", diff_method="backprop")
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(N_QUBITS))
        qml.StronglyEntanglingLayers(weights, wires=range(N_QUBITS))
        return [qml.expval(qml.PauliZ(wire)) for wire in range(N_QUBITS)]

    layer = qml.qnn.TorchLayer(circuit, {"weights": (DEPTH, N_QUBITS, 3)})
    return nn.Sequential(
        nn.Linear(n_features, N_QUBITS), nn.Tanh(), layer, nn.ReLU(), nn.Linear(N_QUBITS, 2)
    )


def trainer(head: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Return a function that takes one training step per call."""
    optimiser = torch.optim.Adam(head.parameters(), 8e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(head(features), labels).backward()
        optimiser.step()

    return step


def seconds_per_step(step: Callable[[], None], n_steps: int) -> float:
    """Return the mean time of `n_steps` steps."""
    start = time.perf_counter()
    for _ in range(n_steps):
        step()
    return (time.perf_counter() - start) / n_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=int, nargs="+", default=[64, 128, 2048])
    parser.add_argument("--steps", type=int, default=29)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n_features in options.features:
        with torch_stream(0, "benchmark") as generator:
            features = torch.randn(BATCH, n_features, generator=generator)
            labels = torch.randint(0, 2, (BATCH,), generator=generator)
            ours = trainer(DressedHead(n_features, 2, relu=True), features, labels)
            theirs = trainer(pennylane_head(n_features), features, labels)
        seconds_per_step(ours, 5), seconds_per_step(theirs, 2)
        times = [
            (seconds_per_step(ours, options.steps), seconds_per_step(theirs, options.steps))
            for _ in range(options.rounds)
        ]
        mine, peer = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(
            {
                "features": n_features,
                "qgraft_ms": round(1e3 * mine, 3),
                "pennylane_ms": round(1e3 * peer, 3),
                "ratio": round(peer / mine, 1),
                "qgraft_study_s": round(mine * STEPS_PER_STUDY, 1),
                "pennylane_study_s": round(peer * STEPS_PER_STUDY, 1),
            }
        )
        print(rows[-1], flush=True)
    print(f"torch {torch.__version__}, PennyLane {qml.__version__}, {platform.processor()}")
    if options.csv:
        with options.csv.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
