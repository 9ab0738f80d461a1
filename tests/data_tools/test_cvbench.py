"""CV-Bench: both files of the hub, lettered choices, the benchmark's own tasks kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_tools.cvbench import main
from data_tools.published_files import write_image_rows
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming

CHOICES = ["2", "3", "1", "0"]


def cvbench_row(number: int, task: str, choices: list[str], answer: str) -> dict[str, Any]:
    lettered = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCDEF", choices, strict=False))
    question = f"Question {number}?"
    kind = "2D" if task in ("Count", "Relation") else "3D"
    return {
        "idx": str(number), "type": kind, "task": task, "image": number, "question": question, "choices": choices,
        "answer": answer, "prompt": f"{question} Select from the following choices.\n{lettered}",
        "filename": f"img/{kind}/{number}.png", "source": "COCO", "source_dataset": "COCO", "source_filename": "x.jpg",
    }  # fmt: skip


def test_rows_of_both_files(tmp_path: Path) -> None:
    flat = [cvbench_row(n, "Count", CHOICES, "(C)") for n in range(4)]
    flat += [cvbench_row(9, "Relation", ["above", "below"], "(B)")]
    write_image_rows(tmp_path / "hub/test_2d.parquet", flat)
    solid = [cvbench_row(20, "Depth", ["table", "chair, red"], "(B)"), cvbench_row(21, "Distance", ["a", "b"], "(A)")]
    write_image_rows(tmp_path / "hub/test_3d.parquet", solid)
    out = tmp_path / "test.parquet"
    assert main(["--source", str(tmp_path / "hub"), "--out", str(out)]) == 0
    samples = read_rows(out)
    assert Counter(s.meta["benchmark_task"] for s in samples) == {"Count": 4, "Relation": 1, "Depth": 1, "Distance": 1}
    assert [sample.answer for sample in samples] == ["(C)"] * 4 + ["(B)", "(B)", "(A)"]
    assert samples[5].meta["choices"] == ["table", "chair, red"]
    assert samples[0].question == "Question 0? Select from the following choices.\n(A) 2 (B) 3 (C) 1 (D) 0"
    assert [sample.id for sample in samples] == [f"cvbench-{n}" for n in range(1, 8)]
    assert read_counts(out)["dropped"] == {}


def test_letters_beyond_the_choices_are_dropped(tmp_path: Path) -> None:
    rows = [cvbench_row(1, "Count", CHOICES, "(E)"), cvbench_row(2, "Count", [], "(A)")]
    source = write_image_rows(tmp_path / "test_2d.parquet", [*rows, cvbench_row(3, "Count", CHOICES, "(A)")])
    out = tmp_path / "out.parquet"
    assert main(["--source", str(source), "--out", str(out)]) == 0
    assert read_counts(out)["dropped"] == {"the answer is not valid for its task": 1, "a field cannot be read": 1}


def test_files_of_other_columns_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image_rows(tmp_path / "hub/test_2d.parquet", [cvbench_row(1, "Count", CHOICES, "(A)")])
    write_image_rows(tmp_path / "hub/test_3d.parquet", [{"image": 1, "problem": "?", "solution": "4"}])
    assert main(["--source", str(tmp_path / "hub"), "--out", str(tmp_path / "out/test.parquet")]) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, "test_3d.parquet", "answer", "choices", "prompt", "source", "task", "type")
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
