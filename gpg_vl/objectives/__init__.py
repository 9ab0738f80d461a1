"""The objectives by ``objective.name``."""

from __future__ import annotations

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.base import Objective
from gpg_vl.objectives.gpg import Gpg
from gpg_vl.objectives.grpo import Grpo
from gpg_vl.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {"gpg": Gpg, "grpo": Grpo, "supervised": Supervised}


def build_objective(config: ObjectiveConfig) -> Objective:
    """
    Raises:
        ValueError: unknown ``objective.name``, or a key that this objective has no use for
    """
    if config.name not in OBJECTIVES:
        raise ValueError(f"objective.name: {config.name!r} is not known; the objectives are {list(OBJECTIVES)}")
    if config.kl_coefficient and config.name != "grpo":
        raise ValueError(f"objective.kl_coefficient: objective {config.name} has no KL; set it to 0, or name: grpo")
    return OBJECTIVES[config.name](config)
