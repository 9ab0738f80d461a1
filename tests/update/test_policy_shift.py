"""The shift by which a rollout is reused: a bound on total variation, on chains whose completions can all be listed."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import build_objective
from gpg_vl.update.policy_shift import completion_shifts
from tests.support.written import Numbers

TOKENS, LENGTH = 3, 4
Chain = dict[tuple[int, ...], list[float]]  # by prefix: log-prob of each next token


def draw_chain(rng: random.Random, base: Chain | None = None, spread: float = 1.0) -> Chain:
    chain = {}
    for length in range(LENGTH):
        for prefix in itertools.product(range(TOKENS), repeat=length):
            start = base[prefix] if base else [0.0] * TOKENS
            logits = [value + rng.gauss(0, spread) for value in start]
            norm = math.log(sum(map(math.exp, logits)))
            chain[prefix] = [value - norm for value in logits]
    return chain


def log_probs(chain: Chain, completion: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(chain[completion[:t]][token] for t, token in enumerate(completion))


def every_completion() -> list[tuple[int, ...]]:
    return list(itertools.product(range(TOKENS), repeat=LENGTH))


def total_variation(old: Chain, new: Chain) -> float:
    pairs = [(sum(log_probs(old, c)), sum(log_probs(new, c))) for c in every_completion()]
    return sum(abs(math.exp(a) - math.exp(b)) for a, b in pairs) / 2


def expected_shift(old: Chain, new: Chain) -> float:
    """Over what the old policy samples."""
    completions = every_completion()
    rows = [tuple(log_probs(chain, c) for c in completions) for chain in (old, new)]
    shifts = completion_shifts(*rows)
    return sum(math.exp(sum(log_probs(old, c))) * shift for c, shift in zip(completions, shifts, strict=True))


def summed_variation(old: Chain, new: Chain) -> float:
    """Of each next token, over the prefixes that the old policy samples."""
    total = 0.0
    for prefix, now in new.items():
        weight = math.exp(sum(log_probs(old, prefix)))
        total += weight * sum(abs(math.exp(a) - math.exp(b)) for a, b in zip(old[prefix], now, strict=True)) / 2
    return total


@pytest.mark.parametrize("spread", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_its_mean_is_the_summed_variation_of_tokens_and_bounds_that_of_completions(seed: int, spread: float) -> None:
    rng = random.Random(seed)
    old = draw_chain(rng)
    new = draw_chain(rng, old, spread)
    shift = expected_shift(old, new)
    assert shift == pytest.approx(summed_variation(old, new), rel=1e-9)
    assert total_variation(old, new) <= shift + 1e-12
    assert shift > 0


def test_a_policy_that_stayed_has_no_shift() -> None:
    old = draw_chain(random.Random(0))
    assert expected_shift(old, old) == 0


def test_a_policy_that_left_is_infinitely_far() -> None:
    assert completion_shifts(((-900.0,),), ((-1.0,),)) == [math.inf]


# --- what the event trigger claims, on a bandit of eight arms ---

ARMS, GROUP, RATE, ROLLOUTS, THRESHOLD = 8, 16, 1.0, 20, 0.05
REWARDS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0]


def follow_bandit(num_rollouts: int, threshold: float | None, max_uses: int, seed: int) -> tuple[float, int, float]:
    """The expected reward at the end, the number of updates, and the largest true variation at which one was made.

    The policy is a softmax over arms and a completion is one token; GRPO's coefficients are the kit's.
    """
    objective = build_objective(ObjectiveConfig(name="grpo", f_norm="one"), 8, is_reused=True)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(ARMS, dtype=torch.float64)
    num_updates, furthest = 0, 0.0
    for _ in range(num_rollouts):
        old = logits.log_softmax(0)
        arms = torch.multinomial(old.exp(), GROUP, replacement=True, generator=generator).tolist()
        for use in range(max_uses):
            current = logits.log_softmax(0)
            rows = [tuple((float(chain[arm]),) for arm in arms) for chain in (old, current)]
            shift = sum(completion_shifts(*rows)) / GROUP
            if use and threshold is not None and shift >= threshold:
                break
            furthest = max(furthest, float((old.exp() - current.exp()).abs().sum()) / 2)
            numbers = Numbers(tuple(REWARDS[arm] for arm in arms), rows[1], rows[0], rows[1])
            coefficients = objective.training_group(numbers.group, numbers.log_probs).coefficients
            logits = logits - RATE * gradient_of(logits, arms, [row[0] for row in coefficients]) / GROUP
            num_updates += 1
    expected = float((logits.softmax(0) * torch.tensor(REWARDS, dtype=torch.float64)).sum())
    return expected, num_updates, furthest


def gradient_of(logits: Tensor, arms: list[int], coefficients: list[float]) -> Tensor:
    leaf = logits.clone().requires_grad_()
    weights = torch.tensor(coefficients, dtype=torch.float64)
    (leaf.log_softmax(0)[arms] * weights).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_it_learns_more_from_each_rollout_and_stays_near_what_sampled() -> None:
    """Over twelve seeds; no update is made further away than the threshold, but for the error of a sample."""
    once = [follow_bandit(ROLLOUTS, None, 1, seed) for seed in range(12)]
    triggered = [follow_bandit(ROLLOUTS, THRESHOLD, 16, seed) for seed in range(12)]
    reward_once, reward_triggered = (sum(each[0] for each in runs) / len(runs) for runs in (once, triggered))
    assert reward_triggered > reward_once + 0.15
    assert all(updates > 4 * ROLLOUTS for _, updates, _ in triggered)
    assert max(furthest for _, _, furthest in triggered) < 1.5 * THRESHOLD


def test_without_a_threshold_the_policy_leaves_what_sampled() -> None:
    furthest = [follow_bandit(ROLLOUTS, None, 16, seed)[2] for seed in range(12)]
    assert min(furthest) > 2 * THRESHOLD
