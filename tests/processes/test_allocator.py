"""The setting of torch's allocator: the kit's where nobody has one, and none beside a colocated vLLM."""

from __future__ import annotations

import os

import pytest

from gpg_vl import train as train_module
from gpg_vl.config import Recipe, RolloutConfig, VllmConfig
from gpg_vl.processes.allocator import let_blocks_grow

NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in NAMES})


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_blocks_grow() -> None:
    let_blocks_grow(RolloutConfig())
    assert settings() == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def test_training_says_so_before_it_uses_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def start_ranks(*, on_cpu: bool) -> None:
        assert settings()
        raise Started

    monkeypatch.setattr(train_module, "start_ranks", start_ranks)
    with pytest.raises(Started):
        train_module.train(Recipe())


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_of_the_users_own_stays(name: str) -> None:
    os.environ[name] = "max_split_size_mb:128"
    let_blocks_grow(RolloutConfig())
    assert settings() == {name: "max_split_size_mb:128"}


def test_not_where_vllm_sleeps_in_the_same_process() -> None:
    let_blocks_grow(RolloutConfig(engine="vllm", vllm=VllmConfig(mode="colocate")))
    assert settings() == {}
    let_blocks_grow(RolloutConfig(engine="vllm", vllm=VllmConfig(mode="server", servers=["http://host:1"])))
    assert settings() != {}
