"""Settings: all mistakes at once, with what is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraft.config import FitConfig, SurfaceConfig, resolve
from qgraft.errors import ConfigError
from qgraft.seeds import derive, numpy_rng, torch_stream


def test_defaults_are_those_of_the_paper():
    config = resolve(SurfaceConfig, {"data": "x"})
    assert (config.epochs, config.inits, config.head_epochs, config.folds) == (120, 5, 40, 6)
    assert (config.learning_rate, config.head_learning_rate, config.batch_size) == (1e-3, 8e-4, 64)
    assert (config.n_qubits, config.depth, config.per_class) == (5, 3, 1103)


def test_every_mistake_is_reported_with_a_hint():
    with pytest.raises(ConfigError) as caught:
        resolve(SurfaceConfig, {"data": "x", "epoch": 3, "folds": 1, "models": ("cm9",)})
    text = str(caught.value)
    assert "unknown setting 'epoch'; did you mean 'epochs'?" in text
    assert "folds = 1: input should be greater than or equal to 2" in text
    assert "models.0 = 'cm9'" in text


@given(st.dictionaries(st.text(max_size=12), st.integers() | st.text() | st.none(), max_size=6))
def test_any_settings_give_a_config_or_one_clear_error(values):
    known = set(FitConfig.model_fields)
    if set(values) - known:
        with pytest.raises(ConfigError, match="unknown setting"):
            resolve(FitConfig, {"data": "x", **values})
    else:
        assert resolve(FitConfig, {"data": "x", **values}).trunk == "cm2"


def test_a_configuration_survives_json():
    config = resolve(FitConfig, {"data": "x", "replace_last": 2, "classes": ("a", "b")})
    assert resolve(FitConfig, config.model_dump(mode="json")) == config


def test_streams_depend_on_every_argument_and_nothing_else():
    import torch

    assert derive(0, "a", 1) == derive(0, "a", 1)
    assert len({derive(s, p, i) for s in (0, 1) for p in ("a", "b") for i in (0, 1)}) == 8
    assert numpy_rng(3, "x").random() == numpy_rng(3, "x").random()
    with torch_stream(3, "x"):
        first = torch.rand(2)
    torch.rand(5)
    with torch_stream(3, "x"):
        assert torch.equal(torch.rand(2), first)
