"""How long a prompt and its completion may be, and which keys give them more room."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import Recipe
from gpg_vl.data.sources import write_jsonl
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.prompts.length import LongPrompt, Room, build_prompts, evaluation_room, training_room
from gpg_vl.tasks import TASKS
from gpg_vl.train import train
from tests.support.builders import make_sample
from tests.support.messages import naming
from tests.support.small_recipes import MakeRecipe, small_recipe

LoadModel = Callable[..., QwenVLAdapter]


@pytest.fixture
def make_recipe(tmp_path: Path, model_folders: dict[str, Path]) -> MakeRecipe:
    values = {
        "model.path": str(model_folders["qwen2_vl"]),
        "data.train": [str(tmp_path / "test.jsonl")],
        "rollout.group_size": 2,
        "rollout.max_new_tokens": 4,
        "update.tokens_per_micro_batch": 80,
        "run.output_dir": str(tmp_path / "run"),
    }

    def make(**overrides: Any) -> Recipe:
        return small_recipe(values, overrides)

    return make


def test_a_room_is_filled_to_its_last_token() -> None:
    room = Room(8, {100: "raise first.key", 60: "raise second.key"})
    assert room.longest_prompt == 52
    room.check(52)
    with pytest.raises(LongPrompt, match=naming(53, 8, 60, "second.key")):
        room.check(53)
    room.check(40, gold_tokens=20)
    with pytest.raises(LongPrompt, match=naming(41, 20, 60, "second.key")):
        room.check(41, gold_tokens=20)


@pytest.mark.parametrize("policy", ["fail", "drop", "shrink"])
def test_rooms_of_a_recipe_name_their_keys(load: LoadModel, make_recipe: MakeRecipe, policy: str) -> None:
    """In training a prompt has to fit with a group and in a micro-batch, in validation with its samples."""
    adapter = load()
    sampled = {"evaluation__num_samples": 5, "evaluation__temperature": 1.0, "evaluation__max_new_tokens": 9}
    recipe = make_recipe(rollout__tokens_per_batch=150, data__on_long_prompt=policy, **sampled)
    room = training_room(recipe, adapter)
    assert (room.max_new_tokens, set(room.limits)) == (4, {75, 80, adapter.context_length})
    assert re.search(naming("rollout.tokens_per_batch", 2), room.limits[75])
    assert re.search(naming("update.tokens_per_micro_batch"), room.limits[80])
    assert re.search(naming("model.max_pixels", "data.max_frames"), room.limits[adapter.context_length])
    assert all("data.on_long_prompt" in text for text in room.limits.values())
    room = evaluation_room(recipe, adapter)
    assert (room.max_new_tokens, set(room.limits)) == (9, {30, adapter.context_length})
    assert re.search(naming("rollout.tokens_per_batch", 5), room.limits[30])
    assert all(("data.on_long_prompt" in text) == (policy != "shrink") for text in room.limits.values())


@pytest.mark.parametrize(
    ("keys", "is_limit"),
    [({}, False), ({"mode": "colocate"}, False), ({"on_failure": "hf"}, True)],
)
def test_what_the_kits_own_engine_decodes_together_limits_no_other(
    load: LoadModel, make_recipe: MakeRecipe, keys: dict[str, str], is_limit: bool
) -> None:
    """Unless it may have to take over."""
    adapter, of_vllm = load(), {f"rollout__vllm__{key}": value for key, value in keys.items()}
    recipe = make_recipe(rollout__engine="vllm", rollout__tokens_per_batch=150, **of_vllm)
    engine = {60: "raise a key", adapter.context_length: "raise another"}
    for room, share in (
        (training_room(recipe, adapter, engine), 75),
        (evaluation_room(recipe, adapter, engine), 150),
    ):
        assert (share in room.limits) == is_limit
        assert re.search(naming("raise a key", "data.on_long_prompt"), room.limits[60])
        assert "model.max_pixels" in room.limits[adapter.context_length], "no engine holds more than the model"


@pytest.mark.parametrize("policy", ["fail", "shrink"])
def test_prompts_are_made_to_fit_on_request(load: LoadModel, make_recipe: MakeRecipe, policy: str) -> None:
    adapter = load()
    recipe = make_recipe(data__on_long_prompt=policy)
    sample = make_sample([(300, 200)])
    prompt = build_prompts(recipe, TASKS, adapter, Room(8, {50: "raise some.key"})).build(sample)
    assert (len(prompt.encoded.token_ids) <= 42) == (policy == "shrink")


@pytest.mark.parametrize(
    ("evaluation", "named"),
    [
        ({}, [20, 2]),
        ({"evaluation__num_samples": 5, "evaluation__temperature": 1.0, "rollout__tokens_per_batch": 150}, [30, 5]),
    ],
)
def test_a_group_that_decodes_in_no_batch_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, evaluation: dict[str, Any], named: list[int]
) -> None:
    """Of the training rows, and of the validation rows with their own number of samples."""
    write_jsonl([make_sample([(140, 140)])], tmp_path / "test.jsonl")
    keys = {"rollout__tokens_per_batch": 40, "run__eval_every": 1, "data__eval": [str(tmp_path / "test.jsonl")]}
    with pytest.raises(ValueError, match=naming("test.jsonl", "row 1", 4, *named, "rollout.tokens_per_batch")):
        train(make_recipe(**{**keys, **evaluation}))
    assert not (tmp_path / "run/metrics.jsonl").exists()
