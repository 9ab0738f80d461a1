"""GRPO's coefficients against autograd of the written loss, the published vectors and TRL."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe, UpdateConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.records import LogProbs, Reward, ScoredGroup
from gpg_vl.update.measure import measure_log_probs
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.reference import Reference
from tests.support.builders import make_prompt, make_sample, make_scored, random_completions
from tests.support.groups import gradients, worst_relative_error
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]

PUBLISHED = ObjectiveConfig(
    name="grpo", f_norm="std", f_norm_eps=1e-4, alpha=False, reduction="sequence", kl_coefficient=0.04, beta_th=0.0
)
WITHOUT_KL = ObjectiveConfig(name="grpo", f_norm="std", f_norm_eps=1e-4, alpha=False, reduction="sequence")


def ragged(values: list[Tensor]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(value.tolist()) for value in values)


def written_loss(
    groups: list[ScoredGroup], current: list[list[Tensor]], reference: list[list[Tensor]], kl_coefficient: float
) -> Tensor:
    """The published branch, tensor by tensor: exp(l - sg(l)) A - beta k3, mean of per-sequence means."""
    sequences = []
    for group, now, ref in zip(groups, current, reference, strict=True):
        r = torch.tensor([reward.total for reward in group.rewards], dtype=torch.float64)
        advantages = (r - r.mean()) / (r.std() + 1e-4)
        for advantage, now_i, l_ref in zip(advantages, now, ref, strict=True):
            k3 = torch.exp(l_ref - now_i) - (l_ref - now_i) - 1
            sequences.append((-(torch.exp(now_i - now_i.detach()) * advantage - kl_coefficient * k3)).mean())
    return torch.stack(sequences).mean()


def kit_gradients(
    objective: Objective, groups: list[ScoredGroup], current: list[list[Tensor]], reference: list[list[Tensor]]
) -> list[list[list[float]]]:
    """Coefficient / denominator of every token; zeros for a group that is not trained."""
    trained = [group for group in groups if objective.trains(group)]
    denominator = objective.denominator(objective.count(groups, trained), len(groups))
    gradients = []
    for group, now, ref in zip(groups, current, reference, strict=True):
        if objective.trains(group):
            weighted = objective.training_group(group, LogProbs(ragged(now), ragged(now), ragged(ref))).coefficients
            gradients.append([[c / denominator for c in row] for row in weighted])
        else:
            gradients.append([[0.0] * len(c.token_ids) for c in group.completions])
    return gradients


def flat(nested: list[list[list[float]]]) -> list[float]:
    return [x for group in nested for row in group for x in row]


@pytest.mark.parametrize("config", [PUBLISHED, WITHOUT_KL])
def test_coefficients_are_the_gradient_of_the_written_loss(config: ObjectiveConfig) -> None:
    for seed in range(20):
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)

        def draw(lengths: list[int], requires_grad: bool, generator: torch.Generator = generator) -> list[Tensor]:
            return [
                torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_(requires_grad) for n in lengths
            ]

        lengths = [[rng.randint(1, 9) for _ in range(5)] for _ in range(6)]
        rewards = [[1.0] * 5, [0.0] * 5, *([rng.random() for _ in range(5)] for _ in range(4))]
        groups = [make_scored(r, n) for r, n in zip(rewards, lengths, strict=True)]
        current = [draw(n, requires_grad=True) for n in lengths]
        reference = [draw(n, requires_grad=False) for n in lengths]
        written_loss(groups, current, reference, config.kl_coefficient).backward()
        expected = flat([[leaf.grad.tolist() for leaf in group] for group in current])  # type: ignore[union-attr]
        found = flat(kit_gradients(build_objective(config), groups, current, reference))
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_silent_groups_train_only_under_the_kl() -> None:
    silent, loud = make_scored([1.0, 1.0], [2, 3]), make_scored([1.0, 0.0], [2, 3])
    with_kl, without = build_objective(PUBLISHED), build_objective(WITHOUT_KL)
    assert with_kl.needs == {"reference"} and with_kl.trains(silent) and with_kl.trains(loud)
    assert not without.needs and not without.trains(silent) and without.trains(loud)
    now = ((-1.0, -2.0), (-1.0,) * 3)
    at_reference = LogProbs(now, now, now)
    assert with_kl.training_group(silent, at_reference).coefficients == ((0.0, 0.0), (0.0,) * 3)
    likelier_now = LogProbs(now, now, ((-1.5, -2.0), (-1.0,) * 3))
    [first, second], _ = with_kl.training_group(silent, likelier_now).coefficients
    assert first > 0 == second, "what became likelier than under the reference is pushed down"


def test_gpg_asks_for_no_log_probs() -> None:
    assert not build_objective(ObjectiveConfig()).needs
    assert not build_objective(ObjectiveConfig(name="supervised")).needs


def test_configs_that_are_not_grpo_are_refused() -> None:
    with pytest.raises(ValueError, match=naming("objective.kl_coefficient")):
        ObjectiveConfig(name="grpo", alpha=False, kl_coefficient=-1)


# --- through real models ---


def make_scored_groups(adapter: QwenVLAdapter) -> list[ScoredGroup]:
    groups = []
    for seed, (lengths, rewards) in enumerate([([4, 7, 2], [1.0, 0.0, 0.5]), ([3, 3, 9], [1.0, 1.0, 1.0])]):
        prompt = make_prompt(adapter, make_sample([(84, 84)], seed))
        completions = random_completions(adapter, lengths, seed)
        groups.append(ScoredGroup(prompt, completions, tuple(Reward(r, {}, "ok") for r in rewards)))
    return groups


def reference_log_probs(adapter: QwenVLAdapter, groups: list[ScoredGroup]) -> list[list[Tensor]]:
    with torch.no_grad():
        return [[plain_log_probs(adapter, g.prompt.encoded, c, 1.0) for c in g.completions] for g in groups]


def shifted(adapter: QwenVLAdapter) -> QwenVLAdapter:
    """The policy some steps away from its reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter += 0.02 * parameter.std().nan_to_num() * torch.randn(parameter.shape, generator=generator)
    return adapter


