"""Rows that a conversion dropped: listed, said, and wrong in every figure."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from eval import cvbench, fine_grained, geoqa, lisa, refcoco, superclevr
from eval.benchmark import Benchmark
from eval.command import run
from eval.dropped import read_dropped
from gpg_vl.evaluation.predictions import DROPPED
from tests.support.benchmark_rows import BOX, LIMITS, SHAPES, write_rows
from tests.support.messages import lines_naming

CASES = [
    (geoqa.BENCHMARK, "test", {}, {"task": "geometry", "answer": "65°"}, "Accuracy"),
    (superclevr.BENCHMARK, "test", {}, {"task": "counting"}, "Accuracy"),
    (cvbench.BENCHMARK, "test", {"benchmark_task": "Count", "choices": ["x", "y"]},
     {"task": "choice", "answer": "(A)"}, "Total"),
    (lisa.BENCHMARK, "val", SHAPES, {"task": "grounding", **BOX}, "mIoU val"),
    (refcoco.BENCHMARK, "testA", {}, {"task": "grounding", **BOX}, "acc@0.5 testA"),
    (fine_grained.BENCHMARK, "pets", {}, {"task": "classification", "answer": "rose"}, "Pets37"),
]  # fmt: skip


def write_counts(rows: Path, written: int, dropped: int) -> None:
    listed = [f"source.parquet, row {n}: an image cannot be opened" for n in range(dropped)]
    counts = {"rows_written": written, "dropped": {"an image cannot be opened": dropped}, "dropped_rows": listed}
    rows.with_suffix(".counts.json").write_text(json.dumps(counts))


@pytest.mark.parametrize(("benchmark", "split", "meta", "values", "figure"), CASES, ids=lambda each: str(each)[:24])
def test_dropped_rows_are_listed_and_wrong(
    benchmark: Benchmark, split: str, meta: dict[str, object], values: dict[str, str], figure: str,
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = tmp_path / f"{split}.jsonl"
    write_rows(rows, 2, [meta], **values)
    write_counts(rows, 2, 24)
    words = ["--model", str(model_folders["qwen2_vl"]), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run(benchmark, [*words, *LIMITS]) == 0
    error = capsys.readouterr().err
    assert lines_naming(error, 24, split) and lines_naming(error, "source.parquet", "row 0")
    assert lines_naming(error, 4, "results.json")
    size = benchmark.splits[split]
    assert lines_naming(error, "note", split, 2, 24, size)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["num_rows"] == {split: {"num": 2, "dropped": 24, "published": size}}
    assert len(results["rows_dropped"]) == 24
    assert [results["figures"][figure][scorer]["n"] for scorer in ("strict", "legacy")] == [26, 26]
    [score] = results["tasks"].values()
    assert (score["n"], score["status"][DROPPED]) == (26, 24)
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2


def test_dropped_rows_of_a_whole_benchmark_have_their_categories(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rows and dropped ones make up the published number, each category's own number says what is missing."""
    sizes = {"Count": 3, "Relation": 2, "Depth": 1, "Distance": 1}
    monkeypatch.setitem(cvbench.BENCHMARK.splits, "test", 7)  # type: ignore[attr-defined]
    for name, size in sizes.items():
        monkeypatch.setitem(cvbench.CATEGORIES, name, size)
    metas = [{"benchmark_task": name, "choices": ["x", "y"]} for name in ("Count", "Relation", "Depth")]
    write_rows(tmp_path / "test.jsonl", 3, metas, task="choice", answer="(A)")
    write_counts(tmp_path / "test.jsonl", 3, 4)
    words = ["--model", str(model_folders["qwen2_vl"]), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run(cvbench.BENCHMARK, [*words, *LIMITS]) == 0
    assert not lines_naming(capsys.readouterr().err, "note")
    figures = json.loads((tmp_path / "out/results.json").read_text())["figures"]
    assert {name: figure["strict"]["n"] for name, figure in figures.items()} == {"Total": 7, **sizes}


def test_counts_of_other_rows_are_passed_over(tmp_path: Path) -> None:
    rows = tmp_path / "test.parquet"
    assert read_dropped(rows, 2).num == 0
    write_counts(rows, 3, 4)
    assert (read_dropped(rows, 3).num, read_dropped(rows, 2).num) == (4, 0)
    assert lines_naming(read_dropped(rows, 2).note, "test.counts.json", 2)
    for content in ("", "[]", "{}", '{"rows_written": 2, "dropped": 3}'):
        rows.with_suffix(".counts.json").write_text(content)
        found = read_dropped(rows, 2)
        assert found.num == 0 and lines_naming(found.note, "test.counts.json", 2)


def test_published_sizes_of_cvbench_add_up() -> None:
    assert sum(cvbench.CATEGORIES.values()) == cvbench.BENCHMARK.splits["test"]
    assert Counter(cvbench.CATEGORIES) == Counter(cvbench.BENCHMARK.category_sizes)
