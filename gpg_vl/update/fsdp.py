"""FSDP2: weights, gradients and optimizer sharded over the ranks by torch's ``fully_shard``, block by block.

Each block of the text model and of the vision tower is gathered for as long as it runs, in the compute type; what lies
outside of them, embeddings and head, for a whole pass. The float32 weights that the optimizer trains are never gathered
for a pass. Under HSDP, each node has a whole set of shards, and gradients are added up over the nodes. With CPU offload
the shards, their gradients and the optimizer are in the host's memory, where the optimizer's step runs.

The weights are those that the first rank has read. The others get them weight by weight and keep their share, so all
processes together need the host's memory for one model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.gathered import GatheredModel, Place, find_places
from gpg_vl.models.kernels import use_kernels
from gpg_vl.models.masters import find_rounded
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.freed_memory import give_back
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import RankError
from gpg_vl.processes.sharding import Sharding, sharding_of
from gpg_vl.processes.start import ranks_of_node
from gpg_vl.processes.weights import provide_gathering
from gpg_vl.update.policy import PolicyForward


def load_policy(config: ModelConfig, accelerator: Accelerator) -> Adapter:
    """The policy in the host's memory; its weights have no values where ``shard_policy`` gets them from the first rank.

    Raises:
        ValueError: see ``load_adapter``
    """
    reads = accelerator.is_main_process or not sharding_of(accelerator).shares_out_weights
    adapter = load_adapter(config, with_values=reads)
    if config.kernels != "torch":
        use_kernels(adapter.model, config.kernels)
    return adapter


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
    _check_alike(adapter.model)
    places = list(find_places(adapter.model, "_parameters").values())
    for buffer in adapter.model.buffers():
        buffer.copy_(_from_first_rank(buffer, accelerator.device))
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
        _fill(module, places, accelerator.device)
        fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=_offload_policy(accelerator, sharding))
        give_back()
    _add_up(forward)
    forward.is_sharded = True


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the text model and of the vision tower: what transformers would run again to save memory."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _check_alike(model: nn.Module) -> None:
    """
    Raises:
        RankError: the ranks have different models
    """
    named = (*model.named_parameters(), *model.named_buffers())
    mine = [(name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in named]
    digests = gather_object([hashlib.sha256(repr(mine).encode()).hexdigest()])
    if len(set(digests)) > 1:
        raise RankError("the processes have different models; start all of them with one recipe and one model.path")


def _fill(module: nn.Module, places: Sequence[Place], device: torch.device) -> None:
    """Gives a module's weights the values that the first rank has, on the device; inside, sharded ones stay."""
    own = {id(weight) for weight in module.parameters() if not isinstance(weight, DTensor)}
    for place in places:
        weight = place.get()
        if id(weight) in own:
            place.put(nn.Parameter(_from_first_rank(weight, device), requires_grad=weight.requires_grad))


@torch.no_grad()
def _from_first_rank(tensor: Tensor, device: torch.device) -> Tensor:
    if torch.distributed.get_rank() == 0:
        found = tensor.detach().to(device).contiguous()
    else:
        found = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    with PULSE.beating("the handing out of weights"):
        torch.distributed.broadcast(found, 0)
    return found


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
