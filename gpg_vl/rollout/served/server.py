"""HTTP in front of a ``Service``: who may ask, how much, and in which words a mistake is told.

``GET /status``, ``POST /weights`` (take a version), ``POST /generate``; bodies are those of ``messages``. 400: the
request is wrong, or weights are, and then the server ends; 401: the token is; 409: the engine has other weights; 500
and 503: the engine has failed, and the server ends.
"""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, socket
from typing import Any

from gpg_vl.errors import first_line, is_out_of_memory
from gpg_vl.rollout.served.fields import BadMessage, Fields
from gpg_vl.rollout.served.messages import PROTOCOL, VERSION, read_request, write_answer
from gpg_vl.rollout.served.service import EngineFailed, Service, StaleWeights, WrongWeights
from gpg_vl.screen import say

MOST_BYTES = 2**29
"""Of a request; pixels are most of it."""
MOST_CONNECTIONS = 1024
"""At once; each rank of a run has one for each part of its prompts."""
_PIECE = 2**16
_SILENCE_SECONDS = 60.0  # that a sender may pause in the middle of a request


class RolloutServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # ranks connect at the same moment

    service: Service

    def __init__(self, address: tuple[str, int], token: str, most_connections: int = MOST_CONNECTIONS):
        """
        Args:
            address: a host's name or number, IPv6 too, and a port. It is taken, and whoever connects is refused

        Raises:
            OSError: the address cannot be used
        """
        self._token = token.encode()
        self._places = threading.BoundedSemaphore(most_connections)
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, _Handler, bind_and_activate=False)
        try:
            self.server_bind()
        except BaseException:
            self.server_close()
            raise

    def open(self, service: Service) -> None:
        """From here on connections are taken; ``serve_forever`` answers them.

        Raises:
            OSError: another server that was started meanwhile listens at the address
        """
        self.service = service
        self.server_activate()

    def knows(self, header: str) -> bool:
        """Whether a header ``Authorization`` has the token; takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(header.encode(), b"Bearer " + self._token)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Who asked went away; the others go on."""

    def end_soon(self) -> None:
        """Lets the loop end, for which the thread of a request cannot wait."""
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        self.shutdown()
        self.server_close()  # or who connects now would wait for an answer


class _Handler(BaseHTTPRequestHandler):
    server: RolloutServer
    timeout = _SILENCE_SECONDS

    def do_GET(self) -> None:
        self._answer({"/status": self._status}, has_body=False)

    def do_POST(self) -> None:
        self._answer({"/weights": self._load, "/generate": self._generate}, has_body=True)

    def _answer(self, actions: dict[str, Callable[[bytes], bytes]], has_body: bool) -> None:
        action = actions.get(self.path)
        if not self.server.knows(self.headers.get("Authorization", "")):
            self._skip_body()
            self._refuse(401, "the token is not this server's; run and server need the same folder --weights")
        elif action is None:
            self._skip_body()
            self._refuse(404, "there is no such action")
        elif (body := self._body() if has_body else b"") is not None:
            self._act(action, body)

    def _skip_body(self) -> None:
        """Reads what is sent, up to a limit: who is cut off while it sends does not read why."""
        length = self.headers.get("Content-Length", "")
        left = min(int(length), MOST_BYTES) if length.isascii() and length.isdigit() and len(length) < 12 else 0
        while left and (read := len(self.rfile.read(min(left, _PIECE)))):
            left -= read

    def _body(self) -> bytes | None:
        """None if it was refused."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self._refuse(411, "the length of the request is not given")
            return None
        if len(length) > 12 or int(length) > MOST_BYTES:
            self._refuse(413, f"the request is larger than {MOST_BYTES} bytes; ask for fewer prompts at once")
            return None
        body = self.rfile.read(int(length))
        return body if len(body) == int(length) else None

    def _act(self, action: Callable[[bytes], bytes], body: bytes) -> None:
        try:
            self._send(200, action(body))
        except BadMessage as error:
            self._refuse(400, first_line(error))
        except StaleWeights as error:
            self._refuse(409, first_line(error))
        except EngineFailed as error:
            say(f"the engine has failed and the server ends: {first_line(error)}")
            try:
                self._refuse(_status_of(error), first_line(error))
            finally:  # who asked may have gone away
                self.server.end_soon()

    def _status(self, _: bytes) -> bytes:
        return json.dumps({"protocol": PROTOCOL, **self.server.service.describe()}).encode()

    def _load(self, body: bytes) -> bytes:
        version = Fields.of_message(body, PROTOCOL).matching("version", VERSION)
        self.server.service.load(version)
        return json.dumps({"protocol": PROTOCOL, "version": version}).encode()

    def _generate(self, body: bytes) -> bytes:
        request = read_request(body)
        return write_answer(request.version, self.server.service.generate(request))

    def _refuse(self, status: int, text: str) -> None:
        self._send(status, json.dumps({"protocol": PROTOCOL, "error": text}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _status_of(error: EngineFailed) -> int:
    if isinstance(error, WrongWeights):
        return 400
    return 503 if is_out_of_memory(error) else 500
