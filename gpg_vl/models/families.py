"""Model families by ``config.model_type``.

A new family is one line in ``FAMILIES``, plus a file of its own if its processor or positions differ.
"""

from __future__ import annotations

from transformers import (
    Lfm2VlForConditionalGeneration,
    MiniCPMV4_6ForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from gpg_vl.models.base import Family
from gpg_vl.models.lfm2_vl import Lfm2VLAdapter
from gpg_vl.models.minicpm_v import MiniCPMVAdapter
from gpg_vl.models.qwen3_5 import Qwen35Adapter
from gpg_vl.models.qwen3_vl import Qwen3VLAdapter
from gpg_vl.models.qwen_vl import QwenVLAdapter

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(QwenVLAdapter, Qwen2VLForConditionalGeneration, "grid_1000"),
    "qwen2_5_vl": Family(QwenVLAdapter, Qwen2_5_VLForConditionalGeneration, "resized_pixels"),
    "qwen3_vl": Family(Qwen3VLAdapter, Qwen3VLForConditionalGeneration, "grid_1000"),
    "qwen3_5": Family(Qwen35Adapter, Qwen3_5ForConditionalGeneration, "grid_1000"),
    "qwen3_5_moe": Family(Qwen35Adapter, Qwen3_5MoeForConditionalGeneration, "grid_1000"),
    "lfm2_vl": Family(Lfm2VLAdapter, Lfm2VlForConditionalGeneration, None),
    "minicpmv4_6": Family(MiniCPMVAdapter, MiniCPMV4_6ForConditionalGeneration, "grid_1000"),
}
