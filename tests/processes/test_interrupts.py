from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU, signal.SIGINT])
def test_other_signals_that_ask_to_stop_do_the_same(number: signal.Signals) -> None:
    previous = signal.getsignal(number)
    with INTERRUPTS.raising(), pytest.raises(Interrupted, match=number.name) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == previous


def test_what_the_caller_ignores_stays_ignored() -> None:
    """As under ``nohup``."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with INTERRUPTS.raising():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, previous)


SAVE = """
import os, signal
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted
try:
    with INTERRUPTS.raising():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            with INTERRUPTS.deferred():
                for name in {names}:
                    os.kill(os.getpid(), getattr(signal, name))
                print("saved", flush=True)
except Interrupted as error:
    raise SystemExit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["SIGUSR1", "SIGUSR1", "SIGXCPU"], 128 + signal.SIGUSR1),
        (["SIGHUP", "SIGTERM"], 128 + signal.SIGHUP),
        (["SIGTERM"], 128 + signal.SIGTERM),
    ],
)
def test_a_notice_is_followed_by_others_while_the_run_saves(names: list[str], code: int) -> None:
    """A cluster sends the notice again, or SIGTERM after it: neither may end the save that the first began."""
    ran = subprocess.run([sys.executable, "-c", SAVE.format(names=names)], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("saved\n", code), ran.stderr


def test_outside_the_main_thread_signals_stay_the_main_threads_own() -> None:
    seen: list[object] = []

    def work() -> None:
        with INTERRUPTS.raising():
            seen.append(signal.getsignal(signal.SIGTERM))
        with pytest.raises(ValueError, match="main thread"), INTERRUPTS.listening():
            seen.append("listened")

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
