"""A run's side of an exchange, against HTTP servers that answer as written."""

from __future__ import annotations

import json
import time

import pytest

from gpg_vl.rollout.served.client import Client, NoAnswer, Refused, ServerFault
from gpg_vl.rollout.served.messages import read_request, write_answer
from tests.support.rollout_servers import Canned, canned_server
from tests.support.served_messages import BAD_ANSWERS, GROUPS, REQUEST, VERSION, changed

GOOD = (200, write_answer(VERSION, GROUPS))
LOADED = (200, json.dumps({"protocol": 1, "version": VERSION}).encode())
STALE = (409, b'{"protocol": 1, "error": "the server has the weights None"}')
TOKEN = "t" * 40


def ask(canned: Canned, timeout_s: float = 20.0) -> object:
    with canned_server(canned) as url:
        return Client(url, TOKEN, timeout_s, 10).generate(REQUEST)


def test_the_request_arrives_and_its_answer_comes_back() -> None:
    canned = Canned([GOOD])
    assert ask(canned) == GROUPS
    [(method, path, body)] = canned.seen
    assert (method, path, read_request(body)) == ("POST", "/generate", REQUEST)


def test_a_stale_server_gets_the_weights_and_is_asked_again() -> None:
    canned = Canned([STALE, LOADED, GOOD])
    assert ask(canned) == GROUPS
    assert [path for _, path, _ in canned.seen] == ["/generate", "/weights", "/generate"]
    assert json.loads(canned.seen[1][2])["version"] == VERSION


def test_a_server_that_stays_stale_is_a_fault() -> None:
    canned = Canned([STALE, LOADED, STALE])
    with pytest.raises(ServerFault, match="409"):
        ask(canned)
    assert len(canned.seen) == 3


@pytest.mark.parametrize("path", BAD_ANSWERS)
def test_bad_answers_are_faults(path: str) -> None:
    with pytest.raises(ServerFault, match="bad answer"):
        ask(Canned([(200, changed(GOOD[1], path, BAD_ANSWERS[path]))]))


@pytest.mark.parametrize(
    "answer",
    [(500, b"<html>"), (503, b'{"protocol": 1, "error": "out of memory"}'), (200, b"{}"), (200, GOOD[1][:-5]),
     (200, None), (200, b"x" * 10**7), (200, b"")],
)  # fmt: skip
def test_faults_are_told_apart_from_answers(answer: tuple[int, bytes | None]) -> None:
    with pytest.raises(ServerFault) as caught:
        ask(Canned([answer]))
    assert not isinstance(caught.value, NoAnswer)
    assert "\n" not in str(caught.value) and "http://127.0.0.1:" in str(caught.value)


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    canned = Canned([(status, b'{"protocol": 1, "error": "too long"}')])
    with pytest.raises(Refused, match=rf"rollout.vllm.servers: .*{status}: too long"):
        ask(canned)
    assert len(canned.seen) == 1


@pytest.mark.parametrize("canned", [Canned([GOOD], pause_s=30.0), Canned([GOOD], drip_s=0.2)])
def test_the_time_limit_is_that_of_the_whole_exchange(canned: Canned) -> None:
    """Also of an answer that comes byte by byte, which no limit on a single one would end."""
    start = time.monotonic()
    with pytest.raises(NoAnswer, match="1 s"):
        ask(canned, timeout_s=1.0)
    assert time.monotonic() - start < 10


def test_nobody_listens() -> None:
    with canned_server(Canned([GOOD])) as url:
        pass
    with pytest.raises(ServerFault, match="cannot be reached"):
        Client(url, TOKEN, 20.0, 10).generate(REQUEST)


def test_a_server_that_takes_another_version_is_a_fault() -> None:
    other = (200, json.dumps({"protocol": 1, "version": "f" * 16 + "-00000001"}).encode())
    with canned_server(Canned([other])) as url, pytest.raises(ServerFault, match="another version"):
        Client(url, TOKEN, 20.0, 10).load(VERSION)
