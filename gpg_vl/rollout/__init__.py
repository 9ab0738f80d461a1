"""The rollout engines, by the name that ``rollout.engine`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpg_vl.config import RolloutConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.rollout.hf import HfEngine

ENGINES: Mapping[str, Callable[[Adapter, int], RolloutEngine]] = {"hf": HfEngine}


def build_engine(config: RolloutConfig, adapter: Adapter) -> RolloutEngine:
    """The engine that ``rollout.engine`` names."""
    return ENGINES[config.engine](adapter, config.tokens_per_batch)
