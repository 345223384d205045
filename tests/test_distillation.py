"""Distillation: loss identities, the published student by another route, files of logits."""

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file
from torch.nn import functional as F

from qgraft.circuits.circuit import Circuit, Op
from qgraft.circuits.embeddings import angle_embedding
from qgraft.errors import ConfigError, DataError, ModelError
from qgraft.heads.encoded_student import EncodedOptions, EncodedStudent, reducer, student_circuit
from qgraft.heads.product_student import (
    AngleNet,
    ClassicalStudent,
    ProductReadout,
    ProductStudent,
    SigmoidReadOut,
    StudentOptions,
    product_probabilities,
    sample_frequencies,
    sharpest_cross_entropy,
)
from qgraft.simulate import statevector
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
from qgraft.training.logits_file import read_logits
from qgraft.training.loop import Recipe, Samples, label_loss, train
from qgraft.training.side_by_side import SideBySide, loss_of_all, samples_for_all
from qgraft.trunks.lenet import alexnet28, digit_network, lenet5


def count(module):
    return sum(p.numel() for p in module.parameters())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Losses


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


# Networks


def test_published_parameter_counts():
    assert [count(lenet5(c)) for c in (6, 8)] == [44_086, 44_256]
    assert count(ProductStudent(6)) == 21_483
    assert count(ProductStudent(8, StudentOptions(4))) == 21_534
    assert count(ProductStudent(6, StudentOptions(circuit="entangling"))) == 21_483 + 18
    assert count(ClassicalStudent(6)) <= 21_483 < count(ClassicalStudent(6)) + 327
    with torch.device("meta"):
        sizes = [count(alexnet28(c)) for c in (6, 8)]
    assert sizes == [94_655_686, 94_663_880]
    assert sizes[0] + 44_086 == 94_699_772
    assert sizes[1] + 44_256 == 94_708_136


def test_teachers_take_small_images():
    x = torch.rand(2, 1, 28, 28)
    assert lenet5(6)(x).shape == (2, 6)
    with pytest.raises(ConfigError, match="unknown network 'vgg'; choose one of lenet, alexnet"):
        digit_network("vgg", 6)
    with torch.device("meta"):
        assert alexnet28(8)(torch.rand(2, 1, 28, 28, device="meta")).shape == (2, 8)


def numpy_student(weights, image):
    """Compute the published student on one image with NumPy alone, gate by gate."""

    def conv(x, w, b):
        out = np.empty((len(w), x.shape[1] - 4, x.shape[2] - 4))
        for o in range(len(w)):
            for i in range(out.shape[1]):
                for j in range(out.shape[2]):
                    out[o, i, j] = (x[:, i : i + 5, j : j + 5] * w[o]).sum() + b[o]
        return out

    def pool(x):
        c, h, w = x.shape
        return x.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))

    w = [p.detach().double().numpy() for p in weights]
    x = np.maximum(pool(conv(image, w[0], w[1])), 0)
    x = np.maximum(pool(conv(x, w[2], w[3])), 0).reshape(-1)
    x = np.maximum(w[4] @ x + w[5], 0)
    angles = np.pi * np.tanh(w[6] @ x + w[7])
    n = len(angles)
    hadamard = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    state = np.zeros(2**n)
    state[0] = 1
    for qubit, angle in enumerate(angles):  # qubit 0 is the least significant bit
        c, s = np.cos(angle / 2), np.sin(angle / 2)
        gate = np.array([[c, -s], [s, c]]) @ hadamard
        full = np.eye(1)
        for place in reversed(range(n)):
            full = np.kron(full, gate if place == qubit else np.eye(2))
        state = full @ state
    p = 1 / (1 + np.exp(-(state**2)))
    return np.concatenate([p, 1 - p])


@pytest.mark.parametrize("n_qubits", [3, 4])
def test_published_student_by_another_route(n_qubits):
    torch.manual_seed(3)
    student = ProductStudent(6, StudentOptions(n_qubits)).double().eval()
    image = torch.rand(1, 1, 28, 28, dtype=torch.float64)
    expected = numpy_student(list(student.parameters()), image[0].numpy())
    np.testing.assert_allclose(student(image)[0].detach().numpy(), expected, atol=1e-12)


