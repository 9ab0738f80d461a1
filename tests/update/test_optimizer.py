"""The optimizer by part, and the learning rate as a function of the step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import get_args

import pytest
import torch

from gpg_vl.config import LoraConfig, UpdateConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.processes.sharding import LayoutName, Sharding
from gpg_vl.update.optimizer import (
    _make_adamw,
    build_optimizer,
    check_optimizer,
    learning_rate,
    refuse_shared_moments,
    set_learning_rate,
    show_trained_parts,
)
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]


def test_learning_rate_schedules() -> None:
    linear = UpdateConfig(learning_rate=2.0, warmup_steps=20, min_learning_rate_ratio=0.1)
    assert learning_rate(linear, 0, 80) == pytest.approx(2.0 / 20)
    assert learning_rate(linear, 40, 80) == pytest.approx(2.0 * 0.55)
    assert learning_rate(linear, 80, 80) == pytest.approx(0.2)
    cosine = UpdateConfig(learning_rate=2.0, schedule="cosine")
    assert [learning_rate(cosine, s, 80) for s in (0, 40, 80)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-12)
    constant = UpdateConfig(learning_rate=2.0, schedule="constant", warmup_steps=4)
    assert [learning_rate(constant, s, 80) for s in (0, 3, 79)] == pytest.approx([0.5, 2.0, 2.0])
    power = UpdateConfig(learning_rate=2.0, schedule="polynomial", schedule_options={"power": 2, "lr_end": 0})
    assert [learning_rate(power, s, 80) for s in (0, 40, 80)] == pytest.approx([2.0, 0.5, 0.0], abs=1e-12)
    restarts = UpdateConfig(learning_rate=2.0, schedule="cosine_with_restarts", schedule_options={"num_cycles": 2})
    assert [learning_rate(restarts, s, 80) for s in (0, 20, 40, 60)] == pytest.approx([2.0, 1.0, 2.0, 1.0])
    root = UpdateConfig(learning_rate=2.0, schedule="inverse_sqrt", schedule_options={"timescale": 10})
    assert learning_rate(root, 30, 80) == pytest.approx(1.0)


def test_options_of_another_schedule_are_refused() -> None:
    config = UpdateConfig(schedule="linear", schedule_options={"power": 2})
    with pytest.raises(ValueError, match=naming("update.schedule_options", "linear", "power")):
        learning_rate(config, 0, 10)


def test_adamw_is_fused_on_cuda(load: LoadModel) -> None:
    """Torch has the kernel on a CPU too, where it is asked for by name."""
    groups = [{"params": [parameter for _, parameter in load().trainable_parameters()]}]
    for is_fused in (False, True):
        assert bool(_make_adamw(groups, UpdateConfig(), is_fused=is_fused).defaults["fused"]) == is_fused
    assert not build_optimizer(load(), UpdateConfig()).defaults["fused"]


@pytest.mark.parametrize("layout", get_args(LayoutName))
def test_adamw_is_fused_where_a_layout_leaves_it_to_the_processors(load: LoadModel, layout: LayoutName) -> None:
    """One pass over the weights, by all threads; ordinary runs on a CPU are to stay as they are, to the bit."""
    optimizer = build_optimizer(load(), UpdateConfig(), Sharding(layout))
    assert bool(optimizer.defaults["fused"]) == (layout in ("fsdp_offload", "zero3_offload"))


def test_each_part_moves_at_its_own_rate(load: LoadModel) -> None:
    """AdamW's first step is the rate itself, whatever the gradient's size."""
    adapter = load()
    rates = {"vision": 1e-5, "projector": 3e-4}
    config = UpdateConfig(learning_rate=1e-3, learning_rates=rates)
    optimizer = build_optimizer(adapter, config)
    before = {name: p.detach().clone() for name, p in adapter.trainable_parameters()}
    for _, parameter in adapter.trainable_parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.5e-3)  # half-way down the schedule
    optimizer.step()
    for name, parameter in adapter.trainable_parameters():
        expected = 0.5 * rates.get(adapter.part_of(name), 1e-3)
        moved = before[name] - parameter.detach()
        assert torch.allclose(moved, torch.full_like(moved, expected), rtol=1e-2, atol=1e-7), name


def test_groups_hold_the_weights_in_order(load: LoadModel) -> None:
    """A checkpoint names the optimizer's state by that order."""
    for model in ({}, {"freeze": ["projector"]}, {"lora": LoraConfig(parts=["text", "vision"])}):
        adapter = load(**model)
        groups = build_optimizer(adapter, UpdateConfig()).param_groups
        held = [id(parameter) for group in groups for parameter in group["params"]]
        assert held == [id(parameter) for _, parameter in adapter.trainable_parameters()]
        assert len(groups) == len(adapter.config.trained_parts)


def test_fused_adamw_takes_the_same_step(load: LoadModel) -> None:
    results = []
    for optimizer in ("adamw", "adamw_fused"):
        adapter = load()
        built = build_optimizer(adapter, UpdateConfig(learning_rate=1e-3, optimizer=optimizer))
        assert bool(built.param_groups[0]["fused"]) == (optimizer == "adamw_fused")
        generator = torch.Generator().manual_seed(0)
        for _, parameter in adapter.trainable_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        set_learning_rate(built, 1e-3)
        built.step()
        results.append([parameter.detach() for _, parameter in adapter.trainable_parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_8_bit_adamw_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config, cpu = UpdateConfig(optimizer="adamw_8bit"), torch.device("cpu")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(ValueError, match=naming("bitsandbytes", "gpg-vl[bnb]", "adamw")):
        check_optimizer(config, cpu)
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU that model.device: cpu leaves alone
    with pytest.raises(ValueError, match=naming("adamw_8bit", "CUDA", "adamw")):
        check_optimizer(config, cpu)


def test_8_bit_adamw_is_refused_where_moments_are_shared() -> None:
    config = UpdateConfig(optimizer="adamw_8bit")
    for name, title in (("zero1", "ZeRO-1"), ("fsdp", "FSDP2")):
        with pytest.raises(ValueError, match=naming(title, "adamw")):
            refuse_shared_moments(config, Sharding(name))  # type: ignore[arg-type]
        refuse_shared_moments(UpdateConfig(), Sharding(name))  # type: ignore[arg-type]
    refuse_shared_moments(config, Sharding("none"))


def test_table_of_trained_parts(load: LoadModel, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = load(freeze=["vision"])
    capsys.readouterr()
    show_trained_parts(adapter, adapter.config, UpdateConfig(learning_rate=1e-6, learning_rates={"text": 2e-6}))
    rows = [line.split() for line in capsys.readouterr().err.splitlines()[1:]]
    counted = dict.fromkeys(("vision", "projector", "text"), 0)
    for name, parameter in adapter.model.named_parameters():
        counted[adapter.part_of(name)] += parameter.numel()
    assert rows == [
        ["vision", f"{counted['vision']:,}", "0", "-"],
        ["projector", f"{counted['projector']:,}", f"{counted['projector']:,}", "1e-06"],
        ["text", f"{counted['text']:,}", f"{counted['text']:,}", "2e-06"],
    ]
