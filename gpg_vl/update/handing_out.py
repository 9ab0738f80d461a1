"""The policy's weights are read by the first rank, which hands them out to the others, one weight at a time.

So all processes together need the host's memory for one model while they load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.kernels import use_kernels
from gpg_vl.models.weights.gathered import Place, find_places
from gpg_vl.models.weights.masters import find_rounded
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.freed_memory import give_back
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import RankError
from gpg_vl.processes.sharding import sharding_of


def load_policy(config: ModelConfig, accelerator: Accelerator) -> Adapter:
    """The policy in the host's memory; its weights have no values where they are to come from the first rank.

    Raises:
        ValueError: see ``load_adapter``
    """
    adapter = load_adapter(config, with_values=accelerator.is_main_process)
    if config.kernels != "torch":
        use_kernels(adapter.model, config.kernels)
    return adapter


def hand_out(adapter: Adapter, accelerator: Accelerator) -> None:
    """Gives every rank all weights, on its device; for layouts that keep them whole, before weights are rounded.

    Frozen ones that will be rounded are handed out in that type, so that no device holds a float32 model.

    Raises:
        RankError: the ranks have different models
    """
    if sharding_of(accelerator).keeps_whole_weights:
        hand_out_whole(adapter, accelerator, accelerator.device)


def hand_out_whole(adapter: Adapter, accelerator: Accelerator, home: torch.device) -> None:
    """As ``hand_out``, in any layout; the weights stay at ``home``."""
    if accelerator.num_processes == 1:
        return
    follow_first_rank(adapter.model)
    dtype = adapter.autocast_dtype if sharding_of(accelerator).computes_rounded else None
    rounded = {id(each) for _, each in find_rounded(adapter.model) if not each.requires_grad}
    for place in find_places(adapter.model, "_parameters").values():
        weight = place.get()
        found = from_first_rank(weight, accelerator.device, dtype if id(weight) in rounded else None).to(home)
        place.put(nn.Parameter(found, requires_grad=weight.requires_grad))
        give_back()
    for place in find_places(adapter.model, "_buffers").values():
        place.put(from_first_rank(place.get(), accelerator.device).to(home))


def follow_first_rank(model: nn.Module) -> None:
    """Where a folder has weights of their own for what its config ties, the first rank knows; here they are untied too.

    Raises:
        RankError: the ranks have different models
    """
    own = {name for name, _ in model.named_parameters()}
    for name in gather_object([own])[0] - own:
        _untie(model, name)
    _check_alike(model)


def _untie(model: nn.Module, name: str) -> None:
    """Gives a name a weight of its own, without values."""
    prefix, _, leaf = name.rpartition(".")
    tensors = dict(model.named_modules()).get(prefix, nn.Module())._parameters
    tied = tensors.get(leaf)
    if tied is not None:
        tensors[leaf] = nn.Parameter(torch.empty_like(tied), requires_grad=tied.requires_grad)


def digest_of(model: nn.Module) -> str:
    """Of its weights' names, shapes and types."""
    named = (*model.named_parameters(), *model.named_buffers())
    found = [(name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in named]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _check_alike(model: nn.Module) -> None:
    """
    Raises:
        RankError: the ranks have different models
    """
    if len(set(gather_object([digest_of(model)]))) > 1:
        raise RankError("the processes have different models; start all of them with one recipe and one model.path")


def fill(module: nn.Module, places: Sequence[Place], device: torch.device) -> None:
    """Gives a module's weights the values that the first rank has, on the device; inside, sharded ones stay."""
    own = {id(weight) for weight in module.parameters() if not isinstance(weight, DTensor)}
    for place in places:
        weight = place.get()
        if id(weight) in own:
            place.put(nn.Parameter(from_first_rank(weight, device), requires_grad=weight.requires_grad))


@torch.no_grad()
def from_first_rank(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor that the first rank has, on the device; in another type, if one is given."""
    if torch.distributed.get_rank() == 0:
        found = tensor.detach().to(device, dtype or tensor.dtype).contiguous()
    else:
        found = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device)
    with PULSE.beating("the handing out of weights"):
        torch.distributed.broadcast(found, 0)
    return found
