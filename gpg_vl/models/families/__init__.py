"""Model families by ``config.model_type``.

A new family is one line in ``FAMILIES``, plus a file of its own if its processor or positions differ.
"""

from __future__ import annotations

import transformers
from transformers import (
    Gemma3ForConditionalGeneration,
    Gemma4ForConditionalGeneration,
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
    Idefics3ForConditionalGeneration,
    InternVLForConditionalGeneration,
    Lfm2VlForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    MiniCPMV4_6ForConditionalGeneration,
    Mistral3ForConditionalGeneration,
    PaliGemmaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gpg_vl.models.base import Family
from gpg_vl.models.families.gemma3 import Gemma3Adapter
from gpg_vl.models.families.gemma4 import Gemma4Adapter
from gpg_vl.models.families.glm4v import Glm4vAdapter
from gpg_vl.models.families.internvl import InternVLAdapter
from gpg_vl.models.families.lfm2_vl import Lfm2VLAdapter
from gpg_vl.models.families.llava_onevision import LlavaOnevisionAdapter
from gpg_vl.models.families.minicpm_v import MiniCPMVAdapter
from gpg_vl.models.families.mistral3 import Mistral3Adapter
from gpg_vl.models.families.molmo2 import Molmo2Adapter
from gpg_vl.models.families.paligemma import PaliGemmaAdapter
from gpg_vl.models.families.qwen3_5 import Qwen35Adapter
from gpg_vl.models.families.qwen3_vl import Qwen3VLAdapter
from gpg_vl.models.families.qwen_video import Qwen25VLAdapter, QwenVideoAdapter
from gpg_vl.models.families.smolvlm import Idefics3Adapter, SmolVLMAdapter

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(QwenVideoAdapter, Qwen2VLForConditionalGeneration, "grid_1000"),
    "qwen2_5_vl": Family(Qwen25VLAdapter, Qwen2_5_VLForConditionalGeneration, "resized_pixels"),
    "qwen3_vl": Family(Qwen3VLAdapter, Qwen3VLForConditionalGeneration, "grid_1000"),
    "qwen3_vl_moe": Family(Qwen3VLAdapter, Qwen3VLMoeForConditionalGeneration, "grid_1000"),
    "internvl": Family(InternVLAdapter, InternVLForConditionalGeneration, "grid_1000"),
    "smolvlm": Family(SmolVLMAdapter, SmolVLMForConditionalGeneration, None),
    "idefics3": Family(Idefics3Adapter, Idefics3ForConditionalGeneration, None),
    "glm4v": Family(Glm4vAdapter, Glm4vForConditionalGeneration, "grid_1000"),
    "glm4v_moe": Family(Glm4vAdapter, Glm4vMoeForConditionalGeneration, "grid_1000"),
    "glm46v": Family(Glm4vAdapter, Glm46VForConditionalGeneration, "grid_1000"),
    "mistral3": Family(Mistral3Adapter, Mistral3ForConditionalGeneration, None),
    "llava_onevision": Family(LlavaOnevisionAdapter, LlavaOnevisionForConditionalGeneration, None),
    "gemma3": Family(Gemma3Adapter, Gemma3ForConditionalGeneration, None),
    "gemma4": Family(Gemma4Adapter, Gemma4ForConditionalGeneration, "grid_1000_y_first"),
    "paligemma": Family(PaliGemmaAdapter, PaliGemmaForConditionalGeneration, "loc_1024"),
    "qwen3_5": Family(Qwen35Adapter, Qwen3_5ForConditionalGeneration, "grid_1000"),
    "qwen3_5_moe": Family(Qwen35Adapter, Qwen3_5MoeForConditionalGeneration, "grid_1000"),
    "lfm2_vl": Family(Lfm2VLAdapter, Lfm2VlForConditionalGeneration, None),
    "minicpmv4_6": Family(MiniCPMVAdapter, MiniCPMV4_6ForConditionalGeneration, "grid_1000"),
}

SINCE = {"molmo2": "5.23"}
"""Families of the kit that older versions of transformers do not know, and the version that does."""

if "molmo2" in CONFIG_MAPPING:
    FAMILIES["molmo2"] = Family(Molmo2Adapter, transformers.Molmo2ForConditionalGeneration, None)
