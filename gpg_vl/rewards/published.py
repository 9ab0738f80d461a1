"""Scores completions with the published code's metrics, which published numbers are made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gpg_vl.rewards.pool import PUBLISHED_TIMEOUT_S, MetricJob, Outcome, ScoringPool
from gpg_vl.screen import printable

_log = logging.getLogger(__name__)


def measure_published(pool: ScoringPool, jobs: Sequence[MetricJob]) -> list[list[float | None]]:
    """The metric of each completion of each job; None if it times out or fails.

    The time limit is ``PUBLISHED_TIMEOUT_S``, whatever the pool's limit.
    """
    by_job = pool.run(jobs, timeout_s=PUBLISHED_TIMEOUT_S)
    failures = [each for outcomes in by_job for each in outcomes if each is not None and each.status != "ok"]
    if failures:
        _log.warning(
            "the published metric failed %d times and counts as 0; first: %s: %s",
            len(failures),
            failures[0].status,
            printable(failures[0].message),
        )
    return [[_value_if_ok(outcome) for outcome in outcomes] for outcomes in by_job]


def _value_if_ok(outcome: Outcome | None) -> float | None:
    return outcome.value if outcome is not None and outcome.status == "ok" else None
