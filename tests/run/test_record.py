"""What a run keeps for its report: complete, in original pixels, of bounded size, and whole after a kill."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import datasets
import numpy
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
from PIL import Image

from gpg_vl.config import ObjectiveConfig, RecordConfig
from gpg_vl.objectives import build_objective
from gpg_vl.records import FrameList
from gpg_vl.run.record import Record, read_record
from tests.support.builders import png
from tests.support.messages import naming
from tests.support.recorded_runs import collected, make_record, recipe_of, scored_group
from tests.support.videos import Clip, decode, mp4

WITH_BOXES = "<think>left</think><answer>[500, 250, 1000, 1000]</answer>"


def test_a_group_is_kept_with_all_that_was_said_of_it(tmp_path: Path) -> None:
    group = scored_group([WITH_BOXES, "no tags"], [0.75, 0.25], answer="[30, 10, 60, 40]", task="grounding")
    silent = scored_group(["<answer>4</answer>"] * 2, [1.0, 1.0], sample_id="s2")
    make_record(tmp_path).write(10, collected([group], dropped=[silent]))
    first, second = read_record(tmp_path)
    assert (first["step"], first["id"], first["boxes"], first["is_trained"]) == (10, "s1", [[30, 10, 60, 40]], True)
    one, other = first["completions"]
    assert one["boxes"] == [[30.0, 10.0, 60.0, 40.0]], "in original pixels"
    assert (one["answer"], one["reward"], one["advantage"], one["log_prob"]) == (
        "[500, 250, 1000, 1000]",
        0.75,
        0.25,
        -1,
    )
    assert one["parts"] == [{"name": "correct", "value": 0.75}] and one["num_tokens"] == 3
    assert (other["answer"], other["boxes"], other["advantage"]) == (None, [], -0.25)
    assert [each["advantage"] for each in second["completions"]] == [None, None], "not trained"
    [image] = first["images"]
    assert (image["width"], image["height"]) == (60, 40)
    assert Image.open(tmp_path / "record" / image["file"]).size == (60, 40)


@pytest.mark.parametrize("name", ["rloo", "rebel", "grpo"])
def test_advantages_that_the_update_does_not_use_are_not_kept(tmp_path: Path, name: str) -> None:
    """With a KL in the reward they depend on log-probs; GRPO's KL stands beside them."""
    for coefficient in (0.0, 0.1):
        recipe = replace(recipe_of(tmp_path), objective=ObjectiveConfig(name=name, kl_coefficient=coefficient))
        objective = build_objective(recipe.objective, 8)
        group = scored_group(["a", "b"], [0.75, 0.25])
        Record(recipe, objective, 0, is_main=True).write(10, collected([group]))
        [row] = read_record(tmp_path)
        found = [each["advantage"] for each in row["completions"]]
        is_in_reward = coefficient > 0 and name != "grpo"
        assert row["is_trained"] and found == ([None, None] if is_in_reward else objective.advantages(group))


def test_a_picture_is_kept_once_by_its_content(tmp_path: Path) -> None:
    record = make_record(tmp_path, every=1)
    for step in (1, 2):
        record.write(
            step, collected([scored_group(["a", "b"], [0, 1], f"s{n}", images=(png(60, 40, n % 2),)) for n in range(4)])
        )
    images = list((tmp_path / "record/images").iterdir())
    assert len(images) == 2
    assert all(hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() == path.stem for path in images)


def test_some_frames_of_a_video_are_kept_with_their_times(tmp_path: Path) -> None:
    """Of 21 frames in 10 s the model sees all; those of a second video are images, and a third is gone."""
    film = mp4(Clip(400, 100, 21, 2))
    still = FrameList((png(60, 40), png(60, 40, 1)), fps=4)
    group = scored_group(["a", "b"], [0, 1], images=(), videos=(film, still, str(tmp_path / "gone.mp4")))
    make_record(tmp_path).write(1, collected([group]))
    [row] = read_record(tmp_path)
    first, second, third = row["videos"]
    assert (first["width"], first["height"], first["num_frames"]) == (400, 100, 21)
    assert [frame["seconds"] for frame in first["frames"]] == [0, 1.5, 3, 4.5, 5.5, 7, 8.5, 10]
    [size] = {Image.open(tmp_path / "record" / frame["file"]).size for frame in first["frames"]}
    assert size == (256, 64)
    shown = Image.open(tmp_path / "record" / first["frames"][3]["file"]).convert("RGB").resize((40, 10))
    seen = Image.fromarray(decode(film)[9].permute(1, 2, 0).numpy()).resize((40, 10))
    assert float(numpy.abs(numpy.asarray(shown, int) - numpy.asarray(seen, int)).mean()) < 10
    assert [frame["seconds"] for frame in second["frames"]] == [0, 0.25]
    assert third == {"width": None, "height": None, "num_frames": None, "frames": []}