@pytest.mark.parametrize("budget", [96, 8192])
def test_packed_gradient_equals_autograd_of_the_loss(load: LoadModel, budget: int) -> None:
    """The whole way, reference forward included, with a KL so strong that leaving it out shows."""
    policy, initial = shifted(load()), load()
    groups = make_scored_groups(policy)
    config = replace(PUBLISHED, kl_coefficient=2.0)

    model = ModelConfig(path=policy.model.config._name_or_path, dtype="float32", min_pixels=784, max_pixels=50176)
    recipe = Recipe(model=model, objective=config, update=UpdateConfig(tokens_per_micro_batch=budget))
    objective = build_objective(config)
    forward = PolicyForward(policy, 1.0)
    reference = Reference(recipe, policy, Accelerator()).measure(groups)
    now = measure_log_probs(forward, groups, recipe.update, policy)
    log_probs = [LogProbs(*each) for each in zip(now, now, reference, strict=True)]
    weighted = [objective.training_group(g, p) for g, p in zip(groups, log_probs, strict=True)]
    for rows in plan_micro_batches(weighted, budget, 10_000):
        batch = build_micro_batch(rows, policy)
        ((batch.coefficients * forward(batch)).sum() / 6).backward()
    packed = gradients(policy)

    policy.model.zero_grad()
    current = [[plain_log_probs(policy, g.prompt.encoded, c, 1.0) for c in g.completions] for g in groups]
    written_loss(groups, current, reference_log_probs(initial, groups), config.kl_coefficient).backward()
    assert worst_relative_error(packed, gradients(policy)) < 1e-5


def test_gradient_equals_that_of_trl(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL 1.16, loss_type grpo, on-policy, with its own log-probs and our reference's."""
    pytest.importorskip("trl", reason="TRL is only installed for the benchmarks: pip install -e .[bench]")
    from benchmarks import trl_side

    policy, initial = shifted(load()), load()
    monkeypatch.setattr(QwenVLAdapter, "banned_token_ids", ())  # TRL knows no ban
    groups = make_scored_groups(policy)
    config = replace(PUBLISHED, kl_coefficient=2.0)
    objective = build_objective(config)
    reference = reference_log_probs(initial, groups)
    current = reference_log_probs(policy, groups)
    log_probs = [LogProbs(ragged(now), ragged(now), ragged(ref)) for now, ref in zip(current, reference, strict=True)]
    weighted = [objective.training_group(g, p) for g, p in zip(groups, log_probs, strict=True)]
    forward = PolicyForward(policy, 1.0)
    for rows in plan_micro_batches(weighted, 8192, 10_000):
        batch = build_micro_batch(rows, policy)
        ((batch.coefficients * forward(batch)).sum() / 6).backward()
    kit = gradients(policy)

    policy.model.zero_grad()
    trainer = trl_side.build_trainer(policy, 6, 3, 9)
    trainer.beta = config.kl_coefficient
    trainer.args.use_bias_correction_kl = False  # of DeepSeek-V3.2, not of the published code
    inputs = trl_side.loss_inputs(policy, weighted)
    inputs["advantages"] = torch.tensor([a for group in groups for a in objective.advantages(group)])
    rows = [ref for group in reference for ref in group]
    inputs["ref_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    trainer._compute_loss(policy.model, inputs).backward()
    assert worst_relative_error(kit, gradients(policy)) < 1e-4
