"""Runs that an earlier version wrote go on as that version went on with them; ``written_by_0_1/README.md``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.recipes import load_recipe
from gpg_vl.rollout import hf
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.earlier_noise import EarlierChooser

WRITTEN = Path(__file__).with_name("written_by_0_1")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files in a folder of their own, which is the current one: recipes name rows and model relative to it."""
    folder = tmp_path / "written"
    shutil.copytree(WRITTEN, folder)
    monkeypatch.chdir(folder)
    return folder


def move_base(checkpoint: Path, model: Path) -> None:
    """An adapter names its model by an absolute path; here the model lies elsewhere than where it was written."""
    path = checkpoint / "adapter_config.json"
    path.write_text(path.read_text().replace('"MODEL"', json.dumps(str(model))))
    content = path.read_bytes()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def read_rollouts(run: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"rollouts/{step:06d}.jsonl").read_text().splitlines()]


def numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """All but the seconds, by dotted key."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "seconds":
            flat |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            flat[prefix + key] = value
    return flat


@pytest.mark.parametrize("name", ["whole", "lora"])
def test_a_run_of_an_earlier_version_goes_on(
    name: str, written: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With that version's noise, which is another since, it samples what that version sampled."""
    monkeypatch.setattr(hf, "TokenChooser", EarlierChooser)
    run, expected = written / name, written / "after_4_steps" / name
    if name == "lora":
        move_base(run / "checkpoint-2", written / "model")
    assert train(load_recipe([f"{name}/recipe.yaml"])) == Path(name) / "checkpoint-4"
    assert f"resuming {name} after step 2" in capfd.readouterr().err
    assert [path.name for path in find_checkpoints(run)] == ["checkpoint-2", "checkpoint-4"]
    for step in (3, 4):
        assert read_rollouts(run, step) == read_rollouts(expected, step), "sampled texts and rewards"
    then, now = read_metrics(expected), read_metrics(run)
    assert [row["step"] for row in now] == [row["step"] for row in then] == [1, 2, 2, 3, 4, 4]
    for old, new in zip(then, now, strict=True):
        values = numbers(new)
        assert {key: values[key] for key in numbers(old)} == pytest.approx(numbers(old), rel=1e-4)
