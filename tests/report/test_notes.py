"""What a reader should notice first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpg_vl.report.notes import make_notes
from gpg_vl.report.run_data import RunData


def run_with(tasks: dict[str, tuple[float, float]], groups: list[dict[str, Any]] | None = None) -> RunData:
    rows = [
        {"what": "reward" if name == "counting" else "part", "name": name, "first": first, "last": last}
        for name, (first, last) in tasks.items()
    ]
    return RunData("run", "gpg", 10, [], rows, [], [], groups or [], "")


def group(kind: str = "mixed", finished: bool = True, status: str = "ok", num_answers: int = 3) -> dict[str, Any]:
    return {
        "step": 9,
        "kind": kind,
        "num_answers": num_answers,
        "completions": [{"finished": finished, "status": status}],
    }


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            run_with({"counting": (0.2, 0.9), "correct": (0.5, 0.1), "length": (0.1, 0.9)}),
            ["counting", "correct", "rose"],
        ),
        (run_with({"counting": (0.5, 0.0), "correct": (0.5, 0.0)}), ["correct", "fell"]),
        (run_with({}, [group(finished=False)]), ["rollout.max_new_tokens"]),
        (run_with({}, [group(status="unparsable")]), ["prompt.template"]),
        (run_with({}, [group("easy")]), ["easy", "harder"]),
        (run_with({}, [group("hard")]), ["hard", "rollout.group_size"]),
        (run_with({}, [group(num_answers=1)]), ["rollout.temperature"]),
    ],
)
def test_what_goes_wrong_is_said_with_the_key_to_change(run: RunData, words: list[str]) -> None:
    notes = " ".join(make_notes(run))
    assert all(word in notes for word in words)


def test_a_run_that_learns_needs_no_word() -> None:
    assert make_notes(run_with({"counting": (0.2, 0.9), "correct": (0.2, 0.9)}, [group()])) == []


@pytest.mark.parametrize("follows", [True, False])
def test_what_a_blind_reward_brings_is_no_reason_to_change_a_key(follows: bool) -> None:
    agreement = {"num_groups": 50, "gain": 0.9 if follows else 0.0, "gain_low": 0.8 if follows else -0.1, "spread": 1.0}
    notes = " ".join(make_notes(replace(run_with({}, [group("hard", finished=False)]), agreement=[agreement])))
    assert ("rollout." in notes) is follows and ("that reward" in notes) is not follows
