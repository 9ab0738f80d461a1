"""Messages between a run and its servers: what one side writes the other reads, and nothing else passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import read_answer, read_request, write_answer, write_request
from tests.support.served_messages import BAD_ANSWERS, GROUPS, PLAIN, REQUEST, SHOWN, VERSION, changed


def test_a_request_is_read_as_it_was_written() -> None:
    assert read_request(write_request(REQUEST)) == REQUEST


def test_an_answer_is_read_as_it_was_written() -> None:
    assert read_answer(write_answer(VERSION, GROUPS), REQUEST, 10) == GROUPS


def test_an_engine_that_expands_images_gets_one_token_of_each() -> None:
    assert SHOWN.short_token_ids == [5, 9, 6, 9, 7]
    assert PLAIN.short_token_ids == [3, 4]
    assert replace(SHOWN, runs=((1, 3),)).short_token_ids == [5, 9, 6, 9, 9, 7]


BAD_REQUESTS = {
    "protocol": 2,
    "version": "../../etc",
    "prompts": {},
    "prompts.0": 3,
    "prompts.0.token_ids": [],
    "prompts.0.token_ids.0": -1,
    "prompts.1.token_ids.0": True,
    "prompts.0.token_ids.1": 1.0,
    "prompts.0.runs": [[1, 3]],
    "prompts.0.runs.0": [1, 5],
    "prompts.0.runs.1": [5, 4],
    "prompts.0.runs.1.1": 0,
    "prompts.0.runs.0.0": "1",
    "prompts.0.pictures": ...,
    "prompts.0.pictures.0.rgb": "AAEC",
    "prompts.0.pictures.1.rgb": "not base64!",
    "prompts.0.pictures.0.width": 3,
    "prompts.0.seed": 2**63,
    "group_size": 0,
    "sampling": [],
    "sampling.temperature": -1,
    "sampling.top_p": 0,
    "sampling.max_new_tokens": 10**9,
    "end_token_ids": [None],
    "banned_token_ids": ...,
}


@pytest.mark.parametrize("path", BAD_REQUESTS)
def test_a_wrong_request_is_refused(path: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read_request(changed(write_request(REQUEST), path, BAD_REQUESTS[path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", BAD_ANSWERS)
def test_a_wrong_or_partial_answer_is_refused(path: str) -> None:
    """Of a banned token, one behind an end, a completion that stops early, another prompt, other weights..."""
    with pytest.raises(BadMessage) as caught:
        read_answer(changed(write_answer(VERSION, GROUPS), path, BAD_ANSWERS[path]), REQUEST, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_request, lambda body: read_answer(body, REQUEST, 10)])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b"{", b"[" * 100_000, b'{"protocol": ' + b"9" * 5000 + b"}", b'{"protocol": 1}']
)
def test_what_is_no_message_is_refused(read: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(BadMessage):
        read(body)


def test_a_log_prob_that_was_rounded_above_zero_is_zero() -> None:
    body = changed(write_answer(VERSION, GROUPS), "groups.1.completions.0.log_probs.0", 1e-6)
    assert read_answer(body, REQUEST, 10)[1].completions[0].log_probs == (0.0,)
