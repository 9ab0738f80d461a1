"""How groups are dealt over ranks by what they cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import Reward, ScoredGroup
from gpg_vl.update.balance import SLACK, Move, cost_of, plan_moves
from tests.support.builders import make_prompt, make_sample, random_completions
from tests.support.rank_runs import SECONDS, run_ranks

LoadModel = Callable[..., QwenVLAdapter]


@pytest.mark.parametrize(
    ("costs", "moves"),
    [
        ([[5, 5], [10]], []),
        ([[7]], []),
        ([[], []], []),
        ([[9], []], []),  # the whole work, wherever it is
        ([[4, 2, 6], []], [Move(0, 2, 1)]),
        ([[4, 4, 4], [], []], [Move(0, 0, 1), Move(0, 1, 2)]),
        ([[100, 2], [100]], []),  # not worth a move
        ([[8, 1], [2, 2], [5]], [Move(0, 1, 1)]),
    ],
)
def test_moves_of_a_few_groups(costs: list[list[int]], moves: list[Move]) -> None:
    assert plan_moves(costs) == moves


def test_ranks_end_with_about_as_much() -> None:
    """No single move would bring the one with most and the one with least closer; no group is lost or moves twice."""
    draws = random.Random(0)
    for _ in range(200):
        costs = [[draws.randint(1, 400) for _ in range(draws.randint(0, 9))] for _ in range(draws.randint(1, 9))]
        moves = plan_moves(costs)
        assert len({(move.source, move.place) for move in moves}) == len(moves)
        held = after(costs, moves)
        assert sorted(cost for of_rank in held for cost in of_rank) == sorted(cost for each in costs for cost in each)
        loads = [sum(of_rank) for of_rank in held]
        gap = max(loads) - min(loads)
        assert gap <= SLACK * sum(loads) / len(loads) or gap <= min(held[loads.index(max(loads))])
        assert max(loads) <= max(map(sum, costs))


def after(costs: Sequence[Sequence[int]], moves: Sequence[Move]) -> list[list[int]]:
    left = {(move.source, move.place) for move in moves}
    held = [[cost for place, cost in enumerate(each) if (rank, place) not in left] for rank, each in enumerate(costs)]
    for move in moves:
        held[move.target].append(costs[move.source][move.place])
    return held


def test_a_group_costs_its_tokens_and_patches(load: LoadModel) -> None:
    """Where its images are encoded already, the tower does not run."""
    adapter = load()
    groups = []
    for sizes in ([(84, 84)], []):
        completions = random_completions(adapter, [4, 7])
        rewards = (Reward(0.0, {}, "ok"),) * 2
        groups.append(ScoredGroup(make_prompt(adapter, make_sample(sizes)), completions, rewards))
    with_image, without = groups
    assert cost_of(without) == len(without.prompt.encoded.token_ids) + 11
    vision = with_image.prompt.encoded.vision
    assert vision is not None
    assert cost_of(with_image) == len(with_image.prompt.encoded.token_ids) + 11 + vision.num_patches
    features = adapter.encode_images(vision)
    known = ScoredGroup(with_image.prompt, with_image.completions, with_image.rewards, features)
    assert cost_of(known) == cost_of(with_image) - vision.num_patches


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize(
    "layout", ["zero0", *(pytest.param(each, marks=pytest.mark.faults) for each in ("fsdp", "zero1", "zero2", "zero3"))]
)
def test_learners_deal_them_in_every_layout(model_folders: dict[str, Path], layout: str) -> None:
    """The first of two ranks has sampled all of them; the gradient is that of the written loss."""
    [row] = run_ranks("dealt_ranks.py", layout, [model_folders["qwen2_vl"]])
    total, nothing = row["sampled"]
    assert nothing == 0 and sum(row["trained"]) == total
    assert max(row["trained"]) < 0.6 * total
    assert max(row["errors"]) < 1e-4
    assert row["beside"] == row["sampled"], "what a further gradient reads of them is on the rank that sampled them"
