"""A family from a file of its own: the kit is not edited for it, only told of it; it trains and is read again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL.Image import Image
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.models.base import BaseAdapter, Family
from gpg_vl.models.families import FAMILIES
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.models.inputs.images_to_tensors import resized
from gpg_vl.recipes import load_recipe
from gpg_vl.records import ImageView, VisionInputs
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.unknown_models import write_llava

OWN_REWARD = """
def length(completions, **kwargs):
    return [len(messages[0]["content"]) % 7 / 7 for messages in completions]
"""


class LlavaAdapter(BaseAdapter):
    """LLaVA, the first one: every image at the processor's size, positions on one axis."""

    image_token = "<image>"
    vision_tokens = ()
    part_prefixes = (("model.vision_tower.", "vision"), ("model.multi_modal_projector.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
    }

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        size = self.processor.image_processor.size
        return ImageView(width, height, size["width"], size["height"], self.frame)

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        return [view.model_width * view.model_height // self.processor.patch_size**2 for view in views]

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        return [self.image_token * count for count in self.count_image_tokens(views)]

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        """``pixel_values`` [N, 3, h, w]."""
        pictures = resized(images, views)
        pixels = self.processor.image_processor(images=pictures, do_resize=False, return_tensors="pt")["pixel_values"]
        num_tokens = sum(self.count_image_tokens(views))
        return VisionInputs({"pixel_values": pixels}, num_tokens, num_tokens)


def test_it_trains_two_steps_and_is_a_model_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its self-check, rollouts, rewards, updates, evaluation and checkpoint are those of every family."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(FAMILIES, "llava", Family(LlavaAdapter, LlavaForConditionalGeneration, None))
    start = AutoModelForImageTextToText.from_pretrained(write_llava(tmp_path / "llava")).state_dict()
    (tmp_path / "own.py").write_text(OWN_REWARD)
    write_parquet(draw_samples("counting", 12, seed=0), tmp_path / "rows.parquet")
    recipe = {
        "model": {"path": "llava", "dtype": "float32"},
        "task": "counting",
        "data": {"train": ["rows.parquet"], "eval": ["rows.parquet"]},
        "rewards": {"functions": ["own.py:length"]},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 6},
        "update": {"learning_rate": 1e-3},
        "run": {"steps": 2, "output_dir": "run", "save_every": 2, "eval_every": 2, "trackers": []},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))
    checkpoint = train(load_recipe("recipe.yaml"))
    steps = [row for row in read_metrics(Path("run")) if "update" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(math.isfinite(row["update"]["loss"]) and row["update"]["grad_norm"] > 0 for row in steps)
    check_model_folder(checkpoint)
    model, loading = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert type(model) is LlavaForConditionalGeneration
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, start[name])}
    for part in ("vision_tower", "multi_modal_projector", "language_model"):
        assert any(part in name for name in moved)
