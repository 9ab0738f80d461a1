"""One evaluation a folder, one process at a time; what is damaged, or another's, is named and left as it is."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.evaluation.folder import claim_evaluation
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.records import ImageView, Sample
from tests.support.messages import naming

SETTINGS = {"sampling": {"seed": 1}}
ROWS = [EvaluationRow(n, "test", Sample(f"row {n}", "counting", (), "?", "4")) for n in range(9)]

PER_COMPLETION = ("completions", "num_tokens", "finished", "answers", "rewards", "parts", "status", "legacy")


def prediction(row: int, completion: str = "4") -> Prediction:
    return Prediction(
        row=row, id=f"row {row}", task="counting", split="test", category="", question="?", answer="4",
        views=(ImageView(10, 10, 28, 28, "grid_1000"),), completions=(completion,), num_tokens=(1,), finished=(True,),
        answers=(None,), rewards=(0.0,), parts=({"correct": 0.0},), status=("ok",), legacy=(None,),
    )  # fmt: skip


def write(folder: Path, *predictions: Prediction, settings: dict[str, Any] | None = None) -> list[Prediction]:
    """What was there before; then ``predictions`` are added."""
    with claim_evaluation(folder) as claimed:
        there = claimed.resume(SETTINGS if settings is None else settings, ROWS, num_samples=1)
        claimed.append(predictions)
    return there


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_predictions_come_back_and_of_a_row_the_last(tmp_path: Path) -> None:
    odd = prediction(1, "a\u2028b \ud800 \U0001f600 \\ud800 \x00")
    assert write(tmp_path / "out", prediction(2), odd) == []
    assert write(tmp_path / "out", prediction(2, "5")) == [odd, prediction(2)]
    assert write(tmp_path / "out") == [odd, prediction(2, "5")]
    assert json.loads((tmp_path / "out/settings.json").read_text()) == SETTINGS


def test_what_makes_no_prediction_leaves_nothing(tmp_path: Path) -> None:
    with claim_evaluation(tmp_path / "a/b/out") as claimed:
        claimed.resume(SETTINGS, ROWS, num_samples=1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("")
    with claim_evaluation(tmp_path / "mine"):
        pass
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_second_evaluation_is_refused_while_the_first_is_writing(tmp_path: Path) -> None:
    with claim_evaluation(tmp_path) as first:
        first.resume(SETTINGS, ROWS, num_samples=1)
        first.append([prediction(0)])
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=naming(tmp_path)), claim_evaluation(tmp_path):
            pass
        assert contents(tmp_path) == before
        first.append([prediction(1)])
    assert [each.row for each in write(tmp_path)] == [0, 1]


@pytest.mark.parametrize("name", ["predictions.jsonl", "results.json", "settings.json"])
def test_files_of_another_program_or_evaluation_are_left_alone(name: str, tmp_path: Path) -> None:
    for content in ("mine", "[]", '{"colour": "red"}'):
        (tmp_path / name).write_text(content)
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=naming("--out", tmp_path)):
            write(tmp_path, prediction(0))
        assert contents(tmp_path) == before


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    write(tmp_path, prediction(0))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=naming("sampling.seed", 1, 2, "--out")):
        write(tmp_path, settings={"sampling": {"seed": 2}})
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"row": "0"}, {"row": -1}, {"row": True}, {"id": 3}, {"completions": "4"}, {"completions": [4]},
        {"completions": []}, {"status": ["ok", "ok"]}, {"rewards": [None]}, {"parts": [[]]}, {"views": 3},
        {"views": [3]}, {"views": [{"width": 3}]}, {"legacy": 1.0}, {"legacy": []}, {"answers": None}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_line_that_no_evaluation_wrote_is_damaged(changes: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, prediction(0))
    path = tmp_path / "predictions.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({**asdict(prediction(1)), **changes}) + "\n")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=naming("predictions.jsonl", "line 2")):
        write(tmp_path, prediction(2))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("size", [1, 40, -1])
def test_a_line_that_was_cut_off_is_dropped(size: int, tmp_path: Path) -> None:
    write(tmp_path, prediction(0))
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + prediction(1, "é").to_line().encode()[:size])
    assert write(tmp_path) == [prediction(0)]
    assert path.read_bytes() == whole


@contextmanager
def room(num_bytes: int) -> Iterator[None]:
    """Within, no file can be longer: writing on fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_no_whole_prediction(tmp_path: Path) -> None:
    first, others = prediction(0), [prediction(n, "?" * 500) for n in range(1, 5)]
    with pytest.raises(OSError, match="too large"), room(1500):
        write(tmp_path, first, *others)
    there = write(tmp_path)
    assert there == [first, *others][: len(there)]
    assert 0 < len(there) < 5
    write(tmp_path, *others)
    assert write(tmp_path) == [first, *others]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/out", Path("/proc/none")):
        with pytest.raises(ValueError, match=naming("--out", folder)):
            write(folder)


TWICE = {name: 2 * getattr(prediction(1), name) for name in PER_COMPLETION}


@pytest.mark.parametrize("other", [{"question": "!"}, {"id": "row 2"}, {"row": 9}, TWICE])
def test_a_prediction_of_another_row_is_named(tmp_path: Path, other: dict[str, Any]) -> None:
    write(tmp_path, prediction(0))
    stranger = replace(prediction(1), **other)
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write(stranger.to_line())
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=naming("predictions.jsonl", f"row {stranger.row}", "--out")):
        write(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", ["folder", "file", "gone"])
def test_two_writers_are_told_apart_when_the_folder_was_renamed(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    with claim_evaluation(out) as first:
        first.resume(SETTINGS, ROWS, num_samples=1)
        first.append([prediction(0)])
        if what == "file":
            (out / "predictions.jsonl").unlink()
        else:
            out.rename(tmp_path / "moved")
        if what != "gone":
            write(out, prediction(5))
        before = contents(out)
        for action in (lambda: first.append([prediction(1)]), lambda: first.write_results({})):
            with pytest.raises(ValueError, match=naming("--out", out / "predictions.jsonl")):
                action()
        assert contents(out) == before


def test_predictions_are_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.jsonl").symlink_to(victim)
    with pytest.raises(ValueError, match=naming("--out", tmp_path / "out")), claim_evaluation(tmp_path / "out"):
        pass
    assert victim.read_text() == "precious"
