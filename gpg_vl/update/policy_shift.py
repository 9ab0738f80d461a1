"""How far the policy has moved from the one that sampled a rollout, from the log-probs of what it sampled.

For one token, E |w - 1| / 2 over what the old policy samples is the total variation between the two distributions of
the next token. Summed over the tokens of a completion it bounds the total variation between the two distributions of
whole completions: replacing the old policy by the new one, token after token, changes at most that much. So the mean of

    sum over tokens of |exp(l - l_old) - 1| / 2

over sampled completions is an unbiased estimate of a bound on the total variation. It may exceed 1.

After "When to Update Your Model" (arXiv 2210.08349), which triggers the updates of a dynamics model by its shift.
"""

from __future__ import annotations

import math

from gpg_vl.records import GroupLogProbs


def completion_shifts(old: GroupLogProbs, current: GroupLogProbs) -> list[float]:
    """The sum of each completion, [G]."""
    pairs = zip(old, current, strict=True)
    return [sum(_distance(now - then) for then, now in zip(*rows, strict=True)) for rows in pairs]


def _distance(log_ratio: float) -> float:
    return abs(math.expm1(log_ratio)) / 2 if log_ratio < 709 else math.inf
