import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from gpg_vl.config import DataConfig, Recipe
from gpg_vl.data.sources import Source, load_source, write_jsonl, write_parquet
from gpg_vl.preflight.sources import load_sources
from gpg_vl.records import Sample


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def png(colour: str = "red") -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def save_png(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))
    return path


def kit_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"id": f"r{number}", "task": "counting", "images": [], "question": "How many?", "answer": "4"}
    return row | changes


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_table(path: Path, columns: dict[str, list[Any]], features: datasets.Features | None = None) -> str:
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))
    return str(path)


def demo_samples(image: str | bytes) -> list[Sample]:
    return [
        Sample("a", "counting", (image,), "How many?", "4", {"reasoning": "2 und 2", "level": 1}),
        Sample("b", "geometry", (image, png("blue")), "Wie groß?", "8√{3}cm"),
        Sample("c", "counting", (), "2 + 2?", "4", {"nested": {"deep": [1, None]}}),
    ]


OPEN = """
import sys
from gpg_vl.data.sources import load_source

def most():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = most()
assert len(load_source(sys.argv[1]).samples) == 48
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_file_is_opened_row_group_by_row_group(tmp_path: Path) -> None:
    """384 MB of pictures, in groups of 16 MB: memory is that of a few groups."""
    rng = random.Random(1)
    samples = (Sample(f"r{n}", "counting", (rng.randbytes(8 * 2**20),), "How many?", "4") for n in range(48))
    write_parquet(samples, tmp_path / "rows.parquet")
    command = [sys.executable, "-c", OPEN, str(tmp_path / "rows.parquet")]
    env = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "MIMALLOC_PURGE_DELAY": "0"}
    grown = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout  # KiB
    assert int(grown) < 200 * 2**10


def published_columns(images: list[Any]) -> dict[str, list[Any]]:
    return {
        "image": images,
        "problem": ["Find the angle."] * len(images),
        "solution": ["<answer> 145° </answer>"] * len(images),
        "level": list(range(len(images))),
    }


PUBLISHED = {"question": "problem", "answer": "solution", "images": "image"}


# --- kit rows --------------------------------------------------------------------------------------------------------


def test_parquet_holds_whole_samples(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.parquet"
    write_parquet(demo_samples(png()), path)
    source = load_source(str(path))
    assert (source.name, source.weight, len(source.samples)) == (str(path), 1.0, 3)
    assert list(source.samples) == demo_samples(png())
    assert datasets.Dataset.from_parquet(str(path))[0]["images"][0].size == (8, 8)


def test_parquet_takes_image_files_in(tmp_path: Path) -> None:
    picture = save_png(tmp_path / "picture.png")
    write_parquet(demo_samples(str(picture)), tmp_path / "rows.parquet")
    picture.unlink()
    assert list(load_source(str(tmp_path / "rows.parquet")).samples) == demo_samples(png())


def test_parquet_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for number in range(3):
        write_parquet(demo_samples(png())[number:], path)
        assert [sample.id for sample in load_source(str(path)).samples] == ["a", "b", "c"][number:]


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
    """The rows could not be read otherwise: a path never leaves the data's folder, by a link neither."""
    picture = save_png(tmp_path / "elsewhere" / "7.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "link.png").symlink_to(picture)
    for source in (picture, out / "link.png"):
        write_jsonl(demo_samples(str(source)), out / "rows.jsonl")
        image = load_source(str(out / "rows.jsonl")).samples[0].images[0]
        assert image == str((out / "rows_images/1-0.png").resolve()) and Path(image).read_bytes() == png()


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
    with pytest.raises(ValueError, match=r"rows have images of .*rows_images; write them to a file of another name"):
        write_jsonl([*load_source(str(path)).samples, *demo_samples(png("green"))], path)
    assert (folder / "1-0.png").read_bytes() == png()
    save_png(folder / "holiday.png")
    with pytest.raises(ValueError, match=r"holiday\.png is no image of rows written here; move it, or write to a file"):
        write_jsonl(demo_samples(png("green")), path)
    assert len(list(folder.iterdir())) == 4


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    for value, message in (({"x": b"1"}, "type bytes, which JSON cannot hold"), ({"x": {(1, 2): 3}}, "none that JSON")):
        for name in ("rows.jsonl", "rows.parquet"):
            with pytest.raises(ValueError, match=message):
                (write_jsonl if name == "rows.jsonl" else write_parquet)(
                    [Sample("a", "counting", (), "?", "4", value)], tmp_path / name
                )


def test_saved_folder(tmp_path: Path) -> None:
    write_parquet(demo_samples(png()), tmp_path / "rows.parquet")
    data = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "split"))
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "test_only"))
    assert list(load_source(str(tmp_path / "one")).samples) == demo_samples(png())
    assert list(load_source(str(tmp_path / "split")).samples) == demo_samples(png())
    assert len(load_source(str(tmp_path / "test_only" / "test")).samples) == 3
    with pytest.raises(ValueError, match=r"test_only has no split 'train'.*\['test'\]"):
        load_source(str(tmp_path / "test_only"))


