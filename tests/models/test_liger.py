"""Liger's kernels against transformers' own code: by Triton's interpreter on a CPU, if liger-kernel is installed."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpg_vl import cli
from gpg_vl.config import ModelConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.models import liger, load_adapter
from gpg_vl.models.liger import refuse_without_liger, use_liger
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Sample
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update import fsdp
from tests.support.builders import SMALL_IMAGES
from tests.support.groups import make_groups, packed_gradients, worst_relative_error
from tests.support.messages import lines_naming, naming

CUDA = torch.device("cuda")
LoadModel = Callable[..., QwenVLAdapter]

needs_liger = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed"
)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton reads it where a kernel is defined; its interpreter has no functions of CUDA's library."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    norms, triton = import_module("liger_kernel.ops.rms_norm"), import_module("triton.language.math")
    monkeypatch.setattr(norms, "rsqrt", triton.rsqrt)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("liger")
    return lambda family: str(write_tiny_model(root / family, family=family, seed=1))


@needs_liger
@pytest.mark.parametrize("family", liger.FAMILIES)
def test_gradients_and_tokens_equal_those_of_transformers(
    folders: Callable[[str], str], interpreted: None, family: str
) -> None:
    adapter: Any = load_adapter(ModelConfig(path=folders(family), **SMALL_IMAGES))  # type: ignore[arg-type]
    groups = make_groups(adapter)[:3]
    prompts = [group.prompt for group in groups[:2]]
    expected, tokens = packed_gradients(adapter, groups), greedy(adapter, prompts)
    use_liger(adapter.model)
    assert worst_relative_error(packed_gradients(adapter, groups), expected) < 1e-5
    assert greedy(adapter, prompts) == tokens


def greedy(adapter: QwenVLAdapter, prompts: list[Any]) -> list[tuple[int, ...]]:
    groups = HfEngine(adapter, 10**6).generate(prompts, 1, Sampling(4, 0.0), [(n,) for n in range(len(prompts))])
    return [group.completions[0].token_ids for group in groups]


def with_offset(module: Any, states: Tensor) -> Tensor:
    """As Gemma's weights are meant."""
    from liger_kernel.transformers.functional import liger_rms_norm

    return liger_rms_norm(states, module.weight, module.variance_epsilon, 1.0, in_place=False)  # type: ignore[no-any-return]


def with_gates_changed(module: Any, states: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_swiglu

    return module.down_proj(liger_swiglu(module.up_proj(states), module.gate_proj(states)))  # type: ignore[no-any-return]


@needs_liger
@pytest.mark.parametrize(("name", "wrong"), [("_norm", with_offset), ("_gate", with_gates_changed)])
def test_another_formula_shows(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, interpreted: None, name: str, wrong: Callable[..., Tensor]
) -> None:
    adapter = load("qwen2_5_vl")
    groups = make_groups(adapter)[:1]
    expected = packed_gradients(adapter, groups)
    monkeypatch.setattr(liger, name, wrong)
    use_liger(adapter.model)
    assert worst_relative_error(packed_gradients(adapter, groups), expected) > 1e-3


# --- what is changed, and where ---


@pytest.mark.parametrize("family", liger.FAMILIES)
def test_the_norms_and_gated_layers_of_one_model_are_replaced(folders: Callable[[str], str], family: str) -> None:
    config = ModelConfig(path=folders(family), **SMALL_IMAGES)  # type: ignore[arg-type]
    model, other = load_adapter(config).model, load_adapter(config).model  # type: ignore[attr-defined]
    names = set(model.state_dict())
    use_liger(model)
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
    use_liger(model)
    assert ["forward" in vars(layer.mlp) for layer in model.model.language_model.layers[:2]] == [False, True]


@pytest.mark.parametrize("kernels", ["torch", "liger"])
def test_the_policy_alone_has_them(model_folders: dict[str, Path], kernels: Any) -> None:
    """Not a model that is evaluated or asked, nor the initial one."""
    config = ModelConfig(path=str(model_folders["qwen2_vl"]), kernels=kernels, **SMALL_IMAGES)  # type: ignore[arg-type]

    class Alone:
        is_main_process, num_processes = True, 1

    policy: Any = fsdp.load_policy(config, Alone())  # type: ignore[arg-type]
    assert ("forward" in vars(policy.model.model.language_model.norm)) == (kernels == "liger")
    assert "forward" not in vars(load_adapter(config).model.model.language_model.norm)  # type: ignore[attr-defined]


# --- what is refused ---


def test_each_lack_is_named_with_the_way_out(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, config = str(model_folders["qwen2_vl"]), ModelConfig(kernels="liger")
    is_installed = [False]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed[0] else None)
    with pytest.raises(ValueError, match=naming("model.kernels", "not installed", "gpg-vl[liger]", "torch")):
        refuse_without_liger(config, known, CUDA)
    is_installed[0] = True
    with pytest.raises(ValueError, match=naming("model.kernels", "CUDA", "torch")):
        refuse_without_liger(config, known, torch.device("cpu"))
    other = str(write_tiny_model(tmp_path / "other", family="gemma3"))
    with pytest.raises(ValueError, match=naming("model.kernels", "qwen2_5_vl", other, "gemma3", "torch")) as caught:
        refuse_without_liger(config, other, CUDA)
    assert "\n" not in str(caught.value)
    refuse_without_liger(config, known, CUDA)
    refuse_without_liger(ModelConfig(), other, torch.device("cpu"))


def test_a_run_is_refused_before_its_model_is_loaded(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    for module in ("gpg_vl.preflight.trial", "gpg_vl.update.fsdp"):
        monkeypatch.setattr(f"{module}.load_adapter", fail)
    write_jsonl([Sample("a", "counting", (), "How many?", "4")], tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    words = ["--model.path", str(model_folders["qwen2_vl"]), "--data.train", "[rows.jsonl]", "--model.device", "cpu"]
    assert cli.main(["train", *words, "--model.kernels", "liger", "--run.output_dir", "run"]) == 2
    assert lines_naming(capsys.readouterr().err, "model.kernels", "torch")
