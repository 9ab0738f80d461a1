"""Every family of the kit, on a tiny model, against its own processor and its own plain forward.

What is slow runs with ``make test-families``: the fast tests here take a few seconds a family.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpg_vl.data.images import open_image
from gpg_vl.models.families import FAMILIES
from gpg_vl.models.families.layer_masks import LayerMasksAdapter
from gpg_vl.models.families.recurrent import RecurrentAdapter
from gpg_vl.models.inputs.vision_records import move_vision
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.models.tiny import TINY_FAMILIES, write_tiny_model
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.packing import build_micro_batch, split_into_rows
from gpg_vl.update.self_check import check_packing
from tests.support.builders import make_prompt, make_sample, whole
from tests.support.families import (
    CASES,
    TOKEN_TYPES,
    Bench,
    is_installed,
    make_bench,
    reload,
    under,
    worst_gradient,
)
from tests.support.family_lora import with_lora
from tests.support.groups import kept_gradients
from tests.support.rank_runs import measure_gradients

MANY = 10**6
NARROW = ((300, 20), (600, 24), (400, 10), (200, 14))
NUM_NEW = 10


@pytest.fixture(scope="module", params=CASES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(request.param, CASES[request.param], tmp_path_factory.mktemp(request.param))


def test_every_family_is_tested_and_has_a_tiny_model() -> None:
    assert FAMILIES.keys() == CASES.keys() == TINY_FAMILIES.keys()


def test_the_notations_of_boxes() -> None:
    others = {name: family.adapter.notation for name, family in FAMILIES.items() if family.adapter.notation != "list"}
    json_keys = dict.fromkeys(("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), "bbox_2d")
    assert others == {**json_keys, "internvl": "lists", "minicpmv4_6": "box_tags"}


# --- fast ---


def test_encode_gives_what_the_processor_gives(bench: Bench) -> None:
    for prompt in bench.prompts:
        expected = bench.inputs(prompt)
        encoded = prompt.encoded
        assert encoded.token_ids == tuple(expected.pop("input_ids")[0].tolist())
        del expected["attention_mask"]
        for name in TOKEN_TYPES:
            types = [0] * len(encoded.token_ids) if bench.case.completion_type else encoded.token_types
            assert expected.pop(name, torch.tensor([types])).tolist() == [list(types)]
        vision = {} if encoded.vision is None else encoded.vision.tensors
        assert vision.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in vision.items())
        assert bench.adapter.count_tokens(prompt.text, prompt.views) == len(encoded.token_ids)
        num_places = encoded.token_ids.count(bench.adapter.model.config.image_token_id)
        assert encoded.vision is None or encoded.vision.num_tokens == num_places


def test_a_saved_processor_has_the_limits_of_the_run(bench: Bench) -> None:
    """It gives pictures beyond them the tokens and grids that the run gives them; the folder as it came has others."""
    as_it_came = replace(bench, folder=bench.folder.parent / "tiny")
    for size in ((1000, 700), (10, 10), *(each for each in NARROW if each not in bench.case.too_narrow)):
        prompt = make_prompt(bench.adapter, make_sample([size]))
        expected = bench.inputs(prompt)
        assert prompt.encoded.token_ids == tuple(expected["input_ids"][0].tolist()), size
        assert prompt.encoded.vision is not None
        assert prompt.views[0].notation == bench.adapter.notation
        for name, tensor in prompt.encoded.vision.tensors.items():
            assert tensor.shape == expected[name].shape, size
            assert tensor.is_floating_point() or torch.equal(tensor, expected[name]), size
        if size not in NARROW:
            is_limited = len(as_it_came.inputs(prompt)["input_ids"][0]) > len(prompt.encoded.token_ids)
            assert is_limited == bool(bench.case.config) or size == (10, 10)
    for size in bench.case.too_narrow:
        with pytest.raises(ValueError, match="too narrow"):
            make_prompt(bench.adapter, make_sample([size]))


def test_images_are_encoded_without_their_text(bench: Bench) -> None:
    """As workers do it, and joined where they have been moved to: no family makes a tensor on another device."""
    parts = [prompt.encoded.vision for prompt in bench.prompts if prompt.encoded.vision is not None]
    moved = bench.adapter.join_vision([move_vision(part, torch.device("meta")) for part in parts])
    whole = bench.adapter.join_vision(parts)
    assert {name: each.shape for name, each in moved.tensors.items()} == {
        name: each.shape for name, each in whole.tensors.items()
    }
    for prompt in bench.prompts:
        images = [open_image(source) for source in prompt.sample.images]
        vision = bench.adapter.encode_media(images, prompt.views)
        expected = prompt.encoded.vision
        assert (vision is None) == (expected is None)
        if vision is not None and expected is not None:
            assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in vision.tensors.items())
            again = bench.adapter.encode(prompt.text, (), prompt.views, vision=vision)
            assert (again.token_ids, again.vision) == (prompt.encoded.token_ids, vision)
            assert torch.equal(again.position_ids, prompt.encoded.position_ids)


def test_packed_rows_are_plain_ones(bench: Bench) -> None:
    assert bench.difference() < bench.case.tolerance
    error, name = worst_gradient(bench.packed_gradients(), bench.plain_gradients)
    assert error < bench.case.tolerance, name


def test_split_groups_are_plain_ones(bench: Bench) -> None:
    room = max(len(prompt.encoded.token_ids) for prompt in bench.prompts) + 8
    rows = [row for group in bench.groups for row in split_into_rows(group, room)]
    assert len(rows) > len(bench.groups)
    assert bench.difference(rows) < bench.case.tolerance
    error, name = worst_gradient(kept_gradients(bench.adapter, bench.groups, room), bench.plain_gradients)
    assert error < bench.case.tolerance, name


def test_rows_that_are_not_packed_are_plain_ones(bench: Bench) -> None:
    """With ``update.pack: false``: the prompt repeated, shorter rows padded on the right, each image encoded once."""
    rows = [row for group in bench.groups for row in split_into_rows(group, MANY, pack=False)]
    assert len(rows) == sum(len(group.completions) for group in bench.groups)
    assert bench.difference(rows) < bench.case.tolerance
    error, name = worst_gradient(bench.packed_gradients(rows), bench.plain_gradients)
    assert error < bench.case.tolerance, name


def test_families_that_attend_alone_keep_prompts_and_join_groups(bench: Bench) -> None:
    """Not those whose layers have states, or masks that count places."""
    others = isinstance(bench.adapter, RecurrentAdapter | LayerMasksAdapter)
    assert bench.adapter.keeps_prompts != others
    assert bench.adapter.joins_groups != others
    batch = build_micro_batch(whole(*bench.groups), bench.adapter)
    assert (len(batch.input_ids) == 1) != others


@torch.no_grad()
def test_features_stand_for_their_images(bench: Bench) -> None:
    rows = bench.with_features()
    assert bench.difference(rows) < bench.case.tolerance
    features = rows[1].features
    assert features is not None
    moved = replace(features, levels=tuple(level.roll(1, 0) for level in features.levels))
    assert bench.difference([rows[0], replace(rows[1], features=moved), *rows[2:]]) > 1e-3


@torch.no_grad()
def test_mutations_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``-s`` it prints how far each moves a log-prob, in nats, as docs/models.md has it."""
    features = bench.with_features()
    for name, mutation in bench.case.mutations.items():
        with monkeypatch.context() as patch:
            mutation(patch)
            moved = max(bench.difference(), bench.difference(features))
            print(f"{bench.adapter.model.config.model_type}, {name}: {moved:.2g}")
            assert moved > 1e-3, name