def test_samples_behave_like_a_list(tmp_path: Path) -> None:
    samples = load_source(write_lines(tmp_path / "rows.jsonl", *(kit_row(n) for n in range(5)))).samples
    assert samples[-1].id == "r4"
    assert [sample.id for sample in samples[1:3]] == ["r1", "r2"]
    with pytest.raises(IndexError):
        samples[5]


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", *(kit_row(n) for n in range(5)))
    write_parquet(demo_samples(png()), tmp_path / "rows.parquet")
    assert len(load_source(lines, limit=2).samples) == 2
    assert [sample.id for sample in load_source(str(tmp_path / "rows.parquet"), limit=2).samples] == ["a", "b"]
    assert len(load_source(lines, limit=50).samples) == 5


def test_every_other_column_is_meta(tmp_path: Path) -> None:
    rows = [kit_row(1, level=2, meta='{"reasoning": "why"}'), kit_row(2, meta={"level": 3}), kit_row(3, meta=None)]
    samples = load_source(write_lines(tmp_path / "rows.jsonl", *rows)).samples
    assert [sample.meta for sample in samples] == [{"level": 2, "reasoning": "why"}, {"level": 3}, {}]


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (4, "4"),
        (4.5, "4.5"),
        ([1, 2.5, 30, 40], "[1, 2.5, 30, 40]"),
        ({"x": "°"}, '{"x": "°"}'),
        ("<answer>4</answer>", "4"),
    ],
)
def test_answers_become_text(tmp_path: Path, value: Any, answer: str) -> None:
    assert load_source(write_lines(tmp_path / "rows.jsonl", kit_row(answer=value))).samples[0].answer == answer


def test_task_of_the_recipe_goes_before_that_of_the_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", kit_row())
    assert load_source(path).samples[0].task == "counting"
    assert load_source(path, task="geometry").samples[0].task == "geometry"


def test_numbers_serve_as_ids(tmp_path: Path) -> None:
    assert load_source(write_lines(tmp_path / "rows.jsonl", kit_row(id=7))).samples[0].id == "7"


def test_rows_of_a_newer_schema_are_refused(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2, schema_version=1), kit_row(3, schema_version=2))
    samples = load_source(lines).samples
    assert [sample.meta for sample in samples[:2]] == [{}, {}]
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 3: schema_version is 2, this kit reads 1; write the rows"):
        samples[2]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_files_say_their_schema(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (write_parquet if path.suffix == ".parquet" else write_jsonl)(demo_samples(png()), path)
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["schema_version"] for row in rows] == [1, 1, 1]
    assert load_source(str(path)).samples[0].meta == demo_samples(png())[0].meta


