"""A model of the hub, as it is in the cache of downloads of a machine without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

COMMIT = "0123456789" * 4


def put_on_hub(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies a model folder into a cache beside it.

    Args:
        name: owner/name
    """
    cache = folder.parent / "hub"
    cached = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
