"""Split groups whose prompt runs once, against plain rows, and mutations that must break the equality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config import LoraConfig, UpdateConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed import kept_prompt_keys
from gpg_vl.models.packed.kept_prompt_keys import KeptPrompt
from gpg_vl.records import TrainingGroup
from gpg_vl.update import gradient
from gpg_vl.update.gradient import PassStats, accumulate_gradient
from gpg_vl.update.kept_prompts import KeptPrompts
from gpg_vl.update.layouts import build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.packing import plan_micro_batches, split_into_rows
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.self_check import check_packing
from tests.support.builders import FAMILIES, make_sample, make_training_group
from tests.support.groups import gradients, kept_gradients, least_budget, plain_gradients, worst_relative_error
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]
IMAGES: dict[int, list[tuple[int, int]]] = {0: [], 1: [(84, 84)], 3: [(84, 56), (56, 84), (30, 100)]}


def make_groups(adapter: QwenVLAdapter, numbers: tuple[int, ...] = tuple(IMAGES)) -> list[TrainingGroup]:
    """Groups with so many images, each of which the least budget splits; completions of one token among them."""
    return [make_training_group(adapter, make_sample(IMAGES[n], n), [5, 1, 9, 3, 1, 7], n) for n in numbers]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["grouped_sdpa", "sdpa", "eager"])
def test_gradients_equal_plain_ones(load: LoadModel, family: str, attention: str) -> None:
    adapter = load(family, attention=attention)
    for number in IMAGES:
        groups = make_groups(adapter, (number,))
        expected = plain_gradients(adapter, groups)
        budget = least_budget(groups)
        assert len(split_into_rows(groups[0], budget)) > 2
        assert worst_relative_error(kept_gradients(adapter, groups, budget), expected) < 1e-5, number


def test_gradients_of_an_adapter_equal_plain_ones(load: LoadModel) -> None:
    """With the keys of the first layers free of any weight that is trained."""
    adapter = load(lora=LoraConfig(r=2, target_modules=["o_proj"]))
    with torch.no_grad():
        for name, each in adapter.trainable_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1)
    groups = make_groups(adapter)
    expected = plain_gradients(adapter, groups)
    assert worst_relative_error(kept_gradients(adapter, groups, least_budget(groups)), expected) < 1e-5


def test_a_tower_that_is_trained_alone_gets_its_gradient(load: LoadModel) -> None:
    adapter = load(freeze=["text"])
    groups = make_groups(adapter)
    expected = plain_gradients(adapter, groups)
    assert worst_relative_error(kept_gradients(adapter, groups, least_budget(groups)), expected) < 1e-5


# --- in an update ----------------------------------------------------------------------------------------------------


def update(adapter: QwenVLAdapter, budget: int, groups: list[TrainingGroup]) -> PassStats:
    """Leaves its gradient on the model."""
    accelerator, config = Accelerator(), UpdateConfig(tokens_per_micro_batch=budget)
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), build_optimizer(adapter, config), 1.0)
    layout.clear()
    return accumulate_gradient(layout, groups, 1.0, config, adapter, accelerator)


def count_tokens_of_layers(adapter: QwenVLAdapter) -> Counter[str]:
    """What runs through the first text layer and the tower."""
    found: Counter[str] = Counter()
    modules = {"text": adapter.model.model.language_model.layers[0].mlp, "tower": adapter.model.model.visual.blocks[0]}
    for name, module in modules.items():
        module.register_forward_pre_hook(
            lambda _, given, name=name: found.update({name: given[0].flatten(0, -2).shape[0]})
        )
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_runs_a_prompt_once_and_again_under_checkpointing(load: LoadModel, checkpointing: bool) -> None:
    adapter = load(gradient_checkpointing=checkpointing)
    groups = make_groups(adapter)
    budget = least_budget(groups)
    expected = plain_gradients(adapter, groups)
    ran = count_tokens_of_layers(adapter)
    stats = update(adapter, budget, groups)
    assert worst_relative_error(gradients(adapter), expected) < 1e-5
    completions = sum(len(c.token_ids) - 1 for group in groups for c in group.completions)
    once = completions + sum(len(group.prompt.encoded.token_ids) for group in groups)
    patches = sum(group.prompt.encoded.vision.num_patches for group in groups if group.prompt.encoded.vision)
    assert stats.num_micro_batches > len(groups)
    if checkpointing:
        assert stats.num_split_rows > 0 and stats.num_padded_tokens > once
    else:
        assert (ran["text"], stats.num_padded_tokens, ran["tower"]) == (once, once, patches)
        assert stats.num_split_rows == 0


def test_an_update_of_whole_and_split_groups_counts_as_one_of_whole_ones(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    longest = max(row.num_tokens for group in groups for row in split_into_rows(group, 10**6))
    whole, expected = update(adapter, 8192, groups), gradients(adapter)
    mixed = update(adapter, longest - 1, groups)
    assert worst_relative_error(gradients(adapter), expected) < 1e-5
    assert mixed.num_tokens == whole.num_tokens
    assert mixed.loss == pytest.approx(whole.loss, rel=1e-5)
    assert mixed.surprisal == pytest.approx(whole.surprisal, rel=1e-5)
    assert (mixed.num_split_rows, whole.num_split_rows) == (0, 0)


def test_memory_that_runs_out_leaves_no_prompt_behind(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second part of a group: the update begins again with smaller parts, and runs the prompt again."""
    adapter = load()
    groups = [make_training_group(adapter, make_sample([]), [40] * 6)]
    expected, budget = plain_gradients(adapter, groups), 2 * least_budget(groups)
    build, calls = gradient.build_part, []

    def fail_once(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return build(*given)

    monkeypatch.setattr(gradient, "build_part", fail_once)
    stats = update(adapter, budget, groups)
    assert (stats.tokens_per_micro_batch, stats.num_micro_batches, len(calls)) == (budget // 2, 6, 2 + 6)
    assert worst_relative_error(gradients(adapter), expected) < 1e-5


# --- the plan --------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_group_follow_one_another(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    budget = least_budget(groups)
    plan = plan_micro_batches(groups, budget, 10_000, keeps_prompts=True)
    left = [rows[0].parts_left for rows in plan]
    ends = [n for n, number in enumerate(left, 1) if number == 0]
    starts = [0, *ends[:-1]]
    for start, end in zip(starts, ends, strict=True):
        parts = [row for rows in plan[start:end] for row in rows]
        assert [row.parts_left for row in parts] == list(range(end - start))[::-1]
        assert len({row.sample_id for row in parts}) == 1
        assert all(row.num_tokens <= budget for row in parts)
    assert ends[-1:] == [len(left) - left[::-1].index(0)]
    assert all(number is None for number in left[ends[-1] :])
    completions = [c for rows in plan for row in rows for c in row.completions]
    assert Counter(map(id, completions)) == Counter(id(c) for group in groups for c in group.completions)


def test_a_group_that_fits_is_no_part(load: LoadModel) -> None:
    adapter = load()
    plan = plan_micro_batches(make_groups(adapter), 8192, 10_000, keeps_prompts=True)
    assert [row.parts_left for rows in plan for row in rows] == [None] * 3


# --- mutations -------------------------------------------------------------------------------------------------------


def prompt_backward_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptPrompt, "backward", lambda self: None)


def keys_kept_before_their_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.qwen2_vl import modeling_qwen2_vl as modeling

    rotate, update = modeling.apply_rotary_pos_emb, kept_prompt_keys._KeptLayer.update
    raw: list[Tensor] = []

    def remember(query: Tensor, key: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        raw.append(key)
        rotated: tuple[Tensor, Tensor] = rotate(query, key, *rest, **more)
        return rotated

    def keep_raw(self: Any, key_states: Tensor, value_states: Tensor, *given: Any, **more: Any) -> Any:
        if self.is_initialized:
            return update(self, key_states, value_states)
        update(self, raw[-1], value_states)
        return key_states, value_states

    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", remember)
    monkeypatch.setattr(kept_prompt_keys._KeptLayer, "update", keep_raw)


def gradient_of_the_first_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KeptPrompts.before

    def forget(self: KeptPrompts, rows: Any) -> KeptPrompt | None:
        prompt = before(self, rows)
        if prompt is not None and rows[0].parts_left == 0:
            for kept in prompt.keys.kept():
                kept.leaf.requires_grad_(requires_grad=False)
        return prompt

    monkeypatch.setattr(KeptPrompts, "before", forget)


def last_state_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token of a completion moves nothing of the prompt."""
    backward = KeptPrompt.backward

    def without_last_state(self: KeptPrompt) -> None:
        self.last_state.leaf.grad = None
        backward(self)

    monkeypatch.setattr(KeptPrompt, "backward", without_last_state)


@pytest.mark.parametrize(
    "mutate",
    [
        prompt_backward_left_out,
        keys_kept_before_their_rotation,
        gradient_of_the_first_part_alone,
        last_state_cut_off,
    ],
)
def test_mutations_are_caught(load: LoadModel, monkeypatch: pytest.MonkeyPatch, mutate: Callable) -> None:
    adapter = load("qwen2_vl")
    groups = make_groups(adapter, (1,))
    expected, budget = plain_gradients(adapter, groups), least_budget(groups)
    assert worst_relative_error(kept_gradients(adapter, groups, budget), expected) < 1e-5
    mutate(monkeypatch)
    found = kept_gradients(adapter, groups, budget)
    missing = {name: torch.zeros_like(each) for name, each in expected.items() if name not in found}  # of the tower
    assert worst_relative_error({**found, **missing}, expected) > 1e-3


def test_the_self_check_runs_a_part_behind_its_prompt(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load("qwen2_vl")
    groups = make_groups(adapter, (1,))
    [part, *_] = plan_micro_batches(groups, least_budget(groups), 10_000, keeps_prompts=True)
    assert check_packing(adapter, part, 0.7) < 1e-5
    keys_kept_before_their_rotation(monkeypatch)
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-1")):
        check_packing(adapter, part, 0.7)
