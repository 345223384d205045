"""Heads of finished runs on their way to hardware, and jobs at IBM Quantum, here and rehearsed."""

import inspect
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from qgraft.circuits.ansatz import surface_circuit
from qgraft.circuits.circuit import Circuit
from qgraft.cli import app
from qgraft.config import ImagePairConfig, QcnnConfig, resolve
from qgraft.data.digits import embedded_transfer_data
from qgraft.devices.ibm import IbmProvider, open_ibm
from qgraft.devices.to_qasm import to_qasm
from qgraft.errors import ConfigError, RunError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.measured import MeasuredHead
from qgraft.heads.qcnn import QcnnHead
from qgraft.seeds import numpy_rng, torch_stream
from qgraft.simulate.statevector import expvals, probabilities
from qgraft.studies import hardware_heads, image_pairs
from qgraft.studies.hardware_heads import load_head
from qgraft.studies.image_pairs import ants_and_bees, run_image_pairs
from qgraft.studies.jobs import job_run
from qgraft.studies.qcnn import run_qcnn
from qgraft.studies.run import open_run
from qgraft.training.checkpoint import load_tensors
from qgraft.trunks.photographs import PhotographTrunk

needs_qiskit = pytest.mark.skipif(
    find_spec("qiskit_ibm_runtime") is None or find_spec("qiskit_qasm3_import") is None,
    reason="qiskit-ibm-runtime is not installed",
)


@pytest.fixture(scope="module")
def qcnn_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qcnn") / "run"
    settings = {
        "data": "embedded", "ansatz": ("ttn",), "pooling": ("zx",), "pairs": ((0, 1),), "seeds": 2,
        "steps": 20, "trunk_epochs": 1, "controls": False,
    }  # fmt: skip
    config = resolve(QcnnConfig, settings)
    run = open_run(folder, config.model_dump(mode="json"), resume=False)
    run_qcnn(run, embedded_transfer_data(), config)
    return folder


class Colours(nn.Module):
    """The mean of every channel, for a trained network."""

    def forward(self, images):
        return images.mean((2, 3))


@pytest.fixture
def insect_run(tmp_path, monkeypatch):
    trunk = PhotographTrunk(Colours(), {"colours": 3})
    for module in (image_pairs, hardware_heads):
        monkeypatch.setattr(module, "photograph_trunk", lambda *given, **options: trunk)
    random = numpy_rng(0, "insects")
    for part, n in (("train", 8), ("val", 5)):
        for label, name in enumerate(("ants", "bees")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for k in range(n):
                pixels = random.integers(0, 160, (40, 40, 3), dtype=np.uint8)
                pixels[..., 0] += np.uint8(90 * label)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{k}.png")
    config = ImagePairConfig(
        study="ants-bees", data=str(tmp_path / "data"), side=32, seeds=2, heads=("dressed",)
    )
    run = open_run(tmp_path / "run", config.model_dump(mode="json"), resume=False)
    run_image_pairs(run, [ants_and_bees(tmp_path / "data", side=32)], config)
    return tmp_path / "run"


def invoke(*words):
    return CliRunner().invoke(app, ["hardware", *map(str, words)])


def test_a_qcnn_head_comes_back_as_it_was_scored(qcnn_run):
    right = load_tensors(qcnn_run / "heads" / "ttn-zx-0-1.safetensors")["right"]
    for number in (0, 1):
        data = load_head(qcnn_run, f"ttn-zx-0-1#{number}")
        assert isinstance(data.head, QcnnHead)
        said = data.head(data.holdout.inputs).argmax(1)
        assert torch.equal(said == data.holdout.labels, right[number])
    assert load_head(qcnn_run).variant == "ttn-zx-0-1#0"


def test_an_insect_head_comes_back_as_it_was_scored(insect_run):
    right = load_tensors(insect_run / "heads" / "dressed-ants-bees.safetensors")
    data = load_head(insect_run, "#1")
    assert isinstance(data.head, DressedHead)
    assert (data.variant, data.task, len(data.development.labels)) == ("dressed#1", "ants-bees", 16)
    said = data.head(data.holdout.inputs).argmax(1)
    assert torch.equal(said == data.holdout.labels, right["right.validation"][1])


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("ttn-zx-2-3", "has no head 'ttn-zx-2-3'; it has ttn-zx-0-1"),
        ("ttn-zx-0-1#2", "holds 2 heads, #0 to #1; there is no #2"),
        ("ttn-zx-0-1#x", "write NAME#NUMBER"),
    ],
)
def test_heads_that_are_not_there(qcnn_run, variant, says):
    with pytest.raises(RunError, match=says):
        load_head(qcnn_run, variant)


