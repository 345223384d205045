"""What a circuit can express and whether it can be trained, from random draws of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, inert_weights, words_of
from qgraft.errors import CircuitError
from qgraft.seeds import numpy_rng
from qgraft.simulate import statevector
from qgraft.simulate.shift import open_circuit

BINS = 75  # of the fidelity histogram, as published


class Parameter(TypedDict):
    """One place of a circuit that takes a number, and how strongly it acts."""

    gate: str
    qubit: int
    source: str
    index: int
    column: int
    variance: float
    inert: bool


def random_states(circuit: Circuit, n_samples: int, seed: int, purpose: str) -> Tensor:
    """Return final states `(n_samples, 2**n)` for angles and weights uniform in [0, 2 pi)."""
    opened, numbers = _random_numbers(circuit, n_samples, seed, purpose)
    return statevector.state(opened, numbers, numbers.new_zeros(0))


def _random_numbers(
    circuit: Circuit, n_samples: int, seed: int, purpose: str
) -> tuple[Circuit, Tensor]:
    """Return the circuit with an angle at every place, and random numbers for these.

    Numbers that occur in several places stay equal there.
    """
    if circuit.amplitudes:
        # expressibility is that of the gates: the state they start from is |0...0>
        circuit = replace(circuit, amplitudes=False)
    random = numpy_rng(seed, purpose)
    angles = torch.tensor(random.uniform(0, 2 * pi, (n_samples, circuit.n_angles)))
    weights = torch.tensor(random.uniform(0, 2 * pi, (n_samples, circuit.n_weights)))
    opened = open_circuit(circuit)
    columns = [
        p.scale * (angles if p.source == "angle" else weights)[:, p.index] + p.offset
        for p in opened.params
    ]
    numbers = torch.stack(columns, dim=1) if columns else angles.new_zeros(n_samples, 0)
    return opened.circuit, numbers


def expressibility(circuit: Circuit, n_samples: int = 2000, seed: int = 0) -> float:
    """Return the divergence of the circuit's fidelities from those of Haar-random states.

    Kullback and Leibler's, over 75 bins of the fidelity of `n_samples` random pairs (Sim et al.,
    arXiv 1905.10876, eq. 7): 0 for a circuit that covers all states evenly.
    """
    first = random_states(circuit, n_samples, seed, "expressibility, first")
    second = random_states(circuit, n_samples, seed, "expressibility, second")
    fidelity = (first.conj() * second).sum(1).abs().square().clamp(0, 1).numpy()
    counts, edges = np.histogram(fidelity, BINS, (0.0, 1.0))
    found = counts / n_samples
    # P(F < x) = 1 - (1 - x)**(d - 1) for Haar-random states of dimension d
    power = 2**circuit.n_qubits - 1
    haar = (1 - edges[:-1]) ** power - (1 - edges[1:]) ** power
    seen = found > 0
    return float((found[seen] * np.log(found[seen] / np.maximum(haar[seen], 1e-300))).sum())


def entangling_capability(
    circuit: Circuit, n_samples: int = 2000, seed: int = 0, *, normalised: bool = False
) -> float:
    """Return the mean Meyer-Wallach measure, 0 for product states to 1 (Sim et al., eq. 11).

    `Q = 4 mean over qubits of (|u|^2 |v|^2 - |<u|v>|^2)`, where u and v are the halves of the state
    in which the qubit is 0 and 1; that is 2 (1 - tr rho_q^2) (Brennen, quant-ph/0305094). With
    `normalised` the halves are normalised first, `1 - |<u|v>|^2 / (|u|^2 |v|^2)`, which is no
    Meyer-Wallach measure but gives the published numbers of Sim et al.
    """
    psi, n = random_states(circuit, n_samples, seed, "entangling capability"), circuit.n_qubits
    by_qubit = []
    for qubit in range(n):
        zero, one = psi.unflatten(1, (2**qubit, 2, -1)).movedim(2, 0).flatten(2)
        weight = zero.abs().square().sum(1) * one.abs().square().sum(1)
        apart = (weight - (zero.conj() * one).sum(1).abs().square()).clamp(min=0)
        by_qubit.append(apart / weight.clamp(min=1e-300) if normalised else 4 * apart)
    return float(torch.stack(by_qubit).mean())


def gradient_variance(circuit: Circuit, n_samples: int = 200, seed: int = 0) -> list[Parameter]:
    """Return every parameter of the circuit with the variance of the gradient by it.

    The gradient is that of the first thing read, an expectation value or a probability, over
    random numbers; a barren plateau shows as a variance that falls exponentially with the qubits
    (McClean et al., arXiv 1803.11173).
    """
    opened, numbers = _random_numbers(circuit, n_samples, seed, "gradient variance")
    numbers.requires_grad_()
    empty = numbers.new_zeros(0)
    read = statevector.expvals if circuit.observables else statevector.probabilities
    by_number = torch.zeros_like(numbers)
    if numbers.numel():
        values = read(opened, numbers, empty)[:, 0]
        (by_number,) = torch.autograd.grad(values.sum(), numbers)
    variance = by_number.var(0).tolist()
    inert = set(inert_weights(circuit))
    free = [0] * circuit.n_qubits
    found: list[Parameter] = []
    for op in circuit.ops:
        column = max(free[qubit] for qubit in op.qubits)
        for qubit in op.qubits:
            free[qubit] = column + 1
        for param in op.params:
            if param.source == "constant":
                continue
            number = len(found)
            found.append(
                {
                    "gate": op.gate,
                    "qubit": op.qubits[-1],
                    "source": param.source,
                    "index": param.index,
                    "column": column,
                    "variance": param.scale**2 * variance[number],
                    "inert": param.source == "weight" and param.index in inert,
                }
            )
    return found


def plateau(circuits: Sequence[Circuit], n_samples: int = 200, seed: int = 0) -> list[float]:
    """Return, for each circuit, the mean variance over its weights that have an effect."""
    means = []
    for circuit in circuits:
        rows = gradient_variance(circuit, n_samples, seed)
        live = [row["variance"] for row in rows if row["source"] == "weight" and not row["inert"]]
        means.append(float(np.mean(live)) if live else 0.0)
    return means


@dataclass(frozen=True)
class Dimension:
    """How many directions a read-out uses.

    Attributes:
        read: numbers read out.
        spread: participation ratio of their covariance over random inputs, 1 to `read`.
        weights: rank of their derivatives by the weights: how many weights act independently.
    """

    read: int
    spread: float
    weights: int


def effective_dimension(
    circuit: Circuit, weights: Tensor | None = None, n_samples: int = 64, seed: int = 0
) -> Dimension:
    """Return how many directions the read-out uses over random inputs.

    Args:
        circuit: what to inspect.
        weights: `(n_weights,)`; random ones by default.
        n_samples: random inputs, uniform angles or normal amplitudes.
        seed: decides inputs and weights.
    """
    random = numpy_rng(seed, "effective dimension")
    inputs = random.normal(size=(n_samples, circuit.n_angles))
    if not circuit.amplitudes:
        inputs = random.uniform(-pi, pi, (n_samples, circuit.n_angles))
    angles = torch.tensor(inputs)
    drawn = torch.tensor(random.uniform(0, 2 * pi, circuit.n_weights))
    numbers = drawn if weights is None else weights.detach().double()
    read = statevector.expvals if circuit.observables else statevector.probabilities
    values = read(circuit, angles, numbers)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(values.T).reshape(values.shape[1], -1))
    total, squares = eigenvalues.sum(), eigenvalues.square().sum()
    spread = float(total**2 / squares) if squares > 1e-24 else 0.0
    rank = 0
    if circuit.n_weights:
        jacobian = torch.autograd.functional.jacobian(lambda w: read(circuit, angles, w), numbers)
        assert isinstance(jacobian, Tensor)
        rank = int(torch.linalg.matrix_rank(jacobian.flatten(0, 1), rtol=1e-8))
    return Dimension(values.shape[1], spread, rank)


def fourier_spectrum(
    circuit: Circuit, weights: Tensor | None = None, n_samples: int = 32, seed: int = 0
) -> np.ndarray:
    """Return the mean size of the Fourier coefficients by angle, `(n_angles, n_frequencies)`.

    A circuit is a finite Fourier series in its angles; an angle that enters k rotations has
    frequencies 0 to k (Schuld, Sweke and Meyer, arXiv 2008.08605). The mean is over random values
    of the other angles and over everything read.

    Raises:
        CircuitError: the circuit takes amplitudes, or its angles are scaled by no whole number.
    """
    if circuit.amplitudes:
        raise CircuitError("a circuit on amplitudes is no Fourier series in its inputs")
    reach = np.zeros(circuit.n_angles)
    for op in circuit.ops:
        for param in op.params:
            if param.source == "angle":
                reach[param.index] += abs(param.scale)
                if param.scale != round(param.scale):
                    raise CircuitError(
                        f"{op.gate} turns by {param.scale:g} times an angle: frequencies that are "
                        "no whole numbers have no spectrum on a grid"
                    )
    top = int(reach.max(initial=0))
    count = 2 * top + 2
    random = numpy_rng(seed, "spectrum")
    base = torch.tensor(random.uniform(-pi, pi, (n_samples, circuit.n_angles)))
    drawn = torch.tensor(random.uniform(0, 2 * pi, circuit.n_weights))
    numbers = drawn if weights is None else weights.detach().double()
    grid = torch.arange(count, dtype=torch.float64) * (2 * pi / count)
    read = statevector.expvals if circuit.observables else statevector.probabilities
    sizes = []
    for angle in range(circuit.n_angles):
        rows = base.repeat_interleave(count, 0)
        rows[:, angle] = grid.repeat(n_samples)
        values = read(circuit, rows, numbers).unflatten(0, (n_samples, count))
        sizes.append((torch.fft.rfft(values, dim=1) / count).abs().mean((0, 2))[: top + 1])
    return torch.stack(sizes).numpy() if sizes else np.zeros((0, 1))


def light_cone(circuit: Circuit) -> int:
    """Return how many qubits anything read depends on."""
    words = words_of(circuit, "expvals") + words_of(circuit, "probabilities")
    support = {qubit for word in words for _, qubit in word}
    for op in reversed(circuit.ops):
        if support & set(op.qubits):
            support |= set(op.qubits)
    return len(support)
