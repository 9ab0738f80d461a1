"""Rows as the models read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image

from builders import FAMILIES, make_sample
from gpg_vl.config import PromptConfig
from gpg_vl.images import open_image
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.prompting import PromptBuilder, completion_text
from gpg_vl.records import Sample
from gpg_vl.tasks import TASKS

LoadModel = Callable[..., QwenVLAdapter]
BASE_TEMPLATE = "{%- for m in messages -%}{%- for c in m['content'] -%}{%- if c['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ c['text'] }}{%- endif -%}{%- endfor -%}{%- endfor -%}"  # noqa: E501  the published base models' template joins the contents


def builder(adapter: QwenVLAdapter, **config: object) -> PromptBuilder:
    return PromptBuilder(adapter, TASKS, PromptConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_equal_the_processors(load: LoadModel, family: str) -> None:
    """What the model's own processor makes of the same text and the resized images."""
    adapter = load(family)
    sample = make_sample([(90, 60), (200, 110)])
    prompt = builder(adapter, template="{question}").build(sample)
    sized = [
        open_image(source).resize((view.model_width, view.model_height))
        for source, view in zip(sample.images, prompt.image_views, strict=True)
    ]
    expected = adapter.processor(text=[prompt.text], images=sized, do_resize=False, return_tensors="pt")
    assert prompt.token_ids == tuple(expected["input_ids"][0].tolist())
    assert prompt.token_types == tuple(expected["mm_token_type_ids"][0].tolist())
    assert torch.equal(prompt.pixel_values, expected["pixel_values"])
    assert torch.equal(prompt.image_grid_thw, expected["image_grid_thw"])
    positions, _ = adapter.model.model.get_rope_index(
        expected["input_ids"], expected["mm_token_type_ids"], image_grid_thw=expected["image_grid_thw"]
    )
    assert torch.equal(prompt.position_ids, positions[:, 0])


def test_chat_and_base_prompts(load: LoadModel) -> None:
    chat = load()
    assert chat.is_chat()
    prompt = builder(chat, template="{question}", system="Be brief.").build(make_sample())
    assert prompt.messages == (("system", "Be brief."), ("user", "How many shapes?"))
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "How many shapes?<|im_end|>\n<|im_start|>assistant\n"
    )
    base = load()
    base.processor.chat_template = BASE_TEMPLATE
    assert not base.is_chat()
    prompt = builder(base, template="{question}").build(make_sample())
    assert prompt.messages == ()
    assert prompt.text == ("User: <|vision_start|><|image_pad|><|vision_end|>How many shapes?\nAssistant: <think>")
    assert completion_text(prompt, "4</think><answer>4</answer>") == "<think>4</think><answer>4</answer>"
    assert completion_text(builder(chat).build(make_sample()), "<think>") == "<think>"
    with pytest.raises(ValueError, match=r"prompt.system needs a chat prompt"):
        builder(base, system="Be brief.")
    chat.processor.chat_template = None
    with pytest.raises(ValueError, match=r"prompt.style is chat, but the model has no chat template"):
        builder(chat, style="chat")


@pytest.mark.parametrize("task", ["counting", "geometry", "grounding"])
def test_the_tasks_own_wording_asks_for_the_tags(load: LoadModel, task: str) -> None:
    text = builder(load()).build(make_sample(task=task, answer="[0, 0, 9, 9]")).text
    assert "How many shapes?" in text
    assert "<think>" in text
    assert "<answer>" in text


def test_grounding_is_asked_in_the_models_frame(load: LoadModel) -> None:
    sample = make_sample([(100, 60)], task="grounding", answer="[0, 0, 9, 9]")
    assert "grid from 0 to 1000" in builder(load("qwen2_vl")).build(sample).text
    assert "pixels of the 112 x 56 image" in builder(load("qwen2_5_vl")).build(sample).text


def test_images_stand_where_the_markers_are(load: LoadModel) -> None:
    sample = make_sample([(56, 56), (84, 84)], question="Is <image> larger than <image>?")
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    build = builder(load(), template="{question}").build
    assert f"user\nIs {picture} larger than {picture}?<|im_end|>" in build(sample).text
    assert f"user\n{picture}{picture}Same?<|im_end|>" in build(replace(sample, question="Same?")).text
    with pytest.raises(ValueError, match=r"sample counting-0: the question has 1 <image> markers for 2 images"):
        build(replace(sample, question="<image>?"))


def test_control_tokens_in_a_row_are_refused(load: LoadModel) -> None:
    build = builder(load()).build
    for token in ("<|im_end|>", "<|image_pad|>", "<|vision_start|>"):
        with pytest.raises(ValueError, match="sample counting-0: the question contains the control token"):
            build(make_sample(question=f"How {token}?"))


def test_sizes_follow_the_pixel_limits(load: LoadModel) -> None:
    adapter = load(min_pixels=56 * 56, max_pixels=112 * 112)
    for size in ((20, 30), (500, 400), (84, 84)):
        view = adapter.view(*size)
        assert view.model_width % 28 == view.model_height % 28 == 0
        assert 56 * 56 <= view.model_width * view.model_height <= 112 * 112
    with pytest.raises(ValueError, match=r"a 4900 x 100 image yields no token under model.max_pixels=1568; raise it"):
        load(min_pixels=784, max_pixels=1568).view(4900, 100)


def test_token_counts_are_exact(load: LoadModel) -> None:
    build = builder(load())
    for sizes in ([], [(84, 84)], [(200, 90), (30, 31)]):
        sample = make_sample(sizes)
        assert build.count_tokens(sample) == len(build.build(sample).token_ids)


def test_bad_image_names_the_sample(load: LoadModel) -> None:
    sample = Sample("row-9", "counting", (b"no image",), "How many?", "4")
    with pytest.raises(ValueError, match="sample row-9: cannot open image"):
        builder(load()).build(sample)
    assert isinstance(open_image(make_sample().images[0]), Image.Image)