def test_other_tasks_are_refused(insect_run):
    with pytest.raises(RunError, match="has no task 'dogs-cats'; it has ants-bees"):
        load_head(insect_run, "dogs-cats")
    (insect_run / "heads" / "dressed-ants-bees.safetensors").unlink()
    with pytest.raises(RunError, match="is missing; finish the run first"):
        load_head(insect_run)


def test_the_command_from_a_run_to_a_table_and_a_figure(insect_run, qcnn_run, tmp_path):
    found = invoke(insect_run, "--strengths", "0.05", "--epochs", "1", "--out", tmp_path)
    assert found.exit_code == 0
    assert "noise, trained under it" in found.output
    result = json.loads((tmp_path / "hardware.json").read_text())
    assert (result["task"], result["variant"]) == ("ants-bees", "dressed#0")
    assert result["holdout_images"] == 10
    assert (tmp_path / "hardware.md").read_text().count("| 0.05 |") == 6
    assert (tmp_path / "hardware.svg").read_text().startswith("<?xml")
    on_device = invoke(qcnn_run, "--backend", "pennylane:default.qubit", "--images", 4)
    assert on_device.exit_code == 0
    assert '"same_class": ' in on_device.output


def test_large_parts_are_cut(qcnn_run, monkeypatch):
    monkeypatch.setattr(hardware_heads, "AT_MOST", 20)
    data = load_head(qcnn_run)
    assert len(data.development.labels) == len(data.holdout.labels) == 20
    assert torch.equal(load_head(qcnn_run).holdout.inputs, data.holdout.inputs)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--send",), "--send go with --backend"),
        (("--backend", "ibm:ibm_torino"), "need a folder that keeps their numbers: --out"),
        (("--backend", "ibm:x", "--noise-from", "FakeManilaV2"), "goes with pennylane:NAME"),
        (("--backend", "aer"), "ibm:NAME for a machine of IBM Quantum"),
        (("--strengths", "0.1,much"), "give probabilities from 0 to 1"),
        (("--strengths", "2"), "give probabilities from 0 to 1"),
    ],
)
def test_mistakes(qcnn_run, words, says):
    found = invoke(qcnn_run, *words)
    assert isinstance(found.exception, ConfigError)
    assert says in str(found.exception)


def test_nothing_is_sent_that_was_not_asked_for(insect_run, tmp_path):
    found = invoke(insect_run, "--backend", "ibm:ibm_torino", "--images", 4, "--out", tmp_path)
    assert found.exit_code == 0
    assert "4 circuits, 4,096 shots in all" in found.output
    assert "nothing was sent; add --send" in found.output
    assert not (tmp_path / "jobs").exists()


class Exact:
    """A provider with the exact probabilities of circuits it is told."""

    def __init__(self, tables):
        self.tables = tables

    def submit(self, tag, program, shots):
        return str(len(self.tables) - 1)

    def find(self, tag):
        return None

    def fetch(self, job):
        table = self.tables.pop(0)
        bits = int(np.log2(len(table)))
        return {f"{k:0{bits}b}": round(float(p) * 10**9) for k, p in enumerate(table)}


def test_jobs_give_what_the_head_reads(tmp_path):
    with torch_stream(0, "jobs"):
        heads = [DressedHead(4, 2, n_qubits=3, depth=1), QcnnHead(4, 3, n_qubits=2)]
        words = ((("X", 0),), (("Z", 1),), (("Y", 0), ("Z", 1)))
        turned = Circuit(2, surface_circuit(2, 1).ops, words)
        heads.append(DressedHead(4, 2, turned))  # needs two bases
        features = torch.randn(3, 4)
    for number, head in enumerate(heads):
        tables = []

        def tell(circuit, angles, weights, found=tables):
            from qgraft.simulate.sampling import settings_of

            for one in [s.circuit for s in settings_of(circuit)] or [circuit]:
                found += probabilities(one, angles.detach(), weights.detach())
            reads = expvals if circuit.observables else probabilities
            return reads(circuit, angles.detach(), weights.detach())

        wanted = MeasuredHead(head, tell)(features)
        run = job_run(tmp_path / str(number), 100, Exact(tables))
        torch.testing.assert_close(MeasuredHead(head, run)(features), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("counts", "says"), [({"0": 3}, "not 2 bits"), ({}, "measured nothing")])
