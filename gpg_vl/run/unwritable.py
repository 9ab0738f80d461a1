"""What a run continues without: a log, a tracker or a picture that cannot be written is said once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpg_vl.errors import first_line
from gpg_vl.run.claim import LostFolder
from gpg_vl.screen import say


class Lacks:
    def __init__(self) -> None:
        self._said: set[str] = set()

    @contextmanager
    def tolerated(self, what: str) -> Iterator[None]:
        """Inside, a failure ends nothing but the block; a folder that is lost ends the run."""
        try:
            yield
        except LostFolder:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  a tracker raises what it likes
            if what not in self._said:
                self._said.add(what)
                say(f"note: {what} cannot be written ({first_line(error)}); the run goes on")
