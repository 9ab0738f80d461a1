"""Drawn data: decided by the seed, never a picture twice, readable in both formats."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy
import pytest
from PIL import Image

from data_tools import generate, scenes
from data_tools.generate import PUBLISHED_COLUMNS, draw_samples, hash_pixels, main, read_hashes
from gpg_vl.data.images import open_image
from gpg_vl.data.sources import load_source
from gpg_vl.data.videos import FrameSampling, open_video
from gpg_vl.records import Sample
from gpg_vl.tasks import load_task
from tests.support.clock import takes_less_than
from tests.support.messages import lines_naming, naming

TASKS = ("counting", "geometry", "grounding")


def picture(sample: Sample) -> Image.Image:
    return open_image(sample.images[0])


def hashes(samples: list[Sample]) -> list[str]:
    return [hash_pixels(picture(sample)) for sample in samples]


@pytest.mark.parametrize("task", TASKS)
def test_seed_decides_rows(task: str) -> None:
    first = draw_samples(task, 20, seed=3)
    assert draw_samples(task, 20, seed=3) == first
    assert draw_samples(task, 30, seed=3)[:20] == first
    assert draw_samples(task, 20, seed=4) != first
    assert len({sample.id for sample in first} | {sample.id for sample in draw_samples(task, 20, seed=4)}) == 40


@pytest.mark.parametrize("task", TASKS)
def test_pictures_differ_and_excluded_ones_are_not_drawn(task: str) -> None:
    test = hashes(draw_samples(task, 200, seed=1))
    train = hashes(draw_samples(task, 200, seed=1, exclude=test))
    assert len(set(test)) == len(set(train)) == 200
    assert not set(test) & set(train)


@pytest.mark.parametrize("task", TASKS)
def test_task_takes_every_row(task: str) -> None:
    for sample in draw_samples(task, 50, seed=5):
        load_task(task).check(sample)
        assert picture(sample).size == (84, 84)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
@pytest.mark.parametrize("task", TASKS)
def test_command_writes_kit_rows(tmp_path: Path, task: str, name: str) -> None:
    out = tmp_path / "new folder" / name
    assert main(["--task", task, "--out", str(out), "--num", "7", "--seed", "9"]) == 0
    read = list(load_source(str(out)).samples)
    drawn = draw_samples(task, 7, seed=9)
    assert hashes(read) == hashes(drawn)
    assert [(s.id, s.task, s.question, s.answer, s.meta) for s in read] == [
        (s.id, s.task, s.question, s.answer, s.meta) for s in drawn
    ]


def test_jsonl_has_relative_image_paths(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(["--task", "counting", "--out", str(out), "--num", "2", "--seed", "0"]) == 0
    paths = [json.loads(line)["images"][0] for line in out.read_text().splitlines()]
    assert all(path.startswith("rows_images/") and (tmp_path / path).is_file() for path in paths)


@pytest.mark.parametrize("task", TASKS)
def test_command_writes_published_columns(tmp_path: Path, task: str) -> None:
    out = tmp_path / "rows.parquet"
    words = ["--task", task, "--out", str(out), "--num", "5", "--seed", "9", "--format", "published"]
    assert main(words) == 0
    drawn = draw_samples(task, 5, seed=9)
    rows = datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == ["image", "problem", "solution"]
    assert rows[0]["image"].size == (84, 84)
    assert rows[0]["solution"] == f"<answer> {drawn[0].answer} </answer>"
    read = load_source({"path": str(out), "columns": PUBLISHED_COLUMNS}, task=task).samples
    assert [(s.question, s.answer) for s in read] == [(s.question, s.answer) for s in drawn]
    assert read_hashes(out) == set(hashes(drawn))


def test_command_excludes_files_of_every_format(tmp_path: Path) -> None:
    outs = [str(tmp_path / name) for name in ("a.parquet", "b.jsonl", "c.parquet", "d.parquet")]
    base = ["--task", "geometry", "--num", "40", "--seed", "1"]
    assert main([*base, "--out", outs[0]]) == 0
    assert main([*base, "--out", outs[1], "--exclude", outs[0]]) == 0
    assert main([*base, "--out", outs[2], "--exclude", *outs[:2], "--format", "published"]) == 0
    assert main([*base, "--out", outs[3], "--exclude", *outs[:3]]) == 0
    assert len(set().union(*map(read_hashes, outs))) == 160


def test_refuses_when_pictures_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [scenes.draw_geometry(generate.Random(number), 84) for number in range(5)]
    monkeypatch.setitem(scenes.DRAWERS, "geometry", lambda rng, size: rng.choice(few))
    with pytest.raises(ValueError, match=naming(4, 6, "geometry", 1)):
        draw_samples("geometry", 6, seed=0, exclude={hash_pixels(few[0].image)})


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--task", "chess"], ["--task", "chess"]),
        (["--num", "0"], ["--num", 0]),
        (["--num", "many"], ["--num", "many"]),
        (["--size", "20"], ["--size", 20]),
        (["--out", "rows.csv"], ["rows.csv", ".parquet", ".jsonl"]),
        (["--out", "rows.jsonl", "--format", "published"], ["rows.jsonl", ".parquet"]),
        (["--exclude", "missing.parquet"], ["missing.parquet"]),
        (["--exclude", "missing.jsonl"], ["missing.jsonl"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    named: list[str | int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["--task", "counting", "--out", "rows.parquet", "--num", "3", "--seed", "0"]
    assert main([*base, *words]) == 2
    error = capsys.readouterr().err
    assert lines_naming(error, *named), error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "rows.parquet")
    assert main(["--task", "counting", "--out", out, "--num", "1", "--seed", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_thousand_rows_are_quick() -> None:
    assert takes_less_than(10, lambda: draw_samples("grounding", 1000, seed=0))


@pytest.mark.parametrize("words", [[], ["--format", "published"], ["--out", "rows.jsonl"]])
def test_rows_are_written_as_they_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """So memory does not grow with ``--num``: when the last row is drawn, all but the last group are in the file."""
    monkeypatch.chdir(tmp_path)
    draw, written = scenes.DRAWERS["counting"], []

    def watch(rng: generate.Random, size: int) -> scenes.Scene:
        written.append(sum(path.stat().st_size for path in tmp_path.glob(".rows.*.partial")))
        return draw(rng, size)

    monkeypatch.setitem(scenes.DRAWERS, "counting", watch)
    command = ["--task", "counting", "--seed", "0", "--num", "550"]
    assert main([*command, *(words if "--out" in words else [*words, "--out", "rows.parquet"])]) == 0
    [whole] = [path.stat().st_size for path in tmp_path.iterdir() if path.is_file()]
    assert written[0] <= 4 and 0.6 * whole < written[-1] < whole
    assert not list(tmp_path.glob(".*"))


def test_geometry_does_not_run_out() -> None:
    assert len(set(hashes(draw_samples("geometry", 3000, seed=0)))) == 3000


def test_excluded_rows_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.parquet"
    words = ["--task", "counting", "--num", "3", "--seed"]
    assert main([*words, "0", "--out", str(rows)]) == 0
    before = rows.read_bytes()
    assert main([*words, "1", "--out", str(rows), "--exclude", str(rows)]) == 2
    assert "--out" in capsys.readouterr().err
    assert rows.read_bytes() == before


# --- videos ---


def draw_videos(path: Path, *more: str) -> list[Sample]:
    command = ["--task", "counting-video", "--out", str(path), "--num", "8", "--size", "56", *more]
    assert main(command) == 0
    return list(load_source(str(path)).samples)


def test_videos_show_what_their_rows_say(tmp_path: Path) -> None:
    """Each frame has fewer shapes than the answer says, or as many; somewhere there is a shape that another lacks."""
    for sample in draw_videos(tmp_path / "rows.jsonl", "--seed", "1"):
        load_task(sample.task).check(sample)
        video = open_video(sample.videos[0], FrameSampling())
        assert video.times.seconds == tuple(n / 2 for n in range(8))
        starts = [round(2 * seconds) for seconds in sample.meta["seconds"]]
        assert len(starts) == int(sample.answer)
        seen = [sum(start <= n < start + 3 for start in starts) for n in range(8)]
        dark = [int((numpy.asarray(frame) < 128).any(axis=2).sum()) for frame in video.frames]
        assert [number > 0 for number in dark] == [number > 0 for number in seen]


def test_seed_decides_videos_and_excluded_ones_are_not_drawn(tmp_path: Path) -> None:
    first, again, other = (
        [Path(str(each.videos[0])).read_bytes() for each in draw_videos(tmp_path / name / "rows.jsonl", *more)]
        for name, more in (
            ("a", ["--seed", "1"]), ("b", ["--seed", "1"]),
            ("c", ["--seed", "1", "--exclude", str(tmp_path / "a/rows.jsonl")]),
        )
    )  # fmt: skip
    assert first == again and len(set(first)) == 8 and not set(first) & set(other)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--out", "rows.parquet"], (".jsonl",)),
        (["--level", "2"], ("--level",)),
        (["--format", "published"], ("--format",)),
        (["--size", "85"], ("--size", 85)),
    ],
)
def test_what_videos_cannot_have_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--task", "counting-video", "--num", "1", "--seed", "1", "--out", "rows.jsonl", *more]) == 2
    assert len(lines_naming(capsys.readouterr().err, *named)) == 1
