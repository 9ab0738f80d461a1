"""Whether ranks can add up a gradient: what is said where they can, where they cannot, and where it is wrong."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from gpg_vl.commands import rank_trial
from gpg_vl.commands.rank_trial import describe_trial, run_rank, try_ranks
from tests.support.messages import naming


def test_a_wrong_gradient_is_no_success() -> None:
    assert describe_trial(2, "gloo", 2.2361, 5**0.5) == "2 ranks over gloo took a step"
    with pytest.raises(RuntimeError, match=naming("gloo", "2.0000", "2.2361")):
        describe_trial(2, "gloo", 2.0, 5**0.5)


def test_one_rank_has_the_norm_of_its_own_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    run_rank("plain")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ranks"] == 1 and found["norm"] == pytest.approx(found["wanted"]) == 1


def test_ranks_that_hang_are_ended_with_their_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun gives each rank a session of its own, and a rank that waits for another holds the pipes."""
    launcher = tmp_path / "python"
    launcher.write_text(f"#!/bin/sh\nsetsid sleep 300 &\necho $! > {tmp_path}/rank\nsleep 300\n")
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))
    monkeypatch.setattr(rank_trial, "_SECONDS", 3)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="within 3 s"):
        try_ranks("plain")
    assert time.monotonic() - start < 60
    rank = Path(f"/proc/{(tmp_path / 'rank').read_text().strip()}/cmdline")
    assert not rank.exists() or rank.read_bytes() == b"", "it has ended"


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["plain", "fsdp2", "deepspeed"])
def test_ranks_take_a_step(kind: str) -> None:
    assert "took a step" in try_ranks(kind)  # type: ignore[arg-type]


@pytest.mark.faults
def test_why_ranks_cannot_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    with pytest.raises(RuntimeError, match="no-such-interface") as caught:
        try_ranks("plain")
    assert "\n" not in str(caught.value)
