"""The packed update against plain rows: log-probs and gradients, and mutations that must break the equality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed import attention_choice, flex_attention
from gpg_vl.models.packed.segments import GROUP
from gpg_vl.records import ImageFeatures, VisionInputs
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update import packing, policy
from gpg_vl.update.packing import PackedRow, build_micro_batch, plan_micro_batches, split_into_rows
from gpg_vl.update.self_check import check_packing
from tests.support.builders import FAMILIES, in_dtype, make_sample, make_training_group, whole
from tests.support.groups import CASES, make_groups, packed_gradients, plain_gradients, worst_relative_error
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["grouped_sdpa", "sdpa", "eager"])
def test_packed_gradients_equal_plain_ones(load: LoadModel, family: str, attention: str) -> None:
    adapter = load(family, attention=attention)
    groups = make_groups(adapter)
    assert worst_relative_error(packed_gradients(adapter, groups), plain_gradients(adapter, groups)) < 1e-5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probs_equal_plain_ones(load: LoadModel, family: str, case: str) -> None:
    adapter = load(family)
    sizes, lengths = CASES[case]
    group = make_training_group(adapter, make_sample(sizes), lengths)
    assert check_packing(adapter, whole(group), temperature=0.7) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["grouped_sdpa", "sdpa", "eager"])
def test_packed_gradients_equal_plain_ones_in_float64(load: LoadModel, family: str, attention: str) -> None:
    """Weights in float64; norms, rotations and the head still compute in float32 inside."""
    adapter = load(family, attention=attention)
    adapter.model.double()
    groups = [make_training_group(adapter, make_sample(sizes, 1), lengths, 1) for sizes, lengths in CASES.values()]
    doubled = [replace(g, prompt=in_dtype(g.prompt, torch.float64)) for g in groups]
    assert worst_relative_error(packed_gradients(adapter, doubled), plain_gradients(adapter, doubled)) < 1e-6


@pytest.mark.parametrize(("family", "attention"), [*((family, "auto") for family in FAMILIES), ("qwen2_vl", "sdpa")])
def test_flex_attention_gives_the_same_log_probs(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, family: str, attention: str
) -> None:
    """With all groups in one row, and in a row each. Forward alone: FlexAttention has no backward pass on a CPU."""
    torch._dynamo.reset()
    traced = torch.compile(flex.flex_attention, backend="eager", dynamic=True)  # code for CPUs is of one shape
    monkeypatch.setattr(flex_attention, "_compiled", lambda: traced)
    adapter = load(family, attention=attention)
    rows = whole(*make_groups(adapter))
    batch = build_micro_batch(rows, adapter)
    assert (len(batch.input_ids) == 1) == (attention == "auto")
    with torch.no_grad():
        found = {"as it is": policy.packed_log_probs(adapter, batch, 1.0)}
        for code in ("sdpa", "flex_attention"):
            monkeypatch.setattr(adapter._attention, "_packed", lambda segment_ids, code=code: code)
            found[code] = policy.packed_log_probs(adapter, batch, 1.0)
        assert all(float((found["as it is"] - each).abs().max()) < 1e-5 for each in found.values())
        monkeypatch.setattr(adapter._attention, "_packed", lambda segment_ids: "sdpa")
        monkeypatch.setattr(attention_choice, "visible_keys", seeing_all_prompts)
        leaking = policy.packed_log_probs(adapter, batch, 1.0)
    assert (float((found["sdpa"] - leaking).abs().max()) > 1e-3) == (attention == "auto")


def seeing_all_prompts(segment_ids: Tensor) -> Tensor:
    """A document mask that leaks: a token sees the prompts of the groups before its own."""
    keys, queries = segment_ids[:, None, :], segment_ids[:, :, None]
    causal = torch.ones(len(segment_ids), *[segment_ids.shape[1]] * 2, dtype=torch.bool).tril()
    return causal & ((keys % GROUP == 0) | (keys == queries))


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_share_a_row_without_padding(load: LoadModel, family: str) -> None:
    adapter = load(family)
    rows = whole(*make_groups(adapter))
    batch = build_micro_batch(rows, adapter)
    assert batch.input_ids.shape == (1, sum(row.num_tokens for row in rows))
    assert torch.equal(
        batch.segment_ids[0] // GROUP,
        torch.arange(len(rows)).repeat_interleave(torch.tensor([row.num_tokens for row in rows])),
    )
    alone = [build_micro_batch([row], adapter) for row in rows]
    assert torch.equal(batch.position_ids, torch.cat([each.position_ids for each in alone], dim=2))
    assert torch.equal(batch.segment_ids % GROUP, torch.cat([each.segment_ids for each in alone], dim=1))


def test_groups_that_are_not_told_apart_are_caught(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    groups = make_groups(adapter)[-2:]  # without completions that would show where a group ends
    monkeypatch.setattr(packing, "GROUP", 0)
    assert worst_relative_error(packed_gradients(adapter, groups), plain_gradients(adapter, groups)) > 1e-3
    with pytest.raises(RuntimeError, match=naming("self-check")):
        check_packing(adapter, whole(*groups), 1.0)


def test_joined_groups_fill_micro_batches_better(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    for budget in (80, 120, 8192):
        joined, padded = (plan_micro_batches(groups, budget, 10_000, joins_groups=joins) for joins in (True, False))
        assert all(sum(row.num_tokens for row in rows) <= budget for rows in joined)
        assert len(joined) <= len(padded)
        sizes = [sum(row.num_tokens + row.num_patches for row in rows) for rows in joined]
        assert sizes == sorted(sizes, reverse=True)
    assert sum(build_micro_batch(rows, adapter).input_ids.numel() for rows in joined) == sum(
        row.num_tokens for row in whole(*groups)
    )


def test_gradient_does_not_depend_on_the_budget(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    whole = packed_gradients(adapter, groups, max_tokens=8192)
    longest = max(len(g.prompt.encoded.token_ids) + max(len(c.token_ids) for c in g.completions) for g in groups)
    for max_tokens in (longest, 2 * longest):
        assert worst_relative_error(packed_gradients(adapter, groups, max_tokens), whole) < 1e-5


def test_gradient_checkpointing_changes_nothing(load: LoadModel) -> None:
    adapter, checkpointed = load(), load(gradient_checkpointing=True)
    assert checkpointed.model.is_gradient_checkpointing
    groups = make_groups(adapter)
    assert worst_relative_error(packed_gradients(checkpointed, groups), packed_gradients(adapter, groups)) < 1e-5


def test_frozen_vision_leaves_the_projector_its_gradient(load: LoadModel) -> None:
    adapter, frozen = load(), load(freeze=["vision"])
    groups = make_groups(adapter)
    expected = plain_gradients(adapter, groups)
    found = packed_gradients(frozen, groups)
    assert {frozen.part_of(name) for name in found} == {"projector", "text"}
    assert worst_relative_error(found, {name: expected[name] for name in found}) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_a_frozen_tower_are_reused_from_the_rollout(load: LoadModel, family: str) -> None:
    """With neither vision nor projector trained, the update never runs the tower, and its gradient is the same."""
    adapter = load(family, freeze=["vision", "projector"])
    groups = make_groups(adapter)
    rolled = HfEngine(adapter, 10**6).generate(
        [g.prompt for g in groups], 2, Sampling(3, 1.0), [(g,) for g in range(7)]
    )
    reused = [replace(g, features=r.features) for g, r in zip(groups, rolled, strict=True)]
    assert [g.features is None for g in reused] == [g.prompt.encoded.vision is None for g in groups]
    expected = plain_gradients(adapter, groups)
    calls: list[int] = []
    adapter.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    found = packed_gradients(adapter, reused)
    assert not calls
    assert {adapter.part_of(name) for name in found} == {"text"}
    assert worst_relative_error(found, expected) < 1e-5
    one, two = reused[1], reused[2]
    swapped = [replace(one, features=ImageFeatures((one.features.levels[0].flip(0),))), *reused[2:]]
    assert worst_relative_error(packed_gradients(adapter, swapped), plain_gradients(adapter, groups[1:])) > 1e-3
    assert check_packing(adapter, whole(two), 1.0) < 1e-5


@pytest.mark.parametrize("frozen", [["vision"], ["vision", "projector"]])
def test_frozen_tower_builds_no_graph(load: LoadModel, frozen: list[str]) -> None:
    adapter = load(freeze=frozen)
    outputs: list[Tensor] = []
    adapter.model.model.visual.blocks[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    packed_gradients(adapter, make_groups(adapter)[:1])
    assert len(outputs) == 1
    assert not outputs[0].requires_grad


def test_flex_attention_is_refused_where_it_cannot_train(load: LoadModel) -> None:
    if torch.cuda.is_available():
        pytest.skip("FlexAttention trains on CUDA")
    for attention in ("flex_attention", {"text": "flex_attention"}):
        with pytest.raises(ValueError, match=naming("model.attention", "flex_attention", "CPU", "auto")):
            load(attention=attention)


def test_attention_is_chosen_per_sub_model(load: LoadModel) -> None:
    config = load(attention={"text": "eager", "vision": "sdpa"}).model.config
    assert (config.text_config._attn_implementation, config.vision_config._attn_implementation) == ("eager", "sdpa")
    config = load(attention="auto").model.config
    assert (config.text_config._attn_implementation, config.vision_config._attn_implementation) == ("sdpa", "sdpa")
    with pytest.raises(ValueError, match=naming("model.attention", "head")):
        load(attention={"head": "sdpa"})


def no_mask_between_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    original = packing._lay_out
    monkeypatch.setattr(packing, "_lay_out", lambda row: (original(row)[0], [min(s, 1) for s in original(row)[1]]))


def positions_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def positions(row: PackedRow) -> Tensor:
        encoded = row.encoded
        tail = encoded.next_position + torch.arange(row.num_tokens - len(encoded.token_ids)).expand(3, -1)
        return torch.cat([encoded.position_ids, tail], dim=1)

    monkeypatch.setattr(packing, "_positions", positions)


def first_token_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = packing._source_positions
    monkeypatch.setattr(packing, "_source_positions", lambda row: [max(0, s - 1) for s in original(row)])


def pixels_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    original = packing._join_vision

    def swap(rows: Sequence[PackedRow], adapter: QwenVLAdapter) -> VisionInputs | None:
        vision = original(rows, adapter)
        if vision is None:
            return None
        return replace(vision, tensors={n: t.flip(0) if n == "pixel_values" else t for n, t in vision.tensors.items()})

    monkeypatch.setattr(packing, "_join_vision", swap)


@pytest.mark.parametrize("mutate", [no_mask_between_completions, positions_go_on, first_token_left_out, pixels_swapped])
def test_mutations_are_caught(load: LoadModel, monkeypatch: pytest.MonkeyPatch, mutate: Callable) -> None:
    adapter = load()
    group = make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [5, 4, 9, 3])
    check_packing(adapter, whole(group), 1.0)
    mutate(monkeypatch)
    with pytest.raises(RuntimeError, match=naming("counting-0")):
        check_packing(adapter, whole(group), 1.0)
    assert worst_relative_error(packed_gradients(adapter, [group]), plain_gradients(adapter, [group])) > 1e-3


def test_split_keeps_every_completion_once_within_the_budget(load: LoadModel) -> None:
    adapter = load()
    group = make_training_group(adapter, make_sample(), [5, 9, 1, 4, 12])
    rows = split_into_rows(group, len(group.prompt.encoded.token_ids) + 14)
    assert len(rows) > 1
    assert tuple(c for row in rows for c in row.completions) == group.completions
    assert tuple(c for row in rows for c in row.coefficients) == group.coefficients
    assert all(row.num_tokens <= len(group.prompt.encoded.token_ids) + 14 for row in rows)


def test_micro_batches_keep_both_budgets(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    for rows in plan_micro_batches(groups, max_tokens=80, max_patches=120):
        assert len(rows) * max(row.num_tokens for row in rows) <= 80
        assert len(rows) == 1 or sum(row.num_patches for row in rows) <= 120


def test_completion_over_the_budget_is_named(load: LoadModel) -> None:
    group = make_training_group(load(), make_sample(), [30])
    with pytest.raises(ValueError, match=naming("counting-0", "update.tokens_per_micro_batch", 40)):
        split_into_rows(group, 40)


def test_completions_of_other_rows_do_not_matter(load: LoadModel) -> None:
    """A row's log-probs are its own, whatever shares the micro-batch."""
    adapter = load()
    groups = make_groups(adapter)
    alone = build_micro_batch(split_into_rows(groups[0], 8192), adapter)
    together = build_micro_batch([row for g in groups for row in split_into_rows(g, 8192)], adapter)
    with torch.no_grad():
        a = policy.packed_log_probs(adapter, alone, 1.0)
        b = policy.packed_log_probs(adapter, together, 1.0)[: len(a)]
    assert float((a - b).abs().max()) < 1e-5


