"""Progress of long work, on standard error."""

from __future__ import annotations

import time
from types import TracebackType

from gpg_vl.screen import is_terminal, say

SECONDS_BETWEEN_LINES = 30.0


class ProgressLine:
    """Shows count, pace and time left; rewritten in place on a terminal, otherwise a line now and then and at the end.

    >>> with ProgressLine("evaluated", "prompts", total=2) as line:  # doctest: +SKIP
    ...     line.show(2)
    evaluated 2/2 prompts, 0.70 a second, 3 s
    """

    def __init__(
        self, verb: str, unit: str, total: int, done: int = 0, seconds_between_lines: float = SECONDS_BETWEEN_LINES
    ):
        """
        Args:
            done: how much an earlier process has done
            seconds_between_lines: minimum, if standard error is not a terminal
        """
        self._verb, self._unit = verb, unit
        self._total, self._done_before = total, done
        self._seconds_between_lines = seconds_between_lines
        self._start = self._shown = time.monotonic()
        self._is_terminal = is_terminal()
        self._is_open = False

    def show(self, done: int) -> None:
        """
        Args:
            done: how much is done by now, including what was done before
        """
        now, is_last = time.monotonic(), done == self._total
        is_due = self._is_terminal or is_last or now - self._shown > self._seconds_between_lines
        if done == self._done_before or not is_due:
            return
        self._shown = now
        pace = (done - self._done_before) / max(now - self._start, 1e-9)
        left = f"{now - self._start:.0f} s" if is_last else f"{(self._total - done) / pace:.0f} s to go"
        self._write(f"{self._verb} {done}/{self._total} {self._unit}, {pace:.2f} a second, {left}", is_last)

    def _write(self, text: str, is_last: bool) -> None:
        if not self._is_terminal:
            say(text)
            return
        self._is_open = not is_last
        say(f"{text}   ", start="\r", end="\n" if is_last else "")

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the line, so that what is printed next starts on a new one."""
        if self._is_open:
            say()
