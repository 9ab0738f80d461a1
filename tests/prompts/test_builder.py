"""Rows as the models read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.data.images import open_image
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.records import Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion
from gpg_vl.verifiers.reasoning import completion_text
from tests.support.builders import FAMILIES, SMALL_IMAGES, make_sample
from tests.support.messages import lines_naming, naming
from tests.support.pictures import encode

LoadModel = Callable[..., QwenVLAdapter]
BASE_TEMPLATE = "{%- for m in messages -%}{%- for c in m['content'] -%}{%- if c['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ c['text'] }}{%- endif -%}{%- endfor -%}{%- endfor -%}"  # noqa: E501  the published base models' template joins the contents


def builder(adapter: QwenVLAdapter, shrink_to: int | None = None, **config: object) -> PromptBuilder:
    return PromptBuilder(adapter, TASKS, PromptConfig(**config), shrink_to=shrink_to)  # type: ignore[arg-type]


@pytest.mark.parametrize("shrink_to", [None, 30])
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_equal_the_processors(load: LoadModel, family: str, shrink_to: int | None) -> None:
    """What the model's own processor makes of the same text and the resized images."""
    adapter = load(family)
    sample = make_sample([(90, 60), (200, 110)])
    prompt = builder(adapter, shrink_to, template="{question}").build(sample)
    assert shrink_to is None or len(prompt.encoded.token_ids) <= shrink_to
    sized = [
        open_image(source).resize((view.model_width, view.model_height))
        for source, view in zip(sample.images, prompt.views, strict=True)
    ]
    expected = adapter.processor(text=[prompt.text], images=sized, do_resize=False, return_tensors="pt")
    assert prompt.encoded.token_ids == tuple(expected["input_ids"][0].tolist())
    assert prompt.encoded.token_types == tuple(expected["mm_token_type_ids"][0].tolist())
    assert prompt.encoded.vision is not None
    for name in ("pixel_values", "image_grid_thw"):
        assert torch.equal(prompt.encoded.vision.tensors[name], expected[name])
    assert prompt.encoded.vision.num_patches == len(expected["pixel_values"])
    assert prompt.encoded.vision.num_tokens == int(expected["mm_token_type_ids"].sum())
    positions, _ = adapter.model.model.get_rope_index(
        expected["input_ids"], expected["mm_token_type_ids"], image_grid_thw=expected["image_grid_thw"]
    )
    assert torch.equal(prompt.encoded.position_ids, positions[:, 0])
    assert prompt.encoded.next_position == int(positions.max()) + 1


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
    with pytest.raises(ValueError, match=naming("prompt.system")):
        builder(base, system="Be brief.")
    chat.processor.chat_template = None
    with pytest.raises(ValueError, match=naming("prompt.style", "chat")):
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
    with pytest.raises(ValueError, match=naming("counting-0", "question", 1, "<image>", 2)):
        build(replace(sample, question="<image>?"))


def test_a_marker_in_a_row_without_images_is_text(load: LoadModel) -> None:
    sample = make_sample([], question="In HTML, what does <image> stand for?")
    adapter = load()
    assert (
        "user\nIn HTML, what does <image> stand for?<|im_end|>"
        in builder(adapter, template="{question}").build(sample).text
    )
    marked = builder(adapter, template="<image>\n{question}")
    assert marked.build(make_sample()).text.count("<|image_pad|>") == 1
    for wrong in (make_sample([]), make_sample([(56, 56), (84, 84)]), make_sample(question="<image>?")):
        with pytest.raises(ValueError, match=naming(wrong.id, "prompt.template", "<image>")):
            marked.build(wrong)
    adapter.control_tokens = lambda: ["<image>"]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=naming(sample.id, "question", "<image>")):
        builder(adapter, template="{question}").build(sample)


def test_a_row_has_its_own_system_message(load: LoadModel, caplog: pytest.LogCaptureFixture) -> None:
    adapter = load()
    sample = replace(make_sample(), meta={"system": "Be brief."})
    prompt = builder(adapter, template="{question}").build(sample)
    assert prompt.messages == (("system", "Be brief."), ("user", "How many shapes?"))
    assert prompt.text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert builder(adapter, system="Be exact.").build(sample).messages[0] == ("system", "Be exact.")
    for without in ({}, {"system": ""}, {"system": 7}):
        plain = builder(adapter, template="{question}").build(replace(sample, meta=without))
        assert plain.text == builder(adapter, template="{question}").build(make_sample()).text
    with pytest.raises(ValueError, match=naming(sample.id, "system", "<|im_end|>")):
        builder(adapter).build(replace(sample, meta={"system": "<|im_end|>"}))
    base = builder(adapter, template="{question}", style="base")
    assert base.build(sample).text == base.build(make_sample()).text
    assert lines_naming(caplog.text, sample.id, "system")
    boxed = replace(sample, meta={"system": "Put the answer in \\boxed{}."})
    builder(adapter).build(boxed)
    assert lines_naming(caplog.text, boxed.id, "system", "prompt.answer_in")


