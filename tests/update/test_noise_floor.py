"""Packed rows are as near to plain ones as rounding allows, gradients included; and what is not rounding is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpg_vl.config import LoraConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed.segments import GROUP
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.objectives.base import given
from gpg_vl.records import MicroBatch
from gpg_vl.update import noise_floor, packing, policy
from gpg_vl.update.noise_floor import ALLOWANCE, TOKENS, Distance, Rounding, check_rounding, is_noise, measure_rounding
from gpg_vl.update.packing import PackedRow, plan_micro_batches, split_into_rows
from gpg_vl.update.self_check import check_packing
from tests.support.builders import FAMILIES, make_sample, make_training_group, whole
from tests.support.families import CASES, Bench, load_case, shake
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]


def two_groups(adapter: QwenVLAdapter) -> list[PackedRow]:
    """One of two images with three completions, one of one image with two."""
    return whole(
        make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [25, 14, 9]),
        make_training_group(adapter, make_sample([(140, 84)], seed=1), [30, 12], 1),
    )


def in_type(load: LoadModel, kind: str, family: str = "qwen2_vl") -> QwenVLAdapter:
    """A model in float32, in bfloat16 weights, or under autocast, as DeepSpeed has it."""
    adapter = load(family, dtype="float32" if kind == "float32" else "bfloat16")
    if kind == "rounded":
        adapter.round_weights()
    return adapter


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["float32", "autocast", "rounded"])
def test_packed_rows_are_as_near_as_rounding_allows(load: LoadModel, kind: str, family: str) -> None:
    adapter = in_type(load, kind, family)
    found = check_rounding(adapter, two_groups(adapter), 1.0, 8192)
    assert found is not None
    if kind == "float32":
        assert found.packed.log_probs < 1e-5 and found.packed.gradient < 1e-5
    else:  # far more than in float32, and found where the update computes
        assert found.packed.log_probs > 1e-4 and found.floor.gradient > 1e-4


@pytest.mark.parametrize(
    "model",
    [
        {"lora": LoraConfig(r=4)},
        {"lora": LoraConfig(r=4, parts=["vision"])},
        {"freeze": ["vision", "projector"]},
        {"freeze": ["text"]},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_a_model_is_afterwards_what_it_was(load: LoadModel, model: dict[str, Any]) -> None:
    adapter = load("qwen2_5_vl", dtype="bfloat16", **model)
    adapter.round_weights()
    before = {name: (each.requires_grad, each.detach().clone()) for name, each in adapter.model.named_parameters()}
    adapter.model.eval()
    found = check_rounding(adapter, two_groups(adapter), 1.0, 8192)
    assert found is not None and found.packed.gradient > 0
    assert not adapter.model.training
    for name, each in adapter.model.named_parameters():
        assert each.requires_grad == before[name][0] and torch.equal(each, before[name][1]), name
        assert each.grad is None, name
    assert all(each.grad is None for _, each in adapter.trainable_parameters())


@pytest.mark.parametrize("kind", ["float32", "autocast", "rounded"])
@pytest.mark.parametrize("family", ["qwen3_vl_moe", "qwen3_5_moe"])
def test_experts_and_recurrent_layers_pass(tmp_path: Path, family: str, kind: str) -> None:
    case = CASES[family]
    folder = write_tiny_model(tmp_path / "tiny", family, seed=1)
    adapter = load_case(case, folder, dtype="float32" if kind == "float32" else "bfloat16")
    shake(adapter)
    if kind == "rounded":
        adapter.round_weights()
    assert check_rounding(adapter, whole(*Bench(case, adapter, tmp_path).groups), 1.0, 8192) is not None


# --- what is no rounding ---------------------------------------------------------------------------------------------


def completions_see_each_other(patch: pytest.MonkeyPatch) -> None:
    original = packing._lay_out

    def seen(row: PackedRow) -> tuple[list[int], list[int]]:
        ids, segments = original(row)
        return ids, [min(each, 1) for each in segments] if row.is_packed else segments

    patch.setattr(packing, "_lay_out", seen)


def completions_start_late(patch: pytest.MonkeyPatch) -> None:
    original = packing._positions

    def late(row: PackedRow) -> Tensor:
        positions = original(row).clone()
        positions[:, len(row.encoded.token_ids) :] += row.is_packed
        return positions

    patch.setattr(packing, "_positions", late)


def detach_where(patch: pytest.MonkeyPatch, is_left_out: Callable[[Tensor], Tensor]) -> None:
    """States of packed rows go back nowhere where their segment id is such a one."""
    original = policy.packed_states

    def detached(adapter: Any, batch: MicroBatch, cache: Any = None) -> Tensor:
        states = original(adapter, batch, cache)
        if not batch.is_packed:
            return states
        return torch.where(is_left_out(batch.segment_ids)[..., None], states.detach(), states)

    patch.setattr(policy, "packed_states", detached)


def a_prompt_does_not_go_back(patch: pytest.MonkeyPatch) -> None:
    detach_where(patch, lambda segments: segments % GROUP == 0)


def a_group_does_not_go_back(patch: pytest.MonkeyPatch) -> None:
    detach_where(patch, lambda segments: segments >= GROUP)


FORWARD = [completions_see_each_other, completions_start_late]
BACKWARD = [a_prompt_does_not_go_back, a_group_does_not_go_back]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [*(("float32", fault) for fault in [*FORWARD, *BACKWARD]), *(("rounded", fault) for fault in BACKWARD)],
)
def test_what_is_no_rounding_is_told(
    load: LoadModel, kind: str, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of forwards, which is in float32 whatever the run's type, sees none of the gradients' faults."""
    adapter = in_type(load, kind)
    rows = two_groups(adapter)
    fault(monkeypatch)
    with pytest.raises(RuntimeError, match=naming("self-check", rows[0].sample_id, "update.pack")):
        check_rounding(adapter, rows, 1.0, 8192)
    if fault in BACKWARD:
        assert check_packing(adapter, rows, 1.0) < 1e-5


