from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gpg_vl.config import RewardsConfig
from gpg_vl.records import Reward, RolloutGroup
from gpg_vl.rewards.scorer import RewardError, Scorer
from tests.support.hostile_groups import FILE, group, hostile
from tests.support.messages import lines_naming, naming

RIGHT = "<think></think><answer>4</answer>"


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(RewardsConfig()) as scorer:
        yield scorer


def score_once(config: RewardsConfig, scored_group: RolloutGroup) -> tuple[Reward, ...]:
    with Scorer(config) as scorer:
        return scorer.score([scored_group])[0].rewards


def test_rewards_in_the_order_of_the_completions(scorer: Scorer) -> None:
    texts = (RIGHT, "<answer>4</answer>", "<think>4</think><answer>5</answer>", "4")
    [scored, other] = scorer.score([group(*texts), group(RIGHT)])
    assert [reward.total for reward in scored.rewards] == pytest.approx([1.2, 1.0, 0.2, 0.0])
    assert [reward.status for reward in scored.rewards] == ["ok", "ok", "ok", "unparsable"]
    assert [reward.total for reward in other.rewards] == [1.2]
    assert scorer.score([]) == []


def test_weights_of_the_recipe_go_before_the_tasks() -> None:
    [reward] = score_once(RewardsConfig(weights={"format": 0.0, "correct": 2.0}), group(RIGHT))
    assert reward == Reward(2.0, {"correct": 1.0, "format": 1.0}, "ok")


def test_think_opened_in_the_prompt_counts_for_the_format(scorer: Scorer) -> None:
    [scored] = scorer.score([group("</think><answer>4</answer>", prompt_text="Q\nA: <think>")])
    assert scored.rewards[0].parts == {"correct": 1.0, "format": 1.0}


def test_legacy_scorer_of_the_recipe() -> None:
    texts = ("<think>4 items</think><answer>5</answer>", "<think>it is 4</think><answer>5</answer>", "")
    with Scorer(RewardsConfig(scorer="legacy")) as legacy:
        [scored] = legacy.score([group(*texts)])
    assert [reward.total for reward in scored.rewards] == [1.0, 2.0, 0.0]
    assert [reward.status for reward in scored.rewards] == ["ok"] * 3


