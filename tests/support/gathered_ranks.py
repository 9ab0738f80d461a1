"""``torchrun gathered_ranks.py MODEL``: two ranks that share a bfloat16 model's weights, and what they gather of them.

Prints a line of JSON for a full model and one for LoRA, from the first rank; the truth is the model on one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.weights.compute_types import types_under_autocast
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.start import start_ranks
from gpg_vl.processes.whole_weights import (
    weights_in_float32,
    weights_in_turn,
    weights_there,
    weights_to_save,
    whole_weights,
)
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.engine_weights import named_weights
from gpg_vl.update.handing_out import load_policy
from gpg_vl.update.reference import keep_in_compute_type
from tests.support.builders import SMALL_IMAGES
from tests.support.served_ranks import is_whole, make_prompts, sample, share


def shaken(adapter: Any) -> Any:
    """With an adapter that does something."""
    draws = torch.Generator().manual_seed(3)
    for name, weight in adapter.model.named_parameters():
        if "lora_" in name and not weight.is_meta:
            torch.nn.init.normal_(weight, std=0.05, generator=draws)
    return adapter


def state_of(adapter: Any) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in adapter.model.named_parameters()}


def held_by(adapter: Any) -> dict[str, Tensor]:
    """Weights that have values."""
    return {name: each for name, each in state_of(adapter).items() if not each.is_meta}


def files_of(adapter: Any) -> dict[str, bytes]:
    """Of the model folder that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        each.dtype == other[name].dtype and torch.equal(each, other[name]) for name, each in one.items()
    )


def measure(folder: str, lora: LoraConfig | None) -> dict[str, Any]:
    keys: Any = {**SMALL_IMAGES, "path": folder, "dtype": "bfloat16", "lora": lora}
    config = ModelConfig(**keys)
    policy, plain = shaken(load_policy(config, ACCELERATOR)), shaken(load_adapter(config))
    exact, prompts, types = state_of(plain), make_prompts(plain), types_under_autocast(plain)
    trained = {name for name, each in plain.model.named_parameters() if each.requires_grad}
    stored = {name: each for name, each in exact.items() if name in trained}
    folder_files = files_of(plain) if ACCELERATOR.is_main_process else {}
    lent = {id(each) for layer in plain.lent_layers(with_trained=True) for each in layer.parameters(recurse=False)}
    widened = {
        name: exact[name].to(torch.bfloat16 if id(each) in lent else torch.float32)
        for name, each in plain.model.named_parameters()
    }
    if sharding_of(ACCELERATOR).is_fsdp:
        plain.round_weights()
        types = dict.fromkeys(exact, torch.bfloat16)
    samples = sample(HfEngine(plain, 65536), prompts)
    keep_in_compute_type(plain)  # an adapter is added to the weights that are computed with
    served = dict(named_weights(plain))
    share(policy, ACCELERATOR)
    row: dict[str, Any] = {"lora": lora is not None}
    with whole_weights(ACCELERATOR):
        found = state_of(policy)
        row |= {"is_same_sample": sample(HfEngine(policy, 65536), prompts) == samples}
        rounded = {name: each.dtype for name, each in found.items() if each.dtype == torch.bfloat16}
        row |= {"has_types": rounded == types}
    with weights_in_float32(ACCELERATOR):
        row |= {"is_for_float32": are_equal(state_of(policy), widened)}
    with weights_to_save(ACCELERATOR):
        row |= {"is_saved": are_equal(held_by(policy), stored) if ACCELERATOR.is_main_process else is_whole(policy)}
        row |= {"is_same_folder": ACCELERATOR.is_main_process and files_of(policy) == folder_files}
    most: list[int] = []
    with weights_in_turn(ACCELERATOR):
        there = partial(weights_there, ACCELERATOR)
        taken = {name: each.clone() for name, each in watched(named_weights(policy, there), policy, most)}
    row |= {
        "is_taken": are_equal(taken, served),
        "most": max(most),
        "all": sum(each.numel() for each in exact.values()),
    }
    return row | {"is_sharded": not is_whole(policy)}


def watched(weights: Iterator[tuple[str, Tensor]], policy: Any, most: list[int]) -> Iterator[tuple[str, Tensor]]:
    """Notes how many numbers of the policy's weights are there."""
    for named in weights:
        most.append(sum(each.numel() for each in policy.model.parameters() if not each.is_meta))
        yield named


if __name__ == "__main__":
    ACCELERATOR = start_ranks(on_cpu=True)
    for lora in (None, LoraConfig(r=2, parts=["text", "vision"])):
        rows = gather_object([measure(sys.argv[1], lora)])
        if ACCELERATOR.is_main_process:
            sys.stdout.write("".join(json.dumps(each) + "\n" for each in rows))
    end_ranks()
