"""The optimizer's state by parameter: what each rank has of it, and how it is taken up again, whatever the layout.

Where nothing is sharded a rank has all of it. Under FSDP2 it has some rows of each tensor. Under ZeRO it has a slice,
in a flat tensor that the optimizer treats as its parameter. Each of these is a run of elements of the flattened tensor;
so a rank saves what it has, and reads what it needs, without any other rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import is_main_rank
from gpg_vl.processes.sharding import WHOLE, Sharding

MOMENTS = ("exp_avg", "exp_avg_sq")
_LARGE = (*MOMENTS, "state1", "state2")  # the latter of 8-bit AdamW
PORTION_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive elements of a tensor."""

    shape: torch.Size  # of the whole tensor
    start: int  # of the first element in the flattened tensor
    values: Tensor  # [num]

    @property
    def is_whole(self) -> bool:
        return self.values.numel() == self.shape.numel()


class StoredTensor(Protocol):
    """A tensor of a saved state, whose elements may lie in several files."""

    @property
    def shape(self) -> torch.Size:
        """Of the whole tensor."""

    def read(self, start: int, num: int) -> Tensor:
        """[num] elements of the flattened tensor, on the CPU."""


def read_portions(
    optimizer: Any,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    sharding: Sharding = WHOLE,
    portion_bytes: int = PORTION_BYTES,
) -> Iterator[dict[str, Slice]]:
    """What this rank is to save, as ``PARAMETER/ENTRY`` -> slice, in portions of about ``portion_bytes``.

    Each element is on one rank: where all ranks have it, on the first, which has at least one portion. The values are
    the optimizer's own, on its device.

    Args:
        optimizer: torch's optimizer, or DeepSpeed's wrapper of it
    """
    read = _reader(optimizer, sharding)
    portion: dict[str, Slice] = {}
    for name, parameter in named_parameters:
        if sum(each.values.nbytes for each in portion.values()) >= portion_bytes:
            yield portion
            portion = {}
        with PULSE.beating("the reading of the optimizer's state for a save"):
            portion |= {f"{name}/{entry}": each for entry, each in read(parameter).items()}
    if portion or is_main_rank():
        yield portion


def load_entries(
    optimizer: Any,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    stored: Callable[[str], Mapping[str, StoredTensor]],
    sharding: Sharding = WHOLE,
) -> None:
    """Restores the state; each rank reads its share.

    Args:
        stored: returns the tensors of a parameter by its name; none for one that has not been trained

    Raises:
        ValueError: they are not those of AdamW for these parameters
    """
    if sharding.zero_stage == 0:
        state = optimizer.state_dict()
        take = _take_rows if sharding.is_fsdp else _take_all
        entries = enumerate(take(_checked(stored(name), name, each.shape), each) for name, each in named_parameters)
        state["state"] = {index: of_parameter for index, of_parameter in entries if of_parameter}
        optimizer.load_state_dict(state)
        return
    zero, step = _ZeroState(optimizer, sharding.zero_stage), None
    for name, parameter in named_parameters:
        of_parameter = _checked(stored(name), name, zero.whole_shape(parameter))
        if not of_parameter:
            continue
        own_step = _whole(of_parameter["step"])
        if step is None:
            step = own_step
            zero.fill_with_zeros(step)
        assert torch.equal(own_step, step), f"{name} took {own_step} steps, others {step}"
        zero.write(parameter, of_parameter)


def _checked(entries: Mapping[str, StoredTensor], name: str, shape: torch.Size) -> Mapping[str, StoredTensor]:
    if not entries or "state1" in entries:  # the moments of 8-bit AdamW are in blocks
        return entries
    wanted = {"step": torch.Size(), **dict.fromkeys(MOMENTS, shape)}
    if {entry: each.shape for entry, each in entries.items()} != wanted:
        found = ", ".join(f"{entry} {list(each.shape)}" for entry, each in sorted(entries.items()))
        raise ValueError(f"{name} of {list(shape)} has {found}")
    return entries


def _whole(stored: StoredTensor) -> Tensor:
    return stored.read(0, stored.shape.numel()).view(stored.shape)


def _take_all(entries: Mapping[str, StoredTensor], parameter: nn.Parameter) -> dict[str, Tensor]:
    return {entry: _whole(each) for entry, each in entries.items()}


