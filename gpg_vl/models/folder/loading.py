"""Loads what a model folder holds, as data alone: no code of the folder runs, nothing is unpickled.

A class follows from ``model_type``, never from a name in the folder. Attention and precision are the kit's, whatever
the folder asks for. Where something is missing or cannot be used, one line says what.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.utils import cached_file

from gpg_vl.config import ModelConfig
from gpg_vl.errors import first_line, is_out_of_memory
from gpg_vl.files import stays_inside
from gpg_vl.models.device import choose_device
from gpg_vl.models.inputs.template_trial import try_template

WEIGHTS_INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_QUANTISED_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quanto_qmap.json")
"""What ModelOpt, AutoGPTQ, AutoAWQ and Quanto write beside weights whose config may say nothing."""
_CODED_NAMES = (".qweight", ".qzeros", ".weight_packed", "_scale_inv", "weight_scale", ".SCB", ".absmax")
_CODED_TYPES = ("F8_E4M3", "F8_E5M2")
_CODED_MATRICES = ("I8", "U8")
"""Of what is called a weight; a buffer may have such a type."""
AS_DATA: dict[str, Any] = {"trust_remote_code": False}


def read_config(path: str) -> PreTrainedConfig:
    """The model's config, with the kit's attention in place of one that it names.

    Raises:
        ValueError: there is none, it is unreadable, or the weights are quantised
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, **AS_DATA)
    except Exception as error:  # the file is anybody's, and transformers raises nearly anything on it
        raise ValueError(
            f"model.path: {path} has no readable config.json ({first_line(error)}); give a whole model folder"
        ) from error
    for part in _parts(config):
        _refuse_quantised(path, _quantisation_in(part))
    if Path(path).is_dir():
        _refuse_quantised(path, find_quantisation(Path(path)))
    config._attn_implementation = "sdpa"  # one that the folder names may be code on the hub
    for part in _parts(config):
        if has_capped_scores(part):
            part._attn_implementation = "eager"
    sound = getattr(config, "audio_config", None)
    if isinstance(sound, PreTrainedConfig):  # never run here; a tower of sound may know no other
        sound._attn_implementation = "eager"
    config._experts_implementation = None
    return config


def read_model_type(path: str) -> object:
    """What the config of a folder or of a model on the hub says; None where there is no readable one.

    Raises:
        ValueError: the folder's config.json is no JSON object
    """
    if Path(path).is_dir():
        return read_object(Path(path) / "config.json").get("model_type")
    try:
        return PreTrainedConfig.get_config_dict(path)[0].get("model_type")
    except (OSError, ValueError):  # ``read_config`` says why
        return None


def has_capped_scores(config: PreTrainedConfig) -> bool:
    """Whether the model caps the scores of its attention, which eager alone does."""
    return getattr(config, "attn_logit_softcapping", None) is not None


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from _parts(part)


def _quantisation_in(config: PreTrainedConfig) -> Any:
    return getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)


def find_quantisation(folder: Path) -> dict[str, str] | None:
    """What says of a folder, beside its config, that its weights are codes: a file, or a weight's type or name."""
    for name in _QUANTISED_FILES:
        if (folder / name).is_file():
            return {"quant_method": name}
    for file in weight_files(folder):
        if (weight := _coded_weight(file)) is not None:
            return {"quant_method": f"{weight} in {file.name}"}
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights that are in a folder, by its index if there are several."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    names = {name for _, name in _named_shards(folder) if stays_inside(name) and (folder / str(name)).is_file()}
    return [folder / str(name) for name in sorted(names, key=str)]


def _coded_weight(file: Path) -> str | None:
    """The first weight whose type or name is of a quantised one; None also where the file is broken."""
    try:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  no dict
                dtype = weights.get_slice(name).get_dtype()
                is_coded = dtype in _CODED_TYPES or (dtype in _CODED_MATRICES and name.endswith(".weight"))
                if is_coded or name.endswith(_CODED_NAMES):
                    return str(name)
    except SafetensorError:  # whoever loads it says so
        return None
    return None


def local_folder(path: str) -> Path:
    """Of a model that is on this machine, or that has been downloaded from the hub."""
    return Path(path) if Path(path).is_dir() else Path(snapshot_download(path, local_files_only=True))


def _refuse_quantised(path: str, found: Any) -> None:
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    raise ValueError(
        f"model.path: {path} is quantised ({method or 'quantization_config'}); the kit rounds weights itself: give "
        "the unquantised model, which model.lora.quantize: nf4 holds in 4 bits"
    )


