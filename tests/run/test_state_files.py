"""What a checkpoint's state must hold, whoever wrote the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.run.checkpoint import STATE_VERSION, TrainingState, load_random_state, load_state
from gpg_vl.run.random_state import read_random_state, without_trace
from gpg_vl.run.state_files import build_record
from tests.support.messages import naming

STATE = asdict(TrainingState(4, {"drawn": 3}, 2, {"counting": 0.5}, ["counting"], None, {"silent_steps": 1}, ["abc"]))


def write(folder: Path, content: Any) -> Path:
    path = folder / "training_state/state.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_it_is_read_with_its_version_or_as_the_first_had_it(tmp_path: Path) -> None:
    for more in ({}, {"version": STATE_VERSION}):
        write(tmp_path, {**STATE, **more})
        assert asdict(load_state(tmp_path)) == STATE
    write(tmp_path, {**STATE, "validation": {"counting": 1}, "all_done_step": 3})
    assert load_state(tmp_path).all_done_step == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": STATE_VERSION + 1}, ["version"]),
        ({"version": "1"}, ["version"]),
        ({"step": "4"}, ["step"]),
        ({"step": True}, ["step"]),
        ({"step": None}, ["step"]),
        ({"stream": []}, ["stream"]),
        ({"validation": {"counting": "high"}}, ["validation"]),
        ({"tasks_done": [1]}, ["tasks_done"]),
        ({"all_done_step": "3"}, ["all_done_step"]),
        ({"counters": {"silent_steps": 0.5}}, ["counters"]),
        ({"data": "abc"}, ["data"]),
        ({"colour": "red"}, ["colour"]),
        ({"step": -1}, ["step", "-1"]),
        ({"validated_step": 5}, ["validated_step", "5"]),
        ({"all_done_step": -5}, ["all_done_step", "-5"]),
        ({"counters": {"silent_steps": -3}}, ["silent_steps", "-3"]),
    ],
    ids=str,
)
def test_another_kind_of_value_is_named(tmp_path: Path, change: dict[str, Any], named: list[str]) -> None:
    path = write(tmp_path, {**STATE, **change})
    with pytest.raises(ValueError, match=naming(path, *named)) as caught:
        load_state(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "7", "{}", '{"step": 1}'])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=naming(path)):
        load_state(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"python": []}', '{"python": [3, [1], null]}', "[]", "{"])
def test_random_states_that_are_none_are_named(tmp_path: Path, content: str) -> None:
    write(tmp_path, STATE)
    path = tmp_path / "training_state/random-0.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=naming(path)):
        load_random_state(tmp_path, 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("python", 1, 0), 10**30),
        (("python", 1, 624), 10**6),
        (("python", 0), -1),
        (("numpy", 1, 0), 10**30),
        (("numpy", 2), 10**30),
        (("torch",), ""),
        (("torch",), "zz"),
    ],
    ids=str,
)
def test_random_states_of_impossible_numbers_are_named(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    write(tmp_path, STATE)
    place = whole = json.loads(json.dumps(read_random_state()))
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = value
    file = tmp_path / "training_state/random-0.json"
    file.write_text(json.dumps(whole))
    with without_trace(), pytest.raises(ValueError, match=naming(file)):
        load_random_state(tmp_path, 0)


def test_the_first_ranks_random_states_are_never_missing(tmp_path: Path) -> None:
    write(tmp_path, STATE)
    with pytest.raises(ValueError, match=naming("random-0.json")):
        load_random_state(tmp_path, 0)
    assert not load_random_state(tmp_path, 1)


def test_a_state_in_the_folder_of_another_step_is_named(tmp_path: Path) -> None:
    for name in ("checkpoint-4", "saved"):
        write_in(tmp_path / name)
        assert load_state(tmp_path / name).step == 4
    with pytest.raises(ValueError, match=naming("state.json", "step 4", "checkpoint-5")):
        load_state(write_in(tmp_path / "checkpoint-5"))


def write_in(folder: Path) -> Path:
    folder.mkdir()
    write(folder, STATE)
    return folder


def test_a_field_with_a_default_may_be_missing(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Later:
        a: int
        b: list[str] = field(default_factory=list)

    assert build_record(Later, {"a": 1}, tmp_path) == Later(1)
    with pytest.raises(ValueError, match=naming("a")):
        build_record(Later, {"b": []}, tmp_path)
