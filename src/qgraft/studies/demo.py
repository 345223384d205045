"""The main job on the embedded default: synthetic steel, one network, its three grafts."""

from __future__ import annotations

from typing import Any

from qgraft.config import SurfaceConfig
from qgraft.data.surface import most_per_class
from qgraft.data.synthetic import synthetic_steel
from qgraft.studies.run import Run
from qgraft.studies.surface import CLEAN_NOTES, run_surface
from qgraft.studies.two_stage import no_facts

N_PER_DEFECT = 80
DEMO_SETTINGS: dict[str, Any] = {
    "data": "embedded synthetic steel",
    "protocol": "clean",
    "models": ("cm2",),
    "inits": 1,
    "epochs": 60,
    "head_seeds": 1,
}
NOTES = (
    "Synthetic surfaces and a short training: this shows how qgraft works and says nothing about "
    "real steel. Published values do not apply and are not shown.",
    *CLEAN_NOTES,
)


def run_demo(run: Run, config: SurfaceConfig) -> dict[str, Any]:
    """Run the study on synthetic photographs and return the content of `result.json`."""
    run.progress(0.0, 1.0, "painting synthetic steel")
    photographs = synthetic_steel(N_PER_DEFECT, seed=config.seed)
    per_class = min(most_per_class(photographs), config.per_class)
    sized = config.model_copy(update={"per_class": per_class})
    return run_surface(run, photographs, sized, notes=NOTES, facts=no_facts)
