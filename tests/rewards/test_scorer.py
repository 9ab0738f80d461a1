from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config import RewardsConfig
from gpg_vl.data.sources import load_source
from gpg_vl.records import Reward, RolloutGroup, Sample
from gpg_vl.rewards.functions import TrainerState, sample_columns
from gpg_vl.rewards.scorer import RewardError, Scorer
from tests.support.builders import png
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
    assert reward == Reward(2.0, {"correct": 1.0, "format": 1.0}, "ok", main=1.0)


def test_think_opened_in_the_prompt_counts_for_the_format(scorer: Scorer) -> None:
    [scored] = scorer.score([group("</think><answer>4</answer>", prompt_text="Q\nA: <think>")])
    assert scored.rewards[0].parts == {"correct": 1.0, "format": 1.0}


def test_legacy_scorer_of_the_recipe() -> None:
    texts = ("<think>4 items</think><answer>5</answer>", "<think>it is 4</think><answer>5</answer>", "")
    with Scorer(RewardsConfig(scorer="legacy")) as legacy:
        [scored] = legacy.score([group(*texts)])
    assert [reward.total for reward in scored.rewards] == [1.0, 2.0, 0.0]
    assert [reward.status for reward in scored.rewards] == ["ok"] * 3


def test_failures_cost_their_own_reward_only(scorer: Scorer) -> None:
    scored, other = scorer.score([hostile("right", "raise", "exit", "crash"), hostile("right")])
    assert [(r.total, r.status, r.parts) for r in scored.rewards[1:]] == [(0.0, "error", {})] * 3
    assert scored.rewards[0].total == other.rewards[0].total == 1.2
    assert scored.has_failure and not other.has_failure
    assert scored.rewards[1].message.startswith("KeyError: 'no such column' (hostile_rewards.py:")


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
    monkeypatch.setattr("gpg_vl.rewards.published.PUBLISHED_TIMEOUT_S", 0.5)
    texts = ("right", "busy", "raise", "nan", "exit", "wrong", "right")
    with Scorer(RewardsConfig(timeout_s=0.3, on_error="abort")) as scorer:
        [scored] = scorer.score([group(*texts, task=f"{FILE}:HostileMetric")])
        assert scorer.measure_published([scored]) == [[1.0, None, None, None, None, 0.0, 1.0]]
    assert lines_naming(caplog.text, 4, "published metric", "timeout", "0.5 s")


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
def test_arguments_of_a_reward_function(chat: bool, prompt: str, completion: str) -> None:
    rewards = score_once(with_functions("columns"), group("4", "4", chat=chat))
    assert [reward.status for reward in rewards] == ["error"] * 2
    called_with = f"LookupError: [{prompt}, {prompt}] | [{completion}, {completion}] | ['4', '4']"
    assert rewards[0].message.startswith(called_with[:270]), "a message has 300 characters at most"


def test_names_that_a_function_can_ask_for() -> None:
    """Those of TRL 1.16, the kit's columns, the row's own, and columns under the name that the row has for them."""
    sample = Sample("s1", "counting", (), "How many?", "4", {"colour": "red"}, {"ground_truth": 4, "problem": "How?"})
    [reward] = score_once(with_functions("names"), group(RIGHT, sample=sample))
    assert json.loads(reward.extras["names"]) == [
        "answer", "colour", "completion_ids", "completions", "ground_truth", "id", "images", "log_extra", "log_metric",
        "problem", "prompts", "question", "solution", "task", "trainer_state", "videos",
    ]  # fmt: skip
    assert json.loads(reward.extras["values"]) == ["red", 4, "How?"]


def test_columns_of_the_rows_of_a_file_keep_their_names(tmp_path: Path) -> None:
    rows = [{"pic": "1.png", "problem": "How many?", "ground_truth": f"<answer>{n}</answer>"} for n in (4, 5)]
    (tmp_path / "1.png").write_bytes(png(30, 20))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"images": "pic", "question": "problem", "answer": "ground_truth"}
    source = load_source({"path": str(tmp_path / "rows.jsonl"), "columns": columns}, None, "counting")
    columns_of = sample_columns(source.samples[1])
    assert (columns_of["ground_truth"], columns_of["problem"]) == ("<answer>5</answer>", "How many?")
    assert (columns_of["answer"], columns_of["question"]) == ("5", "How many?")


def test_state_of_the_run_and_logging_functions() -> None:
    with Scorer(with_functions("logs")) as scorer:
        scorer.trainer_state = TrainerState(7, 40)
        [scored] = scorer.score([group(RIGHT, "five")])
    assert scored.metrics == {"mean": 1.5, "step": 7.0}, "the mean of two values; one that is no number is left out"
    assert [reward.extras for reward in scored.rewards] == [{"read": "a", "size": 1.0}, {"read": None, "size": 2.0}]
    assert [reward.parts["logs"] for reward in scored.rewards] == [7 / 40, 7 / 40]


