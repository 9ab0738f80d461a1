"""The objectives by ``objective.name``, and one of the user's own by path."""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.agpo import Agpo
from gpg_vl.objectives.apa import Apa
from gpg_vl.objectives.base import Objective, defaults_of
from gpg_vl.objectives.cispo import Cispo
from gpg_vl.objectives.copg import Copg
from gpg_vl.objectives.dapo import Dapo
from gpg_vl.objectives.dr_grpo import DrGrpo
from gpg_vl.objectives.em_pg import EmPg
from gpg_vl.objectives.gapo import Gapo
from gpg_vl.objectives.gpg import Gpg
from gpg_vl.objectives.grpo import Grpo
from gpg_vl.objectives.gspo import Gspo
from gpg_vl.objectives.gvpo import Gvpo
from gpg_vl.objectives.raft import Raft
from gpg_vl.objectives.raft_pp import RaftPlusPlus
from gpg_vl.objectives.rebel import Rebel
from gpg_vl.objectives.reinforce import Reinforce
from gpg_vl.objectives.reinforce_rej import ReinforceRej
from gpg_vl.objectives.rloo import Rloo
from gpg_vl.objectives.sapo import Sapo
from gpg_vl.objectives.supervised import Supervised
from gpg_vl.user_code import load_own_class

OBJECTIVES: dict[str, type[Objective]] = {
    "gpg": Gpg,
    "reinforce": Reinforce,
    "rloo": Rloo,
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "dapo": Dapo,
    "gspo": Gspo,
    "cispo": Cispo,
    "sapo": Sapo,
    "raft": Raft,
    "raft_pp": RaftPlusPlus,
    "reinforce_rej": ReinforceRej,
    "gvpo": Gvpo,
    "em_pg": EmPg,
    "agpo": Agpo,
    "copg": Copg,
    "rebel": Rebel,
    "apa": Apa,
    "gapo": Gapo,
    "supervised": Supervised,
}
KEYS_OF_ALL = frozenset({"name", "beta_th", "max_draws"})


def build_objective(config: ObjectiveConfig, max_new_tokens: int | None = None, is_reused: bool = False) -> Objective:
    """
    Args:
        max_new_tokens: of the rollout, for ``max_length``
        is_reused: whether a rollout is followed by several updates

    Raises:
        ValueError: unknown ``objective.name``, a key or value that this objective does not take, or several updates
            where its gradient is right for the first alone
    """
    objective = find_objective(config.name)
    _refuse_idle_keys(config, objective)
    resolved = resolve_config(config, max_new_tokens)
    if objective.forms and resolved.form not in objective.forms:
        raise ValueError(
            f"objective.form: {config.name} has no form {resolved.form!r}; its forms are {objective.forms}"
        )
    if is_reused and not objective.allows_reuse:
        able = [name for name, each in OBJECTIVES.items() if each.allows_reuse]
        raise ValueError(
            f"update.epochs_per_rollout, groups_per_update and rollout.refresh: {config.name} does not correct for "
            f"weights that have moved since the rollout; leave them out, or choose an objective.name of "
            f"{', '.join(able)}"
        )
    built = objective(resolved, is_reused)
    if resolved.max_length is None and (built.reduction == "constant" or resolved.overlong_cache):
        raise ValueError(f"objective.max_length: {config.name} needs it here; give a number of tokens")
    return built


def find_objective(spec: str) -> type[Objective]:
    """The class of a name, or of ``path/to/file.py:ClassName``.

    Raises:
        ValueError: there is no such class, or it does not declare which keys it reads
    """
    if spec in OBJECTIVES:
        return OBJECTIVES[spec]
    path, _, class_name = spec.rpartition(":")
    if not path.endswith(".py"):
        nearest = difflib.get_close_matches(spec, OBJECTIVES, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"objective.name: {spec!r} is not known; {hint}the objectives are {list(OBJECTIVES)}, or FILE.py:CLASS"
        )
    file = Path(path).resolve()
    objective = load_own_class(file, class_name, Objective, "objective")  # type: ignore[type-abstract]
    missing = sorted(objective.__abstractmethods__) + ([] if hasattr(objective, "keys") else ["keys"])
    if missing:
        raise ValueError(f"{class_name} in {path} does not define {', '.join(missing)}; see docs/add-an-objective.md")
    _check_names(objective, f"{class_name} in {path}")
    return objective


def _check_names(objective: type[Objective], where: str) -> None:
    """
    Raises:
        ValueError: its keys or defaults name something that no recipe can have
    """
    objective.keys = frozenset(objective.keys)  # also where it is a list
    known = {key.name for key in fields(ObjectiveConfig)}
    if unknown := sorted((objective.keys | set(defaults_of(objective))) - known):
        raise ValueError(f"{where}: objective has no key {unknown[0]!r}, which its keys or defaults name; take it out")


def resolve_config(config: ObjectiveConfig, max_new_tokens: int | None = None) -> ObjectiveConfig:
    """The config with the objective's own value for every key that was left open."""
    defaults = {**defaults_of(find_objective(config.name)), "max_length": max_new_tokens}
    open_keys = {key.name for key in fields(config) if getattr(config, key.name) is None}
    return replace(config, **{key: value for key, value in defaults.items() if key in open_keys})


def read_values(config: ObjectiveConfig) -> dict[str, Any]:
    """What the objective reads, by key, with its own value for every key that was left open."""
    resolved = resolve_config(config)
    keys = find_objective(config.name).keys | KEYS_OF_ALL
    return {key.name: getattr(resolved, key.name) for key in fields(resolved) if key.name in keys}


def _refuse_idle_keys(config: ObjectiveConfig, objective: type[Objective]) -> None:
    """A key is refused that the objective reads in none of its forms."""
    for key in fields(config):
        if getattr(config, key.name) != key.default and key.name not in objective.keys | KEYS_OF_ALL:
            readers = [name for name, each in OBJECTIVES.items() if key.name in each.keys]
            raise ValueError(
                f"objective.{key.name}: objective {config.name} does not read it; leave it out, or choose an "
                f"objective.name that does: {', '.join(readers)}"
            )
