"""The study of a head under noise, its report, and the commands."""

import copy
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qgraft.circuits.qcnn import qcnn_circuit
from qgraft.cli import app
from qgraft.cli.hardware import named_circuit
from qgraft.errors import ConfigError, RunError
from qgraft.heads.dressed import DressedHead
from qgraft.reports.hardware import hardware_table, write_hardware
from qgraft.reports.inspection import facts_of
from qgraft.seeds import torch_stream
from qgraft.simulate.noise import depolarizing
from qgraft.simulate.statevector import expvals
from qgraft.studies.hardware import (
    run_noise_study,
    score_head,
    score_on_device,
    train_under,
)
from qgraft.studies.hardware_heads import HeadData, load_head
from qgraft.training.loop import Samples


@pytest.fixture(scope="module")
def data():
    with torch_stream(0, "hardware"):
        features = torch.randn(240, 4)
        head = DressedHead(4, 2, n_qubits=2, depth=1, scale=1.5)
    samples = Samples(features, (features[:, 0] + 0.3 * features[:, 1] > 0).long())
    development, holdout = samples.subset(np.arange(160)), samples.subset(np.arange(160, 240))
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    with torch.enable_grad():
        for _ in range(100):
            loss = torch.nn.functional.cross_entropy(head(development.inputs), development.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return HeadData(head, "test", development, holdout)


def test_the_study_covers_every_condition(data):
    before = copy.deepcopy(data.head.state_dict())
    result = run_noise_study(data, shots=(4, 4096), strengths=(0.0, 0.05), repeats=3, epochs=1)
    points = {(p["condition"], p["shots"]): p for p in result["points"]}
    assert len(points) == 1 + 2 + 6 + 2
    ideal = points["ideal", None]
    classes = data.head(data.holdout.inputs).argmax(1)
    assert ideal["f1"] == score_head(data.head, data.holdout, classes)["f1"] > 0.8
    assert ideal["same_class"] == 1.0
    mended = points["noise, extrapolated", None]["log_loss"] - ideal["log_loss"]
    assert abs(mended) < 0.5 * abs(points["noise", None]["log_loss"] - ideal["log_loss"])
    assert points["shots", 4]["f1"] < ideal["f1"]
    assert abs(points["shots", 4096]["f1"] - ideal["f1"]) < 0.05
    assert points["read-out errors, undone", None]["f1"] == ideal["f1"]
    assert points["shots", 4]["repeats"] == 3
    again = run_noise_study(data, shots=(4, 4096), strengths=(0.0, 0.05), repeats=3, epochs=1)
    assert again == result
    for name, tensor in data.head.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_training_under_noise_lowers_the_loss_under_noise(data):
    from qgraft.heads.measured import measured_head
    from qgraft.simulate.execution import Execution

    noise = depolarizing(0.1)

    def loss(head):
        logits = measured_head(head, Execution(noise=noise))(data.development.inputs)
        return torch.nn.functional.cross_entropy(logits, data.development.labels).item()

    assert loss(train_under(data, noise, 20, 0)) < loss(train_under(data, None, 20, 0))


def test_table_and_figure_are_written(data, tmp_path):
    result = run_noise_study(data, shots=(16,), strengths=(0.02,), repeats=2, epochs=1)
    table, figure = write_hardware(tmp_path, result)
    assert table.read_text() == hardware_table(result)
    assert "| noise, extrapolated | 0.02 | exact |" in table.read_text()
    assert figure.read_text().lstrip().startswith("<?xml")
    assert write_hardware(tmp_path, result)[1].read_bytes() == figure.read_bytes()


def test_scores_on_a_device_stand_beside_the_ideal(data):
    found = score_on_device(data, lambda c, a, w: expvals(c, a.detach(), w.detach()), 20)
    assert found["images"] == 20
    assert found["device"] == found["ideal"]
    assert found["same_class"] == 1.0
    assert found["largest_difference"] < 1e-5


def test_other_runs_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"study": "fit"}))
    with pytest.raises(RunError, match="is no run of 'reproduce surface --protocol clean'"):
        load_head(tmp_path)


def test_facts_tell_inert_weights_and_spectrum():
    facts = facts_of(named_circuit("surface:3"), n_samples=50)
    assert facts["summary"]["weights without effect"] == [20, 23, 26]
    assert facts["summary"]["highest frequency in an input"] == 1
    assert len(facts["parameters"]) == 3 + 27
    assert json.loads(json.dumps(facts)) == facts
    assert facts_of(qcnn_circuit("so4", "zx", n_qubits=4), n_samples=20)["spectrum"] == []
    with pytest.raises(ConfigError, match="samples must be from 10"):
        facts_of(named_circuit("sim-1"), n_samples=1)


@pytest.mark.parametrize("text", ["nothing", "surface:x", "qcn:4"])
def test_unknown_circuits_are_refused(text):
    with pytest.raises(ConfigError, match="known"):
        named_circuit(text)


def test_all_templates_are_shown_beside_the_published_ones(tmp_path):
    out = tmp_path / "sim.json"
    shown = CliRunner().invoke(app, ["inspect", "sim", "--samples", "50", "--json", str(out)])
    assert shown.exit_code == 0
    found = json.loads(out.read_text())
    assert [row["template"] for row in found["rows"]] == [*range(1, 20)] * 2
    assert len(found["rank_correlation"]) == 6
    for wrong in (["--samples", "5"], ["--figure", str(tmp_path / "x.svg")], ["--variant", "x"]):
        refused = CliRunner().invoke(app, ["inspect", "sim", *wrong])
        assert isinstance(refused.exception, ConfigError)


def test_commands(tmp_path):
    out = tmp_path / "facts.json"
    shown = CliRunner().invoke(app, ["inspect", "sim-9", "--samples", "50", "--json", str(out)])
    assert shown.exit_code == 0
    assert "entangling capability (0 to 1): 1.0" in shown.output
    assert json.loads(out.read_text())["summary"]["weights"] == 4
    missing = CliRunner().invoke(app, ["hardware", str(tmp_path), "--estimate"])
    assert isinstance(missing.exception, ConfigError)
    assert "go with --backend pennylane:NAME" in str(missing.exception)
