"""The audit of images that come in parts: what is planted is found, under the name of its set."""

import numpy as np

from qgraft.data.digits import embedded_transfer_data
from qgraft.data.imageset import ImageSet
from qgraft.evaluation.audit import audit_parts
from qgraft.studies.qcnn_tasks import audit_pairs


def part(n, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32)).astype(np.uint8)
    names = tuple(f"{seed}-{k}.png" for k in range(n))
    return ImageSet(images, np.arange(n) % 2, np.arange(n), names, ("ants", "bees"))


def test_parts_that_share_nothing_give_nothing():
    assert audit_parts({"training": part(60, 0), "test": part(40, 1)}, "insects") == []


def test_a_test_image_among_the_training_images_is_found():
    training, test = part(60, 0), part(40, 1)
    test.images[7] = training.images[3]
    (shared,) = [
        finding
        for finding in audit_parts({"training": training, "test": test}, "insects")
        if finding["kind"] == "shared_images"
    ]
    assert shared["severity"] == "high"
    assert shared["message"].startswith("insects: 1 of 40 test images")
    assert shared["where"] == ["test 1-7.png = training 0-3.png"]


def test_brightness_that_tells_the_classes_apart_is_found():
    training, test = part(60, 0), part(40, 1)
    for images, labels in ((training.images, training.labels), (test.images, test.labels)):
        images[labels == 1] //= 4
    kinds = {f["kind"] for f in audit_parts({"training": training, "test": test}, "insects")}
    assert "shortcut_brightness" in kinds


def test_pairs_of_digits_are_audited_by_name():
    data = embedded_transfer_data()
    first, second = sorted(set(data.test.labels.tolist()))[:2]
    shown = np.flatnonzero(data.test.labels == second)[0]
    data.test.images[shown] = data.training.images[data.training.labels == second][0]
    found = audit_pairs(data, ((second, first),))
    assert all(finding["message"].startswith(f"{second}-{first}: ") for finding in found)
    assert "shared_images" in {finding["kind"] for finding in found}
