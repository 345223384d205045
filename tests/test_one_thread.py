"""Trained networks do not depend on how many cores there are."""

import threading

import pytest
import torch
from torch import nn

from qgraft.seeds import torch_stream
from qgraft.training.loop import Recipe, Samples, train
from qgraft.training.minibatch import StepRecipe, drawn_batches, train_steps
from qgraft.training.one_thread import one_thread
from qgraft.trunks.fashion_cnn import fashion_cnn
from qgraft.trunks.lenet import lenet5


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(build, by_steps):
    """Return the weights of a network after a few batches of made-up digits."""
    with torch_stream(0, "one thread"):
        network = build()
        samples = Samples(torch.rand(128, 1, 28, 28), torch.randint(0, 10, (128,)))
    if by_steps:
        recipe = StepRecipe(steps=3)
        train_steps(network, samples, drawn_batches(128, recipe, 0), recipe)
    else:
        train(network, samples, samples, Recipe(1, 1e-3, batch_size=32), seed=0)
    return network.state_dict()


# Without the guard both networks differ in their last bits after the first step.
@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("build", [lambda: fashion_cnn(256, 10), lambda: lenet5(10)])
def test_one_and_two_threads_train_the_same_network(build, by_steps, two_threads):
    two = trained(build, by_steps)
    torch.set_num_threads(1)
    one = trained(build, by_steps)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_blocks_nest_and_overlap_and_restore_the_number(two_threads):
    entered, leave = threading.Event(), threading.Event()

    def other():
        with one_thread():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_thread():
        with one_thread():
            thread.start()
            assert entered.wait(10)
        assert torch.get_num_threads() == 1
        leave.set()
        thread.join()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_an_error_restores_the_number(two_threads):
    @one_thread()
    def fails():
        assert torch.get_num_threads() == 1
        return nn.Linear(2, 2)(torch.zeros(3))

    with pytest.raises(RuntimeError):
        fails()
    assert torch.get_num_threads() == 2
