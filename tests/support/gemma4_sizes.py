"""The other sizes of Gemma 4, as tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, Gemma4Config, Gemma4ForConditionalGeneration

from gpg_vl.models.tiny import write_tiny_model

SIZES: dict[str, dict[str, Any]] = {
    "an image sees earlier tokens alone": {"use_bidirectional_attention": None},
    "keys are values": {
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
    },
    "experts": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
}


def write_other_size(folder: Path, changes: dict[str, Any]) -> Path:
    """A tiny model's folder with keys of the text model changed."""
    write_tiny_model(folder, "gemma4")
    config = AutoConfig.from_pretrained(folder).to_dict()
    del config["text_config"]["per_layer_config"]
    config["text_config"] |= {"global_head_dim": 48, **changes}
    model = Gemma4ForConditionalGeneration(Gemma4Config.from_dict(config))
    model.generation_config.eos_token_id = 4
    model.save_pretrained(folder)
    return folder
