"""URLs as hostile rows write them. The servers are on 127.0.0.1; nothing else is ever contacted."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gpg_vl.data import downloads
from gpg_vl.data.downloads import check_url, download
from tests.support.messages import naming

BODY = b"picture " * 1000


class Handler(BaseHTTPRequestHandler):
    """The path says how the server behaves; the requests that it got are in ``server.seen``."""

    def do_GET(self) -> None:
        seen: list[tuple[str, str]] = self.server.seen  # type: ignore[attr-defined]
        seen.append((self.headers["Host"], self.path))
        name = self.path.strip("/").split("?")[0].split("/")[0]
        getattr(self, f"answer_{name}")()

    def answer_ok(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def answer_open_end(self) -> None:
        """No length: the end of the connection is the end of the body."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def answer_short(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY) + 1))
        self.end_headers()
        self.wfile.write(BODY)

    def answer_missing(self) -> None:
        self.send_error(404, "secret text")

    def answer_liar(self) -> None:
        """Says nothing of its size and never ends."""
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(BODY)

    def answer_drip(self) -> None:
        """A byte every 0.1 s: each read is in time, the whole never is."""
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def answer_drip_headers(self) -> None:
        for _ in range(100):
            self.wfile.write(b"X")
            self.wfile.flush()
            time.sleep(0.1)

    def answer_to(self) -> None:
        """/to/URL redirects there."""
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to/"))
        self.end_headers()

    def answer_loop(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/loop")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client hung up, as it should
            super().handle()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Every host resolves to it, as if its address were a public one."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(downloads, "_public_addresses", lambda host, port: ["127.0.0.1"])
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def base(server: ThreadingHTTPServer, host: str = "pictures.test") -> str:
    return f"{host}:{server.server_port}"


def fetch(server: ThreadingHTTPServer, path: str, max_bytes: int = 10**6, timeout_s: float = 5.0) -> bytes:
    return download(f"http://{base(server)}/{path}", [base(server)], max_bytes, timeout_s)


@pytest.mark.parametrize("path", ["ok", "ok?size=3&x=%20", "open_end", "to//ok"])
def test_allowed_host_is_fetched(server: ThreadingHTTPServer, path: str) -> None:
    assert fetch(server, path) == BODY
    assert server.seen[0] == (base(server), f"/{path}")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("missing", [404]),
        ("short", ["connection"]),
        ("loop", ["redirects", 3]),
        ("nothing_like_it", ["pictures.test", "RemoteDisconnected"]),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_other_answers_are_one_line(
    server: ThreadingHTTPServer, path: str, named: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "handle_error", lambda *args: None)
    with pytest.raises(ValueError, match=naming(*named)):
        fetch(server, path)


@pytest.mark.parametrize("path", ["ok", "open_end", "liar"])
def test_size_is_limited(server: ThreadingHTTPServer, path: str) -> None:
    with pytest.raises(ValueError, match=naming(8000, 7999) if path == "ok" else naming(7999)):
        fetch(server, path, max_bytes=len(BODY) - 1)


@pytest.mark.parametrize("path", ["drip", "drip_headers"])
def test_time_is_limited_as_a_whole(server: ThreadingHTTPServer, path: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=naming("0.5 s")):
        fetch(server, path, timeout_s=0.5)
    assert time.monotonic() - start < 2


def test_a_port_that_answers_no_tls_is_one_line(server: ThreadingHTTPServer) -> None:
    with pytest.raises(ValueError, match=naming(base(server), "SSLError")):
        download(f"https://{base(server)}/ok", [base(server)], 10**6, 5.0)


@pytest.mark.parametrize(
    "target",
    ["http://evil.test:{port}/ok", "//evil.test:{port}/ok", "http://127.0.0.1:{port}/ok", "file:///etc/passwd"],
)
def test_no_redirect_to_another_host(server: ThreadingHTTPServer, target: str) -> None:
    hosts = [base(server), base(server, "evil.test"), base(server, "127.0.0.1")]  # not even one that may be named
    with pytest.raises(ValueError, match=naming("redirects")):
        download(f"http://{base(server)}/to/" + target.format(port=server.server_port), hosts, 10**6)
    assert len(server.seen) == 1  # type: ignore[attr-defined]


def test_no_redirect_to_another_port(server: ThreadingHTTPServer) -> None:
    with pytest.raises(ValueError, match=naming("pictures.test:1", "data.image_hosts")):
        fetch(server, "to/http://pictures.test:1/ok")


HOSTS = ["pictures.test", "Big.Test", "own-port.test:8443"]


@pytest.mark.parametrize(
    "url",
    ["http://pictures.test/a.png", "https://pictures.test:443/a", "https://PICTURES.test", "http://big.test/x",
     "https://own-port.test:8443/x"],
)  # fmt: skip
def test_hosts_that_are_named(url: str) -> None:
    check_url(url, HOSTS)
    with pytest.raises(ValueError, match=naming("data.image_hosts")):
        check_url(url, [])


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://other.test/a.png", ["other.test", "data.image_hosts"]),
        ("https://pictures.test.other.test/a.png", ["pictures.test.other.test", "data.image_hosts"]),
        ("https://sub.pictures.test/a.png", ["sub.pictures.test", "data.image_hosts"]),
        ("https://pictures.test:8080/a.png", ["pictures.test:8080", "data.image_hosts"]),
        ("https://own-port.test/a.png", ["own-port.test", "data.image_hosts"]),
        ("https://pictures.test./a.png", ["pictures.test.", "data.image_hosts"]),
        ("https://pictures.test@other.test/a.png", ["host", "user"]),
        ("https://pictures.test:x@other.test/a.png", ["URL"]),
        ("https://other.test\\@pictures.test/a.png", ["backslash"]),
        ("https://other.test#@pictures.test/", ["other.test", "data.image_hosts"]),
        ("https://other.test?@pictures.test/", ["other.test", "data.image_hosts"]),
        ("https://pictures.test/a b.png", ["space"]),
        ("https://pictures.test/a.png\r\nHost: other.test", ["space"]),
        ("https://pictures。test/a.png", ["ASCII"]),
        ("https://pictures.test:99999/", ["URL"]),
        ("https://[::1/", ["URL"]),
        ("https:///etc/passwd", ["host"]),
        ("file:///etc/passwd", ["file", "http", "https"]),
        ("ftp://pictures.test/a.png", ["ftp", "http", "https"]),
        ("data:image/png;base64,AAAA", ["data", "http", "https"]),
        ("http://127.0.0.1/a.png", ["127.0.0.1", "data.image_hosts"]),
        ("http://2130706433/a.png", ["2130706433", "data.image_hosts"]),
        ("http://169.254.169.254/latest/meta-data", ["169.254.169.254", "data.image_hosts"]),
    ],
)
def test_other_urls_are_refused_before_any_look_up(url: str, named: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("asked a name server"))
    for refuse in (lambda: check_url(url, HOSTS), lambda: download(url, HOSTS, 10**6)):
        with pytest.raises(ValueError, match=naming(*named)) as caught:
            refuse()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.1.2.3"], ["172.16.0.1"], ["192.168.1.1"], ["169.254.169.254"], ["100.64.0.1"], ["0.0.0.0"],
        ["224.0.0.1"], ["255.255.255.255"], ["::1"], ["::"], ["fe80::1%eth0"], ["fd00::1"], ["ff02::1"],
        ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["2001:db8::1"],
        ["93.184.216.34", "127.0.0.1"], [],
    ],
    ids=str,
)  # fmt: skip
def test_hosts_with_a_private_address_are_refused(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(ValueError, match=naming("pictures.test", "private")):
        download("http://pictures.test/a.png", HOSTS, 10**6)


def test_the_checked_address_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that gives a public address first and a private one afterwards gains nothing."""
    answers = iter([["8.8.8.8", "2606:4700::1"], ["127.0.0.1"]])
    connected: list[tuple[str, int]] = []

    def resolve(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(answers)]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ValueError, match=naming("pictures.test", "ConnectionRefusedError")):
        download("https://pictures.test/a.png", HOSTS, 10**6)
    assert connected == [("8.8.8.8", 443), ("2606:4700::1", 443)]


def test_host_without_an_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: Any, **kwargs: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ValueError, match=naming("pictures.test", "resolved")):
        download("http://pictures.test/a.png", HOSTS, 10**6)


def test_a_name_server_has_no_more_time_than_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60) and [])
    start = time.monotonic()
    with pytest.raises(ValueError, match=naming("0.3", "s")):
        download("http://pictures.test/a.png", HOSTS, 10**6, timeout_s=0.3)
    assert time.monotonic() - start < 5
    over.set()
