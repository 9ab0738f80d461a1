"""Which groups are valid: the one test that training, refill and alpha go by."""

from __future__ import annotations

from gpg_vl.records import ScoredGroup

SMALLEST_DIFFERENCE = 1e-5


def has_signal(group: ScoredGroup) -> bool:
    """Whether the rewards of the group differ, so that centred they are not all zero.

    The paper's M is the number of groups that fail this test (section 3.2); V is the number of those that pass it.
    """
    totals = [reward.total for reward in group.rewards]
    return max(totals) - min(totals) > SMALLEST_DIFFERENCE
