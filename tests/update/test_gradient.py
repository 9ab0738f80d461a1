"""The optimizer step: scale, precision, what is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config import LoraConfig, UpdateConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import TrainingGroup
from gpg_vl.update.gradient import PassStats, accumulate_gradient, take_step
from gpg_vl.update.layouts import build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.policy import PolicyForward
from tests.support.builders import FAMILIES, make_sample, make_training_group

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
) -> list[tuple[PassStats, float]]:
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


def trained(adapter: QwenVLAdapter) -> dict[str, Tensor]:
    """The weights as the optimizer has them."""
    return {name: parameter.detach().clone() for name, parameter in adapter.trainable_parameters()}


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


@pytest.mark.parametrize("budget", [48, 8192])
def test_surprisal_is_that_of_all_trained_tokens(load: LoadModel, budget: int) -> None:
    """From the update's own pass, before it changes a weight; by plain rows here."""
    adapter = load()
    groups = make_groups(adapter)
    with torch.no_grad():
        rows = [plain_log_probs(adapter, g.prompt.encoded, c, 1.0) for g in groups for c in g.completions]
    [(stats, _)] = run_updates(adapter, groups, UpdateConfig(learning_rate=1e-3, tokens_per_micro_batch=budget))
    assert stats.num_tokens == sum(len(row) for row in rows) == 40
    assert stats.surprisal == pytest.approx(-float(sum(row.sum() for row in rows)), rel=1e-5)


