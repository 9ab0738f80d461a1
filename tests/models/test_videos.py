"""Videos in every family that reads them, on a tiny model, against its own processor and its own plain forward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from transformers import AutoProcessor

from gpg_vl.config import ModelConfig
from gpg_vl.data.videos import FrameSampling
from gpg_vl.models import load_adapter
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.families import FAMILIES
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.packing import split_into_rows
from tests.support.families import TOKEN_TYPES, FamilyCase, reload, skip_unless_installed, worst_gradient
from tests.support.family_lora import with_lora
from tests.support.videos import VIDEO_CASES, Clip, VideoBench, make_video_bench

MANY = 10**6
NUM_NEW = 6


def with_marks(family: str) -> ParameterSet:
    """Mixtures of experts read videos as the models beside them do, so they are tested with all that is slow."""
    return pytest.param(family, marks=[pytest.mark.families] if family.endswith("_moe") else [])


@pytest.fixture(scope="module", params=map(with_marks, VIDEO_CASES))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoBench:
    case = VIDEO_CASES[request.param]
    skip_unless_installed(FamilyCase((), except_in=case.except_in, needs=case.needs))
    return make_video_bench(request.param, case, tmp_path_factory.mktemp(request.param))


def test_every_family_with_videos_is_tested() -> None:
    reading = {name for name, family in FAMILIES.items() if family.adapter.video_placeholder is not None}
    assert reading == set(VIDEO_CASES)


def test_encode_gives_what_the_processor_gives(bench: VideoBench) -> None:
    for prompt in bench.prompts:
        expected = bench.inputs(prompt)
        encoded = prompt.encoded
        assert encoded.token_ids == tuple(expected.pop("input_ids")[0].tolist())
        del expected["attention_mask"]
        for name in TOKEN_TYPES:
            if name in expected:
                assert expected.pop(name).tolist() == [list(encoded.token_types)]
        vision = {} if encoded.vision is None else encoded.vision.tensors
        assert vision.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in vision.items())
        assert bench.adapter.count_tokens(prompt.text, prompt.views) == len(encoded.token_ids)
        assert encoded.vision is None or encoded.vision.num_tokens == sum(map(bool, encoded.token_types))


def test_packed_rows_are_plain_ones(bench: VideoBench) -> None:
    assert bench.difference() < bench.case.tolerance
    error, name = worst_gradient(bench.packed_gradients(), bench.plain_gradients)
    assert error < bench.case.tolerance, name


def test_rows_that_are_not_packed_share_their_videos(bench: VideoBench) -> None:
    rows = [row for group in bench.groups for row in split_into_rows(group, MANY, pack=False)]
    assert bench.difference(rows) < bench.case.tolerance


def test_split_groups_are_plain_ones(bench: VideoBench) -> None:
    rows = [row for g in bench.groups for row in split_into_rows(g, len(g.prompt.encoded.token_ids) + 10)]
    assert len(rows) > len(bench.groups)
    assert bench.difference(rows) < bench.case.tolerance


@pytest.mark.families
def test_gradient_checkpointing_changes_nothing(bench: VideoBench) -> None:
    other = reload(bench, gradient_checkpointing=True)
    other.adapter.model.train()
    error, name = worst_gradient(other.packed_gradients(), bench.plain_gradients)
    assert error < bench.case.tolerance, name


@pytest.mark.families
def test_lora_is_read_by_transformers(bench: VideoBench, tmp_path: Path) -> None:
    adapted = with_lora(bench, tmp_path)
    assert adapted.difference() < bench.case.tolerance
    error, name = worst_gradient(adapted.packed_gradients(), adapted.plain_gradients)
    assert error < bench.case.tolerance, name


@torch.no_grad()
def test_features_stand_for_their_videos(bench: VideoBench) -> None:
    rows = bench.with_features()
    assert bench.difference(rows) < bench.case.tolerance
    features = rows[0].features
    assert features is not None
    moved = replace(features, levels=tuple(level.roll(1, 0) for level in features.levels))
    assert bench.difference([replace(rows[0], features=moved), *rows[1:]]) > 1e-3


@torch.no_grad()
def test_features_of_a_batch_are_in_the_order_of_its_prompts(bench: VideoBench) -> None:
    visions = [prompt.encoded.vision for prompt in bench.prompts if prompt.encoded.vision is not None]
    alone = [bench.adapter.encode_images(vision) for vision in visions]
    together = bench.adapter.encode_images(bench.adapter.join_vision(visions))
    for found, *expected in zip(together.levels, *(each.levels for each in alone), strict=True):
        assert torch.allclose(found, torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "limits"),
    [
        (Clip(300, 170, 6), {}),
        (Clip(640, 360, 9), {"max_video_pixels": 90_000}),
        (Clip(50, 700, 4), {"max_pixels": 9_000}),
        (Clip(300, 20, 4), {}),
        (Clip(600, 24, 4), {}),
        (Clip(400, 10, 4), {}),
        (Clip(200, 14, 4), {}),
    ],
)
def test_the_saved_processor_sees_frames_in_the_size_of_the_run(
    bench: VideoBench, clip: Clip, limits: dict[str, Any], tmp_path: Path
) -> None:
    config = ModelConfig(path=str(bench.folder), **{**bench.case.config, **limits})
    adapter = load_adapter(config, with_weights=False)
    assert isinstance(adapter, BaseAdapter)
    adapter.processor.save_pretrained(tmp_path)
    view = adapter.view_video(clip.width, clip.height, FrameSampling().choose(clip.num_frames, clip.fps))
    frames = torch.zeros(clip.num_frames, 3, clip.height, clip.width, dtype=torch.uint8)
    made = AutoProcessor.from_pretrained(tmp_path).video_processor(
        videos=[frames], do_sample_frames=False, return_tensors="pt"
    )
    if "video_grid_thw" in made:
        side = adapter.model.config.vision_config.patch_size
        found = tuple((made["video_grid_thw"][0, 1:] * side).tolist())
    else:
        found = tuple(made[next(iter(made))].shape[-2:])
    assert found == (view.model_height, view.model_width)


@torch.no_grad()
def test_mutations_are_caught(bench: VideoBench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, groups = bench.plain, bench.groups
    for name, mutation in bench.case.mutations.items():
        with monkeypatch.context() as patch:
            mutation(patch)
            broken = replace(bench)
            prompts = broken.prompts
            broken.__dict__["plain"] = plain
            broken.__dict__["groups"] = [replace(g, prompt=p) for g, p in zip(groups, prompts, strict=True)]
            assert broken.difference() > 1e-3, name


def test_greedy_rollout_is_that_of_generate(bench: VideoBench, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = bench.prompts  # made with the real end tokens
    monkeypatch.setattr(bench.adapter.model.generation_config, "eos_token_id", [10**9])
    expected = [bench.generate(prompt, NUM_NEW) for prompt in prompts]
    seeds: list[tuple[object, ...]] = [(n,) for n in range(len(prompts))]
    rolled = HfEngine(bench.adapter, MANY).generate(prompts, 1, Sampling(NUM_NEW, 0.0), seeds)
    assert [list(group.completions[0].token_ids) for group in rolled] == expected
