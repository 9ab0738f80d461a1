"""DeepSpeed files that a run cannot use. What ranks do at their start: ``faults/test_rank_starts.py``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpg_vl.processes.sharding import offloads_optimizer
from gpg_vl.processes.start import _check_deepspeed
from tests.support.messages import naming
from tests.support.tiny_runs import REPOSITORY

LAYOUTS = sorted((REPOSITORY / "scripts/deepspeed").glob("*.json"))
OFFLOADED = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_shipped_files_are_taken(path: Any) -> None:
    config = json.loads(path.read_text())
    _check_deepspeed(config)
    assert offloads_optimizer(config) == path.stem.endswith("_offload")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"bf16": {"enabled": True}}, ["bf16", "model.dtype"]),
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps", "update.tokens_per_micro_batch"]),
        (OFFLOADED, ["zero_force_ds_cpu_optimizer", "false"]),
        ({**OFFLOADED, "zero_force_ds_cpu_optimizer": True}, ["zero_force_ds_cpu_optimizer", "false"]),
    ],
    ids=["bf16", "accumulation", "offload", "offload, said"],
)
def test_files_that_change_the_step_or_cannot_be_saved_are_refused(config: dict[str, Any], words: list[str]) -> None:
    """DeepSpeed's own AdamW, which it takes for an offloaded optimizer by itself, keeps no state that can be saved."""
    with pytest.raises(ValueError, match=naming(*words)) as error:
        _check_deepspeed(config)
    assert "\n" not in str(error.value)


def test_an_optimizer_is_offloaded_where_the_file_names_a_place() -> None:
    assert offloads_optimizer(OFFLOADED)
    for place in ({"device": "none"}, {}, None):
        assert not offloads_optimizer({"zero_optimization": {"stage": 3, "offload_optimizer": place}})
    assert not offloads_optimizer({})
