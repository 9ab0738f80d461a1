"""Runs that follow a rollout for several steps: what they sample, log and save, and that they go on bit for bit."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.objectives.grpo import Grpo
from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.records import TrainingGroup
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from gpg_vl.update.learner import Learner
from gpg_vl.update.rollouts import Rollout
from tests.support.messages import naming
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import assert_equal_tensors, sampled, without_seconds

TWO_EPOCHS_OF_TWO: dict[str, Any] = {"update.epochs_per_rollout": 2, "update.groups_per_update": 2}


def test_a_rollout_of_four_groups_makes_four_updates(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    train(make_recipe(**TWO_EPOCHS_OF_TWO, **{"objective.name": "grpo", "run.steps": 6}))
    rows = read_metrics(tmp_path / "run")
    assert [row["rollout"] for row in rows] == [
        {"step": 1 + 4 * (n // 4), "update": 1 + n % 4, "updates": 4} for n in range(6)
    ]
    assert [row.get("groups") for row in rows] == [4, None, None, None, 4, None]
    assert [int(path.stem) for path in sorted((tmp_path / "run/rollouts").glob("*.jsonl"))] == [1, 5]
    assert all(row["update"]["grad_norm"] > 0 for row in rows)
    losses = [row["update"]["loss"] for row in rows]
    assert losses[0] == pytest.approx(0, abs=1e-6), "the ratio is 1: the loss is minus the mean advantage"
    assert any(abs(loss) > 1e-5 for loss in losses[1:4])


def assert_equal_files(a: Path, b: Path) -> None:
    """Weights, optimizer, position, random states, and what is left of a rollout: bit for bit."""

    def names_in(folder: Path) -> list[str]:
        paths = [*folder.rglob("*.safetensors"), *folder.glob("training_state/*.json")]
        return sorted(str(path.relative_to(folder)) for path in paths)

    names = names_in(a)
    assert names == names_in(b)
    for name in names:
        if name.endswith(".safetensors"):
            assert_equal_tensors(a / name, b / name)
        else:
            assert (a / name).read_text() == (b / name).read_text(), name


CASES: dict[str, dict[str, Any]] = {
    "grpo": {"objective.name": "grpo"},
    "grpo with KL": {"objective.name": "grpo", "objective.kl_coefficient": 0.3},
    "gvpo": {"objective.name": "gvpo"},
    "raft": {"objective.name": "raft", "objective.form": "accepted"},
    "frozen tower": {"objective.name": "gspo", "model.freeze": ["vision", "projector"]},
    "lora": {"objective.name": "apa", "model.lora": {"r": 4}},
    "own task": {"objective.name": "rebel", "prompt.template": None, "task": "TASK"},
}
RESTLESS = '''
import random
from gpg_vl.tasks.counting import Counting

class Restless(Counting):
    """It asks in other words each time."""

    def ask(self, sample, views):
        return f"{sample.question} {random.random():.3f}"
'''


@pytest.mark.parametrize("cut", [3, pytest.param(4, marks=[pytest.mark.faults, pytest.mark.faults_ci])])
@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_bit_for_bit_in_the_middle_of_a_rollout(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, case: str, cut: int
) -> None:
    """Rollouts are drawn in steps 1 and 5: after step 3 there is one more update to make, after step 4 none."""
    (tmp_path / "restless.py").write_text(RESTLESS)
    keys = {key: f"{tmp_path}/restless.py:Restless" if value == "TASK" else value for key, value in CASES[case].items()}
    keys |= {**TWO_EPOCHS_OF_TWO, "run.steps": 6, "run.save_every": 1, "update.schedule": "constant"}
    whole = train(make_recipe(**keys, run__output_dir=str(tmp_path / "whole")))
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    for step in range(cut + 1, 7):
        shutil.rmtree(tmp_path / f"run/checkpoint-{step}")
    saved = tmp_path / f"run/checkpoint-{cut}/training_state/rollout.json"
    assert saved.is_file() == (cut == 3)
    resumed = train(make_recipe(**keys))
    assert_equal_files(whole, resumed)
    assert sampled(tmp_path / "whole") == sampled(tmp_path / "run")
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "run")


def test_a_row_that_is_gone_is_named(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    keys = {**TWO_EPOCHS_OF_TWO, "objective.name": "grpo", "run.steps": 2}
    folder = train(make_recipe(**keys))
    path = folder / "training_state/rollout.json"
    plain = json.loads(path.read_text())
    plain["groups"][0]["prompt"]["id"] = "gone"
    path.write_text(json.dumps(plain))
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["files"]["training_state/rollout.json"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=naming("data.train", "'gone'")):
        train(make_recipe(**keys | {"run.steps": 4}))


@pytest.mark.parametrize("keys", [{"update.epochs_per_rollout": 2}, {"update.groups_per_update": 2}])
def test_gpg_follows_a_rollout_once(make_recipe: MakeRecipe, keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=naming("update.epochs_per_rollout", "gpg")):
        train(make_recipe(**keys))


# --- drawn again when the policy has shifted ---


def refresh_keys(threshold: float, **others: Any) -> dict[str, Any]:
    refresh = {"trigger": "shift", "threshold": threshold, "max_uses": 3}
    return {
        "objective.name": "grpo",
        "rollout.refresh": refresh,
        "run.steps": 6,
        "update.schedule": "constant",
        **others,
    }


def test_a_rollout_is_used_again_while_the_policy_has_moved_little(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None
) -> None:
    """At a small learning rate until max_uses; at a large one never."""
    train(make_recipe(**refresh_keys(0.05), update__learning_rate=1e-7))
    rows = read_metrics(tmp_path / "run")
    assert [row.get("groups") for row in rows] == [4, None, None, 4, None, None]
    used = [row["rollout"] for row in rows]
    assert [(use["step"], use["update"], use["uses"], use["saved"]) for use in used] == [
        (1, 1, 1, 0), (1, 2, 2, 1), (1, 3, 3, 2), (4, 1, 1, 2), (4, 2, 2, 3), (4, 3, 3, 4)
    ]  # fmt: skip
    assert ["shift" in use for use in used] == [False, True, True, False, True, True], "after max_uses none is measured"
    assert all(0 < use["shift"] < 0.05 for use in used if "shift" in use)
    train(make_recipe(**refresh_keys(0.05), update__learning_rate=3e-2, run__output_dir=str(tmp_path / "fast")))
    rows = read_metrics(tmp_path / "fast")
    assert [row["groups"] for row in rows] == [4] * 6
    assert all(row["rollout"]["shift"] > 0.05 for row in rows[1:])
    assert rows[-1]["rollout"]["saved"] == 0


def test_mini_batches_are_all_used_again(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    keys = refresh_keys(0.05, **{"update.groups_per_update": 2, "update.learning_rate": 1e-7, "run.steps": 8})
    train(make_recipe(**keys))
    uses = [row["rollout"] for row in read_metrics(tmp_path / "run")]
    assert [use["step"] for use in uses] == [1] * 6 + [7] * 2
    assert ["shift" in use for use in uses] == [False, False, True, False, True, False, False, False]
    assert [use["saved"] for use in uses] == [0, 0, 1, 1, 2, 2, 2, 2]


def test_the_log_probs_of_the_shift_are_those_of_the_update(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are measured once; forgotten, they are measured again, with the same result."""
    keys = refresh_keys(0.15, **{"update.learning_rate": 1e-5})
    measured = []
    measure = Learner._measure
    monkeypatch.setattr(Learner, "_measure", lambda *words: measured.append(1) or measure(*words))
    once = train(make_recipe(**keys))
    num_once = len(measured)
    measure_shift = Learner.measure_shift

    def forget(learner: Learner, rollout: Rollout) -> float:
        shift = measure_shift(learner, rollout)
        rollout.current = None
        return shift

    monkeypatch.setattr(Learner, "measure_shift", forget)
    again = train(make_recipe(**keys, run__output_dir=str(tmp_path / "again")))
    assert len(measured) > 2 * num_once
    assert_equal_files(once, again)


