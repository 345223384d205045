"""The names that `import qgraft` gives."""

import subprocess
import sys

import pytest

import qgraft


def test_public_names_are_sorted_complete_and_there():
    assert sorted(qgraft.__all__) == qgraft.__all__
    assert set(qgraft.__all__) == set(qgraft._HOME)
    for name in qgraft.__all__:
        value = getattr(qgraft, name)
        assert value.__name__ == name
        assert value.__module__.startswith("qgraft.")
        assert value.__doc__, f"{name} says what it is"
    assert set(qgraft.__all__) <= set(dir(qgraft))


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'qgraft' has no attribute 'graphs'"):
        _ = qgraft.graphs


def test_importing_loads_nothing_heavy():
    code = """if True:
        import sys, time
        start = time.perf_counter()
        import qgraft
        print(time.perf_counter() - start, *sys.modules)
        qgraft.TorchLayer
        print("pennylane" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, layer_loads_pennylane = done.stdout.splitlines()
    seconds, *modules = first.split()
    assert not {"torch", "numpy", "pennylane", "sklearn"} & set(modules)
    assert float(seconds) < 0.1
    assert layer_loads_pennylane == "False"
