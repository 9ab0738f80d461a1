"""Model families by ``config.model_type``.

A new family is one line in ``FAMILIES``, plus a file of its own if its processor or positions differ.
"""

from __future__ import annotations

from transformers import (
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
    Idefics3ForConditionalGeneration,
    InternVLForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)

from gpg_vl.models.base import Family
from gpg_vl.models.glm4v import Glm4vAdapter
from gpg_vl.models.internvl import InternVLAdapter
from gpg_vl.models.llava_onevision import LlavaOnevisionAdapter
from gpg_vl.models.mistral3 import Mistral3Adapter
from gpg_vl.models.qwen3_vl import Qwen3VLAdapter
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.models.smolvlm import SmolVLMAdapter

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(QwenVLAdapter, Qwen2VLForConditionalGeneration, "grid_1000"),
    "qwen2_5_vl": Family(QwenVLAdapter, Qwen2_5_VLForConditionalGeneration, "resized_pixels"),
    "qwen3_vl": Family(Qwen3VLAdapter, Qwen3VLForConditionalGeneration, "grid_1000"),
    "qwen3_vl_moe": Family(Qwen3VLAdapter, Qwen3VLMoeForConditionalGeneration, "grid_1000"),
    "internvl": Family(InternVLAdapter, InternVLForConditionalGeneration, "grid_1000"),
    "smolvlm": Family(SmolVLMAdapter, SmolVLMForConditionalGeneration, None),
    "idefics3": Family(SmolVLMAdapter, Idefics3ForConditionalGeneration, None),
    "glm4v": Family(Glm4vAdapter, Glm4vForConditionalGeneration, "grid_1000"),
    "glm4v_moe": Family(Glm4vAdapter, Glm4vMoeForConditionalGeneration, "grid_1000"),
    "glm46v": Family(Glm4vAdapter, Glm46VForConditionalGeneration, "grid_1000"),
    "mistral3": Family(Mistral3Adapter, Mistral3ForConditionalGeneration, None),
    "llava_onevision": Family(LlavaOnevisionAdapter, LlavaOnevisionForConditionalGeneration, None),
}
