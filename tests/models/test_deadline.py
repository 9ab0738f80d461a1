from __future__ import annotations

import threading
import time
from contextlib import suppress

from gpg_vl.models.deadline import Deadline


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_what_takes_too_long_is_interrupted_in_any_thread() -> None:
    deadline = Deadline(0.2)
    caught: list[float] = []

    def work() -> None:
        start = time.monotonic()
        try:
            with deadline.within():
                spin(20)
        except TimeoutError:
            caught.append(time.monotonic() - start)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join(20)
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
