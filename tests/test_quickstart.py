"""The demo: its pieces, and (slow, `make test-slow`) that it learns on every seed and not from shuffled rewards."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.messages import naming

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
LEAST_GAIN = {"counting": 0.25, "geometry": 0.20, "grounding": 0.05}
LEAST_MEAN_GAIN_OF_GROUNDING = 0.10


@pytest.fixture(scope="module")
def quickstart() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "scripts/quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sparkline(quickstart: Any) -> None:
    assert quickstart.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert quickstart.sparkline([0.5] * 40) == "▁" * 14
    assert len(quickstart.sparkline(list(range(150)))) == 15


def test_it_ends_with_the_path_of_the_report(quickstart: Any, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "metric": "accuracy", "before": 0.5, "after": 0.9, "before_interval": [0.4, 0.6], "after_interval": [0.8, 1.0],
        "greedy_before": 0.6, "greedy_after": 1.0, "n": 256, "samples_per_image": 4, "reward_curve": [0.5, 0.9],
    }  # fmt: skip
    quickstart.show({"seconds": 300.0, "tasks": {"counting": row}}, Path("runs/mine"))
    assert "runs/mine/gpg/report.html" in capsys.readouterr().out.splitlines()[-1]


def test_recipes_move_to_another_folder(quickstart: Any, tmp_path: Path) -> None:
    from gpg_vl.recipes import load_recipe

    for name in ("quickstart-warmup.yaml", "quickstart.yaml"):
        path = ROOT / "scripts/recipes" / name
        assert quickstart.moved_to(quickstart.HOME, path) == []
        original = load_recipe(str(path))
        moved = load_recipe(str(path), quickstart.moved_to(tmp_path, path))
        assert "runs/quickstart" not in json.dumps(moved.to_plain())
        back = json.dumps(moved.to_plain()).replace(str(tmp_path), "runs/quickstart")
        assert json.loads(back) == original.to_plain()


def test_only_an_earlier_demo_is_replaced(quickstart: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert quickstart.make_folder(out)
    (out / "summary.json").write_text("{}")
    assert quickstart.make_folder(out)
    assert [path.name for path in out.iterdir()] == [quickstart.MARKER]
    (tmp_path / "mine.txt").write_text("precious")
    assert quickstart.main(["--out", str(tmp_path)]) == 2
    assert re.search(naming("--out", tmp_path), capsys.readouterr().err)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def run_python(*words: object) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_learns_from_rewards_alone(tmp_path: Path) -> None:
    gains: dict[str, list[float]] = {task: [] for task in LEAST_GAIN}
    for seed in SEEDS:
        run_python("scripts/quickstart.py", "--seed", seed, "--out", tmp_path / str(seed))
        summary = json.loads((tmp_path / str(seed) / "summary.json").read_text())
        assert summary["seconds"] < 360
        for task, row in summary["tasks"].items():
            gains[task].append(row["after"] - row["before"])
    for task, least in LEAST_GAIN.items():
        assert min(gains[task]) >= least, (task, gains[task])
    assert sum(gains["grounding"]) / len(SEEDS) >= LEAST_MEAN_GAIN_OF_GROUNDING

    control = shuffled_rewards(tmp_path)
    for task, row in json.loads((tmp_path / "0/summary.json").read_text())["tasks"].items():
        assert control[task]["value"] < row["before"] + 0.05, (task, control[task]["value"], row["before"])


def shuffled_rewards(tmp_path: Path) -> Any:
    """Scores after GPG with shuffled rewards, from the warm start of seed 0."""
    data = tmp_path / "0/data"
    train = [
        {"path": f"{data}/{task}-train.parquet", "weight": weight}
        for task, weight in (("counting", 1), ("geometry", 1), ("grounding", 2))
    ]
    recipe = ["scripts/recipes/quickstart.yaml", "--run.seed", 0, "--data.train", json.dumps(train)]
    folders = ["--model.path", tmp_path / "0/warm-start", "--run.output_dir", tmp_path / "control"]
    run_python("scripts/controls/shuffled_rewards.py", *recipe, *folders)
    sampled = ["--evaluation.num_samples", 4, "--evaluation.temperature", 1.0, "--out", tmp_path / "scores"]
    tests = sorted(data.glob("*-test.parquet"))
    run_python("-m", "gpg_vl", "eval", tmp_path / "control", "--data", *tests, *sampled)
    return json.loads((tmp_path / "scores/results.json").read_text())["tasks"]
