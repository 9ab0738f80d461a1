"""vLLM in the process of the policy: too little memory for it; and vLLM itself, on a CPU: ``make test-vllm``.

That is no mock, but that it cannot sleep there. The environment of ``make setup-vllm`` has what vllm needs. What the
kit needs beside that, this process lends it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl.config import VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.rollout.served import local, vllm_backend
from gpg_vl.rollout.served.local import LocalEngine
from gpg_vl.rollout.served.parity import MAX_GAP, Comparison
from tests.support.messages import lines_naming, naming
from tests.support.served_messages import VERSION
from tests.support.vllm_servers import PYTHON, ROOT, START_SECONDS

LENT = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module("tests.support.colocated_vllm", run_name="__main__", alter_sys=True)
"""


def test_a_gpu_with_too_little_memory_is_refused_before_the_engine_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    config = VllmConfig(mode="colocate", gpu_memory=0.5)
    local.check_free_memory(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    free = [40 * 2**30]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[0], 80 * 2**30))
    local.check_free_memory(config)
    free[0] -= 2**30
    with pytest.raises(ValueError, match=naming("40.0 GiB", "39.0 GiB free", "rollout.vllm.gpu_memory")):
        local.check_free_memory(config)


def test_an_engine_that_does_not_fit_names_the_keys(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vllm_backend, "VllmBackend", fail)
    with pytest.raises(
        ValueError, match=naming("out of memory", "rollout.vllm.gpu_memory", "rollout.vllm.max_model_len")
    ):
        local.start_local_engine(load(), VllmConfig(mode="colocate"), 1)


class Recording:
    """An engine that keeps what it is told to do, and fails at some of it."""

    def __init__(self, *failing: str):
        self.told: list[str] = []
        self._failing = failing

    def describe(self) -> dict[str, str | int]:
        return {"engine": "recording", "dtype": "float32", "context_length": 512, "max_images": 8}

    def _do(self, what: str) -> None:
        self.told.append(what)
        assert what not in self._failing, f"{what} does not work"

    def wake(self) -> None:
        self._do("wake")

    def take_weights(self, weights: Iterator[Any]) -> None:
        assert [*weights]
        self._do("take_weights")

    def sleep(self) -> None:
        self._do("sleep")

    def shut_down(self) -> None:
        self._do("shut_down")


def make_local(load: Any, backend: Any) -> LocalEngine:
    adapter = load()
    return LocalEngine(backend, adapter, Comparison(adapter, VllmConfig(mode="colocate")))


