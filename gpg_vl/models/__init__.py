"""How a model folder becomes an adapter: by its ``config.model_type``, which ``families`` lists."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from gpg_vl.config import ModelConfig
from gpg_vl.models.folder.paths import resolve_model_path

if TYPE_CHECKING:
    from gpg_vl.models.adapter import Adapter


def load_adapter(config: ModelConfig, with_weights: bool = True, with_values: bool = True) -> Adapter:
    """Loads the model, its processor and its generation config. A LoRA folder is loaded together with its base model.

    With ``config.lora`` a saved LoRA adapter stays an adapter; without it, it is merged into the weights.

    Args:
        with_weights: False reads no weights; the result can only render prompts, count tokens and size images
        with_values: False reads no weights either; the result is the same model, whose weights take no memory and get
            their values from another process (``update.handing_out``)

    Raises:
        ValueError: not a known vision-language model, or the folder is incomplete; names it and the known families.
            Or a weight is not finite, or the model is large and there is no GPU, or one without the compute type
    """
    # late: a mistake in a recipe or a row is said before torch is imported
    from gpg_vl.models.device import refuse_slow, refuse_without_bfloat16
    from gpg_vl.models.families import FAMILIES
    from gpg_vl.models.families.generic import generic_family
    from gpg_vl.models.folder.loading import read_config
    from gpg_vl.models.weights.finite import refuse_not_finite
    from gpg_vl.models.weights.four_bit import refuse_without_library
    from gpg_vl.models.weights.lora import find_base, refuse_old_peft

    path = resolve_model_path(config.path, config.revision)
    base = find_base(path) or path
    _refuse_new(base)
    if config.lora is not None or base != path:
        refuse_old_peft()
    model_config = read_config(base)
    generic = generic_family(model_config)
    family = generic if config.family == "generic" else FAMILIES.get(model_config.model_type)
    if family is None:
        raise _unknown(base, model_config.model_type, is_generic=generic is not None)
    if not with_weights:
        return family.adapter.load_without_weights(path, model_config, config, family)
    refuse_without_bfloat16(config)
    refuse_without_library(config)
    refuse_slow(config, family.model, model_config)
    adapter = family.adapter.load(path, model_config, config, family, with_values=with_values)
    refuse_not_finite(adapter.model, f"model.path: the weights in {path}", "take another copy or checkpoint of it")
    adapter.quantize()
    return adapter


def _refuse_new(path: str) -> None:
    """
    Raises:
        ValueError: the installed transformers does not know the model type of a folder, or of a model on the hub
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from gpg_vl.models.folder.loading import read_model_type

    model_type = read_model_type(path)
    if isinstance(model_type, str) and model_type not in CONFIG_MAPPING:
        raise _unknown(path, model_type, is_generic=False)


def _unknown(path: str, model_type: str, is_generic: bool) -> ValueError:
    from gpg_vl.models.families import FAMILIES, SINCE
    from gpg_vl.models.versions import read_versions

    version = read_versions()["transformers"]
    if model_type in SINCE:
        return ValueError(
            f"model.path: {path} is a {model_type!r} model, which needs transformers {SINCE[model_type]}, and "
            f"{version} is installed; install a newer one"
        )
    near = difflib.get_close_matches(model_type, FAMILIES, n=1, cutoff=0.4)
    nearest = f"; nearest: {near[0]}" if near else ""
    if is_generic:
        way_out = "model.family: generic runs it on ordinary rows, if the self-check passes"
    else:
        way_out = f"model.family: generic cannot run it: transformers {version} has no image-text-to-text class for it"
    return ValueError(
        f"model.path: {path} is a {model_type!r} model; the kit knows {', '.join(FAMILIES)}{nearest}; {way_out}"
    )
