"""LoRA through peft: low-rank adapters on the linear layers of text, vision or both; every other weight is frozen.

The adapter sits inside the model, under the model's own module names, and is saved in peft's format, so
``PeftModel.from_pretrained`` reads a checkpoint directly. Dropout is 0 so that packed and plain log-probs are the same.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from packaging.version import Version
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION

from gpg_vl.config import LoraConfig
from gpg_vl.errors import first_line
from gpg_vl.files import may_be_on_hub
from gpg_vl.models.folder.loading import AS_DATA, read_config, read_object
from gpg_vl.models.folder.paths import ADAPTER_CONFIG
from gpg_vl.models.weights.four_bit import four_bit_weights

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_READ = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "bias", "fan_in_fan_out", "use_rslora",
    "use_dora", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
)  # fmt: skip
"""Keys of an adapter's config that the kit passes on."""
_IDLE = (
    "base_model_name_or_path", "revision", "peft_type", "task_type", "peft_version", "inference_mode", "auto_mapping",
    "init_lora_weights", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "ensure_weight_tying",
)  # fmt: skip
"""Keys that say how an adapter was made, and do not change what it computes."""
_SECONDS_TO_MATCH = 5.0
_MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in map(re.compile, patterns):
    for name in names:
        pattern.match(name)
"""


def find_base(folder: str) -> str | None:
    """The model that the adapter in ``folder`` belongs to; None if ``folder`` holds no adapter.

    Raises:
        ValueError: the adapter's config is unreadable, or names no model or a folder that no longer exists
    """
    path = Path(folder) / ADAPTER_CONFIG
    if not path.is_file():
        return None
    base = read_object(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or "\0" in base:
        raise ValueError(f"model.path: {path} does not name the model that it adapts; add base_model_name_or_path")
    is_there = Path(base).is_dir() and ".." not in Path(base).parts
    if not is_there and not may_be_on_hub(base):
        raise ValueError(
            f"model.path: {folder} is an adapter of {base}, which does not exist here; restore it, or set "
            f"base_model_name_or_path in {path} to its new path"
        )
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"model.path: {folder} is an adapter of {base}, another adapter; merge that one (gpg-vl merge)"
        )
    return base


def refuse_old_peft() -> None:
    """
    Raises:
        ValueError: the installed transformers takes adapters of a newer peft alone
    """
    if Version(peft.__version__) < Version(MIN_PEFT_VERSION):
        raise ValueError(
            f"model.lora: transformers {transformers.__version__} needs peft {MIN_PEFT_VERSION}, and "
            f"{peft.__version__} is installed; pip install -c constraints.txt -e . installs two that fit"
        )


def attach(model: PreTrainedModel, config: LoraConfig, layers: Mapping[str, str], base: str) -> None:
    """Adds a fresh adapter to ``model``, which changes no output yet, and freezes everything else.

    Args:
        layers: regular expression of the linear layers to adapt, by part
        base: where ``model`` was loaded from; the saved adapter names it

    Raises:
        ValueError: see ``check_targets``; or peft adapts other layers than those, or cannot adapt them
    """
    check_targets(model, config, layers)
    wanted = set(_matching(model, config, layers))
    try:
        model.add_adapter(_peft_config(config, layers, base))
    except ValueError as error:  # 0.19 takes a pattern for a set of letters in some mixtures of experts
        raise ValueError(
            f"model.lora: peft {peft.__version__} cannot adapt these layers of a {model.config.model_type} model; a "
            "later one may"
        ) from error
    _refuse_other_layers(model, wanted)
    # transformers took the name from the config that it read, and peft resolves the names of some mixtures of experts
    saved: Any = model.peft_config["default"]
    saved.base_model_name_or_path, saved.target_modules = _lasting_name(base), _targets(config, layers)


def _refuse_other_layers(model: PreTrainedModel, wanted: Collection[str]) -> None:
    """In some mixtures of experts, peft takes the names of linear layers for those of the experts' parameters.

    Raises:
        ValueError: it did; names the layers that can be adapted
    """
    found = {name for name, each in model.named_modules() if isinstance(each, LoraLayer)}
    if found == set(wanted):
        return
    other = _ends(found.difference(wanted))
    raise ValueError(
        f"model.lora.target_modules: peft adapts other layers of a {model.config.model_type} model than these, the "
        f"first is {min(found.symmetric_difference(wanted))}; give a list of "
        f"{', '.join(sorted(_ends(found.intersection(wanted)) - other))}"
    )


def _ends(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def attach_saved(model: PreTrainedModel, folder: str, config: LoraConfig, layers: Mapping[str, str], base: str) -> None:
    """Adds the adapter in ``folder`` to ``model``, to continue training it or to run it.

    Raises:
        ValueError: the adapter does not match ``config``, or its weights do not match its own config
    """
    saved, wanted = _read_adapter(folder), _peft_config(config, layers, base)
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
        raise ValueError(
            f"model.path: the adapter in {folder} does not fit its model, the first weight is {wrong[0]}; restore one"
        )
    with torch.no_grad():  # peft's own function renames what transformers has renamed, and may then set nothing
        for name, weight in expected.items():
            weight.copy_(plain[name])


def merge_saved(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """``model`` with the adapter in ``folder`` merged into its weights.

    Raises:
        ValueError: the adapter's config asks for what the kit does not do, or its weights do not fit
    """
    config = _config_in(folder, model)
    try:
        merged: PreTrainedModel = peft.PeftModel.from_pretrained(model, folder, config=config).merge_and_unload()
    except Exception as error:
        raise ValueError(
            f"model.path: the adapter in {folder} does not fit its model ({first_line(error)}); restore one"
        ) from error
    return merged


def weight_names(model: PreTrainedModel) -> list[str]:
    """Of all that its state holds; a weight that has several names comes under the first."""
    first: dict[int, str] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        first.setdefault(id(weight), name)
    return list(first.values())


def merged_weights(model: PreTrainedModel, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Weights of ``model`` by name, one after the other; with an adapter, as they are without it.

    Its part is added in a new tensor when a weight's turn comes.

    Args:
        names: of ``weight_names``; those of the adapter itself are left out
    """
    adapted = {f"{name}.base_layer.weight": each for name, each in model.named_modules() if isinstance(each, LoraLayer)}
    coded = dict(four_bit_weights(model))
    state = model.state_dict()
    for name in names:
        if ".lora_" not in name:
            weight = coded[name].dequantized() if name in coded else state[name]
            whole = _merged(adapted[name], weight) if name in adapted else weight
            yield name.replace(".base_layer.", "."), whole


