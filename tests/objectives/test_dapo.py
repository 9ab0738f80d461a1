"""Which groups DAPO keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import build_objective
from gpg_vl.records import Reward, ScoredGroup
from tests.support.written import Numbers

DAPO = build_objective(ObjectiveConfig(name="dapo"), 8)
ROWS = ((-1.0,), (-1.0, -2.0), (-1.0,))


def scored(totals: tuple[float, ...], mains: Sequence[float | None]) -> ScoredGroup:
    group = Numbers(totals, ROWS, ROWS, ROWS).group
    return replace(group, rewards=tuple(Reward(*each, main=m) for each, m in zip(
        [(total, {}, "ok") for total in totals], mains, strict=True
    )))  # fmt: skip


@pytest.mark.parametrize(
    ("totals", "mains", "is_kept"),
    [
        ((1.2, 1.0, 1.0), (1.0, 1.0, 1.0), False),  # the format differs alone
        ((0.2, 0.0, 0.0), (0.0, 0.0, 0.0), False),
        ((1.2, 0.2, 0.0), (1.0, 0.0, 0.0), True),
        ((0.9, 0.9, 0.9), (0.9, 0.7, 0.9), True),  # one is more right, another better written
        ((1.2, 1.0, 1.0), (None, None, None), True),  # no main part: the total
        ((1.0, 1.0, 1.0), (None, None, None), False),
        ((1.2, 0.0, 1.2), (1.0, None, 1.0), True),  # the second could not be scored
    ],
)
def test_groups_are_kept_by_accuracy(totals: tuple[float, ...], mains: Sequence[float | None], is_kept: bool) -> None:
    group = scored(totals, mains)
    assert DAPO.trains(group) is is_kept
    assert any(DAPO.advantages(group)) is (is_kept and len(set(totals)) > 1)
