"""Saves a model with its card as a folder that other tools can load, and checks such folders.

The check compares names, shapes and types of the stored tensors with the config. It reads only the headers of the
files, so it needs no second copy of the weights. ``gpg-vl doctor --checkpoint`` loads the folder in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCardData
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, GenerationConfig
from transformers.utils import logging

from gpg_vl.config import Recipe
from gpg_vl.errors import first_line
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.folder.carried_weights import carried_names, names_when_loaded
from gpg_vl.models.folder.loading import AS_DATA, load_processor, read_config
from gpg_vl.models.weights.lora import adapter_shapes, find_base
from gpg_vl.models.weights.snapshot import WeightsSnapshot

CARD_FILE = "README.md"
Headers = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type of tensors by name."""
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def save_model(adapter: Adapter, folder: Path, recipe: Recipe, metrics: Mapping[str, Any]) -> None:
    """Writes weights or adapter, configs, processor, chat template if any, and model card, and checks what was written.

    Args:
        metrics: the run's latest metrics by name, for the card

    Raises:
        ValueError: what was written does not match the model
    """
    with _quiet_loading():  # also of the bar of the writing: a screen that is gone must not end a save
        adapter.save(folder)
    _write_card(folder, recipe, metrics)
    check_model_folder(folder, needs_template=adapter.has_chat_template())


def begin_model(adapter: Adapter, folder: Path, recipe: Recipe, metrics: Mapping[str, Any]) -> None:
    """Writes of the same folder what ``write_weights`` leaves out: processor, chat template and model card."""
    adapter.save_processor(folder)
    _write_card(folder, recipe, metrics)


def write_weights(weights: WeightsSnapshot, folder: Path, expected: Headers) -> None:
    """Writes the rest. Another thread than that of the training may do it, so nothing is loaded to check it.

    Args:
        expected: of a folder of the same model that was checked (``read_headers``)

    Raises:
        ValueError: what was written has other tensors
    """
    with _quiet_loading():
        weights.write(folder)
    found = read_headers(folder)
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{folder}: the tensors are not those of the checkpoint before: the first is {wrong[0]}")


def read_headers(folder: Path) -> Headers:
    """Shape and type of every tensor of the model in a folder, by name."""
    return {name: (shape, dtype) for name, shape, dtype in _stored_tensors(folder)}


def _write_card(folder: Path, recipe: Recipe, metrics: Mapping[str, Any]) -> None:
    (folder / CARD_FILE).write_text(describe_model(recipe, metrics), encoding="utf-8")


def check_model_folder(folder: Path, needs_template: bool = True) -> None:
    """
    Args:
        needs_template: False for a model without a chat template, as base models are

    Raises:
        ValueError: names what is missing, or the first tensor that does not match the config
    """
    base = find_base(str(folder))
    with _quiet_loading(), torch.random.fork_rng(devices=[]):
        try:
            processor = load_processor(str(folder), read_config(base or str(folder)), is_named=True)
            GenerationConfig.from_pretrained(folder)
        except Exception as error:
            raise ValueError(f"{folder}: {first_line(error)}") from error
        if needs_template and processor.chat_template is None:
            raise ValueError(f"{folder} has no chat template")
        if base is None:
            _check_weights(folder)
        else:
            _check_adapter(folder, base)


def _check_weights(folder: Path) -> None:
    model_class: Any = AutoModelForImageTextToText
    try:
        config = read_config(str(folder))
        model, info = model_class.from_pretrained(
            folder, config=config, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True,
            use_safetensors=True, **AS_DATA,
        )  # fmt: skip
    except Exception as error:
        raise ValueError(f"{folder}: {first_line(error)}") from error
    carried = carried_names(folder)
    sought = set(map(names_when_loaded(model), carried))
    for what in ("missing", "unexpected", "mismatched"):
        wrong = set(info[f"{what}_keys"]) - sought
        if wrong:
            raise ValueError(f"{folder}: the weights do not fit config.json: {what} {min(wrong)}")
    expected = str(config.dtype).removeprefix("torch.")
    for name, _, dtype in _stored_tensors(folder):
        if name not in carried and dtype != expected:
            raise ValueError(f"{folder}: {name} is {dtype}, but config.json says {expected}")


def _check_adapter(folder: Path, base: str) -> None:
    expected = adapter_shapes(str(folder), base)
    found = {name: shape for name, shape, _ in _stored_tensors(folder)}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{folder}: the adapter does not match its config; the first tensor is {wrong[0]}")
    for name, _, dtype in _stored_tensors(folder):
        if dtype != "float32":
            raise ValueError(f"{folder}: {name} is {dtype}, but an adapter must be float32")


def _stored_tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of every tensor of the model, from the files' headers."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  no dict
                tensor = file.get_slice(name)
                yield name, tuple(tensor.get_shape()), _DTYPES.get(tensor.get_dtype(), tensor.get_dtype())


class _quiet_loading:  # noqa: N801  used as a function
    """Silences the report and progress bar that transformers prints for each load; problems are raised instead."""

    def __enter__(self) -> None:
        self._verbosity = logging.get_verbosity()
        self._had_bar = logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        logging.set_verbosity(self._verbosity)
        if self._had_bar:
            logging.enable_progress_bar()


def describe_model(recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    """The model card: hub metadata, the latest metrics, the recipe."""
    path, objective = recipe.model.path, recipe.objective.name.rpartition(":")[2]  # of FILE.py:CLASS the class
    data = ModelCardData(
        base_model=None if Path(path).exists() else path,
        library_name="transformers" if recipe.model.lora is None else "peft",
        pipeline_tag="image-text-to-text",
        tags=["gpg-vl", "reinforcement-learning", objective],
    )
    name = Path(path).name
    kind = f"a LoRA adapter of {name}" if recipe.model.lora is not None else f"{name}, trained further"
    lines = [f"| {key} | {value:.4g} |" for key, value in _numbers(metrics)]
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {kind}\n\nTrained by GPG-VL with the objective `{objective}`.\n\n"
        "## Last metrics\n\n| metric | value |\n|---|---|\n" + "\n".join(lines) + "\n\n## Recipe\n\n```yaml\n"
        + yaml.safe_dump(recipe.to_plain(), sort_keys=False, allow_unicode=True) + "```\n"
    )  # fmt: skip


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value
