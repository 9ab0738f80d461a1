from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from gpg_vl.models.inputs.deadline import Deadline, run_within


def spin(seconds: float) -> None:
    """Seconds of a processor, as a deadline counts them."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_what_takes_too_long_is_interrupted_in_any_thread() -> None:
    deadline = Deadline(0.2)
    caught: list[float] = []

    def work() -> None:
        start = time.thread_time()
        try:
            with deadline.within():
                spin(20)
        except TimeoutError:
            caught.append(time.thread_time() - start)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join(100)
    assert len(caught) == 4
    assert max(caught) < 10


def test_what_is_quick_goes_on_undisturbed() -> None:
    deadline = Deadline(0.2)
    for _ in range(2000):
        with deadline.within():
            pass
    spin(0.5)  # an exception that came late would strike here


def test_it_never_strikes_after_its_block() -> None:
    """Blocks that end about when the deadline comes: in time, or with the error, and nothing after."""
    deadline = Deadline(0.05)
    for n in range(20):
        with suppress(TimeoutError), deadline.within():  # the watch looks every tenth of a second
            spin(0.05 + 0.005 * n)
        spin(0.01)


def test_a_call_outside_python_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    """The thread that waits goes on; the call itself cannot be ended."""
    start = time.process_time()
    with pytest.raises(TimeoutError):
        run_within(0.2, lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 5_000_000))
    assert time.process_time() - start < 5
    assert run_within(0.2, lambda: 7) == 7
    with pytest.raises(KeyError):
        run_within(0.2, lambda: {}["none"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(RuntimeError):  # Rust's panic is no Exception
        run_within(20, lambda: tokenizer.encode_batch(["a" * 30 + "!"]))


def test_waiting_does_not_count() -> None:
    """As of a process that was stopped, or has no processor."""
    with Deadline(0.1).within():
        time.sleep(0.5)
    assert run_within(0.1, lambda: time.sleep(0.5)) is None


def test_threads_of_calls_are_used_again() -> None:
    run_within(5, lambda: None)
    before = threading.active_count()
    names = {run_within(5, lambda: threading.current_thread().ident) for _ in range(50)}
    assert threading.active_count() == before and len(names) == 1
    assert threading.get_ident() not in names


def test_calls_of_several_threads_do_not_wait_for_each_other() -> None:
    with ThreadPoolExecutor(4) as pool:
        meeting = threading.Barrier(4)
        assert sorted(pool.map(lambda n: run_within(5, lambda: (meeting.wait(20), n)[1]), range(4))) == [0, 1, 2, 3]


def test_a_call_works_in_a_fork() -> None:
    run_within(5, lambda: None)
    child = os.fork()
    if child == 0:
        os._exit(run_within(5, lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_thread_that_was_given_up_ends_with_its_call() -> None:
    go_on = threading.Event()
    threads = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        run_within(0.05, lambda: (spin(0.5), go_on.wait(20)))
    [given_up] = [each for each in threading.enumerate() if each not in threads] or [None]
    go_on.set()
    if given_up is not None:  # the call may have had a thread from before
        given_up.join(20)
        assert not given_up.is_alive()
    assert run_within(5, lambda: 7) == 7
