"""Several servers: who is asked when, for how long, and when to give up."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config import VllmConfig
from gpg_vl.rollout.served import pool
from gpg_vl.rollout.served.client import Client, Refused
from gpg_vl.rollout.served.messages import AnsweredGroup, Request, write_answer
from gpg_vl.rollout.served.parity import Comparison
from gpg_vl.rollout.served.pool import ServerPool
from gpg_vl.rollout.served.shared_folder import read_token
from tests.support.messages import naming
from tests.support.rollout_servers import Canned, canned_server, serving
from tests.support.served_messages import GROUPS, REQUEST, VERSION

GOOD = (200, write_answer(VERSION, GROUPS))
DOWN = (500, b'{"protocol": 1, "error": "engine died"}')
CONFIG = VllmConfig(retries=2, retry_s=0.05, timeout_s=1.5)

STATUS = (200, b'{"protocol": 1, "engine": "vllm 0", "dtype": "bfloat16", "context_length": 9, "max_images": 8}')


class Known(Comparison):
    """Knows all servers but some."""

    def __init__(self, *new: str):
        self.new = {*new}
        self.request = REQUEST

    def is_new(self, engine: str) -> bool:
        return engine in self.new

    def admits(self, engine: str) -> bool:
        return self.request is not None or engine not in self.new

    def keep(self, engine: str, answer: Sequence[AnsweredGroup]) -> None:
        assert answer == GROUPS
        self.new.remove(engine)


def make_pool(
    urls: Sequence[str],
    config: VllmConfig = CONFIG,
    first: int = 0,
    dtype: str = "bfloat16",
    known: Known | None = None,
) -> ServerPool:
    clients = [Client(url, "t" * 40, config.timeout_s, 10) for url in urls]
    return ServerPool(clients, config, dtype, known or Known(), first)


def ask(
    servers: Sequence[Canned], num_requests: int = 1, config: VllmConfig = CONFIG, first: int = 0
) -> list[list[AnsweredGroup] | None]:
    with ExitStack() as stack:
        urls = [stack.enter_context(canned_server(canned)) for canned in servers]
        return make_pool(urls, config, first).generate([REQUEST] * num_requests)


def test_a_server_that_recovers_is_asked_again() -> None:
    canned = Canned([DOWN, (200, None), GOOD])
    assert ask([canned]) == [GROUPS]
    assert len(canned.seen) == 3


def test_attempts_are_bounded() -> None:
    canned = Canned([DOWN])
    assert ask([canned]) == [None]
    assert len(canned.seen) == CONFIG.retries + 1


def test_what_one_part_has_waited_for_the_others_do_not() -> None:
    canned = Canned([DOWN])
    assert ask([canned], num_requests=3) == [None] * 3
    assert len(canned.seen) == CONFIG.retries + 1


def test_a_server_that_has_answered_a_part_is_asked_for_the_others() -> None:
    with canned_server(Canned([GOOD])) as one, canned_server(Canned([GOOD])) as two:
        servers = make_pool([one, two])
        given_up = {servers._clients[0]}
        assert servers._ask(REQUEST, 0, given_up) == GROUPS and not given_up


def test_pauses_double() -> None:
    start = time.monotonic()
    assert ask([Canned([DOWN])], config=replace(CONFIG, retries=3, retry_s=0.2)) == [None]
    assert 0.2 + 0.4 + 0.8 <= time.monotonic() - start < 30


@pytest.mark.parametrize(("retries", "retry_s", "hours"), [(13, 1.0, "2.3"), (7, 60.0, "2.1")])
def test_pauses_that_other_ranks_would_not_wait_for_are_refused(retries: int, retry_s: float, hours: str) -> None:
    VllmConfig(retries=retries - 1, retry_s=retry_s)
    with pytest.raises(ValueError, match=naming("rollout.vllm.retries", hours, "retry_s")):
        VllmConfig(retries=retries, retry_s=retry_s)


class Unhurried(threading.Event):
    """Writes down for how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def test_by_default_a_server_that_is_started_again_has_time_to_load_its_model() -> None:
    """Refused connections take no time, so the pauses are all that there is."""
    with canned_server(Canned([DOWN])) as url:
        servers = make_pool([url], VllmConfig())
        servers._ended = pauses = Unhurried()
        assert servers.generate([REQUEST]) == [None]
    assert 240 <= sum(pauses.seconds) <= 300


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
    with canned_server(Canned([STATUS])) as url:
        make_pool([url]).check()
        with pytest.raises(Refused, match="--dtype float32"):
            make_pool([url], dtype="float32").check()


def paths(canned: Canned) -> list[str]:
    return [path for _, path, _ in canned.seen]


def test_a_server_that_is_new_is_checked_and_compared_before_it_is_asked() -> None:
    """Whenever it comes: here in the second round, after it has failed in the first one and when it was to be met."""
    late = Canned([DOWN, DOWN, STATUS, GOOD])
    with canned_server(late) as url:
        known = Known(url)
        assert make_pool([url], known=known).generate([REQUEST]) == [GROUPS]
    assert paths(late) == ["/status", "/status", "/status", "/generate", "/generate"] and not known.new


def test_a_server_of_another_type_that_comes_late_is_refused() -> None:
    late = Canned([DOWN, DOWN, STATUS, GOOD])
    with canned_server(late) as url:
        servers = make_pool([url], dtype="float32", known=Known(url))
        servers.check()  # nobody answers
        with pytest.raises(Refused, match="--dtype float32"):
            servers.generate([REQUEST])
    assert "/generate" not in paths(late)


