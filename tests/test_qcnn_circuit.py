"""Quantum convolutional networks: gates, order, counts, and the same numbers as PennyLane."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.circuits.blocks import CONVOLUTIONS, POOLINGS
from qgraft.circuits.circuit import Circuit, Op, Param, inert_weights
from qgraft.circuits.embeddings import ARRANGEMENTS, EMBEDDINGS, embed
from qgraft.circuits.gates import GATES
from qgraft.circuits.qcnn import (
    PUBLISHED_MODELS,
    chain_pairs,
    pool_pairs,
    qcnn_circuit,
    ring_pairs,
    tree_pairs,
)
from qgraft.devices.to_pennylane import to_qnode
from qgraft.errors import CircuitError
from qgraft.simulate.backends import probabilities

# arXiv 2208.14708: weights with ZX and generalised pooling, and without any
COUNTS = {
    "cz": (6, 18), "ttn": (12, 24), "u9": (12, 24), "u15": (18, 30), "u13": (24, 36),
    "u14": (24, 36), "so4": (24, 36), "u5": (36, 48), "u6": (36, 48), "su4": (51, 63),
}  # fmt: skip


def numbers(circuit, batch=3, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    angles = torch.tensor(rng.normal(size=(batch, circuit.n_angles)), dtype=dtype)
    return angles, torch.tensor(rng.normal(size=circuit.n_weights), dtype=dtype)


def run(circuit, *values, backend="torch"):
    return probabilities(circuit, *values, backend)


def test_the_22_published_networks_have_the_published_counts():
    expected = {(name, "zx"): zx for name, (zx, _) in COUNTS.items()}
    expected |= {(name, "generalised"): general for name, (_, general) in COUNTS.items()}
    expected |= {("su4", "trivial"): 45, ("cu3", "trivial"): 27}
    assert len(PUBLISHED_MODELS) == 22
    assert {model: qcnn_circuit(*model).n_weights for model in PUBLISHED_MODELS} == expected


def test_blocks_have_the_published_counts():
    counts = {name: block.n_weights for name, block in CONVOLUTIONS.items()}
    assert list(counts.values()) == [0, 2, 2, 4, 6, 6, 6, 10, 10, 15, 9]
    assert {name: block.n_weights for name, block in POOLINGS.items()} == {
        "zx": 2, "generalised": 6, "trivial": 0,
    }  # fmt: skip
    assert all(block.source for block in (*CONVOLUTIONS.values(), *POOLINGS.values()))


def test_eight_qubits_are_joined_in_the_published_order():
    assert ring_pairs(range(8)) == ((0, 7), (0, 1), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6))
    assert ring_pairs((0, 2, 4, 6)) == ((0, 6), (0, 2), (4, 6), (2, 4))
    assert ring_pairs((0, 4)) == ((0, 4),)
    assert pool_pairs(range(8)) == ((1, 0), (3, 2), (5, 4), (7, 6))
    assert pool_pairs((0, 2, 4, 6)) == ((2, 0), (6, 4))
    assert pool_pairs((0, 4)) == ((0, 4),)
    circuit = qcnn_circuit()
    assert circuit.probabilities == (4,)
    u3 = [op.qubits[0] for op in circuit.ops if op.gate == "U3"]
    assert len(u3) == 13 * 4
    assert sum(op.gate == "CU3" for op in circuit.ops) == 7 * 2


def test_weights_of_all_convolutions_come_first_then_those_of_the_poolings():
    circuit = qcnn_circuit("ttn", "zx", "angle")
    order = [op.params[0].index for op in circuit.ops if op.uses("weight")]
    assert order == [0, 1] * 8 + [6, 7] * 4 + [2, 3] * 4 + [8, 9] * 2 + [4, 5] + [10, 11]


@pytest.mark.parametrize(("n", "sets", "read"), [(2, 1, 1), (4, 2, 2), (8, 3, 4), (16, 4, 8)])
def test_every_power_of_two(n, sets, read):
    circuit = qcnn_circuit("so4", "zx", "angle", n_qubits=n)
    assert circuit.n_weights == sets * 8
    assert circuit.probabilities == (read,)


@pytest.mark.parametrize(
    ("n_read", "read", "n_weights"), [(1, (4,), 63), (2, (0, 4), 57), (3, (0, 2, 4), 36)]
)
def test_more_classes_read_more_qubits(n_read, read, n_weights):
    circuit = qcnn_circuit(n_read=n_read)
    assert circuit.probabilities == read
    assert circuit.n_weights == n_weights
    outcomes = run(circuit, *numbers(circuit))
    assert outcomes.shape == (3, 2**n_read)
    torch.testing.assert_close(outcomes.sum(1), torch.ones(3, dtype=torch.float64))


def test_the_chain_narrows_and_the_tree_has_seven_sets():
    assert chain_pairs(8) == (
        ((0, 1), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6)), ((2, 3), (4, 5)), ((3, 4),),
    )  # fmt: skip
    assert tree_pairs(8) == tuple(
        (pair,) for pair in ((0, 1), (2, 3), (4, 5), (6, 7), (1, 3), (5, 7), (3, 7))
    )
    chain = qcnn_circuit("su4", topology="chain")
    tree = qcnn_circuit("su4", topology="tree")
    assert (chain.n_weights, chain.probabilities) == (45, (4,))
    assert (tree.n_weights, tree.probabilities) == (105, (7,))
    assert chain_pairs(2) == (((0, 1),),)


@pytest.mark.parametrize("kind", ["zx", "generalised", *CONVOLUTIONS])
def test_blocks_are_what_pennylane_computes(kind):
    """Written out a second time with PennyLane's own functions."""
    block = {**CONVOLUTIONS, **POOLINGS}[kind]
    count, frame = block.n_weights, [qml.RX, qml.RX, qml.RZ, qml.RZ]

    def rotations(kinds, w):
        for k, gate in enumerate(kinds):
            gate(next(w), wires=k % 2)

    def su4(w):
        for q in (0, 1):
            qml.U3(next(w), next(w), next(w), wires=q)
        qml.CNOT([0, 1])
        qml.RY(next(w), wires=0)
        qml.RZ(next(w), wires=1)
        qml.CNOT([1, 0])
        qml.RY(next(w), wires=0)
        qml.CNOT([0, 1])
        for q in (0, 1):
            qml.U3(next(w), next(w), next(w), wires=q)

    def controlled_u3(w):
        matrix = qml.U3.compute_matrix(next(w), next(w), next(w))
        qml.ControlledQubitUnitary(matrix, wires=[0, 1])

    def apply(w):
        if kind in ("u13", "u14"):
            gate = qml.CRZ if kind == "u13" else qml.CRX
            for wires in ([1, 0], [0, 1]):
                rotations([qml.RY] * 2, w)
                gate(next(w), wires=wires)
        elif kind in ("u5", "u6"):
            gate = qml.CRZ if kind == "u5" else qml.CRX
            rotations(frame, w)
            gate(next(w), wires=[1, 0])
            gate(next(w), wires=[0, 1])
            rotations(frame, w)
        elif kind == "so4":
            for _ in range(2):
                rotations([qml.RY] * 2, w)
                qml.CNOT([0, 1])
            rotations([qml.RY] * 2, w)
        elif kind in ("ttn", "u15"):
            rotations([qml.RY] * 2, w)
            qml.CNOT([0, 1] if kind == "ttn" else [1, 0])
            if kind == "u15":
                rotations([qml.RY] * 2, w)
                qml.CNOT([0, 1])
        elif kind == "u9":
            qml.Hadamard(0)
            qml.Hadamard(1)
            qml.CZ([0, 1])
            rotations([qml.RX] * 2, w)
        elif kind == "cz":
            qml.CZ([0, 1])
        elif kind == "su4":
            su4(w)
        elif kind == "zx":
            qml.CRZ(next(w), wires=[0, 1])
            qml.X(0)
            qml.CRX(next(w), wires=[0, 1])
        else:
            if kind == "cu3":
                qml.U3(next(w), next(w), next(w), wires=0)
            controlled_u3(w)
            qml.X(0)
            controlled_u3(w)
            if kind == "cu3":
                qml.X(0)

    weights = np.random.default_rng(3).normal(size=count)
    expected = qml.matrix(apply, wire_order=[0, 1])(iter(weights))
    ours = np.eye(4)
    for op in block.on(0, 1):
        matrix = GATES[op.gate].matrix([weights[p.index] for p in op.params])
        if len(op.qubits) == 1:
            matrix = np.kron(matrix, np.eye(2)) if op.qubits == (0,) else np.kron(np.eye(2), matrix)
        elif op.qubits == (1, 0):
            swap = GATES["SWAP"].matrix()
            matrix = swap @ matrix @ swap
        ours = matrix @ ours
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids="-".join)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_every_network_agrees_with_pennylane(model, dtype, tolerance):
    circuit = qcnn_circuit(*model)
    angles, weights = numbers(circuit, dtype=dtype)
    unit = angles.double() / angles.double().norm(dim=1, keepdim=True)
    reference = to_qnode(circuit)(unit, weights.double())[0]
    for backend, slack in (("native", 1), ("torch", 4)):  # torch keeps every gate in float32
        ours = run(circuit, angles, weights, backend=backend)
        torch.testing.assert_close(ours.double(), reference, rtol=0, atol=slack * tolerance)


