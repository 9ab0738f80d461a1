"""``gpg-vl doctor --checkpoint``: whether a checkpoint is intact and can answer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from gpg_vl.config import ModelConfig, PromptConfig, Recipe, RolloutConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.device import choose_device
from gpg_vl.models.folder.manifest import MANIFEST_FILE
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.models.weights.lora import find_base
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Sample
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.user_code import describe_error


def check_checkpoint(recipe: Recipe) -> Iterator[str]:
    """Checks ``recipe.model.path`` and samples one completion; yields a line for each successful check.

    Raises:
        ValueError: says what is wrong with the checkpoint
    """
    folder = Path(resolve_model_path(recipe.model.path))
    try:
        yield from _check_folder(folder, recipe)
    except (ValueError, OSError):
        raise
    except Exception as error:  # a folder can be wrong in more ways than anybody foresees
        raise ValueError(f"{folder} cannot be used: {describe_error(error)}") from error


def _check_folder(folder: Path, recipe: Recipe) -> Iterator[str]:
    if (folder / MANIFEST_FILE).is_file():  # it was looked at when the folder was found
        yield f"{MANIFEST_FILE}: every file is unchanged since it was written"
    base = find_base(str(folder))
    check_model_folder(folder, needs_template=recipe.prompt.style == "chat")
    adapter = _load(replace(recipe.model, path=str(folder)))
    kind = "weights" if base is None else f"adapter of {base}"
    present = "processor and chat template are present"
    if not adapter.has_chat_template():
        present = "the processor is present and has no chat template: prompts are plain text"
    yield f"{kind}: names, shapes and types match the config; {present}"
    yield f"completion: {_complete(adapter)!r}"


def _load(model: ModelConfig) -> Adapter:
    """Ready to answer, on a CPU where there is no GPU."""
    device = choose_device(model)
    adapter = load_adapter(replace(model, device=model.device if device.type == "cuda" else "cpu"))
    adapter.round_weights()
    adapter.to(device)
    return adapter


def _complete(adapter: Adapter) -> str:
    """The most likely completion to a question about a grey picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (112, 112), "grey").save(buffer, "PNG")
    sample = Sample("doctor", "any", (buffer.getvalue(),), "What is in the picture?", "")
    prompt = PromptBuilder(adapter, {}, PromptConfig(template="{question}")).build(sample)
    engine = build_engine(RolloutConfig(), adapter)
    with engine.sync_weights():
        [group] = engine.generate([prompt], 1, Sampling(32, temperature=0.0), [("doctor",)])
    return group.completions[0].text
