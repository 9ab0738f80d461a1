"""The kit's HTTP server: who may ask, how much, and what a failing engine means."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gpg_vl.config import VllmConfig
from gpg_vl.rollout.served.client import Client, Refused, ServerFault, ServerStatus
from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import AnsweredGroup, Request, write_request
from gpg_vl.rollout.served.server import MOST_BYTES, MOST_CONNECTIONS, RolloutServer, _Handler
from gpg_vl.rollout.served.service import Service
from gpg_vl.rollout.served.shared_folder import make_token, read_token
from tests.support.rollout_servers import serving
from tests.support.served_messages import GROUPS, REQUEST, VERSION


class WrittenBackend:
    """Gives the groups of ``served_messages``, or raises."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.error: Exception | None = None
        self.context_length = 11

    def describe(self) -> Mapping[str, str | int]:
        return {"engine": "written", "dtype": "float32", "context_length": self.context_length, "max_images": 3}

    def load_weights(self, folder: Path) -> None:
        self._fail()
        self.loaded.append(folder.name)

    def generate(self, request: Request) -> list[AnsweredGroup]:
        self._fail()
        assert request == REQUEST
        return GROUPS

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def backend() -> WrittenBackend:
    return WrittenBackend()


@pytest.fixture
def url(backend: WrittenBackend, tmp_path: Path) -> Iterator[str]:
    (tmp_path / VERSION).mkdir()
    with serving(backend, tmp_path) as (address, _):
        yield address


@pytest.fixture
def client(url: str, tmp_path: Path) -> Client:
    return Client(url, read_token(tmp_path), 20.0, 10)


def send(url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_it_says_what_it_is_and_answers_once_it_has_the_weights(client: Client, backend: WrittenBackend) -> None:
    assert client.status() == ServerStatus("written", "float32", 11, 3)
    assert client.generate(REQUEST) == GROUPS
    assert client.generate(REQUEST) == GROUPS
    client.load(VERSION)
    assert backend.loaded == [VERSION], "only once"


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic {}", "{}", "Bearer {}x", "Bearer é"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/status"), ("POST", "/generate"), ("POST", "/other")])
def test_without_its_token_it_does_nothing(
    url: str, tmp_path: Path, backend: WrittenBackend, token: str, method: str, path: str
) -> None:
    headers = {"Authorization": token.format(read_token(tmp_path)), "Content-Length": "0"}
    status, answer = send(url, method, path, headers)
    assert (status, set(answer)) == (401, {"protocol", "error"})
    assert backend.loaded == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/generate", {}, 404),
        ("POST", "/status", {"Content-Length": "0"}, 404),
        ("POST", "/../token", {"Content-Length": "0"}, 404),
        ("POST", "/generate", {}, 411),
        ("POST", "/generate", {"Content-Length": "-1"}, 411),
        ("POST", "/generate", {"Content-Length": "5", "Transfer-Encoding": "chunked"}, 411),
        ("POST", "/generate", {"Content-Length": str(MOST_BYTES + 1)}, 413),
        ("POST", "/generate", {"Content-Length": "9" * 5000}, 413),
        ("POST", "/generate", {"Content-Length": "0"}, 400),
    ],
)
def test_bounds_are_kept_before_a_body_is_read(
    url: str, tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    authorization = {"Authorization": f"Bearer {read_token(tmp_path)}"}
    assert send(url, method, path, {**authorization, **headers})[0] == status


def test_it_takes_only_versions_that_were_published(client: Client) -> None:
    with pytest.raises(Refused, match=r"400.*does not exist"):
        client.load("f" * 16 + "-00000001")


@pytest.mark.parametrize("version", ["../" + VERSION, "/etc", VERSION + "/..", VERSION.upper(), ""])
def test_a_version_is_no_path(url: str, tmp_path: Path, backend: WrittenBackend, version: str) -> None:
    headers = {"Authorization": f"Bearer {read_token(tmp_path)}"}
    body = json.dumps({"protocol": 1, "version": version}).encode()
    assert send(url, "POST", "/weights", {**headers, "Content-Length": str(len(body))}, body)[0] == 400
    assert backend.loaded == []


def test_a_prompt_that_does_not_fit_is_refused_before_it_is_begun(client: Client, backend: WrittenBackend) -> None:
    backend.context_length = 10
    with pytest.raises(Refused, match="--max-model-len"):
        client.generate(REQUEST)


def test_what_the_engine_finds_wrong_with_a_request_is_told(client: Client, backend: WrittenBackend) -> None:
    client.load(VERSION)
    backend.error = BadMessage("too many images\nand more")
    with pytest.raises(Refused, match=r"400: too many images$"):
        client.generate(REQUEST)
    backend.error = None
    assert client.generate(REQUEST) == GROUPS


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("engine died"), 500),
        (RuntimeError("CUDA out of memory"), 503),
        (ValueError("in the middle of a step"), 500),
    ],
)
def test_an_engine_that_failed_is_not_used_again(
    client: Client, backend: WrittenBackend, error: Exception, status: int
) -> None:
    client.load(VERSION)
    backend.error = error
    with pytest.raises(ServerFault, match=f"{status}: {type(error).__name__}: {error}"):
        client.generate(REQUEST)
    backend.error = None
    with pytest.raises(ServerFault):  # it has ended, or refuses
        client.generate(REQUEST)


