"""The optimizer's state by parameter, as whole tensors, whatever the layout and the number of ranks.

Without DeepSpeed a rank has all of it. With ZeRO a rank has slices, in flat tensors that the optimizer treats as its
parameters; they are assembled one parameter at a time, and cut out of whole tensors in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Entries = dict[str, Tensor]
"""The state of one parameter by name, on the CPU; empty before the first step."""

MOMENTS = ("exp_avg", "exp_avg_sq")
SHARD_BYTES = 2**31


def read_shards(
    optimizer: Any,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    stage: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[dict[str, Tensor]]:
    """The state as ``PARAMETER/ENTRY`` -> tensor, in at least one portion of about ``shard_bytes``.

    All ranks iterate together. With ZeRO only the first rank gets the values.

    Args:
        optimizer: torch's optimizer, or DeepSpeed's wrapper of it
        stage: ZeRO's stage, from ``sharding_stage``; 0 without DeepSpeed
    """
    read = partial(_read_whole, optimizer) if stage == 0 else _ShardedState(optimizer, stage).read
    shard: dict[str, Tensor] = {}
    for name, parameter in named_parameters:
        if sum(tensor.nbytes for tensor in shard.values()) >= shard_bytes:
            yield shard
            shard = {}
        shard |= {f"{name}/{entry}": value for entry, value in read(parameter).items()}
    yield shard


def load_entries(
    optimizer: Any,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    stored: Callable[[str], Entries],
    stage: int = 0,
) -> None:
    """Restores the state; each rank restores its share.

    Args:
        stored: returns the entries of a parameter by its name
        stage: as in ``read_shards``

    Raises:
        ValueError: they are not those of AdamW for these parameters
    """
    if stage == 0:
        state = optimizer.state_dict()
        entries = enumerate(_checked(stored(name), name, each.shape) for name, each in named_parameters)
        state["state"] = {index: of_parameter for index, of_parameter in entries if of_parameter}
        optimizer.load_state_dict(state)
        return
    sharded, step = _ShardedState(optimizer, stage), None
    for name, parameter in named_parameters:
        shape = parameter.ds_shape if stage == 3 else parameter.shape  # type: ignore[attr-defined]
        of_parameter = _checked(stored(name), name, shape)
        if not of_parameter:
            continue
        if step is None:
            step = of_parameter["step"]
            sharded.fill_with_zeros(step)
        assert torch.equal(of_parameter["step"], step), f"{name} took {of_parameter['step']} steps, others {step}"
        sharded.write(parameter, of_parameter)


def _checked(entries: Entries, name: str, shape: torch.Size) -> Entries:
    if not entries or "state1" in entries:  # the moments of 8-bit AdamW are in blocks
        return entries
    wanted = {"step": torch.Size(), **dict.fromkeys(MOMENTS, shape)}
    if {entry: each.shape for entry, each in entries.items()} != wanted:
        found = ", ".join(f"{entry} {list(each.shape)}" for entry, each in sorted(entries.items()))
        raise ValueError(f"{name} of {list(shape)} has {found}")
    return entries


def _read_whole(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Entries:
    return {entry: torch.as_tensor(value).cpu() for entry, value in optimizer.state.get(parameter, {}).items()}


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


class _ShardedState:
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