def test_boxes_of_a_large_picture_stay_in_its_own_pixels(load: LoadModel) -> None:
    """The picture is opened at a half of its size; what the model sees is of the size that it always sees."""
    photo = Image.new("RGB", (6000, 4000), "red")
    photo.paste("blue", (3000, 0, 6000, 4000))
    sample = replace(make_sample(), images=(encode(photo, "JPEG"),))
    adapter = load()
    with pytest.raises(ValueError, match=naming(6000, 4000, "data.on_large_image")):
        builder(adapter).build(sample)
    large = PromptBuilder(adapter, TASKS, PromptConfig(), shrink_large=True)
    prompt = large.build(sample)
    [view] = prompt.views
    assert view == adapter.view(6000, 4000) and (view.width, view.height) == (6000, 4000)
    whole = adapter.encode(prompt.text, [photo], prompt.views)
    assert prompt.encoded.vision is not None and whole.vision is not None
    ours, plain = (each.vision.tensors["pixel_values"] for each in (prompt.encoded, whole))
    assert ours.shape == plain.shape and float((ours - plain).abs().mean()) < 0.02
    assert large.measure(sample).views == prompt.views


def test_control_tokens_in_a_row_are_refused(load: LoadModel) -> None:
    build = builder(load()).build
    for token in ("<|im_end|>", "<|image_pad|>", "<|vision_start|>"):
        with pytest.raises(ValueError, match=naming("counting-0", "question", token)):
            build(make_sample(question=f"How {token}?"))


def test_sizes_follow_the_pixel_limits(load: LoadModel) -> None:
    adapter = load(min_pixels=56 * 56, max_pixels=112 * 112)
    for size in ((20, 30), (500, 400), (84, 84)):
        view = adapter.view(*size)
        assert view.model_width % 28 == view.model_height % 28 == 0
        assert 56 * 56 <= view.model_width * view.model_height <= 112 * 112
    with pytest.raises(ValueError, match=naming(4900, 100, "model.max_pixels", 1568)):
        load(min_pixels=784, max_pixels=1568).view(4900, 100)


@pytest.mark.parametrize(("pixels", "sizes"), [(200704, [(400, 300)]), (401408, [(1, 1), (640, 480)])])
def test_a_small_image_that_is_enlarged_may_pass_a_limit_that_is_the_least_too(
    load: LoadModel, pixels: int, sizes: list[tuple[int, int]]
) -> None:
    """Sides are rounded up to tokens, as the processor does; a filler row has an image of one pixel."""
    adapter = load(min_pixels=pixels, max_pixels=pixels)
    for size in sizes:
        view = adapter.view(*size)
        assert pixels < view.model_width * view.model_height < 1.1 * pixels


def test_token_counts_are_exact(load: LoadModel) -> None:
    build = builder(load())
    for sizes in ([], [(84, 84)], [(200, 90), (30, 31)]):
        sample = make_sample(sizes)
        assert build.measure(sample).num_tokens == len(build.build(sample).encoded.token_ids)


