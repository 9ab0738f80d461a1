"""CollectedGroups -> Rollout: the updates that are made from the groups of one rollout.

Mini-batches are whole groups, in the order in which all ranks drew them, so they do not depend on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelerate import Accelerator

from gpg_vl.objectives.base import Objective
from gpg_vl.processes.collectives import gather_object, sum_totals
from gpg_vl.records import CollectedGroups, GroupLogProbs, LogProbs, ScoredGroup, StepTotals


@dataclass(frozen=True, slots=True)
class AnchoredGroup:
    """A group with the log-probs that stay the same while the policy moves; None where the objective needs none."""

    group: ScoredGroup
    old: GroupLogProbs | None
    reference: GroupLogProbs | None

    def beside(self, current: GroupLogProbs) -> LogProbs:
        """All log-probs of the group. One that is not needed equals the current one."""
        return LogProbs(current, self.old or current, self.reference or current)


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """What one update is made from, on this rank."""

    groups: list[AnchoredGroup]  # those that are trained
    totals: StepTotals  # over all ranks, of these groups and of those that only count


@dataclass(slots=True)
class Rollout:
    """The updates of one rollout, on this rank, and how many of them are done."""

    step: int  # at which it was drawn
    batches: list[UpdateBatch]
    num_updates: int
    num_done: int = 0
    current: dict[int, GroupLogProbs] | None = None  # by id() of a group, from the shift's measure to the next update
    staleness: int = 0  # see CollectedGroups

    @property
    def next_batch(self) -> UpdateBatch:
        return self.batches[self.num_done % len(self.batches)]

    @property
    def share(self) -> float:
        """Of the rollout's trained groups, how many are in the next batch."""
        return self.next_batch.totals.trained_groups / sum(batch.totals.trained_groups for batch in self.batches)

    @property
    def is_fresh(self) -> bool:
        """Whether the policy is still the one that sampled."""
        return self.num_done == 0

    @property
    def num_uses(self) -> int:
        """Passes over the groups, the one under way included."""
        return self.num_updates // len(self.batches)

    @property
    def groups(self) -> list[AnchoredGroup]:
        return [each for batch in self.batches for each in batch.groups]

    @property
    def is_trained(self) -> bool:
        """Whether some rank has a group to train."""
        return any(batch.totals.trained_groups for batch in self.batches)

    @property
    def is_used_up(self) -> bool:
        return self.num_done >= self.num_updates

    def use_again(self) -> None:
        """Adds a pass over the groups."""
        self.num_updates += len(self.batches)


DealtUpdate = tuple[list[ScoredGroup], StepTotals]
"""The trained groups of an update on this rank, and its counts over all."""


def deal_updates(
    collected: CollectedGroups, objective: Objective, groups_per_update: int | None, accelerator: Accelerator
) -> list[DealtUpdate]:
    """The groups of each update, ``groups_per_update`` of all ranks in each. All ranks together.

    Where the loss is a mean over all sampled groups, those without signal take their place in an update too. One with
    nothing to train is left out, unless there is no other.
    """
    if groups_per_update is None:
        return [(collected.trained, collected.totals)]
    is_trained = {id(group) for group in collected.trained}
    counted = [
        (number, group)
        for number, group in zip(collected.numbers, collected.groups, strict=True)
        if objective.counts_silent or id(group) in is_trained
    ]
    order = sorted(gather_object([number for number, _ in counted]))
    update_of = {number: place // groups_per_update for place, number in enumerate(order)}
    parts: list[list[ScoredGroup]] = [[] for _ in range(0, len(order), groups_per_update)]
    for number, group in counted:
        parts[update_of[number]].append(group)
    trained = [[group for group in part if id(group) in is_trained] for part in parts]
    totals = sum_totals(accelerator, [objective.count(*pair) for pair in zip(parts, trained, strict=True)])
    updates = [pair for pair in zip(trained, totals, strict=True) if pair[1].trained_groups]
    return updates or [(collected.trained, collected.totals)]