@pytest.mark.parametrize("by_name", [True, False])
def test_images_are_pictures_where_a_parameter_is_called_so(tmp_path: Path, by_name: bool) -> None:
    (tmp_path / "1.png").write_bytes(png(30, 20))
    sample = Sample("s1", "counting", (str(tmp_path / "1.png"), png(10, 40)), "How many?", "4")
    name = "sizes" if by_name else "kinds"
    first, second = score_once(with_functions(name), group(RIGHT, RIGHT, sample=sample))
    assert first.parts[name] == second.parts[name] == (30 * 20 + 10 * 40 if by_name else 2)


def test_a_function_without_kwargs_gets_what_it_names() -> None:
    [reward] = score_once(with_functions("modest"), group(RIGHT))
    assert reward.parts["modest"] == 0.75


@pytest.mark.parametrize("name", ["numpy_bools", "numpy_array", "mixed"])
def test_numbers_of_numpy_are_rewards(name: str) -> None:
    second = None if name == "mixed" else 1.0
    assert [reward.parts.get(name) for reward in score_once(with_functions(name), group(RIGHT, RIGHT))] == [1.0, second]


def test_tensors_are_rewards() -> None:
    """Of torch, which both functions import in a call: a limit of 0.4 s is no trouble, for it is imported ahead."""
    file = FILE.with_name("torch_rewards.py")
    config = RewardsConfig(functions=[f"{file}:tensor", f"{file}:tensors"], timeout_s=0.4)
    rewards = score_once(config, group(RIGHT, RIGHT))
    assert [(reward.parts["tensor"], reward.parts["tensors"]) for reward in rewards] == [(1.0, 1.0)] * 2


@pytest.mark.parametrize("on_error", ["zero", "drop_group", "abort"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "1 rewards for 2 completions"),
        ("too_many", "3 rewards for 2 completions"),
        ("not_finite", "a reward is nan"),
        ("words", "a reward is str"),
        ("a_dict", "returned dict; return a list"),
        ("a_text", "returned str; return a list"),
        ("nothing", "returned NoneType; return a list"),
        ("a_number", "returned float; return a list"),
        ("zero_dimensional", "return a list"),
        ("needs", "takes 'no_such_column'"),
        ("logs_too_few", r"log_extra\('read'\) got 1 values for 2 completions"),
    ],
)
def test_mistakes_of_a_function_end_the_run(name: str, message: str, on_error: str) -> None:
    """Whatever the policy, for they come again with every call; in one line with the function's place."""
    config = replace(with_functions(name), on_error=on_error, timeout_s=30.0)
    with pytest.raises(RewardError, match=message) as caught:
        score_once(config, group(RIGHT, RIGHT))
    text = str(caught.value)
    assert f"reward function {name} on sample s1" in text and "\n" not in text
    assert re.search(r"\(hostile_rewards.py:\d+\)$", text)


@pytest.mark.parametrize("action", ["nan", "large", "text", "undeclared", "no dict", "no main part"])
def test_mistakes_of_a_task_end_the_run(scorer: Scorer, action: str) -> None:
    with pytest.raises(RewardError, match=r"task .*Hostile on sample s1: error: .*\(hostile_rewards.py:\d+\)$"):
        scorer.score([hostile("right", action)])


def test_code_that_does_not_load_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\ndef f(completions, **kwargs): return [1.0]\n")
    with pytest.raises(RewardError, match=r"broken\.py does not import: ModuleNotFoundError"):
        score_once(RewardsConfig(functions=[f"{tmp_path}/broken.py:f"]), group(RIGHT))


def test_a_call_that_fails_costs_its_group_with_file_and_line() -> None:
    hung = score_once(with_functions("hang"), group(RIGHT, RIGHT))
    assert {(each.total, each.status, each.message) for each in hung} == {(0.0, "timeout", "no answer within 0.4 s")}
    [raised] = score_once(with_functions("raises"), group(RIGHT))
    line = FILE.read_text().splitlines().index('    raise RuntimeError("boom")') + 1
    assert (raised.total, raised.parts, raised.message) == (0.0, {}, f"RuntimeError: boom (hostile_rewards.py:{line})")


def test_the_main_part_is_known_where_the_task_alone_scores() -> None:
    """It decides what DAPO keeps; a function may be what says how right an answer is."""
    mains = {
        "the task's own weights": RewardsConfig(),
        "no weight": RewardsConfig(weights={"correct": 0.0}),
        "a function": with_functions("half"),
        "a function without weight": with_functions("half", half=0.0),
        "published": RewardsConfig(scorer="legacy"),
    }
    found = {name: score_once(config, group(RIGHT))[0].main for name, config in mains.items()}
    assert found == {
        "the task's own weights": 1.0,
        "no weight": None,
        "a function": None,
        "a function without weight": 1.0,
        "published": 1.0,
    }
