"""The bound on the distance between the log-probs of an engine and the update."""

from __future__ import annotations

import math

import pytest

from gpg_vl.config import ModelConfig, Recipe, RolloutConfig, VllmConfig
from gpg_vl.rollout.served.parity import MAX_GAP
from gpg_vl.update.engine_gap import check_gap
from gpg_vl.update.gradient import UpdateError


def recipe(dtype: str = "float32", max_gap: float | None = None, **rollout: object) -> Recipe:
    keys = {"engine": "vllm", "vllm": VllmConfig(max_gap=max_gap), **rollout}
    return Recipe(model=ModelConfig(dtype=dtype), rollout=RolloutConfig(**keys))  # type: ignore[arg-type]


def test_in_float32_no_token_may_be_far() -> None:
    check_gap(recipe(), 1e-6, 0.99e-3)
    with pytest.raises(UpdateError, match=r"largest.*0.0011 nats.*rollout.vllm.max_gap"):
        check_gap(recipe(), 1e-6, 1.1e-3)


def test_in_bfloat16_the_mean_counts() -> None:
    check_gap(recipe("bfloat16"), 0.04, 3.0)
    with pytest.raises(UpdateError, match=r"mean.*0.06 nats"):
        check_gap(recipe("bfloat16"), 0.06, 0.1)


@pytest.mark.parametrize("dtype", MAX_GAP)
def test_the_recipe_may_set_another_bound(dtype: str) -> None:
    check_gap(recipe(dtype, max_gap=0.5), 0.4, 0.4)
    with pytest.raises(UpdateError):
        check_gap(recipe(dtype, max_gap=0.01), 0.02, 0.02)


def test_what_is_not_finite_is_beyond_any_bound() -> None:
    with pytest.raises(UpdateError, match="not finite"):
        check_gap(recipe(max_gap=1e9), math.nan, math.nan)


def test_the_engine_hf_and_truncated_samples_are_not_compared() -> None:
    check_gap(recipe(engine="hf"), 9.0, 9.0)
    check_gap(recipe(top_p=0.9), 9.0, 9.0)
    check_gap(recipe(top_k=5), 9.0, 9.0)
    check_gap(recipe(), None, None)