def test_a_run_with_a_refresh_goes_on_bit_for_bit(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    """Whether to draw again is decided after the resume, from the same log-probs."""
    keys = refresh_keys(0.15, **{"update.learning_rate": 1e-5, "run.save_every": 1})
    whole = train(make_recipe(**keys, run__output_dir=str(tmp_path / "whole")))
    assert 0 < read_metrics(tmp_path / "whole")[-1]["rollout"]["saved"] < 4, "both decisions are made"
    for cut in (1, 2, 3, 4):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        for step in range(cut + 1, 7):
            shutil.rmtree(tmp_path / f"run/checkpoint-{step}")
        assert_equal_files(whole, train(make_recipe(**keys)))
        assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "run")


@pytest.mark.parametrize("place", ["measure_shift", "accumulate_gradient"])
def test_a_signal_around_the_decision_costs_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A decision belongs to its step: one that was not finished leaves no trace in what is saved."""
    keys = refresh_keys(0.05, **{"update.learning_rate": 1e-7, "run.steps": 4, "run.save_every": 10})
    whole = train(make_recipe(**keys, run__output_dir=str(tmp_path / "whole")))
    calls = []
    work = getattr(Learner, place)

    def signalled(*words: Any) -> Any:
        result = work(*words)
        calls.append(place)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(Learner, place, signalled)
        with pytest.raises(Interrupted):
            train(make_recipe(**keys))
    assert_equal_files(whole, train(make_recipe(**keys)))
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "run")


def test_a_rollout_without_signal_is_drawn_again(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(**refresh_keys(0.05), rewards__weights={"format": 0.0}))
    assert [row["groups"] for row in read_metrics(tmp_path / "run")] == [4] * 6


def test_a_rollout_whose_step_was_skipped_is_drawn_again(
    make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights have not moved, so it would have the same gradient again, which is not finite."""
    objective, first = Grpo.training_group, []

    def broken(*words: Any) -> TrainingGroup:
        group = objective(*words)
        first.append(group.prompt.sample.id)
        if len(first) > 1:
            return group
        return replace(group, coefficients=tuple((math.nan,) * len(row) for row in group.coefficients))

    monkeypatch.setattr(Grpo, "training_group", broken)
    train(make_recipe(**refresh_keys(0.05), update__learning_rate=1e-7, run__steps=3))
    rows = read_metrics(tmp_path / "run")
    assert [row["skipped_steps"] for row in rows] == [1, 1, 1]
    assert [row["rollout"]["step"] for row in rows] == [1, 2, 2]


@pytest.mark.parametrize("name", ["gpg", "reinforce", "raft", "em_pg"])
def test_a_refresh_is_for_objectives_that_correct_for_the_shift(make_recipe: MakeRecipe, name: str) -> None:
    with pytest.raises(ValueError, match=naming("rollout.refresh", name)):
        train(make_recipe(**refresh_keys(0.05) | {"objective.name": name}))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"rollout.refresh": {"threshold": 0}}, "rollout.refresh.threshold"),
        ({"rollout.refresh": {"threshold": 0.1, "max_uses": 1}}, "rollout.refresh.max_uses"),
        ({"rollout.refresh": {"max_uses": 3}, "update.epochs_per_rollout": 3}, "rollout.refresh.max_uses"),
        ({"rollout.refresh": {"trigger": "clock"}}, "rollout.refresh"),
    ],
)
def test_a_refresh_that_means_nothing_is_refused(make_recipe: MakeRecipe, keys: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=naming(name)):
        make_recipe(**{"objective.name": "grpo"} | keys)
