"""Weights of truncated importance sampling, and the gradient that they make."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.config import Recipe, RolloutConfig, UpdateConfig
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import TrainingGroup
from gpg_vl.update.gradient import accumulate_gradient
from gpg_vl.update.importance import Importance
from gpg_vl.update.layouts import build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.policy import PolicyForward
from tests.support.builders import make_sample, make_training_group

LOG_PROBS = torch.tensor([-1.0, -2.0, -0.5, -3.0, -1.0, -9.0])
KEPT = torch.tensor([-1.0, -3.0, -1.0, -2.5, -1.5])
LENGTHS = [2, 1, 2]


def test_each_token_by_its_own_ratio() -> None:
    weights = Importance("token", 2.0).weights(LOG_PROBS, KEPT, LENGTHS)
    expected = [1.0, 2.0, math.exp(0.5), math.exp(-0.5), math.exp(0.5), 1.0]
    assert weights.tolist() == pytest.approx(expected)


def test_each_completion_by_the_product() -> None:
    weights = Importance("sequence", 2.0).weights(LOG_PROBS, KEPT, LENGTHS)
    assert weights.tolist() == pytest.approx([2.0, 2.0, math.exp(0.5), 1.0, 1.0, 1.0])
    uncut = Importance("sequence", 9.0).weights(LOG_PROBS, KEPT, LENGTHS)
    assert uncut.tolist() == pytest.approx([math.e, math.e, math.exp(0.5), 1.0, 1.0, 1.0])


def test_no_gradient_goes_through_a_weight() -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    assert not Importance("token", 2.0).weights(log_probs, KEPT, LENGTHS).requires_grad


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_without_kept_log_probs_every_weight_is_one(per: str) -> None:
    weights = Importance(per, 2.0).weights(LOG_PROBS, torch.empty(0), [])  # type: ignore[arg-type]
    assert weights.tolist() == [1.0] * 6


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_the_mean_under_the_engine_is_that_under_the_policy(per: str) -> None:
    """E_q[p/q f] = E_p[f], over all completions of two tokens of a vocabulary of three, with f different for each."""
    q, p = (torch.randn(2, 3, generator=torch.Generator().manual_seed(n)).log_softmax(-1) for n in (0, 1))
    if per == "token":
        q[0] = p[0]  # a token's own weight is exact where what came before it is as likely
    under_q = under_p = 0.0
    for a in range(3):
        for b in range(3):
            ids = torch.tensor([a, b])
            of_q, of_p = q.gather(1, ids[:, None])[:, 0], p.gather(1, ids[:, None])[:, 0]
            weights = Importance(per, 1e9).weights(of_p, of_q, [2])  # type: ignore[arg-type]
            under_q += float(of_q.sum().exp() * weights[1] * (3 * a + b))
            under_p += float(of_p.sum().exp() * (3 * a + b))
    assert under_q == pytest.approx(under_p, abs=1e-5)


@pytest.mark.parametrize("budget", [48, 65536])
@pytest.mark.parametrize("per", ["token", "sequence"])
def test_the_gradient_is_that_of_weighted_coefficients(load: Any, per: str, budget: int) -> None:
    """Of an engine whose log-probs differ in every second token, over one micro-batch and several."""
    adapter, config, importance = load(), UpdateConfig(tokens_per_micro_batch=budget), Importance(per, 1.5)  # type: ignore[arg-type]
    groups = [
        make_training_group(adapter, make_sample(seed=n), lengths, n) for n, lengths in enumerate(([4, 2], [3, 5]))
    ]
    shifted, weighted = zip(*(_shift(adapter, group, importance) for group in groups), strict=True)
    found, expected = (_gradient(adapter, each, config, of) for each, of in ((shifted, importance), (weighted, None)))
    plain = _gradient(adapter, groups, config, None)
    assert float((found - expected).norm()) < 1e-3 * float(expected.norm())
    assert float((found - plain).norm()) > 0.05 * float(plain.norm())


def _shift(adapter: Any, group: TrainingGroup, importance: Importance) -> tuple[TrainingGroup, TrainingGroup]:
    """The group as an engine with other log-probs would sample it, and with its coefficients weighted by hand."""
    completions, coefficients = [], []
    for completion, row in zip(group.completions, group.coefficients, strict=True):
        with torch.no_grad():
            of_update = plain_log_probs(adapter, group.prompt.encoded, completion, 1.0)
        shift = [0.3 * (n % 2) for n in range(len(row))]
        ratios = [math.exp(each) for each in shift]
        product = math.exp(sum(shift))
        weights = [min(1.5, each) for each in (ratios if importance.per == "token" else [product] * len(row))]
        kept = tuple(float(value) - each for value, each in zip(of_update, shift, strict=True))
        completions.append(replace(completion, log_probs=kept))
        coefficients.append(tuple(c * w for c, w in zip(row, weights, strict=True)))
    return replace(group, completions=tuple(completions)), replace(group, coefficients=tuple(coefficients))


def _gradient(adapter: Any, groups: Any, config: UpdateConfig, importance: Importance | None) -> torch.Tensor:
    accelerator = Accelerator()
    layout = build_layout(accelerator, PolicyForward(adapter, 1.0), build_optimizer(adapter, config), 1.0)
    adapter.model.zero_grad()
    accumulate_gradient(layout, list(groups), 1.0, config, adapter, accelerator, importance)
    return torch.cat([p.grad.flatten() for _, p in adapter.trainable_parameters() if p.grad is not None])


def test_keys_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rollout.importance.*rollout.top_p"):
        RolloutConfig(importance="token", top_p=0.9)
    with pytest.raises(ValueError, match="epochs_per_rollout"):
        Recipe(rollout=RolloutConfig(importance="sequence"), update=UpdateConfig(epochs_per_rollout=2))
    with pytest.raises(ValueError, match="importance_cap"):
        RolloutConfig(importance_cap=0.5)
