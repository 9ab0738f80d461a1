"""The table's intervals against scipy and the textbook formulas; what was not measured says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from scipy import stats

from eval import fine_grained
from eval.command import run
from eval.superclevr import BENCHMARK
from eval.table import main, make_tables, read_runs
from gpg_vl.evaluation.scores import estimate, mean_of
from tests.support.messages import lines_naming

PUBLISHED = 82.5  # of superclevr under grpo


def evaluate(folder: Path, answers: list[int], *words: str) -> None:
    """The results of a run that answered this where 3 is right."""
    rows = [{"completion": f"<answer> {answer} </answer>", "answer": "3"} for answer in answers]
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ["--completions", str(folder / "rows.jsonl"), "--out", str(folder / "eval")]
    assert run(BENCHMARK, [*named, *words]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_difference_and_its_interval_are_those_of_scipy(seed: int, tmp_path: Path) -> None:
    rng = numpy.random.default_rng(seed)
    n = 200
    answers = rng.integers(2, 3 + int(rng.integers(1, 4)), n).tolist()
    evaluate(tmp_path / "run", answers)
    paper: dict[str, Any] = {"superclevr": {"source": "", "methods": {"grpo": {"Accuracy": PUBLISHED}}}}
    [row] = make_tables(read_runs([f"grpo={tmp_path / 'run'}"]), paper)["superclevr"]
    k = answers.count(3)
    wilson = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    value, low, high = 100 * k / n, 100 * wilson.low, 100 * wilson.high
    shown = f"{value:.2f} [{low:.1f}, {high:.1f}]"
    difference = f"{value - PUBLISHED:+.2f} [{low - PUBLISHED:+.1f}, {high - PUBLISHED:+.1f}]"
    assert row[:7] == ("Accuracy", "grpo", "82.50", shown, difference, shown, "200")


def test_dropped_rows_and_failures_of_the_published_metric_stand_beside_the_rows(tmp_path: Path) -> None:
    evaluate(tmp_path / "run", [3] * 200)
    file = tmp_path / "run/eval/results.json"
    results = json.loads(file.read_text())
    results["figures"]["Accuracy"]["rows"] |= {"dropped": 10, "without_image": 1, "legacy_failures": 2}
    file.write_text(json.dumps(results))
    [row] = make_tables(read_runs([str(tmp_path / "run")]), {})["superclevr"]
    assert row[6] == "200, 10 dropped, 1 without image, 2 legacy failures"


def test_other_rows_are_not_compared_and_a_note_stands_beside_the_run(tmp_path: Path) -> None:
    evaluate(tmp_path / "run", [3] * 4, "--note", "a trial")
    paper: dict[str, Any] = {"superclevr": {"source": "", "methods": {"gpg": {"Accuracy": PUBLISHED}}}}
    [published, row] = make_tables(read_runs([f"gpg-official={tmp_path / 'run'}"]), paper)["superclevr"]
    assert published[:4] == ("Accuracy", "gpg", "82.50", "not run")
    assert row[:3] == ("Accuracy", "gpg-official", "82.50")
    assert (row[4], row[6], row[7]) == ("other rows", "4 of 200", f"{tmp_path / 'run/eval'} (a trial)")


def test_average_of_four_sets_of_a_model_each(tmp_path: Path) -> None:
    """The mean of what was measured, with its interval; nothing while a set is missing or there are two of one."""
    right = {"flowers": 3, "pets": 1, "aircraft": 4, "cars": 0}
    shown = {}
    for name, num in right.items():
        rows = [
            {"completion": f"<answer>{'rose' if n < num else 'tulip'}</answer>", "answer": "rose"} for n in range(4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["--completions", str(tmp_path / f"{name}.jsonl"), "--split", name, "--note", "a trial"]
        assert run(fine_grained.BENCHMARK, [*words, "--out", str(tmp_path / "runs" / name)]) == 0
        table = make_tables(read_runs([str(tmp_path / "runs")]), {})["fine_grained"]
        shown = {row[0]: row for row in table}
        assert ("Average" in shown) == (name == "cars")
    expected = mean_of([estimate([1.0] * num + [0.0] * (4 - num)) for num in right.values()])
    assert expected.low is not None and expected.high is not None
    assert shown["Average"][5] == f"50.00 [{100 * expected.low:.1f}, {100 * expected.high:.1f}]"
    assert shown["Average"][6:] == ("16 of 17506", "the four below (a trial)")
    twice = read_runs([str(tmp_path / "runs"), str(tmp_path / "runs/pets")])
    assert "Average" not in {row[0] for row in make_tables(twice, {})["fine_grained"]}


def test_results_that_are_none_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, named in (
        ("{", ["JSON"]),
        ('{"figures": {"Accuracy": {"strict": null}}}', ["version"]),
        ("[]", []),
        ('{"tasks": {}}', []),
    ):
        (tmp_path / "results.json").write_text(content)
        assert main([str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert lines_naming(error, tmp_path, "results.json", *named) and error.count("\n") == 1, error


def test_what_was_not_measured_says_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a run every figure of the paper stands alone; no cell is empty, in the terminal and in the Markdown."""
    assert main(["--out", str(tmp_path / "results.json")]) == 2, "a file of an evaluation"
    assert main(["--out", str(tmp_path / "table.md")]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines if not line.startswith(("| figure", "| ---"))]
    assert len(rows) == 20 + 12 + 20 + 3 + 2
    assert all(row[3:] == ["not run"] * 5 for row in rows)
    assert all(all(row) for row in rows)
    assert printed.count("not run") == 5 * len(rows)
