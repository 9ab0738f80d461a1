"""What objectives of whole completions share: a loss of the S_i, each the sum of a completion's log-probs.

The tokens of a completion share one derivative. Also the pairs of a group, for losses that compare two completions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

from gpg_vl.objectives.base import Need, Objective, Term, centre, totals_of
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import LogProbs, ScoredGroup

Pair = tuple[int, int]


def sequence_sums(rows: Sequence[Sequence[float]]) -> list[float]:
    """S_i of each completion, [G], from log-probs [G][T]."""
    return [sum(row) for row in rows]


class SequenceObjective(Objective):
    """Each completion's term is a function of the S of the group's completions."""

    min_group_size: ClassVar[int] = 2
    allows_reuse: ClassVar[bool] = True

    @property
    def counts_silent(self) -> bool:
        return True

    @abstractmethod
    def sequence_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[Term]:
        """Losses that add up to the group's, and the derivative of the group's loss by each S_i, [G]."""

    @property
    def needs_of_kl(self) -> frozenset[Need]:
        """What ``shaped_rewards`` reads."""
        return frozenset({"old", "reference"} if self.config.kl_coefficient > 0 else ())

    @property
    def has_fixed_advantages(self) -> bool:
        return not self.needs_of_kl

    def shaped_rewards(self, group: ScoredGroup, log_probs: LogProbs) -> list[float]:
        """r_i - kl_coefficient * (S_i_old - S_i_ref), [G]: the KL to the initial policy as a part of the reward."""
        sums = zip(sequence_sums(log_probs.old), sequence_sums(log_probs.reference), strict=True)
        return [
            reward - self.config.kl_coefficient * (old - reference)
            for reward, (old, reference) in zip(totals_of(group), sums, strict=True)
        ]

    def advantages(self, group: ScoredGroup) -> list[float]:
        return centre(totals_of(group))

    def token_terms(self, group: ScoredGroup, log_probs: LogProbs) -> list[list[Term]]:
        rows = zip(self.sequence_terms(group, log_probs), log_probs.current, strict=True)
        return [[(loss / len(row), slope)] * len(row) for (loss, slope), row in rows]


class AnchoredObjective(SequenceObjective):
    """Reads d_i = S_i - S_i under the anchor: the policy that sampled, or the initial one."""

    @property
    def needs(self) -> frozenset[Need]:
        if self.config.anchor == "reference":
            return frozenset({"reference"})
        return frozenset({"old"} if self.is_reused else ())

    def trains(self, group: ScoredGroup) -> bool:
        """Where the policy is away from the anchor, a group without signal still pulls it back."""
        return bool(self.needs) or has_signal(group)

    def shifts(self, log_probs: LogProbs) -> list[float]:
        """d_i, [G]."""
        anchor = log_probs.reference if self.config.anchor == "reference" else log_probs.old
        pairs = zip(log_probs.current, anchor, strict=True)
        return [sum(now - then for now, then in zip(*rows, strict=True)) for rows in pairs]

    def pairs(self, rewards: Sequence[float]) -> list[Pair]:
        """Which completions are compared."""
        size = len(rewards)
        if self.config.pairs == "all":
            return list(combinations(range(size), 2))
        if self.config.pairs == "disjoint":
            return [(i, i + 1) for i in range(0, size - 1, 2)]
        if self.config.pairs == "best_worst":
            best, worst = max(range(size), key=rewards.__getitem__), min(range(size), key=rewards.__getitem__)
            return [(best, worst)] if best != worst else [(0, 1)]
        return [(0, 1)]


def add_up_pairs(size: int, pairs: Sequence[tuple[Pair, Term]]) -> list[Term]:
    """The mean over pairs, by completion: half of a pair's loss each, its derivative by d_i - d_j and the negative."""
    losses, slopes = [0.0] * size, [0.0] * size
    for (i, j), (loss, slope) in pairs:
        losses[i] += loss / 2 / len(pairs)
        losses[j] += loss / 2 / len(pairs)
        slopes[i] += slope / len(pairs)
        slopes[j] -= slope / len(pairs)
    return list(zip(losses, slopes, strict=True))
