"""OpenQASM both ways, PennyLane devices, costs, and jobs that are never paid twice."""

import importlib.util
import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.circuits.ansatz import basic_entangler, dressed_circuit, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.embeddings import EMBEDDINGS, angle_embedding
from qgraft.circuits.gates import GATES
from qgraft.circuits.preparation import prepare_amplitudes
from qgraft.circuits.qcnn import PUBLISHED_MODELS, qcnn_circuit
from qgraft.devices.device import Cost, device_name, device_run, estimate_cost, open_device
from qgraft.devices.from_qasm import from_qasm
from qgraft.devices.to_qasm import measured_circuit, to_qasm
from qgraft.errors import CircuitError, ConfigError, RunError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.measured import MeasuredHead
from qgraft.heads.qcnn import QcnnHead
from qgraft.seeds import torch_stream
from qgraft.simulate.statevector import expvals, probabilities, state
from qgraft.studies.jobs import run_jobs

NAMED = {
    "surface": surface_circuit(),
    "dressed": dressed_circuit(),
    "basic": Circuit(3, angle_embedding(3, "Z") + basic_entangler(3, 2, "Y"), each_z(3)),
    "every gate": Circuit(
        3,
        tuple(
            Op(
                name,
                (2, 0, 1)[: gate.n_qubits],
                tuple(
                    Param(("angle", "weight")[k % 2], k, -0.5, 0.1) for k in range(gate.n_params)
                ),
            )
            for name, gate in GATES.items()
        ),
        probabilities=(2, 0),
    ),
    **{
        f"qcnn {ansatz} {pooling}": qcnn_circuit(ansatz, pooling, "angle", n_qubits=4)
        for ansatz, pooling in PUBLISHED_MODELS
    },
    **{
        name: qcnn_circuit("so4", "zx", name)
        for name in EMBEDDINGS
        if name in ("amplitude", "compact-angle", "hybrid-angle-4-1", "hybrid-angle-2-3")
    },
    "chain": qcnn_circuit("ttn", embedding="angle", topology="chain"),
    "tree": qcnn_circuit("ttn", embedding="angle", topology="tree"),
}
HAS_QISKIT = importlib.util.find_spec("qiskit_qasm3_import") is not None
HAS_AER = importlib.util.find_spec("pennylane_qiskit") is not None
needs_qiskit = pytest.mark.skipif(not HAS_QISKIT, reason="qgraft[qpu] is not installed")


def numbers(circuit, batch=1, seed=0):
    random = np.random.default_rng(seed)
    angles = torch.tensor(random.normal(size=(batch, circuit.n_angles)))
    return angles, torch.tensor(random.uniform(0, 6, size=circuit.n_weights))


@pytest.mark.parametrize("n_qubits", [1, 2, 3, 6])
def test_gates_prepare_signed_amplitudes(n_qubits):
    wanted = np.random.default_rng(n_qubits).normal(size=2**n_qubits)
    wanted[0] = 0.0
    ops = prepare_amplitudes(list(wanted))
    assert sum(op.gate == "RY" for op in ops) == 2**n_qubits - 1
    circuit = Circuit(n_qubits, ops, each_z(n_qubits))
    found = state(circuit, torch.zeros(1, 0).double(), torch.zeros(0).double())[0].numpy()
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-12)


@pytest.mark.parametrize(("values", "message"), [([1, 2, 3], "2, 4, 8"), ([0.0, 0], "all zero")])
def test_impossible_amplitudes_are_refused(values, message):
    with pytest.raises(CircuitError, match=message):
        prepare_amplitudes(values)


@pytest.mark.parametrize("name", NAMED)
def test_qasm_comes_back_as_the_same_circuit(name):
    circuit = NAMED[name]
    angles, weights = numbers(circuit)
    wanted = probabilities(measured_circuit(circuit), angles, weights)
    back = from_qasm(to_qasm(circuit, angles[0], weights))
    empty = torch.zeros(1, 0).double(), torch.zeros(0).double()
    assert (probabilities(back, *empty) - wanted).abs().max() < 1e-12
    if not circuit.amplitudes:
        open_ended = from_qasm(to_qasm(circuit))
        assert (open_ended.n_angles, open_ended.n_weights) == (circuit.n_angles, circuit.n_weights)
        assert (probabilities(open_ended, angles, weights) - wanted).abs().max() < 1e-12


@needs_qiskit
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.filterwarnings("ignore")
def test_qiskit_reads_the_same_probabilities(name):
    from qiskit import qasm3
    from qiskit.quantum_info import Statevector

    circuit = NAMED[name]
    angles, weights = numbers(circuit)
    measured = measured_circuit(circuit)
    wanted = probabilities(measured, angles, weights)[0].numpy()
    theirs = qasm3.loads(to_qasm(circuit, angles[0], weights))
    theirs.remove_final_measurements()
    # Qiskit counts qubits from the right
    outcomes = Statevector(theirs).probabilities(list(reversed(measured.probabilities)))
    assert np.abs(outcomes - wanted).max() < 1e-6