def test_an_engine_that_fails_for_nobody_ends_the_server(backend: WrittenBackend, tmp_path: Path) -> None:
    """Whoever asked has gone away, perhaps for good; the GPU is not held for the next one."""
    (tmp_path / VERSION).mkdir()
    has_gone = threading.Event()

    class Slow(WrittenBackend):
        def load_weights(self, folder: Path) -> None:
            assert has_gone.wait(20)
            raise RuntimeError("engine died")

    with serving(Slow(), tmp_path) as (url, server):
        ended = threading.Event()
        end, refuse = server.end_soon, _Handler._refuse
        server.end_soon = lambda: ended.set() or end()  # type: ignore[method-assign]

        def to_nobody(self: _Handler, status: int, text: str) -> None:
            raise BrokenPipeError

        _Handler._refuse = to_nobody  # type: ignore[method-assign]
        try:
            with pytest.raises(ServerFault, match=r"timed out|no answer"):
                Client(url, read_token(tmp_path), 0.3, 10).load(VERSION)
            has_gone.set()
            assert ended.wait(20)
        finally:
            _Handler._refuse = refuse  # type: ignore[method-assign]


def test_weights_of_another_model_end_the_run_and_the_server(
    client: Client, backend: WrittenBackend, tmp_path: Path
) -> None:
    """Which may have taken some of them: what it would take next would be mixed with those."""
    client.load(VERSION)
    other = VERSION[:-1] + "4"
    (tmp_path / other).mkdir()
    backend.error = ValueError("not this model's")
    with pytest.raises(Refused, match="400: ValueError: not this model's"):
        client.load(other)
    backend.error = None
    with pytest.raises(ServerFault):  # it has ended, or refuses
        client.generate(REQUEST)
    assert backend.loaded == [VERSION]


@pytest.mark.parametrize("path", ["/generate", "/other"])
def test_who_is_refused_reads_why_however_much_he_sends(url: str, tmp_path: Path, path: str) -> None:
    """The system cuts a connection whose bytes nobody has read, and with it the answer."""
    body, token = b"x" * 2**24, "t" * 64 if path == "/generate" else read_token(tmp_path)
    headers = {"Authorization": f"Bearer {token}", "Content-Length": str(len(body))}
    for _ in range(5):
        assert send(url, "POST", path, headers, body)[0] == (401 if path == "/generate" else 404)


@contextmanager
def connections(url: str, number: int) -> Iterator[None]:
    with ExitStack() as links:
        for _ in range(number):
            links.enter_context(socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20))
        yield


def test_more_connections_than_it_has_room_for_are_closed(backend: WrittenBackend, tmp_path: Path) -> None:
    with serving(backend, tmp_path, most_connections=4) as (url, _):
        client = Client(url, read_token(tmp_path), 20.0, 10)
        with connections(url, 4), pytest.raises(ServerFault):
            client.status()


def test_there_is_room_for_the_ranks_of_many_nodes(url: str, client: Client) -> None:
    """Each rank waits in a connection of its own."""
    assert MOST_CONNECTIONS >= 1024
    with connections(url, 200):
        assert client.generate(REQUEST) == GROUPS


def test_it_listens_on_ipv6_too(backend: WrittenBackend, tmp_path: Path) -> None:
    server = RolloutServer(("::1", 0), make_token(tmp_path))
    server.open(Service(backend, tmp_path))
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    with server:
        url = f"http://[::1]:{server.server_address[1]}"
        assert VllmConfig(servers=[url]).servers == [url]
        assert Client(url, read_token(tmp_path), 20.0, 10).status().engine == "written"
        server.shutdown()
    thread.join(10)


def test_who_goes_away_in_the_middle_disturbs_nobody(url: str, tmp_path: Path, client: Client) -> None:
    body = write_request(REQUEST)
    head = f"POST /generate HTTP/1.0\r\nAuthorization: Bearer {read_token(tmp_path)}\r\n"
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as link:
        link.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:50])
    assert client.generate(REQUEST) == GROUPS
