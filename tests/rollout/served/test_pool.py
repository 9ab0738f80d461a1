"""Several servers: who is asked when, for how long, and when to give up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from gpg_vl.config import VllmConfig
from gpg_vl.rollout.served.client import Client, Refused
from gpg_vl.rollout.served.messages import AnsweredGroup, write_answer
from gpg_vl.rollout.served.pool import ServerPool
from tests.rollout.served.test_messages import GROUPS, REQUEST, VERSION
from tests.support.rollout_servers import Canned, canned_server

GOOD = (200, write_answer(VERSION, GROUPS))
DOWN = (500, b'{"protocol": 1, "error": "engine died"}')
CONFIG = VllmConfig(retries=2, retry_s=0.05, timeout_s=1.5)


def ask(
    servers: Sequence[Canned], num_requests: int = 1, config: VllmConfig = CONFIG, first: int = 0
) -> list[list[AnsweredGroup] | None]:
    with ExitStack() as stack:
        urls = [stack.enter_context(canned_server(canned)) for canned in servers]
        clients = [Client(url, "t" * 40, config.timeout_s, 10) for url in urls]
        return ServerPool(clients, config, first).generate([REQUEST] * num_requests)


def test_a_server_that_recovers_is_asked_again() -> None:
    canned = Canned([DOWN, (200, None), GOOD])
    assert ask([canned]) == [GROUPS]
    assert len(canned.seen) == 3


def test_attempts_are_bounded() -> None:
    canned = Canned([DOWN])
    assert ask([canned]) == [None]
    assert len(canned.seen) == CONFIG.retries + 1


def test_pauses_double() -> None:
    start = time.monotonic()
    assert ask([Canned([DOWN])], config=replace(CONFIG, retries=3, retry_s=0.2)) == [None]
    assert 0.2 + 0.4 + 0.8 <= time.monotonic() - start < 30


def test_another_server_takes_over() -> None:
    broken, good = Canned([DOWN]), Canned([GOOD])
    assert ask([broken, good]) == [GROUPS]
    assert (len(broken.seen), len(good.seen)) == (1, 1)


def test_requests_are_dealt_to_all_servers_from_the_ranks_own_one_on() -> None:
    servers = [Canned([GOOD]), Canned([GOOD]), Canned([GOOD])]
    assert ask(servers, num_requests=2, first=1) == [GROUPS, GROUPS]
    assert [len(canned.seen) for canned in servers] == [0, 1, 1]


def test_a_server_that_hangs_is_waited_for_once() -> None:
    hanging, broken = Canned([GOOD], pause_s=60.0), Canned([DOWN])
    start = time.monotonic()
    assert ask([hanging, broken]) == [None]
    assert time.monotonic() - start < 2 * CONFIG.timeout_s + 5
    assert (len(hanging.seen), len(broken.seen)) == (1, CONFIG.retries + 1)


def test_what_no_server_takes_ends_the_attempts() -> None:
    refusing, hanging = Canned([(400, b'{"protocol": 1, "error": "no"}')]), Canned([GOOD], pause_s=60.0)
    start = time.monotonic()
    with pytest.raises(Refused, match="400: no"):
        ask([refusing, hanging], num_requests=2, config=replace(CONFIG, timeout_s=600.0))
    assert time.monotonic() - start < 30, "the exchange with the other server is cut"
    assert len(refusing.seen) == 1


def test_a_signal_ends_the_wait() -> None:
    hanging = Canned([GOOD], pause_s=60.0)
    threading.Timer(1.0, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask([hanging], config=replace(CONFIG, timeout_s=600.0))
    assert time.monotonic() - start < 30


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    assert ask([Canned([DOWN]), Canned([GOOD])], num_requests=4) == [GROUPS] * 4
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_servers_of_another_type_are_refused() -> None:
    status = (200, b'{"protocol": 1, "engine": "vllm 0", "dtype": "bfloat16", "context_length": 9, "version": null}')
    with canned_server(Canned([status])) as url:
        pool = ServerPool([Client(url, "t" * 40, 20.0, 10)], CONFIG)
        pool.check("bfloat16")
        with pytest.raises(Refused, match="--dtype float32"):
            pool.check("float32")
