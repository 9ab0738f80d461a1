"""What ties the objectives together, in float64: section by section as docs/objectives.md lists it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gpg_vl.config import ObjectiveConfig
from tests.support.written import Followed, Numbers, follow

SEEDS = range(12)
NO_STD: dict[str, Any] = {"name": "grpo", "f_norm": "one"}
LONGEST = 8


def draw(seed: int, rewards: Sequence[float] | None = None, lengths: Sequence[int] | None = None) -> Numbers:
    """A group of four, off-policy and away from the reference."""
    rng = random.Random(seed)
    lengths = lengths or [rng.randint(1, 6) for _ in range(4)]
    drawn = tuple(rewards) if rewards is not None else (0.0, 1.0, rng.random(), rng.random())

    def rows(spread: float, base: Any = None) -> Any:
        base = base or [[-2.0] * n for n in lengths]
        return tuple(tuple(value + rng.gauss(0, spread) for value in row) for row in base)

    current = rows(1.0)
    return Numbers(drawn, current, rows(0.3, current), rows(0.3, current))


def batch(seed: int) -> list[Numbers]:
    """One mixed group between one of wrong and one of right answers."""
    return [draw(seed, [0.0] * 4), draw(seed + 100), draw(seed + 200, [1.0] * 4)]


def fresh(groups: Sequence[Numbers]) -> list[Numbers]:
    return [group.on_policy() for group in groups]


def run(groups: Sequence[Numbers], is_reused: bool = False, **keys: Any) -> Followed:
    return follow(ObjectiveConfig(**keys), groups, is_reused, LONGEST)


def scaled(factor: float, found: Followed) -> Any:
    return pytest.approx([factor * each for each in found.flat], rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("seed", SEEDS)
class TestFirstUpdate:
    """At the policy that sampled: ratio 1."""

    def test_grpo_without_std_is_gpg_by_sequence_is_reinforce(self, seed: int) -> None:
        groups = fresh([draw(seed)])
        reinforce = run(groups, name="reinforce", reduction="sequence")
        assert run(groups, **NO_STD).flat == scaled(1, reinforce)
        multimodal = run(groups, name="gpg", reduction="sequence", alpha_eps=1e-5)
        assert multimodal.flat == scaled(1 / (1 + 1e-5), reinforce)

    def test_the_loss_of_grpo_is_no_measure_of_progress(self, seed: int) -> None:
        """Its value is 0 where its gradient is that of another."""
        groups = fresh([draw(seed)])
        grpo = run(groups, is_reused=True, **NO_STD)
        assert grpo.loss == pytest.approx(0, abs=1e-15)
        assert max(map(abs, grpo.flat)) > 1e-3
        assert abs(run(groups, name="reinforce", reduction="sequence").loss) > 1e-3

    def test_gpg_of_one_group_is_reinforce_by_token_is_one_pass_is_dapo_without_std(self, seed: int) -> None:
        groups = fresh([draw(seed)])
        gpg = run(groups, name="gpg")
        assert run(groups, name="reinforce", reduction="token").flat == scaled(1, gpg)
        assert run(groups, name="reinforce", completions_per_pass=4).flat == scaled(1, gpg)
        assert run(groups, name="grpo", f_norm="one", reduction="token").flat == scaled(1, gpg)

    def test_std_scales_grpo(self, seed: int) -> None:
        group = draw(seed)
        mean = sum(group.rewards) / 4
        std = (sum((r - mean) ** 2 for r in group.rewards) / 3) ** 0.5
        groups = fresh([group])
        assert run(groups, **NO_STD).flat == scaled(std + 1e-4, run(groups, name="grpo"))

    def test_dapo_of_a_batch_is_the_token_mean_over_groups_with_signal(self, seed: int) -> None:
        groups = fresh(batch(seed))
        alone = run(groups[1:2], name="grpo", reduction="token")
        found = run(groups, name="dapo")
        assert found.trained == [False, True, False]
        assert [each for row in found.gradient[1] for each in row] == scaled(1, alone)

    def test_rloo_is_reinforce_of_sums_is_dr_grpo(self, seed: int) -> None:
        groups = fresh([draw(seed)])
        sums = run(groups, name="reinforce", reduction="sequence_sum")
        assert run(groups, name="rloo").flat == scaled(4 / 3, sums)
        assert run(groups, name="dr_grpo").flat == scaled(1 / LONGEST, sums)
        assert run(groups, name="em_pg").flat == scaled(1, sums)

    def test_with_equal_lengths_the_token_mean_is_the_sequence_mean(self, seed: int) -> None:
        groups = fresh([draw(seed, lengths=[3, 3, 3, 3]), draw(seed + 50, lengths=[3, 3, 3, 3])])
        by_sequence = run(groups, name="reinforce", reduction="sequence")
        for reduction in ("token", "group"):
            assert run(groups, name="reinforce", reduction=reduction).flat == scaled(1, by_sequence)
        assert run(groups, name="reinforce", reduction="sequence_sum").flat == scaled(3, by_sequence)

    def test_agpo_v3_is_grpo_times_alpha_and_dapo(self, seed: int) -> None:
        groups = fresh(batch(seed))
        assert run(groups, name="agpo").flat == scaled(3, run(groups, name="grpo"))
        assert run(groups, name="agpo", reduction="token").flat == scaled(1, run(groups, name="dapo"))
        assert run(groups, name="grpo", alpha=True).flat == scaled(1, run(groups, name="agpo"))

    def test_agpo_v1_is_grpo_on_mixed_groups(self, seed: int) -> None:
        groups = fresh(batch(seed))
        v1 = run(groups, name="agpo", form="v1", reward_range=(0, 1))
        grpo = run(groups, name="grpo")
        assert v1.gradient[1] == grpo.gradient[1]
        assert all(slope > 0 for row in v1.gradient[0] for slope in row), "wrong answers are pushed down"
        assert all(slope < 0 for row in v1.gradient[2] for slope in row), "right ones up"

    def test_raft_pp_is_raft(self, seed: int) -> None:
        groups = fresh(batch(seed))
        assert run(groups, name="raft_pp").flat == scaled(1, run(groups, name="raft"))

    def test_reinforce_rej_of_0_and_1_is_raft_pp_on_a_mixed_group(self, seed: int) -> None:
        """What the released code does: rewards of 0 as they stand push nothing down."""
        groups = fresh([draw(seed, [1.0, 0.0, 0.0, 1.0])])
        raw = run(groups, name="reinforce_rej", reward_range=(-1, 1))
        assert raw.flat == scaled(1, run(groups, name="raft_pp"))
        mapped = run(groups, name="reinforce_rej", reward_range=(0, 1))
        assert all(slope > 0 for slope in mapped.gradient[0][1]), "scaled to -1 and 1 they do"

    def test_raw_rewards_are_centred_ones_and_imitation(self, seed: int) -> None:
        group = draw(seed)
        groups = fresh([group])
        mean = sum(group.rewards) / 4
        raw = run(groups, name="reinforce_rej", reward_range=(-1, 1)).flat
        centred = run(groups, name="reinforce", reduction="token").flat
        imitation = run(fresh([replace(group, rewards=(1.0,) * 4)]), name="raft").flat
        assert raw == pytest.approx([c + mean * i for c, i in zip(centred, imitation, strict=True)], abs=1e-14)

    def test_gvpo_is_rloo(self, seed: int) -> None:
        groups = fresh([draw(seed)])
        assert run(groups, name="gvpo", beta=0.3).flat == scaled(0.3, run(groups, name="rloo"))

    def test_apa_at_the_reference_is_reinforce_of_sums(self, seed: int) -> None:
        group = draw(seed)
        at_reference = [replace(group, reference=group.current, old=group.current)]
        sums = run(at_reference, name="reinforce", reduction="sequence_sum")
        assert run(at_reference, name="apa", beta=0.2).flat == scaled(2 / 0.2, sums)


@pytest.mark.parametrize("seed", SEEDS)
class TestOffPolicy:
    def test_copg_and_rebel_on_all_pairs_are_gvpo(self, seed: int) -> None:
        """With one anchor; because the squares of all differences add up to G times the sum of centred squares."""
        groups, beta = [draw(seed)], 0.4
        gvpo = run(groups, name="gvpo", anchor="reference", beta=beta)
        copg = run(groups, name="copg", beta=beta)
        rebel = run(groups, name="rebel", anchor="reference", eta=1 / beta)
        assert copg.flat == scaled(2 / beta, gvpo)
        assert rebel.flat == scaled(2 / beta, copg)
        assert rebel.flat == scaled(4 / beta**2, gvpo)

    def test_what_compares_completions_pushes_them_apart(self, seed: int) -> None:
        """The slopes by S_i add up to 0 in a group."""
        for keys in ({"name": "gvpo"}, {"name": "copg"}, {"name": "rebel"}, {"name": "rebel", "pairs": "disjoint"}):
            [group] = run([draw(seed)], is_reused=True, **keys).gradient
            assert sum(row[0] for row in group) == pytest.approx(0, abs=1e-12)

    def test_copg_of_a_pair_is_rloo_with_the_regularised_reward(self, seed: int) -> None:
        """Property 2 of its paper: twice RLOO of two, with r - beta d."""
        group, beta = draw(seed), 0.3
        pair = Numbers(group.rewards[:2], group.current[:2], group.old[:2], group.reference[:2])
        shifts = [sum(now) - sum(ref) for now, ref in zip(pair.current, pair.reference, strict=True)]
        regularised = tuple(r - beta * d for r, d in zip(pair.rewards, shifts, strict=True))
        rloo = run(fresh([replace(pair, rewards=regularised)]), name="rloo")
        assert run([pair], name="copg", beta=beta).flat == scaled(2, rloo)

    def test_copg_with_rewards_of_a_quarter_has_the_gradient_of_ipo(self, seed: int) -> None:
        """Property 3: of beta (d_1 - d_2 - 1 / (2 beta))^2 / 2."""
        group, beta = draw(seed, [0.25, -0.25, 0.0, 0.0]), 0.3
        pair = Numbers(group.rewards[:2], group.current[:2], group.old[:2], group.reference[:2])
        shifts = [sum(now) - sum(ref) for now, ref in zip(pair.current, pair.reference, strict=True)]
        slope = beta * (shifts[0] - shifts[1] - 1 / (2 * beta))
        [[first, second]] = run([pair], name="copg", beta=beta).gradient
        assert first == pytest.approx([slope] * len(first), rel=1e-12)
        assert second == pytest.approx([-slope] * len(second), rel=1e-12)

    def test_em_pg_knows_no_old_policy(self, seed: int) -> None:
        group = draw(seed)
        for form in ("centred", "posterior"):
            found = run([group], is_reused=True, name="em_pg", form=form)
            assert run([group.on_policy()], name="em_pg", form=form).flat == found.flat

    def test_the_kl_vanishes_at_the_reference_and_pulls_a_silent_group(self, seed: int) -> None:
        silent = draw(seed, [1.0] * 4)
        keys: dict[str, Any] = {"name": "grpo", "kl_coefficient": 0.1}
        at_reference = run([replace(silent, reference=silent.current)], **keys)
        assert at_reference.loss == pytest.approx(0, abs=1e-15)
        assert at_reference.flat == pytest.approx([0] * len(at_reference.flat), abs=1e-15)
        away = run([silent], **keys)
        assert away.trained == [True]
        assert away.loss > 0
        for now, ref, slopes in zip(silent.current, silent.reference, away.gradient[0], strict=True):
            assert [slope > 0 for slope in slopes] == [a > b for a, b in zip(now, ref, strict=True)]


# --- alpha ---


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reduction", ["group", "sequence", "token"])
def test_alpha_makes_the_gradient_that_of_the_group_alone(seed: int, reduction: str) -> None:
    groups = batch(seed)
    found = run(groups, name="gpg", reduction=reduction)
    alone = run(groups[1:2], name="gpg", reduction=reduction)
    assert [each for row in found.gradient[1] for each in row] == scaled(1, alone)


@pytest.mark.parametrize("seed", SEEDS)
def test_alpha_over_all_tokens_does_not(seed: int) -> None:
    """The published text code: silent groups stay in the denominator by their tokens, and leave it by their number."""
    groups = [draw(seed, [0.0] * 4, [1, 1, 1, 1]), draw(seed + 100, lengths=[5, 6, 4, 5])]
    found = run(groups, name="gpg", reduction="token_official")
    alone = run(groups[1:], name="gpg", reduction="token_official")
    assert max(map(abs, found.flat)) > 1.1 * max(map(abs, alone.flat))


# --- invariances ---

CHANGED_BY_A_CONSTANT = ("raft", "raft_pp", "reinforce_rej", "em_pg posterior", "agpo v1")
INVARIANT: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("gpg", "reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo")},
    **{name: {"name": name} for name in ("sapo", "gvpo", "copg", "rebel", "apa", "em_pg", "agpo")},
}
VARYING: dict[str, dict[str, Any]] = {
    "raft": {"name": "raft"},
    "raft_pp": {"name": "raft_pp"},
    "reinforce_rej": {"name": "reinforce_rej", "reward_range": (0, 2)},
    "em_pg posterior": {"name": "em_pg", "form": "posterior"},
}


def with_rewards(group: Numbers, factor: float, constant: float) -> Numbers:
    return replace(group, rewards=tuple(factor * reward + constant for reward in group.rewards))


@pytest.mark.parametrize("case", INVARIANT)
def test_a_constant_on_all_rewards_changes_nothing(case: str) -> None:
    keys = INVARIANT[case]
    is_reused = keys["name"] not in ("gpg", "reinforce")
    before, after = (run([with_rewards(draw(1), 1, c)], is_reused, **keys) for c in (0.0, 0.5))
    assert after.flat == scaled(1, before)


@pytest.mark.parametrize("case", VARYING)
def test_but_of_these(case: str) -> None:
    before, after = (run([with_rewards(draw(1), 1, c)], is_reused=True, **VARYING[case]) for c in (0.0, 0.5))
    assert after.flat != scaled(1, before)


def test_and_of_agpo_v1_for_groups_of_one_reward() -> None:
    keys: dict[str, Any] = {"name": "agpo", "form": "v1", "reward_range": (0, 1)}
    assert any(run([draw(1, [1.0] * 4)], **keys).flat)
    assert not any(run([draw(1, [0.5] * 4)], **keys).flat)


@pytest.mark.parametrize("case", INVARIANT)
def test_a_factor_on_all_rewards(case: str) -> None:
    """Leaves those with the std as they are, scales the others, and moves the target of regressions."""
    keys = INVARIANT[case]
    is_reused = keys["name"] not in ("gpg", "reinforce")
    before, after = (run([with_rewards(draw(1), c, 0)], is_reused, **keys) for c in (1.0, 3.0))
    if case in ("grpo", "dapo", "gspo", "cispo", "sapo", "agpo"):
        assert after.flat == pytest.approx(before.flat, rel=1e-3)
    elif case in ("gvpo", "copg", "rebel", "apa"):
        assert after.flat != scaled(3, before)
        assert after.flat != scaled(1, before)
    else:
        assert after.flat == scaled(3, before)
