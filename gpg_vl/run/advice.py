"""Metrics of the last steps -> what goes wrong in the run, in a line with the recipe's key to change, each once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gpg_vl.config import Recipe

WINDOW = 10
"""Steps that a line is about."""
_MOST = 0.5
_NEARLY_ALL = 0.9
_LITTLE = 0.05
_GROWTH = 2.0
_BETTER = 0.02
_SLOW_SCORING = 1.0  # seconds a step

LogLine = Mapping[str, Any]
LogLines = Sequence[LogLine]


class Advice:
    """Sees the metrics of every step."""

    def __init__(self, recipe: Recipe, earlier: LogLines = ()):
        """
        Args:
            earlier: what an earlier process logged of the run
        """
        sampled = [line for line in earlier if _compares(line)]
        self._recipe = recipe
        self._first = sampled[:WINDOW]
        self._last = deque(sampled[-WINDOW:], WINDOW)
        self._said: set[_Adviser] = set()

    def notes(self, line: LogLine) -> Iterator[str]:
        """Lines that the last ``WINDOW`` steps give reason for, and that were not said before."""
        if not _compares(line):
            return
        if len(self._first) < WINDOW:
            self._first.append(line)
        self._last.append(line)
        if len(self._last) == WINDOW:
            for advice in _ADVICE:
                if advice not in self._said and (text := advice(self._recipe, self._first, list(self._last))):
                    self._said.add(advice)
                    yield f"note: {text}"


def _compares(line: LogLine) -> bool:
    """Whether the step sampled several completions for a prompt."""
    return "group_shares" in line


_Adviser = Callable[[Recipe, LogLines, LogLines], str | None]


def _mean(lines: LogLines, *path: str) -> float:
    values = [_find(line, path) for line in lines]
    return sum(values) / len(values)


def _find(line: Any, path: Sequence[str]) -> float:
    for name in path:
        line = line.get(name, 0.0)
    return float(line)


def _cut_off(recipe: Recipe, first: LogLines, last: LogLines) -> str | None:
    share = 1 - _mean(last, "finished")
    if share <= _MOST:
        return None
    return (
        f"{share:.0%} of the completions of the last {WINDOW} steps were cut off; raise rollout.max_new_tokens (it is "
        f"{recipe.rollout.max_new_tokens}), or ask for short answers (prompt.template)"
    )


def _easy(recipe: Recipe, first: LogLines, last: LogLines) -> str | None:
    share = _mean(last, "group_shares", "easy")
    if share <= _NEARLY_ALL:
        return None
    return (
        f"{share:.0%} of the groups of the last {WINDOW} steps were solved by all their completions and teach nothing; "
        "take harder rows (data.train), or let a task that is learnt leave the run (run.stop_when)"
    )


def _hard(recipe: Recipe, first: LogLines, last: LogLines) -> str | None:
    share = _mean(last, "group_shares", "hard")
    if share <= _NEARLY_ALL:
        return None
    return (
        f"{share:.0%} of the groups of the last {WINDOW} steps were failed by all of their completions; "
        f"take easier rows (data.train), raise rollout.group_size (it is {recipe.rollout.group_size}), or begin with a "
        "model that was trained on gold completions (objective.name: supervised)"
    )


def _alike(recipe: Recipe, first: LogLines, last: LogLines) -> str | None:
    is_told = _easy(recipe, first, last) is not None
    if is_told or _mean(last, "answer_diversity") > _LITTLE or _unreadable(last) > _MOST:
        return None
    return (
        f"the answers to one prompt were nearly all the same in the last {WINDOW} steps; raise rollout.temperature (it "
        f"is {recipe.rollout.temperature:g}), or lower update.learning_rate and begin from an earlier checkpoint"
    )


def _unreadable(lines: LogLines) -> float:
    counts = [line.get("status", {}) for line in lines]
    return sum(each.get("unparsable", 0) for each in counts) / max(1, sum(sum(each.values()) for each in counts))


def _growing(recipe: Recipe, first: LogLines, last: LogLines) -> str | None:
    before, now = (_mean(lines, "completion_tokens") for lines in (first, last))
    is_better = _mean(last, "reward") > _mean(first, "reward") + _BETTER
    if is_better or now < _GROWTH * before or now < recipe.rollout.max_new_tokens * _MOST:
        return None
    return (
        f"completions have grown from {before:.0f} to {now:.0f} tokens without a better reward; reward short ones "
        "(objective.name: dapo with objective.overlong_cache, or a function of your own in rewards.functions), or "
        "lower rollout.max_new_tokens"
    )


def _slow_scoring(recipe: Recipe, first: LogLines, last: LogLines) -> str | None:
    scoring, rollout = (_mean(last, "seconds", name) for name in ("scoring", "rollout"))
    if scoring <= rollout or scoring < _SLOW_SCORING:
        return None
    return (
        f"scoring takes {scoring:.1f} s a step, and sampling {rollout:.1f} s; make the task's score or the functions "
        f"of rewards.functions faster, or lower rewards.timeout_s (it is {recipe.rewards.timeout_s:g})"
    )


_ADVICE: tuple[_Adviser, ...] = (_cut_off, _easy, _hard, _alike, _growing, _slow_scoring)
