"""What two evaluations must share to be one: here of rows with videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import DataConfig, ModelConfig, Recipe
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.evaluation.settings import hash_rows, settings_without_model, with_defaults
from gpg_vl.records import FrameList, Sample

TEXT = EvaluationRow(0, "test", Sample("1", "counting", (), "?", "4"))


def with_video(video: str | bytes | FrameList) -> EvaluationRow:
    return replace(TEXT, sample=replace(TEXT.sample, videos=(video,)))


def test_which_frames_are_seen_counts_where_there_are_videos() -> None:
    recipe = Recipe(data=DataConfig(fps=4, max_frames=9), model=ModelConfig(max_video_pixels=5000))
    assert "videos" not in settings_without_model(recipe, None, [TEXT], ["counting"])
    settings = settings_without_model(recipe, None, [TEXT, with_video(b"1")], ["counting"])
    assert settings["videos"] == {"fps": 4, "max_frames": 9, "max_video_pixels": 5000}


def test_videos_count_by_name_rate_and_content(tmp_path: Path) -> None:
    file = tmp_path / "1.mp4"
    file.write_bytes(b"1")
    rows = [
        with_video(each) for each in (b"1", str(file), FrameList((b"1",)), FrameList((b"1",), 2), FrameList((b"2",)))
    ]
    assert len({hash_rows([row]) for row in [TEXT, *rows]}) == 6
    before = hash_rows([rows[1]])
    file.write_bytes(b"2")
    assert hash_rows([rows[1]]) != before


@pytest.mark.parametrize("changed", [{"max_tiles": 2}, {"family": "generic"}])
def test_how_the_model_is_read_counts(changed: dict[str, Any]) -> None:
    """The record of an earlier version, without the key, stands for the default."""
    usual, other = (
        settings_without_model(Recipe(model=model), None, [TEXT], ["counting"])["model"]
        for model in (ModelConfig(), ModelConfig(**changed))
    )
    assert {key: other[key] for key in other if other[key] != usual[key]} == changed
    earlier = {key: value for key, value in usual.items() if key not in changed}
    assert with_defaults({"model": earlier})["model"] == usual
