"""Runs that follow a rollout for several steps: what they sample, log and save, and that they go on bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
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


@pytest.mark.parametrize("cut", [3, 4])
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
