"""The optimizer's state by parameter, as whole tensors, whatever the layout and the number of ranks.

Where nothing is sharded a rank has all of it. Under FSDP2 a rank has a share of each tensor. Under ZeRO a rank has
slices, in flat tensors that the optimizer treats as its parameters. Both are assembled one parameter at a time, and cut
out of whole tensors in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.sharding import WHOLE, Sharding

Entries = dict[str, Tensor]
"""The state of one parameter by name, on the CPU; empty before the first step."""

MOMENTS = ("exp_avg", "exp_avg_sq")
SHARD_BYTES = 2**31


def read_shards(
    optimizer: Any,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    sharding: Sharding = WHOLE,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[dict[str, Tensor]]:
    """The state as ``PARAMETER/ENTRY`` -> tensor, in at least one portion of about ``shard_bytes``.

    All ranks iterate together. Where the state is sharded, only the first rank gets the values.

    Args:
        optimizer: torch's optimizer, or DeepSpeed's wrapper of it
    """
    read = _reader(optimizer, sharding)
    shard: dict[str, Tensor] = {}
    for name, parameter in named_parameters:
        if sum(tensor.nbytes for tensor in shard.values()) >= shard_bytes:
            yield shard
            shard = {}
        with PULSE.beating("the gathering of the optimizer's state for a save"):
            entries = read(parameter)
        shard |= {f"{name}/{entry}": value for entry, value in entries.items()}
    yield shard


def load_entries(
    optimizer: Any,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    stored: Callable[[str], Entries],
    sharding: Sharding = WHOLE,
) -> None:
    """Restores the state; each rank restores its share.

    Args:
        stored: returns the entries of a parameter by its name

    Raises:
        ValueError: they are not those of AdamW for these parameters
    """
    if sharding.zero_stage == 0:
        state = optimizer.state_dict()
        cut = _cut_like if sharding.is_fsdp else _as_they_are
        entries = enumerate(cut(_checked(stored(name), name, each.shape), each) for name, each in named_parameters)
        state["state"] = {index: of_parameter for index, of_parameter in entries if of_parameter}
        optimizer.load_state_dict(state)
        return
    zero, step = _ZeroState(optimizer, sharding.zero_stage), None
    for name, parameter in named_parameters:
        shape = parameter.ds_shape if sharding.zero_stage == 3 else parameter.shape  # type: ignore[attr-defined]
        of_parameter = _checked(stored(name), name, shape)
        if not of_parameter:
            continue
        if step is None:
            step = of_parameter["step"]
            zero.fill_with_zeros(step)
        assert torch.equal(of_parameter["step"], step), f"{name} took {of_parameter['step']} steps, others {step}"
        zero.write(parameter, of_parameter)


def _checked(entries: Entries, name: str, shape: torch.Size) -> Entries:
    if not entries or "state1" in entries:  # the moments of 8-bit AdamW are in blocks
        return entries
    wanted = {"step": torch.Size(), **dict.fromkeys(MOMENTS, shape)}
    if {entry: each.shape for entry, each in entries.items()} != wanted:
        found = ", ".join(f"{entry} {list(each.shape)}" for entry, each in sorted(entries.items()))
        raise ValueError(f"{name} of {list(shape)} has {found}")
    return entries


def _reader(optimizer: Any, sharding: Sharding) -> Callable[[nn.Parameter], Entries]:
    if sharding.zero_stage:
        return _ZeroState(optimizer, sharding.zero_stage).read
    return partial(_read_shared if sharding.is_fsdp else _read_whole, optimizer)


def _read_whole(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Entries:
    return {entry: torch.as_tensor(value).cpu() for entry, value in optimizer.state.get(parameter, {}).items()}


def _read_shared(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Entries:
    """Of FSDP2. On other ranks than the first, the moments have shapes alone."""
    state = optimizer.state.get(parameter, {})
    if not state:
        return {}
    at = "cpu" if torch.distributed.get_rank() == 0 else "meta"
    moments = {entry: _on_mesh(state[entry]).full_tensor().to(at) for entry in MOMENTS}
    return {"step": state["step"].cpu(), **moments}


def _as_they_are(entries: Entries, parameter: nn.Parameter) -> Entries:
    return entries


def _cut_like(entries: Entries, parameter: Any) -> Entries:
    """This rank's share of whole moments, sharded as FSDP2 has sharded their parameter."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return {
        entry: value
        if entry == "step"
        else distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)
        for entry, value in entries.items()
    }


