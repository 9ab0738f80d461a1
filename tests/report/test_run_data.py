"""A run folder, read: what is there is shown, what is not a run is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.records import Reward
from gpg_vl.report import run_data
from gpg_vl.report.run_data import read_run
from tests.support.messages import naming
from tests.support.recorded_runs import scored_group, write_run


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    groups = [
        scored_group(["<answer>4</answer>", "<answer>5</answer>"], [1, 0]),
        scored_group(["<answer>4</answer>"] * 2, [1, 1], "s2"),
        scored_group(["x", "y"], [0, 0], "s3"),
    ]
    run = read_run(write_run(tmp_path / "mine", [0.1 * n for n in range(1, 21)], groups))
    assert (run.name, run.objective, run.num_steps) == ("mine", "gpg", 20)
    assert [(group["step"], group["kind"]) for group in run.groups] == [
        (step, kind) for step in (1, 10, 20) for kind in ("mixed", "easy", "hard")
    ]
    assert [group["num_answers"] for group in run.groups[:3]] == [2, 1, 1]
    assert run.tasks[0] == {
        "what": "reward",
        "name": "counting",
        "first": pytest.approx(0.15),
        "last": pytest.approx(1.95),
    }
    assert "objective" in run.recipe
    [uri] = run.images.values()
    assert uri.startswith("data:image/png;base64,")


def test_groups_without_signal_are_easy_or_hard_by_the_marks_of_the_task(tmp_path: Path) -> None:
    """As in metrics.jsonl: a reward for the format alone makes no group easy."""
    parts = {"easy": {"format": 0.0, "correct": 1.0}, "hard": {"format": 1.0, "correct": 0.0}, "none": {"format": 1.0}}
    rewards = {name: Reward(0.2, each, "ok") for name, each in parts.items()}
    groups = [replace(scored_group(["a", "b"], [0, 0], name), rewards=(each, each)) for name, each in rewards.items()]
    run = read_run(write_run(tmp_path, [0.5], groups))
    assert [(group["id"], group["kind"]) for group in run.groups] == [
        ("easy", "easy"), ("hard", "hard"), ("none", "hard"),
    ]  # fmt: skip


def test_a_run_without_a_record_is_shown_without_groups(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [0.5, 0.6]))
    assert run.groups == [] and run.charts


def test_evaluations_inside_and_named_ones_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [0.5])
    result = {"tasks": {"counting": {"metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}}
    for place in (folder / "held-out", tmp_path / "after"):
        place.mkdir()
        (place / "results.json").write_text(json.dumps(result))
    run = read_run(folder, [tmp_path / "after"])
    assert [(row["name"], row["value"], row["n"]) for row in run.evaluations] == [
        ("held-out", 0.5, 9),
        ("after", 0.5, 9),
    ]
    with pytest.raises(ValueError, match=naming(tmp_path / "none")):
        read_run(folder, [tmp_path / "none"])


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming(tmp_path, "run.output_dir")):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1')
    with pytest.raises(ValueError, match=naming(tmp_path / "metrics.jsonl")):
        read_run(tmp_path)


def test_lines_of_others_in_the_metrics(tmp_path: Path) -> None:
    """What is no step is left out; what is one, and is not a run's, is named."""
    folder = write_run(tmp_path / "run", [0.5, 0.6])
    metrics = folder / "metrics.jsonl"
    (folder / "recipe.yaml").write_bytes(b"\xff")
    whole = metrics.read_text()
    metrics.write_text(whole + '{"note": "hi\u2028there"}\n5\n\n{"step": "a"}\n')
    assert read_run(folder).num_steps == 2
    for line in ('{"step": 3, "parts": 5, "reward": 1}', '{"step": 3, "eval": [1]}', "{"):
        metrics.write_text(f"{whole}{line}\n")
        with pytest.raises(ValueError, match=naming(metrics)):
            read_run(folder)


def test_of_many_groups_whole_steps_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "MAX_GROUPS", 7)
    groups = [scored_group(["a", "b"], [0, 1], f"s{n}") for n in range(2)]
    steps = [group["step"] for group in read_run(write_run(tmp_path, [0.5] * 20, groups, every=2)).groups]
    assert len(steps) <= 7 and {steps[0], steps[-1]} == {1, 20}
    assert all(steps.count(step) == 2 for step in steps)
