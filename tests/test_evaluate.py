from __future__ import annotations

import pytest
from scipy import stats

from gpg_vl.evaluate import mean_interval


def test_interval_of_zeros_and_ones_is_wilsons() -> None:
    low, high = mean_interval([1.0] * 7 + [0.0] * 13)
    z, n, p = 1.959964, 20, 0.35
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert mean_interval([0.0] * 50)[0] == 0
    assert mean_interval([0.0] * 50)[1] > 0.05


def test_interval_of_means_is_the_normal_one() -> None:
    values = [0.1, 0.4, 0.35, 0.8, 0.25, 0.5]
    expected = stats.norm.interval(0.95, sum(values) / 6, stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, abs=1e-4)
    assert mean_interval([0.5]) == (0.0, 1.0)