@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_text_of_a_million_characters_is_refused(tmp_path: Path, field: str) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2, **{field: "x" * 1_000_000}))
    with pytest.raises(ValueError, match=f"row 2: the {field} has 1000000 characters, more than 65536") as caught:
        load_source(lines).samples[1]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_a_file_is_complete_or_the_earlier_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write = write_parquet if path.suffix == ".parquet" else write_jsonl

    def broken() -> Iterator[Sample]:
        yield from demo_samples(png()) * 200
        raise ValueError("the source broke off")

    with pytest.raises(ValueError, match="broke off"):
        write(broken(), path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == []
    write(demo_samples(png()), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="broke off"):
        write(broken(), path)
    assert path.read_bytes() == before


# --- published columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image", "bytes"])
def test_published_columns(tmp_path: Path, kind: str) -> None:
    feature = datasets.Image() if kind == "image" else datasets.Value("binary")
    features = datasets.Features(
        {
            "image": feature,
            **{name: datasets.Value("string") for name in ("problem", "solution")},
            "level": datasets.Value("int32"),
        }
    )
    images = [{"bytes": png(), "path": "x.png"}] * 2 if kind == "image" else [png()] * 2
    path = write_table(tmp_path / "geoqa.parquet", published_columns(images), features)
    source = load_source({"path": path, "weight": 2, "columns": PUBLISHED}, task="geometry")
    assert source.weight == 2.0
    sample = Sample(f"{path}:2", "geometry", (png(),), "Find the angle.", "145°", {"level": 1})
    assert source.samples[1] == sample


def test_published_rows_with_a_list_of_images(tmp_path: Path) -> None:
    columns = published_columns([None])
    columns["images"] = [[{"bytes": png(), "path": None}, {"bytes": png("blue"), "path": None}]]
    del columns["image"]
    path = write_table(tmp_path / "rows.parquet", columns)
    sample = load_source(
        {"path": path, "columns": {"question": "problem", "answer": "solution"}}, task="geometry"
    ).samples[0]
    assert sample.images == (png(), png("blue"))


def test_own_ids_and_no_images(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"key": "k1", "id": 3, "problem": "2 + 2?", "answer": 4})
    columns = {"question": "problem", "images": None}
    assert load_source({"path": path, "columns": columns}, task="counting").samples[0].id == f"{path}:1"
    sample = load_source({"path": path, "columns": columns | {"id": "key"}}, task="counting").samples[0]
    assert sample == Sample("k1", "counting", (), "2 + 2?", "4", {"id": 3})


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"image": "x.png", "problem": "?", "solution": "4"})
    with pytest.raises(
        ValueError, match=r"has no column id, question, answer; it has \['image', 'problem', 'solution'\]"
    ):
        load_source(path, task="counting")
    with pytest.raises(ValueError, match=r"columns: \{question: NAME, answer: NAME\}"):
        load_source(path, task="counting")
    with pytest.raises(ValueError, match=r"has no column 'answers' for columns\.answer; it has \['image'"):
        load_source({"path": path, "columns": PUBLISHED | {"answer": "answers"}}, task="counting")
    with pytest.raises(ValueError, match="set task in the recipe"):
        load_source({"path": path, "columns": PUBLISHED})


def test_images_are_never_left_out_unsaid(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"picture": "x.png", "problem": "?", "solution": "4"})
    with pytest.raises(ValueError, match="has no column images"):
        load_source({"path": path, "columns": {"question": "problem", "answer": "solution"}}, task="counting")


