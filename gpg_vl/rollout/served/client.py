"""One rollout server as a run sees it. Every exchange is bounded in time and in size, and a fault says its kind."""

from __future__ import annotations

import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpg_vl.errors import first_line
from gpg_vl.rollout.served.fields import BadMessage, Fields
from gpg_vl.rollout.served.messages import PROTOCOL, VERSION, AnsweredGroup, Request, read_answer, write_request

_CONNECT_SECONDS = 10.0
_SMALL = 2**16  # bytes of an answer without completions
_BYTES_PER_TOKEN = 64  # of an answer: a token and its log-prob, written out


class ServerFault(Exception):
    """A server gave no answer that can be used; it, or another one, may be asked again."""


class NoAnswer(ServerFault):
    """There was none in time."""


class StaleServer(ServerFault):
    """It has other weights than those asked for."""


class Refused(ValueError):
    """The server takes no request like this one; asking again would not help. One line that names the server."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What ``Service.describe`` says of an engine."""

    engine: str
    dtype: str
    context_length: int
    max_images: int
    busy_s: float | None = None  # for how long it has been at what it does; None: at nothing, or not known


class Client:
    def __init__(self, url: str, token: str, timeout_s: float, vocab_size: int):
        """
        Args:
            url: ``http://HOST:PORT``
            timeout_s: of every exchange, from its connection to the last byte
            vocab_size: rows of the model's head
        """
        self.url = url
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
        self._timeout_s = timeout_s
        self._vocab_size = vocab_size
        self._open: set[socket.socket] = set()
        self._is_closed = False

    def status(self, within_s: float = math.inf) -> ServerStatus:
        """
        Args:
            within_s: of the time that an exchange has

        Raises:
            ServerFault, Refused
        """
        with self._reading():
            fields = Fields(json.loads(self._exchange("GET", "/status", b"", _SMALL, within_s)))
            length, images = fields.whole("context_length", 1, 2**31), fields.whole("max_images", 0, 2**31)
            busy_s = fields.number_if_there("busy_s", 0.0, math.inf)
            return ServerStatus(fields.text("engine"), fields.text("dtype"), length, images, busy_s)

    def load(self, version: str) -> None:
        """Has the server take a version of the weights, if it has not yet.

        Raises:
            ServerFault, Refused
        """
        body = json.dumps({"protocol": PROTOCOL, "version": version}).encode()
        with self._reading():
            answer = Fields.of_message(self._exchange("POST", "/weights", body, _SMALL), PROTOCOL)
            if answer.matching("version", VERSION) != version:
                raise BadMessage("it took another version")

    def generate(self, request: Request) -> list[AnsweredGroup]:
        """The whole answer to a request; a server that has other weights gets the right ones first.

        Raises:
            ServerFault, Refused
        """
        try:
            return self._generate(request)
        except StaleServer:
            self.load(request.version)
            return self._generate(request)

    def _generate(self, request: Request) -> list[AnsweredGroup]:
        num_completions = len(request.prompts) * request.group_size
        most = _SMALL + num_completions * (request.sampling.max_new_tokens + 1) * _BYTES_PER_TOKEN
        with self._reading():
            body = self._exchange("POST", "/generate", write_request(request), most)
            return read_answer(body, request, self._vocab_size)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if isinstance(error, Refused):
                raise
            raise ServerFault(f"{self.url} gives a bad answer: {first_line(error)}") from error

    def _exchange(self, method: str, path: str, body: bytes, most: int, within_s: float = math.inf) -> bytes:
        seconds = min(self._timeout_s, within_s)
        end = time.monotonic() + seconds
        try:
            status, answer = self._send(method, path, body, most, seconds)
        except (OSError, http.client.HTTPException) as error:
            self._refuse_late(end, seconds)
            raise ServerFault(f"{self.url} cannot be reached: {first_line(error)}") from error
        self._refuse_late(end, seconds)  # a link that was cut looks like the end of an answer
        if len(answer) > most:
            raise ServerFault(f"{self.url} gives a bad answer: more than {most} bytes")
        return self._accept(status, answer)

    def _refuse_late(self, end: float, seconds: float) -> None:
        if time.monotonic() >= end:
            raise NoAnswer(f"{self.url} gives no answer within {seconds:g} s")

    def _send(self, method: str, path: str, body: bytes, most: int, seconds: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._address, timeout=min(_CONNECT_SECONDS, seconds))
        with self._connected(connection, seconds):
            connection.request(method, path, body if method == "POST" else None, self._headers)
            response = connection.getresponse()
            return response.status, response.read(most + 1)

    @contextmanager
    def _connected(self, connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
        """The time limit is that of the whole exchange: a socket's own one starts anew with every byte."""
        started = time.monotonic()
        connection.connect()
        link: socket.socket = connection.sock
        link.settimeout(seconds)
        self._open.add(link)
        limit = threading.Timer(max(0.0, seconds - (time.monotonic() - started)), _cut, [link])
        limit.daemon = True
        limit.start()
        try:
            if self._is_closed:  # while this one was being opened
                raise ServerFault(f"{self.url} has been given up")
            yield
        finally:
            limit.cancel()
            self._open.discard(link)
            connection.close()

    def _accept(self, status: int, answer: bytes) -> bytes:
        if status == 200:
            return answer
        said = f"{self.url} says {status}: {_error_in(answer)}"
        if status == 409:
            raise StaleServer(said)
        if status >= 500:
            raise ServerFault(said)
        raise Refused(f"rollout.vllm.servers: {said}")

    def begin(self) -> None:
        """Allows exchanges again."""
        self._is_closed = False

    def close(self) -> None:
        """Ends the exchanges under way, which other threads wait for, and begins no other."""
        self._is_closed = True
        for link in list(self._open):
            _cut(link)


def _cut(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def _error_in(answer: bytes) -> str:
    try:
        return Fields.of_message(answer, PROTOCOL).text("error")[:300]
    except BadMessage:
        return "it does not say why"
