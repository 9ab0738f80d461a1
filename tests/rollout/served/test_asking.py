"""What a server is asked: the prompt's own tokens, runs of image tokens and pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from gpg_vl.config import PromptConfig
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import FrameTimes, Prompt, VideoView
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served import asking
from gpg_vl.rollout.served.asking import ask_prompt, deal
from gpg_vl.rollout.served.messages import AskedPrompt, Picture, Request
from tests.support.builders import make_sample


def build(adapter: Any, sizes: list[tuple[int, int]], seed: int = 0) -> Prompt:
    builder = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=True)
    return builder.build(make_sample(sizes, seed))


@pytest.mark.parametrize("sizes", [[(84, 84)], [], [(140, 56), (56, 84), (300, 200)], [(1000, 40)]])
def test_the_server_sees_what_the_update_sees(load: Any, sizes: list[tuple[int, int]]) -> None:
    """The pixels, patched as the model's processor does it without resizing, are the tensors of the prompt."""
    adapter = load()
    prompt = build(adapter, sizes)
    asked = ask_prompt(adapter, prompt, ("a", 1))
    assert asked.token_ids == prompt.encoded.token_ids
    image_token = adapter.model.config.image_token_id
    in_runs = [place for first, count in asked.runs for place in range(first, first + count)]
    assert in_runs == [place for place, token in enumerate(asked.token_ids) if token == image_token]
    assert asked.short_token_ids.count(image_token) == len(sizes)
    if sizes:
        images = [Image.frombytes("RGB", (each.width, each.height), each.rgb) for each in asked.pictures]
        vision = adapter.processor.image_processor(images=images, do_resize=False, return_tensors="pt")
        assert prompt.encoded.vision is not None
        for name, tensor in prompt.encoded.vision.tensors.items():
            assert torch.equal(vision[name], tensor)


def test_a_prepared_prompt_keeps_the_same_pictures(load: Any) -> None:
    adapter, sample = load(), make_sample([(100, 60), (56, 84)])
    builder = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=True)
    prepared = builder.prepare(sample)
    assert prepared is not None
    one, other = builder.build(sample), builder.finish(sample, prepared)
    assert [each.tobytes() for each in one.pictures] == [each.tobytes() for each in other.pictures]
    again = builder.rebuild(sample, one.text, one.views, one.messages)
    assert [each.tobytes() for each in again.pictures] == [each.tobytes() for each in one.pictures]
    assert PromptBuilder(adapter, {}, PromptConfig(template="{question}")).build(sample).pictures == ()


def test_each_seed_is_another_number(load: Any) -> None:
    adapter = load()
    prompt = build(adapter, [])
    numbers = {ask_prompt(adapter, prompt, ("run", step)).seed for step in range(50)}
    assert len(numbers) == 50 and all(0 <= number < 2**62 for number in numbers)
    assert ask_prompt(adapter, prompt, ("run", 3)).seed == ask_prompt(adapter, prompt, ("run", 3)).seed


def test_what_the_engine_cannot_be_shown_is_refused(load: Any) -> None:
    adapter = load()
    prompt = build(adapter, [(84, 84)])
    video = VideoView(84, 84, 84, 84, None, FrameTimes((0, 1), 2, 1.0))
    with pytest.raises(ValueError, match=r"video.*rollout.engine to hf"):
        ask_prompt(adapter, replace(prompt, views=(video,)), ())
    adapter.takes_sized_images = False
    with pytest.raises(ValueError, match=r"qwen2_vl model.*rollout.engine to hf"):
        ask_prompt(adapter, prompt, ())


def asked(num_bytes: int, number: int) -> AskedPrompt:
    pictures = (Picture(num_bytes // 3, 1, bytes(num_bytes)),) if num_bytes else ()
    return AskedPrompt((number,), ((0, 1),) if num_bytes else (), pictures, number)


@pytest.mark.parametrize(
    ("sizes", "num_servers", "parts"),
    [
        ([0, 0, 0, 0], 1, [4]),
        ([0, 0, 0, 0], 3, [2, 2]),
        ([0], 4, [1]),
        ([60, 60, 60], 1, [1, 1, 1]),
        ([30, 60, 30, 60], 1, [2, 2]),
        ([300, 3, 3], 1, [1, 2]),
    ],
)
def test_prompts_are_dealt_in_order(
    sizes: list[int], num_servers: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "BYTES_PER_REQUEST", 100)
    prompts = tuple(asked(size, number) for number, size in enumerate(sizes))
    dealt = deal(Request("v", prompts, 2, Sampling(1, 1.0), (1,), ()), num_servers)
    assert [len(each.prompts) for each in dealt] == parts
    assert tuple(prompt for each in dealt for prompt in each.prompts) == prompts
