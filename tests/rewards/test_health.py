from __future__ import annotations

from gpg_vl.records import Completion, LoggedGroup, Reward
from gpg_vl.rewards.health import RewardWatch, describe_failures


def group(*rewards: Reward) -> LoggedGroup:
    completions = (Completion((1,), "", finished=True),) * len(rewards)
    return LoggedGroup(
        "s1", "counting", "4", "How many?", completions, rewards, is_trained=True, kind="signal", num_answers=1
    )


def reward(correct: float, form: float = 0.0) -> Reward:
    return Reward(correct, {"correct": correct, "format": form}, "ok")


BOOM = Reward(0.0, {}, "error", "RuntimeError: boom (rew.py:10)")
LATE = Reward(0.0, {}, "timeout", "no answer within 5 s")


def test_failures_of_a_step_in_one_line() -> None:
    groups = [group(reward(1.0), BOOM, LATE), group(BOOM, reward(0.0)), group(reward(0.0))]
    assert describe_failures(groups) == "scoring failed for 3 of 6 completions: RuntimeError: boom (rew.py:10)"
    assert describe_failures(groups[2:]) is None
    assert list(RewardWatch().notes(groups)) == [describe_failures(groups)]


def test_parts_that_are_constant_since_the_start_are_named_once_after_ten_steps() -> None:
    watch = RewardWatch()
    said = {step: list(watch.notes([group(reward(step % 2), BOOM, reward(1.0))])) for step in range(1, 101)}
    constant = {
        step: [line for line in lines if "constant" in line or "has been" in line] for step, lines in said.items()
    }
    assert [step for step, lines in constant.items() if lines] == [10]
    assert len(constant[10]) == 1 and "format has been 0 for all 20 completions of 10 steps" in constant[10][0]
    assert "rewards.weights.format: 0" in constant[10][0]


def test_a_part_that_comes_later_is_named_after_a_hundred_steps() -> None:
    watch = RewardWatch()
    late = Reward(1.0, {"correct": 1.0, "late": 0.0}, "ok")
    said = {
        step: list(watch.notes([group(reward(step % 2, step % 2), late if step > 10 else reward(0.0))]))
        for step in range(1, 101)
    }
    assert [step for step, lines in said.items() if lines] == [100] and "part late" in said[100][0]


def test_a_part_that_changed_once_is_not_named() -> None:
    watch = RewardWatch()
    lines = [line for step in range(10) for line in watch.notes([group(reward(0.5), reward(0.5, float(step == 3)))])]
    assert len(lines) == 1 and "part correct has been 0.5" in lines[0]


def test_gold_completions_have_nothing_to_differ_from() -> None:
    watch = RewardWatch()
    assert not [line for _ in range(10) for line in watch.notes([group(reward(1.0, 1.0))])]
