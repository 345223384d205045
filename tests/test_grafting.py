"""Grafting: the published counts exactly, arbitrary models, and a trunk that stays frozen."""

import copy

import pytest
import torch
from torch import nn

from qgraft.errors import ConfigError, ModelError
from qgraft.grafting import graft
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.studies.published import TABLE_III, parameter_rows
from qgraft.trunks.surface_cnn import surface_cnn

IMAGES = torch.rand(3, 1, 8, 8)


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Sequential(nn.Linear(144, 20), nn.ReLU(), nn.Dropout(0.5)),
        nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 2)),
    )


class AlexLike(nn.Module):
    """Features, pooling, a flatten between, then a classifier: torchvision's older layout."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 3)
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class ResLike(nn.Module):
    """A residual connection in forward and a final layer `fc`."""

    def __init__(self, after=None):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)
        if after:
            self.after = after

    def forward(self, x):
        x = self.stem(x)
        x = (x + torch.relu(self.conv(x))).mean((2, 3))
        x = self.fc(x)
        return self.after(x) if hasattr(self, "after") else x


class TwoDense(nn.Module):
    """Dense layers as plain attributes, so what happens between them is hidden."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


@pytest.mark.parametrize("row", parameter_rows(), ids=lambda r: f"{r['model']} {r['variant']}")
def test_the_published_table_is_counted_exactly(row):
    entry = next(e for e in TABLE_III if (e.model, e.variant) == (row["model"], row["variant"]))
    assert row["params"] == entry.verified
    assert (row["params"] != row["published"]) == row["misprint"]


def test_the_published_table_has_two_misprints():
    slips = [(e.model, e.variant, e.params, e.verified) for e in TABLE_III if e.misprint]
    assert slips == [
        ("CM-1", "QTL-M-3", 671_764, 671_774),
        ("CM-2", "QTL-M-2", 525_824, 525_854),
    ]


@pytest.mark.parametrize(
    ("name", "k", "removed", "head", "whole", "block"),
    [
        ("cm1", 3, 2_642, 382, 0.210, 85.54),
        ("cm1", 4, 10_898, 702, 0.947, 93.56),
        ("cm1", "all", 420_626, 16_062, 37.587, 96.18),
        ("cm2", 2, 1_074, 382, 0.129, 64.43),
        ("cm2", 3, 9_330, 702, 1.614, 92.48),
        ("cm2", "all", 271_602, 10_302, 48.888, 96.21),
        ("cm3", 2, 1_074, 382, 0.061, 64.43),
        ("cm3", 3, 9_330, 702, 0.766, 92.48),
        ("cm3", "all", 1_058_034, 41_022, 90.333, 96.12),
        ("cm3", 1, 34, 142, -0.0096, -317.65),  # one layer: the head is larger
    ],
)
def test_both_reductions_are_the_published_ones(name, k, removed, head, whole, block):
    report = graft(surface_cnn(name), k).parameter_report()
    assert (report.removed, report.head, report.inert) == (removed, head, 5)
    assert report.head == report.head_pre + report.head_circuit + report.head_post
    assert (report.head_circuit, report.head_post) == (45, 12)
    assert report.total_after == report.kept_trunk + report.kept_dense + report.head
    assert report.total_before - report.removed == report.kept_trunk + report.kept_dense
    assert report.trainable == head
    assert 100 * report.reduction_whole == pytest.approx(whole, abs=6e-4)
    assert 100 * report.reduction_block == pytest.approx(block, abs=6e-3)


def test_kept_parameters_are_told_apart():
    report = graft(surface_cnn("cm1"), 3).parameter_report()
    assert (report.kept_trunk, report.kept_dense) == (655_712, 409_728 + 8_256)
    assert report.trainable_share == pytest.approx(382 / 1_076_338)
    assert graft(surface_cnn("cm1"), "all").parameter_report().kept_dense == 0


def test_the_report_prints_as_a_table():
    text = str(graft(surface_cnn("cm2"), 2).parameter_report())
    assert "reduction, replaced block       64.43%" in text
    assert "534,482" in text
    dense = graft(surface_cnn("cm2"), 2, head="dense").parameter_report()
    assert dense.head_pre is None
    assert "pre-net" not in str(dense)
    assert dense.inert == 0


@pytest.mark.parametrize(
    ("model", "cut", "n_features", "n_classes"),
    [
        (small_cnn(), {"replace_last": 1}, 10, 2),
        (small_cnn(), {"replace_last": 2}, 20, 2),
        (small_cnn(), {"replace_last": "all"}, 144, 2),
        (small_cnn(), {"replace": "4"}, 20, 2),
        (small_cnn(), {"replace": "4.3"}, 10, 2),
        (AlexLike(), {"replace_last": 1}, 12, 3),
        (AlexLike(), {"replace_last": "all"}, 16, 3),
        (AlexLike(), {"replace": "classifier"}, 16, 3),
        (AlexLike(), {"replace": "classifier.4"}, 12, 3),
        (ResLike(), {"replace": "fc"}, 4, 5),
        (ResLike(), {"replace_last": 1}, 4, 5),
        (TwoDense(), {"replace_last": 1}, 6, 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), {"replace": "1"}, 64, 2),
    ],
)
def test_arbitrary_models_are_cut_where_asked(model, cut, n_features, n_classes):
    before = copy.deepcopy(model.state_dict())
    grafted = graft(model, **cut, sample=IMAGES)
    assert grafted.head.pre.in_features == n_features
    assert grafted(IMAGES).shape == (3, n_classes)
    assert grafted.features(IMAGES).shape == (3, n_features)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


