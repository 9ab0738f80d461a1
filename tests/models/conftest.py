"""A real tiny model of a family that the kit does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families import FAMILIES
from tests.support.llava_onevision import FAMILY, LLAVA_LIMITS, write_tiny_llava
from tests.support.llava_onevision_adapter import LlavaOnevisionAdapter


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("models") / "llava", seed=1)


@pytest.fixture
def load_llava(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LlavaOnevisionAdapter]:
    """Loads a fresh one, with the family in the kit's list: all that it needs there."""
    monkeypatch.setitem(FAMILIES, "llava_onevision", FAMILY)

    def load(**config: object) -> LlavaOnevisionAdapter:
        options = {"path": str(llava_folder), **LLAVA_LIMITS, **config}
        return load_adapter(ModelConfig(**options))  # type: ignore[arg-type, return-value]

    return load
