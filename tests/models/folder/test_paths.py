"""Which state of a hub model is meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.folder.paths import resolve_model_path
from tests.support.builders import SMALL_IMAGES
from tests.support.messages import naming


def test_a_revision_names_one_state_of_a_hub_model(
    tmp_path: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in the cache of downloads, as without a network."""
    commit = "0123456789" * 4
    cached = tmp_path / "models--owner--name"
    shutil.copytree(model_folders["qwen2_vl"], cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/v1").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = str(cached / "snapshots" / commit)
    assert resolve_model_path("owner/name", "v1") == resolve_model_path("owner/name", commit) == folder
    assert resolve_model_path("owner/name") == "owner/name"
    assert resolve_model_path(folder, "v1") == folder, "a local folder has one state"
    model = ModelConfig(path="owner/name", revision="v1", **SMALL_IMAGES)  # type: ignore[arg-type]
    assert load_adapter(model, with_weights=False).has_chat_template()
    with pytest.raises(ValueError, match=naming("model.revision", "v2", "owner/name")) as raised:
        resolve_model_path("owner/name", "v2")
    assert "\n" not in str(raised.value)
