"""Requests -> answers, from whichever of several servers gives one, within a bound of time and of attempts.

A round asks every server once. A server that gave no answer in time is not asked again for the same requests, so that
several rounds wait for it once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from gpg_vl.config import VllmConfig
from gpg_vl.rollout.served.client import Client, NoAnswer, Refused, ServerFault
from gpg_vl.rollout.served.messages import AnsweredGroup, Request
from gpg_vl.screen import say

T = TypeVar("T")


class Exchanges(Generic[T]):
    """Works that ask servers, at once, each in a thread."""

    def __init__(self, clients: Sequence[Client], ended: threading.Event, works: Sequence[Callable[[], T]]):
        """
        Args:
            ended: is set when they end
        """
        self._clients = clients
        self._ended = ended
        ended.clear()
        for client in clients:
            client.begin()
        self._executor = ThreadPoolExecutor(max_workers=max(1, len(clients)), thread_name_prefix="rollout")
        self._futures: list[Future[T]] = [self._executor.submit(work) for work in works]

    @property
    def is_open(self) -> bool:
        """Whether some work goes on."""
        return not all(future.done() for future in self._futures)

    def wait(self) -> None:
        """Until all works have ended, however they did."""
        wait(self._futures)

    def results(self) -> list[T]:
        """Whatever ends this, as a signal, ends the exchanges as well."""
        try:
            return [future.result() for future in self._futures]
        finally:
            self.end()

    def end(self) -> None:
        self._ended.set()
        for client in self._clients:
            client.close()
        self._executor.shutdown(wait=True, cancel_futures=True)


class ServerPool:
    def __init__(self, clients: Sequence[Client], config: VllmConfig, first: int = 0):
        """
        Args:
            first: the server that is asked first; of several ranks, each has another
        """
        self._clients = clients
        self._config = config
        self._first = first
        self._ended = threading.Event()  # of the exchanges under way
        self._under_way: Exchanges[Any] | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def check(self, dtype: str) -> None:
        """Asks every server that answers what it is.

        Raises:
            Refused: one computes in another type
        """
        for client, status in zip(self._clients, self._each(lambda client: client.status()), strict=True):
            if status is not None and status["dtype"] != dtype:
                raise Refused(
                    f"rollout.vllm.servers: {client.url} computes in {status['dtype']}, but model.dtype is {dtype}; "
                    f"start it with --dtype {dtype}"
                )

    def load(self, version: str) -> None:
        """Has every server take a version; one that does not is told again when it is asked for completions."""
        self._each(lambda client: client.load(version))

    def ready(self, version: str) -> AbstractContextManager[None]:
        """A server that lacks the version gets it when it is asked."""
        return nullcontext()

    def ask_each(self, request: Request) -> list[tuple[str, list[AnsweredGroup]]]:
        """The address and the answer of every server that gives one.

        Raises:
            Refused: a server will never take it
        """
        answers = self._each(lambda client: client.generate(request))
        pairs = zip(self._clients, answers, strict=True)
        return [(client.url, answer) for client, answer in pairs if answer is not None]

    def generate(self, requests: Sequence[Request]) -> list[list[AnsweredGroup] | None]:
        """The answer to each; None for those that no server has answered.

        Raises:
            Refused: a server will never take one of them
        """
        return self.begin(requests).results()

    def begin(self, requests: Sequence[Request]) -> Exchanges[list[AnsweredGroup] | None]:
        """The same, without waiting for the answers. Nothing else is asked before they have come or have been ended."""
        hung: set[Client] = set()
        return self._begin([
            lambda n=n, request=request: self._ask(request, self._first + n, hung)  # type: ignore[misc]
            for n, request in enumerate(requests)
        ])  # fmt: skip

    def _each(self, act: Callable[[Client], T]) -> list[T | None]:
        """The result of one attempt at every server, at once; what a fault says is shown."""
        return self._at_once([lambda client=client: self._try(client, act) for client in self._clients])  # type: ignore[misc]

    def _at_once(self, works: Sequence[Callable[[], T]]) -> list[T]:
        return self._begin(works).results()

    def _begin(self, works: Sequence[Callable[[], T]]) -> Exchanges[T]:
        assert self._under_way is None or not self._under_way.is_open, "one exchange would end another"
        begun = Exchanges(self._clients, self._ended, works)
        self._under_way = begun
        return begun

    def _try(self, client: Client, act: Callable[[Client], T]) -> T | None:
        try:
            return act(client)
        except ServerFault as error:
            self._note(error)
            return None

    def _ask(self, request: Request, first: int, hung: set[Client]) -> list[AnsweredGroup] | None:
        for number in range(self._config.retries + 1):
            if number and self._ended.wait(self._config.retry_s * 2 ** (number - 1)):
                return None
            for client in self._in_order(first):
                if client not in hung and not self._ended.is_set():
                    answer = self._ask_one(client, request, hung)
                    if answer is not None:
                        return answer
        return None

    def _ask_one(self, client: Client, request: Request, hung: set[Client]) -> list[AnsweredGroup] | None:
        try:
            return client.generate(request)
        except NoAnswer as error:
            hung.add(client)
            self._note(error)
        except ServerFault as error:
            self._note(error)
        return None

    def _in_order(self, first: int) -> list[Client]:
        start = first % len(self._clients)
        return [*self._clients[start:], *self._clients[:start]]

    def _note(self, error: ServerFault) -> None:
        if not self._ended.is_set():
            say(f"rollout: {error}")
