"""How ranks end: all together at the same point. A thread on every rank ends it if nothing else can.

A rank that waits in a collective for a rank that is gone handles no signals; on GPUs it would wait for hours. So a rank
ends itself if a signal has waited for ``PATIENCE_SECONDS`` in which no rank went on, if its own launcher or the first
rank's is gone, or if some rank hangs (``processes.hangs``).
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import NoReturn

from torch.distributed import PrefixStore, Store, TCPStore

from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.hangs import LONGEST_PERIOD_SECONDS, PERIOD_SECONDS, HangWatch, say_stacks, stacks_on_signal
from gpg_vl.processes.interrupts import INTERRUPTS, WaitingSignal
from gpg_vl.processes.pulse import HANG_SECONDS, PULSE
from gpg_vl.processes.ranks import failing_as_one
from gpg_vl.screen import say

PATIENCE_SECONDS = 20.0
"""Time for all ranks to reach a point where they handle a signal together; restarts whenever one goes on, as in a long
pass, and while one writes a checkpoint."""
_TELLING_SECONDS = 3.0
"""Time for all ranks to print their stacks before the first of them ends, after which the launcher ends the others."""
_SIGNAL_KEY = "gpg_vl/signal"
_WORK_KEY = "gpg_vl/deferred_work"


@contextmanager
def ranks_end_together(hang_seconds: float = HANG_SECONDS) -> Iterator[None]:
    """Inside, a signal to stop raises ``Interrupted``; with several ranks, at the same point of ``run_together``.

    If all ranks raise, they end as one (``ranks.failing_as_one``).

    Args:
        hang_seconds: without progress, after which a rank hangs
    """
    with INTERRUPTS.raising(), PULSE.hanging_after(hang_seconds), ExitStack() as stack:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            stack.enter_context(INTERRUPTS.held())
            stack.enter_context(watched_rank(hang_seconds))
        with failing_as_one():
            yield


@contextmanager
def watched_rank(hang_seconds: float = HANG_SECONDS) -> Iterator[None]:
    """Inside, this rank is watched. All ranks enter it together. Has no effect in a run of one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    is_over = threading.Event()
    with stacks_on_signal(), INTERRUPTS.listening() as waiting_signal:
        watch = _Watch(waiting_signal, hang_seconds)
        thread = threading.Thread(target=watch.run, args=(is_over,), daemon=True, name="rank_watch")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _Watch:
    def __init__(self, waiting_signal: Callable[[], WaitingSignal | None], hang_seconds: float):
        self._waiting_signal = waiting_signal
        self._launcher = os.getppid()
        self._store = _open_store()
        self._hangs = HangWatch(self._store, hang_seconds)
        self._is_shared = False
        self._work_seen = 0
        self._work_seen_at = 0.0

    def run(self, is_over: threading.Event) -> None:
        try:
            while not is_over.wait(PERIOD_SECONDS):
                self._look()
            self._hangs.close()
        except RuntimeError:  # the connection is lost
            if not is_over.wait(PATIENCE_SECONDS):
                _end(1, "the first rank or its launcher is gone")

    def _look(self) -> None:
        """
        Raises:
            RuntimeError: the store is gone
        """
        if os.getppid() != self._launcher:
            _end(1, "its launcher is gone")
        waiting = self._waiting_signal()
        self._share_signal(waiting)
        self._look_for_work()
        verdict = self._hangs.look(LONGEST_PERIOD_SECONDS)
        if verdict is not None:
            say_stacks(verdict)
            time.sleep(_TELLING_SECONDS)
            os._exit(1)
        if waiting is not None and time.monotonic() - max(waiting[1], self._work_seen_at) > PATIENCE_SECONDS:
            _end(128 + waiting[0], "the other ranks do not answer")

    def _share_signal(self, waiting: WaitingSignal | None) -> None:
        """Tells the others about this rank's signal, or takes theirs; only once."""
        if self._is_shared:
            return
        if waiting is not None:
            self._store.set(_SIGNAL_KEY, str(waiting[0]))
        elif self._store.check([_SIGNAL_KEY]):
            INTERRUPTS.relay(int(self._store.get(_SIGNAL_KEY)))
        else:
            return
        self._is_shared = True

    def _look_for_work(self) -> None:
        """Records when a rank last went on, or did work that must not be cut short, and tells the others of its own."""
        seen = self._store.add(_WORK_KEY, int(INTERRUPTS.is_at_deferred_work or self._hangs.has_progressed))
        if seen != self._work_seen:
            self._work_seen, self._work_seen_at = seen, time.monotonic()


def _open_store() -> Store:
    """What these ranks alone share in the launcher's store.

    A launcher that starts ranks anew keeps its store, and with it what the ones before have left: a verdict, a signal,
    heartbeats. The launchers of several nodes may count their restarts differently, so the first rank makes up a name.
    """
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
        timeout=timedelta(seconds=PATIENCE_SECONDS),
    )  # fmt: skip
    return PrefixStore(gather_object([uuid.uuid4().hex])[0], store)


def _end(exit_code: int, cause: str) -> NoReturn:
    say(f"rank {os.environ['RANK']} ends: {cause}")
    os._exit(exit_code)