# --- entries and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "x.jsonl", "wieght": 2}, "unknown key 'wieght'; did you mean 'weight'"),
        ({"path": "x.jsonl", "columns": {"anser": "a"}}, "unknown field 'anser'; did you mean 'answer'"),
        ({"path": "x.jsonl", "columns": "problem"}, "make it a mapping"),
        ({"path": "x.jsonl", "weight": 0}, "weight is 0; make it a number above 0"),
        ({"path": "x.jsonl", "weight": float("nan")}, "weight is nan"),
        ({"path": "x.jsonl", "weight": "2"}, "weight is '2'"),
        ({"weight": 2}, "has no path"),
        ("x.jsonl", "no such file: x.jsonl"),
        ("x.parquet", "no such file: x.parquet"),
        ("data/geo/train", "no such file: data/geo/train"),
        ("./geo", "no such file: ./geo"),
        ("geo/train", "geo/train is no file or folder here, and as a hub data set it cannot be loaded: "),
    ],
)
def test_bad_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str | dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message) as caught:
        load_source(entry)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    bad = {
        "rows.csv": (b"id,answer\n", "is no data file of the kit"),
        "rows.parquet": (b"not parquet at all", "cannot be read as parquet: "),
        "empty.jsonl": (b"\n\n", "has no rows"),
        "array.json": (b'[{"id": 1}]\n', "line 1: the line is a JSON list, not an object; write one JSON object a"),
        "latin.jsonl": (b'{"id": "\xe4"}\n', "line 1: the line is not UTF-8"),
        "deep.jsonl": (b"[" * 100_000, "line 1: the line is not JSON"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_source(str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": ', r"the line is not JSON \(Expecting value at 8\); write one JSON object a line"),
        (b"", "the line is not JSON"),
        (b"7", "the line is a JSON int, not an object"),
        (b'{"id": "\xe4"}', "the line is not UTF-8; save the file as UTF-8"),
        (b'{"id": "\\ud83d"}', "the line is text with half a character"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(kit_row(1)).encode() + b"\r\n" + line + b"\n" + json.dumps(kit_row(2)).encode())
    samples = load_source(str(path)).samples
    assert [samples[0].id, samples[2].id] == ["r1", "r2"]
    with pytest.raises(ValueError, match=rf"^.*rows\.jsonl, row 2: {message}"):
        samples[1]


def test_a_mark_at_the_start_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(kit_row(1)).encode())
    assert load_source(str(path)).samples[0].id == "r1"


def test_a_column_of_a_kind_that_datasets_does_not_know(tmp_path: Path) -> None:
    meta = pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], "meta": meta}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet has a column that cannot be read; leave it out .*'meta'"):
        load_source(str(tmp_path / "rows.parquet"))


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet([Sample(f"r{n}", "counting", (png(),), "?", "4") for n in range(500)], path)
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read as parquet: "):
        load_source(str(path))


def test_empty_sources(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [], "question": []}), tmp_path / "rows.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"rows\.parquet has no rows"):
        load_source(str(tmp_path / "rows.parquet"))
    with pytest.raises(ValueError, match="folder is no folder saved by datasets"):
        load_source(str(tmp_path / "folder"))


def test_repeated_ids(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2), kit_row(1))
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 3: has the id 'r1' of row 1"):
        load_source(path)
    assert [sample.id for sample in load_source(path, check_ids=False).samples] == ["r1", "r2", "r1"]


# --- images of a row -------------------------------------------------------------------------------------------------


def read_images(path: Path, images: Any, image_root: Path | None = None) -> tuple[str | bytes, ...]:
    entry = write_lines(path, kit_row(), kit_row(2, images=images))
    return load_source(entry, None if image_root is None else str(image_root)).samples[1].images


