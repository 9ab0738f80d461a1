"""PaliGemma 1 beside PaliGemma 2, which the families' tests have: one mask for all layers, and no caps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.update.self_check import check_packing
from tests.support.builders import make_prompt, make_sample, whole
from tests.support.families import CASES, open_bench, skip_unless_installed, worst_gradient


def test_paligemma_1_packs_too(tmp_path: Path) -> None:
    bench = open_bench(write_first_version(tmp_path / "tiny"), CASES["paligemma"], tmp_path)
    assert bench.adapter.logit_cap is None
    assert bench.difference() < bench.case.tolerance
    error, name = worst_gradient(bench.packed_gradients(), bench.plain_gradients)
    assert error < bench.case.tolerance, name
    assert check_packing(bench.adapter, whole(*bench.groups), 0.7) < bench.case.tolerance


def test_a_prompt_begins_with_its_images_wherever_they_stand(tmp_path: Path) -> None:
    skip_unless_installed(CASES["paligemma"])
    adapter: Any = load_adapter(ModelConfig(path=str(write_tiny_model(tmp_path, "paligemma"))), with_weights=False)
    for question in ("Which is larger?", "Is <image> larger than <image>?"):
        prompt = make_prompt(adapter, make_sample([(28, 28), (56, 56)], question=question))
        asked = question.replace("<image>", "")
        assert prompt.text == f"<image><image><bos>User: {asked}\nAssistant: <think>\n"


def write_first_version(folder: Path) -> Path:
    """The folder of a tiny PaliGemma 2 with a text model of the first Gemma."""
    write_tiny_model(folder, "paligemma")
    config = AutoConfig.from_pretrained(folder).to_dict()
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    more = ("num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    text = {key: config["text_config"][key] for key in (*kept, *more)}
    config["text_config"] = {"model_type": "gemma", **text}
    model = PaliGemmaForConditionalGeneration(PaliGemmaConfig.from_dict(config))
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.save_pretrained(folder)
    return folder
