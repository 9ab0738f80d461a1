"""CLEVR: the training rows and the SuperCLEVR test questions as R1-V publishes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from data_tools.clevr import main
from data_tools.published_files import picture, write_image_rows
from tests.support.converted import read_counts, read_rows
from tests.support.shared_data import shared_file

QUESTION = "How many items are there in the image?"


def test_training_rows_over_several_files(tmp_path: Path) -> None:
    for shard in range(2):
        rows = [{"image": n, "problem": QUESTION, "solution": f"<answer> {n} </answer>"} for n in range(3, 11)]
        write_image_rows(tmp_path / f"hub/data/train-0000{shard}-of-00002.parquet", rows)
    out = tmp_path / "train.parquet"
    assert main(["--source", str(tmp_path / "hub"), "--out", str(out)]) == 0
    samples = read_rows(out)
    assert [sample.answer for sample in samples] == [str(n) for n in range(3, 11)] * 2
    assert [sample.id for sample in samples] == [f"clevr-train-{n}" for n in range(1, 17)]
    assert {(sample.task, sample.question) for sample in samples} == {("counting", QUESTION)}
    assert main(["--source", str(tmp_path / "hub"), "--out", str(out), "--limit", "10"]) == 0
    assert read_rows(out) == samples[:10]


def test_every_published_test_question(tmp_path: Path) -> None:
    source = shared_file("superclevr_test200_counting_problems.jsonl")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    (tmp_path / "images").mkdir()
    for row in rows:
        (tmp_path / row["image_path"]).write_bytes(picture(size=(64, 48), kind="PNG"))
    out = tmp_path / "test.parquet"
    assert main(["--source", str(source), "--images", str(tmp_path), "--out", str(out)]) == 0
    samples = read_rows(out)
    assert read_counts(out)["dropped"] == {}
    counted = Counter(int(sample.answer) for sample in samples)
    assert [counted[n] for n in range(3, 11)] == [30, 18, 30, 27, 18, 24, 25, 28]
    assert {sample.question for sample in samples} == {"How many different items are there in the image?"}
