"""The benchmark measures the same thing everywhere, and says what it leaves out."""

import pytest
import torch

from qgraft.bench import inference
from qgraft.bench import run as bench
from qgraft.bench.peers import PEERS, QCNN_READ, Workload, apply_qcnn, inputs_of
from qgraft.errors import ConfigError

TINY = Workload("tiny", "head", n_qubits=3, n_features=4, batch=5)


@pytest.mark.parametrize("kind", ["qcnn-amplitude", "qcnn-angle"])
def test_our_qcnn_is_the_one_the_peers_run(kind):
    """The two probabilities agree with PennyLane's gates in the same order."""
    import pennylane as qml

    workload = Workload("qcnn", kind, 8, 256 if kind == "qcnn-amplitude" else 8, batch=3)
    model = bench.Qcnn(workload, "torch")
    inputs = torch.from_numpy(inputs_of(workload)[0])

    @qml.qnode(qml.device("default.qubit", wires=8), interface="torch")
    def circuit(values, weights):
        if kind == "qcnn-amplitude":
            qml.AmplitudeEmbedding(values, wires=range(8), normalize=True)
        else:
            qml.AngleEmbedding(values, wires=range(8), rotation="Y")
        apply_qcnn(lambda name, on, *v: getattr(qml, name)(*v, wires=on), weights)
        return qml.probs(wires=QCNN_READ)

    with torch.no_grad():
        theirs = circuit(inputs, model.weights.reshape(3, 15))
        torch.testing.assert_close(model(inputs), theirs.float(), rtol=1e-5, atol=1e-6)
    assert model.weights.numel() == 45


def test_ratios_are_to_the_first_contestant():
    seen = []
    timings = bench.measure(
        "x",
        {"fast": (lambda: None, 1), "half": (lambda: None, 2)},
        rounds=2,
        seconds=0.0,
        on_timing=seen.append,
    )
    assert timings == seen
    assert timings[0].ratio == 1.0
    assert [t.contestant for t in timings] == ["fast", "half"]


def test_contestants_train_and_unable_peers_are_named(monkeypatch):
    def broken(workload):
        raise RuntimeError("no such gate")

    def missing(workload):
        raise ImportError("not installed")

    monkeypatch.setitem(PEERS, "broken", broken)
    monkeypatch.setitem(PEERS, "missing", missing)
    skipped = []
    found = bench.contestants(TINY, ["PennyLane torch", "broken", "missing"], skipped.append)
    assert list(found) == [
        "qgraft head trainer", "qgraft layer", "qgraft layer, torch only", "PennyLane torch",
    ]  # fmt: skip
    assert skipped == ["broken cannot run tiny: RuntimeError"]
    for step, _ in found.values():
        step()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_contestants_without_training_compute_the_same(monkeypatch):
    results = {}

    def keep(model, inputs):
        with torch.no_grad():
            results[len(results)] = model(inputs)
        return lambda: None

    monkeypatch.setattr(inference, "_without_gradient", keep)
    assert len(inference.trunk_forward()) == len(results) == 3
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[1], results[2], rtol=1e-4, atol=1e-5)
    results.clear()
    found = inference.single_sample(TINY)
    frozen, layer, *_ = results.values()
    torch.testing.assert_close(frozen, layer, rtol=1e-4, atol=1e-5)
    assert "qgraft frozen head, torch" in found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_heads_mapped_by_jax_take_a_step():
    pytest.importorskip("jax")
    step = PEERS["PennyLane jax.jit"](TINY._replace(n_heads=2))
    step()


def test_an_unknown_workload_is_refused():
    with pytest.raises(
        ConfigError, match="unknown workload 'Z'; choose from many, single, trunk, A"
    ):
        bench.run_bench(["Z"])
