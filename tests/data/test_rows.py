"""A file's columns -> samples: kit rows, published columns, and where their images may lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from gpg_vl.data.sources import load_source
from gpg_vl.records import Sample
from tests.support.kit_rows import kit_row, png, save_png, write_lines
from tests.support.messages import naming


def write_table(path: Path, columns: dict[str, list[Any]], features: datasets.Features | None = None) -> str:
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))
    return str(path)


def published_columns(images: list[Any]) -> dict[str, list[Any]]:
    return {
        "image": images,
        "problem": ["Find the angle."] * len(images),
        "solution": ["<answer> 145° </answer>"] * len(images),
        "level": list(range(len(images))),
    }


PUBLISHED = {"question": "problem", "answer": "solution", "images": "image"}


def test_samples_behave_like_a_list(tmp_path: Path) -> None:
    samples = load_source(write_lines(tmp_path / "rows.jsonl", *(kit_row(n) for n in range(5)))).samples
    assert samples[-1].id == "r4"
    assert [sample.id for sample in samples[1:3]] == ["r1", "r2"]
    with pytest.raises(IndexError):
        samples[5]


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
    path = write_lines(tmp_path / "rows.jsonl", {"image": "x.png", "text": "?", "label": "4"})
    with pytest.raises(ValueError, match=naming(path, "question", "answer", "image", "text", "label")):
        load_source(path, task="counting")
    with pytest.raises(ValueError, match=naming("columns", "question: NAME", "answer: NAME")):
        load_source(path, task="counting")
    path = write_lines(tmp_path / "rows.jsonl", {"image": "x.png", "problem": "?", "solution": "4"})
    with pytest.raises(ValueError, match=naming(path, "answers", "columns.answer", "image", "problem", "solution")):
        load_source({"path": path, "columns": PUBLISHED | {"answer": "answers"}}, task="counting")
    with pytest.raises(ValueError, match=naming(path, "task", "recipe")):
        load_source({"path": path, "columns": PUBLISHED})


def test_rows_without_an_id_are_numbered(tmp_path: Path) -> None:
    row = {"image": "x.png", "question": "?", "answer": "4"}
    path = write_lines(tmp_path / "rows.jsonl", row, row)
    assert [sample.id for sample in load_source(path, task="counting").samples] == [f"{path}:1", f"{path}:2"]
    with pytest.raises(ValueError, match=naming("row 2", "id", "missing")):
        load_source(write_lines(tmp_path / "rows.jsonl", kit_row(), kit_row(2, id=None))).samples[1]


def test_an_id_is_the_same_however_the_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "data" / "rows.jsonl", {"image": "x.png", "question": "?", "answer": "4"})
    monkeypatch.chdir(tmp_path)
    ids = [load_source(each, task="counting").samples[0].id for each in (path, "data/rows.jsonl")]
    assert ids == ["data/rows.jsonl:1"] * 2


def test_images_are_never_left_out_unsaid(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"picture": "x.png", "problem": "?", "solution": "4"})
    with pytest.raises(ValueError, match=naming(path, "images", "picture", "problem", "solution")):
        load_source({"path": path, "columns": {"question": "problem", "answer": "solution"}}, task="counting")


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
    assert read_images(rows, []) == ()
    monkeypatch.chdir(tmp_path / "data")
    assert load_source("rows.jsonl").samples[0].images == ()
    assert read_images(Path("rows.jsonl"), ["img/7.png"]) == (str(beside),)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("../secret.png", ["../secret.png", "data.image_root"]),
        ("img/../../secret.png", ["img/../../secret.png", "data.image_root"]),
        ("/etc/passwd", ["/etc/passwd", "data.image_root"]),
        ("link.png", ["link.png", "data.image_root"]),
        ("linked/secret.png", ["linked/secret.png", "data.image_root"]),
        ("http://169.254.169.254/x.png", ["http://169.254.169.254/x.png", "data.image_hosts"]),
        ("file:///etc/passwd", ["file:///etc/passwd", "https"]),
        ("zero\0byte.png", [r"'zero\x00byte.png'"]),
        ("loop/x.png", ["loop/x.png"]),
        ("loop/../link.png", ["loop/../link.png"]),
        ("missing/../loop/../link.png", ["missing/../loop/../link.png"]),
        ("ring/img/7.png", ["ring/img/7.png"]),
        (7, ["int"]),
        (None, ["NoneType"]),
        ({"bytes": None, "path": None}, ["NoneType"]),
    ],
)
def test_refused_image_paths(tmp_path: Path, image: Any, named: list[str]) -> None:
    save_png(tmp_path / "secret.png")
    save_png(tmp_path / "data" / "img" / "7.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path)
    (tmp_path / "data" / "loop").symlink_to("loop")
    (tmp_path / "data" / "ring").symlink_to("gnir")
    (tmp_path / "data" / "gnir").symlink_to("ring")
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", "image", *named)) as caught:
        read_images(tmp_path / "data" / "rows.jsonl", [image])
    assert "\n" not in str(caught.value)


def test_image_root_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming("data.image_root", tmp_path / "nowhere")):
        read_images(tmp_path / "rows.jsonl", [], tmp_path / "nowhere")


# --- tasks in files ---


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a task beside a data file, which leaves a trace when it runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dl").mkdir()
    path = tmp_path / "dl/notes.py"
    path.write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom gpg_vl.tasks.counting import Counting\nclass T(Counting): pass\n"
    )
    return path


def write_rows(folder: Path, kind: str, task: str) -> str:
    if kind == "jsonl":
        return write_lines(folder / "rows.jsonl", kit_row(task=task))
    data = datasets.Dataset.from_list([kit_row(task=task, images=["a.png"])])
    if kind == "parquet":
        data.to_parquet(str(folder / "rows.parquet"))
        return str(folder / "rows.parquet")
    data.save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
@pytest.mark.parametrize("name", ["dl/notes.py:T", "./dl/../dl/notes.py:T", "ABSOLUTE:T", "dl/notes.py:", "none.py:T"])
def test_a_row_cannot_choose_a_file_of_code(code: Path, tmp_path: Path, kind: str, name: str) -> None:
    task = name.replace("ABSOLUTE", str(code))
    rows = write_rows(code.parent, kind, task)
    samples = load_source(rows).samples
    with pytest.raises(ValueError, match=naming(rows, "row 1", "tasks", "--allow-task")):
        samples[0]
    assert load_source(rows, task="counting").samples[0].task == "counting", "the user's own word goes before the row's"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("listed", ["dl/notes.py:T", "ABSOLUTE:T"])
def test_a_row_may_name_a_file_that_the_user_lists(code: Path, listed: str) -> None:
    rows = write_rows(code.parent, "jsonl", "dl/notes.py:T")
    allowed = [listed.replace("ABSOLUTE", str(code)), "other.py:T"]
    assert load_source(rows, own_tasks=allowed).samples[0].task == "dl/notes.py:T"
    with pytest.raises(ValueError, match=naming("dl/notes.py:T")):
        load_source(rows, own_tasks=["dl/notes.py:Other", "notes.py:T"]).samples[0]
