"""Mistral 3: what its own class does not do."""

from __future__ import annotations

from pathlib import Path

import torch

from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.tasks import TASKS
from gpg_vl.update.self_check import check_packing
from tests.support.builders import SMALL_IMAGES, make_sample, make_training_group, whole


def test_a_lone_image_of_one_token_has_the_features_that_it_has_beside_another(tmp_path: Path) -> None:
    """transformers drops the axis of its tokens."""
    folder = write_tiny_model(tmp_path, "mistral3", seed=1)
    adapter = load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES))  # type: ignore[arg-type]
    build = PromptBuilder(adapter, TASKS, PromptConfig()).build
    alone, beside = (build(make_sample([(20, 28)] * num)).encoded.vision for num in (1, 2))
    assert alone is not None and beside is not None and (alone.num_tokens, beside.num_tokens) == (1, 2)
    with torch.no_grad():
        found, expected = (adapter.encode_images(vision).levels[0] for vision in (alone, beside))
    torch.testing.assert_close(found, expected[:1])
    rows = whole(make_training_group(adapter, make_sample([(20, 28)]), [3, 4]))
    assert check_packing(adapter, rows, 1.0) < 1e-5
