"""Real tiny models of the real classes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers have it from the process that starts them
    datasets_cache = tempfile.TemporaryDirectory(prefix="gpg-vl-datasets-")  # gone when the tests have ended
    os.environ["HF_DATASETS_CACHE"] = datasets_cache.name

# in a background job of a shell, or under nohup, what the tests start would ignore these signals, as it should there
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.tiny import write_tiny_model
from tests.support.builders import FAMILIES, SMALL_IMAGES
from tests.support.vllm_servers import Server, running


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: write_tiny_model(root / family, family=family, seed=1) for family in (*FAMILIES, "qwen3_vl")}


@pytest.fixture
def load(model_folders: dict[str, Path]) -> Callable[..., QwenVLAdapter]:
    """Loads a fresh tiny model: ``load("qwen2_vl", attention="eager")``."""

    def load_family(family: str = "qwen2_vl", **config: object) -> QwenVLAdapter:
        options = {"path": str(model_folders[family]), **SMALL_IMAGES, **config}
        return load_adapter(ModelConfig(**options))  # type: ignore[arg-type]

    return load_family


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("vllm") / "tiny", family="qwen2_vl", seed=1)


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory, vllm_model: Path) -> Iterator[Server]:
    """One server of ``gpg-vl serve-rollouts`` for the tests that leave it as it is (``make test-vllm``)."""
    with running(vllm_model, tmp_path_factory.mktemp("weights")) as server:
        yield server
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
