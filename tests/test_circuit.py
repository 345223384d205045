"""Circuits as data: gates, checks, JSON, drawings, builders, and what is provably inert."""

import copy
import json
import math
import pickle

import numpy as np
import pennylane as qml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.circuits.ansatz import (
    basic_entangler,
    dressed_chain,
    dressed_circuit,
    strongly_entangling,
    surface_circuit,
)
from qgraft.circuits.circuit import Circuit, Op, Param, each_z, inert_weights, prune
from qgraft.circuits.embeddings import angle_embedding
from qgraft.circuits.gates import CONTROLLED, GATES
from qgraft.errors import CircuitError

PARAMS = (0.7, -1.9, 2.6)
W = [Param("weight", k) for k in range(6)]


def one_qubit(*ops, observables=((("Z", 0),),)):
    return Circuit(1, tuple(ops), observables)


def pennylane_matrix(name, params):
    if name == "CU3":
        return qml.matrix(qml.ctrl(qml.U3(*params, wires=1), control=0), wire_order=[0, 1])
    gate = getattr(qml, name)
    return qml.matrix(gate(*params, wires=list(range(GATES[name].n_qubits))))


@pytest.mark.parametrize("name", GATES)
def test_gate_matrices_are_those_of_pennylane(name):
    params = PARAMS[: GATES[name].n_params]
    np.testing.assert_allclose(
        GATES[name].matrix(params), pennylane_matrix(name, params), atol=1e-15
    )


@pytest.mark.parametrize("name", GATES)
def test_what_the_table_derives_about_a_gate_holds_for_its_matrix(name):
    gate = GATES[name]
    matrix = gate.matrix(PARAMS[: gate.n_params])
    n = gate.n_qubits
    for position in range(n):
        z = np.diag(1.0 - 2 * (np.arange(2**n) >> (n - 1 - position) & 1))
        assert np.allclose(matrix @ z, z @ matrix) == (position in gate.diagonal_on)
    assert ((abs(matrix) > 1e-12).sum(axis=1) == 1).all() == gate.is_monomial
    assert np.allclose(matrix.imag, 0) == gate.is_real
    for param in gate.trailing:
        without = [0.0 if k == param else PARAMS[k] for k in range(gate.n_params)]
        factor = matrix @ np.linalg.inv(gate.matrix(without))
        np.testing.assert_allclose(factor, np.diag(np.diag(factor)), atol=1e-15)


def test_controlled_gates_name_what_they_control():
    assert all(GATES[name].controlled == inner for name, inner in CONTROLLED.items())


def test_the_published_circuit_has_45_weights_of_which_the_last_omegas_are_inert():
    circuit = surface_circuit()
    assert (circuit.n_qubits, circuit.n_angles, circuit.n_weights) == (5, 5, 45)
    assert inert_weights(circuit) == (32, 35, 38, 41, 44)


@pytest.mark.parametrize(
    ("ops", "observable", "expected"),
    [
        ([Op("RZ", (0,), (W[0],))], (("Z", 0),), (0,)),
        ([Op("RZ", (0,), (W[0],))], (("X", 0),), ()),
        ([Op("RX", (0,), (W[0],)), Op("RZ", (0,), (W[1],))], (("Z", 0),), (1,)),
        ([Op("RX", (1,), (W[0],))], (("Z", 0),), (0,)),  # outside of the light cone
        ([Op("RX", (1,), (W[0],)), Op("CNOT", (1, 0))], (("Z", 0),), ()),
        ([Op("CRX", (0, 1), (W[0],))], (("Z", 0),), (0,)),  # a Z control does not notice
        ([Op("CRX", (0, 1), (W[0],))], (("X", 0),), ()),
        ([Op("CRZ", (0, 1), (W[0],)), Op("SWAP", (0, 1))], (("Z", 0),), (0,)),
        ([Op("CRZ", (0, 1), (W[0],)), Op("H", (0,))], (("Z", 0),), ()),
        ([Op("U3", (0,), (W[0], W[1], W[2]))], (("Z", 0),), (1,)),
        ([Op("CU3", (0, 1), (W[0], W[1], W[2]))], (("Z", 1),), (1,)),
        ([Op("Rot", (0,), (W[1], W[3], W[5]))], (("Z", 0),), (0, 2, 4, 5)),  # and unused ones
    ],
)
def test_inert_weights(ops, observable, expected):
    assert inert_weights(Circuit(2, tuple(ops), (observable,))) == expected


