"""What SmolVLM needs beyond the kit's own packages, and the versions of transformers that cannot run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from transformers import SmolVLMConfig
from transformers.models.smolvlm import processing_smolvlm

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.smolvlm import SmolVLMAdapter
from gpg_vl.models.tiny import write_tiny_model
from tests.support.messages import naming


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("num2words")
    folder = write_tiny_model(tmp_path / "model", "smolvlm")
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ValueError, match=naming("model.path", folder, "num2words", "install")):
        load_adapter(ModelConfig(path=str(folder)))
    with pytest.raises(ValueError, match=naming("num2words", "install")):
        write_tiny_model(tmp_path / "other", "smolvlm")


@pytest.mark.parametrize("version", ["5.17.0", "5.20.0", "5.20.1", "5.20.2", "5.21.0"])
def test_sizes_are_refused_where_transformers_fails_on_them(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """81 tokens a tile, as SmolVLM2-2.2B has, in two versions; 64, as the smaller ones have, in none."""
    large, small = (
        SmolVLMConfig(vision_config={"image_size": size, "patch_size": patch}, scale_factor=scale)
        for size, patch, scale in ((384, 14, 3), (512, 16, 4))
    )
    monkeypatch.setattr(transformers, "__version__", version)
    SmolVLMAdapter.refuse_inexact(small)
    if version in ("5.20.1", "5.20.2"):
        with pytest.raises(ValueError, match=naming("model.path", "81", version)):
            SmolVLMAdapter.refuse_inexact(large)
    else:
        SmolVLMAdapter.refuse_inexact(large)
