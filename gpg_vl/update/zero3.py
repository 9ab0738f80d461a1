"""ZeRO-3: DeepSpeed shares out the weights block by block, before its engine is made.

The engine alone would first move the whole model to each rank's device. The weights are those that the first rank has
read (``handing_out``): DeepSpeed sends each of them to the other ranks and leaves every rank its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gpg_vl.models.weights.compute_types import types_under_autocast
from gpg_vl.models.weights.gathered import GatheredModel, Place, find_places
from gpg_vl.processes.freed_memory import give_back
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.whole_weights import provide_gathering
from gpg_vl.update.fsdp import find_blocks
from gpg_vl.update.handing_out import follow_first_rank, from_first_rank
from gpg_vl.update.policy import PolicyForward

_all_gather: Any = getattr(torch.distributed, "all_gather_single", None) or torch.distributed.all_gather_into_tensor
"""Into one tensor; torch 2.14 has another name for it."""


def share_out(accelerator: Accelerator, forward: PolicyForward) -> None:
    """Shares the policy out, one block after the other, if the layout is ZeRO-3; before its optimizer is built.

    What moves to the device is a block at a time, and stays as this rank's share of it.

    Raises:
        RankError: the ranks have different models
    """
    if sharding_of(accelerator).zero_stage != 3:
        return
    import deepspeed

    adapter, device = forward.adapter, accelerator.device
    adapter.compute_on(device)
    model = adapter.model
    follow_first_rank(model)
    for place in find_places(model, "_buffers").values():
        place.put(from_first_rank(place.get(), device))
    types = types_under_autocast(adapter)
    provide_gathering(accelerator, GatheredModel(adapter, partial(_gather, device), types, device))
    places = list(find_places(model, "_parameters").values())
    shared: Any = None
    for module in (*reversed(find_blocks(forward)), forward):  # from within
        _make_room(module, places, device)
        with PULSE.beating("the handing out of weights"):
            if shared is None:  # from here on, each of its weights knows how to share others as it was
                deepspeed.zero.Init(module=module, config_dict_or_path=_config(accelerator), dtype=torch.float32)
                shared = next(module.parameters())
            else:
                shared.convert_to_zero_parameters(param_list=list(module.parameters()))
        give_back()


def _gather(device: torch.device, parameter: Any, dtype: torch.dtype) -> Tensor:
    """See ``models.weights.gathered.Gather``."""
    share = parameter.ds_tensor.detach().to(device, dtype)  # of its numbers in a row, filled up at the end
    group = parameter.ds_process_group
    whole: Tensor = share.new_empty(share.numel() * torch.distributed.get_world_size(group))
    _all_gather(whole, share, group)
    return whole[: parameter.ds_numel].view(parameter.ds_shape)


def forget_order(engine: Any) -> None:
    """Before each pass, makes DeepSpeed forget which modules the one before has called.

    From their order it would gather ahead, and refuse ranks that differ in it. They do: rows without images, or whose
    features are known, call other modules.
    """
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()

    def forget(*_: object) -> None:
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()

    engine.module.register_forward_pre_hook(forget, prepend=True)  # before DeepSpeed's own, which compares the ranks


def _config(accelerator: Accelerator) -> dict[str, Any]:
    """The plugin's, with sizes of batches, which DeepSpeed asks for and does not use here."""
    found: dict[str, Any] = dict(accelerator.state.deepspeed_plugin.deepspeed_config)
    found.pop("train_batch_size", None)
    return found | {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}


def _make_room(module: nn.Module, places: Sequence[Place], device: torch.device) -> None:
    """Gives a module's weights that were not read a place on the device, for what the first rank sends."""
    own = {id(weight) for weight in module.parameters() if weight.is_meta}
    for place in places:
        weight = place.get()
        if id(weight) in own:
            room = torch.empty_like(weight, device=device)
            place.put(nn.Parameter(room, requires_grad=weight.requires_grad))
