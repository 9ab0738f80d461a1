"""The other sizes of Gemma 4, and its limits on the tokens of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from tests.support.families import CASES, load_case, open_bench, reload
from tests.support.family_lora import with_lora
from tests.support.gemma4_sizes import SIZES, write_other_size

KEPT = {
    "clipped linears and an audio tower": {"input_min", "input_max", "output_min", "output_max"},
    "standardize": {"std_bias", "std_scale"},
}


@pytest.mark.parametrize("name", SIZES)
def test_the_other_sizes_pack_too(name: str, tmp_path: Path) -> None:
    folder = write_other_size(tmp_path / "tiny", SIZES[name])
    bench = open_bench(folder, CASES["gemma4"], tmp_path)
    for part, keys in SIZES[name].items():
        config = getattr(bench.adapter.model.config, part)
        assert all(getattr(config, key, value) == value for key, value in keys.items())
    assert bench.difference() < bench.case.tolerance


@pytest.mark.parametrize("name", ["clipped linears and an audio tower", "standardize"])
def test_buffers_of_the_towers_are_kept(name: str, tmp_path: Path) -> None:
    """Those of E2B and E4B, bounds that are infinite among them: loaded, saved, under LoRA and in bfloat16."""
    folder = write_other_size(tmp_path / "tiny", SIZES[name])
    bench = open_bench(folder, CASES["gemma4"], tmp_path)
    came, saved = (load_file(each / "model.safetensors") for each in (folder, bench.folder))
    buffers = {key for key, _ in bench.model.named_buffers()} & came.keys()
    assert {key.rpartition(".")[2] for key in buffers} - {"layer_scalar"} == KEPT[name]
    assert any(bool(came[key].isinf().all()) for key in buffers) == (name != "standardize")
    sound = {key for key in came if "audio" in key}
    assert bool(sound) == (name != "standardize")
    assert came.keys() == saved.keys() and all(torch.equal(came[key], saved[key]) for key in buffers)
    trained = dict(bench.adapter.trainable_parameters())
    assert not sound & trained.keys()
    adapted = with_lora(bench, tmp_path)
    assert adapted.difference() < bench.case.tolerance
    assert float((adapted.plain - bench.plain).abs().max()) > 1e-3
    rounded = reload(bench, dtype="bfloat16")
    rounded.adapter.round_weights()
    with torch.no_grad():
        assert float((rounded.packed() - bench.plain).abs().mean()) < 0.05
    rounded.adapter.save(tmp_path / "rounded")
    again = load_file(tmp_path / "rounded" / "model.safetensors")
    assert {key: again[key].dtype for key in buffers} == {key: came[key].dtype for key in buffers}
    assert all(torch.equal(again[key], came[key].bfloat16().float()) for key in buffers)


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
