"""The table's intervals against scipy and the textbook formulas; what was not measured says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from scipy import stats

from eval.command import run
from eval.superclevr import BENCHMARK
from eval.table import main, make_tables, read_runs

PUBLISHED = 82.5  # of superclevr under grpo


def evaluate(folder: Path, answers: list[int], gold: int = 3) -> None:
    """The results of a run that answered this."""
    rows = [{"completion": f"<answer> {answer} </answer>", "answer": str(gold)} for answer in answers]
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(BENCHMARK, ["--completions", str(folder / "rows.jsonl"), "--out", str(folder / "eval")]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_difference_and_its_interval_are_those_of_scipy(seed: int, tmp_path: Path) -> None:
    rng = numpy.random.default_rng(seed)
    n = int(rng.integers(20, 200))
    answers = rng.integers(2, 5, n).tolist()
    evaluate(tmp_path / "run", answers)
    paper: dict[str, Any] = {"superclevr": {"source": "", "methods": {"grpo": {"Accuracy": PUBLISHED}}}}
    [row] = make_tables(read_runs([f"grpo={tmp_path / 'run'}"]), paper)["superclevr"]
    k = answers.count(3)
    wilson = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    value, low, high = 100 * k / n, 100 * wilson.low, 100 * wilson.high
    shown = f"{value:.2f} [{low:.1f}, {high:.1f}]"
    difference = f"{value - PUBLISHED:+.2f} [{low - PUBLISHED:+.1f}, {high - PUBLISHED:+.1f}]"
    assert row[:7] == ("Accuracy", "grpo", "82.50", shown, difference, shown, f"{n} of 200")


def test_dropped_rows_and_failures_of_the_published_metric_stand_beside_the_rows(tmp_path: Path) -> None:
    evaluate(tmp_path / "run", [3] * 190)
    file = tmp_path / "run/eval/results.json"
    results = json.loads(file.read_text())
    results["num_rows"]["test"]["dropped"] = 10
    results["tasks"]["counting"]["num_legacy_failures"] = 2
    file.write_text(json.dumps(results))
    [row] = make_tables(read_runs([str(tmp_path / "run")]), {})["superclevr"]
    assert row[6] == "200, 10 dropped, 2 legacy failures"


def test_what_was_not_measured_says_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a run every figure of the paper stands alone; no cell is empty, in the terminal and in the Markdown."""
    assert main(["--out", str(tmp_path / "table.md")]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines if not line.startswith(("| figure", "| ---"))]
    assert len(rows) == 20 + 12 + 20 + 3 + 2
    assert all(row[3:] == ["not run"] * 5 for row in rows)
    assert all(all(row) for row in rows)
    assert printed.count("not run") == 5 * len(rows)
