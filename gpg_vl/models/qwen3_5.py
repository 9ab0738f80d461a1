"""Qwen3.5 and its mixture of experts: Qwen's images and positions, three of four layers recurrent (gated delta-net)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.models.recurrent import RecurrentAdapter


class Qwen35Adapter(RecurrentAdapter, QwenVLAdapter):
    """A Qwen3.5 model with its processor."""

    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": (
            r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj"
            r"|linear_attn\.(in_proj_(qkv|z|b|a)|out_proj)|mlp\.(shared_expert\.)?(gate|up|down)_proj)"
        ),
        "vision": QwenVLAdapter.lora_layers["vision"].replace("fc1|fc2", "linear_fc1|linear_fc2"),
    }
