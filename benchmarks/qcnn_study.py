"""What the 660 trainings of the QCNN study take here, and what they would take with PennyLane.

Each of the 22 published networks (8 qubits, 256 amplitudes, batch 50) takes the same training
steps with qgraft and with PennyLane's torch interface, in alternation, one thread. The medians
times 30 runs (three pairs, ten seeds) of 200 steps are the estimate; scoring is left out.

    python benchmarks/qcnn_study.py [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pennylane as qml
import torch
from torch import Tensor, nn

from qgraft.circuits.qcnn import PUBLISHED_MODELS
from qgraft.devices.to_pennylane import to_qnode
from qgraft.heads.qcnn import FLOOR, QcnnHead
from qgraft.seeds import torch_stream
from qgraft.training.minibatch import StepRecipe, cost_of, descent

RUNS_EACH, STEPS, BATCH, WIDTH = 30, 200, 50, 256
OURS, PEER = "qgraft", "PennyLane torch"


class OnPennyLane(nn.Module):
    """The same circuit with the same cost, run by PennyLane with backpropagation."""

    def __init__(self, head: QcnnHead) -> None:
        super().__init__()
        self.weights = nn.Parameter(head.weights.detach().clone())
        self.run = to_qnode(head.circuit, diff_method="backprop")

    def forward(self, features: Tensor) -> Tensor:
        return (self.run(features, self.weights)[0][:, :2] + FLOOR).log()


def stepper(head: nn.Module, features: Tensor, labels: Tensor) -> Callable[[], float]:
    step = descent(head, StepRecipe())
    return lambda: step(lambda: cost_of(head(features), labels, "cross-entropy"))


def seconds_of(step: Callable[[], float], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for ansatz, pooling in PUBLISHED_MODELS:
        with torch_stream(0, "qcnn study benchmark"):
            head = QcnnHead(WIDTH, 2, ansatz=ansatz, pooling=pooling)
            features, labels = torch.randn(BATCH, WIDTH), torch.randint(0, 2, (BATCH,))
        peer = OnPennyLane(head)
        difference = (head(features) - peer(features)).abs().max().item()
        steps = {OURS: stepper(head, features, labels), PEER: stepper(peer, features, labels)}
        spent: dict[str, list[float]] = {OURS: [], PEER: []}
        for _ in range(options.rounds):
            for name, step in steps.items():
                step()
                spent[name].append(seconds_of(step, 20 if name == OURS else 1))
        medians = {name: 1000 * statistics.median(values) for name, values in spent.items()}
        rows.append(
            {
                "model": f"{ansatz} {pooling}",
                "milliseconds": {name: round(value, 3) for name, value in medians.items()},
                "ratio": round(medians[PEER] / medians[OURS], 1),
                "largest_difference_of_logits": difference,
            }
        )
        sys.stderr.write(f"{rows[-1]['model']}: {rows[-1]['ratio']} times\n")
    minutes = {
        name: round(sum(r["milliseconds"][name] for r in rows) * RUNS_EACH * STEPS / 60_000, 1)
        for name in (OURS, PEER)
    }
    result = {
        "workload": f"{len(rows) * RUNS_EACH} trainings of {STEPS} steps of {BATCH}, one thread",
        "minutes_of_training_estimated": minutes,
        "ratio": round(minutes[PEER] / minutes[OURS], 1),
        "rows": rows,
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
