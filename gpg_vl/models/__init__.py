"""How a model folder becomes an adapter: by its ``config.model_type``, which ``families.py`` lists."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from gpg_vl.config import ModelConfig
from gpg_vl.models.paths import resolve_model_path

if TYPE_CHECKING:
    from gpg_vl.models.adapter import Adapter


def load_adapter(config: ModelConfig, with_weights: bool = True) -> Adapter:
    """Loads the model, its processor and its generation config. A LoRA folder is loaded together with its base model.

    With ``config.lora`` a saved LoRA adapter stays an adapter; without it, it is merged into the weights.

    Args:
        with_weights: False reads no weights; the result can only render prompts, count tokens and size images

    Raises:
        ValueError: not a known vision-language model, or the folder is incomplete; names it and the known families.
            Or a weight is not finite, or the model is large and there is no GPU
    """
    # late: a mistake in a recipe or a row is said before torch is imported
    from gpg_vl.models.device import refuse_slow
    from gpg_vl.models.families import FAMILIES
    from gpg_vl.models.finite import refuse_not_finite
    from gpg_vl.models.loading import read_config
    from gpg_vl.models.lora import find_base

    path = resolve_model_path(config.path, config.revision)
    base = find_base(path) or path
    model_config = read_config(base)
    model_type = model_config.model_type
    if model_type not in FAMILIES:
        near = difflib.get_close_matches(model_type, FAMILIES, n=1)
        hint = f"; nearest: {near[0]}" if near else ""
        known = ", ".join(FAMILIES)
        raise ValueError(f"model.path: {path} is a {model_type!r} model; the kit knows {known}{hint}")
    family = FAMILIES[model_type]
    if not with_weights:
        return family.adapter.load_without_weights(path, model_config, config, family)
    refuse_slow(config, family.model, model_config)
    adapter = family.adapter.load(path, model_config, config, family)
    refuse_not_finite(adapter.model, f"model.path: the weights in {path}", "take another copy or checkpoint of it")
    return adapter
