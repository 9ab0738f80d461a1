"""End and pad tokens that a folder names wrongly or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import SMALL_IMAGES, make_prompt, make_sample
from tests.support.messages import naming


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(model_folders["qwen2_vl"], tmp_path / "m")


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**content, **values}.items() if value is not None}))


def load(folder: Path, with_weights: bool = True) -> Any:
    return load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES), with_weights)  # type: ignore[arg-type]


@pytest.mark.parametrize("with_weights", [True, False])
@pytest.mark.parametrize(
    ("ends", "named"), [([], "empty"), ([2, 99999], 99999), (-5, -5), ("x", "x"), ([2, True], "True")], ids=str
)
def test_an_end_that_no_completion_can_have_is_refused(
    folder: Path, ends: object, named: object, with_weights: bool
) -> None:
    change(folder / "generation_config.json", eos_token_id=ends)
    with pytest.raises(ValueError, match=naming("model.path", folder, named, "eos_token_id", "generation_config.json")):
        load(folder, with_weights)


def test_without_any_end_token(folder: Path) -> None:
    change(folder / "generation_config.json", eos_token_id=None)
    assert load(folder).end_token_ids == (2,), "the tokenizer's"
    change(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ValueError, match=naming("model.path", folder, "eos_token_id")):
        load(folder)


@pytest.mark.parametrize("with_weights", [True, False])
def test_a_generation_config_that_cannot_be_read_is_named(folder: Path, with_weights: bool) -> None:
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=naming("model.path", folder / "generation_config.json")):
        load(folder, with_weights)


def test_rows_are_padded_where_the_tokenizer_has_no_pad_token(
    folder: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """With an end token, if nothing else: no padded place is read, so the samples are the same."""
    usual = load(model_folders["qwen2_vl"])
    change(folder / "tokenizer_config.json", pad_token=None)
    assert load(folder).pad_token_id == 0, "that of the generation config"
    change(folder / "generation_config.json", pad_token_id=None)
    adapter = load(folder)
    assert adapter.tokenizer.pad_token_id is None
    assert adapter.pad_token_id == 2
    found = [sample_padded(each) for each in (usual, adapter)]
    assert found[0] == found[1]
    adapter.save(tmp_path)
    assert load(tmp_path).pad_token_id == 2


def sample_padded(adapter: QwenVLAdapter) -> list[tuple[int, ...]]:
    prompts = [make_prompt(adapter, make_sample(sizes, seed)) for seed, sizes in enumerate([[(84, 84)], []])]
    groups = HfEngine(adapter, 10**6).generate(prompts, 2, Sampling(6, 1.0), [(0,), (1,)])
    return [completion.token_ids for group in groups for completion in group.completions]
