"""ReasonSeg: the published box and the union box, in pixels, from files as labelme and LISA write them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_tools.lisa import main
from data_tools.published_files import picture
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming

IGNORED = {"label": "ignore", "points": [[0, 0], [20, 0], [20, 10]]}
FIRST = {"label": "target", "points": [[30, 20], [60.5, 25], [40, 50]]}
SECOND = {"label": "target", "points": [[70, 60], [100, 60], [90, 80], [75, 70]]}


def annotation(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = [{"image_name": "x.jpg", **shape} for shape in shapes]
    return {"text": ["the thing to sit on", "something for a rest"], "is_sentence": True, "shapes": made} | changes


def write_folder(folder: Path, **annotations: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in annotations.items():
        (folder / f"{name}.jpg").write_bytes(picture(len(name)))
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / f"{name}.json").write_bytes(data)
    return folder


def convert(folder: Path, out: Path, *words: str) -> dict[str, list[float]]:
    assert main(["--source", str(folder), "--out", str(out), *words]) == 0
    return {sample.id: json.loads(sample.answer) for sample in read_rows(out)}


def test_boxes_and_instructions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "train", a=annotation(IGNORED, FIRST, SECOND), b=annotation(FIRST))
    out = tmp_path / "rows.parquet"
    published = convert(folder, out, "--box", "published")
    assert published == {
        **{f"lisa-train-a-{n}": [0, 0, 20, 10] for n in range(2)},
        **{f"lisa-train-b-{n}": [30, 20, 60.5, 50] for n in range(2)},
    }
    samples = read_rows(out)
    assert [sample.question for sample in samples[:2]] == ["the thing to sit on", "something for a rest"]
    assert samples[0].meta == {"is_sentence": True, "polygons": [IGNORED["points"]]}
    assert samples[0].images == (picture(1),)
    union = convert(folder, out, "--box", "union", "--instructions", "first")
    assert read_rows(out)[0].meta["polygons"] == [FIRST["points"], SECOND["points"]]
    assert union == {"lisa-train-a-0": [30, 20, 100, 80], "lisa-train-b-0": [30, 20, 60.5, 50]}


def test_polygons_over_the_edge_are_cut(tmp_path: Path) -> None:
    over = {"label": "target", "points": [[-5, -3], [200, 10], [60, 95]]}
    folder = write_folder(tmp_path / "train", a=annotation(over, text=["it"]))
    assert convert(folder, tmp_path / "rows.parquet", "--box", "published") == {"lisa-train-a-0": [0, 0, 120, 90]}


def test_cp1252_is_read(tmp_path: Path) -> None:
    content = json.dumps(annotation(FIRST, text=["the man’s café"]), ensure_ascii=False).encode("cp1252")
    folder = write_folder(tmp_path / "train", a=content)
    assert main(["--source", str(folder), "--box", "union", "--out", str(tmp_path / "rows.parquet")]) == 0
    assert read_rows(tmp_path / "rows.parquet")[0].question == "the man’s café"


def test_bad_annotations_are_counted(tmp_path: Path) -> None:
    two = {"label": "target", "points": [[10, 10], [50, 50]]}
    outside = {"label": "target", "points": [[500, 500], [600, 500], [550, 600]]}
    flat = {"label": "target", "points": [[10, 10], [20, 10], [30, 10]]}
    folder = write_folder(
        tmp_path / "train",
        good=annotation(two, FIRST, text=["it"]),
        two=annotation(two),
        outside=annotation(outside),
        flat=annotation(flat),
        none=annotation(),
        ignored=annotation(IGNORED),
        broken=b'{"text": [',
        bytes=b'{"text": "\x81"}',
        points=annotation({"label": "target", "points": [1, 2]}),
        nan=annotation({"label": "target", "points": [[float("nan"), 1], [2, 30], [40, 5]]}),
        empty=annotation(FIRST, text=[" "]),
        huge=annotation({"label": "target", "points": [[10**400, 1], [2, 30], [40, 5]]}),
        words=annotation({"label": "target", "points": ["12", "34", "56"]}),
        flags=annotation({"label": "target", "points": [[True, 1], [2, 30], [40, 5]]}),
        no_shape=b'{"text": ["it"], "shapes": ["target"]}',
        no_text=annotation(FIRST, text=[{"en": "it"}]),
    )
    (folder / "alone.json").write_text(json.dumps(annotation(FIRST)))
    os.mkfifo(folder / "pipe.json")  # nobody writes: who opens it waits for ever
    elsewhere = tmp_path / "elsewhere.jpg"
    elsewhere.write_bytes(picture())
    (folder / "link.json").write_text(json.dumps(annotation(FIRST)))
    (folder / "link.jpg").symlink_to(elsewhere)
    out = tmp_path / "rows.parquet"
    assert convert(folder, out, "--box", "union") == {"lisa-train-good-0": [30, 20, 60.5, 50]}
    assert read_counts(out)["dropped"] == {
        "the picture is missing": 1,
        "a field cannot be read": 10,
        "no polygon of the label target": 3,
        "a box is outside of its image": 2,
        "a field is empty or too long": 1,
    }
    convert(folder, out, "--box", "published")
    assert read_counts(out)["dropped"]["a polygon of fewer than three points"] == 2
    assert read_counts(out)["dropped"]["no polygon"] == 1


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", str(tmp_path), "--out", "rows.parquet"]) == 2
    assert "--box" in capsys.readouterr().err
    assert main(["--source", str(tmp_path), "--box", "union", "--out", "rows.parquet"]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path, "*.json", "split")
