"""Answers beside the gold ones, without the task and without its reward."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gpg_vl.report.agreement import Agreement, agrees, describe_agreement


def group(
    answers: list[str | None], rewards: list[float], gold: str = "4", step: int = 1, task: str = "counting"
) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "task": task, "answer": gold, "boxes": []}
    completions = [
        {"answer": answer, "boxes": [], "reward": reward, "finished": True}
        for answer, reward in zip(answers, rewards, strict=True)
    ]
    return {**row, "completions": [{**each, "agrees": agrees(each, row)} for each in completions]}


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("4", "4", True), ("4.0", "4", True), (" Red  Car.", "red car", True), ("04", "4", True), ("5", "4", False),
        ("4 or 5", "4", False), (None, "4", False), ("nan", "4", False), ("1_0", "10", False), ("9" * 500, "4", False),
    ],
)  # fmt: skip
def test_words_and_numbers(answer: str | None, gold: str, expected: bool) -> None:
    assert agrees({"answer": answer, "boxes": []}, {"answer": gold, "boxes": []}) is expected


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[0, 0, 10, 10]], True),
        ([[0, 0, 10, 5.1]], True),
        ([[0, 0, 10, 4.9]], False),
        ([[0, 0, 10, 10], [20, 20, 30, 30]], True),
        ([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], False),
        ([], False),
    ],
)
def test_boxes_overlap_by_half(boxes: list[list[float]], expected: bool) -> None:
    assert agrees({"answer": "boxes", "boxes": boxes}, {"answer": "gold", "boxes": [[0, 0, 10, 10]]}) is expected


def test_what_has_become_of_a_task() -> None:
    """Of ten recorded steps with a group each, the ends are the first and the last three."""
    groups = [group(["4", "5", "5", None], [1, 0, 0, 0], step=step) for step in range(1, 10)]
    groups.append(group(["4", "4", "4", "5"], [1, 1, 1, 0], step=10))
    [found] = describe_agreement([group(["x"], [1.0], gold="y", task="free"), *groups])
    assert (found.task, found.first, found.last, found.num_at_ends) == ("counting", 0.25, pytest.approx(5 / 12), 3)
    assert (found.reward_first, found.reward_last) == (found.first, found.last), "right answers alone earned one"
    assert (found.gain, found.gain_low, found.gain_high, found.spread, found.num_groups) == (1.0, 1.0, 1.0, 1.0, 10)
    assert [(each.what, each.share, each.example) for each in found.mistakes] == [
        ("5 instead of 4", pytest.approx(5 / 12), 9), ("no answer that can be found", pytest.approx(2 / 12), 9),
    ]  # fmt: skip


def test_the_ends_of_a_run() -> None:
    """A tenth of the steps; where these have fewer than 20 groups more, and at most a third."""

    def ends(num_steps: int, groups_a_step: int) -> tuple[float, float, int]:
        steps = range(1, num_steps + 1)
        groups = [
            group(["4" if step <= max(1, num_steps / 2) else "5"], [1], step=step)
            for step in steps
            for _ in range(groups_a_step)
        ]
        [found] = describe_agreement(groups)
        return found.first, found.last, found.num_at_ends

    assert ends(100, 5) == (1, 0, 50) and ends(30, 5) == (1, 0, 20) and ends(9, 1) == (1, 0, 3)
    assert ends(2, 1) == (1, 0, 1) and ends(1, 40)[2] == 0, "one step has no ends"


def shuffled(num_groups: int, is_shuffled: bool) -> Agreement:
    """Groups whose right answers become fewer, and earn their reward or another's of the same step."""
    rng = random.Random(0)
    groups = []
    for step in range(1, num_groups + 1):
        answers = [rng.choice(["4", "5"] if step < num_groups / 2 else ["4", "5", "6", "7"]) for _ in range(8)]
        rewards = [float(answer == "4") for answer in answers]
        if is_shuffled:
            rng.shuffle(rewards)
        groups.append(group(list(answers), rewards, step=step))
    [found] = describe_agreement(groups)
    return found


def test_shuffled_rewards_do_not_go_to_right_answers() -> None:
    """Although both fall in the course of the run."""
    found = shuffled(200, is_shuffled=True)
    assert found.gain_low is not None and found.gain_high is not None
    assert found.gain_low < 0 < found.gain_high and found.last < found.first
    true = shuffled(200, is_shuffled=False)
    assert true.gain == true.gain_low == 1.0


def test_kinds_of_mistakes() -> None:
    cut = group(["4", None, None], [1, 0, 0])
    cut["completions"][1]["finished"] = False
    [found] = describe_agreement([cut])
    assert [each.what for each in found.mistakes] == ["cut off before an answer", "no answer that can be found"]
    row = {"step": 1, "task": "grounding", "answer": "[0, 0, 10, 10]", "boxes": [[0, 0, 10, 10]]}
    answered = [[[0, 0, 10, 10]], [[0, 0, 10, 3]], [[20, 20, 30, 30]], []]
    completions = [{"answer": "b", "boxes": boxes, "reward": 0.0, "finished": True} for boxes in answered]
    [found] = describe_agreement([{**row, "completions": [{**c, "agrees": agrees(c, row)} for c in completions]}])
    assert sorted(each.what for each in found.mistakes) == [
        "boxes that overlap with the gold ones by 0 to 0.1 (IoU)",
        "boxes that overlap with the gold ones by 0.1 to 0.5 (IoU)",
        "no boxes",
    ]
    long = group(["4", "x" * 5000], [1, 0])
    assert all(len(each.what) < 100 for found in describe_agreement([long]) for each in found.mistakes)
