"""What is counted where another engine than the kit's own samples."""

from __future__ import annotations

import pytest

from gpg_vl.config import Recipe
from gpg_vl.planning.cards import CARDS
from gpg_vl.planning.engines import engine_seconds
from gpg_vl.planning.layouts import Size
from tests.support.small_recipes import small_recipe

SIZE = Size(weights=10**9, trained=10**9, largest=10**8, block=10**7, outside=10**8)
CARD = CARDS["h100-80"]


def seconds(mode: str, disk: float) -> float:
    keys = {"model.path": "m", "data.train": ["t.jsonl"], "model.dtype": "bfloat16", "rollout.engine": "vllm"}
    recipe: Recipe = small_recipe(keys | {"rollout.vllm.mode": mode, "rollout.max_new_tokens": 100}, {})
    return engine_seconds(recipe, SIZE, 1e15, CARD, 1e15, 1, disk)


def test_new_weights_go_through_a_disk_to_servers_alone() -> None:
    """2 bytes a weight, written and read; what is sampled from them takes as long in both places."""
    sampled = 1.0 + 100 * 2e9 / CARD.bandwidth
    assert seconds("server", 1e9) == pytest.approx(sampled + 4.0)
    assert seconds("colocate", 1e9) == seconds("colocate", 1e6) == pytest.approx(sampled + 4e9 / CARD.bandwidth)
