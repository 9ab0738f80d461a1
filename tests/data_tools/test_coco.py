"""The annotations of COCO and LVIS with a published list of categories to ask for."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.coco import main
from data_tools.published_files import picture, write_zip
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming

CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 70, "name": "toilet"}, {"id": 1, "name": "person"}]
PAIRS = {"9": ["cat", "toilet"], "4": ["person"], "5": []}


def annotation(number: int, image: int, category: int, box: list[float], **changes: Any) -> dict[str, Any]:
    area = {"segmentation": [], "area": box[2] * box[3], "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, "bbox": box} | area | changes


def write_instances(folder: Path, name: str = "instances_val2017.json", **changes: Any) -> Path:
    images = [
        {"id": n, "file_name": f"{n:012}.jpg", "width": 120, "height": 90, "coco_url": "unused"} for n in (9, 4, 5)
    ]
    annotations = [
        annotation(1, 9, 17, [10.5, 20, 30, 40.25]),
        annotation(2, 9, 17, [0, 0, 90, 80], iscrowd=1),
        annotation(3, 9, 17, [100, 80, 30, 30]),
        annotation(4, 9, 17, [50, 50, 0, 10]),
        annotation(5, 5, 70, [1, 2, 3, 4]),
    ]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES} | changes
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def convert(folder: Path, source: Path, *words: str, pairs: Any = PAIRS) -> int:
    members = {f"val2017/{n:012}.jpg": picture(n, (120, 90)) for n in (4, 5, 9)}
    images = write_zip(folder / "val2017.zip", members)
    (folder / "exist_map.json").write_text(json.dumps(pairs))
    named = ["--source", source, "--images", images, "--pairs", folder / "exist_map.json"]
    return main([str(word) for word in [*named, "--out", folder / "rows.parquet", *words]])


def test_rows(tmp_path: Path) -> None:
    assert convert(tmp_path, write_instances(tmp_path)) == 0
    cat, toilet, person = read_rows(tmp_path / "rows.parquet")
    assert ast.literal_eval(cat.answer) == [
        {"Position": [10.5, 20, 40.5, 60.25], "Confidence": 1},
        {"Position": [100, 80, 120, 90], "Confidence": 1},
    ], "neither the crowd nor the box without an area; the one over the edge ends there"
    assert (toilet.answer, person.answer) == ("No Objects", "No Objects")
    assert cat.meta == {"category": "cat", "category_id": 17, "image_id": 9}
    assert cat.question == "Detect all objects of the category 'cat' in the image."
    assert [each.id for each in (cat, person)] == ["instances_val2017-9-17", "instances_val2017-4-1"]
    assert cat.images == (picture(9, (120, 90)),)


def test_categories_of_an_experiment(tmp_path: Path) -> None:
    assert convert(tmp_path, write_instances(tmp_path), "--categories", "toilet", "person") == 0
    assert [each.meta["category"] for each in read_rows(tmp_path / "rows.parquet")] == ["toilet", "person"]


def test_lvis_names_pictures_by_their_address(tmp_path: Path) -> None:
    address = "http://images.cocodataset.org/val2017/000000000009.jpg"
    image = {"id": 9, "coco_url": address, "width": 120, "height": 90, "neg_category_ids": [70]}
    source = write_instances(tmp_path, "lvis_v1_val.json", images=[image])
    assert convert(tmp_path, source) == 0
    assert [each.images[0] for each in read_rows(tmp_path / "rows.parquet")] == [picture(9, (120, 90))] * 2


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    images = [{"id": 9, "file_name": "000000000009.jpg", "width": 120, "height": 91}]
    images += [{"id": 4, "file_name": "000000000004.jpg", "width": 120, "height": 90}]
    images += [{"id": 5, "file_name": "no.jpg", "width": 120, "height": 90}]
    source = write_instances(tmp_path, images=images)
    assert convert(tmp_path, source, pairs=PAIRS | {"5": ["cat"]}) == 0
    counts = read_counts(tmp_path / "rows.parquet")
    assert counts["dropped"] == {"the picture is of another size": 2, "a field cannot be read": 1}
    assert counts["examples"]["a field cannot be read"] == [
        f"instances_val2017.json, picture 5, cat: image 'no.jpg' is not in {tmp_path / 'val2017.zip'}"
    ]


def test_a_box_beside_its_picture_is_no_box_the_less(tmp_path: Path) -> None:
    sliver, beside = annotation(1, 9, 17, [120.5, 20, 1, 1]), annotation(2, 9, 70, [500, 20, 30, 30])
    assert convert(tmp_path, write_instances(tmp_path, annotations=[sliver, beside])) == 0
    assert [each.meta["category"] for each in read_rows(tmp_path / "rows.parquet")] == ["cat", "person"]
    assert read_counts(tmp_path / "rows.parquet")["dropped"] == {"a box is outside of its image": 1}


@pytest.mark.parametrize(
    ("changes", "pairs", "named"),
    [
        ({"annotations": [7]}, PAIRS, ["annotations", "int"]),
        ({"annotations": [{"image_id": 9, "category_id": 17}]}, PAIRS, ["annotation 1", "bbox", "None"]),
        ({"annotations": [annotation(1, 9, 17, [0, 0, 1e300, 2])]}, PAIRS, ["annotation 1", "bbox", "1e+300"]),
        ({}, {"9": [["cat"]]}, ["--pairs", "exist_map.json"]),
        ({"categories": []}, PAIRS, ["categories", "COCO", "LVIS"]),
        ({"annotations": []}, PAIRS, ["annotations", "COCO", "LVIS"]),
        ({}, PAIRS | {"4": ["dragon"]}, ["dragon", "--pairs", "--categories"]),
        ({}, [1], ["--pairs", "exist_map.json"]),
        ({}, {"9": "cat"}, ["--pairs", "exist_map.json"]),
    ],
)
def test_bad_files(
    changes: dict[str, Any], pairs: Any, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path, write_instances(tmp_path, **changes), pairs=pairs) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, *named) and error.count("\n") == 1, error
    assert not (tmp_path / "rows.parquet").exists()
