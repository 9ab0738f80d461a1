"""The control: training gets the rewards of other completions, a validation the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from gpg_vl.records import RolloutGroup, ScoredGroup
from gpg_vl.rewards.scorer import Scorer
from scripts.controls import shuffled_rewards
from tests.support.recorded_runs import scored_group


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[ScoredGroup]:
    """Of which half of the completions is right; scoring gives them back as they are."""
    scored = [scored_group(["4"] * 4 + ["5"] * 4, [1.0] * 4 + [0.0] * 4, f"s{n}") for n in range(6)]

    def score(scorer: Scorer, groups: Sequence[RolloutGroup], rule: str | None = None) -> list[ScoredGroup]:
        return scored

    monkeypatch.setattr(shuffled_rewards, "score", score)
    return scored


def totals(groups: Sequence[ScoredGroup]) -> list[float]:
    return [reward.total for group in groups for reward in group.rewards]


def test_training_gets_them_dealt_out(groups: list[ScoredGroup]) -> None:
    dealt = shuffled_rewards.score_and_shuffle(cast(Any, None), cast(Any, groups))
    assert [group.completions for group in dealt] == [group.completions for group in groups]
    assert sorted(totals(dealt)) == sorted(totals(groups)) and totals(dealt) != totals(groups)
    right = [reward.total for group in dealt for reward in group.rewards[:4]]
    assert 0.25 < sum(right) / len(right) < 0.75, "right answers earn no more than others"


def test_a_validation_gets_the_true_ones(groups: list[ScoredGroup]) -> None:
    assert shuffled_rewards.score_and_shuffle(cast(Any, None), cast(Any, groups), "strict") == groups