def test_the_features_are_what_the_replaced_layers_received():
    model = small_cnn().eval()
    features = graft(model, 2).features(IMAGES)
    assert torch.equal(model[4](features), model(IMAGES))
    kept_names = graft(model, 2).trunk.state_dict().keys()
    assert kept_names <= model.state_dict().keys()


def test_named_children_keep_their_names():
    layers = {"conv": nn.Conv2d(1, 2, 8), "flat": nn.Flatten(), "out": nn.Linear(2, 2)}
    named = nn.Sequential()
    for name, layer in layers.items():
        named.add_module(name, layer)
    assert [name for name, _ in graft(named, 1).trunk.named_children()] == ["conv", "flat"]


def test_a_training_step_moves_the_head_and_nothing_of_the_trunk():
    grafted = graft(small_cnn(), 2, head="dressed", n_qubits=3, depth=1).train()
    assert grafted.head.training
    assert not any(m.training for m in grafted.trunk.modules())
    before = copy.deepcopy(grafted.state_dict())
    optimiser = torch.optim.Adam([p for p in grafted.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(grafted(IMAGES), torch.tensor([0, 1, 0])).backward()
    optimiser.step()
    changed = {k.split(".")[0] for k, v in grafted.state_dict().items() if not v.equal(before[k])}
    assert changed == {"head"}
    assert all(p.grad is None for p in grafted.trunk.parameters())
    assert torch.equal(grafted.features(IMAGES), grafted.features(IMAGES))  # dropout is off


def test_heads_by_name_module_and_function():
    by_name = graft(small_cnn(), 1, head="dense", widths=(7,))
    assert isinstance(by_name.head, DenseHead)
    module = nn.Linear(10, 4)
    assert graft(small_cnn(), 1, head=module).head is module
    made = graft(small_cnn(), 1, head=lambda n, c: nn.Linear(n, c), n_classes=9)
    assert made(IMAGES).shape == (3, 9)
    assert isinstance(graft(small_cnn(), 1, head=DressedHead).head, DressedHead)


def test_convolutional_classifiers_need_a_sample_and_a_number_of_classes():
    squeeze = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sequential(nn.Conv2d(3, 2, 6), nn.Flatten()))
    grafted = graft(squeeze, replace="1", sample=IMAGES, n_classes=2)
    assert grafted.head.pre.in_features == 3 * 36
    assert grafted(IMAGES).shape == (3, 2)
    with pytest.raises(ModelError, match="give a sample"):
        graft(squeeze, replace="1", n_classes=2)
    with pytest.raises(ModelError, match="give n_classes"):
        graft(squeeze, replace="1", sample=IMAGES)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: graft(small_cnn(), 4), ModelError, "replace_last=4: this model has 3 dense"),
        (lambda: graft(small_cnn(), 0), ModelError, "give 1 to 3, or 'all'"),
        (lambda: graft(small_cnn(), True), ModelError, "give 1 to 3"),
        (lambda: graft(small_cnn(), "last"), ModelError, "replace_last='last'"),
        (lambda: graft(small_cnn()), ModelError, "either replace_last=k"),
        (lambda: graft(small_cnn(), 1, replace="4"), ModelError, "either replace_last=k"),
        (lambda: graft(nn.Sequential(nn.Conv2d(1, 2, 3)), 1), ModelError, "no dense layer"),
        (lambda: graft("cm1", 1), ModelError, "needs a torch.nn.Module, got str"),
        (lambda: graft(AlexLike(), replace="clasifier"), ModelError, "mean 'classifier'"),
        (lambda: graft(AlexLike(), replace="zzz"), ModelError, "children are features, avgpool"),
        (lambda: graft(AlexLike(), replace="classifier.1"), ModelError, "followed by more layers"),
        (lambda: graft(TwoDense(), 2), ModelError, "'fc1' is followed by 'fc2' outside"),
        (lambda: graft(ResLike(nn.ReLU()), 1), ModelError, "'fc' is followed by 'after'"),
        (
            lambda: graft(ResLike(nn.Softmax(1)), replace="fc", sample=IMAGES),
            ModelError,
            "does more after the replaced layers",
        ),
        (
            lambda: graft(small_cnn(), 1, sample=torch.rand(2, 3, 8, 8)),
            ModelError,
            "cannot process",
        ),
        (lambda: graft(small_cnn(), 1, head="dresse"), ConfigError, "did you mean 'dressed'"),
        (lambda: graft(small_cnn(), 1, head=nn.Linear(1, 1), depth=2), ModelError, "by name"),
        (lambda: graft(small_cnn(), 1, head=lambda n, c: n + c), ModelError, "got int"),
    ],
)
def test_mistakes_are_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()