def test_strange_counts_are_refused(tmp_path, counts, says):
    provider = Exact([])
    provider.fetch = lambda job: counts
    run = job_run(tmp_path, 3, provider)
    with pytest.raises(RunError, match=says):
        run(surface_circuit(2, 1), torch.zeros(1, 2), torch.zeros(6))


# IBM Quantum


@needs_qiskit
@pytest.mark.filterwarnings("ignore")
def test_a_rehearsal_on_a_snapshot_goes_on_where_it_stopped(insect_run, tmp_path):
    words = ("--backend", "ibm:FakeManilaV2", "--images", 2, "--shots", 500, "--out", tmp_path)
    found = invoke(insect_run, *words)
    assert found.exit_code == 0
    assert "after transpiling" in found.output
    result = json.loads((tmp_path / "hardware.json").read_text())
    assert result["largest_difference"] < 0.3
    records = [json.loads(p.read_text()) for p in sorted((tmp_path / "jobs").glob("*.json"))]
    assert [sum(record["counts"].values()) for record in records] == [500, 500]
    again = invoke(insect_run, *words)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "hardware.json").read_text()) == result


class Service:
    """Stands for the service of IBM Quantum: jobs by number and by tag."""

    def __init__(self):
        self.sent = {}

    def jobs(self, limit=10, job_tags=None):
        return [job for job, tags in self.sent.values() if set(job_tags) <= set(tags)][:limit]

    def job(self, number):
        return self.sent[number][0]


@needs_qiskit
@pytest.mark.filterwarnings("ignore")
def test_tags_travel_with_jobs_and_find_them(monkeypatch):
    from qiskit_ibm_runtime import QiskitRuntimeService
    from qiskit_ibm_runtime.fake_provider.local_service import QiskitRuntimeLocalService

    service, local = Service(), QiskitRuntimeLocalService._run

    def sent(self, program_id, inputs, options, calibration_id):
        job = local(self, program_id, inputs, dict(options), calibration_id)
        service.sent[job.job_id()] = job, options["job_tags"]
        return job

    monkeypatch.setattr(QiskitRuntimeLocalService, "_run", sent)
    provider = IbmProvider(open_ibm("FakeManilaV2").backend, service)
    circuit = surface_circuit(2, 1)
    weights = torch.tensor([0.0, np.pi, 0, 0, 0, 0])  # turns the first qubit over
    program = to_qasm(circuit, torch.zeros(2), weights)
    number = provider.submit("qgraft-1", program, 200)
    assert provider.find("qgraft-1") == number
    assert provider.find("qgraft-2") is None
    counts = provider.fetch(number)
    exact = probabilities(Circuit(2, circuit.ops, probabilities=(0, 1)), torch.zeros(1, 2), weights)
    assert int(exact.argmax()) in (1, 2)  # so that the order of the bits shows
    assert max(counts, key=lambda bits: counts[bits]) == f"{int(exact.argmax()):02b}"
    with pytest.raises(RunError, match=r"job nothing has no result .* delete its record"):
        provider.fetch("nothing")
    assert {"limit", "job_tags"} <= set(inspect.signature(QiskitRuntimeService.jobs).parameters)
    assert "job_id" in inspect.signature(QiskitRuntimeService.job).parameters


@needs_qiskit
def test_without_an_account_the_way_to_one_is_shown(monkeypatch):
    import qiskit_ibm_runtime

    def nobody():
        raise ValueError("no account")

    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", nobody)
    with pytest.raises(ConfigError, match=r"'ibm_torino' \(no account\); save an account with"):
        open_ibm("ibm_torino")
    with pytest.raises(ConfigError, match="did you mean FakeManilaV2"):
        open_ibm("FakeManilla")
