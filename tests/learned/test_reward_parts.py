"""Learned parts in the reward of groups, and what is loaded for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.config import LoraConfig, ModelConfig, ObjectiveConfig, Recipe, RewardsConfig
from gpg_vl.learned import reward_parts as parts_module
from gpg_vl.learned.features import read_completions
from gpg_vl.learned.head import PreferenceHead, save_head
from gpg_vl.learned.reward_parts import LearnedParts, add_parts, build_parts
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.records import Reward, ScoredGroup
from gpg_vl.tasks import load_task
from gpg_vl.update.learner import Learner
from tests.support.builders import SMALL_IMAGES, make_prompt, make_sample, random_completions

LoadModel = Callable[..., QwenVLAdapter]


def make_group(adapter: QwenVLAdapter, seed: int = 0) -> ScoredGroup:
    prompt = make_prompt(adapter, make_sample([(84, 84)], seed))
    rewards = (Reward(1.0, {"correct": 1.0}, "ok"), Reward(0.0, {}, "timeout"), Reward(0.2, {"correct": 0.2}, "ok"))
    return ScoredGroup(prompt, random_completions(adapter, [4, 7, 2], seed), rewards)


class Fixed:
    name = "fixed"
    is_in_total = True

    def measure(self, groups: Sequence[ScoredGroup]) -> list[list[float]]:
        return [[0.25, 0.5, 0.75] for _ in groups]


def test_a_part_is_added_with_its_weight_where_scoring_succeeded(load: LoadModel) -> None:
    group = make_group(load())
    for weights, weight in (({}, 1.0), ({"fixed": -2.0, "other": 5.0}, -2.0), ({"fixed": 0.0}, 0.0)):
        [found] = add_parts([Fixed()], [group], weights)
        assert [each.total for each in found.rewards] == pytest.approx([1 + weight / 4, 0, 0.2 + weight * 0.75])
        assert [each.parts.get("fixed") for each in found.rewards] == [0.25, None, 0.75]
        assert found.completions is group.completions
    assert add_parts([], [group], {}) == [group]


def test_a_part_that_is_followed_otherwise_is_only_logged(load: LoadModel) -> None:
    group, part = make_group(load()), Fixed()
    part.is_in_total = False
    [found] = add_parts([part], [group], {"fixed": 3.0})
    assert [each.total for each in found.rewards] == [1.0, 0.0, 0.2]
    assert [each.parts.get("fixed") for each in found.rewards] == [0.25, None, 0.75]


def build(adapter: QwenVLAdapter, recipe: Recipe) -> LearnedParts:
    gold = GoldCompletions(adapter, {"counting": load_task("counting")})
    return build_parts(recipe, build_objective(recipe.objective, 8), adapter, gold, Accelerator())


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)])
def test_the_preference_is_of_the_initial_model(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path, lora: LoraConfig | None
) -> None:
    """However far the policy has moved."""
    initial, policy = load(), load(lora=lora)
    keys: dict[str, Any] = {"path": str(model_folders["qwen2_vl"]), **SMALL_IMAGES}
    model = ModelConfig(**keys, lora=lora)
    groups = [make_group(policy), make_group(policy, seed=1)]
    features = read_completions(initial, groups, Recipe().update)
    weight = torch.randn(features[0].shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = PreferenceHead(weight, float(weight @ features[0].double().mean(0)))
    save_head(head, tmp_path, model, {})
    built = build(policy, Recipe(model=model, rewards=RewardsConfig(preference=str(tmp_path))))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02
    moved = read_completions(policy, groups, Recipe().update)
    [part] = built.all
    for found, expected, not_expected in zip(part.measure(groups), features, moved, strict=True):
        assert found == pytest.approx(head.values(expected), abs=1e-4)
        assert max(abs(a - b) for a, b in zip(found, head.values(not_expected), strict=True)) > 1e-3
    assert part.measure([]) == []
    recipe = Recipe(model=model, objective=ObjectiveConfig(name="apa"))
    learner = Learner(recipe, build_objective(recipe.objective, 8), policy, Accelerator(), initial=built.initial)
    assert learner._reference is not None and learner._reference._initial is built.initial, "one copy for both"


def test_without_a_learned_part_no_model_is_loaded(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "InitialModel", None)  # calling it would fail
    assert build(load(), Recipe()).all == ()
    assert build(load(), Recipe(objective=ObjectiveConfig(name="grpo"))).all == ()
