"""Which groups are valid: the test that training, refill and alpha go by."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ScoredGroup

SMALLEST_DIFFERENCE = 1e-5


def has_signal(group: ScoredGroup) -> bool:
    """Whether the rewards of the group differ, so that centred they are not all zero.

    The paper's M is the number of groups that fail this test (section 3.2); V is the number of those that pass it.
    """
    return _differ([reward.total for reward in group.rewards])


def has_mixed_answers(group: ScoredGroup) -> bool:
    """Whether some completions are more right than others, whatever their format and other parts earn.

    Where no main part says so, the total does.
    """
    return _differ([reward.total if reward.main is None else reward.main for reward in group.rewards])


def _differ(values: Sequence[float]) -> bool:
    return max(values) - min(values) > SMALLEST_DIFFERENCE
