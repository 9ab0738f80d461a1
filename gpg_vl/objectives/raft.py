"""RAFT (as in arXiv 2504.11343): imitates the completions that were accepted.

    code      loss = mean over the tokens of all groups of  -max(r_i, 0) log p         rejected tokens count
    accepted  loss = mean over the accepted completions of  max(r_i, 0) * mean over the completion's tokens of -log p

A completion is accepted if its reward is above ``accept_above``, 0 as published, where rewards are -1 and 1. Where the
recipe leaves it open and the tasks reward a format too, it is what that alone can give (``preflight/rewards.py``). So a
group of only right answers is trained, a group of only wrong ones is not. Sources: RLHFlow/Minimal-RL, core_algos.py,
for ``code``; ``accepted`` is this kit's reading of the paper's Eq. 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.config import Reduction
from gpg_vl.objectives.base import Objective, given
from gpg_vl.records import ScoredGroup


class Raft(Objective):
    keys: ClassVar[frozenset[str]] = frozenset({"form", "accept_above"})
    defaults: ClassVar[Mapping[str, Any]] = {"form": "code", "accept_above": 0.0, "beta_th": 0.0}
    forms: ClassVar[tuple[str, ...]] = ("code", "accepted")
    allows_reuse: ClassVar[bool] = True  # imitation of a fixed set is right wherever the weights are

    @property
    def reduction(self) -> Reduction:
        return "token" if self.config.form == "code" else "sequence"

    @property
    def counts_silent(self) -> bool:
        return self.config.form == "code"

    def trains(self, group: ScoredGroup) -> bool:
        return any(self.advantages(group))

    def advantages(self, group: ScoredGroup) -> list[float]:
        return accepted_rewards(group, given(self.config.accept_above))

    def num_trained(self, group: ScoredGroup) -> tuple[int, int]:
        pairs = zip(group.completions, self.advantages(group), strict=True)
        lengths = [len(completion.token_ids) for completion, weight in pairs if weight]
        return len(lengths), sum(lengths)


def accepted_rewards(group: ScoredGroup, threshold: float) -> list[float]:
    """The positive part of the reward where it is above the threshold, else 0, [G]."""
    return [max(reward.total, 0.0) if reward.total > threshold else 0.0 for reward in group.rewards]
