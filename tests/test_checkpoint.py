from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.checkpoint import changed_keys, load_state
from gpg_vl.models import resolve_model_path
from gpg_vl.models.folders import find_checkpoints


def test_changed_keys_are_dotted() -> None:
    old = {"run": {"steps": 3, "seed": 1}, "task": None, "rewards": {"weights": {"format": 0.5}}}
    new = {"run": {"steps": 4, "seed": 1}, "task": "counting", "rewards": {"weights": {}}}
    assert changed_keys(old, new) == {
        "run.steps": (3, 4),
        "task": (None, "counting"),
        "rewards.weights": ({"format": 0.5}, {}),
    }


def test_newest_checkpoint_of_a_run_is_its_model(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-20", "checkpoint-200.partial", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert [p.name for p in find_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert resolve_model_path(str(tmp_path)) == str(tmp_path / "checkpoint-100")
    with pytest.raises(ValueError, match=r"neither a config\.json nor a checkpoint-N folder"):
        resolve_model_path(str(tmp_path / "checkpoint-9"))


def test_exported_model_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a model, not a checkpoint of a run"):
        load_state(tmp_path)
