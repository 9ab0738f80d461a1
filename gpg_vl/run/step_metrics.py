"""The numbers that a step writes to ``metrics.jsonl``, from the groups of all ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from gpg_vl.records import GroupKind, LoggedGroup, LoggedStep, UpdateStats
from gpg_vl.update.rollouts import Rollout


def describe_step(
    logged: LoggedStep | None, stats: UpdateStats | None, grad_norm: float | None, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The metrics of a step, from the groups of all ranks; None where it uses those of an earlier step again.

    docs/metrics.md says what each of them means.
    """
    norm = grad_norm if grad_norm is not None and math.isfinite(grad_norm) else None  # JSON has no infinity
    update = None if stats is None else {**asdict(stats), "grad_norm": norm}
    if logged is None:
        return {"update": update, "seconds": dict(seconds)}
    totals = logged.totals
    return {
        **summarise_rewards(logged.groups),
        **summarise_groups(logged.groups),
        "status": count_statuses([*logged.groups, *logged.dropped]),
        "dropped_groups": len(logged.dropped),
        "alpha": totals.alpha,
        "groups": totals.groups,
        "trained_groups": totals.trained_groups,
        "draws": logged.num_draws,
        "staleness": logged.staleness,
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


LINE_WIDTH = 80


def step_line(metrics: Mapping[str, Any], total_steps: int, left: float | None = None) -> str:
    """The line printed for a step: at most 80 characters, and 2 spaces between its parts where there is room.

    The loss is not in it: it is no measure of progress in policy gradients (``metrics.jsonl`` has it).

    Args:
        left: seconds to the end of the run; None: not known yet
    """
    at = f"step {metrics['step']}/{total_steps}"
    seconds = brief_seconds(metrics["seconds"]["step"])
    last = [] if left is None else [f"ETA {brief_seconds(left)}"]
    if "groups" not in metrics:
        used = "update {update}/{updates} of step {step}'s rollout".format(**metrics["rollout"])
        return "  ".join([at, used, seconds, *last])
    reward, cut = f"reward {metrics.get('reward', math.nan):.3f}", f"cut {1 - metrics.get('finished', 1.0):.0%}"
    length, signal = f"{metrics.get('completion_tokens', 0.0):.0f}", f"{metrics['trained_groups']}/{metrics['groups']}"
    parts = [at, reward, cut, f"length {length}", f"signal {signal}", f"draws {metrics['draws']}", seconds, *last]
    for text in ("  ".join(parts), " ".join(parts)):
        if len(text) <= LINE_WIDTH:
            return text
    brief = [at, reward, cut, f"len {length}", f"sig {signal}", f"x{metrics['draws']}", seconds]
    return " ".join([*brief, *(word.removeprefix("ETA ") for word in last)])


def brief_seconds(seconds: float) -> str:
    """``0.3s``, ``35s``, ``12min`` or ``4h``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 600:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}min" if seconds < 5400 else f"{seconds / 3600:.0f}h"


def summarise_rewards(groups: Sequence[LoggedGroup]) -> dict[str, Any]:
    """Mean reward overall and by task, means of the parts, lengths; empty if there is no group.

    A part's mean is over all completions of the tasks that have it, and one that could not be scored counts 0. Left out
    are completions that a reward function says it does not apply to.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    completions = [completion for group in groups for completion in group.completions]
    if not rewards:
        return {}
    by_task: dict[str, list[float]] = {}
    logged: dict[str, list[float]] = {}
    for group in groups:
        for name, value in group.metrics.items():
            logged.setdefault(name, []).append(value)
        for reward in group.rewards:
            by_task.setdefault(group.task, []).append(reward.total)
    return {
        "reward": mean([reward.total for reward in rewards]),
        "reward_by_task": {task: mean(values) for task, values in sorted(by_task.items())},
        "parts": {name: mean(values) for name, values in sorted(_values_of_parts(groups).items())},
        **({"logged": {name: mean(values) for name, values in sorted(logged.items())}} if logged else {}),
        "completion_tokens": mean([len(completion.token_ids) for completion in completions]),
        "longest_completion": max(len(completion.token_ids) for completion in completions),
        "finished": mean([float(completion.finished) for completion in completions]),
    }


def summarise_groups(groups: Sequence[LoggedGroup]) -> dict[str, Any]:
    """The share of each kind of group, and how far the answers to a prompt differ; of groups of several completions."""
    compared = [group for group in groups if len(group.rewards) > 1]
    if not compared:
        return {}
    kinds = Counter(group.kind for group in compared)
    return {
        "group_shares": {kind: kinds[kind] / len(compared) for kind in get_args(GroupKind)},
        "answer_diversity": mean([(each.num_answers - 1) / (len(each.rewards) - 1) for each in compared]),
    }


def _values_of_parts(groups: Sequence[LoggedGroup]) -> dict[str, list[float]]:
    names: dict[str, set[str]] = {}
    for group in groups:
        names.setdefault(group.task, set()).update(*(reward.parts for reward in group.rewards))
    values: dict[str, list[float]] = {}
    for task, reward in ((group.task, reward) for group in groups for reward in group.rewards):
        parts = dict.fromkeys(names[task], 0.0) if reward.has_failed else reward.parts
        for name, value in parts.items():
            values.setdefault(name, []).append(value)
    return values


def count_statuses(groups: Sequence[LoggedGroup]) -> dict[str, int]:
    return dict(Counter(reward.status for group in groups for reward in group.rewards))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