def _take_rows(entries: Mapping[str, StoredTensor], parameter: Any) -> dict[str, Tensor]:
    """This rank's share of the moments, sharded as FSDP2 has sharded their parameter."""
    from torch.distributed.tensor import DTensor

    mesh, local = parameter.device_mesh, parameter.to_local()
    start = _first_element(parameter)

    def take(stored: StoredTensor) -> Tensor:
        rows = stored.read(start, local.numel()).view(local.shape).to(mesh.device_type)
        shape, stride = parameter.shape, parameter.stride()
        found = DTensor.from_local(rows, mesh, parameter.placements, run_check=False, shape=shape, stride=stride)
        return found.to(local.device)  # with CPU offload in the host's memory, before the next one is on the card

    return {entry: _whole(each) if entry == "step" else take(each) for entry, each in entries.items()}


def _reader(optimizer: Any, sharding: Sharding) -> Callable[[nn.Parameter], dict[str, Slice]]:
    if sharding.zero_stage:
        return _ZeroState(optimizer, sharding.zero_stage).read
    return partial(_read_rows if sharding.is_fsdp else _read_all, optimizer)


def _read_all(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Slice]:
    """Small tensors are copies: 8-bit AdamW has one table for many parameters, and a file must not share any."""
    state = optimizer.state.get(parameter, {}) if is_main_rank() else {}
    tensors = {entry: torch.as_tensor(value) for entry, value in state.items()}
    return {
        entry: Slice(each.shape, 0, each.flatten() if entry in _LARGE else each.flatten().clone())
        for entry, each in tensors.items()
    }


def _read_rows(optimizer: torch.optim.Optimizer, parameter: Any) -> dict[str, Slice]:
    """Of FSDP2; of HSDP, whose nodes have the same, on the first node."""
    state, mesh = optimizer.state.get(parameter, {}), parameter.device_mesh
    is_copy = "replicate" in mesh.mesh_dim_names and mesh.get_local_rank("replicate") > 0
    if not state or is_copy:
        return {}
    start = _first_element(parameter)
    moments = {entry: Slice(parameter.shape, start, state[entry].to_local().flatten()) for entry in MOMENTS}
    return _without_empty(state["step"], moments)


def _first_element(parameter: Any) -> int:
    """Of this rank's rows: as ``torch.chunk`` cuts them, the last ranks may have fewer, or none."""
    mesh, num_rows = parameter.device_mesh, parameter.shape[0]
    rows_each = -(-num_rows // mesh["shard"].size())
    first = min(mesh.get_local_rank("shard") * rows_each, num_rows)
    assert len(parameter.to_local()) == min(rows_each, num_rows - first), parameter.placements
    return first * (parameter.numel() // num_rows)


def _without_empty(step: Tensor, moments: dict[str, Slice]) -> dict[str, Slice]:
    """A share of the state; the number of steps is saved with the first element."""
    found = {entry: each for entry, each in moments.items() if each.values.numel()}
    if any(each.start == 0 for each in found.values()):
        found["step"] = Slice(torch.Size(), 0, step.flatten().clone())  # ZeRO's flat tensors have one for many
    return found


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

    def whole_shape(self, parameter: Any) -> torch.Size:
        return parameter.ds_shape if self._shards_weights else parameter.shape  # type: ignore[no-any-return]

    def read(self, parameter: nn.Parameter) -> dict[str, Slice]:
        """This rank's share."""
        share = self._find_share(parameter)
        state: Mapping[str, Tensor] = {} if share is None else self._inner.state.get(share.flat, {})
        if share is None or not state:
            return {}
        shape = self.whole_shape(parameter)
        moments = {entry: Slice(shape, share.start, share.of(state[entry])) for entry in MOMENTS}
        return _without_empty(state["step"], moments)

    def write(self, parameter: nn.Parameter, entries: Mapping[str, StoredTensor]) -> None:
        """Stores this rank's share."""
        share = self._find_share(parameter)
        if share is None:
            return
        for entry in MOMENTS:
            here = share.of(self._inner.state[share.flat][entry])
            here.copy_(entries[entry].read(share.start, share.num))

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
