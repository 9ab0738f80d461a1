"""Requests -> answers, from whichever of several servers gives one, within a bound of time and of attempts.

A round asks every server once. A server that gave no answer in time is not asked again for the same requests, so that
several rounds wait for it once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from gpg_vl.config import VllmConfig
from gpg_vl.rollout.served.client import Client, NoAnswer, Refused, ServerFault
from gpg_vl.rollout.served.messages import AnsweredGroup, Request
from gpg_vl.screen import say

T = TypeVar("T")


class ServerPool:
    def __init__(self, clients: Sequence[Client], config: VllmConfig, first: int = 0):
        """
        Args:
            first: the server that is asked first; of several ranks, each has another
        """
        self._clients = clients
        self._config = config
        self._first = first
        self._ended = threading.Event()  # of the call under way

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
        hung: set[Client] = set()
        works = [lambda n=n, request=request: self._ask(request, self._first + n, hung)  # type: ignore[misc]
                 for n, request in enumerate(requests)]  # fmt: skip
        return self._at_once(works)

    def _each(self, act: Callable[[Client], T]) -> list[T | None]:
        """The result of one attempt at every server, at once; what a fault says is shown."""
        return self._at_once([lambda client=client: self._try(client, act) for client in self._clients])  # type: ignore[misc]

    def _at_once(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Whatever ends this, as a signal, ends the exchanges as well."""
        self._ended.clear()
        for client in self._clients:
            client.begin()
        executor = ThreadPoolExecutor(max_workers=max(1, len(self._clients)), thread_name_prefix="rollout")
        try:
            futures: list[Future[T]] = [executor.submit(work) for work in works]
            return [future.result() for future in futures]
        finally:
            self._ended.set()
            for client in self._clients:
                client.close()
            executor.shutdown(wait=True, cancel_futures=True)

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
