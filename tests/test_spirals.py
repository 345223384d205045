"""Points of the plane and the networks that part them."""

import numpy as np
import pytest
import torch
from torch import nn

from qgraft.config import SpiralsConfig
from qgraft.data.spirals import SHAPES, draw_points, two_spirals
from qgraft.errors import ConfigError, RunError
from qgraft.reports.transfer import read_transfer, write_transfer_report
from qgraft.studies.run import open_run
from qgraft.studies.spirals import MODELS, SPREAD, decision_map, run_spirals


@pytest.mark.parametrize("shape", SHAPES)
def test_sets_have_the_published_sizes_and_both_classes(shape):
    points = draw_points(shape)
    assert points.training.shape == (2000, 2)
    assert points.test.shape == (200, 2)
    for labels in (points.training_labels, points.test_labels):
        assert 0.4 < labels.mean() < 0.6
    assert abs(points.training.mean()) < 0.1
    assert set(map(tuple, points.training)).isdisjoint(map(tuple, points.test))


def test_the_second_spiral_is_the_first_one_negated():
    points, labels = two_spirals(np.random.RandomState(21), 50, turns=1.52)
    np.testing.assert_array_equal(points[labels == 1], -points[labels == 0])
    radius = np.linalg.norm(points, axis=1)
    assert radius.max() < 1.52 * 2 * np.pi + 1


def test_turns_show_in_the_radius():
    def reach(turns):
        return np.abs(two_spirals(np.random.RandomState(0), 500, turns=turns)[0]).max()

    assert reach(2.0) / reach(1.52) == pytest.approx(2 / 1.52, rel=0.1)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ConfigError, match="unknown shape 'spirals-3'; use one of"):
        draw_points("spirals-3")


@pytest.mark.parametrize(
    ("key", "count"),
    [("dressed-5", 52), ("dressed-4", 42), ("tanh-5-small", 57), ("tanh-4-small", 42),
     ("tanh-5", 57), ("tanh-sine-5", 57), ("sine-5", 57)],
)  # fmt: skip
def test_models_have_the_published_sizes(key, count):
    assert sum(p.numel() for p in MODELS[key].build().parameters()) == count


def test_published_starts_are_small():
    for key in ("dressed-5", "tanh-5-small"):
        for parameter in MODELS[key].build().parameters():
            assert parameter.abs().max() < 6 * SPREAD


def test_a_map_shows_the_head_of_median_accuracy():
    def constant(bias):
        return {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, bias])}

    states = {k: torch.stack([constant(b)[k] for b in (-1.0, 0.0, 1.0)]) for k in constant(0.0)}
    model = MODELS["tanh-5"]._replace(build=lambda: nn.Linear(2, 2))
    shown = decision_map(model, states, np.array([0.2, 0.9, 0.5]))
    torch.testing.assert_close(shown, torch.full_like(shown, 1 / (1 + np.exp(-1.0))))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spirals") / "run"
    config = SpiralsConfig(shapes=("moons",), epochs=1, seeds=2)
    result = run_spirals(open_run(folder, config.model_dump(mode="json"), resume=False), config)
    return folder, config, result


def test_a_run_has_a_row_per_model_and_resumes_to_the_same_result(finished):
    folder, config, result = finished
    assert [row["model"] for row in result["rows"]] == [m.title for m in MODELS.values()]
    assert {row["n_seeds"] for row in result["rows"]} == {2}
    before = (folder / "result.json").read_bytes()
    cell = next((folder / "heads").glob("sine-5-*"))
    cell.unlink()
    run_spirals(open_run(folder, config.model_dump(mode="json"), resume=True), config)
    assert (folder / "result.json").read_bytes() == before


def test_cells_of_other_settings_are_refused(finished):
    folder, config, _ = finished
    more = config.model_copy(update={"seeds": 3})
    run = open_run(folder, config.model_dump(mode="json"), resume=True)
    with pytest.raises(RunError, match="was written with other settings"):
        run_spirals(run, more)
    run.finish()


def test_the_report_names_every_model_and_draws_the_plane(finished):
    folder, _, result = finished
    page = write_transfer_report(folder).read_text()
    for row in result["rows"]:
        assert row["model"] in page
    assert "96.5" in page  # published
    drawn = (folder / "figures" / "decisions-moons.svg").read_text()
    assert drawn.count("<image") == len(MODELS)
    assert len(drawn) < 150_000
    assert "Best epoch" not in page  # nothing was watched
    assert len((folder / "tables" / "results.csv").read_text().splitlines()) == 8


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"study": "spirals", "rows": [], "notes": []}')
    with pytest.raises(RunError, match=r"rows: List should have at least 1 item"):
        read_transfer(tmp_path)
    row = {"task": "a", "model": "b", "params": 1, "accuracy_mean": 0.5, "accuracy_std": 0.0,
           "accuracy_low": None, "accuracy_high": None, "accuracy_min": 0.5, "accuracy_max": 0.5,
           "n_seeds": 1, "published": None}  # fmt: skip
    import json

    (tmp_path / "result.json").write_text(json.dumps({"study": "fit", "rows": [row], "notes": []}))
    with pytest.raises(RunError, match="is of the study 'fit', not of a transfer study"):
        read_transfer(tmp_path)