def _merged(layer: Any, weight: Tensor) -> Tensor:
    """In float32 to the end: an adapter's part may be too small for the type of the weight."""
    [active] = layer.active_adapters
    merged: Tensor = weight.float() + layer.get_delta_weight(active).float()
    return merged


def adapter_shapes(folder: str, base: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the adapter should have according to its config in ``folder``."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(read_config(base), **AS_DATA)
        wrapped = peft.get_peft_model(model, _config_in(folder, model))
    return {name: tuple(tensor.shape) for name, tensor in peft.get_peft_model_state_dict(wrapped).items()}


def check_targets(model: PreTrainedModel, config: LoraConfig, layers: Mapping[str, str]) -> None:
    """
    Raises:
        ValueError: no layer of the recipe's parts has one of the names in ``target_modules``
    """
    wanted = config.target_modules
    possible = _matching(model, replace(config, target_modules=None), layers)
    entries = [(each, [each]) for each in wanted] if isinstance(wanted, list) else [(wanted, wanted)]
    for each, alone in entries:
        if not _matching(model, replace(config, target_modules=alone), layers):
            ends = ", ".join(sorted(_ends(possible)))
            parts = " and ".join(config.parts)
            raise ValueError(
                f"model.lora.target_modules: {each} names no linear layer in the blocks of {parts}; "
                f"give a list of {ends}, or a regular expression for whole names"
            )


def _matching(model: PreTrainedModel, config: LoraConfig, layers: Mapping[str, str]) -> list[str]:
    pattern = re.compile(_targets(config, layers))
    return [name for name, _ in model.named_modules() if pattern.fullmatch(name)]


def _targets(config: LoraConfig, layers: Mapping[str, str]) -> str:
    """The regular expression of the layers of the parts that ``target_modules`` names, if it names any."""
    every, wanted = "|".join(f"({layers[part]})" for part in sorted(config.parts)), config.target_modules
    if wanted is None or wanted == "all-linear":
        return every
    pattern = wanted if isinstance(wanted, str) else rf"(.*\.)?({'|'.join(map(re.escape, wanted))})"
    return f"(?=(?:{pattern})$)({every})"


def _peft_config(config: LoraConfig, layers: Mapping[str, str], base: str) -> Any:
    alpha: Any = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    return peft.LoraConfig(
        base_model_name_or_path=_lasting_name(base), r=config.r, lora_alpha=alpha, lora_dropout=0.0,
        target_modules=_targets(config, layers), bias="none",
    )  # fmt: skip


def _lasting_name(base: str) -> str:
    """A folder as an absolute path, since the adapter will be read from elsewhere; a hub name unchanged."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _read_adapter(folder: str) -> dict[str, Any]:
    """The config of the adapter in ``folder``.

    Raises:
        ValueError: it is not an ordinary LoRA adapter, or its weights are not there as safetensors
    """
    path = Path(folder) / ADAPTER_CONFIG
    saved = read_object(path)
    if saved.get("peft_type") != "LORA":
        raise ValueError(
            f"model.path: {path} is of the type {saved.get('peft_type')!r}; the kit reads LORA: merge it first"
        )
    others = [key for key, value in saved.items() if value and key not in _READ and key not in _IDLE]
    if saved.get("init_lora_weights", "gaussian") not in (True, False, "gaussian"):
        others.append("init_lora_weights")
    if others:
        raise ValueError(
            f"model.path: {path} sets {others[0]}, which the kit does not know; merge it where it was made"
        )
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"model.path: {folder} has no {ADAPTER_WEIGHTS}, and pickles are not read; save it again")
    return saved


def _config_in(folder: str, model: PreTrainedModel) -> Any:
    saved = _read_adapter(folder)
    _refuse_slow_patterns(folder, saved, [name for name, _ in model.named_modules()])
    return peft.LoraConfig(**{key: saved[key] for key in _READ if key in saved})


def _refuse_slow_patterns(folder: str, saved: Mapping[str, Any], names: Sequence[str]) -> None:
    """Tries the config's regular expressions on all names in a process that can be killed: one may take years.

    Raises:
        ValueError: one takes too long, or is not a regular expression
    """
    whole = [saved.get(key) for key in ("target_modules", "exclude_modules", "layers_pattern")]
    keys = [key for name in ("rank_pattern", "alpha_pattern") for key in saved.get(name) or ()]
    patterns = [f"(?:{each})$" for each in whole if isinstance(each, str)]
    patterns += [rf"(.*\.)?({key})$" for key in [*keys, *patterns]]
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _MATCH], input=json.dumps([patterns, list(names)]), text=True,
            capture_output=True, timeout=_SECONDS_TO_MATCH, check=True,
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        path = Path(folder) / ADAPTER_CONFIG
        raise ValueError(
            f"model.path: a pattern in {path} is not a regular expression, or takes over {_SECONDS_TO_MATCH:g} s; "
            "correct it"
        ) from error
