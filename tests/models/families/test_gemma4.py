"""The other sizes of Gemma 4, and its limits on the tokens of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from tests.support.families import CASES, load_case, open_bench
from tests.support.gemma4_sizes import SIZES, write_other_size


@pytest.mark.parametrize("name", SIZES)
def test_the_other_sizes_pack_too(name: str, tmp_path: Path) -> None:
    folder = write_other_size(tmp_path / "tiny", SIZES[name])
    bench = open_bench(folder, CASES["gemma4"], tmp_path)
    text = bench.adapter.model.config.text_config
    assert all(getattr(text, key, value) == value for key, value in SIZES[name].items())
    assert bench.difference() < bench.case.tolerance


def test_an_image_takes_the_largest_limit_that_fits(tmp_path: Path) -> None:
    """12 x 12 pixels are a token of the tiny model; 70 tokens are the lowest limit that its processor knows."""
    config = ModelConfig(path=str(write_tiny_model(tmp_path, "gemma4")), dtype="float32", max_pixels=200 * 144)
    adapter = load_adapter(config, with_weights=False)
    adapter.processor.image_processor.max_soft_tokens = 280  # type: ignore[attr-defined]
    [fits, low, lowest] = [adapter.view(640, 480, most) for most in (None, 100, 10)]
    tokens = [(view.model_width // 12) * (view.model_height // 12) for view in (fits, low, lowest)]
    assert 70 < tokens[0] <= 140
    assert tokens[1] == tokens[2] <= 70
    whole = load_adapter(replace(config, max_pixels=400_000), with_weights=False)
    whole.processor.image_processor.max_soft_tokens = 280  # type: ignore[attr-defined]
    assert 140 < sum(whole.count_image_tokens([whole.view(640, 480)])) <= 280


def test_the_saved_processor_has_the_limit_of_the_run(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", "gemma4")
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.max_soft_tokens = processor.image_seq_length = 280
    processor.save_pretrained(folder)
    adapter = load_case(CASES["gemma4"], folder, max_pixels=200 * 144)
    adapter.save(tmp_path / "saved")
    picture = Image.new("RGB", (640, 480))
    counts = []
    for each in (folder, tmp_path / "saved"):
        made = AutoProcessor.from_pretrained(each)(text="<|image|>", images=[picture])
        counts.append(made["input_ids"][0].count(adapter.model.config.image_token_id))
    assert counts[0] > counts[1] == adapter.count_image_tokens([adapter.view(640, 480)])[0] - 2  # begin and end
