"""A request and its answer as a run and its servers exchange them, and what makes such an answer a bad one."""

from __future__ import annotations

import json
from typing import Any

from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, AskedPrompt, Picture, Request

VERSION = "0123456789abcdef-00000003"
PICTURES = (Picture(2, 1, bytes(range(6))), Picture(1, 2, bytes(range(6, 12))))
SHOWN = AskedPrompt((5, 9, 9, 9, 6, 9, 9, 7), ((1, 3), (5, 2)), PICTURES, 2**62)
PLAIN = AskedPrompt((3, 4), (), (), 0)
REQUEST = Request(VERSION, (SHOWN, PLAIN), 2, Sampling(3, 0.7, 0.9, 40), (1, 2), (9,))
GROUPS = [
    AnsweredGroup(8, (AnsweredCompletion((4, 2), (-0.5, -1.5)), AnsweredCompletion((4, 4, 5), (-0.5, 0.0, -2.0)))),
    AnsweredGroup(2, (AnsweredCompletion((1,), (-0.25,)), AnsweredCompletion((7, 7, 1), (-3.0, -0.5, -0.125)))),
]
BAD_ANSWERS = {
    "protocol": "1",
    "version": "0123456789abcdef-00000002",
    "groups": [],
    "groups.0.num_prompt_tokens": 7,
    "groups.1.completions.1": ...,
    "groups.1.completions": "ab",
    "groups.0.completions.0.token_ids": [],
    "groups.0.completions.0.token_ids.0": 10,
    "groups.0.completions.1.token_ids.1": 9,
    "groups.0.completions.1.token_ids.0": 2,
    "groups.0.completions.1.token_ids": [4, 4, 5, 5],
    "groups.0.completions.0.token_ids.1": 4,
    "groups.0.completions.0.log_probs": [-0.5],
    "groups.0.completions.0.log_probs.0": 0.5,
    "groups.0.completions.0.log_probs.1": float("nan"),
    "groups.1.completions.0.log_probs.0": float("-inf"),
    "groups.1.completions.0.log_probs": None,
}


def changed(body: bytes, path: str, value: Any) -> bytes:
    """The message with another value at ``a.0.b``; a value of ... removes it."""
    plain = json.loads(body)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = plain
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(plain).encode()
