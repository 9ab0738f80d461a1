"""Prompts without a chat template begin as the processor's own do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from gpg_vl.config import PromptConfig
from gpg_vl.data.images import open_image
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Sample
from tests.support.builders import make_prompt, make_sample
from tests.support.families import CASES, TILES, load_case
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
