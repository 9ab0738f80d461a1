"""Visual-RFT's detection sets: boxes of the 0-1000 grid become pixels; No Objects stays."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from data_tools.published_files import picture, write_image_rows
from data_tools.virft_det import main
from tests.support.converted import read_counts, read_rows

PROBLEM = (
    "Detect all objects belonging to the category '{0}' in the image, and provide the bounding boxes (between 0 and "
    "1000, integer) and confidence (between 0 and 1, with two decimal places).\n"
    "If no object belonging to the category '{0}' in the image, return 'No Objects'."
)


def row(solution: str, category: str = "person", **changes: Any) -> dict[str, Any]:
    image = picture(1, (640, 480), "PNG", "RGBA")
    return {"image": image, "problem": PROBLEM.format(category), "solution": solution} | changes


def positions(*boxes: list[int]) -> str:
    return f"<answer>{[{'Position': box, 'Confidence': 1} for box in boxes]}</answer>"


def test_rows(tmp_path: Path) -> None:
    rows = [
        row(positions([0, 0, 500, 1000], [250, 100, 1000, 333])),
        row("<answer>No Objects</answer>", "fire hydrant"),
        row(positions([10, 10, 20, 20]), "driver's seat"),
    ]
    source = write_image_rows(tmp_path / "data/train-00000-of-00001.parquet", rows)
    assert main(["--source", str(source), "--out", str(tmp_path / "rows.parquet")]) == 0
    samples = read_rows(tmp_path / "rows.parquet")
    assert ast.literal_eval(samples[0].answer) == [
        {"Position": [0, 0, 320, 480], "Confidence": 1},
        {"Position": [160, 48, 640, 159.84], "Confidence": 1},
    ]
    assert samples[1].answer == "No Objects"
    assert [s.meta["category"] for s in samples] == ["person", "fire hydrant", "driver's seat"]
    assert samples[1].question == "Detect all objects of the category 'fire hydrant' in the image."


def test_bad_rows_are_counted(tmp_path: Path) -> None:
    rows = [
        row(positions([0, 0, 500, 1000])),
        row(positions([0, 0, 500, 1400])),
        row(positions([500, 0, 500, 100])),
        row(positions([600, 0, 500, 100])),
        row("<answer>[{'Position': [1, 2, 3]}]</answer>"),
        row("<answer>[{'Position': __import__('os')}]</answer>"),
        row("<answer></answer>"),
        row(positions([0, 0, 1, 1]), problem="Detect all."),
    ]
    out = tmp_path / "rows.parquet"
    assert main(["--source", str(write_image_rows(tmp_path / "a.parquet", rows)), "--out", str(out)]) == 0
    assert len(read_rows(out)) == 1
    assert read_counts(out)["dropped"] == {
        "a box is outside of its image": 3,
        "a field cannot be read": 3,
        "the problem names no category": 1,
    }
