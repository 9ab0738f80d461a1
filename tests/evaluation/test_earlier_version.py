"""An evaluation that an earlier version began is resumed; ``tests/run/written_by_0_1/README.md``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gpg_vl import cli
from gpg_vl.evaluation.settings import scoring_versions
from tests.support.messages import lines_naming

WRITTEN = Path(__file__).parents[1] / "run/written_by_0_1"
LIMITS = ["--model.dtype", "float32", "--model.min_pixels", "784", "--model.max_pixels", "50176"]
WORDS = ["eval", "model", "--data", "rows.parquet", "--out", "evaluation", *LIMITS, "--rollout.max_new_tokens", "6"]


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The evaluation's folder, in the current one with its model and rows; with the libraries that are installed."""
    for name in ("model", "evaluation"):
        shutil.copytree(WRITTEN / name, tmp_path / name)
    shutil.copy(WRITTEN / "rows.parquet", tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evaluation/settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": scoring_versions()}))
    return path.parent


def test_an_evaluation_of_an_earlier_version_is_resumed(evaluation: Path) -> None:
    assert "answer_in" not in json.loads((evaluation / "settings.json").read_text())["prompt"], (
        "a key of later versions"
    )
    before = (evaluation / "predictions.jsonl").read_text()
    assert before.count("\n") == 5
    assert cli.main(WORDS) == 0
    assert json.loads((evaluation / "results.json").read_text())["run"]["resumed_after"] == 5
    after = (evaluation / "predictions.jsonl").read_text()
    assert after.startswith(before)
    assert after.count("\n") == 12


@pytest.mark.parametrize(("key", "value", "default"), [("prompt.answer_in", "boxed", "tags"), ("run.seed", "7", "42")])
def test_another_value_of_a_key_is_refused(
    key: str, value: str, default: str, evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the earlier version had the key, or not."""
    assert cli.main([*WORDS, f"--{key}", value]) == 2
    name = key.replace("run", "sampling")
    assert len(lines_naming(capsys.readouterr().err, "--out", name, default, value)) == 1
