"""The reference: the model that the run started from, as a copy or as the policy without its adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.config import LoraConfig, ModelConfig, ObjectiveConfig, Recipe, UpdateConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.objectives import build_objective
from gpg_vl.records import LogProbs, Reward, ScoredGroup
from gpg_vl.update import reference as reference_module
from gpg_vl.update.measure import measure_log_probs
from gpg_vl.update.packing import split_into_rows
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.reference import Reference, keep_in_compute_type, sum_kl
from tests.support.builders import FAMILIES, make_prompt, make_sample, random_completions

LoadModel = Callable[..., QwenVLAdapter]


def make_group(adapter: QwenVLAdapter) -> ScoredGroup:
    prompt = make_prompt(adapter, make_sample([(84, 84)]))
    completions = random_completions(adapter, [4, 7, 2])
    return ScoredGroup(prompt, completions, tuple(Reward(0.0, {}, "ok") for _ in completions))


def plain(adapter: QwenVLAdapter, group: ScoredGroup) -> list[float]:
    with torch.no_grad():
        return [x for c in group.completions for x in plain_log_probs(adapter, group.prompt.encoded, c, 1.0).tolist()]


def flat(rows: tuple[tuple[float, ...], ...]) -> list[float]:
    return [x for row in rows for x in row]


def recipe_of(folder: Path, lora: LoraConfig | None) -> Recipe:
    return Recipe(model=ModelConfig(path=str(folder), dtype="float32", min_pixels=784, max_pixels=50176, lora=lora))


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)])
def test_reference_stays_where_the_run_started(
    load: LoadModel, model_folders: dict[str, Path], lora: LoraConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, initial = load(lora=lora), load()
    if lora is not None:
        monkeypatch.setattr(reference_module, "load_adapter", None)  # a copy would fail
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02
    group = make_group(policy)
    moved = plain(policy, group)
    reference = Reference(recipe_of(model_folders["qwen2_vl"], lora), policy, Accelerator())
    [found] = reference.measure([group])
    assert flat(found) == pytest.approx(plain(initial, group), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(moved, flat(found), strict=True)) > 1e-2
    assert plain(policy, group) == moved, "the adapter is on again"
    assert {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad} == trained


@pytest.mark.parametrize("family", FAMILIES)
def test_the_copy_is_in_the_compute_type_and_measures_the_same(load: LoadModel, family: str) -> None:
    """bfloat16 autocast rounds the weights of linear layers in each forward; the copy holds them rounded."""
    policy, copy = load(family, dtype="bfloat16"), load(family, dtype="bfloat16")
    before = sum(p.numel() * p.element_size() for p in copy.model.parameters())
    keep_in_compute_type(copy)
    after = sum(p.numel() * p.element_size() for p in copy.model.parameters())
    rounded = sum(p.numel() for p in copy.model.parameters() if p.dtype == torch.bfloat16)
    assert before - after == 2 * rounded > 0.3 * before / 2
    assert copy.head_weight.dtype == torch.float32
    groups, config = [make_group(policy)], UpdateConfig()
    found, expected = (measure_log_probs(PolicyForward(each, 1.0), groups, config, policy) for each in (copy, policy))
    assert found == expected


def test_with_rounded_weights_the_reference_starts_as_the_policy(
    load: LoadModel, model_folders: dict[str, Path]
) -> None:
    policy = load(dtype="bfloat16")
    policy.round_weights()
    recipe = recipe_of(model_folders["qwen2_vl"], None)
    recipe = replace(recipe, model=replace(recipe.model, dtype="bfloat16"))
    reference = Reference(recipe, policy, Accelerator())
    groups = [make_group(policy)]
    assert reference.measure(groups) == measure_log_probs(PolicyForward(policy, 1.0), groups, UpdateConfig(), policy)
    with reference._initial.running() as copy:
        assert {p.dtype for p in copy.model.parameters()} == {torch.bfloat16}


def test_float32_copies_stay_as_they_are(load: LoadModel) -> None:
    copy = load()
    keep_in_compute_type(copy)
    assert {p.dtype for p in copy.model.parameters()} == {torch.float32}


def test_micro_batches_change_nothing(load: LoadModel, model_folders: dict[str, Path]) -> None:
    """Completions of a cut group come back in their own order."""
    policy = load()
    groups = [make_group(policy)] * 2
    recipe = recipe_of(model_folders["qwen2_vl"], None)
    [whole, _] = Reference(recipe, policy, Accelerator()).measure(groups)
    budget = len(groups[0].prompt.encoded.token_ids) + 6  # room for the longest completion alone
    assert len(split_into_rows(build_objective(ObjectiveConfig()).training_group(groups[0]), budget)) == 3
    small = replace(recipe, update=replace(recipe.update, tokens_per_micro_batch=budget))
    [cut, _] = Reference(small, policy, Accelerator()).measure(groups)
    assert [len(row) for row in cut] == [4, 7, 2]
    assert flat(cut) == pytest.approx(flat(whole), abs=1e-5)


def test_sum_kl() -> None:
    now = ((-1.0, -2.0),)
    same = LogProbs(now, now, now)
    apart = LogProbs(now, now, ((-1.5, -2.0),))
    assert sum_kl([same]) == 0
    assert sum_kl([same, apart]) == pytest.approx(0.6065306597 + 0.5 - 1)
    assert sum_kl([]) == 0
