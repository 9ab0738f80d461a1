"""How the groups of a rollout become updates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import build_objective, resolve_config
from gpg_vl.objectives.grpo import Grpo
from gpg_vl.records import CollectedGroups, ScoredGroup
from gpg_vl.update.rollouts import Rollout, UpdateBatch, deal_updates
from tests.support.written import Numbers

MIXED, RIGHT = (1.0, 0.0), (1.0, 1.0)


def make_group(number: int, rewards: tuple[float, float]) -> ScoredGroup:
    """Its two completions have as many tokens as the number says, and one more."""
    rows = ((-1.0,) * (number + 1), (-1.0,) * (number + 2))
    return Numbers(rewards, rows, rows, rows).group


def deal(name: str, kinds: Sequence[str], per_update: int | None, numbers: Sequence[int] | None = None) -> list:
    """Numbers of the trained groups of each update, and its totals."""
    objective = build_objective(ObjectiveConfig(name=name), 8, is_reused=True)
    numbers = list(numbers if numbers is not None else range(len(kinds)))
    groups = [make_group(n, MIXED if kinds[n] == "m" else RIGHT) for n in numbers]
    trained = [group for group in groups if objective.trains(group)]
    totals = objective.count(groups, trained)
    collected = CollectedGroups(groups, numbers, trained, [], totals, 1, 0.0, 0.0)
    number_of = {id(group): number for group, number in zip(groups, numbers, strict=True)}
    parts = deal_updates(collected, objective, per_update, Accelerator())
    return [([number_of[id(group)] for group in part], totals) for part, totals in parts]


def test_silent_groups_take_their_place_where_they_count() -> None:
    [(first, totals), (second, _)] = deal("grpo", "mrmmrm", 3)
    assert (first, second) == ([0, 2], [3, 5])
    assert (totals.groups, totals.sequences, totals.tokens) == (3, 6, 3 + 5 + 7)
    assert (totals.trained_groups, totals.trained_sequences, totals.trained_tokens) == (2, 4, 3 + 7)


def test_only_trained_groups_make_updates_where_the_others_do_not_count() -> None:
    [(first, totals), (second, _)] = deal("dapo", "mrmmrm", 2)
    assert (first, second) == ([0, 2], [3, 5])
    assert (totals.groups, totals.trained_groups) == (2, 2)


def test_the_order_is_that_of_the_draw() -> None:
    """Groups lie on a rank in another order than all ranks drew them, as after a refill."""
    assert [part for part, _ in deal("dapo", "mmmm", 2, [3, 0, 2, 1])] == [[0, 1], [3, 2]]


def test_an_update_without_anything_to_train_is_left_out() -> None:
    assert [part for part, _ in deal("grpo", "rrmmrr", 2)] == [[2, 3]]
    [(part, totals)] = deal("grpo", "rrrr", 2)
    assert (part, totals.trained_groups) == ([], 0), "one step that is counted as silent"


@settings(deadline=None, max_examples=50)
@given(st.text("mr", min_size=1, max_size=12), st.integers(1, 13), st.sampled_from(["grpo", "dapo", "gvpo"]))
def test_every_trained_group_is_in_one_update(kinds: str, per_update: int, name: str) -> None:
    updates = deal(name, kinds, per_update)
    trained = [n for n, kind in enumerate(kinds) if kind == "m" or name == "gvpo"]
    assert [n for part, _ in updates for n in part] == trained
    for part, totals in updates:
        assert totals.trained_groups == len(part)
        assert totals.groups <= per_update or not trained
        assert totals.trained_tokens == sum(2 * n + 3 for n in part)


class Summed(Grpo):
    """Each trained group counts 1 / prompts_per_step, however many have signal."""

    @property
    def counts_silent(self) -> bool:
        return False


def test_without_alpha_mini_batches_have_their_share_of_the_prompts() -> None:
    """Each is the mean over its groups times V / prompts_per_step, as the whole rollout in one update."""
    objective = Summed(resolve_config(ObjectiveConfig(name="grpo", alpha=False, reduction="group"), 8), is_reused=True)
    groups = [make_group(n, MIXED if n % 2 == 0 else RIGHT) for n in range(10)]  # V = 5 of 10
    trained = [group for group in groups if objective.trains(group)]
    collected = CollectedGroups(groups, list(range(10)), trained, [], objective.count(groups, trained), 1, 0.0, 0.0)
    for per_update, sizes in ((None, [5]), (2, [2, 2, 1])):
        parts = deal_updates(collected, objective, per_update, Accelerator())
        rollout = Rollout(1, [UpdateBatch([], totals) for _, totals in parts], len(parts))
        weights = []
        for rollout.num_done in range(len(parts)):
            totals = rollout.next_batch.totals
            weights.append(totals.trained_groups / objective.denominator(totals, 10 * rollout.share))
        assert [totals.trained_groups for _, totals in parts] == sizes
        assert weights == pytest.approx([5 / 10] * len(parts)), "V / prompts_per_step in each"


def test_without_mini_batches_the_step_is_one_update_with_its_own_counts() -> None:
    [(part, totals)] = deal("grpo", "mrm", None)
    assert part == [0, 2]
    assert totals.groups == 3


@pytest.mark.parametrize(("num_batches", "epochs"), [(1, 1), (1, 3), (3, 1), (3, 2)])
def test_a_rollout_goes_round_its_updates(num_batches: int, epochs: int) -> None:
    _, totals = deal("grpo", "m", None)[0]
    batches = [UpdateBatch([], totals) for _ in range(num_batches)]
    rollout = Rollout(7, batches, num_batches * epochs)
    seen = []
    while not rollout.is_used_up:
        assert rollout.is_fresh == (not seen)
        seen.append(next(n for n, batch in enumerate(batches) if batch is rollout.next_batch))
        rollout.num_done += 1
    assert seen == list(range(num_batches)) * epochs
