"""A real tiny model of a family whose images are tiles and whose positions have one axis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.llava_onevision import LlavaOnevisionAdapter
from gpg_vl.models.tiny import write_tiny_model

LLAVA = {"dtype": "float32", "min_pixels": 400, "max_tiles": 4, "frame": "grid_1000"}


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "llava", "llava_onevision", seed=1)


@pytest.fixture
def load_llava(llava_folder: Path) -> Callable[..., LlavaOnevisionAdapter]:
    """Loads a fresh one."""

    def load(**config: object) -> LlavaOnevisionAdapter:
        options = {"path": str(llava_folder), **LLAVA, **config}
        return load_adapter(ModelConfig(**options))  # type: ignore[arg-type, return-value]

    return load
