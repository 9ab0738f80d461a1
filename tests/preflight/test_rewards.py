"""Rewards that an objective does not take are refused before anything is sampled."""

from __future__ import annotations

from typing import Any

import pytest

from gpg_vl.config import ObjectiveConfig, Recipe, RewardsConfig, RolloutConfig
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.preflight.rewards import declared_range, fit_rewards
from gpg_vl.records import Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task, score_completion
from tests.support.hostile_groups import FILE
from tests.support.messages import naming
from tests.support.written import Numbers

COUNTING = load_task("counting")  # correct 1.0, format 0.2
SAMPLE = Sample("s1", "counting", (), "How many?", "4")
SIGNED = load_task(f"{FILE}:Signed")  # correct in [-1, 2]


@pytest.mark.parametrize(
    ("tasks", "config", "expected"),
    [
        ([COUNTING], RewardsConfig(), (0, 1.2)),
        ([COUNTING], RewardsConfig(weights={"format": 0.0}), (0, 1)),
        ([COUNTING], RewardsConfig(weights={"format": -0.5}), (-0.5, 1)),
        ([COUNTING, SIGNED], RewardsConfig(weights={"format": 0.0}), (-1, 2)),
        ([COUNTING], RewardsConfig(functions=["f.py:f"]), None),
        ([COUNTING], RewardsConfig(functions=["f.py:f"], weights={"f": 0.0}), (0, 1.2)),
        ([COUNTING], RewardsConfig(scorer="legacy"), None),
        ([COUNTING], RewardsConfig(preference="folder"), (0, 2.2)),
        ([COUNTING], RewardsConfig(preference="folder", weights={"preference": -0.5}), (-0.5, 1.2)),
    ],
)
def test_the_range_of_the_total(tasks: list[Task], config: RewardsConfig, expected: tuple[float, float] | None) -> None:
    assert declared_range(Recipe(rewards=config), tasks) == (expected if expected is None else pytest.approx(expected))


def test_the_discriminator_adds_to_the_range() -> None:
    recipe = Recipe(objective=ObjectiveConfig(name="gapo"), rewards=RewardsConfig(weights={"discriminator": 0.5}))
    assert declared_range(recipe, [COUNTING]) == pytest.approx((0, 1.7))


def fit(task: Task, rewards: RewardsConfig, **objective: Any) -> Objective:
    config = ObjectiveConfig(**objective)
    recipe = Recipe(rewards=rewards, objective=config, rollout=RolloutConfig(max_new_tokens=8))
    return fit_rewards(recipe, build_objective(config, 8), [task])


@pytest.mark.parametrize(
    ("task", "rewards", "objective", "parts"),
    [
        (SIGNED, RewardsConfig(), {"name": "em_pg", "form": "posterior"}, ("em_pg", "-1")),
        (COUNTING, RewardsConfig(), {"name": "reinforce_rej", "reward_range": (0, 1)}, ("reinforce_rej", "1.2")),
        (SIGNED, RewardsConfig(), {"name": "agpo", "form": "v1", "reward_range": (0, 1)}, ("agpo",)),
        (COUNTING, RewardsConfig(functions=["f.py:f"]), {"name": "reinforce_rej"}, ("objective.reward_range",)),
        (COUNTING, RewardsConfig(scorer="legacy"), {"name": "agpo", "form": "v1"}, ("objective.reward_range",)),
    ],
)
def test_rewards_out_of_range_are_refused(
    task: Task, rewards: RewardsConfig, objective: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=naming(*parts)):
        fit(task, rewards, **objective)


def test_an_open_range_is_that_of_the_tasks() -> None:
    assert fit(COUNTING, RewardsConfig(), name="reinforce_rej").reward_range == pytest.approx((0, 1.2))
    assert fit(SIGNED, RewardsConfig(), name="agpo", form="v1").reward_range == pytest.approx((-1, 2.2))
    assert fit(COUNTING, RewardsConfig(functions=["f.py:f"]), name="gpg").reward_range is None


RAFTS = [
    {"name": "raft"},
    {"name": "raft", "form": "accepted"},
    {"name": "raft_pp"},
    {"name": "raft_pp", "form": "paper"},
]


@pytest.mark.parametrize("objective", RAFTS)
@pytest.mark.parametrize(
    ("rewards", "beside"),
    [
        (RewardsConfig(), 0.2),
        (RewardsConfig(weights={"format": 0.5}), 0.5),
        (RewardsConfig(preference="folder", weights={"preference": 0.3}), 0.5),
        (RewardsConfig(weights={"format": 0.0}), 0.0),
        (RewardsConfig(weights={"format": -0.5}), 0.0),
        (RewardsConfig(weights={"format": 0.0}, functions=["f.py:f"]), 0.0),
    ],
)
def test_a_wrong_answer_is_not_accepted_for_its_format(
    rewards: RewardsConfig, beside: float, objective: dict[str, Any]
) -> None:
    fitted = fit(COUNTING, rewards, **objective)
    assert fitted.config.accept_above == pytest.approx(beside, abs=1e-8)
    texts = {
        "<think>x</think><answer>5</answer>": 0,  # well-formed and wrong
        "4": 0,
        "<answer>4</answer>": 1,
        "<think>x</think><answer>4</answer>": 1,
    }
    scored = [score_completion(COUNTING, SAMPLE, text, [], rewards.weights) for text in texts]
    for reward, is_right in zip(scored, texts.values(), strict=True):
        group = Numbers((reward.total, beside), ((-1.0,),) * 2, ((-1.0,),) * 2, ((-1.0,),) * 2).group
        assert [bool(weight) for weight in fitted.advantages(group)] == [bool(is_right), False]


@pytest.mark.parametrize("objective", RAFTS)
@pytest.mark.parametrize(
    "rewards",
    [RewardsConfig(functions=["f.py:f"]), RewardsConfig(scorer="legacy"), RewardsConfig(weights={"correct": 0.0})],
)
def test_where_a_right_answer_is_not_known_by_its_reward_a_number_is_asked_for(
    rewards: RewardsConfig, objective: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=naming("objective.accept_above", objective["name"])):
        fit(COUNTING, rewards, **objective)
    assert fit(COUNTING, rewards, **objective, accept_above=0.0).config.accept_above == 0.0


def test_a_number_that_is_given_stands() -> None:
    assert fit(COUNTING, RewardsConfig(), name="raft", accept_above=0.1).config.accept_above == 0.1


NOTHING = {"correct": 0.0, "format": 0.0}


def test_a_task_without_any_weight_is_refused() -> None:
    """By the task: another one of the recipe may have parts of its own."""
    with pytest.raises(ValueError, match=naming("rewards.weights", "counting", "correct", "format")):
        fit(COUNTING, RewardsConfig(weights=NOTHING))
    with pytest.raises(ValueError, match=naming("rewards.weights", "f")):
        fit(COUNTING, RewardsConfig(functions=["f.py:f"], weights={**NOTHING, "f": 0.0}))


@pytest.mark.parametrize(
    ("rewards", "objective"),
    [
        (RewardsConfig(weights={"correct": 0.0}), {}),
        (RewardsConfig(weights={**NOTHING, "format": -0.1}), {}),
        (RewardsConfig(functions=["f.py:f"], weights=NOTHING), {}),
        (RewardsConfig(preference="learned", weights=NOTHING), {}),
        (RewardsConfig(weights=NOTHING), {"name": "supervised"}),
    ],
)
def test_any_part_with_a_weight_is_enough(rewards: RewardsConfig, objective: dict[str, Any]) -> None:
    fit(COUNTING, rewards, **objective)
