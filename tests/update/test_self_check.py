"""The self-check's bounds; what it catches in float32 is in test_packing.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gpg_vl.config import LoraConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.decoding.decode_step import run_step
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import ImageFeatures
from gpg_vl.rollout import decoding, hf
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update import packing
from gpg_vl.update.packing import split_into_rows
from gpg_vl.update.self_check import BFLOAT16_TOLERANCE, check_packing, check_prefill
from tests.support.builders import FAMILIES, make_lively, make_sample, make_training_group, whole
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]


def test_bfloat16_weights_have_a_bound_of_their_own(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSpeed keeps them; on a model whose output depends on what it reads. How much rounds is the processor's."""
    adapter = load()
    make_lively(adapter)
    adapter.model.bfloat16()
    group = make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [25, 14, 9, 13])
    assert check_packing(adapter, whole(group), 1.0) < BFLOAT16_TOLERANCE
    original = packing._lay_out
    monkeypatch.setattr(packing, "_lay_out", lambda row: (original(row)[0], [min(s, 1) for s in original(row)[1]]))
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-0")):
        check_packing(adapter, whole(group), 1.0)


@pytest.mark.parametrize("model", [{}, {"freeze": ["vision", "projector"]}, {"lora": LoraConfig(r=4)}], ids=str)
def test_rounded_weights_are_widened_for_the_check(load: LoadModel, model: dict[str, Any]) -> None:
    """Rounding is not in the way of a small difference, and the weights are afterwards what they were."""
    adapter = load(dtype="bfloat16", **model)
    adapter.round_weights()
    group = make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [5, 4])
    [rolled] = HfEngine(adapter, 10**6).generate([group.prompt], 2, Sampling(3, 1.0), [(0,)])
    assert (rolled.features is None) == (not model)
    before = {name: each.detach().clone() for name, each in adapter.model.named_parameters()}
    rows = whole(replace(group, features=rolled.features))
    assert check_packing(adapter, rows, 1.0) < 1e-5
    assert check_prefill(adapter, rows, 1.0) < 1e-5
    for name, each in adapter.model.named_parameters():
        assert each.dtype == torch.bfloat16 and torch.equal(each, before[name]), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", [{"freeze": ["vision", "projector"]}, {"lora": LoraConfig(r=4)}], ids=str)
