"""Group Policy Gradient (arXiv 2504.02546): the plain policy gradient of the group-centred rewards.

    A_i   = (r_i - mean(r)) / F_norm                            Eq. 6; F_norm = 1, or the group's std
    loss  = mean over the V groups with signal of               Eq. 5 and 7: the mean over all B groups times
            mean over the group's tokens of -A_i log p          alpha = B / V

No critic, no reference model, no KL, no ratio, no clip.
"""

from __future__ import annotations

from typing import ClassVar

from gpg_vl.objectives.base import Objective, centred_rewards
from gpg_vl.records import ScoredGroup


class Gpg(Objective):
    keys: ClassVar[frozenset[str]] = frozenset({"f_norm", "f_norm_eps", "alpha", "alpha_eps", "reduction"})
    min_group_size: ClassVar[int] = 2

    def trains(self, group: ScoredGroup) -> bool:
        return any(self.advantages(group))

    def advantages(self, group: ScoredGroup) -> list[float]:
        return centred_rewards(group, self.config)
