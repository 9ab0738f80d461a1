"""Forward FLOPs of a vision-language model, and the ratio that sharing image and prompt can reach.

The model counts the weights that each token is multiplied with and the two products of attention, nothing else: no
norms, no softmax, no optimizer. A backward pass costs twice the forward, so ratios are those of forwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.models import MERGE, ModelShape


@dataclass(frozen=True)
class Lengths:
    """One group: its prompt's image and text tokens, its completions' tokens, how many completions."""

    image_tokens: int
    text_tokens: int
    completion_tokens: int
    group_size: int

    @property
    def prompt_tokens(self) -> int:
        return self.image_tokens + self.text_tokens

    @property
    def name(self) -> str:
        return f"{self.prompt_tokens}+{self.completion_tokens}_g{self.group_size}"

    @property
    def option(self) -> str:
        """As the benchmarks' options have it: ``256+28+128x8``."""
        return f"{self.image_tokens}+{self.text_tokens}+{self.completion_tokens}x{self.group_size}"

    @classmethod
    def parse(cls, option: str) -> Lengths:
        image, words, rest = option.split("+")
        completion, group = rest.split("x")
        return cls(int(image), int(words), int(completion), int(group))


def vision_flops(shape: ModelShape, image_tokens: int) -> float:
    """Tower and projector on one image (Fv); window attention of Qwen2.5-VL is counted as full in 4 of its layers."""
    patches = image_tokens * MERGE**2
    full = 4 * patches**2 * shape.vision_width
    if shape.family == "qwen2_vl":
        attention = shape.vision_depth * full
    else:
        attention = 4 * full + (shape.vision_depth - 4) * 4 * patches * 64 * shape.vision_width
    return 2 * patches * shape.vision_parameters + attention + 2 * image_tokens * shape.merger_parameters


def body_flops(shape: ModelShape, queries: int, past: int) -> float:
    """The text model's body on ``queries`` tokens behind ``past`` ones (F(q|p)), causal attention."""
    attention = 4 * shape.layers * shape.hidden * (queries * past + queries**2 / 2)
    return 2 * shape.text_parameters * queries + attention


def head_flops(shape: ModelShape, tokens: int) -> float:
    return 2 * shape.vocab * shape.hidden * tokens


def repeated_flops(shape: ModelShape, n: Lengths) -> float:
    """Forward of one group as G rows of image, prompt and completion, the head on completion tokens."""
    row = vision_flops(shape, n.image_tokens) + body_flops(shape, n.prompt_tokens + n.completion_tokens, 0)
    return n.group_size * (row + head_flops(shape, n.completion_tokens))


def shared_flops(shape: ModelShape, n: Lengths) -> float:
    """Forward of one group with image and prompt once."""
    completion = body_flops(shape, n.completion_tokens, n.prompt_tokens) + head_flops(shape, n.completion_tokens)
    once = vision_flops(shape, n.image_tokens) + body_flops(shape, n.prompt_tokens, 0)
    return once + n.group_size * completion


def ideal_update_ratio(shape: ModelShape, n: Lengths) -> float:
    return repeated_flops(shape, n) / shared_flops(shape, n)


def useful_update_flops(shape: ModelShape, n: Lengths) -> float:
    """Forward and backward of one group, nothing computed twice: what an MFU counts, whoever computes it."""
    return 3 * shared_flops(shape, n)


def decode_bytes(shape: ModelShape, rows: int, context: float, bytes_per_value: int = 2) -> float:
    """What a decode step reads: each weight of the text model and its head once, each row's keys and values.

    Args:
        context: tokens in the cache of each row
        bytes_per_value: 2 in bfloat16
    """
    head_dim = shape.hidden // shape.heads
    weights = shape.text_parameters + shape.vocab * shape.hidden
    cached = 2 * shape.layers * shape.kv_heads * head_dim * context * rows
    return bytes_per_value * (weights + cached)
