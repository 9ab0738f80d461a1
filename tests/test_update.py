"""The optimizer step: scale, precision, what is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from builders import make_sample, make_training_group
from gpg_vl.config import UpdateConfig
from gpg_vl.layouts import build_layout
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.optimizer import build_optimizer, learning_rate
from gpg_vl.records import TrainingGroup
from gpg_vl.update import PolicyForward, UpdateStats, accumulate_gradient, take_step

LoadModel = Callable[..., QwenVLAdapter]


def make_groups(adapter: QwenVLAdapter) -> list[TrainingGroup]:
    return [
        make_training_group(adapter, make_sample([(84, 84)], seed), lengths, seed)
        for seed, lengths in enumerate(([4, 7, 2], [3, 3, 9], [1, 6, 5]))
    ]


def run_updates(
    adapter: QwenVLAdapter,
    groups: Sequence[TrainingGroup],
    config: UpdateConfig,
    steps: int = 1,
    denominator: float = 3.0,
) -> list[tuple[UpdateStats, float]]:
    """Of each step, and the norm of its gradient."""
    accelerator = Accelerator()
    forward, optimizer = PolicyForward(adapter, 1.0), build_optimizer(adapter, config)
    layout = build_layout(accelerator, forward, optimizer, config.max_grad_norm)
    results = []
    for _ in range(steps):
        stats = accumulate_gradient(layout, groups, denominator, config, adapter, accelerator)
        results.append((stats, take_step(layout, config.learning_rate)))
    return results


def weights(adapter: QwenVLAdapter) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in adapter.model.named_parameters()}


def displacement(adapter: QwenVLAdapter, before: dict[str, Tensor]) -> float:
    return float(sum((w - before[n]).double().pow(2).sum() for n, w in weights(adapter).items()) ** 0.5)


def test_weights_do_not_depend_on_the_budget(load: LoadModel) -> None:
    results, stats = [], []
    for budget in (48, 8192):
        adapter = load()
        config = UpdateConfig(learning_rate=1e-3, tokens_per_micro_batch=budget)
        stats += run_updates(adapter, make_groups(adapter), config)
        results.append(weights(adapter))
    (small, small_norm), (large, large_norm) = stats
    assert small.num_micro_batches > 1 == large.num_micro_batches
    assert small.loss == pytest.approx(large.loss, rel=1e-5)
    assert small_norm == pytest.approx(large_norm, rel=1e-5)


def test_the_same_update_gives_the_same_bits_on_several_threads(load: LoadModel) -> None:
    """Large enough for the threads to share the work; the prompt's last token feeds every completion."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        results = []
        for _ in range(6):
            adapter = load()
            groups = [
                make_training_group(adapter, make_sample([(84, 84)], seed), [24] * 16, seed) for seed in range(16)
            ]
            run_updates(adapter, groups, UpdateConfig(learning_rate=1e-3))
            results.append(weights(adapter))
    finally:
        torch.set_num_threads(num_threads)
    assert all(torch.equal(other[name], results[0][name]) for other in results[1:] for name in other)


def test_loss_and_gradient_scale_with_the_denominator(load: LoadModel) -> None:
    config = UpdateConfig()
    [(one, norm_of_one)] = run_updates(load(), make_groups(load()), config, denominator=1.0)
    [(ten, norm_of_ten)] = run_updates(load(), make_groups(load()), config, denominator=10.0)
    assert one.loss == pytest.approx(10 * ten.loss, rel=1e-5)
    assert norm_of_one == pytest.approx(10 * norm_of_ten, rel=1e-4)


def test_gradient_is_clipped(load: LoadModel) -> None:
    """Plain SGD shows the clipped gradient as the weights' displacement."""
    adapter = load()
    before = weights(adapter)
    accelerator = Accelerator()
    optimizer = torch.optim.SGD(adapter.model.parameters(), lr=1.0)
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), optimizer, max_grad_norm=0.01)
    accumulate_gradient(layout, make_groups(adapter), 1.0, UpdateConfig(), adapter, accelerator)
    assert take_step(layout, 1.0) > 0.1
    assert displacement(adapter, before) == pytest.approx(0.01, rel=1e-2)


def test_frozen_parts_stay_and_trained_parts_move(load: LoadModel) -> None:
    for frozen in (["vision"], ["projector", "text"], ["text"]):
        adapter = load(freeze=frozen)
        before = weights(adapter)
        run_updates(adapter, make_groups(adapter), UpdateConfig(learning_rate=1e-3))
        for name, weight in weights(adapter).items():
            moved = not torch.equal(weight, before[name])
            assert moved == (adapter.part_of(name) not in frozen), name


def test_non_finite_gradient_leaves_the_weights(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    before = weights(adapter)
    [(_, norm)] = run_updates(adapter, groups, UpdateConfig(), denominator=float("nan"))
    assert not math.isfinite(norm)
    assert displacement(adapter, before) == 0


def test_bfloat16_moves_the_weights_as_far_as_float32(load: LoadModel) -> None:
    """100 steps at lr 1e-6: without a float32 master, rounding would eat nearly all of it."""
    moved = {}
    for dtype in ("float32", "bfloat16"):
        adapter = load(dtype=dtype)
        before = weights(adapter)
        config = UpdateConfig(learning_rate=1e-6)
        run_updates(adapter, make_groups(adapter)[:1], config, steps=100)
        moved[dtype] = displacement(adapter, before)
    assert moved["bfloat16"] == pytest.approx(moved["float32"], rel=0.1)


def test_bfloat16_computes_in_bfloat16(load: LoadModel) -> None:
    seen = []
    adapter = load(dtype="bfloat16")
    layer = adapter.model.model.language_model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run_updates(adapter, make_groups(adapter), UpdateConfig())
    assert set(seen) == {torch.bfloat16}


def test_learning_rate_schedules() -> None:
    linear = UpdateConfig(learning_rate=2.0, warmup_steps=20, min_learning_rate_ratio=0.1)
    assert learning_rate(linear, 0, 80) == pytest.approx(2.0 / 20)
    assert learning_rate(linear, 40, 80) == pytest.approx(2.0 * 0.55)
    assert learning_rate(linear, 80, 80) == pytest.approx(0.2)
    cosine = UpdateConfig(learning_rate=2.0, schedule="cosine")
    assert [learning_rate(cosine, s, 80) for s in (0, 40, 80)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-12)
    constant = UpdateConfig(learning_rate=2.0, schedule="constant", warmup_steps=4)
    assert [learning_rate(constant, s, 80) for s in (0, 3, 79)] == pytest.approx([0.5, 2.0, 2.0])
