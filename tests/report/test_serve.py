"""The page served on this machine alone."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from gpg_vl.report.serve import HOST, make_server
from tests.support.messages import naming


@pytest.fixture
def port() -> Iterator[int]:
    texts = iter(["first", "second"])

    def render() -> str:
        if (text := next(texts, None)) is None:
            raise ValueError("metrics.jsonl is damaged")
        return text

    server = make_server(render, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(port: int, path: str = "/", host: str | None = None) -> tuple[int, str, str | None]:
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["Refresh"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers["Refresh"]


def test_each_visit_is_drawn_anew(port: int) -> None:
    assert fetch(port) == (200, "first", "30")
    assert fetch(port)[1] == "second"
    assert fetch(port) == (503, "metrics.jsonl is damaged", "30"), "a file that is being written"


def test_nothing_else_is_served(port: int) -> None:
    assert fetch(port, "/etc/passwd")[0] == 404
    assert fetch(port, host="elsewhere.test:80")[0] == 404, "a page of another host that resolves to this machine"


def test_a_port_that_is_taken_is_named(port: int) -> None:
    with pytest.raises(ValueError, match=naming(f"--port {port}")):
        make_server(lambda: "", port)
