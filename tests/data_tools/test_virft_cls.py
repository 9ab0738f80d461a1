"""Visual-RFT's classes: every published class name as training row and as test label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.published_files import picture, write_image_rows
from data_tools.virft_cls import SETS, main
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming
from tests.support.shared_data import shared_file

CLASS_FILES = {
    "flowers": "classes_oxford_flowers.txt",
    "pets": "classes_pets.txt",
    "aircraft": "classes_fgvc_aircraft.txt",
    "cars": "classes_stanford_cars.txt",
}
PROBLEM = (
    "This is an image containing a plant. Please identify the species of the plant based on the image.\n"
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
)


def train_row(number: int, name: str) -> dict[str, Any]:
    return {"image": number, "problem": PROBLEM, "solution": f"<answer>{name}</answer>"}


def write_labels(path: Path, labels: list[int]) -> Path:
    unused = {"pred_logits": torch.zeros(102), "pred_class": torch.tensor(0)}
    entries = [{f"/data/jpg/image_{n}.jpg": {"label": torch.tensor(label), **unused}} for n, label in enumerate(labels)]
    torch.save(entries, path)
    return path


@pytest.mark.parametrize("name", list(SETS))
def test_every_class_of_the_set(tmp_path: Path, name: str) -> None:
    class_file = shared_file(CLASS_FILES[name])
    classes = class_file.read_text(encoding="utf-8").splitlines()
    assert len(classes) == {"flowers": 102, "pets": 37, "aircraft": 100, "cars": 196}[name]
    source = write_image_rows(tmp_path / "hub/data/train-0.parquet", [train_row(n, c) for n, c in enumerate(classes)],
                              mode="RGBA")  # fmt: skip
    out = tmp_path / "train.parquet"
    assert main(["--set", name, "--source", str(source.parents[1]), "--out", str(out)]) == 0
    train = read_rows(out)
    assert [sample.answer for sample in train] == classes
    assert {(sample.task, sample.question) for sample in train} == {("classification", SETS[name].question)}

    labels = [(7 * n) % len(classes) for n in range(20)]
    (tmp_path / "jpg").mkdir()
    for n in range(len(labels)):
        (tmp_path / f"jpg/image_{n}.jpg").write_bytes(picture(n))
    words = ["--source", str(write_labels(tmp_path / "labels.pth", labels)), "--classes", str(class_file)]
    assert (
        main(["--set", name, *words, "--images", str(tmp_path / "jpg"), "--out", str(tmp_path / "test.parquet")]) == 0
    )
    test = read_rows(tmp_path / "test.parquet")
    assert [sample.answer for sample in test] == [classes[label] for label in labels]
    assert {sample.question for sample in test} == {SETS[name].question}
    assert not {sample.id for sample in train} & {sample.id for sample in test}


def test_source_is_the_hub_of_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--set", "cars", "--out", str(tmp_path / "train.parquet")]) == 2
    assert lines_naming(capsys.readouterr().err, "laolao77/ViRFT_CLS_car196_4shot")


def test_bad_rows_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_image_rows(tmp_path / "a.parquet", [train_row(0, "rose"), train_row(1, ""), train_row(2, "...")])
    out = tmp_path / "b.parquet"
    assert main(["--set", "flowers", "--source", str(source), "--out", str(out)]) == 0
    assert read_counts(out)["dropped"] == {"a field cannot be read": 1, "the answer is not valid for its task": 1}
    (tmp_path / "classes.txt").write_text("rose\ndaisy")
    words = ["--set", "flowers", "--images", str(tmp_path), "--out", str(tmp_path / "c.parquet")]
    labels = str(write_labels(tmp_path / "labels.pth", [2]))
    assert main([*words, "--source", labels]) == 2
    assert lines_naming(capsys.readouterr().err, "--classes")
    assert main([*words, "--source", labels, "--classes", str(tmp_path / "classes.txt")]) == 2
    assert lines_naming(capsys.readouterr().err, "labels.pth", "entry 1", "label 2", "--classes", "2 names")
    torch.save([{7: {"label": 1}}], tmp_path / "x.pth")
    torch.save([{"a.jpg": {"label": torch.tensor(1.5)}}], tmp_path / "y.pth")
    (tmp_path / "z.pth").write_bytes(b"no labels")
    for name in ("x.pth", "y.pth", "z.pth"):
        assert main([*words, "--source", str(tmp_path / name), "--classes", str(tmp_path / "classes.txt")]) == 2
        assert lines_naming(capsys.readouterr().err, name)
    assert not (tmp_path / "c.parquet").exists()
