"""The list of engines: what names one, and what names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli
from gpg_vl.config import RolloutConfig
from gpg_vl.rollout import ENGINES, build_engine
from gpg_vl.rollout.hf import HfEngine
from tests.support.messages import lines_naming


def test_an_engine_is_found_by_its_name(load: Any) -> None:
    assert RolloutConfig().engine in ENGINES
    assert isinstance(build_engine(RolloutConfig(), load()), HfEngine)


def test_an_unknown_engine_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no model and no data either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        "{model: {path: ./none}, task: counting, data: {train: [none.jsonl]}, rollout: {engine: hv}}"
    )
    assert cli.main(["train", "recipe.yaml"]) == 2
    assert lines_naming(capsys.readouterr().err, "rollout.engine", "hv", "hf")
