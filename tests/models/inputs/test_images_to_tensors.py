"""Prompts without a chat template begin as the processor's own do; pictures that were opened small fit their text."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from gpg_vl.config import PromptConfig
from gpg_vl.data.images import open_image, original_size
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Sample
from tests.support.builders import make_prompt, make_sample
from tests.support.families import CASES, TILES, load_case, skip_unless_installed
from tests.support.start_tokens import add_start

STARTS = {
    "mistral3": ["<s>"],
    "lfm2_vl": ["<|pad|>"],
    "idefics3": ["<|endoftext|>"],
    "glm4v": ["[gMASK]", "<sop>"],
    "qwen2_vl": [],
    "internvl": [],
}
"""What the tokenizer puts in front by itself, of the tokens that the tiny one has."""


def base_prompt(adapter: Any, sample: Sample) -> Any:
    return PromptBuilder(adapter, {}, PromptConfig(template="{question}", style="base")).build(sample)


@pytest.mark.parametrize("family", STARTS)
def test_a_base_prompt_begins_as_the_processors_own(family: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family)
    start = add_start(folder, STARTS[family]) if STARTS[family] else ""
    adapter = load_case(CASES[family], folder)
    adapter.save(tmp_path / "saved")
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "saved")
    for number, sizes in enumerate(TILES):
        sample = make_sample(sizes, number)
        prompt = base_prompt(adapter, sample)
        assert prompt.text.startswith(start + "User: ")
        shown = {"images": [[open_image(source) for source in sample.images]]} if sizes else {}
        bare = prompt.text.removeprefix(start)
        own = processor(text=[bare], **shown, add_special_tokens=True, return_tensors="pt")  # LFM2-VL's adds none else
        assert list(prompt.encoded.token_ids) == own["input_ids"][0].tolist()
        assert adapter.count_tokens(prompt.text, prompt.views) == len(prompt.encoded.token_ids)
        if start:  # the template says how a chat begins
            assert make_prompt(adapter, sample).text.count(start) == str(processor.chat_template).count(start)


LARGE = {
    "smolvlm": (7002, 3521),
    "idefics3": (7002, 3521),
    "lfm2_vl": (4600, 4599),
    "minicpmv4_6": (6064, 3501),
    "internvl": (7002, 3521),
    "llava_onevision": (7002, 3521),
}
"""Sizes of files that are opened at a half, with sides rounded up; in the first four the grid of that is another."""


@torch.no_grad()
@pytest.mark.parametrize("family", LARGE)
def test_a_picture_that_was_opened_small_is_cut_as_its_file(family: str, tmp_path: Path) -> None:
    """With ``data.on_large_image: shrink``; beside the tensors of the whole file."""
    skip_unless_installed(CASES[family])
    tiles = 16 if family in ("smolvlm", "idefics3") else 4
    adapter = load_case(CASES[family], write_tiny_model(tmp_path / "tiny", family, 1), max_tiles=tiles)
    picture = Image.merge("RGB", [slope := Image.linear_gradient("L").resize(LARGE[family]), slope, slope.rotate(180)])
    file = BytesIO()
    picture.save(file, "JPEG")
    opened = open_image(file.getvalue(), shrink=True)
    assert opened.size != original_size(opened) == picture.size
    build = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), shrink_large=True)
    prompt = build.build(Sample("large", "counting", (file.getvalue(),), "How many?", "4"))
    vision, whole = prompt.encoded.vision, adapter.encode_media([picture], prompt.views)
    assert vision is not None and whole is not None
    assert vision.num_tokens == prompt.encoded.token_ids.count(adapter.model.config.image_token_id)
    assert len(adapter.encode_images(vision).levels[0]) == vision.num_tokens
    for name, tensor in vision.tensors.items():
        assert torch.allclose(tensor, whole.tensors[name], atol=0.05), name
    assert len(adapter.run_plain(prompt.encoded, ())) == len(prompt.encoded.token_ids)