@needs_qiskit
@pytest.mark.filterwarnings("ignore")
def test_what_qiskit_writes_can_be_read():
    from qiskit import qasm2, qasm3

    circuit = NAMED["dressed"]
    angles, weights = numbers(circuit)
    wanted = probabilities(measured_circuit(circuit), angles, weights)
    theirs = qasm3.loads(to_qasm(circuit, angles[0], weights))
    empty = torch.zeros(1, 0).double(), torch.zeros(0).double()
    for text in (qasm3.dumps(theirs), qasm2.dumps(theirs)):
        assert (probabilities(from_qasm(text), *empty) - wanted).abs().max() < 1e-6


def test_words_in_x_and_y_are_turned_before_the_measurement():
    circuit = Circuit(2, surface_circuit(2, 1).ops, ((("X", 0), ("Y", 1)),))
    angles, weights = numbers(circuit)
    table = probabilities(from_qasm(to_qasm(circuit)), angles, weights)
    value = table @ torch.tensor([1.0, -1, -1, 1]).double()
    assert abs(value - expvals(circuit, angles, weights)[0]) < 1e-12


@pytest.mark.parametrize(
    ("circuit", "angles", "message"),
    [
        (Circuit(1, (), ((("X", 0),), (("Z", 0),))), None, "need 2 bases"),
        (qcnn_circuit(n_qubits=2), None, "amplitudes cannot be inputs"),
        (surface_circuit(2, 1), [1.0], r"takes angles \(2,\), got \(1,\)"),
        (surface_circuit(2, 1), [1.0, float("nan")], "must be finite"),
    ],
)
def test_what_cannot_be_written_is_refused(circuit, angles, message):
    with pytest.raises(CircuitError, match=message):
        to_qasm(circuit, angles)


HEAD = 'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] c; input float[64] t; '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "declares no qubits"),
        ("qubit[2] q", "does not end with a semicolon"),
        ("qubit[99] q;", "a circuit has 1 to 20 qubits"),
        (HEAD + "qubit q;", "q is declared twice"),
        (HEAD + "frobnicate q[0];", "no gate 'frobnicate'"),
        (HEAD + "rx(__import__('os')) q[0];", "only numbers, pi, inputs"),
        (HEAD + "rx(9**9**9) q[0];", "a number times one input"),
        (HEAD + "rx(t*t) q[0];", "a number times one input"),
        (HEAD + "rx(1/0) q[0];", "division by zero"),
        (HEAD + "rx(u) q[0];", "u was not declared"),
        (HEAD + "rx(" + "-" * 300 + "1) q[0];", "more than 200 characters"),
        (HEAD + "rx(" + "(" * 99 + "1) q[0];", "cannot be read"),
        (HEAD + "rx q[0];", "RX takes 1 parameters, got 0"),
        (HEAD + "cx q[0], q[0];", "needs different qubits"),
        (HEAD + "x q[2];", "q has 2 places"),
        (HEAD + "x r[0];", "was not declared"),
        (HEAD + "c = measure q; x q[0];", "a gate after the measurement"),
        (HEAD + "c[0] = measure q[0]; c[0] = measure q[1];", "measured once"),
        (HEAD + "c = measure q[0];", "1 qubits do not fit 2 bits"),
        (HEAD + "if (c[0]) x q[1];", "cannot be read"),
        (HEAD + "rx(1e400) q[0];", "finite number"),
        ("x" * 2_000_001, "2,000,001 characters"),
    ],
)
def test_foreign_text_is_read_with_care(text, message):
    with pytest.raises(CircuitError, match=message):
        from_qasm(text)


@given(st.text(alphabet='qubit[2];cx()h rz=measure+-*/.019ape"\n{}π', max_size=120))
@settings(max_examples=200, deadline=None)
def test_no_text_does_worse_than_an_error(text):
    with suppress(CircuitError):
        from_qasm("qubit[2] q;" + text)


@pytest.mark.parametrize("name", ["default.qubit", "lightning.qubit"])
def test_a_head_scores_the_same_on_pennylane_devices(name):
    features = torch.linspace(-1, 1, 20).reshape(5, 4)
    with torch_stream(1, "heads"):
        heads = [DressedHead(4, 2, n_qubits=3, depth=2), QcnnHead(4, 2, n_qubits=2)]
    for head in heads:
        there = MeasuredHead(head, device_run(name))
        assert (there(features) - head(features)).abs().max() < 1e-5
        sampled = MeasuredHead(head, device_run(name, shots=4000))
        assert (sampled(features).softmax(1) - head(features).softmax(1)).abs().max() < 0.2


