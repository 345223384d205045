"""The four schemes: what is kept, what is frozen, what is trained."""

import pytest
import torch
from torch import nn

from qgraft.circuits.ansatz import dressed_circuit
from qgraft.circuits.circuit import inert_weights
from qgraft.errors import ModelError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.photonic import FockAmplitudes, OneModeLayers, TwoModeLayers, VacuumLogits
from qgraft.simulate.fock import vacuum
from qgraft.simulate.statevector import state
from qgraft.training.loop import Recipe, Samples, train
from qgraft.transfer import Transfer

CLASSICAL = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def dressed(n_features):
    return DressedHead(n_features, 2, dressed_circuit(4, 2), init_spread=0.01)


SCHEMES = {
    "CC": (CLASSICAL, 2, nn.Linear(5, 2), torch.rand(4, 6)),
    "CQ": (CLASSICAL, 2, dressed(5), torch.rand(4, 6)),
    "QC": (
        TwoModeLayers(3), 2, nn.Sequential(FockAmplitudes(3), nn.Linear(9, 2).double()),
        vacuum(2, 5).expand(4, -1, -1),
    ),
    "QQ": (
        OneModeLayers(2), 1, nn.Sequential(OneModeLayers(1), VacuumLogits()),
        vacuum(1, 6).expand(4, -1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_trains_its_head_and_leaves_the_trunk_alone(scheme):
    source, keep, head, inputs = SCHEMES[scheme]
    transfer = Transfer(source, keep, head)
    assert transfer.scheme == scheme
    before = [p.clone() for p in transfer.trunk.parameters()]
    head_before = [p.clone() for p in transfer.head.parameters()]
    labels = torch.tensor([0, 1, 0, 1])
    train(transfer, Samples(inputs, labels), None, Recipe(2, 0.05, 4), seed=0)
    assert all(map(torch.equal, transfer.trunk.parameters(), before))
    assert not all(map(torch.equal, transfer.head.parameters(), head_before))
    assert transfer(inputs).shape == (4, 2)


def test_features_computed_once_give_the_same_logits():
    source, keep, head, inputs = SCHEMES["QC"]
    transfer = Transfer(source, keep, head)
    torch.testing.assert_close(transfer.head(transfer.features(inputs)), transfer(inputs))


def test_the_source_is_not_changed_and_the_report_counts_its_parts():
    transfer = Transfer(CLASSICAL, 2, dressed(5))
    report = transfer.parameter_report()
    assert (report.kept_trunk, report.removed) == (35, 18)
    assert report.trainable == report.head == 24 + 8 + 10
    with torch.no_grad():
        transfer.trunk[0].weight.zero_()
    assert CLASSICAL[0].weight.abs().sum() > 0


def test_fine_tuning_trains_the_trunk_too():
    transfer = Transfer(CLASSICAL, 2, nn.Linear(5, 2), fine_tune=True)
    before = transfer.trunk[0].weight.clone()
    samples = Samples(torch.rand(4, 6), torch.tensor([0, 1, 0, 1]))
    train(transfer, samples, None, Recipe(2, 0.05, 4), seed=0)
    assert not torch.equal(transfer.trunk[0].weight, before)
    assert transfer.train().trunk.training
    assert not transfer.eval().trunk.training


@pytest.mark.parametrize("keep", [-1, 4, 1.5, True])
def test_a_cut_that_is_not_there_is_refused(keep):
    with pytest.raises(ModelError, match="this network has 3 layers to keep"):
        Transfer(CLASSICAL, keep, nn.Linear(5, 2))


def test_a_network_that_is_no_sequence_is_refused():
    with pytest.raises(ModelError, match=r"sequence of layers, got Linear.*qgraft\.graft"):
        Transfer(nn.Linear(2, 2), 0, nn.Linear(2, 2))


def test_dressed_circuit_is_the_published_one():
    circuit = dressed_circuit(4, 2)
    names = [(op.gate, op.qubits) for op in circuit.ops]
    chain = [("CNOT", (0, 1)), ("CNOT", (2, 3)), ("CNOT", (1, 2))]
    layer = chain + [("RY", (q,)) for q in range(4)]
    start = [("H", (q,)) for q in range(4)] + [("RY", (q,)) for q in range(4)]
    assert names == start + layer + layer
    assert not inert_weights(circuit)


def test_dressed_circuit_is_real():
    circuit = dressed_circuit(5, 5)
    kets = state(circuit, torch.rand(3, 5).double(), torch.randn(25).double())
    assert kets.imag.abs().max() == 0 if kets.is_complex() else True


@pytest.mark.parametrize(("n_qubits", "depth", "n_features", "count"),
                         [(5, 5, 2, 52), (4, 5, 2, 42), (4, 6, 512, 2086)])  # fmt: skip
def test_parameter_counts_of_the_source(n_qubits, depth, n_features, count):
    head = DressedHead(n_features, 2, dressed_circuit(n_qubits, depth))
    assert sum(p.numel() for p in head.parameters()) == count
