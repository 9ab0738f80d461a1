"""What goes wrong in a run is said once, with the key to change; and nothing of a run that goes well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpg_vl.config import Recipe, RolloutConfig
from gpg_vl.recipes import KNOWN_KEYS
from gpg_vl.run.advice import WINDOW, Advice

RECIPE = Recipe(rollout=RolloutConfig(max_new_tokens=100))


def row(**changes: Any) -> dict[str, Any]:
    usual = {
        "reward": 0.5, "finished": 0.9, "completion_tokens": 30.0, "answer_diversity": 0.4,
        "group_shares": {"easy": 0.2, "hard": 0.2, "signal": 0.6}, "status": {"ok": 9, "unparsable": 1},
        "seconds": {"rollout": 9.0, "scoring": 2.0, "step": 20.0},
    }  # fmt: skip
    return {**usual, **changes}


def said(rows: list[dict[str, Any]], earlier: list[dict[str, Any]] | None = None) -> dict[int, list[str]]:
    advice = Advice(RECIPE, earlier or [])
    lines = {number: list(advice.notes(each)) for number, each in enumerate(rows, start=1)}
    return {number: each for number, each in lines.items() if each}


def shares(**of_kind: float) -> dict[str, Any]:
    return {"group_shares": {"easy": 0.0, "hard": 0.0, "signal": 0.0, **of_kind}}


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "cut off": ({"finished": 0.3}, ["70%", "rollout.max_new_tokens", "it is 100"]),
    "easy": (shares(easy=1.0), ["100%", "data.train", "run.stop_when"]),
    "hard": (shares(hard=0.95, easy=0.05), ["95%", "rollout.group_size", "it is 8", "supervised"]),
    "alike": ({"answer_diversity": 0.01}, ["rollout.temperature", "it is 1)"]),
    "slow scoring": ({"seconds": {"rollout": 2.0, "scoring": 3.5}}, ["3.5 s", "2.0 s", "rewards.timeout_s"]),
}


def keys_in(line: str) -> Iterator[str]:
    words = (word.strip("(),;:.").rstrip(":") for word in line.split())
    return (word for word in words if word.partition(".")[0] in RECIPE.to_plain() and "." in word)


@pytest.mark.parametrize("name", WRONG)
def test_each_is_said_once_after_ten_steps(name: str) -> None:
    changes, words = WRONG[name]
    [(step, lines)] = said([row(**changes)] * 40).items()
    assert step == WINDOW and len(lines) == 1
    assert lines[0].startswith("note: ") and all(word in lines[0] for word in words), lines[0]
    keys = list(keys_in(lines[0]))
    assert keys and all(key in KNOWN_KEYS for key in keys), keys


def test_a_run_that_goes_well_is_told_nothing() -> None:
    assert said([row()] * 40) == {}


@pytest.mark.parametrize("name", WRONG)
def test_one_bad_step_is_nothing(name: str) -> None:
    changes, _ = WRONG[name]
    assert said([row(**(changes if step % 4 == 0 else {})) for step in range(40)]) == {}


def test_completions_that_grow_without_a_better_reward() -> None:
    """Twice as long as in the first ten steps, over half of the room; and not where the reward has risen."""
    short, long = [row()] * 20, [row(completion_tokens=80.0)] * 20
    [(step, [line])] = said(short + long).items()
    assert step == 26 and "from 30 to " in line and "objective.overlong_cache" in line
    assert said(short + [{**each, "reward": 0.6} for each in long]) == {}
    assert said([row(completion_tokens=10.0)] * 20 + [row(completion_tokens=40.0)] * 20) == {}, "still short"


def test_what_came_before_a_resume_counts() -> None:
    earlier = [{"step": 5, "eval": {}}, *[row()] * 30]
    assert list(said([row(completion_tokens=80.0)] * 20, earlier)) == [6]
    assert list(said([row(finished=0.0)] * 20, [row(finished=0.0)] * 20)) == [1]


def test_gold_completions_and_unreadable_answers_are_not_alike() -> None:
    gold = row(finished=1.0)
    del gold["group_shares"], gold["answer_diversity"]
    assert said([gold] * 40) == {}, "one completion a group has nothing to differ from"
    unreadable = row(answer_diversity=0.0, status={"ok": 1, "unparsable": 9})
    assert said([unreadable] * 40) == {}


def test_an_earlier_version_s_rows_are_no_trouble() -> None:
    old = [{"step": n, "reward": 0.1, "groups": 4, "finished": 0.0} for n in range(1, 30)]
    assert said([row()] * 20, old) == {}
