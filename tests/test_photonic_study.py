"""Transfer from photonic networks, small."""

import numpy as np
import pytest
import torch

from qgraft.config import PhotonicConfig
from qgraft.errors import WeightsError
from qgraft.reports.transfer import write_transfer_report
from qgraft.seeds import numpy_rng
from qgraft.simulate.fock import lost_norm
from qgraft.studies.photonic import run_photonic
from qgraft.studies.photonic_tasks import (
    dense_layer,
    drawing_cost,
    fidelities,
    noisy_states,
    published_layer,
    source_inputs,
    squeezed_states,
    targets,
    tetromino_network,
)
from qgraft.studies.run import open_run
from qgraft.training.minibatch import StepRecipe, whole_batches


def config(study, **changes):
    settings = {"steps": (20,), "test_batches": 10, "source_steps": 2, "seeds": 2, **changes}
    return PhotonicConfig(study=study, **settings)


def opened(folder, settings, resume=False):
    return open_run(folder, settings.model_dump(mode="json"), resume=resume)


def test_targets_are_normalised_and_different():
    kets = targets().flatten(1)
    overlaps = kets @ kets.T
    torch.testing.assert_close(overlaps.diag(), torch.ones(7).double())
    assert (overlaps - torch.eye(7)).max() < 1


def test_inputs_are_coherent_states_within_the_cutoff():
    kets = source_inputs()
    assert kets.shape == (7, 11, 11)
    assert lost_norm(kets, 2).max() < 1e-4
    n = torch.arange(11)
    mean = (kets.abs().square().sum(2) * n).sum(1)
    torch.testing.assert_close(mean, torch.full((7,), 1.96).double(), atol=1e-3, rtol=0)


def test_noisy_states_scatter_around_the_seven():
    kets, labels = noisy_states(200, numpy_rng(0, "test"))
    assert labels[:14].tolist() == 2 * list(range(7))
    n = torch.arange(11)
    mean = float((kets.abs().square().sum(2) * n).sum(1).mean())
    assert mean == pytest.approx(1.96 + 2 * 0.36, rel=0.1)  # some is lost at the cutoff


def test_every_batch_holds_each_state_once_and_the_head_starts_as_its_source():
    batches = whole_batches(7 * 30, StepRecipe(20, 7), seed=1)
    _, labels = noisy_states(30, numpy_rng(0, "training"))
    assert batches.shape == (20, 7)
    assert (labels[batches] == torch.arange(7)).all()
    assert len(batches.flatten().unique()) == 140
    assert not torch.equal(batches, whole_batches(7 * 30, StepRecipe(20, 7), seed=2))
    head = dense_layer()
    assert not head.bias.any()
    assert 0.25 < head.weight.abs().max() <= (6 / 23) ** 0.5


def test_squeezed_states_keep_the_parity_of_the_photon():
    kets, labels = squeezed_states(40, np.random.default_rng(0))
    odds = kets[labels == 1].abs().square()
    assert odds[:, ::2].max() < 1e-20  # a squeezed photon has odd numbers only
    assert (lost_norm(kets, 1) < 0.02).all()
    assert 0 < labels.float().mean() < 1


def test_the_published_mistake_is_an_option():
    kets, _ = squeezed_states(3, np.random.default_rng(1))
    whole, without = published_layer(squeezes=True), published_layer(squeezes=False)
    assert not torch.allclose(whole(kets), without(kets))
    with torch.no_grad():
        whole.weights[0, 0] = 0.0
    torch.testing.assert_close(whole(kets), without(kets))


def test_pre_training_draws_better_and_is_kept(tmp_path):
    settings = config("photonic-qc", source_steps=6)
    run = opened(tmp_path / "run", settings)
    untrained = settings.model_copy(update={"source_steps": 0})
    started = drawing_cost(tetromino_network(run, untrained))
    (tmp_path / "run" / "trunks" / "tetromino.safetensors").unlink()
    trained = tetromino_network(run, settings)
    assert drawing_cost(trained) < started / 2
    fidelity, norms = fidelities(trained)
    assert ((fidelity > 0) & (fidelity < 1) & (norms > 0.9) & (norms < 1)).all()
    again = tetromino_network(run, settings)
    assert torch.equal(again.weights, trained.weights)
    run.finish()


def test_a_missing_source_is_named(tmp_path):
    settings = config("photonic-qc", source=str(tmp_path / "none.safetensors"))
    run = opened(tmp_path / "run", settings)
    with pytest.raises(WeightsError, match="leave --source out"):
        run_photonic(run, settings)
    run.finish()


def test_quantum_to_classical_resumes_to_the_same_result(tmp_path):
    settings = config("photonic-qc", keep=(0, 2), source_steps=1)
    result = run_photonic(opened(tmp_path / "run", settings), settings)
    assert [row["params"] for row in result["rows"]] == [119, 119]
    before = (tmp_path / "run" / "result.json").read_bytes()
    next((tmp_path / "run" / "heads").glob("keep-2*")).unlink()
    run_photonic(opened(tmp_path / "run", settings, resume=True), settings)
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    page = write_transfer_report(tmp_path / "run").read_text()
    assert "fidelities, Z" in page


def test_quantum_to_quantum_gives_all_readings(tmp_path):
    settings = config("photonic-qq", steps=(4, 8), test_batches=4)
    result = run_photonic(opened(tmp_path / "run", settings), settings)
    assert [row["params"] for row in result["rows"]] == [18] * 6
    assert {row["published"] for row in result["rows"]} == {None}  # only after 500 steps
    titles = [row["model"].split(", ")[0] for row in result["rows"]]
    assert titles == 2 * ["as published: no squeezing"] + 4 * ["with squeezing"]
