"""LoRA through peft: low-rank adapters on the linear layers of text, vision or both; every other weight is frozen.

The adapter sits inside the model, under the model's own module names, and is saved in peft's format, so
``PeftModel.from_pretrained`` reads a checkpoint directly. Dropout is 0 so that packed and plain log-probs are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from gpg_vl.config import LoraConfig
from gpg_vl.models.paths import ADAPTER_CONFIG


def find_base(folder: str) -> str | None:
    """The model that the adapter in ``folder`` belongs to; None if ``folder`` holds no adapter.

    Raises:
        ValueError: the adapter's config is unreadable, or names no model or a folder that no longer exists
    """
    path = Path(folder) / ADAPTER_CONFIG
    if not path.is_file():
        return None
    base = _read_config(path).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"model.path: {path} does not name the model that it adapts (base_model_name_or_path)")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ValueError(
            f"model.path: {folder} is an adapter of {base}, which no longer exists; restore it, or set "
            f"base_model_name_or_path in {path} to its new path"
        )
    return str(base)


def attach(model: PreTrainedModel, config: LoraConfig, layers: Mapping[str, str], base: str) -> None:
    """Adds a fresh adapter to ``model``, which changes no output yet, and freezes everything else.

    Args:
        layers: regular expression of the linear layers to adapt, by part
        base: where ``model`` was loaded from; the saved adapter names it
    """
    model.add_adapter(_peft_config(config, layers, base))
    # transformers took the name from the config that it read
    model.peft_config["default"].base_model_name_or_path = _lasting_name(base)


def attach_saved(model: PreTrainedModel, folder: str, config: LoraConfig, layers: Mapping[str, str], base: str) -> None:
    """Adds the adapter in ``folder`` to ``model``, to continue training it or to run it.

    Raises:
        ValueError: the adapter does not match ``config``, or its weights do not match its own config
    """
    saved, wanted = _read_config(Path(folder) / ADAPTER_CONFIG), _peft_config(config, layers, base)
    for key in ("r", "lora_alpha", "target_modules", "lora_dropout"):
        if saved.get(key) != getattr(wanted, key):
            raise ValueError(
                f"model.lora: the adapter in {folder} has {key}={saved.get(key)!r}, but the recipe asks for "
                f"{getattr(wanted, key)!r}; use the adapter's value in model.lora, or merge it first (gpg-vl merge)"
            )
    attach(model, config, layers, base)
    weights = peft.load_peft_weights(folder, device="cpu")
    plain = {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
    expected = peft.get_peft_model_state_dict(model)
    wrong = sorted(set(plain) ^ set(expected)) or [n for n in plain if plain[n].shape != expected[n].shape]
    if wrong:
        raise ValueError(f"model.path: the adapter in {folder} does not fit its model; the first weight is {wrong[0]}")
    peft.set_peft_model_state_dict(model, plain)


def merge_saved(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """``model`` with the adapter in ``folder`` merged into its weights."""
    merged: PreTrainedModel = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    return merged


def adapter_shapes(folder: str, base: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the adapter should have according to its config in ``folder``."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(base))
        wrapped = peft.get_peft_model(model, peft.PeftConfig.from_pretrained(folder))
    return {name: tuple(tensor.shape) for name, tensor in peft.get_peft_model_state_dict(wrapped).items()}


def _peft_config(config: LoraConfig, layers: Mapping[str, str], base: str) -> Any:
    targets = "|".join(f"({layers[part]})" for part in sorted(config.parts))
    alpha: Any = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    return peft.LoraConfig(
        base_model_name_or_path=_lasting_name(base), r=config.r, lora_alpha=alpha, lora_dropout=0.0,
        target_modules=targets, bias="none",
    )  # fmt: skip


def _lasting_name(base: str) -> str:
    """A folder as an absolute path, since the adapter will be read from elsewhere; a hub name unchanged."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path: {path} is not readable JSON; restore it") from error
    return config
