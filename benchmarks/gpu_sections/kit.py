"""The kit as the sections use it: an adapter on a random model, a group of completions, one packed pass."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.groups import build_adapter, wrap
from benchmarks.models import TINY_QWEN2_5_VL, TINY_QWEN2_VL, ModelShape
from gpg_vl.config import LoraConfig, Recipe, UpdateConfig
from gpg_vl.models import log_probs
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed.attention import FLEX_ATTENTION
from gpg_vl.models.packed.attention_choice import PackedAttention
from gpg_vl.models.packed.segments import prompt_of
from gpg_vl.processes.sharding import LayoutName, sharding_of
from gpg_vl.processes.start import start_ranks
from gpg_vl.processes.whole_weights import whole_weights
from gpg_vl.recipes import load_recipe
from gpg_vl.records import MicroBatch, TrainingGroup
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.gradient import accumulate_gradient, take_step
from gpg_vl.update.layouts import Layout, build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.packing import build_micro_batch, split_into_rows
from gpg_vl.update.policy import PolicyForward, move_to
from gpg_vl.update.zero3 import share_out

SCRIPTS = Path(__file__).parents[2] / "scripts"
RECIPES, LAYOUTS = SCRIPTS / "recipes", SCRIPTS / "deepspeed"
COMPUTE_DTYPE = "bfloat16"
"""What the recipes compute in."""


def sized(shape: ModelShape, *, is_tiny: bool) -> ModelShape:
    """``shape``, or the tiny one of its family."""
    if not is_tiny:
        return shape
    return TINY_QWEN2_VL if shape.family == "qwen2_vl" else TINY_QWEN2_5_VL


def build(
    shape: ModelShape, device: str, dtype: str = COMPUTE_DTYPE, *, is_rounded: bool = True, **options: Any
) -> QwenVLAdapter:
    """The adapter as training has it; its processor's files are gone once it is built.

    Args:
        is_rounded: False: float32 weights, which autocast casts in each call
    """
    with tempfile.TemporaryDirectory() as folder:
        adapter = build_adapter(shape, Path(folder), dtype, device=device, **options)
    if is_rounded:
        adapter.round_weights()
    return adapter


def weights_of(adapter: Adapter) -> str:
    """The type of the weights that the model computes in."""
    return str(adapter.head_weight.dtype).removeprefix("torch.")


def clear_gradients(adapter: Adapter) -> None:
    """Those of the masters too, which the model does not know."""
    for _, parameter in adapter.trainable_parameters():
        parameter.grad = None


def gradients_of(adapter: Adapter) -> dict[str, Tensor]:
    """By the weight's name; float32, whatever the weights are."""
    return {name: p.grad for name, p in adapter.trainable_parameters() if p.grad is not None}


def in_dtype(adapter: QwenVLAdapter, shape: ModelShape, dtype: str) -> QwenVLAdapter:
    """A float32 model under an adapter that computes in ``dtype``; rounded, it is a copy."""
    config: Any = {"dtype": dtype}
    adapter.model.config.text_config._attn_implementation = "sdpa"  # an adapter takes what it finds for rows unpacked
    model = adapter.model if dtype == "float32" else copy.deepcopy(adapter.model)
    wrapped = wrap(model, adapter.processor, shape, replace(adapter.config, **config))
    wrapped.round_weights()
    return wrapped


@contextmanager
def without_checkpointing(adapter: Adapter) -> Iterator[None]:
    """Within, all activations stay for the backward pass."""
    before = adapter.config
    adapter.model.gradient_checkpointing_disable()
    adapter.config = replace(before, gradient_checkpointing=False)
    try:
        yield
    finally:
        adapter.config = before
        adapter.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def trace_only(device: str) -> None:
    """On a CPU, for the whole process: torch.compile traces and guards as always, and builds no machine code.

    That would take a C++ compiler and a minute, and is not the code that runs on a GPU.
    """
    if device == "cpu":
        torch.compile = partial(torch.compile, backend="eager")


def set_attention(adapter: QwenVLAdapter, attention: Any) -> None:
    """The attention code of packed rows, as ``model.attention`` has it."""
    text_config = adapter.model.config.get_text_config()
    text_config._attn_implementation = "sdpa"  # taken for rows that are not packed
    adapter.config = replace(adapter.config, attention=attention)
    adapter._attention = PackedAttention(text_config, adapter.config)


def attention_that_ran(adapter: Adapter) -> str:
    """The text model's attention code in the last forward, as ``model.attention`` names it."""
    code = str(adapter.model.config.get_text_config()._attn_implementation)
    return "flex_attention" if code == FLEX_ATTENTION else code


def pack(adapter: Adapter, groups: Sequence[TrainingGroup]) -> MicroBatch:
    """The groups as one micro-batch, on the device."""
    rows = [row for group in groups for row in split_into_rows(group, 10**9)]
    return move_to(build_micro_batch(rows, adapter), adapter.device)


def without_borders(batch: MicroBatch) -> MicroBatch:
    """A wrong mask: every completion also sees those before it."""
    ids = batch.segment_ids
    return replace(batch, segment_ids=torch.minimum(ids, prompt_of(ids) + 1))


def packed_log_probs(adapter: Adapter, batch: MicroBatch) -> Tensor:
    return PolicyForward(adapter, 1.0)(batch)  # type: ignore[no-any-return]


