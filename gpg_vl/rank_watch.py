"""How ranks end: all together, at the same point; and a thread of every rank that ends one which nothing else can end.

A rank that waits in a collective for one that is gone hears no signal: on GPUs it would wait for hours. So a rank ends
itself where a signal has waited for ``PATIENCE_SECONDS``, or where its launcher or the first rank's is gone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from torch.distributed import TCPStore

from gpg_vl.interrupts import Interrupted, held_interrupts, interrupts_raise, pending_signal, relay_signal
from gpg_vl.ranks import RankDiskError, RankError, end_ranks

PATIENCE_SECONDS = 20.0
"""For all ranks to reach a point where they take a signal together; a save that has begun is not cut short."""
_PERIOD_SECONDS = 0.5
_KEY = "gpg_vl/signal"


@contextmanager
def ranks_end_together() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise ``Interrupted``, on several ranks at the same point of ``run_together``.

    What all ranks raise, their connections closed, the first one passes on; the others end with its exit code.
    """
    with interrupts_raise(), ExitStack() as stack:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            stack.enter_context(held_interrupts())
            stack.enter_context(watched_rank())
        try:
            yield
        except (RankError, RankDiskError, Interrupted) as error:  # of all ranks
            end_ranks()
            if os.environ.get("RANK", "0") == "0" or isinstance(error, Interrupted):
                raise
            raise SystemExit(2 if isinstance(error, RankError) else 1) from error  # one rank says it


@contextmanager
def watched_rank() -> Iterator[None]:
    """Within, this rank is watched. Without effect in a run of one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    is_over = threading.Event()
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False)
    thread = threading.Thread(target=_watch, args=(is_over, store, os.getppid()), daemon=True, name="rank_watch")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _watch(is_over: threading.Event, store: TCPStore, launcher: int) -> None:
    is_shared = False
    while not is_over.wait(_PERIOD_SECONDS):
        pending = pending_signal()
        if pending is not None and pending[1] > PATIENCE_SECONDS:
            _end(128 + pending[0], "the other ranks do not answer")
        if os.getppid() != launcher:
            _end(1, "its launcher is gone")
        try:
            if not is_shared:
                is_shared = _share_signal(store, None if pending is None else pending[0])
        except RuntimeError:  # the connection is lost
            if not is_over.wait(PATIENCE_SECONDS):
                _end(1, "the first rank or its launcher is gone")
            return


def _share_signal(store: TCPStore, number: int | None) -> bool:
    """Tells the others of this rank's signal, or takes theirs; whether there was one."""
    if number is not None:
        store.set(_KEY, str(number))
        return True
    if store.check([_KEY]):
        relay_signal(int(store.get(_KEY)))
        return True
    return False


def _end(exit_code: int, cause: str) -> NoReturn:
    print(f"rank {os.environ['RANK']} ends: {cause}", file=sys.stderr, flush=True)
    os._exit(exit_code)
