"""The helpers that other tests rely on to fail."""

from __future__ import annotations

import re

import pytest

from tests.support.messages import lines_naming, naming

MESSAGE = "error: /data/rows.jsonl, row 2: 'run.steps' is -0.5, not 3;\ntry --run.steps 4 or x_y.z"


@pytest.mark.parametrize(
    "part", ["rows.jsonl", "/data/rows.jsonl", "row 2", "run.steps", "'run.steps'", "-0.5", 3, "--run.steps", "x_y.z"]
)
def test_what_is_named_is_found_in_any_order(part: object) -> None:
    assert re.search(naming(part), MESSAGE)
    assert re.search(naming("x_y.z", part, "error"), MESSAGE)
    assert not re.search(naming(part), MESSAGE.replace(str(part), ""))


@pytest.mark.parametrize("part", ["ows.jsonl", "rows", "ow 2", "run", "steps", "0", 5, "y.z", "x_y"])
def test_part_of_a_name_is_not_the_name(part: object) -> None:
    assert not re.search(naming("error", part), MESSAGE)
    assert not re.search(naming("row 2"), MESSAGE.replace("row 2", "row 25"))


def test_lines_that_name_all() -> None:
    assert lines_naming(MESSAGE, "run.steps", 4) == MESSAGE.splitlines()[1:]
    assert lines_naming(MESSAGE, "run.steps", 3, 4) == []
