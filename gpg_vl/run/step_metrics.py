"""The numbers that a step writes to ``metrics.jsonl``, from the groups of all ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gpg_vl.records import LoggedGroup, LoggedStep, UpdateStats
from gpg_vl.update.rollouts import Rollout


def describe_step(
    logged: LoggedStep | None, stats: UpdateStats | None, grad_norm: float | None, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The metrics of a step, from the groups of all ranks; None where it uses those of an earlier step again."""
    norm = grad_norm if grad_norm is not None and math.isfinite(grad_norm) else None  # JSON has no infinity
    update = None if stats is None else {**asdict(stats), "grad_norm": norm}
    if logged is None:
        return {"update": update, "seconds": dict(seconds)}
    totals = logged.totals
    return {
        **summarise_rewards(logged.groups),
        "status": count_statuses([*logged.groups, *logged.dropped]),
        "dropped_groups": len(logged.dropped),
        "alpha": totals.alpha,
        "groups": totals.groups,
        "trained_groups": totals.trained_groups,
        "draws": logged.num_draws,
        "update": update,
        "seconds": {"rollout": logged.rollout_seconds, "scoring": logged.scoring_seconds, **seconds},
    }


def describe_use(rollout: Rollout, shift: float | None, saved_rollouts: int, is_refreshed: bool) -> dict[str, Any]:
    """Which update of its rollout a step has made; nothing where each rollout has one update.

    Args:
        shift: by which ``rollout.refresh`` has decided on this step, if it had to
        saved_rollouts: in the run so far
        is_refreshed: whether the recipe has a ``rollout.refresh``
    """
    if rollout.num_updates == 1 and not is_refreshed:
        return {}
    use = {"step": rollout.step, "update": rollout.num_done, "updates": rollout.num_updates}
    if not is_refreshed:
        return {"rollout": use}
    decided = {} if shift is None else {"shift": shift}
    return {"rollout": use | decided | {"uses": rollout.num_uses, "saved": saved_rollouts}}


def step_line(metrics: Mapping[str, Any]) -> str:
    """The line printed for a step."""
    update = metrics["update"]
    if update is None:
        followed = "no signal: no update"
    elif update["grad_norm"] is None:
        followed = f"loss {update['loss']:+.4f}  gradient not finite: no update"
    else:
        followed = f"loss {update['loss']:+.4f}  grad {update['grad_norm']:.3f}"
    if "groups" in metrics:
        used = f"reward {metrics.get('reward', math.nan):.3f}  signal {metrics['trained_groups']}/{metrics['groups']}"
    else:
        used = "rollout of step {step}, update {update}/{updates}".format(**metrics["rollout"])
    return f"{used}  {followed}  {metrics['seconds']['step']:.1f} s"


def summarise_rewards(groups: Sequence[LoggedGroup]) -> dict[str, Any]:
    """Mean reward overall and by task, means of the parts, lengths; empty if there is no group."""
    rewards = [reward for group in groups for reward in group.rewards]
    completions = [completion for group in groups for completion in group.completions]
    if not rewards:
        return {}
    by_task: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {}
    logged: dict[str, list[float]] = {}
    for group in groups:
        for name, value in group.metrics.items():
            logged.setdefault(name, []).append(value)
        for reward in group.rewards:
            by_task.setdefault(group.task, []).append(reward.total)
            for name, value in reward.parts.items():
                parts.setdefault(name, []).append(value)
    return {
        "reward": _mean([reward.total for reward in rewards]),
        "reward_by_task": {task: _mean(values) for task, values in sorted(by_task.items())},
        "parts": {name: _mean(values) for name, values in sorted(parts.items())},
        **({"logged": {name: _mean(values) for name, values in sorted(logged.items())}} if logged else {}),
        "completion_tokens": _mean([len(completion.token_ids) for completion in completions]),
        "finished": _mean([float(completion.finished) for completion in completions]),
    }


def count_statuses(groups: Sequence[LoggedGroup]) -> dict[str, int]:
    return dict(Counter(reward.status for group in groups for reward in group.rewards))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
