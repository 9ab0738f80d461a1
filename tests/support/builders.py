"""Small samples, prompts and groups that tests run through the real tiny models."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy
import torch
from PIL import Image

from gpg_vl.config import PromptConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.base import BaseAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Completion, Encoded, Prompt, Reward, Sample, ScoredGroup, TrainingGroup
from gpg_vl.update.packing import PackedRow, split_into_rows

AnAdapter = TypeVar("AnAdapter", bound=Adapter)
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
SMALL_IMAGES = {"dtype": "float32", "min_pixels": 784, "max_pixels": 50176}


def png(width: int, height: int, seed: int = 0) -> bytes:
    """A noise image as the bytes of a PNG file."""
    pixels = numpy.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_sample(
    sizes: Sequence[tuple[int, int]] = ((84, 84),),
    seed: int = 0,
    task: str = "counting",
    question: str = "How many shapes?",
    answer: str = "4",
) -> Sample:
    images = tuple(png(width, height, 10 * seed + n) for n, (width, height) in enumerate(sizes))
    return Sample(f"{task}-{seed}", task, images, question, answer)


def make_encoded(num_axes: int = 3) -> Encoded:
    """A prompt of one token, for stages that look at no model."""
    return Encoded((1,), (0,), torch.zeros(num_axes, 1, dtype=torch.long), 1, None)


def make_scored(rewards: Sequence[float], lengths: Sequence[int]) -> ScoredGroup:
    """A group of such rewards and numbers of tokens, for stages that look at no text."""
    completions = tuple(Completion(tuple(range(n)), "", finished=True) for n in lengths)
    prompt = Prompt(Sample("s", "counting", (), "q", "a"), "q", make_encoded(), ())
    return ScoredGroup(prompt, completions, tuple(Reward(r, {}, "ok") for r in rewards))


def in_dtype(prompt: Prompt, dtype: torch.dtype) -> Prompt:
    """The prompt with its images in another precision."""
    vision = prompt.encoded.vision
    if vision is None:
        return prompt
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in vision.tensors.items()}
    return replace(prompt, encoded=replace(prompt.encoded, vision=replace(vision, tensors=tensors)))


def make_prompt(adapter: BaseAdapter, sample: Sample) -> Prompt:
    return PromptBuilder(adapter, {}, PromptConfig(template="{question}")).build(sample)


def random_completions(adapter: BaseAdapter, lengths: Sequence[int], seed: int = 0) -> tuple[Completion, ...]:
    """Completions of given lengths from tokens that may be sampled; every other one ends in an end token."""
    generator = torch.Generator().manual_seed(seed)
    allowed = [token for token in range(8, 300) if token not in adapter.banned_token_ids]
    completions = []
    for number, length in enumerate(lengths):
        tokens = [allowed[i] for i in torch.randint(len(allowed), (length,), generator=generator).tolist()]
        if number % 2 == 0:
            tokens[-1] = adapter.end_token_ids[0]
        completions.append(Completion(tuple(tokens), adapter.decode(tokens), number % 2 == 0))
    return tuple(completions)


def make_training_group(adapter: BaseAdapter, sample: Sample, lengths: Sequence[int], seed: int = 0) -> TrainingGroup:
    completions = random_completions(adapter, lengths, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    coefficients = tuple(tuple(torch.randn(n, generator=generator).tolist()) for n in lengths)
    return TrainingGroup(make_prompt(adapter, sample), completions, coefficients)


def whole(*groups: TrainingGroup) -> list[PackedRow]:
    """Each group as one row."""
    return [row for group in groups for row in split_into_rows(group, 10**6)]


def make_lively(adapter: BaseAdapter) -> None:
    """Larger weights between embedding and head: greedy output then depends on what was read, and is never close."""
    with torch.no_grad():
        for parameter in adapter.model.model.language_model.layers.parameters():
            parameter.mul_(3)


def moved(adapter: AnAdapter) -> AnAdapter:
    """With a LoRA adapter that changes something: a fresh one is zero, and hides errors."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapter.model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return adapter
