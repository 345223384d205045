"""Controls beside hybrids: pairing, scores, sentences, chance level, and resuming."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score
from torch import nn

from qgraft.config import SurfaceConfig, resolve
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import clean_splits, paper_splits
from qgraft.errors import WeightsError
from qgraft.evaluation.statistics import corrected_paired_test, holm
from qgraft.seeds import torch_stream
from qgraft.studies import control_heads
from qgraft.studies.control_heads import (
    CLASSICAL_LAYERS,
    CONTROLS,
    MATCHED,
    QUANTUM,
    Bench,
    control_work,
    new_head,
    predicted_classes,
)
from qgraft.studies.evidence import Answers, collect_answers, weigh
from qgraft.studies.hybrid import Hybrid
from qgraft.studies.run import Run
from qgraft.training.loop import Samples

N_PHOTOGRAPHS, WIDTH = 60, 6


def config(**changes):
    settings = {"data": "somewhere/steel", "folds": 3, "head_epochs": 12, "head_seeds": 2}
    return resolve(
        SurfaceConfig, {**settings, "batch_size": 16, "head_learning_rate": 0.03, **changes}
    )


def scene(settings, *, n_classes=2, shuffled=False, seed=0):
    """Return images without pixels, their splits, and the bench of one hybrid."""
    rng = np.random.default_rng(seed)
    n = n_classes * N_PHOTOGRAPHS
    labels = np.repeat(np.arange(n_classes), N_PHOTOGRAPHS)
    centres = rng.normal(0, 1.5, (n_classes, WIDTH))
    features = torch.from_numpy(rng.normal(centres[labels], 1.0).astype(np.float32))
    if shuffled:
        labels = rng.permutation(labels)
    images = ImageSet(
        images=np.zeros((n, 1, 1), np.uint8),
        labels=labels,
        groups=np.arange(n) % N_PHOTOGRAPHS if not shuffled else np.arange(n),
        names=tuple(map(str, range(n))),
        class_names=tuple("abc"[:n_classes]),
    )
    cut = paper_splits if settings.protocol == "paper" else clean_splits
    splits = cut(images, n_folds=settings.folds, seed=seed)
    with torch_stream(seed, "model"):
        model = nn.Sequential(
            nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(WIDTH, 8), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(8, n_classes),
        )  # fmt: skip
    samples = Samples(features, torch.from_numpy(labels))
    bench = Bench("Net", model, Hybrid("graft", "all"), samples, splits, n_classes, settings)
    return images, splits, bench


def grafted_like(run, bench):
    """Return what `train_hybrid` would: the heads of the first seed on their folds and hold-out."""
    kind = QUANTUM._replace(says="first seed")
    heads = control_heads.trained_heads(run, bench, kind, range(1), "")
    with torch.no_grad():
        p = [head(bench.samples.inputs).softmax(-1).numpy() for head in heads]
    splits = bench.splits
    held = len(splits.holdout) > 0
    return SimpleNamespace(
        fold_probabilities=[q[fold] for q, fold in zip(p, splits.folds, strict=True)],
        holdout_probabilities=[q[splits.holdout] for q in p] if held else [],
        report=SimpleNamespace(head=sum(t.numel() for t in heads[0].parameters())),
        samples=bench.samples,
    )


@pytest.fixture(scope="module", params=[("clean", 2), ("clean", 3), ("paper", 2)])
def finished(request, tmp_path_factory):
    protocol, n_classes = request.param
    settings = config(protocol=protocol)
    images, splits, bench = scene(settings, n_classes=n_classes)
    run = Run(tmp_path_factory.mktemp("evidence"))
    answers = collect_answers(run, bench, grafted_like(run, bench))
    return images, splits, bench, answers, weigh([answers], images, splits, settings)


def test_every_control_is_compared_once(finished):
    *_, evidence = finished
    assert [row["control"] for row in evidence["comparisons"]] == [k.name for k in CONTROLS]
    assert [row["head"] for row in evidence["rows"]] == ["dressed", *(k.name for k in CONTROLS)]
    assert len(evidence["sentences"]) == 1 + len(CONTROLS)
    json.dumps(evidence, allow_nan=False)


def test_scores_are_scikit_learns_on_the_right_images(finished):
    images, splits, _, answers, evidence = finished
    n_classes = len(images.class_names)
    average = "binary" if n_classes == 2 else "macro"
    for one, row in zip(answers, evidence["rows"], strict=True):
        for seed, folds in enumerate(row["scores"]):
            for fold, found in enumerate(folds):
                part = splits.holdout if len(splits.holdout) else splits.folds[fold]
                said = one.classes[seed, fold, part]
                expected = f1_score(images.labels[part], said, average=average, zero_division=0)
                assert found == pytest.approx(expected, abs=1e-12)
        assert row["f1_mean"] == pytest.approx(np.mean(row["scores"]))
        assert row["f1_mean"] > 0.6  # the classes lie well apart


def test_differences_are_paired_and_tested_as_said(finished):
    _, splits, _, _, evidence = finished
    scores = {row["head"]: np.array(row["scores"]) for row in evidence["rows"]}
    for row in evidence["comparisons"]:
        gaps = scores["dressed"] - scores[row["control"]]
        assert row["difference"] == pytest.approx(gaps.mean(), abs=1e-12)
        assert row["std"] == pytest.approx(gaps.std(ddof=1))
        assert row["low"] <= row["difference"] <= row["high"]
        if not len(splits.holdout):
            test = corrected_paired_test(gaps.mean(0), len(splits.folds) - 1, 1)
            assert (row["low"], row["high"]) == pytest.approx(test.interval[1:])
            assert row["p_value"] == pytest.approx(test.p_value)
    p_values = [row["p_value"] for row in evidence["comparisons"]]
    assert [row["p_adjusted"] for row in evidence["comparisons"]] == pytest.approx(holm(p_values))


def test_sentences_say_what_the_numbers_say(finished):
    *_, evidence = finished
    summary, *sentences = evidence["sentences"]
    assert re.match(
        r"On steel \((clean|paper)\) .* of 1 cases and worse in \d\. Over all 8", summary
    )
    for row, said in zip(evidence["comparisons"], sentences, strict=True):
        assert f"the quantum head of Net graft is {abs(100 * row['difference']):.1f} points" in said
        assert row["says"] in said
        assert said.endswith("is better.") == (row["p_adjusted"] < 0.05)


def test_the_first_seed_is_the_hybrid_itself(finished):
    images, splits, _, answers, _ = finished
    own = answers[0].classes
    assert own.shape == (2, 3, len(images.labels))
    for fold, part in enumerate(splits.folds):
        assert (own[0, fold, part] >= 0).all()
    assert (own[1] >= 0).all()


def test_controls_start_where_the_hybrid_starts():
    _, _, bench = scene(config())
    quantum, matched = (new_head(bench, kind, 1, 2) for kind in (QUANTUM, MATCHED))
    assert torch.equal(quantum.pre.weight, matched[0].weight)
    assert not torch.equal(quantum.pre.weight, new_head(bench, QUANTUM, 0, 2).pre.weight)
    assert not torch.equal(quantum.pre.weight, new_head(bench, QUANTUM, 1, 1).pre.weight)


def test_the_classical_layers_are_trained_from_new_weights():
    _, _, bench = scene(config())
    layers = new_head(bench, CLASSICAL_LAYERS, 0, 0)
    assert [type(m).__name__ for m in layers] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert not torch.equal(layers[0].weight, bench.model[2].weight)
    assert all(p.requires_grad for p in layers.parameters())


@pytest.mark.parametrize("protocol", ["paper", "clean"])
def test_shuffled_labels_give_chance_level(protocol, tmp_path):
    settings = config(protocol=protocol, head_epochs=8, head_learning_rate=0.01)
    images, splits, bench = scene(settings, shuffled=True, seed=5)
    run = Run(tmp_path)
    answers = collect_answers(run, bench, grafted_like(run, bench))
    right = []
    for one in answers:
        for fold in range(settings.folds):
            part = splits.holdout if len(splits.holdout) else splits.folds[fold]
            right.append((one.classes[:, fold, part] == images.labels[part]).mean())
    assert 0.38 < np.mean(right) < 0.62
    evidence = weigh([answers], images, splits, settings)
    assert all(row["p_adjusted"] > 0.05 for row in evidence["comparisons"])


class StoppedError(Exception):
    """Stands for a run that dies."""


def test_a_stopped_run_goes_on_to_the_same_answers(tmp_path):
    settings = config()
    images, splits, bench = scene(settings)
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    grafted = grafted_like(whole, bench)
    expected = weigh([collect_answers(whole, bench, grafted)], images, splits, settings)
    calls = 0

    def stop(done, total, note):
        nonlocal calls
        calls += 1
        if calls == 130:
            raise StoppedError

    stopped.progress = stop
    with pytest.raises(StoppedError):
        collect_answers(stopped, bench, grafted)
    begun = {path.name for path in stopped.folder.rglob("*.safetensors")}
    assert 0 < len(begun) < 1 + len(CONTROLS)
    stopped.progress = lambda *_: None
    found = weigh([collect_answers(stopped, bench, grafted)], images, splits, settings)
    assert found == expected
    for path in whole.folder.rglob("*.safetensors"):
        again = stopped.folder / path.relative_to(whole.folder)
        assert again.read_bytes() == path.read_bytes()


def test_finished_heads_are_not_trained_again(tmp_path, monkeypatch):
    _, _, bench = scene(config())
    run = Run(tmp_path)
    first = predicted_classes(run, bench, MATCHED, range(2))
    monkeypatch.setattr(control_heads, "trained_heads", None)
    assert np.array_equal(predicted_classes(run, bench, MATCHED, range(2)), first)
    with pytest.raises(WeightsError, match=r"holds classes \(2, 3, 120\) where \(5, 3, 120\)"):
        predicted_classes(run, bench, MATCHED, range(5))


def test_progress_adds_up(tmp_path):
    settings = config()
    _, splits, bench = scene(settings)
    done = []
    run = Run(tmp_path, progress=lambda d, total, note: done.append(d), work=1e9)
    grafted = grafted_like(Run(tmp_path / "other"), bench)
    for _ in range(2):  # trained, then read
        run.done = 0.0
        collect_answers(run, bench, grafted)
        assert done[-1] == pytest.approx(control_work(splits, settings))


def test_a_network_that_cannot_be_stacked_is_trained_by_the_loop(tmp_path):
    _, _, bench = scene(config(head_epochs=2, head_seeds=1))
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(WIDTH, 4),
                          nn.BatchNorm1d(4), nn.Linear(4, 2))  # fmt: skip
    classes = predicted_classes(
        Run(tmp_path), bench._replace(model=model), CLASSICAL_LAYERS, range(1)
    )
    assert set(np.unique(classes)) <= {0, 1}


def test_an_answer_of_one_seed_is_paired_with_every_seed():
    images, splits, _ = scene(config(protocol="paper"))
    rng = np.random.default_rng(0)
    shape = (4, 3, len(images.labels))
    hybrid = Answers("Net", "graft", QUANTUM, rng.integers(0, 2, shape), 9)
    once = Answers("Net", "graft", MATCHED, rng.integers(0, 2, (1, *shape[1:])), 9)
    evidence = weigh([[hybrid, once]], images, splits, config(protocol="paper"))
    (row,) = evidence["comparisons"]
    scores = [np.array(one["scores"]) for one in evidence["rows"]]
    found = stats.ttest_1samp((scores[0] - scores[1]).mean(1), 0)
    interval = found.confidence_interval()
    assert (row["seeds_low"], row["seeds_high"]) == pytest.approx(tuple(interval))
