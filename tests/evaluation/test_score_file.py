from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.cli import main
from gpg_vl.config import Recipe, RewardsConfig
from gpg_vl.evaluation.score_file import score_file
from gpg_vl.preflight.sources import load_sources
from tests.support.builders import png
from tests.support.messages import lines_naming, naming
from tests.support.shared_data import shared_file

LOGS = {
    "counting_results_superclevr_200_qwen2vl_2b_instruct_legacy.json": 0.48,
    "counting_results_superclevr_200_qwen2vl_2b_instruct_grpo100_legacy.json": 0.825,
}
GOOD = "<think></think><answer>4</answer>"


def write_rows(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["score", *words]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


# --- published logs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("scorer", ["legacy", "strict"])
def test_published_figures(name: str, scorer: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared_file(name)
    summary = run(capsys, "--task", "counting", "--scorer", scorer, "--predictions", str(path))
    assert summary["n"] == 200
    assert summary["accuracy"] == LOGS[name]


@pytest.mark.parametrize("name", LOGS)
def test_both_scorers_agree_on_every_published_output(name: str, tmp_path: Path) -> None:
    rows = {}
    for scorer in ("strict", "legacy"):
        out = tmp_path / f"{scorer}.jsonl"
        score_file("counting", shared_file(name), scorer, out)  # type: ignore[arg-type]
        rows[scorer] = [json.loads(line)["metric"] for line in out.read_text().splitlines()]
    assert rows["strict"] == rows["legacy"]


def test_every_geoqa_gold_is_right_under_strict(tmp_path: Path) -> None:
    golds = [
        json.loads(line)["ground_truth"] for line in shared_file("geoqa_test_prompts.jsonl").read_text().splitlines()
    ]
    for template in ("<answer>{}</answer>", "<answer> {} </answer>"):
        rows = [{"completion": template.format(gold), "answer": gold} for gold in golds]
        assert score_file("geometry", write_rows(tmp_path, *rows))["accuracy"] == 1.0


def test_geoqa_golds_under_legacy_are_the_published_counts(tmp_path: Path) -> None:
    """61 of 754 without spaces, 737 with: math-verify reads a number after a space alone, and no roots."""
    golds = [
        json.loads(line)["ground_truth"] for line in shared_file("geoqa_test_prompts.jsonl").read_text().splitlines()
    ]
    for template, count in (("<answer>{}</answer>", 61), ("<answer> {} </answer>", 737)):
        rows = [{"completion": template.format(gold), "answer": gold} for gold in golds]
        assert score_file("geometry", write_rows(tmp_path, *rows), "legacy")["accuracy"] == count / 754


def test_answers_in_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"completion": "<think>3 or \\boxed{3}?</think>So it is \\boxed{4}.", "answer": "4"},
        {"completion": "<think></think>\\boxed{5}", "answer": "4"},
        {"completion": GOOD, "answer": "4"},
    ]
    path = str(write_rows(tmp_path, *rows))
    out = tmp_path / "scored.jsonl"
    boxed = run(capsys, "--task", "counting", "--predictions", path, "--answer-in", "boxed", "--out", str(out))
    assert (boxed["accuracy"], boxed["parts"]["format"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert [json.loads(line)["metric"] for line in out.read_text().splitlines()] == [1, 0, 0]
    tags = run(capsys, "--task", "counting", "--predictions", path, "--answer-in", "tags")
    assert tags == run(capsys, "--task", "counting", "--predictions", path)
    assert (tags["accuracy"], tags["parts"]["format"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_published_scorers_know_no_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_rows(tmp_path, {"completion": GOOD, "answer": "4"}))
    assert (
        main(["score", "--task", "counting", "--predictions", path, "--answer-in", "boxed", "--scorer", "legacy"]) == 2
    )
    assert re.search(naming("--answer-in", "--scorer"), capsys.readouterr().err)


# --- what it prints and writes ----------------------------------------------------------------------------------------


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"completion": GOOD, "answer": "4"},
        {"completion": GOOD, "answer": "<answer> 5 </answer>", "image": "not/there.png"},
        {"completion": "4", "answer": 4},
        {"completion": "<answer>4</answer>", "answer": "<answer>4</answer>"},
    ]
    out = tmp_path / "scored.jsonl"
    path = write_rows(tmp_path, *rows)
    assert main(["score", "--task", "counting", "--predictions", str(path), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "task": "counting",
        "scorer": "strict",
        "n": 4,
        "reward_mean": pytest.approx((1.2 + 0.2 + 0 + 1) / 4),
        "metric": "accuracy",
        "accuracy": 0.5,
        "parts": {"correct": 0.5, "format": 0.5},
        "status": {"ok": 3, "unparsable": 1},
    }
    assert lines_naming(captured.err, 1, "image") == captured.err.splitlines(), "one line, and no other"
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    assert scored[0] == {
        **rows[0],
        "reward": 1.2,
        "parts": {"correct": 1.0, "format": 1.0},
        "status": "ok",
        "metric": 1.0,
    }
    assert [row["status"] for row in scored] == ["ok", "ok", "unparsable", "ok"]


def test_boxes_are_original_pixels_unless_the_row_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(200, 100))
    gold = {"answer": "[20, 10, 100, 50]"}
    rows = [
        {**gold, "completion": "<answer>[20, 10, 100, 50]</answer>"},
        {
            **gold,
            "completion": "<answer>[100, 100, 500, 500]</answer>",
            "frame": "grid_1000",
            "width": 200,
            "height": 100,
        },
        {
            **gold,
            "completion": "<answer>[10, 10, 50, 50]</answer>",
            "frame": "resized_pixels",
            "image": str(tmp_path / "a.png"),
            "model_width": 100,
            "model_height": 100,
        },
        {
            **gold,
            "completion": "<answer><loc0102><loc0102><loc0512><loc0512></answer>",
            "frame": "loc_1024",
            "width": 200,
            "height": 100,
        },
    ]
    assert score_file("grounding", write_rows(tmp_path, *rows))["miou"] == pytest.approx(1)
    outside = {**gold, "completion": "<answer>[20, 10, 300, 50]</answer>", "image": str(tmp_path / "a.png")}
    assert score_file("grounding", write_rows(tmp_path, outside))["status"] == {"unparsable": 1}
    legacy = {**gold, "completion": "<think></think><answer>(20,10),(100,50)</answer>"}
    assert score_file("grounding", write_rows(tmp_path, legacy), "legacy")["parts"] == {"accuracy": 2.0, "format": 1.0}


def test_options_reach_the_task_as_columns(tmp_path: Path) -> None:
    row = {"completion": "<answer>(b)</answer>", "answer": "right", "options": ["left", "right"]}
    assert score_file("choice", write_rows(tmp_path, row))["accuracy"] == 1


OWN_TASK = """
from gpg_vl.tasks.base import Task

class Colour(Task):
    name = "colour"

    def ask(self, sample, views):
        return sample.question

    def read(self, answer, sample, views):
        return answer

    def score(self, answer, sample, views):
        return {"correct": {"red": 1.0, "pink": 0.0}[answer]}
"""


def test_task_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "colour.py").write_text(OWN_TASK)
    path = write_rows(
        tmp_path, *({"completion": f"<answer>{c}</answer>", "answer": "red"} for c in ("red", "pink", "blue"))
    )
    task = f"{tmp_path}/colour.py:Colour"
    summary = run(capsys, "--task", task, "--predictions", str(path))
    assert summary["status"] == {"ok": 2, "error": 1}
    assert summary["accuracy"] == pytest.approx(1 / 3)
    assert main(["score", "--task", task, "--predictions", str(path), "--scorer", "legacy"]) == 2
    assert lines_naming(capsys.readouterr().err, "colour", "scorer")


