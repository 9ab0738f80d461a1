"""Model families by ``config.model_type``, and how a model folder becomes an adapter.

A new family is one line in ``FAMILIES``, plus a file of its own if its processor or positions differ.
"""

from __future__ import annotations

import difflib

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from gpg_vl.config import ModelConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.base import Family
from gpg_vl.models.loading import read_config
from gpg_vl.models.lora import find_base
from gpg_vl.models.paths import resolve_model_path
from gpg_vl.models.qwen_vl import QwenVLAdapter

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(QwenVLAdapter, Qwen2VLForConditionalGeneration, "grid_1000"),
    "qwen2_5_vl": Family(QwenVLAdapter, Qwen2_5_VLForConditionalGeneration, "resized_pixels"),
}


def load_adapter(config: ModelConfig, with_weights: bool = True) -> Adapter:
    """Loads the model, its processor and its generation config. A LoRA folder is loaded together with its base model.

    With ``config.lora`` a saved LoRA adapter stays an adapter; without it, it is merged into the weights.

    Args:
        with_weights: False reads no weights; the result can only render prompts, count tokens and size images

    Raises:
        ValueError: not a known vision-language model, or the folder is incomplete; names it and the known families
    """
    path = resolve_model_path(config.path)
    base = find_base(path) or path
    model_config = read_config(base)
    model_type = model_config.model_type
    if model_type not in FAMILIES:
        near = difflib.get_close_matches(model_type, FAMILIES, n=1)
        hint = f"; nearest: {near[0]}" if near else ""
        known = ", ".join(FAMILIES)
        raise ValueError(f"model.path: {path} is a {model_type!r} model; the kit knows {known}{hint}")
    family = FAMILIES[model_type]
    load = family.adapter.load if with_weights else family.adapter.load_without_weights
    return load(path, model_config, config, family)