@pytest.mark.parametrize("topology", ["chain", "tree"])
def test_other_topologies_agree_with_pennylane(topology):
    circuit = qcnn_circuit("u13", embedding="angle", topology=topology)
    angles, weights = numbers(circuit)
    reference = to_qnode(circuit)(angles, weights)[0]
    torch.testing.assert_close(run(circuit, angles, weights), reference, rtol=0, atol=1e-12)


def test_gradients_of_both_backends_agree():
    circuit = qcnn_circuit()
    gradients = []
    for backend in ("torch", "native"):
        angles, weights = (x.requires_grad_() for x in numbers(circuit))
        run(circuit, angles, weights, backend=backend)[:, 1].square().sum().backward()
        gradients.append((angles.grad, weights.grad))
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ansatz", ["cz", "ttn", "su4"])
def test_zx_pooling_is_a_case_of_generalised_pooling(ansatz):
    """RZ(t) is U3(0, 0, t) and RX(t) is U3(t, -pi/2, pi/2), up to phases that are traced out."""
    zx, general = (qcnn_circuit(ansatz, pooling) for pooling in ("zx", "generalised"))
    angles, weights = numbers(zx)
    first = 3 * CONVOLUTIONS[ansatz].n_weights
    half = torch.tensor([-math.pi / 2, math.pi / 2], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    pools = [torch.cat([zero, t[:1], t[1:], half]) for t in weights[first:].view(3, 2)]
    matching = torch.cat([weights[:first], *pools])
    torch.testing.assert_close(
        run(zx, angles, weights), run(general, angles, matching), rtol=0, atol=1e-12
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    gates=st.lists(st.sampled_from(["H", "SX", "T", "X"]), min_size=1, max_size=4),
)
def test_trivial_pooling_ignores_the_qubits_it_drops(seed, gates):
    """Whatever is done to a dropped qubit after its layer cannot be read out."""
    circuit = qcnn_circuit("su4", "trivial")
    angles, weights = numbers(circuit, seed=seed)
    dropped = np.random.default_rng(seed).choice([1, 3, 5, 7], 2, replace=False)
    at = 8 * len(CONVOLUTIONS["su4"].steps)
    noise = tuple(Op(gate, (int(q),)) for gate in gates for q in dropped)
    noise += (Op("CNOT", tuple(map(int, dropped))),)
    disturbed = Circuit(8, circuit.ops[:at] + noise + circuit.ops[at:], (), (4,), True)
    torch.testing.assert_close(
        run(disturbed, angles, weights), run(circuit, angles, weights), rtol=0, atol=1e-12
    )


def test_pooling_with_gates_does_not_ignore_the_source():
    circuit = qcnn_circuit("su4", "generalised")
    angles, weights = numbers(circuit)
    at = 8 * len(CONVOLUTIONS["su4"].steps)
    disturbed = Circuit(8, (*circuit.ops[:at], Op("X", (1,)), *circuit.ops[at:]), (), (4,), True)
    gap = (run(disturbed, angles, weights) - run(circuit, angles, weights)).abs().max()
    assert gap > 1e-3


@pytest.mark.parametrize(
    ("model", "inert", "flat"),
    [
        (("ttn", "zx"), (), (10,)),
        # phi of the last U3 on the source: a turn about Z of a control
        (("su4", "zx"), (40,), (40, 49)),
        (("su4", "generalised"), (40, 61), (40, 58, 61)),
        (("su4", "trivial"), (39, 40, 41, 43), (39, 40, 41, 43)),
    ],
)
def test_weights_that_cannot_matter_have_no_gradient(model, inert, flat):
    """Pruning proves some; one more turn about Z of the last pooling is followed by no other."""
    circuit = qcnn_circuit(*model)
    assert inert_weights(circuit) == inert
    angles, weights = numbers(circuit)
    run(circuit, angles, weights.requires_grad_())[:, 0].square().sum().backward()
    assert weights.grad is not None
    small = (weights.grad.abs() < 1e-14).nonzero().flatten().tolist()
    assert tuple(small) == flat


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_take_the_published_number_of_values(name):
    widths = {
        "amplitude": 256, "angle": 8, "compact-angle": 16, "hybrid-direct-4": 32,
        "hybrid-direct-2": 16, "hybrid-angle-4": 30, "hybrid-angle-2": 12,
    }  # fmt: skip
    expected = widths.get(name) or widths[name[:-2]]
    entry = embed(name, 8)
    assert entry.width == expected
    circuit = qcnn_circuit("ttn", "zx", name)
    assert circuit.n_angles == (256 if circuit.amplitudes else expected)


def test_arrangements_cover_all_qubits_once():
    for size, arrangements in ARRANGEMENTS.items():
        assert len(arrangements) == 4
        for blocks in arrangements:
            assert sorted(q for block in blocks for q in block) == list(range(8))
            assert {len(block) for block in blocks} == {size}
    assert ARRANGEMENTS[4][3] == ((0, 3, 4, 7), (1, 2, 5, 6))
    assert ARRANGEMENTS[2][1] == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_hybrid_angle_embedding_gate_by_gate():
    """The ladders of the third and fourth qubit, controls in Gray-code order."""
    ops = embed("hybrid-angle-4-1", 8).ops
    block = [op for op in ops if max(op.qubits) < 4]
    assert [op.gate for op in block[:5]] == ["RY", "X", "CRY", "X", "CRY"]
    ladders = [op.qubits for op in block[5:] if op.gate == "CNOT"]
    assert ladders[:4] == [(1, 2), (0, 2), (1, 2), (0, 2)]
    assert [control for control, _ in ladders[4:]] == [2, 1, 2, 0, 2, 1, 2, 0]
    assert [op.params[0].index for op in ops if op.params] == list(range(30))


def test_compact_angles_turn_about_x_then_about_y():
    ops = embed("compact-angle", 8).ops
    assert [op.gate for op in ops] == ["RX"] * 8 + ["RY"] * 8
    assert ops[9] == Op("RY", (1,), (Param("angle", 9),))


def test_a_drawing_shows_the_block():
    assert CONVOLUTIONS["ttn"].draw().splitlines()[0] == "0: ─RY(w0)─●"
    assert "CNOT" not in POOLINGS["trivial"].draw()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qcnn_circuit("su44"), "unknown convolution block 'su44'; did you mean 'su4'"),
        (lambda: qcnn_circuit("su4", "zz"), "unknown pooling block 'zz'"),
        (lambda: qcnn_circuit(embedding="phase"), "unknown embedding 'phase'; use amplitude"),
        (lambda: qcnn_circuit(n_qubits=6), "has 2, 4, 8 or 16 qubits, got 6"),
        (lambda: qcnn_circuit(n_read=9), "cannot read 9 of them"),
        (lambda: qcnn_circuit(n_read=2, topology="tree"), "a tree of 8 qubits cannot read 2"),
        (lambda: qcnn_circuit(topology="star"), "unknown topology 'star'"),
        (lambda: embed("hybrid-angle-2-1", 4), "arranges eight qubits, this circuit has 4"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(CircuitError, match=message):
        make()
