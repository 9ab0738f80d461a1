"""``torchrun rank_gradients.py FOLDER ...``: in each layout, the gradient of the ranks against that of plain rows.

For each model folder, and for each way to deal its groups to the ranks, prints a line of JSON with the worst relative
error of a parameter's gradient. The plain gradient is that of one completion, one row, one backward, on one process.
Under FSDP2, so it does where a part of the model is trained.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import AutoConfig

from gpg_vl.config import LoraConfig, ModelConfig, UpdateConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families import FAMILIES
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.start import start_ranks
from gpg_vl.processes.whole_weights import whole_weights
from gpg_vl.records import TrainingGroup
from gpg_vl.update import gradient
from gpg_vl.update.balance import balance
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.gradient import accumulate_gradient, take_step
from gpg_vl.update.layouts import Layout, build_layout
from gpg_vl.update.packing import shortest_budget
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.zero3 import share_out
from tests.support.builders import SMALL_IMAGES, in_dtype, make_training_group
from tests.support.groups import make_groups, plain_gradients
from tests.support.videos import Clip, make_video_sample

DENOMINATOR = 3.0
WITH_VIDEO = "an image on one rank, a video too on the other"
# of groups.CASES and then, where the family reads videos, one with an image and a video, by rank: other lengths and
# images, no image on one rank, no group on one rank, split groups
DEALS = {
    "mixed": ([0, 2, 4], [1, 3, 5, 6]),
    "no image on one rank": ([0, 3], [4]),
    "no image at all": ([4], [4]),
    "no group on one rank": ([], [0, 1, 4]),
    WITH_VIDEO: ([0], [7]),
}
MORE_RANKS = ([5, 1], [])
"""Of a third rank and a fourth."""
MORE_WITHOUT_IMAGE = ([4], [])


class KeepGradient(Optimizer):
    """A step that turns the weights into their gradient, exactly: a difference of weights would be rounded."""

    def __init__(self, parameters: Any):
        super().__init__(parameters, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(parameter.grad)


PARTS: dict[str, dict[str, Any]] = {
    "text": {"freeze": ["vision", "projector"]},
    "tower": {"freeze": ["text"]},
    "LoRA": {"lora": LoraConfig(r=2, parts=["text", "vision"])},
}


def load(folder: str, dtype: torch.dtype, trained: str = "all") -> QwenVLAdapter:
    """
    Args:
        trained: of ``PARTS``
    """
    words = {"path": folder, **SMALL_IMAGES, **PARTS.get(trained, {})}
    torch.manual_seed(0)
    adapter = load_adapter(ModelConfig(**words))  # type: ignore[arg-type]
    for name, weight in adapter.model.named_parameters():
        if "lora_B" in name:  # at zero, it would leave the other half without a gradient
            torch.nn.init.normal_(weight, std=0.02)
    adapter.model.to(dtype)
    return adapter


def layout_gradients(
    adapter: QwenVLAdapter, layout: Layout, groups: Sequence[TrainingGroup], budget: int
) -> dict[str, Tensor]:
    config = UpdateConfig(tokens_per_micro_batch=budget)
    accumulate_gradient(layout, groups, DENOMINATOR, config, adapter, ACCELERATOR)
    take_step(layout, 1.0)
    with whole_weights(ACCELERATOR):
        named = [(name, weight) for name, weight in adapter.model.named_parameters() if weight.requires_grad]
        return {name: weight.detach().clone() for name, weight in named}


def worst_error(found: dict[str, Tensor], plain: dict[str, Tensor]) -> float:
    """The largest relative error. A key's bias in a tower moves all scores alike: its gradient is rounding alone."""
    largest = max((float(each.norm()) for each in plain.values()), default=0.0) / DENOMINATOR
    errors = []
    for name, each in found.items():
        expected = plain.get(name, torch.zeros_like(each)) / DENOMINATOR
        if "vision" in name and name.endswith("k_proj.bias"):
            assert max(each.norm(), expected.norm()) <= 1e-5 * largest, name
        elif expected.norm() > 1e-8:
            errors.append(float((each - expected).norm() / expected.norm()))
        else:
            assert each.norm() <= 1e-7, name
    return max(errors, default=0.0)


def films(adapter: QwenVLAdapter) -> list[TrainingGroup]:
    """A group with an image and a video, where the family reads videos."""
    if adapter.video_placeholder is None:
        return []
    return [make_training_group(adapter, make_video_sample([(56, 56)], [Clip(56, 84, 4)]), [4, 2])]


