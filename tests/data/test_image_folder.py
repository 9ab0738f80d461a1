"""The folder of images beside a JSONL file of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpg_vl.data.sources import load_source, write_jsonl
from gpg_vl.records import Sample
from tests.support.kit_rows import demo_samples, png, save_png
from tests.support.messages import naming


def test_jsonl_keeps_image_paths(tmp_path: Path) -> None:
    picture = save_png(tmp_path / "img" / "7.png")
    write_jsonl(demo_samples(str(picture)), tmp_path / "rows.jsonl")
    written = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(written[0])["images"] == ["img/7.png"]
    samples = load_source(str(tmp_path / "rows.jsonl")).samples
    assert samples[0] == demo_samples(str(picture.resolve()))[0]
    saved = samples[1].images[1]
    assert isinstance(saved, str)
    assert Path(saved) == (tmp_path / "rows_images" / "2-1.png").resolve()
    assert Path(saved).read_bytes() == png("blue")


def test_jsonl_copies_images_from_outside_of_its_folder(tmp_path: Path) -> None:
    """The rows could not be read otherwise: a path never leaves the data's folder."""
    picture, out = save_png(tmp_path / "elsewhere" / "7.png"), tmp_path / "out"
    write_jsonl(demo_samples(str(picture)), out / "rows.jsonl")
    image = load_source(str(out / "rows.jsonl")).samples[0].images[0]
    assert image == str((out / "rows_images/1-0.png").resolve()) and Path(image).read_bytes() == png()


@pytest.mark.parametrize("place", ["out", "elsewhere"])
def test_an_image_named_by_a_link_is_not_written(tmp_path: Path, place: str) -> None:
    """Reading a row resolves its paths, so the link came afterwards and may lead anywhere."""
    link = tmp_path / place / "sub" / "link.png"
    save_png(link.with_name("real.png"))
    link.symlink_to("real.png")
    (tmp_path / place / "inner").symlink_to("sub")
    for source in (link, tmp_path / place / "inner" / "real.png"):
        with pytest.raises(ValueError, match=naming(source)):
            write_jsonl(demo_samples(str(source)), tmp_path / "out" / "rows.jsonl")
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_images_of_a_file_that_is_written_again_are_its_own(tmp_path: Path) -> None:
    """None of the earlier file's stay, and where the writing fails, the earlier file and all its images do."""
    path, folder = tmp_path / "rows.jsonl", tmp_path / "rows_images"
    write_jsonl(demo_samples(png()), path)
    assert sorted(file.name for file in folder.iterdir()) == ["1-0.png", "2-0.png", "2-1.png"]
    write_jsonl(demo_samples(png("blue"))[:1], path)
    assert [file.read_bytes() for file in folder.iterdir()] == [png("blue")]

    def broken() -> Iterator[Sample]:
        yield from demo_samples(png())
        raise ValueError("the source broke off")

    with pytest.raises(ValueError, match="broke off"):
        write_jsonl(broken(), path)
    assert [file.read_bytes() for file in folder.iterdir()] == [png("blue")]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows.jsonl", "rows_images"]


def test_no_images_but_its_own_are_replaced(tmp_path: Path) -> None:
    path, folder = tmp_path / "rows.jsonl", tmp_path / "rows_images"
    write_jsonl(demo_samples(png()), path)
    write_jsonl(list(load_source(str(path)).samples), path)
    assert load_source(str(path)).samples[0].images == (str(folder / "1-0.png"),), "the rows name what is there"
    with pytest.raises(ValueError, match=naming(folder)):
        write_jsonl([*load_source(str(path)).samples, *demo_samples(png("green"))], path)
    assert (folder / "1-0.png").read_bytes() == png()
    save_png(folder / "holiday.png")
    with pytest.raises(ValueError, match=naming(folder / "holiday.png")):
        write_jsonl(demo_samples(png("green")), path)
    assert len(list(folder.iterdir())) == 4
