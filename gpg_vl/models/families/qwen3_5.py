"""Qwen3.5 and its mixture of experts: Qwen's images and positions; three of four layers are recurrent (delta-net)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gpg_vl.models.families.qwen_video import TimedVideoAdapter
from gpg_vl.models.families.recurrent import RecurrentAdapter


class Qwen35Adapter(RecurrentAdapter, TimedVideoAdapter):
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": (
            r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|linear_attn\.(in_proj_(qkv|z|b|a)|out_proj)"
            r"|mlp\.(shared_expert\.)?(gate|up|down)_proj)"
        ),
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
    }
