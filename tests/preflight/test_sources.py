"""Every row is checked before a model is loaded; the first bad one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import DataConfig, Recipe
from gpg_vl.data.sources import Source, write_parquet
from gpg_vl.preflight.sources import load_sources
from gpg_vl.records import Sample
from tests.support.clock import takes_less_than
from tests.support.kit_rows import kit_row, png, write_lines
from tests.support.messages import naming


def check_rows(entry: str) -> list[Source]:
    return load_sources([entry], Recipe(), "data.train").sources


def test_urls_of_named_hosts_are_taken_and_not_fetched(tmp_path: Path) -> None:
    url = "https://pictures.test/7.png"
    path = write_lines(tmp_path / "rows.jsonl", kit_row(images=[url]))
    recipe = Recipe(data=DataConfig(image_hosts=["pictures.test"]))
    assert load_sources([path], recipe, "data.train").sources[0].samples[0].images == (url,)
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 1", "pictures.test", "data.image_hosts")):
        check_rows(path)
    with pytest.raises(ValueError, match=naming("data.image_hosts", "https://pictures.test")):
        DataConfig(image_hosts=["https://pictures.test"])


def test_images_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    path = write_lines(tmp_path / "rows.jsonl", kit_row(images=["broken.png"]))
    [source] = check_rows(path)
    assert source.samples[0].images == (str((tmp_path / "broken.png").resolve()),)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"answer": "four"}, ["answer", "'four'"]),
        ({"answer": None}, ["answer", "missing"]),
        ({"answer": "<answer></answer>"}, ["answer", "''"]),
        ({"question": ""}, ["question", "missing"]),
        ({"id": None}, ["id", "missing"]),
        ({"task": None}, ["task", "missing"]),
        ({"task": "countin"}, ["task", "countin", "counting"]),
        ({"task": "grounding", "answer": [1, 2, 30, 40]}, ["image"]),
        ({"images": ["missing.png"]}, ["missing.png", "data.image_root"]),
        ({"images": [""]}, ["image", "data.image_root"]),
        ({"images": ["x" * 300]}, ["image", "too long"]),
        ({"meta": "{"}, ["meta", "JSON"]),
        ({"meta": [1]}, ["meta", "list"]),
    ],
)
def test_first_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], named: list[str]) -> None:
    path = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2), kit_row(3, **changes), kit_row(4, answer="x"))
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 3", *named)) as caught:
        check_rows(path)
    assert str(caught.value).count("row 3") == 1
    assert "\n" not in str(caught.value)


def test_row_without_a_key_is_named(tmp_path: Path) -> None:
    second = kit_row(2)
    del second["question"]
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", "question", "missing")):
        check_rows(write_lines(tmp_path / "rows.jsonl", kit_row(1), second))


def test_ten_thousand_rows_are_checked_quickly(tmp_path: Path) -> None:
    picture = png()
    path = tmp_path / "rows.parquet"
    write_parquet([Sample(f"r{n}", "counting", (picture,), "How many?", "4") for n in range(10_000)], path)

    def check() -> None:
        [source] = check_rows(str(path))
        assert len(source.samples) == 10_000

    assert takes_less_than(3, check)
