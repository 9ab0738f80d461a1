"""What SmolVLM's processor needs beyond the kit's own packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.models.smolvlm import processing_smolvlm

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
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
