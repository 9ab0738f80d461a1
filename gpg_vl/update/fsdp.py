"""FSDP2: weights, gradients and optimizer sharded over the ranks by torch's ``fully_shard``, block by block.

Each block of the text model and of the vision tower is gathered for as long as it runs, in the compute type; what lies
outside of them, embeddings and head, for a whole pass. The float32 weights that the optimizer trains are never gathered
for a pass. Under HSDP, each node has a whole set of shards, and gradients are added up over the nodes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from gpg_vl.models.gathered import GatheredModel
from gpg_vl.models.masters import find_rounded
from gpg_vl.processes.sharding import Sharding, sharding_of
from gpg_vl.processes.weights import provide_gathering
from gpg_vl.update.policy import PolicyForward


def shard_policy(accelerator: Accelerator, forward: PolicyForward) -> None:
    """Shards the policy, one block after the other, if the layout is FSDP2 or HSDP; before its optimizer is built.

    What moves to the device is a block at a time, and stays as this rank's share of it.

    Raises:
        ValueError: the ranks are not spread evenly over the nodes, as HSDP needs it
    """
    sharding = sharding_of(accelerator)
    if not sharding.is_fsdp:
        return
    mesh = _build_mesh(accelerator, sharding)
    adapter = forward.adapter
    dtype = adapter.leave_rounding()
    provide_gathering(accelerator, GatheredModel(adapter, dtype, accelerator.device))
    if dtype is not None:
        for _, buffer in find_rounded(adapter.model):
            if not isinstance(buffer, nn.Parameter):
                buffer.data = buffer.data.to(dtype)
    # inputs are not cast: a rounded model computes some of them in float32, as the angles of positions
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32, cast_forward_inputs=False
    )
    for module in (*reversed(find_blocks(forward)), forward):  # from within
        fully_shard(module, mesh=mesh, mp_policy=policy)
    _add_up(forward)
    forward.is_sharded = True


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the text model and of the vision tower: what transformers would run again to save memory."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _build_mesh(accelerator: Accelerator, sharding: Sharding) -> DeviceMesh:
    kind, num_ranks = accelerator.device.type, accelerator.num_processes
    if sharding.name == "fsdp":
        return init_device_mesh(kind, (num_ranks,), mesh_dim_names=("shard",))
    of_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_ranks % of_node:
        raise ValueError(f"HSDP needs as many processes on each node, not {num_ranks} in all; use SHARDING=fsdp")
    return init_device_mesh(kind, (num_ranks // of_node, of_node), mesh_dim_names=("replicate", "shard"))


def _add_up(forward: nn.Module) -> None:
    """Gradients are summed over ranks, not averaged: each rank's loss is divided already."""
    for module in forward.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(enable=True)  # gloo has no other


@torch.no_grad()
def clip_shards(parameters: Sequence[Any], max_norm: float) -> float:
    """Clips gradients that are sharded, in place; returns their norm over all ranks, before.

    Args:
        parameters: with a gradient; at least one
    """
    shards: list[Tensor] = [parameter.grad.to_local() for parameter in parameters]
    squares = torch.stack([shard.double().square().sum() for shard in shards]).sum()
    torch.distributed.all_reduce(squares, group=parameters[0].device_mesh.get_group("shard"))
    norm = float(squares.sqrt())
    if norm > max_norm:
        torch._foreach_mul_(shards, max_norm / (norm + 1e-6))  # as clip_grad_norm_
    return norm
