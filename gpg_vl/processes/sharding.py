"""How the ranks of a run share weights, gradients and optimizer, and what follows from it for whoever asks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from accelerate import Accelerator

LayoutName = Literal["none", "fsdp", "hsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload"]
_OWN = ("none", "fsdp", "hsdp", "fsdp_offload")
"""Those that GPG_VL_SHARDING names, which ``scripts/train.sh`` sets. DeepSpeed has accelerate's own variables."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """A layout, as far as other rooms than the update need to know it."""

    name: LayoutName

    @property
    def title(self) -> str:
        """What messages call it."""
        own = {"fsdp": "FSDP2", "hsdp": "HSDP", "fsdp_offload": "FSDP2 with CPU offload"}
        return own.get(self.name, f"ZeRO-{self.zero_stage}")

    @property
    def is_fsdp(self) -> bool:
        """Whether torch's ``fully_shard`` shares weights, gradients and optimizer."""
        return self.name in ("fsdp", "hsdp", "fsdp_offload")

    @property
    def keeps_shards_on_host(self) -> bool:
        """Whether each rank's share of weights, gradients and optimizer is in the host's memory."""
        return self.name == "fsdp_offload"

    @property
    def steps_on_host(self) -> bool:
        """Whether the optimizer's step runs on the host's processors."""
        return self.name in ("fsdp_offload", "zero3_offload")

    @property
    def zero_stage(self) -> int:
        """ZeRO's stage: 1 shards the optimizer, 2 also the gradients, 3 also the weights; 0 without DeepSpeed."""
        return int(self.name[4]) if self.name.startswith("zero") else 0

    @property
    def keeps_whole_weights(self) -> bool:
        """Whether each rank has all weights at any time, on its device; else they are gathered where they are used."""
        return self.name in ("none", "zero1", "zero2")

    @property
    def keeps_own_gradients(self) -> bool:
        """Whether each rank's gradients are its own until the step."""
        return self.name in ("none", "zero1")

    @property
    def computes_rounded(self) -> bool:
        """Whether ``model.dtype: bfloat16`` means rounded weights; else float32 ones that are cast in each call."""
        return self.zero_stage == 0

    @property
    def keeps_whole_moments(self) -> bool:
        """Whether each rank has the optimizer's state of all weights."""
        return self.name == "none"

    @property
    def spreads_moments(self) -> bool:
        """Whether they are shared by the ranks of all nodes; else a node has all of them."""
        return self.name not in ("none", "hsdp")


WHOLE = Sharding("none")


def sharding_of(accelerator: Accelerator) -> Sharding:
    """
    Raises:
        ValueError: the environment names a layout that there is not, or two of them
    """
    own, plugin = _read_own(), accelerator.state.deepspeed_plugin
    if plugin is None:
        return Sharding(own)
    if own != "none":
        raise ValueError(f"GPG_VL_SHARDING={own} and DeepSpeed are both requested; unset one of them")
    return Sharding(_zero_name(int(plugin.zero_stage), offloads=offloads_optimizer(plugin.deepspeed_config)))


def offloads_optimizer(config: Mapping[str, Any]) -> bool:
    """Whether a DeepSpeed file leaves the optimizer's state in the host's memory."""
    place = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return place.get("device", "none") != "none"


def _read_own() -> LayoutName:
    wanted = os.environ.get("GPG_VL_SHARDING", "none")
    found: LayoutName | None = next((name for name in get_args(LayoutName) if name == wanted), None)
    if found is None or found not in _OWN:
        raise ValueError(
            f"GPG_VL_SHARDING={wanted} is not known; use {', '.join(_OWN)}, or SHARDING={wanted} "
            "scripts/train.sh for a layout of DeepSpeed"
        )
    return found


def _zero_name(stage: int, *, offloads: bool) -> LayoutName:
    if stage == 3 and offloads:
        return "zero3_offload"
    names: tuple[LayoutName, ...] = ("none", "zero1", "zero2", "zero3")
    return names[stage]
