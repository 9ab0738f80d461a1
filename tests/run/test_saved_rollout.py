"""What a rollout that a checkpoint keeps must hold, whoever wrote the file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.run.saved_rollout import check_rollout
from tests.support.messages import naming

COMPLETION = {"token_ids": [5, 6], "text": "4", "finished": True, "log_probs": [-1.0, -2.0]}
GROUP = {
    "rank": 0,
    "batch": 1,
    "prompt": {"id": "1", "text": "How many?", "messages": [], "views": []},
    "completions": [COMPLETION, {**COMPLETION, "token_ids": [7], "log_probs": None}],
    "rewards": [{"total": 1.0}, {"total": 0.0}],
    "old": [[-1.0, -2.0], [-3.0]],
    "reference": None,
}
WHOLE: dict[str, Any] = {
    "step": 2,
    "num_updates": 2,
    "num_done": 1,
    "num_ranks": 1,
    "totals": [[1] * 6] * 2,
    "groups": [GROUP],
}


def test_what_is_written_is_taken() -> None:
    check_rollout(WHOLE, Path("rollout.json"))
    check_rollout({**WHOLE, "num_done": 2}, Path("rollout.json"))  # under rollout.refresh it may be used again


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("step",), "a", ["step"]),
        (("num_updates",), 0, ["num_done"]),
        (("num_done",), 77, ["num_done", 77]),
        (("num_done",), -1, ["num_done"]),
        (("totals",), [], ["batches"]),
        (("totals", 0), "abc", ["totals"]),
        (("totals", 0, 0), 0.5, ["totals"]),
        (("groups",), 5, ["groups"]),
        (("groups", 0), 5, ["groups"]),
        (("groups", 0, "rank"), 5, ["group 1", "rank"]),
        (("groups", 0, "batch"), -1, ["group 1", "batch"]),
        (("groups", 0, "batch"), 99, ["group 1", "batch"]),
        (("groups", 0, "prompt"), [], ["prompt"]),
        (("groups", 0, "completions"), [], ["group 1", "tokens"]),
        (("groups", 0, "completions", 0, "token_ids"), [1.5, 2], ["token_ids"]),
        (("groups", 0, "completions", 0, "token_ids"), [1], ["group 1", "tokens"]),
        (("groups", 0, "completions", 0, "log_probs"), "ab", ["log_probs"]),
        (("groups", 0, "rewards"), [], ["group 1"]),
        (("groups", 0, "old"), [["a"]], ["old"]),
        (("groups", 0, "old"), [[1.0]], ["group 1", "tokens"]),
        (("groups", 0, "reference"), 5, ["reference"]),
    ],
    ids=str,
)
def test_what_no_run_writes_is_named(path: tuple[Any, ...], value: Any, named: list[Any]) -> None:
    plain = copy.deepcopy(WHOLE)
    place: Any = plain
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=naming("rollout.json", *named)) as caught:
        check_rollout(plain, Path("rollout.json"))
    assert "\n" not in str(caught.value)
