"""Whether ``rewards.preference`` names a head that reads the hidden states of the run's initial model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpg_vl.config import ModelConfig
from gpg_vl.errors import first_line
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.preflight.digests import digest_model

INFO_FILE = "preference.json"


def check_head(folder: Path, model: ModelConfig) -> None:
    """
    Args:
        model: the run's initial model

    Raises:
        ValueError: there is no head, or it reads the hidden states of another model, or of images at another size
    """
    try:
        then = dict(json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise ValueError(
            f"rewards.preference: {folder} has no preference head ({reason}); write one with gpg-vl prefer"
        ) from error
    now = describe_reading(model)
    if different := [key for key in now if key != "path" and now[key] != then.get(key)]:
        key = "path" if different[0] == "digest" else different[0]
        raise ValueError(
            f"rewards.preference: {folder} was fitted with model.{key} {then.get(key)}, and the recipe has {now[key]}; "
            "fit it again with gpg-vl prefer and this recipe"
        )


def describe_reading(model: ModelConfig) -> dict[str, Any]:
    """What hidden states depend on; the path is only what the model is called."""
    path = resolve_model_path(model.path, model.revision)
    digest = digest_model(Path(path))
    quantize = None if model.lora is None else model.lora.quantize
    sizes = {key: getattr(model, key) for key in ("min_pixels", "max_pixels", "max_tiles")}
    return {"path": path, "digest": digest, **sizes, "lora.quantize": quantize}
