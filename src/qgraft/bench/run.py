"""Time every contestant of a workload in alternation and give the medians.

Alternating in one process lets a busy machine slow all contestants alike, so ratios hold where
absolute times do not. Nothing here is asserted: it is measured and printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from qgraft.bench.inference import single_sample, trunk_forward
from qgraft.bench.peers import (
    PEERS,
    QCNN_LAYERS,
    QCNN_QUBITS,
    QCNN_READ,
    QCNN_WEIGHTS,
    Step,
    Workload,
    apply_qcnn,
    inputs_of,
    torch_step,
)
from qgraft.circuits.circuit import Circuit, Op, Param
from qgraft.circuits.embeddings import angle_embedding
from qgraft.errors import ConfigError
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.seeds import torch_stream
from qgraft.simulate.backends import Backend, probabilities
from qgraft.training.head_trainer import HeadTask, train_heads
from qgraft.training.loop import Recipe, Samples

N_HEADS = 54  # nine models, six folds
TRAINER_BATCHES, TRAINER_STEPS = 29, 58
TURN_S = 0.05  # long enough that a contestant runs as it does when it is alone

WORKLOADS = {
    "A": (Workload("A: head, 5 qubits, 128 features", "head"),),
    "A-wide": (Workload("A: head, 5 qubits, 8192 features", "head", n_features=8192),),
    "B": (
        Workload("B: QCNN, 8 qubits, 256 amplitudes", "qcnn-amplitude", 8, 256),
        Workload("B: QCNN, 8 qubits, 8 angles", "qcnn-angle", 8, 8),
    ),
    "narrow": tuple(
        Workload(f"Torch path: head, {n} qubits, 128 features", "head", n) for n in (4, 6)
    ),
    "C": tuple(
        Workload(f"C: head, {n} qubits, batch {batch}", "head", n, batch=batch)
        for n, batch in ((8, 64), (10, 64), (12, 64), (14, 64))
    ),
    "C-large": tuple(
        Workload(f"C: head, {n} qubits, batch {batch}", "head", n, batch=batch)
        for n, batch in ((16, 16), (20, 2))
    ),
}
# Qubits up to which a jitted peer compiles a circuit within about a minute.
MOST_QUBITS = {"TensorCircuit-NG jax": 9, "PennyLane jax.jit": 14}


class Timing(NamedTuple):
    """The median time of one contestant in one workload."""

    workload: str
    contestant: str
    milliseconds: float
    ratio: float


class Qcnn(nn.Module):
    """The benchmark's quantum convolutional network in qgraft: inputs to two probabilities."""

    def __init__(self, workload: Workload, backend: Backend) -> None:
        super().__init__()
        self.circuit = qcnn_circuit(workload.kind == "qcnn-amplitude")
        self.backend: Backend = backend
        self.weights = nn.Parameter(torch.randn(len(QCNN_LAYERS) * QCNN_WEIGHTS))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs `(batch, n_features)` to probabilities `(batch, 2)`."""
        return probabilities(self.circuit, inputs, self.weights, self.backend)


def qcnn_circuit(amplitudes: bool) -> Circuit:
    """Return 13 SU4 blocks on 8 qubits, three sets of 15 weights, qubit 4 read out."""
    ops = [] if amplitudes else list(angle_embedding(QCNN_QUBITS, "Y"))
    weights = [
        [Param("weight", QCNN_WEIGHTS * layer + k) for k in range(QCNN_WEIGHTS)]
        for layer in range(len(QCNN_LAYERS))
    ]
    apply_qcnn(lambda name, on, *values: ops.append(Op(name, on, values)), weights)
    return Circuit(QCNN_QUBITS, tuple(ops), probabilities=(QCNN_READ,), amplitudes=amplitudes)


def contestants(
    workload: Workload, peers: Sequence[str], on_skip: Callable[[str], None] = lambda line: None
) -> dict[str, tuple[Step, float]]:
    """Return the step of every contestant and how many training steps it stands for."""
    ours: dict[str, tuple[Step, float]] = {}
    with torch_stream(0, "bench"):
        if workload.kind == "head":
            options = {"n_qubits": workload.n_qubits, "depth": workload.depth, "relu": True}
            width = workload.n_features
            native, plain = (
                DressedHead(width, 2, backend=backend, **options) for backend in ("auto", "torch")
            )
            if workload.n_qubits <= 8:
                ours["qgraft head trainer"] = (trainer_step(workload, options, 1), TRAINER_STEPS)
            dense = DenseHead(width, 2, widths=(128, 64, 16))
            ours["qgraft layer"] = (torch_step(native, workload), 1)
            ours["qgraft layer, torch only"] = (torch_step(plain, workload), 1)
            if workload.n_qubits == 5:
                ours["dense head (classical)"] = (torch_step(dense, workload), 1)
        else:
            ours["qgraft layer"] = (torch_step(Qcnn(workload, "auto"), workload), 1)
            ours["qgraft layer, torch only"] = (torch_step(Qcnn(workload, "torch"), workload), 1)
        for name in peers:
            try:
                step = PEERS[name](workload)
                step()
            except ImportError:
                continue
            except Exception as error:  # whatever a peer raises: it cannot do this workload
                on_skip(f"{name} cannot run {workload.name}: {type(error).__name__}")
                continue
            ours[name] = (step, 1)
    return ours


def trainer_step(workload: Workload, options: dict, n_heads: int) -> Step:
    """Return one call of the head trainer: `TRAINER_STEPS` steps of each head.

    An epoch has as many batches as a fold of the surface study has, since an epoch has costs.
    """
    inputs, labels = map(torch.from_numpy, inputs_of(workload))
    samples = Samples(inputs, labels)
    heads = [DressedHead(workload.n_features, 2, **options) for _ in range(n_heads)]
    rows = torch.arange(len(labels)).repeat(TRAINER_BATCHES)
    tasks = [HeadTask(head, rows, None, number) for number, head in enumerate(heads)]
    recipe = Recipe(TRAINER_STEPS // TRAINER_BATCHES, 1e-3, workload.batch)

    def step() -> None:
        train_heads(tasks, samples, recipe)

    return step


def many_heads(peers: Sequence[str]) -> dict[str, tuple[Step, float]]:
    """Return contestants that take one step of each of 54 heads, in sequence or mapped by jax."""
    workload = WORKLOADS["A"][0]
    options = {"n_qubits": workload.n_qubits, "depth": workload.depth, "relu": True}
    ours = {"qgraft head trainer": (trainer_step(workload, options, N_HEADS), float(TRAINER_STEPS))}
    single = contestants(workload, peers)
    for name in ("dense head (classical)", *peers):
        if name in single:
            ours[f"{name}, in sequence"] = (single[name][0], 1 / N_HEADS)
        if "jax" in name and name in single:
            mapped = PEERS[name](workload._replace(n_heads=N_HEADS))
            ours[f"{name}, vmapped over heads"] = (mapped, 1)
    return ours


TOGETHER: dict[str, tuple[str, Callable[[Sequence[str]], dict[str, tuple[Step, float]]]]] = {
    "many": (f"{N_HEADS} heads of A, one step each", many_heads),
    "single": ("One sample through the head of A", lambda _: single_sample(WORKLOADS["A"][0])),
    "trunk": ("CM-2 forward, 64 images of 200 x 200", lambda _: trunk_forward()),
}


def measure(
    name: str,
    steps: dict[str, tuple[Step, float]],
    *,
    rounds: int,
    seconds: float,
    on_timing: Callable[[Timing], None],
) -> list[Timing]:
    """Time all contestants in alternation; ratios are to the first, above 1 means slower."""
    for step, _ in steps.values():  # compile and warm up
        step()
        step()
    times: dict[str, list[float]] = {contestant: [] for contestant in steps}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < rounds or time.perf_counter() < end:
        for contestant, (step, units) in steps.items():
            times[contestant].append(_turn(step) / units)
        if time.perf_counter() > end + 4 * seconds:
            break
    medians = {contestant: statistics.median(values) for contestant, values in times.items()}
    first = next(iter(medians.values()))
    timings = [Timing(name, c, round(ms, 4), round(ms / first, 2)) for c, ms in medians.items()]
    for timing in timings:
        on_timing(timing)
    return timings


def _turn(step: Step) -> float:
    """Return the milliseconds of one step, the mean over a turn.

    One step first, untimed: the contestant before has filled the caches with its own data.
    """
    step()
    start, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - start < TURN_S:
        step()
        n += 1
    return 1e3 * (time.perf_counter() - start) / n


def run_bench(
    names: Sequence[str],
    *,
    peers: Sequence[str] = tuple(PEERS),
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 5.0,
    on_timing: Callable[[Timing], None] = lambda timing: None,
    on_skip: Callable[[str], None] = lambda line: None,
) -> list[Timing]:
    """Run the workloads `names`: keys of `WORKLOADS` and of `TOGETHER`.

    Raises:
        ConfigError: no such workload.
    """
    unknown = [name for name in names if name not in TOGETHER and name not in WORKLOADS]
    if unknown:
        known = ", ".join((*TOGETHER, *WORKLOADS))
        raise ConfigError(f"unknown workload {unknown[0]!r}; choose from {known}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    timings: list[Timing] = []
    options = {"rounds": rounds, "seconds": seconds, "on_timing": on_timing}
    try:
        for name in names:
            if name in TOGETHER:
                title, build = TOGETHER[name]
                timings += measure(title, build(peers), **options)
                continue
            for workload in WORKLOADS[name]:
                fast = [
                    peer
                    for peer in peers
                    if workload.n_qubits <= MOST_QUBITS.get(peer, workload.n_qubits)
                ]
                timings += measure(workload.name, contestants(workload, fast, on_skip), **options)
    finally:
        torch.set_num_threads(before)
    return timings
