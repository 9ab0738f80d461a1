"""Images of this family take tokens by their number and their place: what test_families.py does not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from gpg_vl.config import LoraConfig, PromptConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.llava_onevision import LlavaOnevisionAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.tasks import TASKS
from gpg_vl.update.self_check import check_packing
from tests.support.builders import make_prompt, make_sample, make_training_group, whole

LoadModel = Callable[..., LlavaOnevisionAdapter]
PICTURES = ([], [(60, 40)], [(30, 40), (84, 20)], [(250, 80)])


def test_an_image_takes_fewer_tokens_where_there_are_several(load_llava: LoadModel) -> None:
    """So tokens are counted for the images of a prompt together, and before anything is encoded."""
    adapter = load_llava()
    view = adapter.view(60, 40)
    assert adapter.count_image_tokens([view])[0] > adapter.count_image_tokens([view, view])[0] == 10
    for with_weights in (True, False):
        reader = load_adapter(adapter.config, with_weights)
        build = PromptBuilder(reader, TASKS, PromptConfig())
        for sizes in PICTURES:
            sample = make_sample(sizes)
            assert build.read(sample, sizes).num_tokens == len(build.build(sample).encoded.token_ids)


def test_images_stand_where_the_markers_are(load_llava: LoadModel) -> None:
    """The marker of a row is the image token of this family: it is a marker in the question and refused elsewhere."""
    adapter = load_llava()
    sample = make_sample([(28, 28), (30, 30)], question="Is <image> larger than <image>?")
    prompt = make_prompt(adapter, sample)
    assert "user\nIs <image> larger than <image>?<|im_end|>" in prompt.text
    assert prompt.encoded.vision is not None
    assert len(prompt.encoded.vision.tensors["image_sizes"]) == 2
    with pytest.raises(ValueError, match=r"sample counting-0: .* 1 <image> markers for 2 images"):
        make_prompt(adapter, replace(sample, question="<image>?"))
    with pytest.raises(ValueError, match=r"sample counting-0: .*<\|im_end\|>"):
        make_prompt(adapter, replace(sample, question="<image> or <image><|im_end|>?"))


def test_images_are_scaled_down_to_fit(load_llava: LoadModel) -> None:
    adapter = load_llava()
    sample = make_sample([(160, 160)])
    full = make_prompt(adapter, sample)
    for missing in (1, 10, 20):
        limit = len(full.encoded.token_ids) - missing
        build = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), shrink_to=limit)
        prompt = build.build(sample)
        assert len(prompt.encoded.token_ids) <= limit
        assert prompt.views[0].model_width < full.views[0].model_width


def test_a_lora_adapter_has_a_processor_that_fits_its_base(load_llava: LoadModel, tmp_path: Path) -> None:
    """Other tools take the base's config, with all of its grids; the run's own are for the run alone."""
    large, several = Image.new("RGB", (250, 250)), Image.new("RGB", (250, 80))
    adapter = load_llava(lora=LoraConfig(r=2))
    adapter.save(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor, of_base = (AutoProcessor.from_pretrained(folder) for folder in (tmp_path, adapter.config.path))
    counts = []
    for picture in (large, several):
        inputs = processor(text=["<image>"], images=[picture], return_tensors="pt")
        assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]
        assert inputs["input_ids"].equal(of_base(text=["<image>"], images=[picture], return_tensors="pt")["input_ids"])
        counts.append(inputs["input_ids"].shape[1])
    of_run = [sum(adapter.count_image_tokens([adapter.view(*picture.size)])) for picture in (large, several)]
    assert of_run[0] < counts[0] and of_run[1] == counts[1]
    again = load_adapter(replace(adapter.config, path=str(tmp_path)))
    assert [sum(again.count_image_tokens([again.view(*picture.size)])) for picture in (large, several)] == of_run


def test_a_picture_that_was_opened_small_is_not_enlarged(
    load_llava: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file may have 178 million pixels; what the model is given is the same as of the file."""
    adapter = load_llava()
    file, opened = Image.linear_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB").reduce(2)
    view, read = adapter.view(*file.size), type(adapter.processor.image_processor).preprocess
    sizes = []

    def preprocess(processor: Any, images: Any, **more: Any) -> Any:
        sizes.extend(image.size for group in images for image in group)
        return read(processor, images, **more)

    monkeypatch.setattr(type(adapter.processor.image_processor), "preprocess", preprocess)
    whole, small = (adapter.encode_media([image], [view]) for image in (file, opened))
    assert sizes == [(256, 256), (128, 128)]
    assert whole is not None and small is not None
    assert whole.num_tokens == small.num_tokens
    assert torch.equal(whole.tensors["image_sizes"], small.tensors["image_sizes"])
    assert whole.tensors["pixel_values"].shape == small.tensors["pixel_values"].shape


def test_features_that_autocast_rounded_pass_the_self_check(load_llava: LoadModel) -> None:
    adapter = load_llava(freeze=["vision", "projector"], dtype="bfloat16")
    groups = [make_training_group(adapter, make_sample([(60, 40)], seed), [5, 4], seed) for seed in range(2)]
    prompts, seeds = [group.prompt for group in groups], [(group.prompt.sample.id,) for group in groups]
    rolled = HfEngine(adapter, 10**6).generate(prompts, 2, Sampling(3, 1.0), seeds)
    reused = [replace(group, features=each.features) for group, each in zip(groups, rolled, strict=True)]
    assert check_packing(adapter, whole(*reused), 1.0) < 1e-5
    swapped = [replace(reused[0], features=reused[1].features), reused[1]]
    with pytest.raises(RuntimeError, match="self-check failed on sample counting-0"):
        check_packing(adapter, whole(*swapped), 1.0)