def test_memory_that_torch_keeps_is_given_back_before_the_engine_takes_its_own(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Recording()
    engine = make_local(load, backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: backend.told.append("empty_cache"))
    with engine.ready(VERSION):
        assert backend.told == ["empty_cache", "wake", "take_weights"]


def test_an_engine_that_cannot_sleep_has_failed(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shut down, as one that fails at anything else, and the run goes on without it."""
    backend = Recording("sleep")
    engine = make_local(load, backend)
    for _ in range(2):
        with engine.ready(VERSION):
            pass
    assert backend.told == ["wake", "take_weights", "sleep", "shut_down"]
    assert lines_naming(capsys.readouterr().err, "rollout", "AssertionError", "sleep does not work")


def test_an_engine_that_cannot_sleep_hides_nothing(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError, match="rows"), make_local(load, Recording("sleep", "shut_down")).ready(VERSION):
        raise KeyError("rows")
    assert lines_naming(capsys.readouterr().err, "rollout", "shut_down does not work")
    with (
        pytest.raises(AssertionError, match="shut_down"),
        make_local(load, Recording("sleep", "shut_down")).ready(VERSION),
    ):
        pass


NO_ROOM = (
    "Free memory on device cuda:0 (1/80 GiB) on startup is less than desired GPU memory utilization (0.3, 24 GiB)."
)
OF_PYDANTIC = """1 validation error for ModelConfig
  Value error, Model architectures ['Qwen9ForAnything'] are not supported for now. [type=value_error, input_value=A()]
    For further information visit https://errors.pydantic.dev/2.12/v/value_error"""
OF_A_FIELD = """1 validation error for CacheConfig
block_size
  Input should be a valid integer [type=int_type, input_value='a', input_type=str]
    For further information visit https://errors.pydantic.dev/2.12/v/int_type"""
UNKNOWN = "Model architectures ['Qwen9ForAnything'] are not supported for now."


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(NO_ROOM), NO_ROOM),
        (ValueError(OF_PYDANTIC), UNKNOWN),
        (ValueError(OF_A_FIELD), "Input should be a valid integer"),
        (Exception("WorkerProc initialization failed\nsee above"), "WorkerProc initialization failed"),
        (RuntimeError("Engine core initialization failed"), "Engine core initialization failed"),
        (AssertionError("Memory usage increased after sleeping."), "Memory usage increased after sleeping."),
        (ImportError("libcudart.so.13: cannot open shared object file"), "libcudart.so.13"),
        (KeyError("model.layers.0"), "model.layers.0"),
    ],
)
def test_an_engine_that_does_not_start_says_why(
    load: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(vllm_backend, "VllmBackend", lambda *_: raise_(error))
    with pytest.raises(ValueError, match=naming(reason, "rollout.vllm.gpu_memory")) as caught:
        local.start_local_engine(load(), VllmConfig(mode="colocate"), 1)
    assert "\n" not in str(caught.value)


def test_an_engine_that_cannot_sleep_at_first_says_why(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_backend, "VllmBackend", lambda *_: Recording("sleep"))
    with pytest.raises(ValueError, match=naming("sleep does not work", "rollout.vllm.gpu_memory")):
        local.start_local_engine(load(), VllmConfig(mode="colocate"), 1)


@pytest.mark.parametrize("inside", ["checkpoint-2", "."])
def test_it_reads_the_model_that_the_policy_has_read(
    load: Any, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    """Of a run, the newest checkpoint."""
    shutil.copytree(model_folders["qwen2_vl"], tmp_path / inside, dirs_exist_ok=True)
    adapter = load_adapter(replace(load().config, path=str(tmp_path)))
    models: list[str] = []
    monkeypatch.setattr(vllm_backend, "VllmBackend", lambda model, _: models.append(model) or Recording())
    local.start_local_engine(adapter, VllmConfig(mode="colocate"), 1)
    assert [Path(each).resolve() for each in models] == [(tmp_path / inside).resolve()]


def test_its_revision_is_that_of_the_policy(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, asked = load(), []
    adapter.config = replace(adapter.config, path="owner/name", revision="v2")
    monkeypatch.setattr(local, "resolve_model_path", lambda *named: asked.append(named) or "snapshot")
    monkeypatch.setattr(vllm_backend, "VllmBackend", lambda model, _: asked.append(model) or Recording())
    local.start_local_engine(adapter, VllmConfig(mode="colocate"), 1)
    assert asked == [("owner/name", "v2"), "snapshot"]


def raise_(error: Exception) -> None:
    raise error


def test_the_process_is_as_it_was_before_it(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's workers set how exact products are, and put what there is beyond the reach of the collector."""
    adapter, kept = load(), (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    for precision, has_tf32 in (("high", True), ("highest", False)):

        class Careless:
            def __init__(self, *_: object) -> None:
                torch.set_float32_matmul_precision("medium")
                torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
                gc.freeze()

            def sleep(self) -> None:
                pass

        monkeypatch.setattr(vllm_backend, "VllmBackend", Careless)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = has_tf32
        local.start_local_engine(adapter, VllmConfig(mode="colocate"), 1)
        found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, gc.get_freeze_count()
        assert found == (precision, has_tf32, 0)
    torch.set_float32_matmul_precision(kept[0])
    torch.backends.cudnn.allow_tf32 = kept[1]


@pytest.mark.vllm
def test_it_takes_the_weights_of_the_policy_from_memory(vllm_model: Path) -> None:
    """Before and after all of them changed, and those of a LoRA adapter added in; without either reset it does not."""
    command = [str(PYTHON), "-c", LENT, sysconfig.get_path("purelib"), str(vllm_model)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=2 * START_SECONDS, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    print(seen)
    without = [seen.pop(step) for step in ("_forget_prefixes", "_forget_images")]
    assert all(gap == "it died" or gap > 10 * MAX_GAP["float32"] for gap in without)
    assert seen.pop("files") == []
    assert "Traceback" not in ran.stderr, ran.stderr[-3000:]
    gaps = [seen.pop(name) for name in [*seen] if name.startswith("gap")]
    assert len(gaps) == 4 and max(gaps) < MAX_GAP["float32"]
    assert len(seen) == 5 and all(seen.values()), seen