def test_failures_cost_their_own_reward_only(scorer: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scored, other = scorer.score([hostile("right", "raise", "nan", "undeclared"), hostile("right")])
    assert [(r.total, r.status, r.parts) for r in scored.rewards[1:]] == [(0.0, "error", {})] * 3
    assert scored.rewards[0].total == other.rewards[0].total == 1.2
    assert scored.has_failure and not other.has_failure
    assert "3 times scoring failed; first: task" in caplog.text
    assert "Hostile on sample s1: error: KeyError: 'no such column'" in caplog.text


def test_timeout_is_counted_as_such() -> None:
    rewards = score_once(RewardsConfig(timeout_s=0.2), hostile("busy", "right"))
    assert [(reward.total, reward.status) for reward in rewards] == [(0.0, "timeout"), (1.2, "ok")]


def test_abort_names_the_sample_and_does_not_wait_for_the_rest() -> None:
    with Scorer(RewardsConfig(timeout_s=60, on_error="abort")) as scorer:
        assert scorer.score([hostile("right")])[0].rewards[0].status == "ok"
        start = time.monotonic()
        with pytest.raises(RewardError, match=naming("rewards.on_error", "abort", "Hostile", "s2", "KeyError")):
            scorer.score([hostile("sleep"), hostile("raise", sample_id="s2"), hostile("sleep")])
        assert time.monotonic() - start < 10


def test_published_metric_that_hangs_or_fails_has_no_value(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpg_vl.rewards.scorer.PUBLISHED_TIMEOUT_S", 0.5)
    texts = ("right", "busy", "raise", "nan", "exit", "wrong", "right")
    with Scorer(RewardsConfig(timeout_s=0.3, on_error="abort")) as scorer:
        [scored] = scorer.score([group(*texts, task=f"{FILE}:HostileMetric")])
        assert scorer.measure_published([scored]) == [[1.0, None, None, None, None, 0.0, 1.0]]
    assert "4 times the published metric failed and counts 0; first: timeout: no answer within 0.5 s" in caplog.text


def test_published_metric_does_not_depend_on_the_limit_of_the_recipe() -> None:
    """A text that math-verify reads in half a second, under a tenth of that: the reward is lost, the metric is not."""
    text = "\\[a" * 1800 + " so it is 4"
    with Scorer(RewardsConfig(timeout_s=0.05, scorer="legacy")) as scorer:
        [scored] = scorer.score([group(text, task="geometry")])
        assert scored.rewards[0].status == "timeout"
        assert scorer.measure_published([scored]) == [[1.0]]


# --- reward functions as TRL calls them ---


def test_callable_objects_are_reward_functions() -> None:
    [reward] = score_once(with_functions("half", "quarter"), group(RIGHT))
    assert reward.parts == {"correct": 1.0, "format": 1.0, "half": 0.5, "quarter": 0.25}


def test_a_call_has_one_limit_whatever_the_group() -> None:
    config = RewardsConfig(functions=[f"{FILE}:hang"], timeout_s=1.0, on_error="abort")
    with Scorer(config) as scorer:
        start = time.monotonic()
        with pytest.raises(RewardError, match=naming("hang", "s1", "timeout", "1 s")):
            scorer.score([group(*[RIGHT] * 16)])
        assert time.monotonic() - start < 6


def with_functions(*names: str, **weights: float) -> RewardsConfig:
    return RewardsConfig(functions=[f"{FILE}:{name}" for name in names], weights=weights, timeout_s=0.4)


@pytest.mark.parametrize("chat", [True, False])
def test_reward_functions_are_parts(chat: bool) -> None:
    config = with_functions("length", "when_right" if not chat else "later", length=0.5)
    right, wrong = score_once(config, group(RIGHT, "five", chat=chat))
    second = {"later": 0.5} if chat else {"when_right": 10.0}
    length = len(RIGHT) / 10
    assert right.parts == {"correct": 1.0, "format": 1.0, "length": length, **second}
    assert right.total == pytest.approx(1.2 + 0.5 * length + sum(second.values()))
    assert wrong.parts == {"correct": 0.0, "format": 0.0, "length": 0.4, **({"later": 0.5} if chat else {})}
    assert (wrong.total, wrong.status) == (pytest.approx(0.2 + (0.5 if chat else 0)), "unparsable")


@pytest.mark.parametrize(
    ("chat", "prompt", "completion"),
    [
        (False, "'How many?'", "'4'"),
        (
            True,
            "[{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'How many?'}]",
            "[{'role': 'assistant', 'content': '4'}]",
        ),
    ],
)
def test_arguments_of_a_reward_function(
    caplog: pytest.LogCaptureFixture, chat: bool, prompt: str, completion: str
) -> None:
    rewards = score_once(with_functions("columns"), group("4", "4", chat=chat))
    assert [reward.status for reward in rewards] == ["error"] * 2
    names = "['answer', 'completion_ids', 'id', 'images', 'question', 'task']"
    called_with = f"[{prompt}, {prompt}] | [{completion}, {completion}] | ['4', '4'] | ['red', 'red'] | {names}"
    assert f"reward function columns on sample s1: error: LookupError: {called_with}"[:330] in caplog.text


@pytest.mark.parametrize(
    ("name", "status", "named"),
    [
        ("too_few", "error", ["ValueError", 1, 2]),
        ("not_finite", "error", ["ValueError", "nan"]),
        ("words", "error", ["TypeError", "str"]),
        ("hang", "timeout", ["0.4 s"]),
    ],
)
def test_reward_functions_that_fail(caplog: pytest.LogCaptureFixture, name: str, status: str, named: list[Any]) -> None:
    rewards = score_once(with_functions(name), group(RIGHT, RIGHT))
    assert [(reward.total, reward.status) for reward in rewards] == [(0.0, status)] * 2
    assert lines_naming(caplog.text, name, "s1", *named)
