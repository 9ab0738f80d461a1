"""What the page says of each task: learnt, not learnt, or earned in another way."""

from __future__ import annotations

from typing import Any

import pytest

from gpg_vl.report.run_data import RunData
from gpg_vl.report.verdicts import make_verdicts


def verdict(reward: tuple[float, float], agreed: tuple[float, float], **changes: Any) -> str:
    agreement = {
        "task": "counting", "first": agreed[0], "last": agreed[1],
        "reward_first": reward[0], "reward_last": reward[1], "gain": 0.9, "gain_low": 0.8, "gain_high": 1.0,
        "spread": 1.0, "num_groups": 50, "num_at_ends": 30, "mistakes": [], **changes,
    }  # fmt: skip
    [line] = make_verdicts(RunData("run", "gpg", 10, [], [], [], [], [], "", [agreement]))
    return line


BLIND = {"gain": 0.01, "gain_low": -0.02, "gain_high": 0.04}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (verdict((0.2, 0.9), (0.1, 0.8)), ["reward 0.20 to 0.90", "10% to 80%", "learnt", "not gamed"]),
        (verdict((0.2, 0.3), (0.15, 0.29)), ["become better", "not gamed"]),
        (verdict((0.2, 0.9), (0.3, 0.3)), ["without them", "may be gamed"]),
        (verdict((0.5, 0.1), (0.5, 0.0)), ["worse", "not gamed"]),
        (verdict((0.5, 0.5), (0.5, 0.5)), ["Little has changed"]),
        (verdict((0.5, 0.5), (0.2, 0.5)), ["better", "did not rise"]),
        (verdict((0.5, 0.0), (0.5, 0.0), **BLIND), ["does not follow", "+0.01 [-0.02, +0.04]", "not gamed"]),
        (verdict((0.2, 0.9), (0.3, 0.3), **BLIND), ["does not follow", "not the task", "may be gamed"]),
    ],
)
def test_a_line_says_what_has_become_of_a_task(line: str, words: list[str]) -> None:
    assert line.startswith("counting: ") and all(word in line for word in words), line


def test_a_little_more_is_not_enough() -> None:
    """Chance alone: one interval in forty is above zero."""
    assert "does not follow" in verdict((0.5, 0.0), (0.5, 0.0), gain=0.1, gain_low=0.02, gain_high=0.18)
    assert "does not follow" not in verdict((0.1, 0.2), (0.1, 0.2), gain=0.1, gain_low=0.02, gain_high=0.18, spread=0.2)


def test_a_reward_is_not_judged_by_a_few_groups() -> None:
    assert "does not follow" not in verdict((0.2, 0.9), (0.1, 0.8), **BLIND, num_groups=19)


def test_nothing_is_judged_by_a_step_or_two() -> None:
    """Where one step is recorded, the answers cannot have changed."""
    assert "Too few" in verdict((0.2, 0.9), (0.3, 0.3), num_at_ends=0)
    assert "Too few" in verdict((0.2, 0.9), (0.3, 0.3), num_at_ends=9)
    assert "learnt the task" in verdict((0.2, 0.9), (0.3, 0.9), num_at_ends=9)


def test_a_task_without_comparable_answers_has_none() -> None:
    assert make_verdicts(RunData("run", "gpg", 10, [], [], [], [], [], "")) == []


def test_shares_are_rounded_as_in_the_tables_of_the_page() -> None:
    """There 0.125 of the answers are 13 %."""
    assert "13% to 63%" in verdict((0.2, 0.9), (0.125, 0.625))
