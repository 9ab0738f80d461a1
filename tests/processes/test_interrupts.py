from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted


def kill_and(done: list[str]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    done.append("went on")


def kill_while_deferring(done: list[str]) -> None:
    with INTERRUPTS.deferred():
        with INTERRUPTS.deferred():
            kill_and(done)
        done.append("and on")
    done.append("too far")


def test_signal_raises_at_once() -> None:
    done: list[str] = []
    with INTERRUPTS.raising(), pytest.raises(Interrupted, match="SIGTERM") as caught:
        kill_and(done)
    assert caught.value.exit_code == 143
    assert done == []


def test_signal_waits_for_the_end_of_the_outer_block() -> None:
    done: list[str] = []
    with INTERRUPTS.raising(), pytest.raises(Interrupted):
        kill_while_deferring(done)
    assert done == ["went on", "and on"]


def test_a_signal_is_over_with_its_run() -> None:
    with INTERRUPTS.raising(), pytest.raises(Interrupted):
        kill_and([])
    with INTERRUPTS.deferred():
        pass


def test_second_signal_ends_the_process() -> None:
    script = """
import os, signal
from gpg_vl.processes.interrupts import INTERRUPTS
with INTERRUPTS.raising(), INTERRUPTS.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    process = subprocess.run([sys.executable, "-c", script], check=False)
    assert process.returncode == -signal.SIGTERM
