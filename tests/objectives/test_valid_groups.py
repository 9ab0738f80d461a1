from __future__ import annotations

import pytest

from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import Prompt, Reward, Sample, ScoredGroup
from tests.support.builders import make_encoded


@pytest.mark.parametrize(
    ("totals", "expected"), [((0.1,) * 8, False), ((0.0, 1e-6), False), ((0.0, 1e-4), True), ((1.0, 0.0, 1.0), True)]
)
def test_signal_is_a_difference_in_reward(totals: tuple[float, ...], expected: bool) -> None:
    sample = Sample("s", "counting", (), "q", "a")
    prompt = Prompt(sample, "q", make_encoded(), ())
    rewards = tuple(Reward(total, {}, "ok") for total in totals)
    assert has_signal(ScoredGroup(prompt, (), rewards)) is expected