def test_features_that_autocast_rounded_in_the_rollout_pass(
    load: LoadModel, family: str, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are float32: nothing else of the check is rounded, and a wrong order of the features still shows."""
    adapter = load(family, dtype="bfloat16", **model)
    group = make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [5, 4])
    [rolled] = HfEngine(adapter, 10**6).generate([group.prompt], 2, Sampling(3, 1.0), [(0,)])
    assert rolled.features is not None
    reused = replace(group, features=rolled.features)
    assert check_packing(adapter, whole(reused), 1.0) < 1e-5
    embed = QwenVLAdapter._embed

    def flipped(self: QwenVLAdapter, ids: Tensor, types: Tensor, features: ImageFeatures) -> dict[str, Tensor]:
        return embed(self, ids, types, ImageFeatures((features.levels[0].flip(0),)))

    monkeypatch.setattr(QwenVLAdapter, "_embed", flipped)
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-0")):
        check_packing(adapter, whole(reused), 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_of_the_micro_batch_counts(load: LoadModel, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of different lengths, one without an image, one group cut in two."""
    adapter = load(family)
    groups = [
        make_training_group(adapter, make_sample([(140, 84)]), [9, 12, 7]),
        make_training_group(adapter, make_sample([(56, 56)], seed=1), [3, 1]),
        make_training_group(adapter, make_sample([], seed=2), [2, 5]),
    ]
    cut = split_into_rows(groups[0], len(groups[0].prompt.encoded.token_ids) + 21)
    rows = [*cut, *whole(*groups[1:])]
    assert len(rows) == 4
    assert check_packing(adapter, rows, 1.0) < 1e-5
    original = packing._source_positions

    def one_late_in_a_padded_row(row: packing.PackedRow) -> list[int]:
        return [position + (row.encoded is groups[1].prompt.encoded) for position in original(row)]

    monkeypatch.setattr(packing, "_source_positions", one_late_in_a_padded_row)
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-1")):
        check_packing(adapter, rows, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_other_images_are_noticed_under_autocast(load: LoadModel, family: str) -> None:
    adapter = load(family, dtype="bfloat16", freeze=["vision", "projector"])
    groups = [make_training_group(adapter, make_sample(seed=n), [5, 4], n) for n in range(2)]
    rolled = HfEngine(adapter, 10**6).generate([g.prompt for g in groups], 2, Sampling(3, 1.0), [(0,), (1,)])
    own = [replace(g, features=r.features) for g, r in zip(groups, rolled, strict=True)]
    assert check_packing(adapter, whole(*own), 1.0) < 1e-5
    swapped = [replace(g, features=r.features) for g, r in zip(groups, reversed(rolled), strict=True)]
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-0", "image features")):
        check_packing(adapter, whole(*swapped), 1.0)


def test_mode_and_precision_are_restored(load: LoadModel) -> None:
    adapter = load(dtype="bfloat16")
    assert torch.get_float32_matmul_precision() == "high"
    adapter.model.train()
    check_packing(adapter, whole(make_training_group(adapter, make_sample(), [3, 2])), 1.0)
    assert adapter.model.training
    assert torch.get_float32_matmul_precision() == "high"
    load()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_tower_is_compared_with_its_features(
    load: LoadModel, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the update reads pixels: whoever freezes the tower next trusts the features."""
    adapter = load(family)
    rows = whole(make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [5, 4]))
    assert rows[0].features is None and not adapter.has_frozen_tower()
    assert check_packing(adapter, rows, 1.0) < 1e-5
    encode = QwenVLAdapter.encode_images
    monkeypatch.setattr(
        QwenVLAdapter, "encode_images", lambda *given: ImageFeatures((encode(*given).levels[0].flip(0),))
    )
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-0")):
        check_packing(adapter, rows, 1.0)


# --- a rollout of two prompts ----------------------------------------------------------------------------------------


def prefilled(adapter: QwenVLAdapter, *sizes: list[tuple[int, int]]) -> list[packing.PackedRow]:
    """A row each; the pad token has an embedding of its own, as in published models."""
    with torch.no_grad():
        adapter.model.get_input_embeddings().weight[adapter.pad_token_id].normal_(std=0.1)
    return whole(*(make_training_group(adapter, make_sample(each, n), [3, 4], n) for n, each in enumerate(sizes)))


@pytest.mark.parametrize("config", [{}, {"freeze": ["vision", "projector"]}, {"attention": "eager"}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_prefill_is_compared_with_plain_rows(load: LoadModel, family: str, config: dict[str, Any]) -> None:
    adapter = load(family, **config)
    make_lively(adapter)
    for sizes in ([[(84, 84)]], [[(84, 84)], [(140, 84), (56, 56)]], [[]]):
        assert check_prefill(adapter, prefilled(adapter, *sizes), 0.7) < 1e-5


def padding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    length = torch.ones(99, 99, dtype=torch.bool).tril()
    monkeypatch.setattr(hf, "_visible_behind_padding", lambda real: length[: real.shape[1], : real.shape[1]][None])


def positions_count_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_longest(adapter: Adapter, tokens: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        return run_step(adapter, tokens, positions.max().expand_as(positions), *rest)

    monkeypatch.setattr(decoding, "run_step", of_the_longest)


def a_step_forgets_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(adapter: Adapter, tokens: Tensor, positions: Tensor, visible: Tensor, cache: Any) -> Tensor:
        return run_step(adapter, tokens, positions, None, cache)

    monkeypatch.setattr(decoding, "run_step", without)


@pytest.mark.parametrize("fault", [padding_is_seen, positions_count_padding, a_step_forgets_the_mask])
def test_a_rollout_that_reads_padding_is_noticed(
    load: LoadModel, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of packed rows sees none of these."""
    adapter = load()
    make_lively(adapter)
    rows = prefilled(adapter, [(84, 84)])
    fault(monkeypatch)
    assert check_packing(adapter, rows, 1.0) < 1e-5
    with pytest.raises(RuntimeError, match=naming("self-check", "counting-0", "rollout")):
        check_prefill(adapter, rows, 1.0)
