"""A tokenizer.json with a slow pattern: one line that names the model, in place of a run that stands still."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.errors import ModelMistake
from gpg_vl.models import load_adapter
from gpg_vl.models.inputs import tokenizing
from tests.support.builders import SMALL_IMAGES
from tests.support.messages import naming


@pytest.fixture
def count_with(model_folders: dict[str, Path], tmp_path: Path) -> Callable[[str, str], int]:
    def count(pattern: str, text: str) -> int:
        folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "model")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tokenizer["pre_tokenizer"]]}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        adapter = load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES), with_weights=False)  # type: ignore[arg-type]
        return adapter.count_tokens(text, [])

    return count


def test_a_pattern_that_is_slow(count_with: Callable[[str, str], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "MAX_SECONDS", 0.3)
    with pytest.raises(ModelMistake, match=naming("model.path", "model", "tokenizer")):
        count_with("(?:a|aa)+$", ("a" * 27 + "!") * 200)


def test_a_pattern_that_is_given_up(count_with: Callable[[str, str], int]) -> None:
    """The library panics where a single match takes too long."""
    with pytest.raises(ModelMistake, match=naming("model.path", "model", "tokenizer")):
        count_with("(a+)+$", "a" * 30 + "!")
