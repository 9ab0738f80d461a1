"""How weights, gradients and optimizer are distributed over ranks, and how a gradient becomes a step in each layout.

A layout takes losses that are already divided and adds up their gradients over micro-batches and ranks; it adds no
factor of its own. If the gradient is not finite on some rank, no rank takes the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gpg_vl.config import Recipe
from gpg_vl.models.weights.four_bit import refuse_sharing
from gpg_vl.objectives import resolve_config
from gpg_vl.processes.sharding import Sharding, sharding_of
from gpg_vl.update.fsdp import clip_shards
from gpg_vl.update.optimizer import refuse_shared_moments
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.zero3 import forget_order

ELEMENTS_PER_REDUCTION = 2**24
"""Number of gradients reduced together: 64 MiB in float32."""


class Layout(Protocol):
    needs_equal_passes: bool
    """Whether each pass is a collective, so that all ranks must run the same number, through the same modules."""

    forward: nn.Module
    optimizer: torch.optim.Optimizer
    """The optimizer passed in, or DeepSpeed's wrapper of it; its ``param_groups`` hold the learning rates."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Adds the gradient of a loss; ``is_last`` marks the last one of the step."""

    def clear(self) -> None:
        """Clears the gradients so far; only possible if ``needs_equal_passes`` is false."""

    def step(self) -> float:
        """Sums the gradients over the ranks, clips them, updates the weights and clears the gradients.

        Returns:
            the norm before clipping; if it is not finite, the weights are unchanged
        """


def refuse_layout(recipe: Recipe, sharding: Sharding) -> None:
    """
    Raises:
        ValueError: the recipe's model, optimizer or objective does not run in the layout
    """
    refuse_sharing(recipe.model, sharding)
    refuse_shared_moments(recipe.update, sharding)
    is_relaxed = resolve_config(recipe.objective).discriminator_gradient == "relaxed"
    if is_relaxed and not sharding.keeps_own_gradients:
        raise ValueError(
            f"objective.discriminator_gradient: relaxed does not run under {sharding.title}; use SHARDING=none or "
            "zero1, or set it to score"
        )


def build_layout(
    accelerator: Accelerator, forward: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float
) -> Layout:
    """
    Args:
        forward: under FSDP2, sharded before ``optimizer`` was built (``fsdp.shard_policy``)
    """
    sharding = sharding_of(accelerator)
    if sharding.is_fsdp:
        assert isinstance(forward, PolicyForward) and forward.is_sharded
        return FullySharded(forward, optimizer, max_grad_norm)
    if sharding.zero_stage == 0:
        return Replicated(accelerator, forward, optimizer, max_grad_norm)
    accelerator.state.deepspeed_plugin.deepspeed_config["gradient_clipping"] = max_grad_norm
    engine, _ = accelerator.prepare(forward, optimizer)
    if sharding.zero_stage == 3:
        forget_order(engine)
    return ShardedOptimizer(engine) if sharding.zero_stage == 1 else ShardedGradients(engine)


class Replicated:
    """Every rank has everything; gradients are summed over ranks once per step. Also used with a single process."""

    needs_equal_passes = False

    def __init__(
        self, accelerator: Accelerator, forward: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float
    ):
        self._num_ranks = accelerator.num_processes
        self._max_grad_norm = max_grad_norm
        self.forward = forward.to(accelerator.device)
        self.optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def backward(self, loss: Tensor, is_last: bool) -> None:
        loss.backward()

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> float:
        fill_missing_gradients(self._parameters)
        if self._num_ranks > 1:
            for bucket in _buckets(self._parameters):
                _sum_over_ranks([parameter.grad for parameter in bucket])  # type: ignore[misc]
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm))
        if math.isfinite(norm):
            self.optimizer.step()
        self.clear()
        return norm


class ShardedOptimizer:
    """ZeRO-1: each rank has all weights and gradients, and updates its share of the weights."""

    needs_equal_passes = False

    def __init__(self, engine: Any):
        self._engine = engine
        self.forward = engine.module
        self.optimizer = engine.optimizer
        self._parameters = [p for p in engine.module.parameters() if p.requires_grad]

    def backward(self, loss: Tensor, is_last: bool) -> None:
        # not the engine's backward: until the ranks agree to step, these are ordinary gradients, which can be cleared
        (loss * torch.distributed.get_world_size()).backward()  # the engine averages over ranks

    def clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def step(self) -> float:
        fill_missing_gradients(self._parameters)
        self._engine.set_gradient_accumulation_boundary(is_boundary=True)
        self._engine.allreduce_gradients()
        return take_engine_step(self._engine)


class ShardedGradients:
    """ZeRO-2 and ZeRO-3: each rank has its share of the gradients, and with ZeRO-3 of the weights too."""

    needs_equal_passes = True

    def __init__(self, engine: Any):
        self._engine = engine
        self.forward = engine
        self.optimizer = engine.optimizer

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_boundary=is_last)
        self._engine.backward(loss * torch.distributed.get_world_size())  # the engine averages over ranks

    def clear(self) -> None:
        raise AssertionError("other ranks hold their share of these gradients")

    def step(self) -> float:
        return take_engine_step(self._engine)


class FullySharded:
    """FSDP2 and HSDP: each rank has its share of weights, gradients and optimizer."""

    needs_equal_passes = True

    def __init__(self, forward: PolicyForward, optimizer: torch.optim.Optimizer, max_grad_norm: float):
        self._max_grad_norm = max_grad_norm
        self.forward: Any = forward
        self.optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def backward(self, loss: Tensor, is_last: bool) -> None:
        if loss.requires_grad:  # else only the tower is trained, and no rank's rows have an image
            loss.backward()

    def clear(self) -> None:
        raise AssertionError("other ranks hold their share of these gradients")

    def step(self) -> float:
        self.forward.reshard()  # what a pass without a backward has gathered
        fill_missing_gradients(self._parameters)
        norm = clip_shards(self._parameters, self._max_grad_norm)
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def take_engine_step(engine: Any) -> float:
    engine.step()
    return math.inf if engine.optimizer.overflow else float(engine.get_global_grad_norm())


def fill_missing_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sets the gradient to zero if no pass of this rank reached a weight, e.g. the vision tower without images.

    So the optimizer treats such weights in the same way in every layout.
    """
    for parameter in parameters:
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(p.numel() for p in bucket) >= ELEMENTS_PER_REDUCTION:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _sum_over_ranks(gradients: Sequence[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
