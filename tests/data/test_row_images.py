"""Images as rows have them; what is lost is named."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.data.images import open_image
from gpg_vl.data.row_images import read_images
from gpg_vl.data.sources import load_source
from tests.support.kit_rows import kit_row, png, save_png, write_lines
from tests.support.messages import naming
from tests.support.pictures import encode

TEXT = base64.b64encode(png()).decode()


def read(path: Path, columns: dict[str, Any] | None = None, **row: Any) -> tuple[str | bytes, ...]:
    lines = write_lines(path, kit_row(), kit_row(2, **row))
    source = load_source({"path": lines, **({} if columns is None else {"columns": columns})})
    return source.samples[1].images


@pytest.mark.parametrize(
    "entry",
    [
        "1.png",
        {"url": "1.png"},
        {"type": "image", "image": "1.png"},
        {"type": "image_url", "image_url": {"url": "1.png"}},
        {"bytes": None, "path": "1.png"},
        {"file_name": "1.png"},
        TEXT,
        {"bytes": None, "path": None, "base64": TEXT},
        f"data:image/png;base64,{TEXT}",
        {"url": f"data:image/PNG;base64,{TEXT}"},
        "\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)),
        TEXT.rstrip("="),
    ],
)
def test_forms(tmp_path: Path, entry: Any) -> None:
    save_png(tmp_path / "1.png")
    for value in (entry, [entry, entry]):
        images = read(tmp_path / "rows.jsonl", images=value)
        assert [open_image(image).size for image in images] == [(8, 8)] * (2 if isinstance(value, list) else 1)


def test_a_list_as_json_text(tmp_path: Path) -> None:
    """As a data frame's column of objects is saved; a name that begins with a bracket is a name."""
    for name in ("1.png", "[1].png"):
        save_png(tmp_path / name)
        assert read(tmp_path / "rows.jsonl", images=name) == (str(tmp_path / name),)
    assert read(tmp_path / "rows.jsonl", images='["1.png", {"path": "[1].png"}]') == (
        str(tmp_path / "1.png"),
        str(tmp_path / "[1].png"),
    )
    assert read(tmp_path / "rows.jsonl", images="[]") == ()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_base64_of_every_format(kind: str) -> None:
    from PIL import Image

    content = encode(Image.new("RGB", (40, 20), "red"), kind)
    assert read_images(base64.b64encode(content).decode(), None, ()) == (content,)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"images": None}, ["images", "null"]),
        ({"images": ""}, ["images", "null"]),
        ({"images": [], "image": "1.png"}, ["images", "image"]),
        ({"images": "[]", "image": "1.png"}, ["images", "image"]),
        ({"images": [], "image_path": "1.png"}, ["images", "image_path"]),
        ({"images": ["1.png", None]}, ["image 2", "null"]),
        ({"images": [{"bytes": None, "path": None}]}, ["image 1", "null"]),
        ({"images": [{"kind": "image"}]}, ["image 1"]),
        ({"images": [["1.png"]]}, ["image 1", "list"]),
        ({"images": ["1.png", " "]}, ["image 2", "empty"]),
        ({"images": ["data:image/png;base64,no base64!"]}, ["image 1", "base64"]),
        ({"images": ["data:text/html,<b>"]}, ["data:text/html,<b>", "https"]),
    ],
)
def test_what_is_lost_is_named(tmp_path: Path, row: dict[str, Any], named: list[str]) -> None:
    save_png(tmp_path / "1.png")
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", *named)) as caught:
        read(tmp_path / "rows.jsonl", **row)
    assert "\n" not in str(caught.value)


def test_several_columns_of_images(tmp_path: Path) -> None:
    left, right = save_png(tmp_path / "1.png"), save_png(tmp_path / "2.png", "blue")
    columns = {"images": ["left", "right"]}
    assert read(tmp_path / "rows.jsonl", columns, left="1.png", right={"url": "2.png"}) == (str(left), str(right))
    assert read(tmp_path / "rows.jsonl", columns, left=None, right="2.png") == (str(right),)
    with pytest.raises(ValueError, match=naming("row 2", "images", "left", "right", "null")):
        read(tmp_path / "rows.jsonl", columns, left=None, right=None)
    rows = [{k: v for k, v in kit_row(n, image_1="1.png", image_2="2.png").items() if k != "images"} for n in (1, 2)]
    source = load_source(write_lines(tmp_path / "numbered.jsonl", *rows))
    assert source.samples[0].images == (str(left), str(right))
    with pytest.raises(ValueError, match=naming("rows.jsonl", "columns.images", "7")):
        read(tmp_path / "rows.jsonl", {"images": ["left", 7]}, left="1.png")
    with pytest.raises(ValueError, match=naming("rows.jsonl", "columns.question")):
        read(tmp_path / "rows.jsonl", {"question": ["left", "right"]}, left="1.png")


def test_a_path_is_no_base64(tmp_path: Path) -> None:
    """Also one of letters alone, as long as a picture's."""
    name = "Qk" + "a" * 200
    picture = save_png(tmp_path / f"{name[:100]}.png")
    assert read_images(f"{name[:100]}.png", tmp_path, ()) == (str(picture),)
    assert read_images("a" * 120, tmp_path, ()) == (str(tmp_path / ("a" * 120)),)
