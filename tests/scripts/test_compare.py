"""``scripts/compare.sh``: runs that differ in the objective alone, resumed, and what is made of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.run.run_log import read_metrics
from scripts import compare, comparison
from tests.support.messages import lines_naming

ROOT = Path(__file__).parents[2]
NOISE = """
def noise(completions, **kwargs):
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
"""


@pytest.fixture
def folder(tmp_path: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its rows and reward; training and scoring run in this process."""
    (tmp_path / "noise.py").write_text(NOISE)
    write_parquet(draw_samples("counting", 12, seed=0), tmp_path / "rows.parquet")
    write_parquet(draw_samples("counting", 6, seed=1), tmp_path / "held-out.parquet")
    recipe = {
        "model": {"path": str(model_folders["qwen2_vl"]), "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "data": {"train": ["rows.parquet"]},
        "prompt": {"template": "{question}"},
        "rewards": {"functions": ["noise.py:noise"]},
        "rollout": {"prompts_per_step": 3, "group_size": 3, "max_new_tokens": 6},
        "objective": {"name": "gpg", "beta_th": 0.4, "reduction": "sequence"},
        "update": {"learning_rate": 1e-3},
        "run": {"steps": 2, "eval_every": 0, "trackers": []},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "_in_process", lambda *words: compare.run_child(words))
    return tmp_path


def run(*words: str, seeds: str = "0,1") -> int:
    return compare.main(
        ["recipe.yaml", "--objectives", "gpg,rloo,gvpo", "--seeds", seeds, "--held-out", "held-out.parquet", *words]
    )


def first_prompts(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (path / "rollouts/000001.jsonl").read_text().splitlines()]


def test_runs_differ_in_the_objective_alone(folder: Path) -> None:
    assert run() == 0
    out = folder / "runs/compare"
    recipes = {
        name: yaml.safe_load((out / name / "seed-0/recipe.yaml").read_text()) for name in ("gpg", "rloo", "gvpo")
    }
    assert recipes["gpg"]["objective"]["reduction"] == "sequence", "the recipe's keys are for the objective it names"
    assert recipes["rloo"]["objective"]["reduction"] is None, "the others have their defaults"
    for recipe in recipes.values():
        del recipe["objective"], recipe["run"]["output_dir"]
    assert recipes["gpg"] == recipes["rloo"] == recipes["gvpo"]
    for seed in (0, 1):
        prompts = [first_prompts(out / name / f"seed-{seed}") for name in ("gpg", "rloo", "gvpo")]
        assert prompts[0][:3] == prompts[1][:3] == prompts[2][:3]
    assert first_prompts(out / "gpg/seed-0") != first_prompts(out / "gpg/seed-1")
    rows = json.loads((out / "comparison.json").read_text())
    assert [(row["objective"], row["num_seeds"]) for row in rows] == [("gpg", 2), ("rloo", 2), ("gvpo", 2)]
    assert [row["difference"] is None for row in rows] == [True, False, False]
    for row in rows:
        scores = [
            json.loads((out / row["objective"] / f"seed-{seed}/held-out/results.json").read_text()) for seed in (0, 1)
        ]
        values = [score["tasks"]["counting"]["value"] for score in scores]
        assert row["scores"]["counting"]["mean"] == pytest.approx(sum(values) / 2)
        metrics = [read_metrics(out / row["objective"] / f"seed-{seed}") for seed in (0, 1)]
        assert row["reward"]["mean"] == pytest.approx(sum(each[-1]["reward"] for each in metrics) / 2)
        seconds = [statistics.median(step["seconds"]["step"] for step in each) for each in metrics]
        assert row["step_seconds"]["mean"] == pytest.approx(sum(seconds) / 2)
        assert row["memory_gib"]["mean"] > 0.1
    table = (out / "comparison.md").read_text()
    assert all(len(line.split("|")) == len(table.splitlines()[0].split("|")) for line in table.splitlines())
    assert (out / "comparison.png").stat().st_size > 10_000


def test_a_second_start_does_what_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """RLOO fails at first and the others go on; then somebody stops it; then it is all that is run."""
    calls: list[str] = []

    def start(code: int, *words: str) -> tuple[int, list[str]]:
        """With this exit code of RLOO's training, if it is not 0."""

        def in_process(*words: str) -> int:
            calls.append(words[0])
            return code if code and words[0] == "train" and "rloo" in words[1] else compare.run_child(words)

        calls.clear()
        monkeypatch.setattr(compare, "_in_process", in_process)
        return run(*words, seeds="0"), calls

    assert start(2) == (2, ["train", "eval", "train", "train", "eval"])
    assert lines_naming(capfd.readouterr().err, "scripts/compare.sh", "rloo", "seed 0")
    rows = json.loads(Path("runs/compare/comparison.json").read_text())
    assert [row["objective"] for row in rows] == ["gpg", "gvpo"]
    assert start(130) == (130, ["train"]), "nothing more where somebody stops it"
    assert start(0) == (0, ["train", "eval"])
    assert start(0) == (0, []), "all is there"
    capfd.readouterr()
    assert start(0, "--update.learning_rate", "0.5") == (2, ["train"] * 3)
    assert lines_naming(capfd.readouterr().err, "update.learning_rate", "0.5"), "what is there is of another recipe"


def test_intervals_are_student_s() -> None:
    found = comparison.estimate([0.5, 0.6, 0.7])
    assert (found.mean, found.half_width) == pytest.approx((0.6, 4.302653 * 0.1 / 3**0.5))
    assert comparison.estimate([0.5]).half_width is None


def finished_run(folder: Path, name: str, seed: int, score: float) -> comparison.Run:
    run = comparison.Run(name, seed, folder / f"{name}-{seed}", compare.Recipe())
    run.held_out.mkdir(parents=True)
    run.results.write_text(json.dumps({"tasks": {"counting": {"value": score}}}))
    row = {"step": 1, "groups": 4, "trained_groups": 2, "draws": 1, "reward": 0.1, "seconds": {"step": 1.0}}
    (run.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return run


def test_a_seed_that_the_first_objective_lacks_is_in_no_difference(tmp_path: Path) -> None:
    scores = [("gpg", 0, 0.5), ("gvpo", 0, 0.6), ("gvpo", 1, 0.9)]
    [first, *others] = [finished_run(tmp_path, *each) for each in scores]
    found = comparison.summarise(others, [first])
    assert found.difference is not None and found.difference.mean == pytest.approx(0.1)
    assert found.scores["mean"].mean == pytest.approx(0.75)


OWN = """
from gpg_vl.objectives.gpg import Gpg

class Mine(Gpg):
    pass
"""


def test_an_own_objective_by_path(folder: Path) -> None:
    (folder / "mine.py").write_text(OWN)
    [first, own] = compare.plan_runs(["recipe.yaml"], [], ["gpg", " mine.py:Mine"], "0", Path("runs"))
    assert (first.objective, own.objective) == ("gpg", "mine.py:Mine")
    assert own.recipe.objective.name == f"{folder}/mine.py:Mine"
    assert own.folder == Path("runs/mine-py-Mine/seed-0")
    [named] = compare.plan_runs(
        ["recipe.yaml"], ["--objective.name", "mine.py:Mine"], ["mine.py:Mine"], "0", Path("runs")
    )
    assert named.recipe.objective.reduction == "sequence", "the recipe's keys are for the objective it names"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--objectives", "gpg,ppo"], ("objective.name", "'ppo'")),
        (["--objectives", "gpg,gpg"], ("--objectives",)),
        (["--objectives", "gpg", "--seeds", "0,x"], ("--seeds", "'0,x'")),
        (["--objectives", "gpg", "--run.stepz", "3"], ("--run.stepz",)),
        (["--objectives", "gpg"], ("--held-out",)),
        (["--objectives", "gpg", "--held-out", "gone.parquet"], ("gone.parquet",)),
        (
            ["--objectives", "gpg,grpo", "--rollout.group_size", "1", "--held-out", "rows.parquet"],
            ("rollout.group_size",),
        ),
        (["--objectives", "gpg,reinforce_rej", "--held-out", "rows.parquet"], ("objective.reward_range",)),
        (["--objectives", "a/mine.py:Mine,b/mine.py:Mine"], ("--objectives",)),
        (["--objectives", "gpg", "--samples", "0", "--held-out", "rows.parquet"], ("--samples",)),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: tuple[str, ...]
) -> None:
    assert compare.main(["recipe.yaml", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and lines_naming(said, "scripts/compare.sh", *parts)
    assert not (folder / "runs").exists()


def test_several_updates_are_for_those_that_correct_for_them(folder: Path) -> None:
    base = compare.load_recipe("recipe.yaml", ["--update.epochs_per_rollout", "2"])
    settings: dict[str, Any] = {name: compare.with_objective(base, name, 0, folder).update for name in ("gpg", "grpo")}
    assert settings["gpg"].epochs_per_rollout == 1
    assert settings["grpo"].epochs_per_rollout == 2


def test_a_refresh_is_for_those_that_read_log_probs(folder: Path) -> None:
    base = compare.load_recipe("recipe.yaml", ["--rollout.refresh.threshold", "0.2"])
    rollouts = {name: compare.with_objective(base, name, 0, folder).rollout for name in ("gpg", "raft", "grpo", "apa")}
    assert {name: rollout.refresh is not None for name, rollout in rollouts.items()} == {
        "gpg": False, "raft": False, "grpo": True, "apa": True
    }  # fmt: skip


def test_the_weight_of_a_discriminator_is_for_those_that_have_one(folder: Path) -> None:
    base = compare.load_recipe("recipe.yaml", ["--rewards.weights.discriminator", "0.5"])
    weights = {name: compare.with_objective(base, name, 0, folder).rewards.weights for name in ("gpg", "gapo")}
    assert weights == {"gpg": {}, "gapo": {"discriminator": 0.5}}


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "scripts/compare.sh"), *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip


def test_the_launcher_finds_the_script_from_anywhere(folder: Path) -> None:
    ran = launch("--help")
    assert ran.returncode == 0, ran.stderr
    assert "--objectives" in ran.stdout


def test_each_run_is_a_process_of_its_own(folder: Path) -> None:
    ran = launch("recipe.yaml", "--objectives", "gpg", "--held-out", "held-out.parquet", "--run.steps", "1")
    assert ran.returncode == 0, ran.stderr
    assert (folder / "runs/compare/gpg/seed-0/memory.json").is_file()
    [row] = json.loads((folder / "runs/compare/comparison.json").read_text())
    assert (row["objective"], row["num_seeds"], row["scores"].keys()) == ("gpg", 1, {"counting", "mean"})
    assert row["memory_gib"]["mean"] > 0.1 and "| gpg | 1 |" in ran.stdout
