"""Networks that teach and learn: published sizes, the published student by another route."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qgraft.circuits.circuit import Circuit, Op
from qgraft.circuits.embeddings import angle_embedding
from qgraft.errors import ConfigError, ModelError
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
from qgraft.trunks.lenet import alexnet28, digit_network, lenet5


def count(module):
    return sum(p.numel() for p in module.parameters())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