def test_a_server_that_hangs_costs_a_step_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the steps after it hardly any, until it answers again."""
    monkeypatch.setattr(pool, "LOOKING_SECONDS", 0.3)
    loaded = (200, json.dumps({"protocol": 1, "version": VERSION}).encode())
    hanging, good = Canned([loaded, STATUS], pause_s=60.0), Canned([loaded, GOOD, loaded, GOOD, loaded, GOOD])
    with canned_server(hanging) as one, canned_server(good) as two:
        servers = make_pool([one, two])
        seconds = []
        for _ in range(2):
            start = time.monotonic()
            servers.load(VERSION)
            assert servers.generate([REQUEST]) == [GROUPS]
            seconds.append(time.monotonic() - start)
        assert CONFIG.timeout_s <= seconds[0] < 2 * CONFIG.timeout_s and seconds[1] < CONFIG.timeout_s
        assert paths(hanging) == ["/weights", "/status", "/status", "/status"]
        hanging.pause_s, hanging.answers = 0.0, [STATUS] * 5 + [loaded, GOOD]
        servers.load(VERSION)
        assert servers.generate([REQUEST]) == [GROUPS]
    assert paths(hanging)[4:] == ["/status", "/weights", "/generate"]


class Stuck:
    """An engine that stays in the middle of its first answer, behind a server that goes on answering what it is."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.goes_on = threading.Event()

    def describe(self) -> Mapping[str, str | int]:
        return {"engine": "stuck", "dtype": "bfloat16", "context_length": 512, "max_images": 8}

    def load_weights(self, folder: Path) -> None:
        pass

    def generate(self, request: Request) -> list[AnsweredGroup]:
        self.num_asked += 1
        assert self.goes_on.wait(60)
        return GROUPS


def test_a_server_whose_engine_is_stuck_costs_a_step_its_time_once(tmp_path: Path) -> None:
    """Until it is done with what it was asked then."""
    (tmp_path / VERSION).mkdir()
    stuck, good = Stuck(), Canned([(200, json.dumps({"protocol": 1, "version": VERSION}).encode()), GOOD] * 4)
    with serving(stuck, tmp_path) as (one, server), canned_server(good) as two:
        config = replace(CONFIG, timeout_s=3.0)
        servers = ServerPool(
            [Client(url, read_token(tmp_path), config.timeout_s, 10) for url in (one, two)],
            config, "bfloat16", Known(),
        )  # fmt: skip

        def step() -> float:
            start = time.monotonic()
            servers.load(VERSION)
            assert servers.generate([REQUEST]) == [GROUPS]
            return time.monotonic() - start

        assert step() >= config.timeout_s
        assert step() + step() < config.timeout_s and stuck.num_asked == 1
        stuck.goes_on.set()
        while "busy_s" in server.service.describe():
            time.sleep(0.02)
        step()
    assert stuck.num_asked == 2


@pytest.mark.parametrize(("busy_s", "is_asked"), [(1000, False), (0, True)])
def test_a_server_that_hung_and_is_at_something_newer_is_asked(busy_s: int, is_asked: bool) -> None:
    """As what another rank has asked for."""
    busy = Canned([DOWN], pause_s=60.0)
    with canned_server(busy) as url:
        servers = make_pool([url])
        assert servers.generate([REQUEST]) == [None]
        busy.pause_s, busy.answers = 0.0, [(200, json.dumps({**json.loads(STATUS[1]), "busy_s": busy_s}).encode())] * 2
        busy.answers.append(GOOD)
        assert servers.generate([REQUEST]) == [GROUPS if is_asked else None]


def test_a_server_that_hung_and_was_ended_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was not there: it may be started again."""
    monkeypatch.setattr(pool, "LOOKING_SECONDS", 0.3)
    hanging = Canned([DOWN], pause_s=60.0)
    with canned_server(hanging) as url:
        servers = make_pool([url])
        assert servers.generate([REQUEST]) == [None] and len(hanging.seen) == 1
        hanging.pause_s, hanging.answers = 0.0, [(200, None)] * 3 + [GOOD]
        assert servers.generate([REQUEST]) == [GROUPS]
    assert paths(hanging) == ["/generate", "/status", "/generate", "/generate"]


def test_a_server_that_hangs_is_looked_for_before_requests_go_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LOOKING_SECONDS", 0.3)
    hanging = Canned([STATUS], pause_s=60.0)
    with canned_server(hanging) as url:
        servers = make_pool([url])
        assert servers.generate([REQUEST]) == [None]
        hanging.pause_s, hanging.answers = 0.0, [STATUS, STATUS, GOOD]
        servers.meet()
        assert servers.begin([REQUEST]).results() == [GROUPS]


def test_a_server_that_hangs_when_it_is_met_is_not_waited_for_again() -> None:
    hanging, good = Canned([STATUS], pause_s=60.0), Canned([GOOD])
    with canned_server(hanging) as one, canned_server(good) as two:
        assert make_pool([one, two], known=Known(one)).generate([REQUEST]) == [GROUPS]
    assert (paths(hanging), paths(good)) == (["/status"], ["/generate"])


def test_where_no_server_is_admitted_nobody_is_waited_for() -> None:
    new = Canned([STATUS, GOOD])
    with canned_server(new) as url:
        known = Known(url)
        known.request = None
        servers = make_pool([url], replace(CONFIG, retries=6, retry_s=60.0), known=known)
        assert servers.begin([REQUEST]).results() == [None]
    assert new.seen == []