def test_frames_count_towards_the_size_of_the_record(tmp_path: Path) -> None:
    record = make_record(tmp_path, every=1, max_megabytes=1)
    noise = numpy.random.default_rng(0)
    for step in filter(record.is_due, range(1, 25)):
        frames = [noise.integers(0, 255, (150, 150, 3), dtype=numpy.uint8) for _ in range(4)]
        paths = [tmp_path / f"{step}-{n}.png" for n in range(4)]
        for path, pixels in zip(paths, frames, strict=True):
            Image.fromarray(pixels).save(path)
        film = FrameList(tuple(map(str, paths)))
        record.write(step, collected([scored_group(["a", "b"], [0, 1], images=(), videos=(film,))]))
    rows = read_record(tmp_path)
    assert 1 < len(rows) < 24
    kept = {f"images/{path.name}" for path in (tmp_path / "record/images").iterdir()}
    assert kept == {frame["file"] for row in rows for video in row["videos"] for frame in video["frames"]}


def test_a_record_of_before_videos_is_read(tmp_path: Path) -> None:
    make_record(tmp_path).write(1, collected([scored_group(["a", "b"], [0, 1])]))
    path = tmp_path / "record/000001.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns("videos"), path)
    assert read_record(tmp_path)[0]["videos"] == []


def test_a_picture_that_cannot_be_opened_is_missing_and_no_more(tmp_path: Path) -> None:
    make_record(tmp_path).write(1, collected([scored_group(["a", "b"], [0, 1], images=(str(tmp_path / "gone.png"),))]))
    assert read_record(tmp_path)[0]["images"] == [{"file": None, "width": None, "height": None}]


@pytest.mark.parametrize(("every", "due"), [(10, [1, 10, 20]), (1, list(range(1, 26))), (0, []), (7, [1, 7, 14, 21])])
def test_which_steps_are_recorded(tmp_path: Path, every: int, due: list[int]) -> None:
    record = make_record(tmp_path, every=every)
    assert [step for step in range(1, 26) if record.is_due(step)] == due


def test_the_record_has_a_bounded_size(tmp_path: Path) -> None:
    """Beyond it, steps are given up evenly, with the pictures that no other step shows."""
    record = make_record(tmp_path, every=1, max_megabytes=1)
    for step in filter(record.is_due, range(1, 41)):
        path = tmp_path / f"{step}.png"
        Image.frombytes("RGB", (150, 150), os.urandom(150 * 150 * 3)).save(path)
        record.write(step, collected([scored_group(["a", "b"], [0, 1], images=(str(path),))]))
    size = sum(path.stat().st_size for path in (tmp_path / "record").rglob("*") if path.is_file())
    assert size <= 2**20
    rows = read_record(tmp_path)
    steps = [row["step"] for row in rows]
    [distance] = {later - earlier for earlier, later in pairwise(steps[1:])}
    assert steps[0] == 1 and distance in (2, 4, 8, 16) and steps[-1] > 40 - distance
    kept = {path.name for path in (tmp_path / "record/images").iterdir()}
    assert kept == {image["file"].removeprefix("images/") for row in rows for image in row["images"]}


def test_what_an_earlier_process_recorded_of_later_steps_goes(tmp_path: Path) -> None:
    record = make_record(tmp_path, every=5)
    for step in (1, 5, 10, 15):
        record.write(step, collected([scored_group(["a", "b"], [0, 1])]))
    make_record(tmp_path, first_step=10, every=5)
    assert [row["step"] for row in read_record(tmp_path)] == [1, 5, 10]


def test_datasets_reads_it(tmp_path: Path) -> None:
    make_record(tmp_path).write(10, collected([scored_group([WITH_BOXES, "b"], [0, 1])]))
    rows = datasets.Dataset.from_parquet(str(tmp_path / "record/000010.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows[0]["completions"][0]["text"] == WITH_BOXES


def test_text_that_is_no_text_is_kept_as_far_as_it_is(tmp_path: Path) -> None:
    make_record(tmp_path).write(1, collected([scored_group(["half \ud83d a pair", "\x00 nul"], [0, 1])]))
    assert [each["text"] for each in read_record(tmp_path)[0]["completions"]] == ["half \\ud83d a pair", "\x00 nul"]


def test_a_killed_process_loses_the_step_under_way_alone(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover
        record = make_record(tmp_path, every=1)
        for step in range(1, 10_000):
            record.write(step, collected([scored_group(["a", "b"], [0, 1])]))
        os._exit(0)
    while len(list((tmp_path / "record").glob("*.parquet"))) < 5:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    steps = [row["step"] for row in read_record(tmp_path)]
    assert len(steps) >= 5 and steps == list(range(1, len(steps) + 1))


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "record").write_text("no folder")
    record = make_record(tmp_path, every=1)
    for step in (1, 2):
        record.write(step, collected([scored_group(["a", "b"], [0, 1])]))
    [line] = capsys.readouterr().err.splitlines()
    assert "the run goes on" in line


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    make_record(tmp_path).write(10, collected([scored_group(["a", "b"], [0, 1])]))
    path = tmp_path / "record/000010.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=naming(path)):
        read_record(tmp_path)


@pytest.mark.parametrize("keys", [{"every": -1}, {"max_megabytes": 0}])
def test_impossible_keys_are_refused(keys: dict[str, int]) -> None:
    [key] = keys
    with pytest.raises(ValueError, match=naming(f"run.record.{key}")):
        RecordConfig(**keys)
