"""The thread that writes the log: in order, all of it before a flush ends, and its error where the run goes on."""

from __future__ import annotations

import threading
import time

import pytest

from gpg_vl.run import log_writer
from gpg_vl.run.log_writer import LogWriter


@pytest.mark.parametrize("end", ["flush", "close"])
def test_works_are_done_in_order_beside_the_main_thread(end: str) -> None:
    writer, done, go_on = LogWriter(), [], threading.Event()
    writer.give(go_on.wait)
    for number in range(10):
        writer.give(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]
    assert done == [], "nothing of it is waited for"
    go_on.set()
    getattr(writer, end)()
    assert done == [(number, "log") for number in range(10)]
    writer.close()


def test_a_flush_waits_for_the_work_under_way() -> None:
    writer, done = LogWriter(), []

    def work() -> None:
        time.sleep(0.2)
        done.append(1)

    writer.give(work)
    time.sleep(0.05)  # it has begun: the queue is empty
    writer.flush()
    assert done == [1]
    writer.close()


@pytest.mark.parametrize("how", ["give", "flush", "close"])
def test_an_error_is_raised_once_and_ends_the_works(how: str) -> None:
    writer, done = LogWriter(), []
    writer.give(lambda: [][0])
    writer.give(lambda: done.append(1))
    writer._works.join()
    with pytest.raises(IndexError):
        writer.give(lambda: None) if how == "give" else getattr(writer, how)()
    writer.give(lambda: done.append(2))
    writer.close()
    assert done == ([2] if how == "close" else []), "a thread that has failed does no more"


def test_it_is_closed_where_nothing_was_written_and_may_go_on_after() -> None:
    writer, done, others = LogWriter(), [], set(threading.enumerate())
    for _ in range(2):
        writer.close()
        writer.flush()
        writer.give(lambda: done.append(1))
    writer.close()
    assert done == [1, 1]
    assert set(threading.enumerate()) <= others


def test_a_disk_that_stands_still_holds_up_the_run_and_not_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MOST_WAITING", 2)
    writer, go_on, given = LogWriter(), threading.Event(), []

    def give_all() -> None:
        for number in range(6):
            writer.give(go_on.wait)
            given.append(number)

    giving = threading.Thread(target=give_all)
    giving.start()
    time.sleep(0.3)
    assert len(given) <= 3, "one under way and two that wait"
    go_on.set()
    giving.join()
    writer.close()


def test_where_no_thread_can_start_the_run_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer, done = LogWriter(), []
    for number in (1, 2):
        writer.give(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [1, 2]
    writer.close()
    assert len([line for line in capsys.readouterr().err.splitlines() if "thread" in line]) <= 1
