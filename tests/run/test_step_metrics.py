"""The numbers of a step, and its line on the screen."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gpg_vl.records import Completion, GroupKind, LoggedGroup, Reward
from gpg_vl.run.step_metrics import step_line, summarise_groups, summarise_rewards


def metrics(**changes: Any) -> dict[str, Any]:
    usual = {
        "step": 12, "reward": 0.5125, "finished": 0.875, "completion_tokens": 132.6, "trained_groups": 12, "groups": 16,
        "draws": 1, "update": {"loss": -0.3, "grad_norm": 0.4}, "seconds": {"step": 35.2},
    }  # fmt: skip
    return {**usual, **changes}


def test_the_line_of_a_step() -> None:
    line = step_line(metrics(), 500, 4.2 * 3600)
    assert line == "step 12/500 reward 0.512 cut 12% length 133 signal 12/16 draws 1 35s ETA 4h"
    line = step_line(metrics(groups=4, trained_groups=2, seconds={"step": 0.35}), 9, None)
    assert line == "step 12/9  reward 0.512  cut 12%  length 133  signal 2/4  draws 1  0.3s"
    assert "loss" not in line and "grad" not in line


@pytest.mark.parametrize("seconds", [0.04, 9.96, 59.6, 1234.5, 36000.0])
@pytest.mark.parametrize("total", [9, 500, 10_000, 100_000])
@pytest.mark.parametrize("reward", [0.0, 1.2, -0.512, 12.345])
@pytest.mark.parametrize("left", [None, 5.0, 100.0, 3600.0, 400_000.0])
def test_every_line_fits(seconds: float, total: int, reward: float, left: float | None) -> None:
    for groups, draws, length, finished in ((4, 1, 4.0, 1.0), (512, 20, 32768.0, 0.0)):
        line = step_line(
            metrics(step=total, reward=reward, seconds={"step": seconds}, groups=groups, trained_groups=groups,
                    draws=draws, completion_tokens=length, finished=finished),
            total, left,
        )  # fmt: skip
        assert len(line) <= 80, line
        numbers = [f"step {total}/{total}", f"{reward:.3f}", f"{length:.0f}", f"{groups}/{groups}", str(draws)]
        assert all(number in line for number in numbers), line


def test_a_step_on_an_earlier_rollout() -> None:
    again = {"step": 13, "rollout": {"step": 12, "update": 2, "updates": 4}, "update": None, "seconds": {"step": 3.0}}
    line = step_line(again, 500, 60.0)
    assert re.fullmatch(r"step 13/500  .*2/4.*12.*  3.0s  ETA 60s", line)


def group(task: str, *rewards: Reward, kind: GroupKind = "signal", num_answers: int = 1) -> LoggedGroup:
    completions = (Completion((1,), "", finished=True),) * len(rewards)
    return LoggedGroup("s1", task, "4", "How many?", completions, rewards, kind == "signal", kind, num_answers)


FAILED = Reward(0.0, {}, "error", "RuntimeError: boom")


def test_parts_are_means_over_all_completions_of_their_task() -> None:
    right = Reward(1.2, {"correct": 1.0, "close": 0.5, "f": 3.0}, "ok")
    not_for_it = Reward(0.0, {"correct": 0.0, "close": 0.5}, "ok")  # the function f returned None
    unparsable = Reward(0.0, {"correct": 0.0, "close": 0.0, "f": 1.0}, "unparsable")
    found = summarise_rewards(
        [group("a", right, not_for_it, unparsable, FAILED), group("b", Reward(0.4, {"iou": 0.4}, "ok"), FAILED)]
    )
    assert found["parts"] == pytest.approx({"correct": 1 / 4, "close": 1 / 4, "f": 4 / 3, "iou": 0.2})
    assert found["reward"] == pytest.approx(1.6 / 6)


def test_where_all_failed_there_is_no_part() -> None:
    assert summarise_rewards([group("a", FAILED, FAILED)])["parts"] == {}
    assert summarise_rewards([]) == {}


def test_shares_of_groups_and_how_far_their_answers_differ() -> None:
    right = Reward(1.0, {"correct": 1.0}, "ok")
    groups = [
        group("a", *[right] * 5, kind="easy", num_answers=1),
        group("a", *[right] * 5, kind="signal", num_answers=5),
        group("a", *[right] * 3, kind="signal", num_answers=2),
        group("a", *[right] * 3, kind="hard", num_answers=3),
    ]
    found = summarise_groups(groups)
    assert found["group_shares"] == {"easy": 0.25, "hard": 0.25, "signal": 0.5}
    assert found["answer_diversity"] == pytest.approx((0 + 1 + 0.5 + 1) / 4)
    assert summarise_groups([group("a", right)]) == summarise_groups([]) == {}, "one has nothing to differ from"