HOSTILE = Path(__file__).parents[1] / "support/hostile_rewards.py"


def test_what_a_task_does_costs_its_row_alone(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = RewardsConfig(timeout_s=1.0, memory_mb=64)
    monkeypatch.setattr("gpg_vl.evaluation.score_file.RewardsConfig", lambda: limits)
    actions = ("right", "busy", "exit", "print", "memory", "crash")
    path = write_rows(tmp_path, *({"completion": f"<answer>{action}</answer>", "answer": "4"} for action in actions))
    assert main(["score", "--task", f"{HOSTILE}:Hostile", "--predictions", str(path)]) == 0
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert summary["status"] == {"ok": 2, "timeout": 1, "error": 3}
    assert summary["accuracy"] == pytest.approx(2 / 6)
    assert lines_naming(caplog.text, 4, "row 2", "timeout", 1)

    monkeypatch.setattr("gpg_vl.evaluation.score_file.PUBLISHED_TIMEOUT_S", 1.0)
    legacy = score_file(f"{HOSTILE}:HostileMetric", path, "legacy")
    assert legacy["status"] == {"ok": 2, "timeout": 1, "error": 3}
    assert legacy["reward_mean"] == legacy["accuracy"] == pytest.approx(2 / 6)


def test_byte_order_mark_nan_and_half_surrogates(tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    row = '{"completion": "<answer>4</answer>", "answer": 4, "a": NaN, "b": [1e999, 1.5], "c": "\\ud800 é"}'
    path.write_text(row, encoding="utf-8-sig")
    assert score_file("counting", path, out=out)["accuracy"] == 1

    def refuse(word: str) -> None:
        raise AssertionError(word)

    scored = json.loads(out.read_text(encoding="utf-8"), parse_constant=refuse)
    assert (scored["a"], scored["b"], scored["c"]) == (None, [None, 1.5], "\ud800 é")


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"completion": "x", "answer": "four"}', ["row 1", "answer", "four"]),
        ('{"completion": "x"}', ["row 1", "answer", "completion"]),
        ('{"answer": "4"}', ["row 1", "completion", "answer"]),
        ('{"completion": 4, "answer": "4"}', ["row 1", "completion"]),
        ('{"completion": "x", "answer": "4"}\nnot json', ["line 2", "JSON"]),
        ("[3]", ["row 1", "int"]),
        ('{"results": []}', []),
        ("", []),
        ('{"completion": "x", "answer": "4", "frame": "cm"}', ["row 1", "cm", "original_pixels"]),
        ('{"completion": "x", "answer": "4", "frame": "grid_1000"}', ["row 1", "grid_1000", "width", "height"]),
        ('{"completion": "x", "answer": "4", "width": -1, "height": 2}', ["row 1", "width", "height"]),
    ],
)
def test_mistakes_are_one_line(text: str, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert main(["score", "--task", "counting", "--predictions", str(path)]) == 2
    captured = capsys.readouterr()
    assert lines_naming(captured.err, "rows.jsonl", *named) == captured.err.splitlines()
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_no_such_file_or_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path, {"completion": GOOD, "answer": "4"})
    assert main(["score", "--task", "counting", "--predictions", str(tmp_path / "none.jsonl")]) == 2
    assert lines_naming(capsys.readouterr().err, "none.jsonl")
    assert main(["score", "--task", "countin", "--predictions", str(path)]) == 2
    assert lines_naming(capsys.readouterr().err, "countin", "counting")