def deals(folder: str) -> list[str]:
    """Those of a family that reads no videos have none."""
    family = FAMILIES[AutoConfig.from_pretrained(folder).model_type]
    return [deal for deal in DEALS if deal != WITH_VIDEO or family.adapter.video_placeholder is not None]


def dealt(deal: str) -> list[list[int]]:
    """The groups of each rank; one rank has those of two."""
    more = MORE_WITHOUT_IMAGE if deal == "no image at all" else MORE_RANKS
    of_ranks = [*DEALS[deal], *more][: max(2, ACCELERATOR.num_processes)]
    return of_ranks if ACCELERATOR.num_processes > 1 else [[number for of_rank in of_ranks for number in of_rank]]


def measure(
    folder: str,
    deal: str,
    dtype: torch.dtype = torch.float32,
    is_split: bool = False,
    mutation: str = "",
    trained: str = "all",
    is_dealt: bool = False,
) -> None:
    """Fresh models: the step before has spoilt the weights."""
    plain_adapter, adapter = load(folder, dtype, trained), load(folder, dtype, trained)
    groups = [replace(g, prompt=in_dtype(g.prompt, dtype)) for g in (*make_groups(adapter), *films(adapter))]
    plain = plain_gradients(plain_adapter, [groups[i] for of_rank in dealt(deal) for i in of_rank])
    mine: list[Any] = [groups[i] for i in dealt(deal)[ACCELERATOR.process_index]]
    if is_dealt:
        mine = balance(mine, ACCELERATOR.device)
    budget = max(map(shortest_budget, groups)) if is_split else 8192
    forward = PolicyForward(adapter, 1.0)
    shard_policy(ACCELERATOR, forward)
    share_out(ACCELERATOR, forward)
    optimizer = KeepGradient([weight for _, weight in adapter.trainable_parameters()])
    ACCELERATOR.deepspeed_engine_wrapped = None  # accelerate keeps the first engine that it made
    layout = build_layout(ACCELERATOR, forward, optimizer, max_grad_norm=1e9)
    with MUTATIONS[mutation](layout):
        found = layout_gradients(adapter, layout, mine, budget)
    errors, num_groups = gather_object([worst_error(found, plain)]), gather_object([len(mine)])
    if ACCELERATOR.is_main_process:
        row = {"model": os.path.basename(folder), "deal": deal, "is_split": is_split, "dtype": str(dtype)}
        row |= {"mutation": mutation, "errors": errors, "layout": type(layout).__name__, "trained": trained}
        row |= {"num_groups": num_groups, "is_dealt": is_dealt}
        sys.stdout.write(json.dumps(row) + "\n")  # in one piece: other ranks write too


def unscaled(layout: Layout) -> Any:
    """Each rank's share of the gradient at half its size."""
    original = layout.backward
    return mock.patch.object(layout, "backward", lambda loss, is_last: original(loss / 2, is_last))


def weighted_filler(layout: Layout) -> Any:
    """What levels the ranks' passes out has a weight."""
    original = gradient.build_filler_row
    return mock.patch.object(
        gradient, "build_filler_row", lambda *words: replace(original(*words), coefficients=((1.0,),))
    )


MUTATIONS: dict[str, Callable[[Layout], Any]] = {
    "": lambda layout: nullcontext(),
    "unscaled": unscaled,
    "weighted filler": weighted_filler,
}


def main() -> None:
    for folder in sys.argv[1:]:
        for deal in deals(folder):
            measure(folder, deal)
        measure(folder, "mixed", is_split=True)
    measure(folder, "mixed", mutation="unscaled")
    measure(folder, "no group on one rank", is_dealt=True)
    sharding = sharding_of(ACCELERATOR)
    if sharding.zero_stage == 0:  # DeepSpeed has no float64
        measure(folder, "mixed", torch.float64, is_split=True)
    if sharding.is_fsdp:
        for trained in PARTS:
            measure(folder, "no image on one rank", trained=trained)
        measure(folder, "no image at all", trained="tower")
    has_fillers = ACCELERATOR.num_processes > 1 and (sharding.is_fsdp or sharding.zero_stage >= 2)
    if has_fillers:
        measure(folder, "no group on one rank", mutation="weighted filler")


if __name__ == "__main__":
    ACCELERATOR = start_ranks()
    if ACCELERATOR.state.deepspeed_plugin is not None:  # an engine takes 2 GB of addresses else, and many are made
        ACCELERATOR.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["reduce_bucket_size"] = 10**6
    main()
    end_ranks()
