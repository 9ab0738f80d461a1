"""The benchmark of families: both sides compute the same log-probs of the group that it promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import families
from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model


@pytest.mark.parametrize("family", families.BOUNDS)
def test_both_sides_compute_the_same(family: str, tmp_path: Path) -> None:
    path = str(write_tiny_model(tmp_path, family))
    adapter = load_adapter(ModelConfig(path=path, dtype="float32", max_pixels=10**6))
    group = families.draw_group(adapter)
    assert len(group.prompt.encoded.token_ids) == families.PROMPT_TOKENS
    sides = families.build_sides(adapter, group)
    with torch.no_grad():
        packed, plain = sides["packed"](), sides["plain"]()
    assert packed.shape == (families.GROUP_SIZE * families.COMPLETION_TOKENS,)
    assert float((packed - plain).abs().max()) < families.TOLERANCE
