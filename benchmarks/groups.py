"""The same random groups for every side: an image, a prompt of given length, completions of given lengths."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from benchmarks.flops import Lengths
from benchmarks.models import MERGE, PATCH, SHAPES, ModelShape, build_model, write_processor
from gpg_vl.config import LoraConfig, ModelConfig, PromptConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.weights.lora import attach
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Completion, Prompt, Sample, TrainingGroup

SIDE = PATCH * MERGE


def build_adapter(
    shape: ModelShape, folder: Path, dtype: str = "float32", attention: str = "auto", device: str | None = None,
    lora: LoraConfig | None = None, gradient_checkpointing: bool = False,
) -> QwenVLAdapter:  # fmt: skip
    """The kit's adapter on a random model, by default on the GPU where there is one."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    processor = write_processor(folder, shape)
    model: Any = build_model(shape, processor, device=device)
    options: dict[str, Any] = {"dtype": dtype, "attention": attention, "gradient_checkpointing": gradient_checkpointing}
    config = ModelConfig(**options, min_pixels=784, max_pixels=10**7, lora=lora)
    if lora is not None:
        attach(model, lora, QwenVLAdapter.lora_layers, shape.name)
    return wrap(model, processor, shape, config)


def wrap(model: Any, processor: Any, shape: ModelShape, config: ModelConfig) -> QwenVLAdapter:
    frame = "grid_1000" if shape.family == "qwen2_vl" else "resized_pixels"
    return QwenVLAdapter(model, processor, config, frame)  # type: ignore[arg-type]


def draw_image(image_tokens: int, seed: int) -> Image.Image:
    """Noise that takes exactly ``image_tokens`` tokens, as square as that allows."""
    rows = max(n for n in range(1, int(image_tokens**0.5) + 1) if image_tokens % n == 0)
    shape = (rows * SIDE, image_tokens // rows * SIDE, 3)
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 255, shape, dtype=numpy.uint8))


def draw_prompt(adapter: Adapter, lengths: Lengths, seed: int = 0, *, keep_pictures: bool = False) -> Prompt:
    """A prompt of exactly ``lengths.prompt_tokens`` tokens."""
    buffer = io.BytesIO()
    draw_image(lengths.image_tokens, seed).save(buffer, "PNG")
    build = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=keep_pictures).build
    sample = Sample(f"bench-{seed}", "none", (buffer.getvalue(),), "?", "4")
    missing = lengths.prompt_tokens - len(build(sample).encoded.token_ids)
    assert missing >= 0, f"the chat template alone takes {-missing} tokens more than asked for"
    question = "7" * (missing + 1)  # one token a digit
    prompt = build(Sample(sample.id, sample.task, sample.images, question, sample.answer))
    assert len(prompt.encoded.token_ids) == lengths.prompt_tokens, (len(prompt.encoded.token_ids), lengths)
    return prompt


def draw_group(
    adapter: Adapter, lengths: Lengths, seed: int = 0, completion_lengths: Sequence[int] | None = None
) -> TrainingGroup:
    """A group with random completions; the coefficients are those of reduction ``sequence`` on random rewards."""
    generator = torch.Generator().manual_seed(seed)
    counts = completion_lengths or [lengths.completion_tokens] * lengths.group_size
    completions = []
    for count in counts:
        tokens = torch.randint(16, 300, (count,), generator=generator).tolist()
        completions.append(Completion(tuple(tokens), "", finished=False))
    rewards = torch.randn(len(counts), generator=generator)
    advantages = (rewards - rewards.mean()).tolist()
    coefficients = tuple((-a / count,) * count for a, count in zip(advantages, counts, strict=True))
    return TrainingGroup(draw_prompt(adapter, lengths, seed), tuple(completions), coefficients)


def shape_named(name: str) -> ModelShape:
    if name not in SHAPES:
        raise SystemExit(f"no model shape {name!r}; the shapes are {list(SHAPES)}")
    return SHAPES[name]
