"""GPG's coefficients and denominators against a brute-force float64 reference, and the paper's identities."""

from __future__ import annotations

import random
import statistics

import pytest
import torch

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import build_objective
from gpg_vl.records import ScoredGroup, StepTotals, count_tokens
from tests.support.builders import make_scored

REDUCTIONS = ("group", "sequence", "token", "token_official")


def random_groups(seed: int, num_groups: int = 7, group_size: int = 5) -> list[ScoredGroup]:
    rng = random.Random(seed)
    groups = []
    for _ in range(num_groups):
        silent = rng.random() < 0.4
        constant = rng.random()
        rewards = [constant if silent else rng.choice([0.0, 1.0, rng.random()]) for _ in range(group_size)]
        groups.append(make_scored(rewards, [rng.randint(1, 9) for _ in range(group_size)]))
    groups.append(make_scored([0.0] * (group_size - 1) + [1.0], [1] * group_size))  # one with signal at the least
    return groups


def totals_of(groups: list[ScoredGroup], trained: list[ScoredGroup]) -> StepTotals:
    return StepTotals(
        groups=len(groups),
        sequences=sum(len(g.completions) for g in groups),
        tokens=sum(count_tokens(g.completions) for g in groups),
        trained_groups=len(trained),
        trained_sequences=sum(len(g.completions) for g in trained),
        trained_tokens=sum(count_tokens(g.completions) for g in trained),
    )


def kit_loss(
    config: ObjectiveConfig, groups: list[ScoredGroup], log_probs: dict, prompts_per_step: int
) -> torch.Tensor:
    objective = build_objective(config)
    trained = [g for g in groups if objective.trains(g)]
    total = torch.zeros((), dtype=torch.float64)
    for group in trained:
        for index, coefficients in enumerate(objective.training_group(group).coefficients):
            total = total + (torch.tensor(coefficients, dtype=torch.float64) * log_probs[id(group), index]).sum()
    return total / objective.denominator(totals_of(groups, trained), prompts_per_step)


def reference_loss(
    config: ObjectiveConfig, groups: list[ScoredGroup], log_probs: dict, prompts_per_step: int
) -> torch.Tensor:
    """The formulas as they are written, tensor by tensor, over all B groups; alpha applied as a factor."""
    num_valid = 0
    per_group, sequences, tokens = [], [], []
    for group in groups:
        r = torch.tensor([reward.total for reward in group.rewards], dtype=torch.float64)
        valid = bool(r.max() - r.min() > 1e-5)
        num_valid += valid
        norm = r.std() + config.f_norm_eps if config.f_norm == "std" else 1.0
        advantages = (r - r.mean()) / norm if valid else torch.zeros_like(r)
        terms = [-a * log_probs[id(group), i] for i, a in enumerate(advantages)]
        per_group.append(torch.cat(terms).mean())
        sequences += [term.mean() for term in terms]
        tokens.append((torch.cat(terms), valid))
    b = len(groups)
    alpha = b / num_valid
    scale = 1 / (1 / alpha + config.alpha_eps) if config.alpha else b / prompts_per_step
    if config.reduction == "group":
        return torch.stack(per_group).mean() * scale
    if config.reduction == "sequence":
        return torch.stack(sequences).mean() * scale
    if config.reduction == "token_official":
        return torch.cat([t for t, _ in tokens]).mean() * scale
    return torch.cat([t for t, valid in tokens if valid]).mean() * scale / alpha


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("f_norm", ["one", "std"])
@pytest.mark.parametrize(("alpha", "alpha_eps"), [(True, 0.0), (True, 1e-5), (False, 0.0)])
def test_loss_equals_the_brute_force_reference(reduction: str, f_norm: str, alpha: bool, alpha_eps: float) -> None:
    config = ObjectiveConfig(
        reduction=reduction,
        f_norm=f_norm,
        alpha=alpha,
        alpha_eps=alpha_eps,
        f_norm_eps=1e-4 if f_norm == "std" else 0.0,
    )
    for seed in range(20):
        groups = random_groups(seed)
        generator = torch.Generator().manual_seed(seed)
        log_probs = {
            (id(group), i): torch.randn(len(c.token_ids), generator=generator, dtype=torch.float64)
            for group in groups
            for i, c in enumerate(group.completions)
        }
        for prompts_per_step in (len(groups), 2 * len(groups)):
            found = kit_loss(config, groups, log_probs, prompts_per_step)
            expected = reference_loss(config, groups, log_probs, prompts_per_step)
            assert float(found) == pytest.approx(float(expected), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("reduction", ["group", "sequence", "token"])
def test_silent_groups_change_nothing(reduction: str) -> None:
    """With alpha, the gradient is that of the groups with signal alone: what Eq. 7 is for."""
    objective = build_objective(ObjectiveConfig(reduction=reduction))
    groups = random_groups(3)
    trained = [g for g in groups if objective.trains(g)]
    assert 0 < len(trained) < len(groups)
    with_silent = objective.denominator(totals_of(groups, trained), len(groups))
    alone = objective.denominator(totals_of(trained, trained), len(groups))
    assert with_silent == pytest.approx(alone)


def test_token_official_is_not_exact() -> None:
    objective = build_objective(ObjectiveConfig(reduction="token_official"))
    groups = random_groups(3)
    trained = [g for g in groups if objective.trains(g)]
    with_silent = objective.denominator(totals_of(groups, trained), len(groups))
    assert with_silent != pytest.approx(objective.denominator(totals_of(trained, trained), len(groups)), rel=1e-3)


def test_alpha_counts_the_groups_that_are_trained() -> None:
    objective = build_objective(ObjectiveConfig())
    groups = [
        make_scored([0, 1], [2, 2]),
        make_scored([1, 1], [2, 2]),
        make_scored([0, 0], [2, 2]),
        make_scored([0.5, 0.5 + 1e-6], [2, 2]),
    ]
    trained = [g for g in groups if objective.trains(g)]
    assert trained == groups[:1]
    assert totals_of(groups, trained).alpha == 4.0


def test_advantages() -> None:
    group = make_scored([1.0, 0.25, 0.0, 0.75], [2, 3, 1, 4])
    assert build_objective(ObjectiveConfig()).advantages(group) == [0.5, -0.25, -0.5, 0.25]
    std = statistics.stdev([1.0, 0.25, 0.0, 0.75])
    assert build_objective(ObjectiveConfig(f_norm="std")).advantages(group) == pytest.approx(
        [0.5 / std, -0.25 / std, -0.5 / std, 0.25 / std]
    )


def test_supervised_trains_every_group_towards_its_completion() -> None:
    objective = build_objective(ObjectiveConfig(name="supervised", reduction="token"))
    groups = [make_scored([1.0], [3]), make_scored([0.0], [5])]
    assert all(objective.trains(g) for g in groups)
    assert objective.training_group(groups[0]).coefficients == ((-1.0, -1.0, -1.0),)
    assert objective.denominator(totals_of(groups, groups), 2) == 8
