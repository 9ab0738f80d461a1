"""A plan's peak against a measured one, on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.models import SMALL, build_model, write_processor
from gpg_vl.planning.live_memory import ACTIVATIONS, GRADIENTS
from tests.support.plans import VARIANTS, compare, planned_for, variant_of

WITHIN = 0.15


def assert_near(folder: Path, name: str) -> None:
    found = compare(variant_of(folder, name))
    planned = {phase: sum(parts.values()) for phase, parts in found.planned.phases.items()}
    sizes = {phase: (planned[phase], taken) for phase, taken in found.measured.bytes.items()}
    assert abs(found.ratio - 1) <= WITHIN, sizes


@pytest.mark.parametrize("name", ["full", "lora", "checkpointing", "bfloat16"])
def test_planned_peaks_are_those_measured(model_folders: dict[str, Path], name: str) -> None:
    assert_near(model_folders["qwen2_vl"], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "small budget", "ordinary rows", "bfloat16 lora"])
def test_planned_peaks_are_those_measured_of_more_recipes(model_folders: dict[str, Path], name: str) -> None:
    assert_near(model_folders["qwen2_vl"], name)


@pytest.fixture(scope="module")
def forty_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("40M")
    processor = write_processor(folder, SMALL)
    build_model(SMALL, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_planned_peaks_of_a_larger_model(forty_million: Path, name: str) -> None:
    assert_near(forty_million, name)


def test_parts_follow_the_recipe(model_folders: dict[str, Path]) -> None:
    """Checkpointing keeps less, a frozen tower keeps nothing, sharding shares."""
    folder = model_folders["qwen2_vl"]
    full, checkpointing, frozen = (
        planned_for(variant_of(folder, name)).phases["update"] for name in ("full", "checkpointing", "frozen")
    )
    assert checkpointing[ACTIVATIONS] < full[ACTIVATIONS]
    assert frozen.get("vision", 0) < full["vision"] / 4
    sharded = planned_for(variant_of(folder, "full"), "zero3", 4)
    assert sharded.phases["update"][GRADIENTS] == pytest.approx(full["weights"] / 4, rel=0.01)
    assert sharded.phases["rollout"]["gathered weights"] == full["weights"]


def test_rounded_weights_are_widened_for_the_check_and_for_nothing_else(model_folders: dict[str, Path]) -> None:
    phases = planned_for(variant_of(model_folders["qwen2_vl"], "bfloat16 lora")).phases
    exact = planned_for(variant_of(model_folders["qwen2_vl"], "lora")).phases
    assert phases["check"]["weights"] == exact["rollout"]["weights"]
    for phase in ("rollout", "update", "step"):
        assert phases[phase]["weights"] < 0.6 * exact[phase]["weights"]
    assert sum(phases["update"].values()) < 0.8 * sum(exact["update"].values())
