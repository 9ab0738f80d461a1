"""GEOQA: the training rows and the test questions as R1-V publishes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.geoqa import main
from data_tools.published_files import picture, write_image_rows, write_lines, write_zip
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming
from tests.support.shared_data import shared_file

SOLUTIONS = ["<answer> 145° </answer>", "<answer> 8√{3} </answer>", "<answer> 5 cm </answer>", "<answer> B </answer>"]


def test_training_rows(tmp_path: Path) -> None:
    rows = [{"image": n, "problem": f"Find angle {n}.", "solution": text} for n, text in enumerate(SOLUTIONS)]
    source = write_image_rows(tmp_path / "hub/data/train-00000-of-00001.parquet", rows)
    for place in (source, tmp_path / "hub"):
        assert main(["--source", str(place), "--out", str(tmp_path / "train.parquet")]) == 0
        samples = read_rows(tmp_path / "train.parquet")
        assert [sample.answer for sample in samples] == ["145°", "8√{3}", "5 cm", "B"]
        assert [sample.id for sample in samples] == [f"geoqa-train-{n}" for n in range(1, 5)]
        assert {sample.task for sample in samples} == {"geometry"}
        assert [sample.images for sample in samples] == [(picture(n, kind="PNG"),) for n in range(4)]


def test_bad_training_rows_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"image": 1, "problem": "Find the angle.", "solution": "<answer> 145° </answer>"}
    rows = [
        good,
        good | {"solution": "<answer>  </answer>"},
        good | {"problem": " "},
        good | {"problem": "x" * 1_000_000},
        good | {"image": picture()[:300]},
        good | {"image": b""},
        good | {"image": b"<html>"},
        good | {"solution": "<answer>" + "9" * 600 + "</answer>"},
    ]
    source = write_image_rows(tmp_path / "train.parquet", rows)
    assert main(["--source", str(source), "--out", str(tmp_path / "out/train.parquet")]) == 0
    assert len(read_rows(tmp_path / "out/train.parquet")) == 1
    counts = read_counts(tmp_path / "out/train.parquet")
    assert (counts["rows_read"], counts["rows_written"]) == (8, 1)
    assert counts["dropped"] == {
        "a field cannot be read": 2,
        "a field is empty or too long": 1,
        "an image cannot be opened": 3,
        "the answer is not valid for its task": 1,
    }
    assert counts["examples"]["a field cannot be read"][0].startswith("train.parquet, row 2: ")
    shown = capsys.readouterr().out
    assert lines_naming(shown, 1, "8 read") and lines_naming(shown, "3 dropped", "image", "train.parquet", "row 5")


@pytest.mark.parametrize("packed", [False, True])
def test_every_published_test_question(tmp_path: Path, packed: bool) -> None:
    source = shared_file("geoqa_test_prompts.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    names = [row["image_path"].removeprefix("./Geo170K/") for row in rows]
    if packed:
        images = write_zip(tmp_path / "images.zip", {name: picture(size=(30, 30)) for name in names})
    else:
        images = tmp_path / "images"
        (images / "test").mkdir(parents=True)
        for name in names:
            (tmp_path / name).write_bytes(picture(size=(30, 30)))
    out = tmp_path / "test.parquet"
    assert main(["--source", str(source), "--images", str(images), "--out", str(out)]) == 0
    samples = read_rows(out)
    assert [(s.question, s.answer) for s in samples] == [(r["question"].strip(), r["ground_truth"]) for r in rows]
    assert len(samples) == 754 and read_counts(out)["dropped"] == {}


def test_test_questions_need_their_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"image_path": "./Geo170K/images/test/0.png", "question": "?", "ground_truth": "4"}
    source = str(write_lines(tmp_path / "test.jsonl", [row]))
    out = tmp_path / "out.parquet"
    assert main(["--source", source, "--out", str(out)]) == 2
    assert lines_naming(capsys.readouterr().err, "--images")
    assert main(["--source", source, "--out", str(out), "--images", str(tmp_path / "none")]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / "none")
    assert main(["--source", source, "--out", str(out), "--images", str(tmp_path)]) == 2
    assert lines_naming(capsys.readouterr().err, "1 dropped")
    assert not out.exists()
