"""The objectives by ``objective.name``."""

from __future__ import annotations

from dataclasses import fields

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.base import Objective
from gpg_vl.objectives.gpg import Gpg
from gpg_vl.objectives.grpo import Grpo
from gpg_vl.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {"gpg": Gpg, "grpo": Grpo, "supervised": Supervised}
_KEYS_OF_ALL = frozenset({"name", "beta_th", "max_draws"})


def build_objective(config: ObjectiveConfig) -> Objective:
    """
    Raises:
        ValueError: unknown ``objective.name``, or a key is set that this objective does not read
    """
    if config.name not in OBJECTIVES:
        raise ValueError(f"objective.name: {config.name!r} is not known; the objectives are {list(OBJECTIVES)}")
    objective = OBJECTIVES[config.name]
    _refuse_idle_keys(config, objective)
    return objective(config)


def _refuse_idle_keys(config: ObjectiveConfig, objective: type[Objective]) -> None:
    for key in fields(config):
        is_set = getattr(config, key.name) != key.default
        if is_set and key.name not in objective.keys | _KEYS_OF_ALL:
            readers = [name for name, each in OBJECTIVES.items() if key.name in each.keys]
            raise ValueError(
                f"objective.{key.name}: objective {config.name} does not read it; leave it out, or choose an "
                f"objective.name that does: {', '.join(readers)}"
            )
