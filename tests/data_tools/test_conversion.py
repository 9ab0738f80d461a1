"""What every conversion does: complete files or none, the same file again, counts, bounded memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools import clevr, conversion
from data_tools.command_line import run_command
from data_tools.conversion import DropRow, convert
from data_tools.published_files import picture, sat_row, write_image_rows, write_sat
from data_tools.sources import SourceRow
from gpg_vl.files import unfinished
from gpg_vl.records import Sample
from tests.support.converted import read_counts, read_rows
from tests.support.messages import lines_naming, naming


def rows(num: int) -> Iterator[SourceRow]:
    return (SourceRow(n, f"row {n}", {"n": n}) for n in range(1, num + 1))


def make_sample(row: SourceRow) -> list[Sample]:
    return [Sample(f"r{row.number}", "counting", (picture(row.number),), "How many?", str(row.number))]


def clevr_source(path: Path, num: int = 8) -> Path:
    solutions = [f"<answer> {n % 8 + 3} </answer>" for n in range(num)]
    return write_image_rows(
        path, [{"image": n, "problem": "How many?", "solution": s} for n, s in enumerate(solutions)]
    )


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_the_same_source_gives_the_same_file(tmp_path: Path, name: str) -> None:
    contents = []
    for _ in range(2):
        convert("here", rows(70), make_sample, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
        assert [sample.answer for sample in read_rows(tmp_path / name)] == [str(n) for n in range(1, 71)]
    assert contents[0] == contents[1]
    assert not list(tmp_path.glob(".*"))


def test_counts(tmp_path: Path) -> None:
    def make(row: SourceRow) -> list[Sample]:
        if row.number % 2:
            raise DropRow("odd", f"{row.number} is odd")
        same = Sample("r2", "counting", (), "How many?", "4")
        return [*make_sample(row), same] if row.number == 10 else make_sample(row)

    counts = convert("here", rows(10), make, tmp_path / "rows.parquet")
    assert counts.total() == "5 rows written from 10 read"
    assert read_counts(tmp_path / "rows.parquet") == {
        "source": "here",
        "schema_version": 1,
        "rows_read": 10,
        "rows_written": 5,
        "dropped": {"odd": 5, "the id is repeated": 1},
        "examples": {
            "odd": [f"row {n}: {n} is odd" for n in (1, 3, 5)],
            "the id is repeated": ["row 10: 'r2'"],
        },
        "dropped_rows": [
            *(f"row {n}: odd ({n} is odd)" for n in (1, 3, 5, 7, 9)),
            "row 10: the id is repeated ('r2')",
        ],
    }


def test_nothing_is_written_where_no_row_is_left(tmp_path: Path) -> None:
    def make(row: SourceRow) -> list[Sample]:
        raise DropRow("all")

    with pytest.raises(ValueError, match=naming(0, "3 read", "3 dropped", "row 1", "all")):
        convert("here", rows(3), make, tmp_path / "rows.parquet")
    assert not list(tmp_path.iterdir())


def test_a_source_that_breaks_off_leaves_the_earlier_file(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    convert("here", rows(3), make_sample, out)
    before = out.read_bytes()

    def broken() -> Iterator[SourceRow]:
        yield from rows(100)
        raise ValueError("train.jsonl, line 101: not JSON")

    with pytest.raises(ValueError, match=naming("line 101")):
        convert("here", broken(), make_sample, out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.counts.json", "rows.parquet"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_the_source_is_never_replaced(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text("as it was")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=naming(name)):
        convert(str(source), rows(3), make_sample, tmp_path / "link" / name)
    assert source.read_text() == "as it was"


def test_nothing_is_written_into_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file there would be a part of the source the next time, or is one already."""
    source = clevr_source(tmp_path / "source/data/train.parquet").parent.parent
    before = (source / "data/train.parquet").read_bytes()
    for name in ("data/train.parquet", "rows.parquet"):
        assert clevr.main(["--source", str(source), "--out", str(source / name)]) == 2
        assert lines_naming(capsys.readouterr().err, name, source)
    assert [path.name for path in source.rglob("*")] == ["data", "train.parquet"]
    assert (source / "data/train.parquet").read_bytes() == before


def test_a_folder_is_no_file_of_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").mkdir()
    with pytest.raises(ValueError, match=naming("rows.parquet", "folder")):
        convert("here", rows(3), make_sample, tmp_path / "rows.parquet")


def test_progress_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(conversion, "SECONDS_BETWEEN_LINES", 0.0)
    convert("here", rows(3), make_sample, tmp_path / "rows.parquet")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[:2] for line in lines] == [[f"{n} rows read", " 0 dropped"] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("kill", "name"),
    [
        (kill, name)
        for kill in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
        for name in ("rows.parquet", "rows.jsonl")
    ],
)
def test_an_interrupted_conversion_is_completed_by_the_next(tmp_path: Path, kill: signal.Signals, name: str) -> None:
    source = clevr_source(tmp_path / "source/train.parquet", 5000)
    command = [sys.executable, "-m", "data_tools.clevr", "--source", str(source), "--out"]
    out = tmp_path / name
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 10_000 for path in tmp_path.glob(f".{name}.*.partial")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(kill)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-signal.SIGKILL if kill == signal.SIGKILL else 128 + kill), said
    visible = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert visible == ["source"], "images neither"
    assert bool(list(tmp_path.glob(f".{name}.*.partial"))) == (kill == signal.SIGKILL)
    if kill != signal.SIGKILL:
        assert said.count("\n") == 1 and "Traceback" not in said
    assert clevr.main(["--source", str(source), "--out", str(out)]) == 0
    assert clevr.main(["--source", str(source), "--out", str(tmp_path / "once" / name)]) == 0
    assert out.read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert not list(tmp_path.glob(".*"))
    images = [
        {file.name: file.read_bytes() for file in folder.glob("rows_images/*")}
        for folder in (out.parent, tmp_path / "once")
    ]
    assert images[0] == images[1]


MEASURE = """
import sys, tracemalloc
import pyarrow
from data_tools import sat

source, out = sys.argv[1:]
tracemalloc.start()
assert sat.main(["--source", source, "--out", out]) == 0
print("peak", tracemalloc.get_traced_memory()[1] + pyarrow.default_memory_pool().max_memory())
"""


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """Sources of one row group and pictures of 26 kB, as SAT has: what lives at once is some of Arrow's pages."""
    peaks = {}
    for num in (2048, 4096):
        rows = [sat_row(image_bytes=[picture() + os.urandom(26_000)]) for _ in range(num)]
        source = write_sat(tmp_path / "SAT_train.parquet", rows)
        command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "rows.parquet")]
        ran = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=200, check=False)
        assert ran.returncode == 0, ran.stderr
        peaks[num] = int(ran.stdout.split("peak ")[1]) >> 20
    print(f"most memory, MB, by rows of 26 kB: {peaks}")
    assert peaks[4096] < 1.1 * peaks[2048]


def test_a_full_disk_is_no_mistake_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> int:
        with unfinished(tmp_path / "rows.jsonl"):
            return Path("/dev/full").write_text("row")

    def miss() -> int:
        return len((tmp_path / "missing.jsonl").read_bytes())

    assert (run_command(fill), run_command(miss)) == (1, 2)
    full, missing = capsys.readouterr().err.splitlines()
    assert lines_naming(full, tmp_path / "rows.jsonl", "free space")
    assert lines_naming(missing, tmp_path / "missing.jsonl")
