"""Rewards in place of the tasks' own: a random model answers nothing right and would have nothing to learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpg_vl.records import Reward, RolloutGroup, Sample, ScoredGroup
from gpg_vl.rewards.scorer import Scorer


def score_by(monkeypatch: pytest.MonkeyPatch, score: Callable[[Sample, str], float]) -> None:
    """Every completion of a run earns ``score(sample, text)``, whatever its task says."""

    def score_group(group: RolloutGroup) -> ScoredGroup:
        values = [score(group.prompt.sample, completion.text) for completion in group.completions]
        rewards = tuple(Reward(value, {"correct": 0.0, "format": 0.0}, "ok") for value in values)
        return ScoredGroup(group.prompt, group.completions, rewards)

    monkeypatch.setattr(Scorer, "begin", lambda scorer, group: None)
    monkeypatch.setattr(Scorer, "score", lambda scorer, groups, *_: [score_group(group) for group in groups])


def noise(text: str) -> float:
    return sum(map(ord, text)) % 97 / 97
