"""Files and saved folders -> rows of plain values: row group by row group, line by line, damaged, empty."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest

from gpg_vl.data.sources import load_source, write_parquet
from gpg_vl.records import Sample
from tests.support.kit_rows import demo_samples, kit_row, png, save_png, write_lines
from tests.support.messages import naming

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


def test_parquet_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for number in range(3):
        write_parquet(demo_samples(png())[number:], path)
        assert [sample.id for sample in load_source(str(path)).samples] == ["a", "b", "c"][number:]


def test_saved_folder(tmp_path: Path) -> None:
    write_parquet(demo_samples(png()), tmp_path / "rows.parquet")
    data = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "split"))
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "test_only"))
    assert list(load_source(str(tmp_path / "one")).samples) == demo_samples(png())
    assert list(load_source(str(tmp_path / "split")).samples) == demo_samples(png())
    assert len(load_source(str(tmp_path / "test_only" / "test")).samples) == 3
    with pytest.raises(ValueError, match=naming(tmp_path / "test_only", "'train'", "'test'")):
        load_source(str(tmp_path / "test_only"))


def test_a_split_of_a_saved_folder(tmp_path: Path) -> None:
    write_parquet(demo_samples(png()), tmp_path / "rows.parquet")
    data = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    datasets.DatasetDict({"train": data, "val": data.select([1])}).save_to_disk(str(tmp_path / "saved"))
    entry = {"path": str(tmp_path / "saved"), "split": "val"}
    assert [sample.id for sample in load_source(entry).samples] == ["b"]
    with pytest.raises(ValueError, match=naming(tmp_path / "saved", "'dev'", "'train'", "'val'")):
        load_source(entry | {"split": "dev"})
    with pytest.raises(ValueError, match=naming(tmp_path / "saved", "revision")):
        load_source(entry | {"revision": "main"})
    with pytest.raises(ValueError, match=naming(tmp_path / "rows.parquet", "split")):
        load_source({"path": str(tmp_path / "rows.parquet"), "split": "val"})


def test_a_part_of_a_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    rows = {"id": ["1"], "task": ["counting"], "images": [[]], "question": ["?"], "answer": ["4"]}

    def load_dataset(*args: Any, **keys: Any) -> datasets.Dataset:
        asked.append((args, keys))
        return datasets.Dataset.from_dict(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    entry = {"path": "someone/rows", "split": "test[:10%]", "revision": "v2", "config": "small"}
    assert load_source(entry).samples[0].id == "1" and load_source("someone/rows").samples[0].id == "1"
    assert asked == [
        (("someone/rows", "small"), {"split": "test[:10%]", "revision": "v2"}),
        (("someone/rows", None), {"split": "train", "revision": None}),
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_folder_of_pictures(tmp_path: Path, name: str) -> None:
    picture = save_png(tmp_path / "pictures" / "sub" / "1.png")
    row = {"file_name": "sub/1.png", "question": "How many?", "answer": "3"}
    cells = "".join(",".join(cells) + "\n" for cells in (row.keys(), row.values()))
    text = cells if name.endswith(".csv") else json.dumps(row)
    (tmp_path / "pictures" / name).write_text(text, encoding="utf-8")
    source = load_source(str(tmp_path / "pictures"), task="counting")
    assert source.samples[0].images == (str(picture),) and source.samples[0].answer == "3"
    assert "pictures" in source.reading


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", *(kit_row(n) for n in range(5)))
    write_parquet(demo_samples(png()), tmp_path / "rows.parquet")
    assert len(load_source(lines, limit=2).samples) == 2
    assert [sample.id for sample in load_source(str(tmp_path / "rows.parquet"), limit=2).samples] == ["a", "b"]
    assert len(load_source(lines, limit=50).samples) == 5


def test_bad_files(tmp_path: Path) -> None:
    bad = {
        "rows.xlsx": (b"PK", [".parquet", ".jsonl", ".csv", ".tar"]),
        "rows.parquet": (b"not parquet at all", ["parquet"]),
        "empty.jsonl": (b"\n\n", []),
        "array.json": (b"[[1]]\n", ["entry 1", "list"]),
        "array.jsonl": (b'[{"id": 1}]\n', ["line 1", "list"]),
        "latin.jsonl": (b'{"id": "\xe4"}\n', ["line 1", "UTF-8"]),
        "deep.jsonl": (b"[" * 100_000, ["line 1", "JSON"]),
    }
    for name, (content, named) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=naming(tmp_path / name, *named)) as caught:
            load_source(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b'{"id": ', ["JSON", "Expecting value at 8"]),
        (b"7", ["int"]),
        (b'{"id": "\xe4"}', ["UTF-8"]),
        (b'{"id": "\\ud83d"}', ["surrogate"]),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: bytes, named: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(kit_row(1)).encode() + b"\r\n" + line + b"\n" + json.dumps(kit_row(2)).encode())
    samples = load_source(str(path)).samples
    assert [samples[0].id, samples[2].id] == ["r1", "r2"]
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", *named)):
        samples[1]


def test_a_mark_at_the_start_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(kit_row(1)).encode())
    assert load_source(str(path)).samples[0].id == "r1"


def test_a_column_of_a_kind_that_datasets_does_not_know(tmp_path: Path) -> None:
    meta = pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], "meta": meta}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=naming("rows.parquet", "'meta'")):
        load_source(str(tmp_path / "rows.parquet"))


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet([Sample(f"r{n}", "counting", (png(),), "?", "4") for n in range(500)], path)
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=naming("rows.parquet")):
        load_source(str(path))


def test_empty_sources(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [], "question": []}), tmp_path / "rows.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=naming("rows.parquet")):
        load_source(str(tmp_path / "rows.parquet"))
    with pytest.raises(ValueError, match=naming(tmp_path / "folder", ".parquet", ".jsonl")):
        load_source(str(tmp_path / "folder"))


# --- a folder names what is in it ---


def saved(folder: Path, split: str | None = None) -> Path:
    data = datasets.Dataset.from_dict({name: [value] for name, value in kit_row(images=["a.png"]).items()})
    if split is None:
        data.save_to_disk(str(folder))
    else:
        datasets.DatasetDict({split: data}).save_to_disk(str(folder))
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["../outside.arrow", "ABSOLUTE", "link.arrow", "sub/../../outside.arrow", 7, None])
@pytest.mark.parametrize("split", [None, "train"])
def test_a_saved_folder_names_no_file_outside(tmp_path: Path, split: str | None, name: object) -> None:
    folder = saved(tmp_path / "s", split)
    inner = folder / (split or "")
    outside = folder / "outside.arrow" if split else tmp_path / "outside.arrow"
    [arrow] = inner.glob("*.arrow")
    arrow.rename(outside)
    (inner / "link.arrow").symlink_to(outside)
    found = str(outside) if name == "ABSOLUTE" else name
    change(inner / "state.json", _data_files=[{"filename": found}])
    with pytest.raises(ValueError, match=naming(inner / "state.json", repr(found))):
        load_source(str(folder))


def test_a_saved_folder_names_no_split_outside(tmp_path: Path) -> None:
    saved(tmp_path / "other")
    folder = saved(tmp_path / "s", "train")
    change(folder / "dataset_dict.json", splits=["../other"])
    with pytest.raises(ValueError, match=naming(folder / "dataset_dict.json", "'../other'")):
        load_source(str(folder))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"_data_files": 3}', '{"_data_files": [3]}'])
def test_a_saved_folder_that_is_damaged_is_one_line(tmp_path: Path, name: str, content: str) -> None:
    folder = saved(tmp_path / "s")
    (folder / name).write_text(content)
    try:
        load_source(str(folder))
    except ValueError as error:
        said = str(error)
        assert str(folder) in said and "\n" not in said


def test_a_missing_folder_is_not_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    for name in ("data/train", "mine/rows", "runs/x", "./x", "me/rows.parquet", "me/rows.JSONL"):
        with pytest.raises(ValueError, match=naming(name)):
            load_source(name)
