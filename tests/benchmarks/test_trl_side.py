"""At ratio 1, TRL's loss has the kit's gradient: reduction ``sequence``, alpha off, no bans."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpg_vl.config import ObjectiveConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.records import Reward, ScoredGroup, StepTotals, TrainingGroup
from gpg_vl.update.packing import build_micro_batch, split_into_rows
from gpg_vl.update.policy import PolicyForward
from tests.support.builders import FAMILIES, make_sample, make_training_group
from tests.support.groups import gradients, worst_relative_error

pytest.importorskip("trl", reason="TRL is an extra of its own: pip install -c constraints.txt -e '.[bench]'")

LoadModel = Callable[..., QwenVLAdapter]
LENGTHS = [5, 1, 9, 3]


def make_group(adapter: QwenVLAdapter) -> TrainingGroup:
    """Rewards 1, 0, 0, 1 through the objective."""
    drawn = make_training_group(adapter, make_sample([(84, 84)]), LENGTHS)
    rewards = tuple(Reward(total, {}, "ok") for total in (1.0, 0.0, 0.0, 1.0))
    objective = build_objective(ObjectiveConfig(reduction="sequence", alpha=False))
    return objective.training_group(ScoredGroup(drawn.prompt, drawn.completions, rewards))


def kit_gradients(adapter: QwenVLAdapter, group: TrainingGroup, temperature: float) -> dict[str, Tensor]:
    adapter.model.zero_grad()
    objective = build_objective(ObjectiveConfig(reduction="sequence", alpha=False))
    tokens = sum(LENGTHS)
    totals = StepTotals(
        groups=1, sequences=4, tokens=tokens, trained_groups=1, trained_sequences=4, trained_tokens=tokens
    )
    batch = build_micro_batch(split_into_rows(group, 8192), adapter)
    weighted = (batch.coefficients * PolicyForward(adapter, temperature)(batch)).sum()
    (weighted / objective.denominator(totals, 1)).backward()
    return gradients(adapter)


def trl_gradients(adapter: QwenVLAdapter, group: TrainingGroup, temperature: float) -> dict[str, Tensor]:
    from benchmarks import trl_side

    adapter.model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl_side.build_trainer(adapter, 4, 4, max(LENGTHS), temperature=temperature)
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, trl_side.loss_inputs(adapter, [group])).backward()
    return gradients(adapter)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_trl(
    load: LoadModel, family: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QwenVLAdapter, "banned_token_ids", property(lambda self: ()))
    adapter = load(family)
    group = make_group(adapter)
    ours = kit_gradients(adapter, group, temperature)
    theirs = trl_gradients(adapter, group, temperature)
    assert worst_relative_error(ours, theirs) < 1e-5
    wrong = replace(group, coefficients=group.coefficients[::-1])
    assert worst_relative_error(kit_gradients(adapter, wrong, temperature), theirs) > 1e-2


def test_silent_rewards_have_no_gradient_in_either(load: LoadModel) -> None:
    adapter = load()
    group = make_group(adapter)
    silent = replace(group, coefficients=tuple((0.0,) * n for n in LENGTHS))
    assert all(not torch.any(g) for g in trl_gradients(adapter, silent, 1.0).values())
    assert all(not torch.any(g) for g in kit_gradients(adapter, silent, 1.0).values())
