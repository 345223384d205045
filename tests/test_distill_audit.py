"""The audit of a distillation study: a planted leak is named, clean data has none."""

import numpy as np
import pytest

from qgraft.config import DistillConfig, resolve
from qgraft.data.idx import Digits
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.evaluation.audit import audit_split
from qgraft.reports.distill import write_distill_report
from qgraft.seeds import numpy_rng
from qgraft.studies import distill_audit
from qgraft.studies.distill import run_distill
from qgraft.studies.distill_audit import audit_limits, audit_task
from qgraft.studies.distill_tasks import _digit_task, embedded_task, image_task
from qgraft.studies.run import open_run
from qgraft.training.checkpoint import write_json


def digits(name, n):
    """Return noise whose label no simple property tells."""
    pixels = numpy_rng(0, name).integers(0, 255, (n, 28, 28)).astype(np.uint8)
    return Digits(pixels, np.arange(n) % 6)


def task(training=None, test=None, protocol="clean", unlabelled=0):
    parts = training or digits("a", 90), test or digits("b", 60)
    return _digit_task("made-up", "6", *parts, protocol, 6, unlabelled)


def leaking(place):
    """Return a task whose test image 6 is the training image at `place`, of the same class."""
    training, test = digits("a", 90), digits("b", 60)
    test.images[6] = training.images[place]
    return task(training, test, unlabelled=10)


def found(made, kind):
    (one,) = [finding for finding in audit_task(made) if finding["kind"] == kind]
    return one


def test_clean_data_gives_nothing():
    assert audit_task(task()) == []
    assert audit_task(task(unlabelled=10)) == []
    assert audit_limits([task()]) == []


def test_a_leak_is_named_with_who_learned_from_it():
    drawn = leaking(0).origin.training
    alone = next(k for k in range(48, 90, 6) if k not in drawn)
    for place, who in ((0, "training"), (alone, "training (teacher only)")):
        leak = found(leaking(place), "shared_images")
        assert leak["severity"] == "high"
        assert leak["message"].startswith("made-up-6: 1 of 60 test images with the pixels of a tr")
        assert leak["where"] == [f"test image 6 = {who} image {place}"]


def test_images_without_a_label_are_called_so():
    made = leaking(0)
    place = next(int(k) for k in made.origin.training[36:])
    test = digits("b", 60)
    test.images[place % 6] = digits("a", 90).images[place]
    (where,) = found(task(test=test, unlabelled=10), "shared_images")["where"]
    assert where == f"test image {place % 6} = training (without label) image {place}"


def test_a_turned_copy_among_the_images_of_the_teacher_is_found():
    rng = numpy_rng(1, "smooth")
    training, test = digits("a", 90), digits("b", 60)
    shape = np.kron(rng.integers(0, 2, (7, 7)), np.ones((4, 4))) * 200
    training.images[84] = shape
    test.images[12] = np.rot90(shape)
    leak = found(task(training, test), "near_duplicates")
    assert leak["where"] == ["test image 12 ~ training (teacher only) image 84"]


def test_validation_images_are_a_part_of_their_own():
    made = task()
    assert not set(made.origin.validation) & set(made.origin.training)
    test = digits("b", 60)
    test.images[0] = digits("a", 90).images[36]  # the teacher learns from it, no student does
    (where,) = found(task(test=test), "shared_images")["where"]
    assert where == "test image 0 = validation image 36"


def test_the_published_protocol_is_found_to_choose_by_the_test_images():
    leak = found(task(protocol="paper"), "shared_images")
    assert leak["message"].startswith("made-up-6: 60 of 60 test images with the pixels of a valid")


def photographs(groups):
    pixels = numpy_rng(2, "photographs").integers(0, 255, (24, 20, 20, 3)).astype(np.uint8)
    names = tuple(f"{k}.png" for k in range(24))
    images = ImageSet(pixels, np.arange(24) % 2, groups, names, ("ants", "bees"))
    splits = Splits(np.arange(12), np.arange(12, 16), np.arange(16, 24), (np.arange(16),))
    return image_task(images, splits, name="insects", per_class=4)


def test_names_and_photographs_of_own_images_are_known():
    assert audit_task(photographs(np.arange(24))) == []
    groups = np.arange(24)
    groups[20] = 3
    leak = found(photographs(groups), "shared_photographs")
    assert leak["message"].startswith("insects-all: 1 of 8 test images from photographs (groups)")
    assert leak["where"] == ["test 20.png"]


def test_large_sets_are_compared_in_part_and_this_is_said(monkeypatch):
    monkeypatch.setattr(distill_audit, "COMPARED", 40)
    (said,) = audit_limits([task()])
    assert said.startswith("The audit sought near-duplicates among 40 images of each larger part")
    assert "(made-up-6: 78 training, 60 test)" in said
    parts = {"training": np.arange(78), "test": np.arange(78, 98)}
    shown = np.arange(98) < 36
    compared = distill_audit._compared(parts, shown)
    assert set(range(36)) <= set(compared)  # what students see comes first
    assert len(compared) == 40 + 20
    assert found(leaking(0), "shared_images")  # equal images are sought among all


def test_only_images_to_compare_are_compared():
    pixels = np.kron(numpy_rng(3, "blocks").integers(0, 2, (40, 7, 7)), np.ones((4, 4))) * 200
    pixels[39] = pixels[0].T
    images = ImageSet(pixels.astype(np.uint8), np.arange(40) % 2, np.arange(40),
                      tuple(map(str, range(40))))  # fmt: skip
    parts = {"training": np.arange(20), "test": np.arange(20, 40)}
    (twins,) = audit_split(images, parts, "x")
    assert twins["where"] == ["39 ~ 0"]
    assert audit_split(images, parts, "x", np.arange(39)) == []


def test_small_digits_are_audited():
    kinds = {
        finding["kind"] for finding in audit_task(embedded_task(protocol="clean", per_class=40))
    }
    assert "shared_images" not in kinds


@pytest.mark.parametrize("planted", [False, True])
def test_the_report_has_the_audit(planted, tmp_path):
    folder, made = tmp_path / "run", leaking(0) if planted else task()
    settings = {"data": "made up", "datasets": ("made-up",), "per_class": 6, "seeds": 1,
                "epochs": 1, "batch_size": 36, "teachers": ("uniform",),
                "students": ("classical",), "controls": False}  # fmt: skip
    config = resolve(DistillConfig, settings)
    run = open_run(folder, config.model_dump(mode="json"), resume=False)
    result = run_distill(run, [made], config)
    page = write_distill_report(folder).read_text()
    assert [finding["kind"] for finding in result["audit"]] == ["shared_images"] * planted
    assert ("test image 6 = training image 0" in page) == planted
    assert '<section id="audit">' in page
    del result["audit"]  # as in results of earlier versions
    write_json(folder / "result.json", result)
    assert 'id="audit"' not in write_distill_report(folder).read_text()