@pytest.mark.skipif(not HAS_AER, reason="pennylane-qiskit is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_circuit_runs_on_a_simulated_machine_with_its_noise():
    circuit = surface_circuit(2, 1)
    angles, weights = numbers(circuit)
    clean = expvals(circuit, angles, weights)
    ideal = device_run("qiskit.aer", shots=4000)(circuit, angles, weights)
    assert (ideal - clean).abs().max() < 5 / 4000**0.5
    noisy = device_run("qiskit.aer", shots=4000, noise_from="FakeManilaV2")
    assert (noisy(circuit, angles, weights) - clean).abs().max() < 0.2


@needs_qiskit
@pytest.mark.filterwarnings("ignore")
def test_costs_are_known_before_anything_is_sent():
    circuit = surface_circuit(5, 3)
    plain = estimate_cost(circuit, 100, 1024)
    assert plain == Cost(100, 102_400, plain.depth, 15, False)
    routed = estimate_cost(circuit, 100, 1024, foldings=2, noise_from="FakeManilaV2")
    assert (routed.circuits, routed.shots) == (200, 204_800)
    assert routed.two_qubit_gates > 15  # a chain of qubits has no ring
    assert "200 circuits, 204,800 shots in all; after transpiling" in str(routed)
    with pytest.raises(ConfigError, match="did you mean FakeManilaV2"):
        estimate_cost(circuit, 1, 1, noise_from="FakeManilla")
    with pytest.raises(ConfigError, match="has 5 qubits, the circuit needs 6"):
        open_device("qiskit.aer", 6, "FakeManilaV2")


@pytest.mark.parametrize("text", ["default.qubit", "pennylane:", "aer"])
def test_backends_are_named_with_their_library(text):
    with pytest.raises(ConfigError, match="write pennylane:NAME"):
        device_name(text)
    assert device_name("pennylane:default.qubit") == "default.qubit"


def test_missing_devices_say_what_to_install():
    with pytest.raises(ConfigError, match=r"'no.such' cannot be opened .*qgraft\[qpu\]"):
        open_device("no.such", 2)


class Killed(BaseException):
    """Stands for a process that is gone."""


class Machine:
    """Keeps jobs in a file, as a provider far away would, and dies on demand."""

    def __init__(self, path, dies_at):
        self.path, self.left = path, dies_at

    def _step(self):
        self.left -= 1
        if self.left == 0:
            raise Killed

    def jobs(self):
        return json.loads(self.path.read_text()) if self.path.exists() else []

    def submit(self, tag, program, shots):
        self._step()  # killed before it is sent
        self.path.write_text(json.dumps([*self.jobs(), tag]))
        self._step()  # killed before the number comes back
        return str(len(self.jobs()) - 1)

    def find(self, tag):
        self._step()
        jobs = self.jobs()
        return str(jobs.index(tag)) if tag in jobs else None

    def fetch(self, job):
        self._step()
        return {"0": int(job), "1": 1}


@pytest.mark.parametrize("seed", range(5))
def test_fifty_kills_and_no_job_is_paid_twice(tmp_path, seed):
    programs = [f"program {k % 3}" for k in range(8)]  # equal programs are different jobs
    random, account, kills = np.random.default_rng(seed), tmp_path / "account.json", 0
    folder, result = tmp_path / "jobs", None
    while kills < 50 and result is None:
        machine = Machine(account, int(random.integers(1, 4)))
        try:
            result = run_jobs(folder, programs, 100, machine, lambda _, m=machine: m._step())
        except Killed:
            kills += 1
    assert kills > 9
    result = result or run_jobs(folder, programs, 100, Machine(account, 0))
    assert len(machine.jobs()) == len(set(machine.jobs())) == len(programs)
    assert sorted(counts["0"] for counts in result) == list(range(8))
    again = run_jobs(folder, programs, 100, Machine(account, 1))  # asks nobody
    assert again == result


def test_records_of_other_jobs_are_left_alone(tmp_path):
    run_jobs(tmp_path / "jobs", ["a"], 10, Machine(tmp_path / "account.json", 0))
    with pytest.raises(RunError, match="belongs to another program"):
        run_jobs(tmp_path / "jobs", ["b"], 10, Machine(tmp_path / "account.json", 0))
    (tmp_path / "jobs" / "job-00000.json").write_text("{}")
    with pytest.raises(RunError, match="is no record of a job"):
        run_jobs(tmp_path / "jobs", ["a"], 10, Machine(tmp_path / "account.json", 0))
