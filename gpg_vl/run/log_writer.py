"""Files of a run's log are written in a thread, in order, while the run goes on.

What it has been given is written when ``flush`` returns: before a checkpoint is sealed, at the end, and before code of
the caller's own looks. The thread draws no random number; an error that ends a run is raised in the main thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

from gpg_vl.errors import first_line
from gpg_vl.screen import say_once

MOST_WAITING = 16
"""Works that wait; on a disk that stands still, the run then waits too."""

Write = Callable[[], object]


class LogWriter:
    """Its thread starts with the first work, and ends with ``close`` or the process."""

    def __init__(self) -> None:
        self._works: Queue[Write | None] = Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def give(self, work: Write) -> None:
        """Has the work done after those before.

        Raises:
            BaseException: what an earlier work has raised, after which none is done
        """
        self._raise_error()
        if self._thread is None and not self._start():
            work()
            return
        self._works.put(work)

    def flush(self) -> None:
        """Waits until all works are done.

        Raises:
            BaseException: what one has raised
        """
        self._works.join()
        self._raise_error()

    def close(self) -> None:
        """The same, and ends the thread."""
        if self._thread is not None:
            self._works.put(None)
            self._thread.join()
            self._thread = None
        self._raise_error()

    def _raise_error(self) -> None:
        """It ends the run once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _start(self) -> bool:
        """Whether there is a thread."""
        thread = threading.Thread(target=self._serve, daemon=True, name="log")
        try:
            thread.start()
        except RuntimeError as error:  # the limits of the shell
            say_once(f"the log: {first_line(error)}; the run writes it itself")
            return False
        self._thread = thread
        return True

    def _serve(self) -> None:
        has_failed = False
        while (work := self._works.get()) is not None:
            try:
                if not has_failed:
                    work()
            except BaseException as error:  # noqa: BLE001  it is raised in the main thread
                self._error, has_failed = error, True
            finally:
                self._works.task_done()
            del work  # the next one may be long in coming
        self._works.task_done()
