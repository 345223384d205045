"""Distillation: identities of the loss, what reaches a student, students side by side."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qgraft.errors import ConfigError, ModelError
from qgraft.heads.product_student import ProductStudent, StudentOptions
from qgraft.training.distillation import (
    UNLABELLED,
    Distillation,
    Ensemble,
    Taught,
    attention_loss,
    attention_map,
    distillation_loss,
    distilled,
    relational_loss,
    teach,
    teacher_divergence,
)
from qgraft.training.loop import Recipe, Samples, label_loss, train
from qgraft.training.side_by_side import SideBySide, loss_of_all, samples_for_all
from qgraft.trunks.lenet import lenet5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_kd(student, teacher, temperature, alpha):
    """Return the published term as its code has it: a mean over all elements, times classes."""
    n_classes = teacher.shape[1]
    soft = F.log_softmax(student[:, :n_classes] / temperature, dim=1)
    target = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(soft, target, reduction="mean") * temperature**2 * alpha * n_classes


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("batch", [1, 5])
def test_published_term_is_alpha_t_squared_kl(batch):
    student, teacher = normal(batch, 16), normal(batch, 6, seed=1)
    p = (teacher / 3).softmax(1).numpy()
    q = (student[:, :6] / 3).softmax(1).numpy()
    by_hand = 0.9 * 9 * (p * np.log(p / q)).sum(1).mean()
    ours = 0.9 * teacher_divergence(student, teacher, 3.0)
    assert float(ours) == pytest.approx(by_hand, rel=1e-12)
    assert float(published_kd(student, teacher, 3.0, 0.9)) == pytest.approx(by_hand, rel=1e-12)


def test_forms_differ_in_the_weight_of_the_labels():
    student, teacher, labels = normal(4, 6), normal(4, 6, seed=1), torch.tensor([0, 1, 5, 2])
    ce = F.cross_entropy(student, labels)
    kd = teacher_divergence(student, teacher, 2.0)
    weighted = distillation_loss(student, teacher, labels, alpha=0.3, temperature=2.0)
    published = distillation_loss(
        student, teacher, labels, alpha=0.3, temperature=2.0, form="published"
    )
    torch.testing.assert_close(weighted, 0.7 * ce + 0.3 * kd)
    torch.testing.assert_close(published, ce + 0.3 * kd)


@pytest.mark.parametrize("form", ["weighted", "published"])
def test_alpha_zero_is_cross_entropy(form):
    student, teacher, labels = normal(4, 9), normal(4, 6, seed=1), torch.tensor([0, 1, 5, 2])
    loss = distillation_loss(student, teacher, labels, alpha=0.0, temperature=3.0, form=form)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels))


def test_unlabelled_samples_count_in_the_part_of_the_teacher_alone():
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    labels = torch.tensor([2, UNLABELLED, 5, UNLABELLED])
    found = distillation_loss(student, teacher, labels, alpha=0.7, temperature=2.0)
    known = F.cross_entropy(student[[0, 2]], labels[[0, 2]])
    assert torch.allclose(found, 0.3 * known + 0.7 * teacher_divergence(student, teacher, 2.0))
    nobody = torch.full((4,), UNLABELLED)
    alone = distillation_loss(student, teacher, nobody, alpha=0.7, temperature=2.0)
    assert torch.allclose(alone, 0.7 * teacher_divergence(student, teacher, 2.0))


def test_uniform_teacher_is_label_smoothing():
    """At temperature 1 the gradient is that of cross-entropy with smoothed labels."""
    student = normal(5, 4).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    (ours,) = torch.autograd.grad(
        distillation_loss(student, torch.zeros(5, 4).double(), labels, alpha=0.2, temperature=1.0),
        student,
    )
    smoothed = F.cross_entropy(student, labels, label_smoothing=0.2)
    torch.testing.assert_close(ours, torch.autograd.grad(smoothed, student)[0])


def test_high_temperature_matches_centred_logits():
    """T**2 KL tends to half the mean square of the centred difference (arXiv 1503.02531, 2.1)."""
    student, teacher = normal(3, 5), normal(3, 5, seed=1)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = gap.square().sum(1).mean() / (2 * 5)
    assert float(teacher_divergence(student, teacher, 1e4)) == pytest.approx(float(limit), rel=1e-3)


def test_temperature_schedules():
    how = Distillation(temperature=8.0, last_temperature=2.0, schedule="linear").checked()
    assert [how.temperature_at(e, 4) for e in range(4)] == pytest.approx([8, 6, 4, 2])
    cosine = how._replace(schedule="cosine")
    assert cosine.temperature_at(0, 5) == 8
    assert cosine.temperature_at(2, 5) == pytest.approx(5)
    assert cosine.temperature_at(4, 5) == pytest.approx(2)
    assert Distillation().temperature_at(7, 10) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
        ({"temperature": 0.0}, "temperature must be from 0.01 to 1000"),
        ({"attention": -1.0}, "attention must be from 0 to 1e6"),
        ({"schedule": "linear"}, "a schedule and last_temperature go together"),
        ({"last_temperature": 2.0}, "a schedule and last_temperature go together"),
    ],
)
def test_settings_out_of_range(changes, says):
    with pytest.raises(ConfigError, match=says):
        Distillation()._replace(**changes).checked()


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_relations_ignore_scale_and_shift(seed, scale):
    points = normal(6, 4, seed=seed)
    moved = scale * points + normal(1, 4, seed=seed + 1)
    assert float(relational_loss(points, moved)) == pytest.approx(0, abs=1e-10)
    assert float(relational_loss(points, normal(6, 4, seed=seed + 2))) > 0


def test_a_batch_of_one_has_no_relations():
    assert float(relational_loss(normal(1, 4), normal(1, 4))) == 0


def test_attention_ignores_scale_and_channels():
    maps = normal(3, 5, 4, 4)
    assert float(attention_loss(attention_map(maps), attention_map(7 * maps))) < 1e-12
    doubled = torch.cat([maps, maps], 1)
    assert float(attention_loss(attention_map(maps), attention_map(doubled))) < 1e-12
    assert attention_map(maps, (2, 2)).shape == (3, 4)


def test_attention_needs_convolutions_and_a_teacher_that_shows_it():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    how = Distillation(attention=1.0)
    with pytest.raises(ModelError, match="has no convolution"):
        teach(net, torch.zeros(2, 1, 2, 2))
    with (
        pytest.raises(ConfigError, match="left no attention maps"),
        distilled(net, Taught(torch.zeros(2, 2)), how, epochs=1),
    ):
        pass


def images(n=24, classes=6):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    pixels = torch.randint(0, 80, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for k, label in enumerate(labels.tolist()):
        pixels[k, 0, :, 4 * label : 4 * label + 4] += 150
    return Samples(pixels, labels)


def test_every_part_of_the_loss_reaches_the_student():
    data = images()
    torch.manual_seed(0)
    taught = teach(lenet5(6), data.inputs)
    assert taught.size == (8, 8)
    assert taught.attention is not None
    assert taught.attention.norm(dim=1).tolist() == pytest.approx([1.0] * 24, abs=1e-5)
    ends = []
    for how in (Distillation(), Distillation(attention=5.0), Distillation(relations=5.0)):
        torch.manual_seed(1)
        student = ProductStudent(6, StudentOptions(read_out="linear"))
        with distilled(student, taught, how, epochs=2) as loss:
            train(student, data, None, Recipe(2, 1e-2, 8), seed=0, loss=loss)
        ends.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_alpha_zero_trains_the_same_weights_as_no_teacher():
    data, ends = images(), []
    for how in (None, Distillation(alpha=0.0)):
        torch.manual_seed(1)
        student = ProductStudent(6)
        if how is None:
            train(student, data, None, Recipe(1, 1e-2, 4), seed=0, loss=label_loss)
        else:
            with distilled(student, Taught(torch.randn(24, 6)), how, epochs=1) as loss:
                train(student, data, None, Recipe(1, 1e-2, 4), seed=0, loss=loss)
        ends.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_ensembles_average_logits_or_probabilities():
    x = normal(4, 3).float()
    parts = [torch.nn.Linear(3, 5) for _ in range(3)]
    outputs = torch.stack([part(x) for part in parts])
    torch.testing.assert_close(Ensemble(parts)(x), outputs.mean(0))
    by_probability = Ensemble(parts, "probabilities")(x)
    torch.testing.assert_close(by_probability.exp(), outputs.softmax(-1).mean(0))
    with pytest.raises(ModelError, match="at least one member"):
        Ensemble([])
    with pytest.raises(ModelError, match="unknown mean 'votes'"):
        Ensemble(parts, "votes")  # pyright: ignore


def test_students_side_by_side_take_the_steps_they_take_alone():
    torch.manual_seed(0)
    data = Samples(torch.rand(20, 6), torch.arange(20) % 3)
    members = [torch.nn.Linear(6, 3) for _ in range(3)]
    orders = [np.random.default_rng(k).permutation(20) for k in range(3)]
    together = SideBySide(members)
    recipe = Recipe(3, 1e-2, 4)
    train(
        together, samples_for_all(data, orders), None, recipe, seed=5,
        loss=loss_of_all(label_loss, orders),
    )  # fmt: skip
    for k, (member, order) in enumerate(zip(members, orders, strict=True)):
        train(member, data.subset(order), None, recipe, seed=5)
        for name, weight in member.state_dict().items():
            torch.testing.assert_close(together.member_state(k)[name], weight)
    inputs = torch.rand(5, 6)
    expected = torch.stack([member(inputs) for member in members], dim=1)
    torch.testing.assert_close(together.eval()(inputs), expected)
