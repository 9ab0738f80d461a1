from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gpg_vl.config import RewardsConfig
from gpg_vl.records import Completion, ImageView, Prompt, RolloutGroup, Sample
from gpg_vl.scoring import score_groups
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import Task


class Raising(Task):
    name = "raising"

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return ""

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Any:
        return answer

    def score(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        if answer == "nan":
            return {"correct": float("nan")}
        if answer == "undeclared":
            return {"style": 1.0}
        raise KeyError("no such column")


def group(*texts: str, task: str = "counting", prompt_text: str = "How many?") -> RolloutGroup:
    sample = Sample("s1", task, (), "How many?", "4")
    prompt = Prompt(sample, prompt_text, (1,), (0,), torch.zeros(3, 1), None, None, ())
    return RolloutGroup(prompt, tuple(Completion((1,), text, finished=True) for text in texts))


def test_rewards_in_the_order_of_the_completions() -> None:
    texts = ("<think></think><answer>4</answer>", "<answer>4</answer>", "<think>4</think><answer>5</answer>", "4")
    [scored] = score_groups([group(*texts)], TASKS, RewardsConfig())
    assert [reward.total for reward in scored.rewards] == pytest.approx([1.2, 1.0, 0.2, 0.0])
    assert [reward.status for reward in scored.rewards] == ["ok", "ok", "ok", "unparsable"]


def test_weights_of_the_recipe_go_before_the_tasks() -> None:
    [scored] = score_groups(
        [group("<think></think><answer>4</answer>")], TASKS, RewardsConfig(weights={"format": 0.0, "correct": 2.0})
    )
    assert scored.rewards[0].total == 2.0
    assert scored.rewards[0].parts == {"correct": 1.0, "format": 1.0}


def test_legacy_scorer_of_the_recipe() -> None:
    texts = ("<think>4 items</think><answer>5</answer>", "<think>it is 4</think><answer>5</answer>", "")
    [scored] = score_groups([group(*texts)], TASKS, RewardsConfig(scorer="legacy"))
    assert [reward.total for reward in scored.rewards] == [1.0, 2.0, 0.0]
    assert [reward.status for reward in scored.rewards] == ["ok"] * 3


def test_think_opened_in_the_prompt_counts_for_the_format() -> None:
    [scored] = score_groups([group("</think><answer>4</answer>", prompt_text="Q\nA: <think>")], TASKS, RewardsConfig())
    assert scored.rewards[0].parts == {"correct": 1.0, "format": 1.0}


def test_a_task_that_raises_costs_one_reward_only(caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"<answer>{answer}</answer>" for answer in ("x", "nan", "undeclared")]
    with caplog.at_level(logging.WARNING):
        [scored] = score_groups([group(*texts, task="raising")], {"raising": Raising()}, RewardsConfig())
    assert [(reward.total, reward.status) for reward in scored.rewards] == [(0.0, "error")] * 3
    assert "task raising raised on sample s1: KeyError('no such column')" in caplog.text