def packed_pass(adapter: Adapter, batch: MicroBatch, divisor: float) -> Tensor:
    """Log-probs [M]; the gradient is left on the model, which had none."""
    clear_gradients(adapter)
    found = packed_log_probs(adapter, batch)
    ((batch.coefficients * found).sum() / divisor).backward()
    return found.detach()


@contextmanager
def head_chunk(logits: int) -> Iterator[None]:
    """Within, the head runs over chunks of this many logits."""
    before = dict(log_probs.LOGITS_PER_CHUNK)
    log_probs.LOGITS_PER_CHUNK.update(dict.fromkeys(before, logits))
    try:
        yield
    finally:
        log_probs.LOGITS_PER_CHUNK.update(before)


def default_lora() -> LoraConfig:
    """The adapter that a recipe gets with nothing said."""
    return LoraConfig()


def count_tokens(groups: Sequence[TrainingGroup]) -> int:
    """Completion tokens."""
    return sum(len(completion.token_ids) for group in groups for completion in group.completions)


def no_grad_pass(adapter: Adapter, batch: MicroBatch) -> Tensor:
    with torch.no_grad():
        return packed_log_probs(adapter, batch)


class OneAttempt:
    """A layout whose update does not begin anew with a smaller budget when memory has run out: the error passes."""

    def __init__(self, layout: Layout, budget: int, before_pass: Callable[[], None]):
        self._layout, self._budget, self._before_pass = layout, budget, before_pass
        self.needs_equal_passes = layout.needs_equal_passes

    @property
    def forward(self) -> nn.Module:
        return self._layout.forward

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._layout.backward(loss, is_last)
        if not is_last:
            self._before_pass()

    def clear(self) -> None:
        """What an update does between two attempts, and then only."""
        self._layout.clear()
        raise torch.OutOfMemoryError(f"in the update, at {self._budget} tokens a micro-batch")


@dataclass(frozen=True)
class Steps:
    """The update of a recipe on a random model, in one process."""

    adapter: Adapter
    recipe: Recipe
    layout: Layout
    accelerator: Accelerator

    @property
    def budget(self) -> int:
        return self.recipe.update.tokens_per_micro_batch

    def accumulate(self, groups: Sequence[TrainingGroup], budget: int, before_pass: Callable[[], None]) -> int:
        """Accumulates the gradient of the groups in micro-batches of ``budget`` tokens.

        Returns:
            number of micro-batches

        Raises:
            torch.OutOfMemoryError: memory ran out; the gradient is cleared
        """
        patches = max(1, self.recipe.update.patches_per_micro_batch * budget // self.budget)
        config = replace(self.recipe.update, tokens_per_micro_batch=budget, patches_per_micro_batch=patches)
        layout: Any = OneAttempt(self.layout, budget, before_pass)
        count = float(len(groups))
        return accumulate_gradient(layout, groups, count, config, self.adapter, self.accelerator).num_micro_batches

    def take(self) -> None:
        take_step(self.layout, self.recipe.update.learning_rate)


def load_shipped_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    return load_recipe(str(RECIPES / f"{name}.yaml"), overrides)


def build_steps(shape: ModelShape, recipe: Recipe, device: str) -> Steps:
    """The recipe's optimizer, checkpointing and compute type, the weights as the layout has them in a run."""
    accelerator = start_ranks()
    checkpointing, is_rounded = recipe.model.gradient_checkpointing, sharding_of(accelerator).computes_rounded
    adapter = build(shape, device, recipe.model.dtype, is_rounded=is_rounded, gradient_checkpointing=checkpointing)
    forward = PolicyForward(adapter, recipe.rollout.temperature)
    share_out(accelerator, forward)
    optimizer = build_optimizer(adapter, recipe.update)
    layout = build_layout(accelerator, forward, optimizer, recipe.update.max_grad_norm)
    return Steps(adapter, recipe, layout, accelerator)


def layout_gradients(
    adapter: Adapter,
    groups: Sequence[TrainingGroup],
    name: LayoutName,
    make_optimizer: Callable[[Iterator[Tensor]], Optimizer],
) -> dict[str, Tensor]:
    """What the layout hands to its optimizer.

    Args:
        make_optimizer: makes one whose step turns weights into their gradient
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= layout_variables(name)
    accelerator = start_ranks()
    forward = PolicyForward(adapter, 1.0)
    shard_policy(accelerator, forward)
    share_out(accelerator, forward)
    optimizer = make_optimizer(weight for _, weight in adapter.trainable_parameters())
    layout = build_layout(accelerator, forward, optimizer, max_grad_norm=1e9)
    accumulate_gradient(layout, groups, float(len(groups)), UpdateConfig(), adapter, accelerator)
    take_step(layout, 1.0)
    with whole_weights(accelerator):
        return {name: parameter.detach().cpu().clone() for name, parameter in adapter.trainable_parameters()}


def layout_variables(name: LayoutName) -> dict[str, str]:
    """What ``scripts/train.sh`` would set."""
    uses_deepspeed = name.startswith("zero")
    return {
        "GPG_VL_SHARDING": "none" if uses_deepspeed else name,
        "ACCELERATE_USE_DEEPSPEED": str(uses_deepspeed).lower(),
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(LAYOUTS / f"{name}.json"),
    }