def test_a_weight_used_twice_is_inert_only_if_both_uses_are():
    ops = (Op("RX", (0,), (W[0],)), Op("RZ", (0,), (W[0],)))
    assert inert_weights(one_qubit(*ops)) == ()


def test_probabilities_count_as_a_readout():
    ops = (Op("RX", (0,), (W[0],)), Op("RX", (1,), (W[1],)))
    assert inert_weights(Circuit(2, ops, (), (1,))) == (0,)
    assert inert_weights(Circuit(2, ops, ((("Z", 0),),), (1,))) == ()


def test_pruning_keeps_order_and_drops_only_what_it_may():
    circuit = surface_circuit(3, 1)
    kept = prune(circuit.ops, circuit.observables)
    assert [op.gate for op in kept] == [op.gate for op in circuit.ops]
    assert prune(circuit.ops, ()) == ()


@pytest.mark.parametrize(
    ("ops", "n_weights", "n_gates"),
    [
        (strongly_entangling(5, 3), 45, 30),
        (strongly_entangling(1, 2), 6, 2),
        (strongly_entangling(2, 2), 12, 8),
        (dressed_chain(4, 6), 24, 42),
        (dressed_chain(5, 5), 25, 45),
        (basic_entangler(3, 2), 6, 12),
        (basic_entangler(2, 2), 4, 6),
        (angle_embedding(4), 0, 4),
        (strongly_entangling(3, 0), 0, 0),
    ],
)
def test_builders_have_the_published_counts(ops, n_weights, n_gates):
    weights = {p.index for op in ops for p in op.params if p.source == "weight"}
    assert weights == set(range(n_weights))
    assert len(ops) == n_gates


def test_rings_of_the_strongly_entangling_layers():
    rings = [op.qubits for op in strongly_entangling(5, 5) if op.gate == "CNOT"]
    steps = [
        {(target - control) % 5 for control, target in rings[5 * k : 5 * k + 5]} for k in range(5)
    ]
    assert steps == [{1}, {2}, {3}, {4}, {1}]
    assert [control for control, _ in rings[:5]] == [0, 1, 2, 3, 4]


def test_dressed_chain_joins_even_pairs_then_odd_pairs():
    pairs = [op.qubits for op in dressed_chain(5, 1) if op.gate == "CNOT"]
    assert pairs == [(0, 1), (2, 3), (1, 2), (3, 4)]


def test_builders_can_share_a_weight_vector():
    assert strongly_entangling(2, 1, first_weight=7)[0].params[0].index == 7


@pytest.mark.parametrize(
    "circuit",
    [
        surface_circuit(),
        dressed_circuit(),
        Circuit(3, (Op("Toffoli", (2, 0, 1)),), (), (2, 0), amplitudes=True),
        one_qubit(Op("RX", (0,), (Param("angle", 0, 0.5, -1e-3),))),
    ],
)
def test_circuits_survive_json_copies_and_pickle(circuit):
    again = Circuit.from_json(circuit.to_json())
    for other in (again, copy.deepcopy(circuit), pickle.loads(pickle.dumps(circuit))):
        assert other == circuit
        assert hash(other) == hash(circuit)


def test_a_pickled_circuit_carries_no_hash_of_this_process():
    circuit = surface_circuit()
    assert hash(circuit) == hash(surface_circuit())
    assert b"_hash" not in pickle.dumps(circuit)


