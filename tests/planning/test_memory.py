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
    sizes = {phase: (sum(parts.values()), found.measured.bytes[phase]) for phase, parts in found.planned.phases.items()}
    assert abs(found.ratio - 1) <= WITHIN, sizes


@pytest.mark.parametrize("name", ["full", "lora", "checkpointing"])
def test_planned_peaks_are_those_measured(model_folders: dict[str, Path], name: str) -> None:
    assert_near(model_folders["qwen2_vl"], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "small budget", "ordinary rows"])
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
