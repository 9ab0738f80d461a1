"""FSDP2: weights, gradients and optimizer sharded over the ranks by torch's ``fully_shard``, block by block.

Each block of the text model and of the vision tower is gathered for as long as it runs, in the compute type; what lies
outside of them, embeddings and head, for a whole pass. The float32 weights that the optimizer trains are never gathered
for a pass. Under HSDP, each node has a whole set of shards, and gradients are added up over the nodes. With CPU offload
the shards, their gradients and the optimizer are in the host's memory, where the optimizer's step runs.

The weights are those that the first rank has read (``handing_out``): the others get them weight by weight and keep
their share.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from gpg_vl.models.weights.gathered import GatheredModel, find_places
from gpg_vl.models.weights.masters import find_rounded
from gpg_vl.processes.freed_memory import give_back
from gpg_vl.processes.sharding import Sharding, sharding_of
from gpg_vl.processes.start import ranks_of_node
from gpg_vl.processes.whole_weights import provide_gathering
from gpg_vl.update.handing_out import fill, follow_first_rank, from_first_rank
from gpg_vl.update.policy import PolicyForward


def shard_policy(accelerator: Accelerator, forward: PolicyForward) -> None:
    """Shards the policy, one block after the other, if the layout is FSDP2 or HSDP; before its optimizer is built.

    What moves to the device is a block at a time, and stays as this rank's share of it.

    Raises:
        RankError: the ranks have different models
    """
    sharding = sharding_of(accelerator)
    if not sharding.is_fsdp:
        return
    mesh = _build_mesh(accelerator, sharding)
    adapter = forward.adapter
    adapter.compute_on(accelerator.device)
    dtype = adapter.leave_rounding()
    follow_first_rank(adapter.model)
    places = list(find_places(adapter.model, "_parameters").values())
    for buffer in adapter.model.buffers():
        buffer.copy_(from_first_rank(buffer, accelerator.device))
    device = accelerator.device
    types = _types(adapter.model, dtype)
    provide_gathering(accelerator, GatheredModel(adapter, partial(_gather, device), types, device))
    if dtype is not None:
        for _, buffer in find_rounded(adapter.model):
            if not isinstance(buffer, nn.Parameter):
                buffer.data = buffer.data.to(dtype)
    # inputs are not cast: a rounded model computes some of them in float32, as the angles of positions
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32, cast_forward_inputs=False
    )
    for module in (*reversed(find_blocks(forward)), forward):  # from within
        fill(module, places, accelerator.device)
        fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=_offload_policy(accelerator, sharding))
        give_back()
    _add_up(forward)
    forward.is_sharded = True


def _types(model: PreTrainedModel, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Of all weights and of the buffers that are rounded, what the model computes in."""
    if dtype is None:
        return {}
    return dict.fromkeys((name for name, _ in (*model.named_parameters(), *find_rounded(model))), dtype)


def _gather(device: torch.device, parameter: Any, dtype: torch.dtype) -> Tensor:
    """See ``models.weights.gathered.Gather``. Shards in the host's memory are brought to the GPU first."""
    assert isinstance(parameter, DTensor), "a weight is gathered in the middle of a pass"
    mine: Any = parameter.detach()
    whole: Tensor = mine.to(device, dtype).full_tensor()
    return whole


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the text model and of the vision tower: what transformers would run again to save memory."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _offload_policy(accelerator: Accelerator, sharding: Sharding) -> OffloadPolicy:
    if not sharding.keeps_shards_on_host:
        return OffloadPolicy()
    return CPUOffloadPolicy(pin_memory=accelerator.device.type == "cuda")


def _build_mesh(accelerator: Accelerator, sharding: Sharding) -> DeviceMesh:
    kind, num_ranks = accelerator.device.type, accelerator.num_processes
    if sharding.name != "hsdp":
        return init_device_mesh(kind, (num_ranks,), mesh_dim_names=("shard",))
    of_node = ranks_of_node()  # the same on each node (processes.start)
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
    mesh = parameters[0].device_mesh
    squares = squares.to(mesh.device_type)  # the shards may be in the host's memory
    torch.distributed.all_reduce(squares, group=mesh.get_group("shard"))
    norm = float(squares.sqrt())
    if norm > max_norm:
        torch._foreach_mul_(shards, max_norm / (norm + 1e-6))  # as clip_grad_norm_
    return norm
