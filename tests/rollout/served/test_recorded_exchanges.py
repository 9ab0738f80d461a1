"""What vLLM itself has answered, repeated to a run; and what it was asked, repeated to the kit's server.

``python -m tests.support.record_exchanges`` recorded it, bad requests and answers included.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gpg_vl.rollout.served.client import Client, Refused, ServerFault
from gpg_vl.rollout.served.messages import VERSION, read_answer, read_request
from gpg_vl.rollout.served.parity import MAX_GAP
from gpg_vl.rollout.served.shared_folder import make_token, read_token
from tests.support.recorded_exchanges import (
    AGAIN,
    RUN,
    SAMPLED,
    STALE,
    Exchange,
    RecordedBackend,
    make_policy,
    play_run,
    read_exchanges,
    repeating_server,
)
from tests.support.rollout_servers import largest_gap, serving

RECORDED = read_exchanges()
STATUS: dict[str, Any] = json.loads(RECORDED[RUN][0].answer)
REFUSED = {
    "no such action": 404,
    "no JSON": 400,
    "another protocol": 400,
    "weights that nobody published": 400,
    "weights that it has not": 409,
    "a prompt that is too long": 400,
    "an image of another size": 400,
    "a token that the model has not": 400,
    "another token": 401,
}
FAILED = {"damaged weights": 500}


def test_what_is_recorded() -> None:
    assert STATUS["engine"].startswith("vllm 0.")
    assert set(RECORDED) == {RUN, STALE, AGAIN, *REFUSED, *FAILED}
    assert {what: RECORDED[what][-1].status for what in (*REFUSED, *FAILED)} == REFUSED | FAILED
    assert [each.status for each in RECORDED[STALE]] == [409, 200, 200]
    assert {each.status for each in RECORDED[RUN]} == {200}
    assert tokens(RECORDED[AGAIN][0]) == tokens(RECORDED[STALE][-1]), "what was refused leaves nothing behind"


def tokens(exchange: Exchange) -> list[list[list[int]]]:
    groups = json.loads(exchange.answer)["groups"]
    return [[each["token_ids"] for each in group["completions"]] for group in groups]


def said(exchanges: Sequence[Exchange]) -> list[tuple[str, str, str]]:
    return [(each.method, each.path, each.request) for each in exchanges]


def test_a_run_says_what_it_said_and_reads_what_it_read(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """The log-probs that vLLM gave are still those of the policy."""
    adapter = make_policy(model_folders["qwen2_vl"])
    make_token(tmp_path)
    answered = [tokens(each) for each in RECORDED[RUN] if each.path == "/generate"]
    with repeating_server(RECORDED[RUN]) as (url, canned):
        for (sampling, groups), told in zip(play_run(adapter, url, tmp_path), answered, strict=True):
            assert [[list(each.token_ids) for each in group.completions] for group in groups] == told
            ends = {each.finished for group in groups for each in group.completions}
            if sampling == SAMPLED:
                assert largest_gap(adapter, groups, SAMPLED.temperature) < MAX_GAP["float32"]
                assert ends == {True, False}
    assert [(method, path, body.decode()) for method, path, body in canned.seen] == said(RECORDED[RUN])


def test_a_server_without_the_weights_gets_them(tmp_path: Path) -> None:
    request = read_request(RECORDED[STALE][0].request.encode())
    with repeating_server(RECORDED[STALE]) as (url, canned):
        groups = Client(url, "t" * 40, 60.0, 10**6).generate(request)
    assert groups == read_answer(RECORDED[STALE][-1].answer.encode(), request, 10**6)
    assert [(method, path, body.decode()) for method, path, body in canned.seen] == said(RECORDED[STALE])


@pytest.mark.parametrize("what", [*REFUSED, *FAILED])
def test_what_vllm_refused_ends_the_run_and_its_failures_do_not(what: str) -> None:
    """At a request of the run's own. A server with other weights gets the right ones, in vain here."""
    [exchange] = RECORDED[what]
    request = read_request(RECORDED[STALE][0].request.encode())
    retried = exchange.status is None or exchange.status == 409 or exchange.status >= 500
    with repeating_server([exchange]) as (url, canned):
        client = Client(url, "t" * 40, 60.0, 10**6)
        act = (
            partial(client.load, request.version) if exchange.path == "/weights" else partial(client.generate, request)
        )
        with pytest.raises(ServerFault if retried else Refused) as caught:
            act()
    assert url in str(caught.value) and "\n" not in str(caught.value)
    if exchange.status is not None:
        assert f"{exchange.status}: {exchange.error}"[:300] in str(caught.value)
    assert len(canned.seen) == (2 if exchange.status == 409 else 1)


def ask(url: str, token: str, exchange: Exchange) -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=60)
    header = {"Authorization": f"Bearer {token if exchange.has_token else token[::-1]}"}
    connection.request(exchange.method, exchange.path, exchange.request or None, header)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def test_the_kits_server_answers_as_it_did(tmp_path: Path) -> None:
    """All but the paths in its messages, which are those of the machine."""
    asked = RECORDED[RUN] + RECORDED[STALE] + [RECORDED[what][0] for what in REFUSED]
    versions = {json.loads(each.request)["version"] for each in asked if each.path == "/weights" and each.status == 200}
    versions |= {STATUS["version"]} - {None}
    assert len(versions) > 1 and all(map(VERSION.fullmatch, versions))
    for version in versions:
        (tmp_path / version).mkdir()
    with serving(RecordedBackend(asked, STATUS, 10**6), tmp_path) as (url, server):
        if STATUS["version"] is not None:
            server.service.load(STATUS["version"])
        for exchange in asked:
            status, answer = ask(url, read_token(tmp_path), exchange)
            assert status == exchange.status, exchange.what
            if exchange.what != "weights that nobody published":
                assert json.loads(answer) == json.loads(exchange.answer), exchange.what
