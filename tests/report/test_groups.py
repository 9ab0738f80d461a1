"""Recorded groups as records, and as a notebook shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpg_vl.records import FrameList
from gpg_vl.report.groups import _group, read_groups
from gpg_vl.report.run_data import _data_uri
from gpg_vl.run.record import IMAGE_NAME
from tests.support.builders import png
from tests.support.recorded_runs import scored_group, write_run


def test_groups_are_those_of_the_record(tmp_path: Path) -> None:
    texts = ["<think></think><answer>[0, 0, 500, 500]</answer>", "none"]
    group = scored_group(texts, [1.0, 0.0], task="grounding", answer="[0, 0, 30, 20]")
    [read] = read_groups(write_run(tmp_path / "run", [0.5], [group]))
    assert (read.step, read.id, read.task, read.boxes, read.is_trained) == (
        1,
        "s1",
        "grounding",
        ((0, 0, 30, 20),),
        True,
    )
    right, wrong = read.completions
    assert (right.boxes, right.reward, right.parts, right.status) == (((0, 0, 30, 20),), 1.0, {"correct": 1.0}, "ok")
    assert (right.text, right.log_prob, right.advantage) == (texts[0], -1.0, 0.5)
    assert (wrong.boxes, wrong.answer, wrong.advantage) == ((), None, -0.5)
    assert [image.size for image in read.pictures()] == [(60, 40)]
    assert read_groups(tmp_path) == []


def test_a_notebook_shows_pictures_and_rewards_and_runs_nothing(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e"
    group = scored_group(
        [evil, evil], [1.0, 0.25], sample_id=evil, question=evil, answer=evil, images=(png(8, 8), b"no")
    )
    [read] = read_groups(write_run(tmp_path / "run", [0.5], [group]))
    shown = read._repr_html_()
    assert "1.00" in shown and "0.25" in shown and shown.count("data:image/png;base64,") == 1
    assert set(re.findall(r"<(\w+)", shown)) <= {"div", "p", "br", "b", "img", "table", "tr", "th", "td", "pre"}
    assert shown.count("<img") == 1 and "\x1b" not in shown and "\u202e" not in shown
    read.picture_files[0].unlink()
    assert "missing" in read._repr_html_()


def test_a_notebook_shows_frames_of_videos_with_their_times(tmp_path: Path) -> None:
    film = FrameList((png(20, 10), png(20, 10, 1)), fps=2)
    group = scored_group(["a", "b"], [1.0, 0.0], images=(), videos=(film,))
    [read] = read_groups(write_run(tmp_path / "run", [0.5], [group]))
    [video] = read.videos
    assert video.seconds == (0.0, 0.5) and all(path.is_file() for path in video.frame_files)
    shown = read._repr_html_()
    assert shown.count("data:image/png;base64,") == 2 and "0.00 s" in shown and "0.50 s" in shown


@pytest.mark.parametrize(
    "name", ['images/x.png" onerror="alert(1)', "../../secret.txt", "/etc/hostname", "images/../x"]
)
def test_a_record_names_pictures_of_its_own_alone(name: str) -> None:
    assert IMAGE_NAME.fullmatch(name) is None
    row = {"step": 1, "id": "s", "task": "t", "question": "q", "answer": "a", "boxes": [], "is_trained": True}
    pictures = {"images": [{"file": name}], "videos": [{"frames": [{"file": name, "seconds": 0.0}]}]}
    group = _group({**row, **pictures, "completions": []}, Path("/run/record"))
    assert (
        group.picture_files == () and group.videos[0].frame_files == () and _data_uri(Path("/run/record"), name) is None
    )