def test_greedy_rollout_is_that_of_generate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded batch whose rows end at different steps; the plain side is the saved folder, one prompt at a time."""
    endless = [bench.generate(prompt, NUM_NEW) for prompt in bench.prompts]
    ends = [bench.adapter.end_token_ids[0], endless[0][3], endless[1][6]]
    monkeypatch.setattr(bench.adapter.model.generation_config, "eos_token_id", ends)
    expected = [up_to_end(tokens, ends) for tokens in endless]
    rolled = HfEngine(bench.adapter, MANY).generate(bench.prompts, 2, Sampling(NUM_NEW, 0.0), seeds(bench))
    assert [[c.token_ids for c in group.completions] for group in rolled] == [[tokens] * 2 for tokens in expected]
    assert len({len(tokens) for tokens in expected}) > 1


def up_to_end(tokens: list[int], ends: list[int]) -> tuple[int, ...]:
    last = next((n for n, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tuple(tokens[: last + 1])


def seeds(bench: Bench) -> list[tuple[object, ...]]:
    return [(n,) for n in range(len(bench.prompts))]


# --- slow ---


@pytest.mark.families
def test_every_attention_is_exact(bench: Bench) -> None:
    for attention in bench.case.attentions:
        other = under(bench, attention)
        assert check_packing(other.adapter, whole(*bench.groups), 0.7) < bench.case.tolerance
        error, name = worst_gradient(other.packed_gradients(), other.plain_gradients)
        assert error < bench.case.tolerance, (attention, name)


@pytest.mark.families
def test_bfloat16_weights_round_packed_rows_no_more_than_plain_ones(bench: Bench) -> None:
    """In the update, with and without features, and in a rollout; the mean over tokens, since single ones may flip."""
    rounded = reload(bench, dtype="bfloat16")
    rounded.adapter.round_weights()
    pairs = [(group.prompt.encoded, each) for group in bench.groups for each in group.completions]
    with torch.no_grad():
        plain = torch.cat([plain_log_probs(rounded.adapter, *pair, 1.0) for pair in pairs])
        found = [rounded.packed(rows) for rows in (None, rounded.with_features())]
    of_plain, *of_packed = (float((each - bench.plain).abs().mean()) for each in (plain, *found))
    assert min(of_packed) > 0 and max(of_packed) < 1.5 * of_plain, (of_packed, of_plain)
    (rounded.packed() * rounded.coefficients).sum().backward()
    trained = dict(rounded.adapter.trainable_parameters())
    found = {name: each.grad for name, each in trained.items() if each.grad is not None}
    assert {each.dtype for each in (*trained.values(), *found.values())} == {torch.float32}
    assert found.keys() == bench.plain_gradients.keys()
    rolled = HfEngine(rounded.adapter, MANY).generate(bench.prompts, 2, Sampling(4, 1.0), seeds(bench))
    assert all(group.completions for group in rolled)
    assert check_packing(rounded.adapter, whole(*bench.groups), 0.7) < bench.case.tolerance


@pytest.mark.families
def test_gradient_checkpointing_changes_nothing(bench: Bench) -> None:
    other = reload(bench, gradient_checkpointing=True)
    other.adapter.model.train()
    error, name = worst_gradient(other.packed_gradients(), bench.plain_gradients)
    assert error < bench.case.tolerance, name


@pytest.mark.families
def test_a_frozen_tower_runs_in_the_rollout_alone(bench: Bench) -> None:
    other = reload(bench, freeze=["vision", "projector"])
    rolled = HfEngine(other.adapter, MANY).generate(bench.prompts, 2, Sampling(2, 1.0), seeds(bench))
    rows = [replace(row, features=each.features) for row, each in zip(whole(*bench.groups), rolled, strict=True)]
    expected = {name: g for name, g in bench.plain_gradients.items() if other.adapter.part_of(name) == "text"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other.adapter, "encode_images", None)
        error, name = worst_gradient(other.packed_gradients(rows), expected)
    assert error < bench.case.tolerance, name


@pytest.mark.families
def test_lora_is_read_by_transformers(bench: Bench, tmp_path: Path) -> None:
    adapted = with_lora(bench, tmp_path)
    assert adapted.difference() < bench.case.tolerance
    error, name = worst_gradient(adapted.packed_gradients(), adapted.plain_gradients)
    assert error < bench.case.tolerance, name
    assert float((adapted.plain - bench.plain).abs().max()) > 1e-3
    assert {adapted.adapter.part_of(name) for name, _ in adapted.adapter.trainable_parameters()} == {"text", "vision"}
    beyond_the_limits = make_prompt(adapted.adapter, make_sample([(1000, 700)]))
    assert adapted.generate(beyond_the_limits, 1)


@pytest.mark.families
def test_kept_log_probs_are_those_of_plain_rows(bench: Bench) -> None:
    rolled = HfEngine(bench.adapter, MANY).generate(bench.prompts, 2, Sampling(6, 1.0), seeds(bench), True)  # noqa: FBT003
    for group in rolled:
        for completion in group.completions:
            expected = bench.plain_log_probs(group.prompt, completion)
            assert torch.allclose(torch.tensor(completion.log_probs), expected, atol=bench.case.tolerance)


@pytest.mark.families
@torch.no_grad()
def test_a_model_that_wants_to_draw_writes_no_vision_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 tokens of a model whose head prefers the banned tokens by far."""
    biased = reload(bench).adapter
    banned = list(biased.banned_token_ids)
    without, *others = (set(bench.inputs(prompt)["input_ids"][0].tolist()) for prompt in bench.prompts)
    added = {number: str(each) for number, each in biased.tokenizer.added_tokens_decoder.items()}
    of_images = {token for token in set().union(*others) - without if added.get(token, " ").strip()}
    assert {token for token in of_images if token < len(biased.head_weight)} <= set(banned), "what the processor writes"
    assert of_images or bench.prompts[0].sample.images, "no prompt without images to compare with"
    if not banned:
        assert len(biased.head_weight) <= min(biased.tokenizer.convert_tokens_to_ids(biased.vision_tokens))
        return
    biased.head_weight[banned] *= 20
    monkeypatch.setattr(biased.model.generation_config, "eos_token_id", [10**9])  # no row ends
    wanted = [biased.run_plain(prompt.encoded, ())[-1] @ biased.head_weight.T for prompt in bench.prompts]
    assert any(int(logits.argmax()) in banned for logits in wanted)
    rolled = HfEngine(biased, MANY).generate(bench.prompts, 25, Sampling(100, 1.0), seeds(bench))
    tokens = [token for group in rolled for completion in group.completions for token in completion.token_ids]
    assert len(tokens) == 10_000
    assert not set(tokens) & set(banned)


@pytest.mark.families
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", ["zero0", "fsdp"])
def test_gradient_of_two_ranks_is_that_of_plain_rows(tmp_path: Path, layout: str) -> None:
    """Several deals of groups to the ranks, one without images, one without groups, one of split groups."""
    families = [name for name, case in CASES.items() if is_installed(case)]
    folders = [write_tiny_model(tmp_path / name, name, seed=1) for name in families]
    right = [row for row in measure_gradients(layout, folders, seconds=1700) if not row["mutation"]]
    assert {row["model"] for row in right} == set(families)
    for row in right:
        assert max(row["errors"]) < CASES[row["model"]].tolerance, row