def test_draw_shows_gates_controls_and_measurement():
    ops = (
        Op("RX", (0,), (Param("angle", 0, 2.0, 0.5),)),
        Op("Toffoli", (0, 2, 1)),
        Op("CNOT", (2, 0)),
        Op("RZ", (1,), (Param("constant", offset=0.25),)),
    )
    text = Circuit(3, ops, ((("Z", 0), ("X", 1)),), (2,)).draw()
    assert text.splitlines() == [
        "0: ─RX(2*a0+0.5)─●─X─────────",
        "1: ──────────────X─│─RZ(0.25)",
        "2: ──────────────●─●─────────",
        "measured: <Z0 X1>, p(2)",
    ]


def test_long_drawings_continue_below():
    lines = surface_circuit(2, 12).draw().splitlines()
    assert max(map(len, lines)) <= 96
    assert lines.count("") >= 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Op("RXX", (0,)), r"gate 'RXX' is unknown\. Did you mean 'RX'\?"),
        (lambda: Op("RX", (0, 1), (W[0],)), "RX acts on 1 qubits"),
        (lambda: Op("CNOT", (1, 1)), "different qubits"),
        (lambda: Op("Rot", (0,), (W[0],)), "Rot takes 3 parameters, got 1"),
        (lambda: Param("input"), "source 'input' is unknown"),  # type: ignore[arg-type]
        (lambda: Param("angle", -1), "index must be an integer"),
        (lambda: Param("angle", True), "index must be an integer"),
        (lambda: Param("angle", 10**9), "index must be an integer"),
        (lambda: Param("angle", 0, math.nan), "scale must be a finite number"),
        (lambda: Param("angle", 0, 1.0, 10**400), "offset must be a finite number"),
        (lambda: Circuit(0, (), each_z(1)), "n_qubits must be from 1 to 20, got 0"),
        (lambda: Circuit(21, (), each_z(1)), "n_qubits must be from 1 to 20"),
        (lambda: Circuit(2, (Op("X", (2,)),), each_z(2)), r"has qubits 0 to 1"),
        (lambda: Circuit(2, (Op("X", (-1,)),), each_z(2)), r"has qubits 0 to 1"),
        (lambda: one_qubit(observables=((("Q", 0),),)), "an observable is X, Y or Z"),
        (lambda: one_qubit(observables=((),)), "an observable is X, Y or Z"),
        (lambda: one_qubit(observables=((("X", 0), ("Z", 0)),)), "each qubit may occur once"),
        (lambda: Circuit(2, (), (), (0, 0)), "each qubit may occur once"),
        (lambda: Circuit(1, ()), "nothing is measured"),
        (
            lambda: Circuit(1, angle_embedding(1), each_z(1), amplitudes=True),
            "cannot take angles as well",
        ),
        (lambda: angle_embedding(2, "W"), "rotation must be 'X', 'Y' or 'Z', got 'W'"),  # type: ignore[arg-type]
        (lambda: strongly_entangling(2, -1), "depth must be 0 or more, got -1"),
    ],
)
def test_ill_formed_circuits_are_refused(make, message):
    with pytest.raises(CircuitError, match=message):
        make()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "7", '{"ops": 3}', "[" * 100_000])
def test_text_that_is_no_circuit_is_refused(text):
    with pytest.raises(CircuitError, match="not a circuit"):
        Circuit.from_json(text)


def test_unknown_fields_are_refused():
    data = json.loads(surface_circuit().to_json()) | {"shots": 5}
    with pytest.raises(CircuitError, match="shots"):
        Circuit.from_json(json.dumps(data))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(["n_qubits", "ops", "observables", "probabilities"]), value=JSON_VALUES
)
def test_damaged_json_gives_a_circuit_or_a_circuit_error(field, value):
    data = json.loads(surface_circuit(2, 1).to_json()) | {field: value}
    try:
        circuit = Circuit.from_json(json.dumps(data))
    except CircuitError:
        return
    assert Circuit.from_json(circuit.to_json()) == circuit
