"""The optimizer's state by parameter, in whole tensors: the same whatever the layout and the number of ranks.

Without DeepSpeed a rank has all of it. Under ZeRO a rank has slices, in flat tensors that the optimizer takes for its
parameters; they are put together one parameter at a time, and cut out of whole tensors the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Entries = dict[str, Tensor]
"""The state of one parameter by name, on the CPU; empty before the first step."""

MOMENTS = ("exp_avg", "exp_avg_sq")
SHARD_BYTES = 2**31


def read_shards(
    optimizer: Any, named_parameters: Iterable[tuple[str, nn.Parameter]], shard_bytes: int = SHARD_BYTES
) -> Iterator[dict[str, Tensor]]:
    """The state as ``PARAMETER/ENTRY`` to tensor, in portions of about ``shard_bytes``; at least one.

    All ranks draw them together. Under ZeRO the first rank alone gets the values.

    Args:
        optimizer: torch's, or DeepSpeed's around it
    """
    shard: dict[str, Tensor] = {}
    for name, parameter in named_parameters:
        if sum(tensor.nbytes for tensor in shard.values()) >= shard_bytes:
            yield shard
            shard = {}
        shard |= {f"{name}/{entry}": value for entry, value in _read_entries(optimizer, parameter).items()}
    yield shard


def load_entries(
    optimizer: Any, named_parameters: Iterable[tuple[str, nn.Parameter]], stored: Callable[[str], Entries]
) -> None:
    """Restores the state, each rank its share.

    Args:
        stored: the entries of a parameter by its name
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        state = optimizer.state_dict()
        entries = enumerate(stored(name) for name, _ in named_parameters)
        state["state"] = {index: of_parameter for index, of_parameter in entries if of_parameter}
        optimizer.load_state_dict(state)
        return
    step = None
    for name, parameter in named_parameters:
        of_parameter = stored(name)
        if not of_parameter:
            continue
        if step is None:
            step = of_parameter["step"]
            _fill_with_zeros(optimizer, step)
        assert torch.equal(of_parameter["step"], step), f"{name} took {of_parameter['step']} steps, others {step}"
        _write_share(optimizer, parameter, of_parameter)


@dataclass(frozen=True, slots=True)
class _Share:
    """This rank's elements of a parameter under ZeRO, from ``start`` on."""

    flat: Tensor  # what the optimizer takes for its parameter
    offset: int  # of the first element in it
    start: int
    num: int

    def of(self, values: Tensor) -> Tensor:
        """The elements in a tensor that is laid out like ``flat``, as a view."""
        return values.narrow(0, self.offset, self.num)


def _find_share(optimizer: Any, parameter: nn.Parameter) -> _Share | None:
    """None where all of it is on other ranks."""
    if hasattr(parameter, "ds_id"):  # ZeRO-3 shards the parameter itself; in equal parts, the last one padded
        group, offset, num = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = num * torch.distributed.get_rank()
        num = max(0, min(num, parameter.ds_numel - start))  # type: ignore[attr-defined]
        return _Share(optimizer.fp32_partitioned_groups_flat[group], offset, start, num) if num else None
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return _Share(flat, here.start, there.start, there.numel)


def _read_entries(optimizer: Any, parameter: nn.Parameter) -> Entries:
    if isinstance(optimizer, torch.optim.Optimizer):
        return {entry: torch.as_tensor(value).cpu() for entry, value in optimizer.state.get(parameter, {}).items()}
    states: list[Mapping[str, Tensor]] = [state for state in optimizer.optimizer.state.values() if state]
    if not states:
        return {}
    share = _find_share(optimizer, parameter)
    entries = {"step": states[0]["step"].cpu().clone()}
    for entry in MOMENTS:
        mine = None if share is None else share.of(optimizer.optimizer.state[share.flat][entry])
        entries[entry] = _put_together(parameter, share, mine)
    return entries


def _put_together(parameter: nn.Parameter, share: _Share | None, mine: Tensor | None) -> Tensor:
    """The whole tensor on the first rank: a sum over the ranks, each with zeros outside its share."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    whole = torch.zeros(shape.numel(), device=parameter.device)
    if share is not None and mine is not None:
        whole.narrow(0, share.start, share.num).copy_(mine)
    torch.distributed.reduce(whole, dst=0)
    return whole.view(shape).cpu()


def _fill_with_zeros(optimizer: Any, step: Tensor) -> None:
    """What the optimizer itself makes in its first step."""
    inner = optimizer.optimizer
    flats = getattr(optimizer, "fp32_partitioned_groups_flat", None) or optimizer.single_partition_of_fp32_groups
    for flat in flats:
        at = flat.device if inner.defaults.get("fused") or inner.defaults.get("capturable") else torch.device("cpu")
        inner.state[flat] = {"step": step.clone().to(at), **{entry: torch.zeros_like(flat) for entry in MOMENTS}}


def _write_share(optimizer: Any, parameter: nn.Parameter, entries: Entries) -> None:
    share = _find_share(optimizer, parameter)
    if share is None:
        return
    for entry in MOMENTS:
        here = share.of(optimizer.optimizer.state[share.flat][entry])
        here.copy_(entries[entry].flatten().narrow(0, share.start, share.num))
