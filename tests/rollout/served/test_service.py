"""Requests of several ranks at one engine: answered together, each as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served.asking import ask_prompt
from gpg_vl.rollout.served.client import Client, NoAnswer, Refused, ServerFault, StaleServer
from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, Request
from gpg_vl.rollout.served.service import Service
from gpg_vl.rollout.served.shared_folder import read_token
from tests.support.rollout_servers import TinyBackend, serving
from tests.support.served_messages import PLAIN, REQUEST, VERSION
from tests.support.served_rollouts import make_prompts

BAD, DEADLY = 13, 14
"""Seeds of prompts that cannot be asked, and that end the engine."""


def numbered(*seeds: int) -> Request:
    return replace(REQUEST, prompts=tuple(replace(PLAIN, seed=seed) for seed in seeds))


def answer(request: Request) -> list[AnsweredGroup]:
    """Groups whose log-probs say of which prompt they are."""
    rows = [AnsweredCompletion((1,), (-float(prompt.seed),)) for prompt in request.prompts]
    return [AnsweredGroup(2, (row,) * request.group_size) for row in rows]


class Slow:
    """Its first call lasts until as many other requests wait as the test says. Keeps the number of prompts of each."""

    def __init__(self, num_others: int, generate: Callable[[Request], list[AnsweredGroup]] = answer):
        self.sizes: list[int] = []
        self.service: Service | None = None
        self._num_others = num_others
        self._generate = generate
        self.seconds = 0.0  # of each call

    def describe(self) -> Mapping[str, str | int]:
        return {"engine": "slow", "dtype": "float32", "context_length": 512, "max_images": 8}

    def load_weights(self, folder: Path) -> None:
        pass

    def generate(self, request: Request) -> list[AnsweredGroup]:
        self.sizes.append(len(request.prompts))
        if len(self.sizes) == 1:
            self._wait()
        time.sleep(self.seconds)
        seeds = {prompt.seed for prompt in request.prompts}
        if DEADLY in seeds:
            raise RuntimeError("engine died")
        if BAD in seeds:
            raise BadMessage("no such image")
        return self._generate(request)

    def _wait(self) -> None:
        assert self.service is not None
        deadline = time.monotonic() + 60
        while len(self.service._waiting) < self._num_others and time.monotonic() < deadline:
            time.sleep(0.005)


def ask_at_once(backend: Slow, requests: Sequence[Request], folder: Path, timeout_s: float = 120.0) -> list[Any]:
    """What each of several clients gets: groups, or an error. The others ask when the first is being answered."""
    (folder / VERSION).mkdir()
    with serving(backend, folder) as (url, server), ThreadPoolExecutor(len(requests)) as executor:
        token, backend.service = read_token(folder), server.service
        server.service.load(VERSION)

        def ask(request: Request) -> Any:
            try:
                return Client(url, token, timeout_s, 2**16)._generate(request)
            except (Refused, ServerFault) as error:
                return error

        first = executor.submit(ask, requests[0])
        while not backend.sizes and not first.done():
            time.sleep(0.005)
        return [each.result() for each in [first, *(executor.submit(ask, request) for request in requests[1:])]]


def test_requests_that_wait_are_answered_together(tmp_path: Path) -> None:
    """But for those that are sampled otherwise."""
    requests = [numbered(1), numbered(2, 3), numbered(4), numbered(5, 6), replace(numbered(7), group_size=3)]
    backend = Slow(4)
    assert ask_at_once(backend, requests, tmp_path) == [answer(request) for request in requests]
    assert backend.sizes[0] == 1 and sorted(backend.sizes[1:]) == [1, 5]


def test_a_model_gives_each_what_it_gives_it_alone(load: Any, tmp_path: Path) -> None:
    adapter, tiny = load(), TinyBackend(load())
    asked = [ask_prompt(adapter, prompt, (n,)) for n, prompt in enumerate(make_prompts(adapter))]
    plain = replace(REQUEST, sampling=Sampling(5, 1.0), banned_token_ids=adapter.banned_token_ids, end_token_ids=(2,))
    requests = [replace(plain, prompts=tuple(part)) for part in (asked[:1], asked[1:], asked[:2])]
    expected = [tiny.generate(request) for request in requests]
    backend = Slow(2, tiny.generate)
    found = ask_at_once(backend, requests, tmp_path)
    assert backend.sizes == [1, 4]
    for mine, alone in zip(chain.from_iterable(found), chain.from_iterable(expected), strict=True):
        for one, other in zip(mine.completions, alone.completions, strict=True):
            assert one.token_ids == other.token_ids
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def test_one_that_cannot_be_asked_fails_alone(tmp_path: Path) -> None:
    """Also for its length or its weights."""
    long = replace(numbered(1), prompts=(replace(PLAIN, token_ids=(1,) * 600),))
    stale = replace(numbered(1), version=VERSION[:-1] + "7")
    requests = [numbered(1), numbered(2), numbered(3, BAD), numbered(4), long, stale]
    backend = Slow(5)
    found = ask_at_once(backend, requests, tmp_path)
    assert [found[n] for n in (0, 1, 3)] == [answer(requests[n]) for n in (0, 1, 3)]
    assert "no such image" in str(found[2]) and isinstance(found[2], Refused)
    assert "--max-model-len" in str(found[4]) and isinstance(found[5], StaleServer)


def test_an_engine_that_fails_fails_for_all(tmp_path: Path) -> None:
    found = ask_at_once(Slow(2), [numbered(1), numbered(2), numbered(DEADLY)], tmp_path)
    assert found[0] == answer(numbered(1))
    assert all(isinstance(each, ServerFault) and "500" in str(each) for each in found[1:])


def test_no_client_waits_for_all_the_others(tmp_path: Path) -> None:
    """Four, and answers that take 0.8 s: one after the other, the last would have been given up."""
    backend = Slow(3)
    backend.seconds = 0.8
    found = ask_at_once(backend, [numbered(n) for n in range(4)], tmp_path, timeout_s=2.8)
    assert not [each for each in found if isinstance(each, NoAnswer)]
    assert backend.sizes == [1, 3]