def test_rows_that_level_the_passes_of_ranks_add_nothing(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where passes are collectives, one without an image gets a row with the smallest one."""
    adapter = load()
    groups = [
        make_training_group(adapter, make_sample(sizes, seed), lengths, seed)
        for seed, (sizes, lengths) in enumerate([([(84, 84)], [4, 7]), ([], [3, 5])])
    ]
    config, accelerator = UpdateConfig(tokens_per_micro_batch=48), Accelerator()
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), build_optimizer(adapter, config), 1.0)
    stats = []
    for is_levelled in (False, True):
        monkeypatch.setattr(type(layout), "needs_equal_passes", is_levelled)
        stats.append(accumulate_gradient(layout, groups, 3.0, config, adapter, accelerator))
    plain, levelled = stats
    assert levelled.num_padded_tokens > plain.num_padded_tokens
    assert levelled.num_tokens == plain.num_tokens == 19
    assert levelled.surprisal == pytest.approx(plain.surprisal, rel=1e-5)
    assert levelled.loss == pytest.approx(plain.loss, rel=1e-4)


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "model",
    [
        {"freeze": ["vision"]},
        {"freeze": ["projector", "text"]},
        {"freeze": ["text"]},
        {"freeze": []},
        {"lora": LoraConfig(r=4)},
        {"lora": LoraConfig(r=4, parts=["vision"])},
        {"lora": LoraConfig(r=4, parts=["text", "vision"]), "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_frozen_weights_stay_and_trained_ones_have_a_gradient_and_move(
    load: LoadModel, family: str, model: dict[str, Any]
) -> None:
    """Every single weight; an adapter moves in the second step, when its other half is no longer zero."""
    adapter = load(family, **model)
    before = weights(adapter)
    accelerator, config = Accelerator(), UpdateConfig(learning_rate=1e-3)
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), build_optimizer(adapter, config), 1.0)
    for _ in range(2):
        accumulate_gradient(layout, make_groups(adapter), 3.0, config, adapter, accelerator)
        graded = {n for n, p in adapter.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        take_step(layout, 1e-3)
    for name, weight in weights(adapter).items():
        is_trained = adapter.part_of(name) in adapter.config.trained_parts
        if "lora" in model:
            is_trained = is_trained and "lora_" in name
        assert (name in graded) == is_trained, name
        assert torch.equal(weight, before[name]) != is_trained, name


def test_rows_without_an_image_give_a_frozen_text_no_gradient(load: LoadModel) -> None:
    adapter = load(freeze=["text"])
    group = make_training_group(adapter, make_sample([]), [4, 7])
    before = weights(adapter)
    [(_, norm)] = run_updates(adapter, [group], UpdateConfig(learning_rate=1e-3))
    assert norm == 0
    assert displacement(adapter, before) == 0


def test_non_finite_gradient_leaves_the_weights(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    before = weights(adapter)
    [(_, norm)] = run_updates(adapter, groups, UpdateConfig(), denominator=float("nan"))
    assert not math.isfinite(norm)
    assert displacement(adapter, before) == 0


@pytest.mark.slow
def test_bfloat16_moves_the_weights_as_far_as_float32(load: LoadModel) -> None:
    """100 steps at lr 1e-6: without a float32 master, rounding would eat nearly all of it."""
    moved = {}
    for kind, dtype in (("float32", "float32"), ("autocast", "bfloat16"), ("rounded", "bfloat16")):
        adapter = load(dtype=dtype)
        if kind == "rounded":
            adapter.round_weights()
        before = trained(adapter)
        config = UpdateConfig(learning_rate=1e-6)
        run_updates(adapter, make_groups(adapter)[:1], config, steps=100)
        after = trained(adapter)
        moved[kind] = float(sum((after[n] - before[n]).double().pow(2).sum() for n in before) ** 0.5)
        for name, weight in adapter.model.named_parameters():
            assert torch.equal(weight, after[name].to(weight.dtype)), "the model computes with what was trained"
    assert moved["autocast"] == pytest.approx(moved["float32"], rel=0.1)
    assert moved["rounded"] == pytest.approx(moved["float32"], rel=0.1)


def learn(adapter: QwenVLAdapter, seed: int) -> Tensor:
    """Loss [5]: the mean over 20 steps each, of 100 steps on two of eight completions that ``seed`` draws."""
    group = make_training_group(adapter, make_sample([]), [6] * 8)
    draws, accelerator = torch.Generator().manual_seed(seed), Accelerator()
    config = UpdateConfig(learning_rate=1e-3)
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), build_optimizer(adapter, config), 1.0)
    losses = []
    for _ in range(100):
        chosen = [group.completions[i] for i in torch.randperm(8, generator=draws)[:2].tolist()]
        part = replace(group, completions=tuple(chosen), coefficients=((-1.0,) * 6,) * 2)
        losses.append(accumulate_gradient(layout, [part], 12.0, config, adapter, accelerator).loss)
        take_step(layout, config.learning_rate)
    return torch.tensor(losses).view(5, 20).mean(1)


@pytest.mark.slow
def test_bfloat16_weights_learn_as_autocast_does(load: LoadModel) -> None:
    """The loss curve over 100 steps, within what seeds differ by."""
    by_autocast = torch.stack([learn(load(dtype="bfloat16", freeze=["vision"]), seed) for seed in range(3)])
    adapter = load(dtype="bfloat16", freeze=["vision"])
    adapter.round_weights()
    curve = learn(adapter, seed=0)
    assert curve[-1] < 0.5 * curve[0], "there is something to learn"
    spread = by_autocast.amax(0) - by_autocast.amin(0)
    assert bool(((curve - by_autocast[0]).abs() < spread).all()), (curve, by_autocast)


def test_bfloat16_computes_in_bfloat16(load: LoadModel) -> None:
    seen = []
    adapter = load(dtype="bfloat16")
    layer = adapter.model.model.language_model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run_updates(adapter, make_groups(adapter), UpdateConfig())
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_memory_that_runs_out_halves_the_budget(
    load: LoadModel, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However torch says it: the gradient is the same."""
    expected = load()
    [(_, norm)] = run_updates(expected, make_groups(expected), UpdateConfig(learning_rate=1e-3))
    original = PolicyForward.forward

    def forward(module: Any, batch: Any, *prompt: Any) -> Tensor:
        if batch.input_ids.numel() > 60:
            raise error
        return original(module, batch, *prompt)

    monkeypatch.setattr(PolicyForward, "forward", forward)
    adapter = load()
    config = UpdateConfig(learning_rate=1e-3, tokens_per_micro_batch=256)
    [(stats, halved_norm)] = run_updates(adapter, make_groups(adapter), config)
    assert stats.tokens_per_micro_batch < 256 and stats.num_micro_batches > 1
    assert halved_norm == pytest.approx(norm, rel=1e-5)
    assert "update.tokens_per_micro_batch" in capsys.readouterr().err


def test_other_errors_of_the_update_are_raised(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(module: Any, batch: Any, *prompt: Any) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(PolicyForward, "forward", forward)
    adapter = load()
    with pytest.raises(RuntimeError, match="illegal"):
        run_updates(adapter, make_groups(adapter), UpdateConfig())
