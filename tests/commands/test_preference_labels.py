"""Labels of pairs: from a file, from scores, from somebody at the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from gpg_vl.commands.preference_labels import (
    FileLabels,
    KeptLabels,
    Preference,
    ScoreLabels,
    TerminalLabels,
    read_preferences,
)
from gpg_vl.records import Completion, Reward, Sample, ScoredGroup
from tests.support.builders import png
from tests.support.hostile_groups import group as make_group
from tests.support.messages import naming


def scored(*rewards: float, images: tuple[str | bytes, ...] = ()) -> ScoredGroup:
    prompt = make_group("", sample=Sample("row 1", "counting", images, "How many?", "4")).prompt
    completions = tuple(Completion((1,), f"answer {number}", finished=True) for number in range(len(rewards)))
    return ScoredGroup(prompt, completions, tuple(Reward(reward, {}, "ok") for reward in rewards))


def test_labels_from_scores() -> None:
    group = scored(1.0, 0.2, 1.0)
    assert [ScoreLabels().ask(group, *pair) for pair in ((0, 1), (1, 0), (0, 2))] == ["first", "second", "same"]


def test_labels_from_a_file_in_either_order() -> None:
    labels = FileLabels([Preference("row 1", "answer 0", "answer 1", "first")])
    group = scored(0, 0, 0)
    assert (labels.ask(group, 0, 1), labels.ask(group, 1, 0), labels.get(group, 0, 2)) == ("first", "second", None)


def test_the_last_of_several_labels_of_a_pair_counts_in_either_order() -> None:
    labels = FileLabels(
        [Preference("row 1", "answer 0", "answer 1", "first"), Preference("row 1", "answer 1", "answer 0", "first")]
    )
    group = scored(0, 0)
    assert (labels.ask(group, 0, 1), labels.ask(group, 1, 0)) == ("second", "first")


def test_labels_from_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no answer is asked for again; images that are no files become some."""
    monkeypatch.setattr("sys.stdin", io.StringIO("both\n2\n1\n0\n"))
    labels, group = TerminalLabels(tmp_path), scored(0, 0, images=("a.png", png(30, 20)))
    assert [labels.ask(group, 0, 1) for _ in range(3)] == ["second", "first", "same"]
    out = capsys.readouterr().out
    assert (
        "1: answer 0" in out and "2: answer 1" in out and "image: a.png" in out and group.prompt.sample.question in out
    )
    [image] = (tmp_path / "images").iterdir()
    assert f"image: {image}" in out and Image.open(image).size == (30, 20)
    with pytest.raises(ValueError, match=naming("input", "same command")):
        labels.ask(group, 0, 1)


def test_labels_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    path, group = tmp_path / "preferences.jsonl", scored(1.0, 0.2, 0.5)
    labels = KeptLabels(ScoreLabels(), path)
    assert [labels.ask(group, 0, 1), labels.ask(group, 2, 1)] == ["first", "first"]
    again = KeptLabels(FileLabels([]), path)  # which knows nothing itself
    assert [again.ask(group, 1, 0), again.ask(group, 2, 1)] == ["second", "first"]
    assert [json.loads(line)["preferred"] for line in path.read_text().splitlines()] == ["first", "first"]
    assert read_preferences(path)[0] == Preference("row 1", "answer 0", "answer 1", "first")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{", ("line 2",)),
        ('{"id": "a", "first": "x", "preferred": "first"}', ("line 2", "'second'")),
        ('{"id": 3, "first": "x", "second": "y", "preferred": "first"}', ("line 2", "'id'")),
        ('{"id": "a", "first": "x", "second": "y", "preferred": "both"}', ("line 2", "'both'", "same")),
    ],
)
def test_a_line_that_is_no_preference_is_named(tmp_path: Path, line: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f'{{"id": "a", "first": "x", "second": "y", "preferred": "same"}}\n{line}\n')
    with pytest.raises(ValueError, match=naming("labels.jsonl", *parts)):
        read_preferences(path)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming("--from", "gone.jsonl")):
        read_preferences(tmp_path / "gone.jsonl")
