"""Writes tiny vision-language models with random weights, as ordinary model folders.

The folder has everything that a published folder of the family has: config, weights, generation config, tokenizer,
image processor and chat template, all of transformers' own classes. So a run on it uses the real code, with about 1.4
million parameters. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gpg_vl.errors import first_line
from gpg_vl.files import follow_umask
from gpg_vl.models.folder.stored_form import store_as_published
from gpg_vl.models.tiny.family import TinyFamily
from gpg_vl.models.tiny.gemma import GEMMA_FAMILIES
from gpg_vl.models.tiny.paligemma import PALIGEMMA_FAMILIES
from gpg_vl.models.tiny.patched import PATCHED_FAMILIES
from gpg_vl.models.tiny.qwen import QWEN_FAMILIES
from gpg_vl.models.tiny.qwen3_5 import QWEN3_5_FAMILIES
from gpg_vl.models.tiny.sliced import SLICED_FAMILIES
from gpg_vl.models.tiny.tiled import TILED_FAMILIES
from gpg_vl.models.tiny.tokenizer import DEMO_TEXT, SPECIAL_TOKENS, TAG_TOKENS, build_tokenizer

__all__ = [
    "DEFAULT_FAMILY",
    "DEMO_TEXT",
    "SPECIAL_TOKENS",
    "TAG_TOKENS",
    "TINY_FAMILIES",
    "ModelType",
    "TinyFamily",
    "build_tokenizer",
    "refuse_other_files",
    "write_tiny_model",
]

ModelType = str
"""The ``model_type`` of a model's config."""
DEFAULT_FAMILY: ModelType = "qwen2_vl"

TINY_FAMILIES: dict[ModelType, TinyFamily] = {
    **QWEN_FAMILIES,
    **TILED_FAMILIES,
    **PATCHED_FAMILIES,
    **GEMMA_FAMILIES,
    **PALIGEMMA_FAMILIES,
    **QWEN3_5_FAMILIES,
    **SLICED_FAMILIES,
}
if "molmo2" in CONFIG_MAPPING:  # later than transformers 5.17
    from gpg_vl.models.tiny.molmo2 import MOLMO_FAMILIES

    TINY_FAMILIES |= MOLMO_FAMILIES


def write_tiny_model(
    folder: str | PathLike[str],
    family: ModelType = DEFAULT_FAMILY,
    seed: int = 0,
    tie_word_embeddings: bool = True,
    text: Sequence[str] = DEMO_TEXT,
    max_position_embeddings: int = 4096,
) -> Path:
    """Writes a tiny random model to ``folder``, which is created if needed, and returns the folder's path.

    Args:
        folder: files of an earlier model in it are overwritten
        family: the ``model_type`` of the model's config
        seed: determines the weights; the global random state stays unchanged
        tie_word_embeddings: whether the output head is the embedding matrix, as in the small published models
        text: words that become one token each; any other text is encoded as bytes
        max_position_embeddings: context length in tokens

    Raises:
        ValueError: there are no tiny models of the family, its processor needs a package that is not installed, or the
            folder cannot be created
    """
    if family not in TINY_FAMILIES:
        raise ValueError(f"{family!r} is not a family of tiny models; the families are {sorted(TINY_FAMILIES)}")
    folder = _make_folder(folder)
    maker = TINY_FAMILIES[family]
    tokenizer = maker.tokenizer(text, max_position_embeddings)
    config = maker.config(tokenizer)
    for part in (config, config.get_text_config()):  # transformers asks one of them, vLLM in some families the other
        part.tie_word_embeddings = tie_word_embeddings
    _build_processor(maker, tokenizer).save_pretrained(folder)
    model = _build_model(maker.model, config, seed)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    store_as_published(model)
    model.save_pretrained(folder)
    follow_umask(folder)
    return folder


def _make_folder(folder: str | PathLike[str]) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot create the folder {path}: {error.strerror}; choose another one") from error
    return path


def _build_processor(maker: TinyFamily, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    try:
        return maker.processor(tokenizer)
    except ImportError as error:
        raise ValueError(first_line(error)) from error


def _build_model(build: Callable[[Any], PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
    return model.float()  # type: ignore[no-any-return]


MAX_TINY_BYTES = 2**25


def refuse_other_files(folder: Path) -> None:
    """An earlier tiny model is replaced, and nothing else.

    Raises:
        ValueError: the folder holds other files
    """
    weights = folder / "model.safetensors"
    is_tiny = weights.is_file() and weights.stat().st_size < MAX_TINY_BYTES and not (folder / "training_state").exists()
    if folder.is_dir() and any(folder.iterdir()) and not is_tiny:
        raise ValueError(f"{folder} holds other files; name a new folder")
