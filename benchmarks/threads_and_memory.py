"""Does a second thread ever hurt, and how much memory does a wide circuit take?

Each training step of a dressed head is timed with one and with two threads in alternation. The
peak of the process's memory during a step is read in a process of its own, less what it needed for
four qubits, and given in state batches (`batch * 2**n_qubits` complex64 numbers).

    python benchmarks/threads_and_memory.py [--seconds 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from qgraft.bench.peers import Step, Workload, torch_step
from qgraft.heads.dressed import DressedHead
from qgraft.studies.run import environment

TIMED = (
    (2, 64),
    (4, 64),
    (5, 64),
    (6, 64),
    (8, 64),
    (10, 64),
    (12, 64),
    (14, 64),
    (16, 16),
    (20, 2),
)
WEIGHED = ((16, 256), (18, 64), (20, 16))  # large enough to tower over what imports need
TURN_S = 0.03


def head_step(n_qubits: int, batch: int) -> Step:
    workload = Workload("", "head", n_qubits, batch=batch)
    head = DressedHead(workload.n_features, 2, n_qubits=n_qubits, depth=3, backend="native")
    return torch_step(head, workload)


def turn(step: Step, threads: int) -> float:
    torch.set_num_threads(threads)
    step()
    start, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - start < TURN_S:
        step()
        n += 1
    return 1e3 * (time.perf_counter() - start) / n


def time_threads(n_qubits: int, batch: int, seconds: float) -> dict[str, float]:
    step = head_step(n_qubits, batch)
    times: dict[int, list[float]] = {1: [], 2: []}
    end = time.perf_counter() + seconds
    while len(times[1]) < 5 or time.perf_counter() < end:
        for threads in (1, 2):
            times[threads].append(turn(step, threads))
    one, two = statistics.median(times[1]), statistics.median(times[2])
    return {
        "n_qubits": n_qubits,
        "batch": batch,
        "ms_1_thread": round(one, 4),
        "ms_2_threads": round(two, 4),
        "ratio": round(two / one, 3),
    }


def peak_bytes(n_qubits: int, batch: int) -> int:
    command = [sys.executable, __file__, "--peak", str(n_qubits), str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def weigh(n_qubits: int, batch: int) -> dict[str, float]:
    state_batch = batch * 2**n_qubits * 8
    used = peak_bytes(n_qubits, batch) - peak_bytes(4, batch)
    return {
        "n_qubits": n_qubits,
        "batch": batch,
        "bytes": used,
        "state_batches": round(used / state_batch, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each circuit")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        step = head_step(*options.peak)
        step()
        step()
        print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    threads = [time_threads(n, batch, options.seconds) for n, batch in TIMED]
    for row in threads:
        print("{n_qubits} qubits, batch {batch}: 1 thread {ms_1_thread} ms, 2 threads "
              "{ms_2_threads} ms, ratio {ratio}".format(**row))  # fmt: skip
    memory = [weigh(n, batch) for n, batch in WEIGHED]
    for row in memory:
        print("{n_qubits} qubits, batch {batch}: peak {bytes:,} bytes, {state_batches} state "
              "batches".format(**row))  # fmt: skip
    if options.json:
        record = {"threads": threads, "memory": memory, "environment": environment()}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
