"""Signals: a run stops within a step, says how to go on, and ends with the same bits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from crash_runs import (
    CONFIG,
    PICTURES,
    RECIPE,
    be_quick_and_eager,
    native_heads,
    outcome,
    rest_easy,
    small_cnn,
)
from qgraft.errors import RunError
from qgraft.studies.run import open_run, remove_run
from qgraft.training.checkpoint import load_newest, load_tensors, read_json
from qgraft.training.loop import train
from qgraft.training.stopping import Stopped, stop_on_signals


@pytest.fixture(autouse=True)
def quick_and_eager(monkeypatch):
    be_quick_and_eager(monkeypatch.setattr)


def signalling(model, at, number, *, times=1):
    """Let `model` send itself a signal in the middle of its call `at`; return the list of calls."""
    calls = []

    def hook(module, inputs, output):
        calls.append(module.training)
        if len(calls) == at:
            for _ in range(times):
                signal.raise_signal(number)  # os.kill might reach another thread, and later

    model[0].register_forward_hook(hook)
    return calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_loses_no_step(number, tmp_path, monkeypatch):
    rest_easy(monkeypatch)  # nothing is stored in between
    whole = tmp_path / "whole.safetensors"
    model = small_cnn()
    calls = signalling(model, 0, 0)
    train(model, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=whole)
    assert len(calls) == 3 * (3 + 1)  # steps and one scoring an epoch
    for at in range(1, len(calls) + 1):
        file = tmp_path / str(at) / "one.safetensors"
        stopped, resumed = small_cnn(), small_cnn()
        done = signalling(stopped, at, number)
        with pytest.raises(Stopped) as caught, stop_on_signals():
            train(stopped, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
        assert caught.value.signal == number
        assert len(done) == at
        rest = signalling(resumed, 0, 0)
        train(resumed, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
        assert done + rest == calls if done[-1] else done[:-1] + rest == calls
        assert file.read_bytes() == whole.read_bytes()


def test_a_second_signal_does_not_wait(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started this in the background
    file = tmp_path / "one.safetensors"
    model = small_cnn()
    signalling(model, 2, signal.SIGINT, times=2)
    with pytest.raises(Stopped), stop_on_signals():
        train(model, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
    assert int(load_tensors(file)["epoch.steps"]) == 1  # step 2 was cut in two and is not stored
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("threads", [1, 2])
def test_native_heads_stop_and_go_on(threads, tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    native_heads(tmp_path / "whole")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for at in (1, 4, 7):
        count = 0

        def stop(done, total, note, at=at):
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGTERM)

        folder = tmp_path / f"stopped-{at}"
        with pytest.raises(Stopped), stop_on_signals():
            native_heads(folder, progress=stop)
        if threads == 1:
            assert len(list(folder.rglob("*.safetensors"))) == (at - 1) // CONFIG.head_epochs
        native_heads(folder)
        assert outcome(folder) == outcome(tmp_path / "whole")


def write_parts(folder):
    rng = np.random.default_rng(0)
    for label, grey in (("normal", 90), ("anomalous", 160)):
        (folder / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(grey, 10, (40, 40)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_command_stops_when_asked_and_says_how_to_go_on(number, tmp_path):
    """One process trains; the next is refused by name; a signal ends the first; a third goes on."""
    data, out = write_parts(tmp_path / "parts"), tmp_path / "run"
    words = [sys.executable, "-c", "from qgraft.cli import main; main()", "fit", str(data)]
    words += ["--epochs", "5000", "--folds", "2", "--seed", "1", "--out", str(out)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for(out / "data.json", process)
        with pytest.raises(RunError, match=rf"in use by process {process.pid} on .+ since 2"):
            open_run(out, {}, resume=True)
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            remove_run(out)
        time.sleep(0.5)
        process.send_signal(number)
        asked = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert time.monotonic() - asked < 20  # 2 s and a step, on a machine that does nothing else
    assert errors.endswith(f"{out} goes on with the same command and --resume\nstopped\n")
    assert "Traceback" not in errors
    assert load_newest(out / "trunks" / "cm2" / "init-0.safetensors")
    settings = read_json(out / "config.json")
    assert open_run(out, settings, resume=True).folder == out


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