def _on_mesh(tensor: Any) -> Any:
    """A sharded tensor on the device that its ranks exchange it on; with CPU offload it is in the host's memory."""
    return tensor.to(tensor.device_mesh.device_type)


@dataclass(frozen=True, slots=True)
class _Share:
    """This rank's elements of a parameter with ZeRO, starting at ``start``."""

    flat: Tensor  # what the optimizer treats as its parameter
    offset: int  # of the first element in ``flat``
    start: int
    num: int

    def of(self, values: Tensor) -> Tensor:
        """A view of the elements in a tensor that is laid out like ``flat``."""
        return values.narrow(0, self.offset, self.num)


class _ZeroState:
    """The state of DeepSpeed's optimizer for its flat tensors, over all ranks."""

    def __init__(self, optimizer: Any, stage: int):
        self._optimizer = optimizer
        self._inner = optimizer.optimizer
        self._shards_weights = stage == 3

    def read(self, parameter: nn.Parameter) -> Entries:
        """Returns the whole tensors on the first rank."""
        states: list[Mapping[str, Tensor]] = [state for state in self._inner.state.values() if state]
        if not states:
            return {}
        shape = parameter.ds_shape if self._shards_weights else parameter.shape  # type: ignore[attr-defined]
        share = self._find_share(parameter)
        entries = {"step": states[0]["step"].cpu().clone()}
        for entry in MOMENTS:
            mine = None if share is None else share.of(self._inner.state[share.flat][entry])
            entries[entry] = _put_together(shape, parameter.device, share, mine)
        return entries

    def write(self, parameter: nn.Parameter, entries: Entries) -> None:
        """Stores this rank's share of whole tensors."""
        share = self._find_share(parameter)
        if share is None:
            return
        for entry in MOMENTS:
            here = share.of(self._inner.state[share.flat][entry])
            here.copy_(entries[entry].flatten().narrow(0, share.start, share.num))

    def fill_with_zeros(self, step: Tensor) -> None:
        """Creates the zero state that the optimizer itself would create in its first step."""
        defaults = self._inner.defaults
        for flat in self._flats():
            at = flat.device if defaults.get("fused") or defaults.get("capturable") else torch.device("cpu")
            moments = {entry: torch.zeros_like(flat) for entry in MOMENTS}
            self._inner.state[flat] = {"step": step.clone().to(at), **moments}

    def _flats(self) -> list[Tensor]:
        if self._shards_weights:
            return self._optimizer.fp32_partitioned_groups_flat  # type: ignore[no-any-return]
        return self._optimizer.single_partition_of_fp32_groups  # type: ignore[no-any-return]

    def _find_share(self, parameter: Any) -> _Share | None:
        """This rank's share of a parameter; None if all of it is on other ranks."""
        optimizer = self._optimizer
        if self._shards_weights:  # the parameter itself is split into equal parts, the last one padded
            group, offset, num = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = num * torch.distributed.get_rank()
            num = max(0, min(num, parameter.ds_numel - start))
            return _Share(self._flats()[group], offset, start, num) if num else None
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        return _Share(self._flats()[mapping.param_group_index], here.start, there.start, there.numel)


def _put_together(shape: torch.Size, device: torch.device, share: _Share | None, mine: Tensor | None) -> Tensor:
    """The whole tensor on the first rank: a sum over ranks, each with zeros outside its share."""
    whole = torch.zeros(shape.numel(), device=device)
    if share is not None and mine is not None:
        whole.narrow(0, share.start, share.num).copy_(mine)
    torch.distributed.reduce(whole, dst=0)
    return whole.view(shape).cpu()
