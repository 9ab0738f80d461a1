"""Kernels of norms and gated layers against transformers' own code, on a CPU.

Liger's run by Triton's interpreter, if liger-kernel is installed; those of torch.compile are built for the CPU.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl import cli
from gpg_vl.config import ModelConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.kernels import KNOWN_TYPES, refuse_kernels, use_kernels
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Sample
from gpg_vl.update import handing_out
from tests.support.builders import SMALL_IMAGES
from tests.support.messages import lines_naming, naming

CUDA = torch.device("cuda")
LoadModel = Callable[..., QwenVLAdapter]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("liger")
    return lambda family: str(write_tiny_model(root / family, family=family, seed=1))


@pytest.mark.parametrize("kernels", ["liger", pytest.param("compiled", marks=pytest.mark.slow)])
def test_each_module_gives_what_transformers_gives_with_the_same_gradients(kernels: str) -> None:
    """To 1e-5 relative, in float32; and a norm or a gate by another formula shows."""
    if kernels == "liger" and importlib.util.find_spec("liger_kernel") is None:
        pytest.skip("liger-kernel is not installed")
    if kernels == "compiled" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on a CPU")
    words = [sys.executable, "-m", "tests.support.kernel_errors", kernels]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    wrong = {name: found.pop(name) for name in ("norm", "gate")}
    assert len(found) == 7 and max(found.values()) < 1e-5, found
    assert min(wrong.values()) > 1e-2, wrong


# --- what is changed, and where ---


@pytest.mark.parametrize("family", KNOWN_TYPES)
def test_the_norms_and_gated_layers_of_one_model_are_replaced(folders: Callable[[str], str], family: str) -> None:
    config = ModelConfig(path=folders(family), **SMALL_IMAGES)  # type: ignore[arg-type]
    model, other = load_adapter(config).model, load_adapter(config).model  # type: ignore[attr-defined]
    names = set(model.state_dict())
    use_kernels(model, "compiled")
    replaced = {name for name, module in model.named_modules() if "forward" in vars(module)}
    norms = {name for name, module in model.named_modules() if "RMSNorm" in type(module).__name__}
    gated = {name for name, module in model.named_modules() if hasattr(module, "gate_proj")}
    assert replaced == norms | gated
    assert any("language_model.layers.0.mlp" in name for name in gated) and len(norms) >= 5
    assert not any("forward" in vars(module) for module in other.modules())
    assert set(model.state_dict()) == names
    copied = copy.deepcopy(model)  # as FSDP2's second body is
    assert all(module.forward.__self__ is module for module in copied.modules() if "forward" in vars(module))


def test_an_activation_that_is_no_swish_stays(load: LoadModel) -> None:
    model = load().model
    model.model.language_model.layers[0].mlp.act_fn = torch.nn.GELU()
    use_kernels(model, "compiled")
    assert ["forward" in vars(layer.mlp) for layer in model.model.language_model.layers[:2]] == [False, True]


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
def test_the_policy_alone_has_them(model_folders: dict[str, Path], kernels: Any) -> None:
    """Not a model that is evaluated or asked, nor the initial one."""
    config = ModelConfig(path=str(model_folders["qwen2_vl"]), kernels=kernels, **SMALL_IMAGES)  # type: ignore[arg-type]

    class Alone:
        is_main_process, num_processes = True, 1

    policy: Any = handing_out.load_policy(config, Alone())  # type: ignore[arg-type]
    assert ("forward" in vars(policy.model.model.language_model.norm)) == (kernels == "compiled")
    assert "forward" not in vars(load_adapter(config).model.model.language_model.norm)  # type: ignore[attr-defined]


# --- what is refused ---


def test_each_lack_is_named_with_the_way_out(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, config = str(model_folders["qwen2_vl"]), ModelConfig(kernels="liger")
    is_installed = [False]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed[0] else None)
    with pytest.raises(ValueError, match=naming("model.kernels", "not installed", "gpg-vl[liger]", "torch")):
        refuse_kernels(config, known, CUDA)
    is_installed[0] = True
    with pytest.raises(ValueError, match=naming("model.kernels", "CUDA", "torch")):
        refuse_kernels(config, known, torch.device("cpu"))
    other = str(write_tiny_model(tmp_path / "other", family="gemma3"))
    with pytest.raises(ValueError, match=naming("model.kernels", "qwen2_5_vl", other, "gemma3", "torch")) as caught:
        refuse_kernels(config, other, CUDA)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=naming("model.kernels", "compiled", "CUDA", "torch")):
        refuse_kernels(ModelConfig(kernels="compiled"), known, torch.device("cpu"))
    refuse_kernels(config, known, CUDA)
    refuse_kernels(ModelConfig(), other, torch.device("cpu"))


def test_a_run_is_refused_before_its_model_is_loaded(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    for module in ("gpg_vl.preflight.trial", "gpg_vl.update.handing_out"):
        monkeypatch.setattr(f"{module}.load_adapter", fail)
    write_jsonl([Sample("a", "counting", (), "How many?", "4")], tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    model = f"{{path: {model_folders['qwen2_vl']}, device: cpu, kernels: liger}}"
    (tmp_path / "recipe.yaml").write_text(
        f"{{model: {model}, data: {{train: [rows.jsonl]}}, run: {{output_dir: run}}}}"
    )
    assert cli.main(["train", "recipe.yaml"]) == 2
    assert lines_naming(capsys.readouterr().err, "model.kernels", "torch")
