"""What is refused of families with masks of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model


def load(folder: Path, **config: object) -> None:
    load_adapter(ModelConfig(path=str(folder), dtype="float32", **config), with_weights=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["grouped_sdpa", "flex_attention"])
def test_attention_with_one_rule_for_all_layers_is_refused(attention: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "gemma3")
    with pytest.raises(ValueError, match=f"model.attention: {attention}"):
        load(folder, attention=attention)


def test_a_cap_on_scores_needs_eager_attention(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "paligemma")
    with pytest.raises(ValueError, match=r"model\.attention: sdpa .* eager"):
        load(folder, attention="sdpa")


def test_paligemma_2_under_a_version_without_its_cap_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_model(tmp_path, "paligemma")
    monkeypatch.setattr(transformers, "__version__", "5.22.1")
    with pytest.raises(ValueError, match=r"PaliGemma 2 .*5\.23.*5\.22\.1"):
        load(folder)


def test_crops_of_images_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "gemma3")
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["do_pan_and_scan"] = True
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do_pan_and_scan"):
        load(folder)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "gemma4")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["use_bidirectional_attention"] = "all"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="use_bidirectional_attention"):
        load(folder)