@given(arrays(np.float64, (2, 3), elements=st.floats(-4, 4)))
def test_product_formula_is_the_circuit(angles):
    ops = tuple(Op("H", (q,)) for q in range(3)) + angle_embedding(3, "Y")
    circuit = Circuit(3, ops, probabilities=(2, 1, 0))
    x = torch.from_numpy(angles)
    ours = product_probabilities(x)
    expected = statevector.probabilities(circuit, x, torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_gradient_against_parameter_shift():
    angles = normal(4, 3).requires_grad_()
    grads = normal(4, 8, seed=1)
    (exact,) = torch.autograd.grad((product_probabilities(angles) * grads).sum(), angles)
    undivided = torch.zeros_like(exact)
    for k in range(3):
        shift = torch.zeros(3).double()
        shift[k] = np.pi / 4
        gap = product_probabilities(angles + shift) - product_probabilities(angles - shift)
        undivided[:, k] = (gap * grads).sum(1).detach()
    torch.testing.assert_close(undivided, np.sqrt(2) * exact)
    published = ProductReadout(3, published_gradient=True)
    (scaled,) = torch.autograd.grad((published(angles) * grads).sum(), angles)
    torch.testing.assert_close(scaled, undivided)
    torch.testing.assert_close(published(angles), product_probabilities(angles))


def test_shots_are_unbiased():
    p = torch.tensor([0.5, 0.25, 0.125, 0.0, 0.0625, 0.0625, 0.0, 0.0], dtype=torch.float64)
    shots, runs = 100, 4000
    generator = torch.Generator().manual_seed(0)
    found = sample_frequencies(p.expand(runs, 8), shots, generator)
    assert torch.equal((found * shots).round() / shots, found)
    torch.testing.assert_close(found.sum(1), torch.ones(runs).double())
    error = (p * (1 - p) / (shots * runs)).sqrt()
    assert ((found.mean(0) - p).abs() <= 5 * error + 1e-15).all()
    spread = (p * (1 - p) / shots).sqrt()
    torch.testing.assert_close(found.std(0), spread, rtol=0.08, atol=1e-12)
    covariance = ((found[:, 0] - p[0]) * (found[:, 1] - p[1])).mean()
    assert float(covariance) == pytest.approx(-0.5 * 0.25 / shots, rel=0.1)


def test_gradients_from_shots_are_unbiased():
    angles = normal(1, 3)
    grads = normal(1, 8, seed=1)
    leaf = angles.clone().requires_grad_()
    (exact,) = torch.autograd.grad((product_probabilities(leaf) * grads).sum(), leaf)
    readout, runs = ProductReadout(3, shots=200), 1500
    many = angles.expand(runs, 3).clone().requires_grad_()
    torch.manual_seed(0)
    (found,) = torch.autograd.grad((readout(many) * grads).sum(), many)
    error = found.std(0) / runs**0.5
    assert ((found.mean(0) - exact[0]).abs() <= 5 * error).all()
    assert float(found.std(0).min()) > 0


def test_evaluation_shots_repeat():
    readout = ProductReadout(3, shots=50).eval()
    angles = normal(5, 3)
    assert torch.equal(readout(angles), readout(angles))
    assert not torch.equal(readout(angles), ProductReadout(3, shots=50, seed=1).eval()(angles))


def test_floor_of_the_sigmoid_read_out():
    assert sharpest_cross_entropy(3) == pytest.approx(2.545, abs=5e-4)
    assert sharpest_cross_entropy(4) == pytest.approx(3.236, abs=5e-4)
    logits = SigmoidReadOut()(torch.rand(100, 8).softmax(1))
    assert logits[:, :8].min() >= 0.5
    assert logits[:, :8].max() <= 0.7311
    assert logits[:, 8:].max() <= 0.5


def test_angles_stay_within_pi():
    angles = AngleNet(3)(100 * torch.rand(4, 1, 28, 28))
    assert angles.abs().max() <= np.pi + 1e-6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (StudentOptions(0), "1 to 12 qubits, got 0"),
        (StudentOptions(2), "2 qubits read out 8 classes, there are 10"),
        (StudentOptions(circuit="none"), "without a circuit there are no probabilities"),
        (StudentOptions(circuit="entangling", shots=9), "belong to the product circuit"),
        (StudentOptions(circuit="ring"), "unknown part 'ring'"),  # pyright: ignore
        (StudentOptions(4, shots=0), "shots must be from 1 to 1,000,000, got 0"),
    ],
)
def test_students_that_cannot_be(options, says):
    with pytest.raises(ModelError, match=says):
        ProductStudent(10, options)


@pytest.mark.parametrize("encoding", ["amplitude", "angle", "multi-axis"])
@pytest.mark.parametrize("n_qubits", [4, 8])
def test_encoded_students(encoding, n_qubits):
    student = EncodedStudent((1, 28, 28), 10, EncodedOptions(n_qubits, encoding, depth=2))
    width = {"amplitude": 2**n_qubits, "angle": n_qubits, "multi-axis": 4 * n_qubits}[encoding]
    assert student.circuit.n_angles == width
    assert count(student) == 785 * width + 6 * n_qubits + 10 * (n_qubits + 1)
    for n in (0, 1, 7):
        assert student(torch.rand(n, 1, 28, 28)).shape == (n, 10)
    student(torch.rand(3, 1, 28, 28)).sum().backward()
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    assert len(grads) == len(list(student.parameters()))
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert torch.isfinite(student(torch.zeros(1, 1, 28, 28))).all()


