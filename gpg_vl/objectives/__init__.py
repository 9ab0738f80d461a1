"""The objectives by ``objective.name``."""

from __future__ import annotations

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.base import Objective
from gpg_vl.objectives.gpg import Gpg
from gpg_vl.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {"gpg": Gpg, "supervised": Supervised}


def build_objective(config: ObjectiveConfig) -> Objective:
    """
    Raises:
        ValueError: unknown ``objective.name``
    """
    if config.name not in OBJECTIVES:
        raise ValueError(f"objective.name: {config.name!r} is not known; the objectives are {list(OBJECTIVES)}")
    return OBJECTIVES[config.name](config)
