"""Groups that are scored while others are sampled: the same rewards, in the same order, and never waited for early."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_tools.generate import draw_samples
from gpg_vl.config import Recipe, RewardsConfig
from gpg_vl.data.sources import write_parquet
from gpg_vl.records import RolloutGroup
from gpg_vl.rewards.scorer import RewardError, Scorer
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.train import train
from tests.support.clock import wait_until
from tests.support.hostile_groups import FILE, group, hostile
from tests.support.messages import naming
from tests.support.small_recipes import small_recipe
from tests.support.tiny_runs import sampled, without_seconds

RIGHT = "<think></think><answer>4</answer>"


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(RewardsConfig()) as scorer:
        yield scorer


def answered(scorer: Scorer) -> bool:
    """Whether the pool has scored what it was given, though nobody waited for it."""
    return wait_until(scorer._pool.is_answered, 60.0)


def test_what_was_begun_is_scored_before_it_is_asked_for_and_once(scorer: Scorer) -> None:
    groups = [group(RIGHT, "5"), group("5", RIGHT, sample_id="s2"), group(RIGHT, RIGHT, sample_id="s3"), group("5")]
    expected = scorer.score(groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer._pool, "is_answered", lambda: False)  # however fast it is
        for each in groups[:3]:
            scorer.begin(each)
    assert answered(scorer)
    assert [len(scorer._sent), len(scorer._waiting)] == [1, 2], "a batch at a time, and the rest in the next"
    sent: list[int] = []
    begin = scorer._pool.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer._pool, "begin", lambda jobs, *a, **k: sent.append(len(jobs)) or begin(jobs, *a, **k))
        assert scorer.score(groups) == expected
    assert sent == [3], "the first is not scored again"
    assert scorer.score(groups) == expected, "nothing of it is left"


def test_a_group_that_was_sampled_again_is_scored_again(scorer: Scorer) -> None:
    """As after memory ran out in a rollout: what was begun has the place of the other, and other rewards."""
    scorer.begin(group("5"))
    [scored, other] = scorer.score([group(RIGHT), group("4")])
    assert [scored.rewards[0].total, other.rewards[0].status] == [1.2, "unparsable"]


def test_groups_reach_the_pool_in_the_order_in_which_they_are_begun(scorer: Scorer) -> None:
    groups = [group(RIGHT, sample_id=f"s{number}") for number in range(6)]
    seen: list[str] = []
    begin = scorer._pool.begin

    def look(jobs: list, *args: object, **options: object) -> None:
        seen.extend(job.sample.id for job in jobs)
        begin(jobs, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer._pool, "begin", look)
        for number, each in enumerate(groups[:5]):
            scorer.begin(each)
            assert number != 2 or answered(scorer)
        scorer.score(groups)
    assert seen == [f"s{number}" for number in range(6)]


def test_the_first_failure_ends_it_where_the_recipe_says_so() -> None:
    with Scorer(RewardsConfig(timeout_s=60, on_error="abort")) as scorer:
        scorer.begin(hostile("right", "raise", sample_id="s1"))
        assert answered(scorer)
        with pytest.raises(RewardError, match=naming("rewards.on_error", "abort", "s1", "KeyError")):
            scorer.begin(hostile("sleep", sample_id="s2"))
    with Scorer(RewardsConfig(timeout_s=60, on_error="abort")) as scorer:
        scorer.begin(hostile("raise", sample_id="s1"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scorer._pool, "begin", None)  # nothing more is sent
            with pytest.raises(RewardError, match=naming("rewards.on_error", "abort", "s1", "KeyError")):
                scorer.score([hostile("sleep", sample_id="s2")])


def test_a_mistake_of_the_code_ends_it_whatever_the_recipe_says(scorer: Scorer) -> None:
    scorer.begin(hostile("nan", sample_id="s7"))
    with pytest.raises(RewardError, match="s7"):
        scorer.score([])
    assert scorer.score([group(RIGHT)])[0].rewards[0].total == 1.2


def test_a_supervisor_that_is_killed_meanwhile_costs_no_reward() -> None:
    """Before a batch, and under it."""
    first, second = hostile("right", "doze"), hostile("right", sample_id="s2")
    with Scorer(RewardsConfig()) as scorer:
        scorer.start()
        kill_supervisor(scorer)
        scorer.begin(first)
        scorer.begin(second)
        kill_supervisor(scorer)
        scored = scorer.score([first, second])
    assert [reward.total for each in scored for reward in each.rewards] == [1.2, 1.2, 1.2]


def kill_supervisor(scorer: Scorer) -> None:
    assert scorer._pool.process is not None
    scorer._pool.process.kill()
    scorer._pool.process.wait()


def test_a_scorer_that_is_closed_under_a_batch_waits_for_nothing() -> None:
    scorer = Scorer(RewardsConfig(timeout_s=60))
    scorer.begin(hostile("sleep"))
    process = scorer._pool.process
    start = time.monotonic()
    scorer.close()
    assert process is not None and process.returncode is not None and time.monotonic() - start < 50


# --- in a run ---


@pytest.fixture
def recipe(tmp_path: Path, model_folders: dict[str, Path]) -> Recipe:
    """Two steps of four prompts, whose completions earn by their length."""
    data = tmp_path / "counting.parquet"
    write_parquet(draw_samples("counting", 24, seed=0), data)
    values = {
        "model.path": str(model_folders["qwen2_vl"]),
        "data.train": [str(data)],
        "rewards.functions": [f"{FILE}:length"],
        "rollout.prompts_per_step": 4,
        "rollout.group_size": 3,
        "rollout.max_new_tokens": 6,
        "update.learning_rate": 1e-3,
        "run.steps": 2,
    }
    return small_recipe(values, {})


def test_a_run_is_the_same_with_it_and_without(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[RolloutGroup] = []
    begin = Scorer.begin

    def look(scorer: Scorer, each: RolloutGroup) -> None:
        begun.append(each)
        begin(scorer, each)

    monkeypatch.setattr(HfEngine, "_batches", lambda self, prompts, *_: [[n] for n in range(len(prompts))])
    monkeypatch.setattr(Scorer, "begin", look)
    early = train(replace(recipe, run=replace(recipe.run, output_dir=str(tmp_path / "early"))))
    assert len(begun) == 6, "in each step, those of all batches but the last"
    monkeypatch.setattr(Scorer, "begin", lambda scorer, each: None)
    late = train(replace(recipe, run=replace(recipe.run, output_dir=str(tmp_path / "late"))))
    one, other = load_file(early / "model.safetensors"), load_file(late / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sampled(tmp_path / "early") == sampled(tmp_path / "late")
    assert without_seconds(tmp_path / "early") == without_seconds(tmp_path / "late")
