"""REINFORCE with the group's mean as baseline (nanochat, scripts/chat_rl.py).

    A_i   = r_i - mean(r)
    loss  = mean over all groups of the mean over the group's tokens of -A_i log p

nanochat averages over the tokens of each forward pass, then over passes: with ``completions_per_pass``,
``reduction: group`` does so with the parts of a group. ``reduction: sequence_sum`` is the textbook's form,
-mean_i A_i S_i with S_i the log-prob of the completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.base import Objective, centred_rewards
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import ScoredGroup


class Reinforce(Objective):
    keys: ClassVar[frozenset[str]] = frozenset({"reduction", "completions_per_pass"})
    defaults: ClassVar[Mapping[str, Any]] = {"beta_th": 0.0}
    min_group_size: ClassVar[int] = 2

    @property
    def counts_silent(self) -> bool:
        return True

    def trains(self, group: ScoredGroup) -> bool:
        return has_signal(group)

    def advantages(self, group: ScoredGroup) -> list[float]:
        return centred_rewards(group, self.config)

    def token_weights(self, group: ScoredGroup) -> list[float]:
        size = self.config.completions_per_pass
        if size is None or self.reduction != "group":
            return super().token_weights(group)
        lengths = [len(completion.token_ids) for completion in group.completions]
        passes = [lengths[start : start + size] for start in range(0, len(lengths), size)]
        return [1 / sum(part) / len(passes) for part in passes for _ in part]
