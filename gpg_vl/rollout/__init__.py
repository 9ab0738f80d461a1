"""The rollout engines by name, as in ``rollout.engine``."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpg_vl.config import RolloutConfig
from gpg_vl.rollout.engine import RolloutEngine

if TYPE_CHECKING:
    from accelerate import Accelerator

    from gpg_vl.models.adapter import Adapter

MakeEngine = Callable[["Adapter", RolloutConfig, "Accelerator | None"], RolloutEngine]


def _hf(adapter: Adapter, config: RolloutConfig, accelerator: Accelerator | None) -> RolloutEngine:
    from gpg_vl.rollout.hf import HfEngine  # late, so that a mistake in a recipe is said before torch is imported

    return HfEngine(adapter, config.tokens_per_batch, accelerator)


def _vllm(adapter: Adapter, config: RolloutConfig, accelerator: Accelerator | None) -> RolloutEngine:
    from gpg_vl.rollout.vllm import VllmEngine

    return VllmEngine(adapter, config, accelerator)


ENGINES: dict[str, MakeEngine] = {"hf": _hf, "vllm": _vllm}
_TEMPERATURES = {"vllm": (0.01, 2.0)}
"""What an engine samples at, besides 0; vLLM would raise a lower one to the first number in silence."""


def check_engine(config: RolloutConfig) -> None:
    """
    Raises:
        ValueError: there is no engine ``rollout.engine``, or what it needs is not installed
    """
    if config.engine not in ENGINES:
        raise ValueError(f"rollout.engine: {config.engine!r} is not known; the engines are {list(ENGINES)}")
    if config.engine == "vllm" and config.vllm.mode == "colocate" and importlib.util.find_spec("vllm") is None:
        raise ValueError("rollout.vllm.mode: colocate needs vllm in this environment; install it, or set it to server")


def check_temperature(engine: str, key: str, temperature: float) -> None:
    """
    Args:
        key: what sets it

    Raises:
        ValueError: the engine does not sample at it
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{key} is {temperature}; give 0 or more")
    lowest, highest = _TEMPERATURES.get(engine, (0.0, math.inf))
    if temperature and not lowest <= temperature <= highest:
        raise ValueError(f"{key}: {engine} samples at {lowest} to {highest}, not at {temperature}")


def build_engine(config: RolloutConfig, adapter: Adapter, accelerator: Accelerator | None = None) -> RolloutEngine:
    """The engine that ``rollout.engine`` names.

    Args:
        accelerator: of the ranks that may share the weights; None where this process has them all

    Raises:
        ValueError: there is no such engine
    """
    check_engine(config)
    return ENGINES[config.engine](adapter, config, accelerator)


def build_engines(config: RolloutConfig, adapter: Adapter, accelerator: Accelerator | None = None) -> RolloutEngine:
    """``build_engine`` for all ranks, which call it together: if one lacks the memory, none waits for it in vLLM.

    Raises:
        ValueError: a rank cannot have an engine
    """
    from gpg_vl.processes.ranks import run_together

    if config.engine == "vllm" and config.vllm.mode == "colocate":
        from gpg_vl.rollout.served.local import check_free_memory

        run_together(lambda: check_free_memory(config.vllm))
    return run_together(lambda: build_engine(config, adapter, accelerator))
