"""Requests -> answers, from whichever of several servers gives one, within a bound of time and of attempts.

A round asks every server once. A server that gave no answer in time is asked nothing more until, before the next
weights or requests, it says soon what it is, and is no longer at what it was at then: so a step waits for it once, and
later steps hardly at all. One that is new says what it is, and completes what it is compared by, before it is asked for
anything else. What one part of the requests has waited for in vain, the other parts do not wait for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from gpg_vl.config import VllmConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.rollout.served.client import Client, NoAnswer, Refused, ServerFault, ServerStatus
from gpg_vl.rollout.served.messages import AnsweredGroup, Request
from gpg_vl.rollout.served.parity import Comparison
from gpg_vl.rollout.served.shared_folder import read_token
from gpg_vl.screen import say

T = TypeVar("T")
LOOKING_SECONDS = 10.0
"""In which a server that hung says what it is, or hangs still."""


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
    def __init__(
        self, clients: Sequence[Client], config: VllmConfig, dtype: str, comparison: Comparison, first: int = 0
    ):
        """
        Args:
            dtype: that of the policy
            comparison: says which servers are new, under their addresses
            first: the server that is asked first; of several ranks, each has another
        """
        self._clients = clients
        self._config = config
        self._dtype = dtype
        self._comparison = comparison
        self._first = first
        self._checked: set[Client] = set()
        self._hung: dict[Client, float] = {}  # when each was given up
        self._ended = threading.Event()  # of the exchanges under way
        self._under_way: Exchanges[Any] | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def check(self) -> list[tuple[str, ServerStatus]]:
        """The address of every server that answers, and what it says of itself.

        Raises:
            Refused: one computes in another type
        """
        found = zip(self._clients, self._each(self._check), strict=True)
        return [(client.url, status) for client, status in found if status is not None]

    def _check(self, client: Client) -> ServerStatus:
        status = client.status()
        if status.dtype != self._dtype:
            raise Refused(
                f"rollout.vllm.servers: {client.url} computes in {status.dtype}, but model.dtype is {self._dtype}; "
                f"start it with --dtype {self._dtype}"
            )
        self._checked.add(client)
        return status

    def load(self, version: str) -> None:
        """Has every server take a version; one that does not is told again when it is asked for completions."""
        self._look_for_hung()
        self._each(lambda client: client.load(version))

    def ready(self, version: str) -> AbstractContextManager[None]:
        """A server that lacks the version gets it when it is asked."""
        return nullcontext()

    def meet(self) -> None:
        """Has every server that is new complete what it is compared by, in one attempt.

        Raises:
            Refused: one computes in another type, or will never take it
        """
        self._look_for_hung()
        new = [client for client in self._clients if self._comparison.is_new(client.url)]
        self._at_once([lambda client=client: self._attempt(client, self._meet) for client in new])  # type: ignore[misc]

    def _meet(self, client: Client) -> None:
        if client not in self._checked:
            self._check(client)
        request = self._comparison.request
        assert request is not None
        self._comparison.keep(client.url, client.generate(request))

    def generate(self, requests: Sequence[Request]) -> list[list[AnsweredGroup] | None]:
        """The answer to each; None for those that no server has answered.

        Raises:
            Refused: a server will never take one of them
        """
        self.meet()
        return self.begin(requests).results()

    def begin(self, requests: Sequence[Request]) -> Exchanges[list[AnsweredGroup] | None]:
        """Asks for them, of servers that are met, and does not wait for the answers. Nothing else is asked before they
        have come or have been ended.
        """
        given_up: set[Client] = set()
        return self._begin([
            lambda n=n, request=request: self._ask(request, self._first + n, given_up)  # type: ignore[misc]
            for n, request in enumerate(requests)
        ])  # fmt: skip

    def _look_for_hung(self) -> None:
        """Those that gave no answer in time are asked again once they say soon that they are at something else, or at
        nothing; or are gone.
        """
        hung = [client for client in self._clients if client in self._hung]
        self._at_once([partial(self._look_for, client) for client in hung])

    def _look_for(self, client: Client) -> None:
        since = time.monotonic() - self._hung[client]
        try:
            busy_s = client.status(LOOKING_SECONDS).busy_s
        except NoAnswer:
            return
        except ServerFault:
            busy_s = None  # to ask one that is gone takes no time, and it may be started again
        if busy_s is None or busy_s < since:
            del self._hung[client]

    def _each(self, act: Callable[[Client], T]) -> list[T | None]:
        """The result of one attempt at every server, at once; what a fault says is shown."""
        return self._at_once([lambda client=client: self._attempt(client, act) for client in self._clients])  # type: ignore[misc]

    def _at_once(self, works: Sequence[Callable[[], T]]) -> list[T]:
        return self._begin(works).results()

    def _begin(self, works: Sequence[Callable[[], T]]) -> Exchanges[T]:
        assert self._under_way is None or not self._under_way.is_open, "one exchange would end another"
        begun = Exchanges(self._clients, self._ended, works)
        self._under_way = begun
        return begun

    def _ask(self, request: Request, first: int, given_up: set[Client]) -> list[AnsweredGroup] | None:
        """
        Args:
            given_up: by this or another part of the requests, after all attempts
        """
        admitted = [client for client in self._in_order(first) if self._comparison.admits(client.url)]
        for number in range(self._config.retries + 1):
            if all(client in self._hung or client in given_up for client in admitted) or (
                number and self._ended.wait(self._config.retry_s * 2 ** (number - 1))
            ):
                return None
            for client in admitted:
                if not self._ended.is_set():
                    answer = self._attempt(client, lambda client: self._ask_one(client, request))
                    if answer is not None:
                        given_up.discard(client)
                        return answer
        given_up.update(admitted)
        return None

    def _ask_one(self, client: Client, request: Request) -> list[AnsweredGroup]:
        if self._comparison.is_new(client.url):
            self._meet(client)
        return client.generate(request)

    def _attempt(self, client: Client, act: Callable[[Client], T]) -> T | None:
        """None after a fault, which is shown. A server that gave no answer in time hangs, and is not asked again."""
        if client in self._hung:
            return None
        try:
            return act(client)
        except ServerFault as error:
            if isinstance(error, NoAnswer):
                self._hung[client] = time.monotonic()
            self._note(error)
            return None

    def _in_order(self, first: int) -> list[Client]:
        start = first % len(self._clients)
        return [*self._clients[start:], *self._clients[:start]]

    def _note(self, error: ServerFault) -> None:
        if not self._ended.is_set():
            say(f"rollout: {error}")


def find_servers(adapter: Adapter, config: VllmConfig, comparison: Comparison, first: int = 0) -> ServerPool:
    """The servers that a recipe names.

    Args: see ``ServerPool``

    Raises:
        ValueError: the shared folder has no token of a server
    """
    token = read_token(Path(config.weights))
    clients = [Client(url, token, config.timeout_s, adapter.head_weight.shape[0]) for url in config.servers]
    return ServerPool(clients, config, adapter.config.dtype, comparison, first)