def test_the_drawn_circuit_has_no_entangling_gate():
    plain = student_circuit("multi-axis", 4, 1, entangled=False)
    assert all(len(op.qubits) == 1 for op in plain.ops)
    assert [op.gate for op in plain.ops[::4]] == ["RX", "RY", "RZ", "RX", "RX", "RY", "RZ"]
    assert sum(op.gate == "CNOT" for op in student_circuit("angle", 4, 2).ops) == 8


def test_fixed_reductions():
    x = torch.arange(784.0).reshape(1, 1, 28, 28)
    crop = reducer("crop", (1, 28, 28), 16)(x)
    assert crop[0, 0] == x[0, 0, 12, 12]
    average = reducer("average", (1, 28, 28), 16)(x)
    torch.testing.assert_close(average[0, 0], x[0, 0, :7, :7].mean())
    assert reducer("max", (1, 28, 28), 256)(x).shape == (1, 256)
    assert reducer("average", (1, 28, 28), 8)(x).shape == (1, 8)
    with pytest.raises(ModelError, match="takes grey images"):
        reducer("max", (100,), 16)
    with pytest.raises(ModelError, match="cannot be reduced to 16 numbers"):
        reducer("max", (1, 3, 3), 16)
    with pytest.raises(ModelError, match="unknown part 'zoom'"):
        EncodedStudent((1, 28, 28), 10, EncodedOptions(4, reduction="zoom"))  # pyright: ignore


def test_components_agree_with_scikit_learn():
    from sklearn.decomposition import PCA

    samples = normal(60, 1, 5, 5) * torch.linspace(0.2, 2, 25).view(1, 1, 5, 5)
    ours = reducer("pca", (1, 5, 5), 4, samples)(samples.float()).numpy()
    theirs = PCA(4, svd_solver="full").fit_transform(samples.flatten(1).numpy())
    theirs /= theirs.std(0)
    for k in range(4):
        assert abs(np.corrcoef(ours[:, k], theirs[:, k])[0, 1]) == pytest.approx(1, abs=1e-5)
        assert ours[:, k].std() == pytest.approx(1, abs=1e-3)
    with pytest.raises(ModelError, match="4 principal components need as many training inputs"):
        reducer("pca", (1, 5, 5), 4, samples[:3])


# Side by side


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


# Files of logits


def npz(**arrays_):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays_)
    return buffer.getvalue()


LOGITS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32])
def test_logits_from_files(tmp_path, kind):
    path = tmp_path / "logits.npz"
    path.write_bytes(npz(logits=LOGITS.astype(kind), other=np.zeros(2)))
    np.testing.assert_array_equal(read_logits(path, 4, 3), LOGITS)
    path.write_bytes(npz(anything=np.asfortranarray(LOGITS.astype(kind))))
    np.testing.assert_array_equal(read_logits(path, 4, 3), LOGITS)
    tensors = tmp_path / "logits.safetensors"
    save_file({"logits": torch.from_numpy(LOGITS)}, tensors)
    np.testing.assert_array_equal(read_logits(tensors, 4, 3), LOGITS)


def with_header(header):
    """Return a .npz whose array has a header of one's own and no values."""
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("logits.npy", content)
    return buffer.getvalue()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 3000000000)}"
OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (4, 3)}"
CODE = "__import__('os').system('true')"
SHORT = "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 3)}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as logits"),
        (b"PK\x03\x04 not a zip", "cannot be read as logits"),
        (npz(logits=LOGITS)[:-30], "cannot be read as logits"),
        (npz(logits=LOGITS[:3]), r"holds logits \(3, 3\); the 4 training samples"),
        (npz(logits=np.full((4, 3), np.nan)), "not finite"),
        (npz(logits=np.array([["a"] * 3] * 4)), "something else than real numbers"),
        (npz(logits=LOGITS.astype(complex)), "something else than real numbers"),
        (npz(a=LOGITS, b=LOGITS), "no array 'logits'; its arrays: a, b"),
        (npz(), "no array 'logits'; its arrays: none"),
        (with_header(HUGE), "holds logits"),
        (with_header(OBJECTS), "something else than real numbers"),
        (with_header(CODE), "cannot be read as logits"),
        (with_header(SHORT), "more or fewer values"),
    ],
)
def test_hostile_logits(tmp_path, content, says):
    path = tmp_path / "logits.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_logits(path, 4, 3)


def test_logits_of_other_kinds(tmp_path):
    with pytest.raises(DataError, match=r"give a \.npz or \.safetensors file"):
        read_logits(tmp_path / "logits.pkl", 4, 3)
    for name in ("no.npz", "no.safetensors"):
        with pytest.raises(DataError, match="does not exist"):
            read_logits(tmp_path / name, 4, 3)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_logits(broken, 4, 3)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_logits(tmp_path / "folder.npz", 4, 3)


def test_mutated_logits_never_escape(tmp_path, mutants):
    good, rng = npz(logits=LOGITS), np.random.default_rng(0)
    path = tmp_path / "logits.npz"
    for _ in range(mutants(60)):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        with contextlib.suppress(DataError):
            assert read_logits(path, 4, 3).shape == (4, 3)
