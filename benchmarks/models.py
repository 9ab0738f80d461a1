"""Random models for the benchmarks: one of 40 M parameters for a CPU, and the real shapes for a GPU.

Built from configs, nothing is downloaded. The tokenizer and the image processor are those of the kit's tiny models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from gpg_vl.models.tiny import write_tiny_model

PATCH, MERGE = 14, 2


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen2-VL or Qwen2.5-VL model."""

    name: str
    family: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vision_width: int
    vision_depth: int
    vision_heads: int
    vision_mlp: int
    tied: bool = True

    @property
    def text_parameters(self) -> int:
        """Weights that a text token is multiplied with, the head aside (N_b)."""
        head_dim = self.hidden // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * head_dim * self.kv_heads
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def vision_parameters(self) -> int:
        """Weights that a patch is multiplied with in the tower's blocks (N_blk)."""
        width, num_mlp = self.vision_width, 2 if self.family == "qwen2_vl" else 3
        return self.vision_depth * (4 * width * width + num_mlp * width * self.vision_mlp)

    @property
    def merger_parameters(self) -> int:
        """Weights that an image token is multiplied with in the projector (N_merge)."""
        merged = self.vision_width * MERGE * MERGE
        return merged * merged + merged * self.hidden


SMALL = ModelShape("40M", "qwen2_vl", 4096, 512, 8, 8, 2, 1536, 384, 6, 6, 1536)
LARGE_VOCABULARY = replace(SMALL, name="40M-v151936", vocab=151_936)
QWEN2_VL_2B = ModelShape("Qwen2-VL-2B", "qwen2_vl", 151_936, 1536, 28, 12, 2, 8960, 1280, 32, 16, 5120)
QWEN2_5_VL_3B = ModelShape("Qwen2.5-VL-3B", "qwen2_5_vl", 151_936, 2048, 36, 16, 2, 11008, 1280, 32, 16, 3420)
QWEN2_5_VL_7B = ModelShape(
    "Qwen2.5-VL-7B", "qwen2_5_vl", 152_064, 3584, 28, 28, 4, 18944, 1280, 32, 16, 3420, tied=False
)
QWEN2_5_VL_32B = ModelShape(
    "Qwen2.5-VL-32B", "qwen2_5_vl", 152_064, 5120, 64, 40, 8, 27648, 1280, 32, 16, 3456, tied=False
)
TINY_QWEN2_VL = ModelShape("tiny Qwen2-VL", "qwen2_vl", 512, 128, 2, 4, 2, 256, 64, 2, 4, 128)
TINY_QWEN2_5_VL = ModelShape("tiny Qwen2.5-VL", "qwen2_5_vl", 512, 128, 2, 4, 2, 256, 64, 8, 4, 128)
"""The eighth block of a Qwen2.5-VL tower is the first that attends to whole images."""
SHAPES = {
    shape.name: shape for shape in (SMALL, LARGE_VOCABULARY, QWEN2_VL_2B, QWEN2_5_VL_3B, QWEN2_5_VL_7B, QWEN2_5_VL_32B)
}


def write_processor(folder: Path, shape: ModelShape) -> Any:
    """A processor for ``shape``; the model's config takes its special token ids from it."""
    write_tiny_model(folder, family=shape.family, max_position_embeddings=32768)  # type: ignore[arg-type]
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 10**7}  # no image is shrunk, on any side
    return processor


def build_model(shape: ModelShape, processor: Any, seed: int = 0, device: str = "cpu") -> PreTrainedModel:
    """The model with random float32 weights made on ``device``, its generation config set to the processor's tokens."""
    ids = processor.tokenizer.convert_tokens_to_ids
    head_dim = shape.hidden // shape.heads
    section = [head_dim // 8, head_dim * 3 // 16, head_dim * 3 // 16]
    text = {
        "vocab_size": shape.vocab, "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "intermediate_size": shape.mlp,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "max_position_embeddings": 32768, "bos_token_id": None, "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"), "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    tokens = {
        f"{name}_token_id": ids(f"<|{token}|>")
        for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                            ("vision_end", "vision_end"))
    }  # fmt: skip
    common = {"text_config": text, "tie_word_embeddings": shape.tied, **tokens}
    torch.manual_seed(seed)
    if shape.family == "qwen2_vl":
        vision: dict[str, Any] = {
            "depth": shape.vision_depth, "embed_dim": shape.vision_width, "num_heads": shape.vision_heads,
            "mlp_ratio": shape.vision_mlp // shape.vision_width, "hidden_size": shape.hidden,
        }  # fmt: skip
        config: Any = Qwen2VLConfig(vision_config=vision, **common)
        model_class: Any = Qwen2VLForConditionalGeneration
    else:
        vision = {
            "depth": shape.vision_depth, "hidden_size": shape.vision_width, "num_heads": shape.vision_heads,
            "intermediate_size": shape.vision_mlp, "out_hidden_size": shape.hidden,
        }  # fmt: skip
        config = Qwen2_5_VLConfig(vision_config=vision, **common)
        model_class = Qwen2_5_VLForConditionalGeneration
    config._attn_implementation = "sdpa"
    with torch.device(device):
        model = model_class(config)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    return model  # type: ignore[no-any-return]
