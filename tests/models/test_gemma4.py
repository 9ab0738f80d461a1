"""The other sizes of Gemma 4, and its limits on the tokens of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, Gemma4Config, Gemma4ForConditionalGeneration

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from tests.support.families import CASES, open_bench

SIZES: dict[str, dict[str, Any]] = {
    "an image sees earlier tokens alone": {"use_bidirectional_attention": None},
    "keys are values": {
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
    },
    "experts": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
}


@pytest.mark.parametrize("name", SIZES)
def test_the_other_sizes_pack_too(name: str, tmp_path: Path) -> None:
    folder = write_other_size(tmp_path / "tiny", SIZES[name])
    bench = open_bench(folder, replace(CASES["gemma4"], tolerance=5e-5), tmp_path)
    text = bench.adapter.model.config.text_config
    assert all(getattr(text, key, value) == value for key, value in SIZES[name].items())
    assert bench.difference() < bench.case.tolerance


def write_other_size(folder: Path, changes: dict[str, Any]) -> Path:
    """A tiny model's folder with keys of the text model changed."""
    write_tiny_model(folder, "gemma4")
    config = AutoConfig.from_pretrained(folder).to_dict()
    del config["text_config"]["per_layer_config"]
    config["text_config"] |= {"global_head_dim": 48, **changes}
    model = Gemma4ForConditionalGeneration(Gemma4Config.from_dict(config))
    model.generation_config.eos_token_id = 4
    model.save_pretrained(folder)
    return folder


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
