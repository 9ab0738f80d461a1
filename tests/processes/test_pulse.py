"""Who beats while it waits, and for how long: the wait for the processes that score."""

from __future__ import annotations

import pytest

from gpg_vl.processes.pulse import PULSE
from gpg_vl.rewards.pool import client


class Mute:
    """A supervisor that answers when it was asked twenty times; meanwhile ``clock`` says how late it is."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.beats: list[int] = []

    def poll(self, seconds: float) -> bool:
        self.clock += seconds
        self.beats.append(PULSE.last.number)
        return len(self.beats) == 20


def test_a_supervisor_beats_only_for_as_long_as_its_jobs_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    mute = Mute()
    monkeypatch.setattr(client.time, "monotonic", lambda: mute.clock)
    client._wait(mute, longest_s=10 * client._BEAT_SECONDS)  # type: ignore[arg-type]
    assert len(set(mute.beats)) == 10
    assert PULSE.last.work != "scoring"
