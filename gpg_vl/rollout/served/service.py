"""One engine behind a server: which weights it has, and one thing at a time.

Requests that come while it generates are answered together, in one go of the engine: so none waits longer than for the
one under way and for its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from gpg_vl.errors import first_line
from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import AnsweredGroup, Request

T = TypeVar("T")


class StaleWeights(Exception):
    """The engine's weights are not those that a request asks for."""


class EngineFailed(Exception):
    """The engine raised an error in the middle of its work: it is not used again."""


class WrongWeights(EngineFailed):
    """The engine has not taken weights, since they are not its model's; it may have taken some of them."""


class Backend(Protocol):
    """What generates in a server's process."""

    def describe(self) -> Mapping[str, str | int]:
        """At least ``engine``, ``dtype``, ``context_length``, in tokens of prompt and completion together, and
        ``max_images`` of a prompt.
        """

    def load_weights(self, folder: Path) -> None:
        """Takes the weights in ``folder``, safetensors in the names of the model's folder, and forgets what it cached.

        Raises:
            ValueError: they are not this model's
        """

    def generate(self, request: Request) -> list[AnsweredGroup]:
        """
        Raises:
            BadMessage: a prompt cannot be asked; nothing was begun, or all of it has ended
        """


RequestOutcome = list[AnsweredGroup] | StaleWeights | BadMessage | EngineFailed


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request, and what became of it."""

    request: Request
    outcome: RequestOutcome | None = None

    @property
    def manner(self) -> Request:
        """All of the request but its prompts: requests of one manner can be answered together."""
        return replace(self.request, prompts=())


def _deal(waiting: Sequence[_Waiting], together: RequestOutcome) -> Iterator[RequestOutcome]:
    if isinstance(together, Exception):
        yield from (together for _ in waiting)
        return
    groups = iter(together)
    yield from (list(islice(groups, len(each.request.prompts))) for each in waiting)


class Service:
    def __init__(self, backend: Backend, weights: Path | None = None, length_key: str = "--max-model-len"):
        """
        Args:
            weights: folder in which runs publish their versions; None: they are handed over, by ``take``
            length_key: what the user sets the engine's context length by
        """
        self._backend = backend
        self._weights = weights
        self._length_key = length_key
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []  # whoever has the lock takes some out
        self._version: str | None = None  # None also while weights are loaded, and if that has failed
        self._began: float | None = None  # what the engine is at
        self.has_failed = False

    def describe(self) -> dict[str, str | int | float | None]:
        """What ``Backend.describe`` says, the version, and while the engine is at something, for how long."""
        began = self._began
        busy = {} if began is None else {"busy_s": time.monotonic() - began}
        return {**self._backend.describe(), "version": self._version, **busy}

    def load(self, version: str) -> None:
        """
        Raises:
            BadMessage: no such version was published
            WrongWeights, EngineFailed: they may be half loaded
        """
        assert self._weights is not None
        folder = self._weights / version
        with self._lock:
            if self._version == version:
                return
            if not folder.is_dir():
                raise BadMessage(f"{folder} does not exist; run and server need the same folder --weights")
            self._take(version, lambda: self._backend.load_weights(folder))

    def take(self, version: str, load: Callable[[], None]) -> None:
        """The same for weights that ``load`` gives the engine."""
        with self._lock:
            self._take(version, load)

    def _take(self, version: str, load: Callable[[], None]) -> None:
        self._version = None
        try:
            self.run(load)
        except EngineFailed as error:
            if isinstance(error.__cause__, ValueError):
                raise WrongWeights(str(error)) from error.__cause__
            raise
        self._version = version

    def forget(self) -> None:
        """The engine's weights are gone."""
        with self._lock:
            self._version = None

    def generate(self, request: Request) -> list[AnsweredGroup]:
        """
        Raises:
            StaleWeights: the engine has other weights
            BadMessage: a prompt cannot be asked
            EngineFailed: the engine can no longer be used
        """
        mine = _Waiting(request)
        self._waiting.append(mine)
        with self._lock:
            if mine.outcome is None:  # else whoever had the lock before has seen to it
                self._answer(self._alike(mine))
        assert mine.outcome is not None
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    def _alike(self, first: _Waiting) -> list[_Waiting]:
        """Takes out all that wait and can be answered together with the first."""
        alike = [each for each in list(self._waiting) if each.manner == first.manner]
        for each in alike:
            self._waiting.remove(each)
        return alike

    def _answer(self, waiting: Sequence[_Waiting]) -> None:
        """Gives each its outcome; one that cannot be asked fails alone."""
        if len(waiting) == 1:
            waiting[0].outcome = self._outcome(waiting[0].request)
            return
        prompts = tuple(prompt for each in waiting for prompt in each.request.prompts)
        together = self._outcome(replace(waiting[0].request, prompts=prompts))
        if isinstance(together, BadMessage):
            for each in waiting:
                self._answer([each])
            return
        for each, outcome in zip(waiting, _deal(waiting, together), strict=True):
            each.outcome = outcome

    def _outcome(self, request: Request) -> RequestOutcome:
        try:
            if request.version != self._version:
                raise StaleWeights(f"the server has the weights {self._version}, not {request.version}")
            self._refuse_long(request)
            return self.run(lambda: self._backend.generate(request))
        except (StaleWeights, BadMessage, EngineFailed) as error:
            return error

    def _refuse_long(self, request: Request) -> None:
        room = int(self._backend.describe()["context_length"]) - request.sampling.max_new_tokens
        longest = max((len(prompt.token_ids) for prompt in request.prompts), default=0)
        if longest > room:
            raise BadMessage(
                f"a prompt of {longest} tokens and {request.sampling.max_new_tokens} new ones are more than the server "
                f"holds; raise its {self._length_key}"
            )

    def run(self, work: Callable[[], T]) -> T:
        """What the engine does.

        Raises:
            BadMessage: it cannot be asked for that
            EngineFailed: it can no longer be used
        """
        if self.has_failed:
            raise EngineFailed("the engine has failed before")
        self._began = time.monotonic()
        try:
            return work()
        except BadMessage as error:
            raise BadMessage(first_line(error)) from error
        except Exception as error:  # also a ValueError: what was begun may still be in it
            self.has_failed = True
            raise EngineFailed(f"{type(error).__name__}: {first_line(error)}") from error
        finally:
            self._began = None