def test_the_bound_is_twice_the_floor_and_an_allowance() -> None:
    allowance, floor = Distance(1.0, 0.25), Distance(2.0, 0.5)
    assert is_noise(Rounding(Distance(5.0, 1.25), floor), allowance)
    for beyond in (Distance(5.1, 0.0), Distance(0.0, 1.26), Distance(float("nan"), 0.0), Distance(0.0, float("nan"))):
        assert not is_noise(Rounding(beyond, floor), allowance)
    assert not is_noise(Rounding(Distance(0.0, 0.0), Distance(float("nan"), 0.5)), allowance)
    assert ALLOWANCE[torch.float32].gradient < ALLOWANCE[torch.bfloat16].gradient < 0.5


# --- what is compared ------------------------------------------------------------------------------------------------


def test_two_plain_rows_fit_into_a_pass(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions are cut for it; where only prompts would be left, nothing is compared."""
    adapter = load()
    rows = two_groups(adapter)
    longest = max(len(row.encoded.token_ids) for row in rows)
    seen: list[MicroBatch] = []

    def watched(batch: MicroBatch, device: torch.device) -> MicroBatch:
        seen.append(batch)
        return batch

    monkeypatch.setattr(noise_floor, "move_to", watched)
    for budget, length in ((2 * longest + 4, 2), (2 * longest + 20, 10), (10**6, TOKENS)):
        seen.clear()
        assert check_rounding(adapter, rows, 1.0, budget) is not None
        assert max(batch.input_ids.numel() for batch in seen if not batch.is_packed) <= budget
        [packed] = [batch for batch in seen if batch.is_packed]
        assert len(packed.target_ids) == sum(min(length, each) for each in (25, 14, 30, 12))
    assert check_rounding(adapter, rows, 1.0, 2 * longest + 1) is None


def test_of_long_completions_the_beginning_is_compared(load: LoadModel) -> None:
    adapter = load()
    rows = whole(make_training_group(adapter, make_sample(), [TOKENS + 9, 3]))
    [few] = noise_floor._take_few(rows, 10**6)
    assert [len(each.token_ids) for each in few.completions] == [TOKENS, 3] == [len(each) for each in few.coefficients]
    assert few.completions[0].token_ids == rows[0].completions[0].token_ids[:TOKENS]


def test_a_part_of_a_group_runs_its_prompt(load: LoadModel) -> None:
    """A part of one completion, too, which would have run behind a kept prompt."""
    adapter = load()
    group = make_training_group(adapter, make_sample(), [9, 7, 8])
    parts = split_into_rows(group, len(group.prompt.encoded.token_ids) + 16, keeps_prompts=True)
    assert [len(part.completions) for part in parts] == [2, 1]
    for part in parts:
        found = check_rounding(adapter, [part], 1.0, 8192)
        assert found is not None and found.packed.gradient < 1e-5


def test_ordinary_rows_are_not_compared_with_themselves(load: LoadModel) -> None:
    adapter = load()
    groups = [make_training_group(adapter, make_sample(), [5, 4])]
    [ordinary] = plan_micro_batches(groups, 10**6, 10**6, pack=False)
    assert check_rounding(adapter, ordinary, 1.0, 8192) is None


def test_without_memory_for_it_the_run_goes_on(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update finds out what fits; every other error is told."""
    adapter = load()
    rows = two_groups(adapter)
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")

    def fail(*given: Any) -> Tensor:
        raise error

    monkeypatch.setattr(noise_floor, "packed_log_probs", fail)
    assert check_rounding(adapter, rows, 1.0, 8192) is None
    assert all(each.requires_grad for each in adapter.model.parameters()) and not adapter.model.training
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        check_rounding(adapter, rows, 1.0, 8192)


def test_rows_that_take_features_are_compared(load: LoadModel) -> None:
    adapter = load(freeze=["vision", "projector"])
    rows = two_groups(adapter)
    known = [replace(row, features=adapter.encode_images(given(row.encoded.vision))) for row in rows]
    found = measure_rounding(adapter, known, 1.0)
    assert found.packed.log_probs < 1e-5 and found.packed.gradient < 1e-5