# --- ordinary rows, with the prompt repeated -------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [8192, 150])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_ordinary_rows_equal_those_of_plain_ones(load: LoadModel, family: str, max_tokens: int) -> None:
    """In one micro-batch and in several; the second does not hold a whole group."""
    adapter = load(family)
    groups = make_groups(adapter)
    plan = plan_micro_batches(groups, max_tokens, 10_000, pack=False)
    assert (len(plan) == 1) == (max_tokens == 8192)
    assert all(len(row.completions) == 1 and not row.is_packed for rows in plan for row in rows)
    found = packed_gradients(adapter, groups, max_tokens, pack=False)
    assert worst_relative_error(found, plain_gradients(adapter, groups)) < 1e-5


def test_ordinary_rows_encode_the_images_of_a_prompt_once_and_take_no_mask(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load()
    groups = make_groups(adapter)
    patches: list[int] = []
    adapter.model.model.visual.register_forward_hook(lambda module, inputs, output: patches.append(len(inputs[0])))
    masks: list[Tensor | None] = []
    mask = adapter._attention.mask
    monkeypatch.setattr(adapter._attention, "mask", lambda *given: masks.append(mask(*given)))
    packed_gradients(adapter, groups, pack=False)
    visions = [group.prompt.encoded.vision for group in groups]
    assert patches == [sum(vision.num_patches for vision in visions if vision is not None)]
    assert masks == [None]


def test_ordinary_rows_reuse_the_features_of_a_frozen_tower(load: LoadModel) -> None:
    adapter = load(freeze=["vision", "projector"], gradient_checkpointing=True)
    groups = make_groups(adapter)[:4]
    keys = [(number,) for number in range(len(groups))]
    rolled = HfEngine(adapter, 10**6).generate([g.prompt for g in groups], 2, Sampling(3, 1.0), keys)
    reused = [replace(g, features=r.features) for g, r in zip(groups, rolled, strict=True)]
    expected = plain_gradients(adapter, groups)
    adapter.model.model.visual.register_forward_hook(lambda *_: pytest.fail("the tower ran"))
    assert worst_relative_error(packed_gradients(adapter, reused, pack=False), expected) < 1e-5


@pytest.mark.parametrize("fault", ["features of another image", "one feature for all", "no positions"])
def test_what_is_wrong_with_ordinary_rows_shows(load: LoadModel, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    adapter = load()
    groups = make_groups(adapter)
    index = packing._index_features

    def wrong(rows: Sequence[PackedRow]) -> Tensor | None:
        right = index(rows)
        return right if right is None else right.flip(0) if fault == "features of another image" else 0 * right

    if fault == "no positions":
        monkeypatch.setattr(packing, "_positions", lambda row: torch.zeros(3, row.num_tokens, dtype=torch.long))
    else:
        monkeypatch.setattr(packing, "_index_features", wrong)
    expected = plain_gradients(adapter, groups)
    assert worst_relative_error(packed_gradients(adapter, groups, pack=False), expected) > 1e-3
    with pytest.raises(RuntimeError, match=naming("self-check")):
        check_packing(adapter, plan_micro_batches(groups, 8192, 10_000, pack=False)[0], 1.0)