def test_image_paths_are_relative_to_the_data_file_or_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = save_png(tmp_path / "data" / "img" / "7.png").resolve()
    elsewhere = save_png(tmp_path / "pictures" / "7.png").resolve()
    rows = tmp_path / "data" / "rows.jsonl"
    assert read_images(rows, ["img/7.png", "./img/../img/7.png"]) == (str(beside), str(beside))
    assert read_images(rows, "img/7.png") == (str(beside),)
    assert read_images(rows, {"bytes": None, "path": "img/7.png"}) == (str(beside),)
    assert read_images(rows, [str(beside)]) == (str(beside),)
    assert read_images(rows, ["7.png"], tmp_path / "pictures") == (str(elsewhere),)
    assert read_images(rows, None) == ()
    monkeypatch.chdir(tmp_path / "data")
    assert load_source("rows.jsonl").samples[0].images == ()
    assert read_images(Path("rows.jsonl"), ["img/7.png"]) == (str(beside),)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("../secret.png", "is outside of"),
        ("img/../../secret.png", "is outside of"),
        ("/etc/passwd", "is outside of"),
        ("link.png", "is outside of"),
        ("linked/secret.png", "is outside of"),
        ("http://169.254.169.254/x.png", "a host that data.image_hosts does not name"),
        ("file:///etc/passwd", "a URL of the scheme 'file'"),
        ("data:image/png;base64,AAAA", "a URL of the scheme 'data'"),
        ("zero\0byte.png", "no usable path"),
        ("loop/x.png", "no usable path"),
        (7, "an image is a int"),
        (None, "an image is a NoneType"),
        ({"bytes": None, "path": None}, "an image is a NoneType"),
    ],
)
def test_refused_image_paths(tmp_path: Path, image: Any, message: str) -> None:
    save_png(tmp_path / "secret.png")
    save_png(tmp_path / "data" / "img" / "7.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path)
    (tmp_path / "data" / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=rf"rows\.jsonl, row 2: .*{message}") as caught:
        read_images(tmp_path / "data" / "rows.jsonl", [image])
    assert "\n" not in str(caught.value)


def test_urls_of_named_hosts_are_taken_and_not_fetched(tmp_path: Path) -> None:
    url = "https://pictures.test/7.png"
    path = write_lines(tmp_path / "rows.jsonl", kit_row(images=[url]))
    recipe = Recipe(data=DataConfig(image_hosts=["pictures.test"]))
    assert load_sources([path], recipe, "data.train").sources[0].samples[0].images == (url,)
    with pytest.raises(ValueError, match=r"row 1: image .* a host that data.image_hosts does not name"):
        check_rows(path)
    with pytest.raises(ValueError, match=r"data.image_hosts: \['https://pictures.test'\] is no host"):
        DataConfig(image_hosts=["https://pictures.test"])


def test_image_root_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.image_root: no such folder: .*nowhere"):
        read_images(tmp_path / "rows.jsonl", [], tmp_path / "nowhere")


def test_images_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    path = write_lines(tmp_path / "rows.jsonl", kit_row(images=["broken.png"]))
    [source] = check_rows(path)
    assert source.samples[0].images == (str((tmp_path / "broken.png").resolve()),)


# --- the check of every row ------------------------------------------------------------------------------------------


def check_rows(entry: str) -> list[Source]:
    return load_sources([entry], Recipe(), "data.train").sources


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "four"}, "the answer 'four' is no count"),
        ({"answer": None}, "the answer is missing"),
        ({"answer": "<answer></answer>"}, "the answer '' is no count"),
        ({"question": ""}, "the question is missing"),
        ({"id": None}, "the id is missing"),
        ({"task": None}, "the task is missing"),
        ({"task": "countin"}, "no task 'countin'; did you mean 'counting'"),
        ({"task": "grounding", "answer": [1, 2, 30, 40]}, "no image"),
        ({"images": ["missing.png"]}, "missing.png: no such file; put it there or set data.image_root"),
        ({"images": [""]}, "no such file"),
        ({"images": ["x" * 300]}, "file name too long"),
        ({"meta": "{"}, "meta is text and not JSON"),
        ({"meta": [1]}, "meta is a list"),
    ],
)
def test_first_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2), kit_row(3, **changes), kit_row(4, answer="x"))
    with pytest.raises(ValueError, match=rf"rows\.jsonl, row 3: .*{message}") as caught:
        check_rows(path)
    assert str(caught.value).count("row 3") == 1
    assert "\n" not in str(caught.value)


def test_row_without_a_key_is_named(tmp_path: Path) -> None:
    second = kit_row(2)
    del second["question"]
    with pytest.raises(ValueError, match="row 2: the question is missing"):
        check_rows(write_lines(tmp_path / "rows.jsonl", kit_row(1), second))


def test_ten_thousand_rows_are_checked_quickly(tmp_path: Path) -> None:
    picture = png()
    path = tmp_path / "rows.parquet"
    write_parquet([Sample(f"r{n}", "counting", (picture,), "How many?", "4") for n in range(10_000)], path)
    start = time.process_time()
    [source] = check_rows(str(path))
    assert len(source.samples) == 10_000
    assert time.process_time() - start < 3