@pytest.mark.parametrize(("answer", "cause"), [("row", ["KeyError", "colour"]), ("exit", ["SystemExit", "enough"])])
def test_check_that_raises_is_one_line(
    answer: str, cause: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path, {"completion": GOOD, "answer": "4"}, {"completion": GOOD, "answer": answer})
    task = f"{HOSTILE}:RaisingCheck"
    assert main(["score", "--task", task, "--predictions", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert lines_naming(captured.err, "gpg-vl score", path, "row 2", task, *cause) == captured.err.splitlines()[-1:]
    rows = tmp_path / "train.jsonl"
    (tmp_path / "a.png").write_bytes(png(8, 8))
    rows.write_text(json.dumps({"id": "a", "images": ["a.png"], "question": "What?", "answer": answer}))
    with pytest.raises(ValueError, match=naming("train.jsonl", "row 1", task, *cause)):
        load_sources([str(rows)], Recipe(task=task), "data.train")


def test_out_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path, {"completion": GOOD, "answer": "4"})
    before = path.read_text()
    (tmp_path / "link.jsonl").hardlink_to(path)
    for out, named in (
        (tmp_path / "none/scored.jsonl", ["No such file or directory"]),
        (tmp_path, ["Is a directory"]),
        (path, ["--predictions"]),
        (tmp_path / "link.jsonl", ["--predictions"]),
    ):
        words = ["--task", "no such task", "--predictions", str(path), "--out", str(out)]
        assert main(["score", *words]) == 2
        assert lines_naming(capsys.readouterr().err, "--out", out, *named)
    assert path.read_text() == before
    assert main(["score", "--task", "countin", "--predictions", str(path), "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