def load_weights(path: str, model_class: Any, config: ModelConfig) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of weights in the folder that it has no place for.

    Raises:
        ValueError: a weight is missing or does not match the config
    """
    model_config = read_config(path)
    attention = _choose_attention(model_config, config)
    check_names(path)
    try:
        model, info = model_class.from_pretrained(
            path, config=model_config, dtype=torch.float32, attn_implementation=attention, output_loading_info=True,
            use_safetensors=True, **AS_DATA,
        )  # fmt: skip
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise ValueError(f"model.path: the weights in {path} cannot be loaded ({reason}); copy them again") from error
    _refuse_quantised(path, find_quantisation(local_folder(path)))  # from the hub, the files are only here now
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"model.path: {len(missing)} weights are missing in {path}, the first is {missing[0]}; copy them again"
        )
    return model, set(info["unexpected_keys"])


def build_without_values(path: str, model_class: Any, config: ModelConfig) -> PreTrainedModel:
    """The model that ``load_weights`` returns, with its weights on the meta device, where they take no memory.

    Buffers have values: those that a model computes are in no file.
    """
    model_config = read_config(path)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = model_class._from_config(
            model_config, dtype=torch.float32, attn_implementation=_choose_attention(model_config, config)
        )
    model.tie_weights()  # which are separate after that context
    return model.eval()


def _choose_attention(model_config: PreTrainedConfig, config: ModelConfig) -> dict[str, str]:
    """By sub-config."""
    attention = {f"{name}_config": dense_attention(config, name) for name in ("text", "vision")}
    if has_capped_scores(model_config.get_text_config()):
        attention["text_config"] = "eager"
    return attention


def dense_attention(config: ModelConfig, sub_model: Literal["text", "vision"]) -> str:
    """The attention implementation of a sub-model for rows that are not packed.

    Raises:
        ValueError: FlexAttention is requested on a CPU, where it has no backward pass
    """
    attention = config.attention_of(sub_model)
    if attention == "flex_attention" and choose_device(config).type == "cpu":
        raise ValueError("model.attention: flex_attention has no backward pass on a CPU; use auto, sdpa or eager")
    return "eager" if attention == "eager" else "sdpa"


def load_processor(path: str, config: PreTrainedConfig, is_named: bool = False) -> Any:
    """The processor with the files in ``path``.

    Args:
        is_named: of the class that the files name, where they name one of transformers' own; else of the model's type,
            whose words the kit's families know

    Raises:
        ValueError: the folder has no complete processor, or a chat template without end; or the processor needs a
            package that is not installed
    """
    check_names(path)
    try:
        named = _named_processor(path) if is_named else None
        processor_class: Any = named or PROCESSOR_MAPPING[type(config)]
        processor = processor_class.from_pretrained(path, **AS_DATA)
    except ImportError as error:
        raise ValueError(
            f"model.path: the processor of {path} needs a library that is not installed: {first_line(error)}"
        ) from error
    except Exception as error:
        reason = first_line(error)
        raise ValueError(
            f"model.path: {path} has no complete processor ({reason}); copy tokenizer and preprocessor_config.json "
            "from the model"
        ) from error
    try_template(processor, path)
    return processor


def _named_processor(path: str) -> type[ProcessorMixin] | None:
    """The class that a folder names where transformers looks for it; None unless it is one of transformers' own."""
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        found = cached_file(path, file, **quiet)
        name = None if found is None else read_object(Path(found)).get("processor_class")
        if isinstance(name, str):
            named = processor_class_from_name(name)
            is_own = isinstance(named, type) and issubclass(named, ProcessorMixin)
            return named if is_own and named.__module__.startswith("transformers.") else None
    return None


def check_names(path: str) -> None:
    """Refuses a local folder whose files name others outside of it.

    Raises:
        ValueError: names the file and the name
    """
    folder = Path(path)
    for file, name in [*_named_shards(folder), *_named_files(folder)]:
        if not stays_inside(name):
            raise ValueError(f"model.path: {folder / file} names {name!r}, not a file in the folder; correct it")
    read_object(folder / "generation_config.json")
    for file in ("processor_config.json", "preprocessor_config.json", "audio_tokenizer_config.json"):
        if {"audio_tokenizer", "audio_tokenizer_class"} & read_object(folder / file).keys():
            raise ValueError(f"model.path: {folder / file} names another model to load; remove audio_tokenizer")


def _named_shards(folder: Path) -> Iterator[tuple[str, object]]:
    weight_map = read_object(folder / WEIGHTS_INDEX).get("weight_map", {})
    if not isinstance(weight_map, dict):
        raise ValueError(f"model.path: {folder / WEIGHTS_INDEX} has no weight_map; restore it")
    yield from ((WEIGHTS_INDEX, name) for name in weight_map.values())


def _named_files(folder: Path) -> Iterator[tuple[str, object]]:
    """Files that the tokenizer names and that exist: published ones name places of the machine that wrote them."""
    for key, value in read_object(folder / "tokenizer_config.json").items():
        if key.endswith("_file") and isinstance(value, str) and "\0" not in value and (folder / value).exists():
            yield "tokenizer_config.json", value


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file.

    Raises:
        ValueError: it is something else
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"model.path: {path} is not readable JSON ({type(error).__name__}); restore it") from error
    if not isinstance(content, dict):
        raise ValueError(f"model.path: {path} holds no JSON object; restore it")
    return content
