"""Recorded groups -> whether answers are the gold ones, whether the reward goes to such answers, and what is wrong.

The comparison knows neither the task nor its reward, so that it also shows a reward that can be had in another way. An
answer agrees with the gold one if it has the same words, is the same number, or has boxes that overlap with the gold
boxes by half. Where no answer of a run agrees, as in free text, it says nothing.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpg_vl.report.curves import mean_of
from gpg_vl.verifiers.boxes import assigned_iou

LEAST_OVERLAP = 0.5
_ENOUGH_GROUPS = 20
"""An end of a run has more than a tenth of the recorded steps where these have fewer groups, and at most a third."""
EDGE = 0.1
"""Share of the steps at either end of a run that "first" and "last" are about."""
_SOME_OVERLAP = 0.1
_MOST_MISTAKES = 5
_NUMBER = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?")

RecordedGroup = Mapping[str, Any]
"""A row of the record, whose completions say whether they agree."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A kind of wrong answer in the last recorded steps."""

    what: str
    share: float  # of the completions of the task in these steps
    example: int  # place of a group that has one, among those of the run


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the answers to a task, and their rewards, go with the gold answers."""

    task: str
    first: float  # share of the completions of the first recorded steps that agree
    last: float
    reward_first: float  # mean reward of the same completions
    reward_last: float
    num_at_ends: int  # groups of the first or the last recorded steps, whichever has fewer; 0 if these are the same
    gain: float | None  # what agreeing answers earned beyond others of their group; None: no group has both
    gain_low: float | None  # its 95 % interval over groups
    gain_high: float | None
    spread: float | None  # what the best completion earned beyond the worst of its group, in these groups
    num_groups: int  # groups that have both
    mistakes: list[Mistake]


def agrees(completion: Mapping[str, Any], group: RecordedGroup) -> bool:
    answer = completion["answer"]
    if answer is None:
        return False
    return _overlap(completion, group) >= LEAST_OVERLAP if group["boxes"] else _plain(answer) == _plain(group["answer"])


def _overlap(completion: Mapping[str, Any], group: RecordedGroup) -> float:
    return assigned_iou([tuple(box) for box in completion["boxes"]], [tuple(box) for box in group["boxes"]])


def _plain(text: str) -> str | float:
    words = " ".join(text.split()).casefold().removesuffix(".")
    return float(words) if _NUMBER.fullmatch(words) else words


def describe_agreement(groups: Sequence[RecordedGroup]) -> list[Agreement]:
    """For each task of which an answer agrees, by name.

    Args:
        groups: of one run, in the order of their steps
    """
    tasks = sorted({group["task"] for group in groups})
    numbered = {task: [(n, group) for n, group in enumerate(groups) if group["task"] == task] for task in tasks}
    return [_describe(task, members) for task, members in numbered.items() if _share(g for _, g in members)]


def _describe(task: str, members: Sequence[tuple[int, RecordedGroup]]) -> Agreement:
    groups = [group for _, group in members]
    first, last = _ends(Counter(group["step"] for group in groups))
    at_start, at_end = ([(n, group) for n, group in members if group["step"] in steps] for steps in (first, last))
    compared = [group for group in groups if 0 < _share([group]) < 1]
    gains = [_gain(group) for group in compared]
    low, high = _interval(gains)
    return Agreement(
        task, _mean(at_start, "agrees"), _mean(at_end, "agrees"), _mean(at_start, "reward"), _mean(at_end, "reward"),
        0 if first & last else min(len(at_start), len(at_end)),
        mean_of(gains), low, high, mean_of(map(_spread, compared)), len(gains), _mistakes(at_end),
    )  # fmt: skip


def _ends(num_groups: Mapping[int, int]) -> tuple[set[int], set[int]]:
    """The first and the last recorded steps.

    Args:
        num_groups: by step
    """
    steps = sorted(num_groups)
    least, most = max(1, round(len(steps) * EDGE)), max(1, len(steps) // 3)
    return _take(steps, num_groups, least, most), _take(steps[::-1], num_groups, least, most)


def _take(steps: Sequence[int], num_groups: Mapping[int, int], least: int, most: int) -> set[int]:
    taken = list(steps[:least])
    while len(taken) < most and sum(num_groups[step] for step in taken) < _ENOUGH_GROUPS:
        taken.append(steps[len(taken)])
    return set(taken)


def _share(groups: Iterable[RecordedGroup]) -> float:
    found = [each["agrees"] for group in groups for each in group["completions"]]
    return sum(found) / len(found) if found else 0.0


def _mean(members: Sequence[tuple[int, RecordedGroup]], key: str) -> float:
    return mean_of(each[key] for _, group in members for each in group["completions"]) or 0.0


def _gain(group: RecordedGroup) -> float:
    """Within a group, since rewards may rise and fall with the run."""
    right, others = ([c["reward"] for c in group["completions"] if c["agrees"] is wanted] for wanted in (True, False))
    return statistics.fmean(right) - statistics.fmean(others)


def _spread(group: RecordedGroup) -> float:
    rewards = [each["reward"] for each in group["completions"]]
    return float(max(rewards) - min(rewards))


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    from scipy.stats import t as student

    if len(values) < 2:
        return None, None
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _mistakes(members: Sequence[tuple[int, RecordedGroup]]) -> list[Mistake]:
    """The most frequent kinds, each with the group that has most of it, of several the last."""
    kinds: Counter[str] = Counter()
    examples: dict[str, tuple[int, int]] = {}  # how many a group has, and its place
    for number, group in members:
        wrong = (completion for completion in group["completions"] if not completion["agrees"])
        for kind, count in Counter(_kind_of_mistake(completion, group) for completion in wrong).items():
            kinds[kind] += count
            examples[kind] = max(examples.get(kind, (0, 0)), (count, number))
    total = sum(len(group["completions"]) for _, group in members)
    return [Mistake(what, count / total, examples[what][1]) for what, count in kinds.most_common(_MOST_MISTAKES)]


def _kind_of_mistake(completion: Mapping[str, Any], group: RecordedGroup) -> str:
    if completion["answer"] is None:
        return "no answer that can be found" if completion["finished"] else "cut off before an answer"
    if not group["boxes"]:
        return f"{_brief(completion['answer'])} instead of {_brief(group['answer'])}"
    if not completion["boxes"]:
        return "no boxes"
    overlap = _overlap(completion, group)
    least, most = (
        ("0", f"{_SOME_OVERLAP:g}") if overlap < _SOME_OVERLAP else (f"{_SOME_OVERLAP:g}", f"{LEAST_OVERLAP:g}")
    )
    return f"boxes that overlap with the gold ones by {least} to {most} (IoU)"


def _brief(text: str) -> str:
    words = " ".join(text[:200].split())
    return words if len(words) <= 40 else f"{words[:37]}..."