def test_token_counts_are_exact_without_the_images(load: LoadModel) -> None:
    sizes = [(200, 90), (30, 31)]
    sample = make_sample(sizes)
    for shrink_to in (None, 100, 80):
        build = builder(load(), shrink_to)
        prompt, layout = build.build(sample), build.read(replace(sample, images=()), sizes)
        assert (layout.text, layout.views) == (prompt.text, prompt.views)
        assert layout == build.measure(sample)
        assert layout.num_tokens == len(prompt.encoded.token_ids)
        assert layout.is_shrunk == (shrink_to is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_scaled_down_as_far_as_needed(load: LoadModel, family: str) -> None:
    adapter = load(family, max_pixels=784 * 600)
    sample = make_sample([(600, 400), (300, 300), (56, 56)], task="grounding", answer="[100, 50, 400, 300]")
    plain = builder(adapter)
    full = plain.build(sample)
    room = len(full.encoded.token_ids)
    assert builder(adapter, room).build(sample).views == full.views, "what fits is left alone"
    for shrink_to in (room - 1, room - 100, room - 300, room - 400):
        prompt = builder(adapter, shrink_to).build(sample)
        assert shrink_to - 60 < len(prompt.encoded.token_ids) <= shrink_to, (
            "no smaller than needed, in whole rows of tokens"
        )
        tokens = adapter.count_image_tokens(prompt.views)
        assert sum(prompt.encoded.token_types) == sum(tokens)
        assert prompt.encoded.vision is not None
        assert prompt.encoded.vision.tensors["image_grid_thw"][:, 1:].mul(14).tolist() == [
            [v.model_height, v.model_width] for v in prompt.views
        ]
        assert tokens[0] > tokens[1] > tokens[2], "each keeps its share"


def test_a_box_keeps_its_place_in_an_image_that_was_scaled_down(load: LoadModel) -> None:
    adapter = load("qwen2_5_vl", max_pixels=784 * 600)
    sample = make_sample([(640, 480)], task="grounding", answer="[160, 120, 480, 360]")
    full = builder(adapter).build(sample)
    prompt = builder(adapter, len(full.encoded.token_ids) // 2).build(sample)
    [view] = prompt.views
    assert view.model_width * view.model_height < full.views[0].model_width * full.views[0].model_height
    assert (view.width, view.height) == (640, 480), "gold boxes are in original pixels"
    assert f"pixels of the {view.model_width} x {view.model_height} image" in prompt.text
    task = TASKS["grounding"]
    box = [round(value) for value in view.to_model((160, 120, 480, 360))]
    score = score_completion(task, sample, f"<think></think><answer>{box}</answer>", prompt.views)
    assert score.parts["iou"] > 0.97
    stale = score_completion(task, sample, f"<think></think><answer>{box}</answer>", full.views)
    assert stale.parts["iou"] < 0.6, "the same numbers mean another box in the larger image"


def test_scaling_down_ends_at_the_smallest_image(load: LoadModel) -> None:
    """What is too long for its text alone stays too long, and an image keeps model.min_pixels."""
    adapter = load(min_pixels=784 * 4 + 28)
    prompt = builder(adapter, shrink_to=5).build(make_sample([(300, 300), (2400, 50)]))
    views = prompt.views
    assert len(prompt.encoded.token_ids) > 5
    assert adapter.count_image_tokens(views)[0] == 4
    assert views[1].model_height == 28, "one token high, where the shape leaves nothing less"


def test_an_adapter_without_weights_reads_the_same(load: LoadModel, model_folders: dict[str, Path]) -> None:
    sample = make_sample([(200, 90)], task="grounding", answer="[0, 0, 9, 9]")
    for family, folder in model_folders.items():
        config = ModelConfig(**{"path": str(folder), **SMALL_IMAGES})  # type: ignore[arg-type]
        bare = load_adapter(config, with_weights=False)
        assert {parameter.device.type for parameter in bare.model.parameters()} == {"meta"}
        assert builder(bare).read(sample, [(200, 90)]) == builder(load(family)).read(sample, [(200, 90)])
        assert (bare.context_length, bare.control_tokens()) == (4096, load(family).control_tokens())


def test_bad_image_names_the_sample(load: LoadModel) -> None:
    sample = Sample("row-9", "counting", (b"no image",), "How many?", "4")
    with pytest.raises(ValueError, match=naming("row-9", "image")):
        builder(load()).build(sample)
    assert isinstance(open_image(make_sample().images[0]), Image.Image)


def test_the_answer_is_asked_for_scored_and_written_in_a_box(load: LoadModel) -> None:
    adapter = load()
    sample = replace(make_sample([(64, 48)]), task="counting", answer="4")
    tags, boxed = (builder(adapter, answer_in=place).build(sample) for place in ("tags", "boxed"))
    assert ("</answer>" in tags.text, "\\boxed{}" in tags.text, tags.answer_in) == (True, False, "tags")
    assert ("</answer>" in boxed.text, "\\boxed{}" in boxed.text, boxed.answer_in) == (False, True, "boxed")
    text = "<think>a</think>It is \\boxed{4}."
    reward = score_completion(TASKS["counting"], sample, text, boxed.views, answer_in=boxed.answer_in)
    assert reward.parts == {"correct": 1, "format": 1}
    gold = GoldCompletions(adapter, TASKS, "boxed").write(sample, boxed.text, boxed.views)
    assert gold.text == "<think></think>\\boxed{4}"


@pytest.mark.parametrize("place", ["tags", "boxed"])
def test_a_prompt_is_rebuilt_as_it_was(place: str, load: LoadModel) -> None:
    prompts = builder(load(), answer_in=place)
    built = prompts.build(make_sample([(64, 48), (90, 60)]))
    again = prompts.rebuild(built.sample, built.text, built.views, built.messages)
    assert replace(again, encoded=built.encoded) == built
    assert again.encoded.token_ids == built.encoded.token_ids
    assert torch.equal(again.encoded.position_ids, built.encoded.position_ids)


def test_a_question_that_asks_for_the_other_place_is_noted_once(
    load: LoadModel, caplog: pytest.LogCaptureFixture
) -> None:
    sample = replace(make_sample(), id="row-7 \x1b[31m", question="How many? Put the number in \\boxed{}.")
    prompts = builder(load())
    for _ in range(2):
        prompts.build(sample)
    assert len(lines_naming(caplog.text, "row-7", "prompt.answer_in")) == 1
    assert "\x1b" not in caplog.text
    builder(load(), answer_in="boxed").build(sample)
    assert len(lines_naming(caplog.text, "row-7", "prompt.answer_in")) == 1
