"""Scored groups -> the ranks that train them: some move from the rank with most work to that with least.

All wait for the slowest: before each pass where they run it together, else once, before the step. The gradient is a sum
over the groups of all ranks, so it does not depend on where they are. What moves goes through the host's memory, over
gloo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpg_vl.models.inputs.vision_records import move_features
from gpg_vl.processes.collectives import gather_object, host_group
from gpg_vl.records import ScoredGroup, count_tokens

SLACK = 0.05
"""Difference between two ranks, as a share of the mean work of all, for which nothing moves."""


@dataclass(frozen=True, slots=True)
class Move:
    source: int  # rank
    place: int  # of the group, on that rank
    target: int  # rank


def cost_of(group: ScoredGroup) -> int:
    """What the passes of an update take of a group: about its tokens, and its patches where the tower runs."""
    vision = group.prompt.encoded.vision
    patches = 0 if vision is None or group.features is not None else vision.num_patches
    return len(group.prompt.encoded.token_ids) + count_tokens(group.completions) + patches


def plan_moves(costs: Sequence[Sequence[int]]) -> list[Move]:
    """
    Args:
        costs: of the groups of each rank

    Returns:
        few moves after which the ranks have about as much; a group moves once
    """
    held = [[(cost, rank, place) for place, cost in enumerate(of_rank)] for rank, of_rank in enumerate(costs)]
    loads = [sum(of_rank) for of_rank in costs]
    slack = SLACK * sum(loads) / len(loads)
    while True:
        most, least = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[most] - loads[least]
        fitting = [each for each in held[most] if each[0] < gap]
        if gap <= slack or not fitting:
            break
        group = min(fitting, key=lambda each: abs(2 * each[0] - gap))  # which brings the two closest together
        held[most].remove(group)
        held[least].append(group)
        loads[most] -= group[0]
        loads[least] += group[0]
    found = [Move(source, place, rank) for rank, groups in enumerate(held) for _, source, place in groups]
    return sorted((each for each in found if each.source != each.target), key=lambda each: (each.source, each.place))


def balance(groups: Sequence[ScoredGroup], device: torch.device) -> list[ScoredGroup]:
    """The groups that this rank trains. All ranks together.

    Args:
        groups: those that it has sampled
        device: of image features
    """
    moves = plan_moves(gather_object([[cost_of(group) for group in groups]]))
    rank = torch.distributed.get_rank()
    leaving = {move.place for move in moves if move.source == rank}
    kept = [group for place, group in enumerate(groups) if place not in leaving]
    for source in sorted({move.source for move in moves}):
        kept += _exchange(groups, [move for move in moves if move.source == source], device)
    return kept


def _exchange(groups: Sequence[ScoredGroup], moves: Sequence[Move], device: torch.device) -> list[ScoredGroup]:
    """What this rank gets of a rank, all of whose moves these are."""
    source, parcels = moves[0].source, None
    if torch.distributed.get_rank() == source:
        parcels = [
            [_features_to(groups[move.place], torch.device("cpu")) for move in moves if move.target == target]
            for target in range(torch.distributed.get_world_size())
        ]
    received: list[Any] = [None]
    torch.distributed.scatter_object_list(received, parcels, src=source, group=host_group())
    return [_features_to(group, device) for group in received[0]]


def _features_to(group: ScoredGroup, device: torch.device) -> ScoredGroup:
    if group.features is None:
        return group
    return replace(group, features=move_features(group.features, device))
