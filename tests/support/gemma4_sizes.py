"""The other sizes of Gemma 4, as tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, Gemma4Config, Gemma4ForConditionalGeneration
from transformers.models.gemma4.modeling_gemma4 import Gemma4ClippableLinear

from gpg_vl.models.tiny import write_tiny_model

Changes = Mapping[str, Mapping[str, Any]]
"""Keys of the sub-configs."""

SIZES: dict[str, Changes] = {
    "an image sees earlier tokens alone": {"text_config": {"use_bidirectional_attention": None}},
    "keys are values": {
        "text_config": {
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
        }
    },
    "experts": {
        "text_config": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}
    },
    "clipped linears and an audio tower": {
        "vision_config": {"use_clipped_linears": True},
        "audio_config": {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [8, 4],
            "output_proj_dims": 32,
            "use_clipped_linears": True,
        },
    },
    "standardize": {"vision_config": {"standardize": True}},
}


def write_other_size(folder: Path, changes: Changes) -> Path:
    """A tiny model's folder with keys of its sub-configs changed."""
    write_tiny_model(folder, "gemma4")
    config = AutoConfig.from_pretrained(folder).to_dict()
    del config["text_config"]["per_layer_config"]
    config["text_config"]["global_head_dim"] = 48
    for part, keys in changes.items():
        config[part] = (config[part] or {}) | dict(keys)
    model = Gemma4ForConditionalGeneration(Gemma4Config.from_dict(config))
    _fill_buffers(model.model.vision_tower)
    model.generation_config.eos_token_id = 4
    model.save_pretrained(folder)
    return folder


def _fill_buffers(tower: Any) -> None:
    """Bounds that cut, as published ones may, in one layer of two, and scales that are not 1; others are infinite."""
    if tower.config.standardize:
        tower.std_bias.normal_(std=0.1)
        tower.std_scale.uniform_(0.5, 2)
    linears = [module for module in tower.modules() if isinstance(module, Gemma4ClippableLinear)]
    for module in linears[::2] if tower.config.use_clipped_linears else ():
        for name, bound in (("input_min", -1.0), ("input_max", 1.5), ("output_min", -0.5), ("output_max", 0.75)):
            getattr(module, name).fill_(bound)
