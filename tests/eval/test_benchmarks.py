"""Benchmarks as commands on a tiny model and on stored completions, and their mistakes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eval import cvbench, detection, fine_grained, geoqa, lisa, refcoco, superclevr, table
from eval.command import run
from tests.support.benchmark_rows import BOX, LIMITS, SHAPES, write_rows
from tests.support.messages import lines_naming, naming
from tests.support.shared_data import shared_file

CASES: list[tuple[ModuleType, dict[str, int], list[dict[str, Any]], dict[str, str], set[str]]] = [
    (geoqa, {"test": 3}, [{}], {"task": "geometry", "answer": "65°"}, {"Accuracy"}),
    (superclevr, {"test": 3}, [{}], {"task": "counting"}, {"Accuracy"}),
    (
        cvbench, {"test": 4}, [{"benchmark_task": name, "choices": ["x", "y"]} for name in cvbench.CATEGORIES],
        {"task": "choice", "answer": "(A)"}, {"Total", *cvbench.CATEGORIES},
    ),
    (lisa, {"val": 2, "test": 2}, [SHAPES], {"task": "grounding", **BOX}, {"mIoU val", "mIoU test"}),
    (refcoco, {"val": 2, "testB": 2}, [{}], {"task": "grounding", **BOX}, {"acc@0.5 val", "acc@0.5 testB"}),
    (
        fine_grained, dict.fromkeys(fine_grained.NAMES, 2), [{}], {"task": "classification", "answer": "rose"},
        {"Average", *fine_grained.NAMES.values()},
    ),
    (
        detection, {"coco": 2}, [{"category": "cat"}], {"task": "detection", **BOX},
        {"AP coco, rows alone", "AP50 coco, rows alone", "AP75 coco, rows alone", "mIoU coco"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "splits", "metas", "values", "figures"), CASES, ids=lambda each: getattr(each, "__name__", "")
)
def test_benchmark_on_a_tiny_model(
    module: ModuleType, splits: dict[str, int], metas: list[dict[str, Any]], values: dict[str, str],
    figures: set[str], model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for split, num in splits.items():
        write_rows(tmp_path / f"{split}.jsonl", num, metas, **values)
    words = [
        "--model",
        str(model_folders["qwen2_vl"]),
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        *LIMITS,
    ]
    assert run(module.BENCHMARK, words) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    assert lines_naming(captured.err, "note"), "so few rows are not the published ones"
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["figures"]) == figures
    assert {split: each["num"] for split, each in results["num_rows"].items()} == splits
    assert results["settings"]["benchmark"] == module.BENCHMARK.name
    assert results["settings"]["sampling"]["max_new_tokens"] == 3


@pytest.mark.parametrize(("name", "accuracy"), [("", 0.48), ("_grpo100", 0.825)])
def test_published_outputs_give_the_published_accuracies(name: str, accuracy: float, tmp_path: Path) -> None:
    path = shared_file(f"counting_results_superclevr_200_qwen2vl_2b_instruct{name}_legacy.json")
    assert run(superclevr.BENCHMARK, ["--completions", str(path), "--out", str(tmp_path)]) == 0
    figure = json.loads((tmp_path / "results.json").read_text())["figures"]["Accuracy"]
    assert (figure["legacy"]["value"], figure["legacy"]["n"]) == (accuracy, 200)


def test_mistakes_are_one_line_and_nothing_is_overwritten(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "test.jsonl", 2, [{}], task="counting")
    no_processor = tmp_path / "bare"
    shutil.copytree(model_folders["qwen2_vl"], no_processor)
    for path in [*no_processor.glob("*processor*"), *no_processor.glob("token*")]:
        path.unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/test.jsonl").write_text("")
    (tmp_path / "nothing").mkdir()
    write_rows(tmp_path / "geoqa/test.jsonl", 2, [{}], task="geometry")
    good, data, out = str(model_folders["qwen2_vl"]), str(tmp_path), str(tmp_path / "out")
    assert run(superclevr.BENCHMARK, ["--model", good, "--data", data, "--out", out, *LIMITS]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    for benchmark, model, rows, extra, named in (
        (superclevr, str(no_processor), data, [], [no_processor, "processor"]),
        (superclevr, good, str(tmp_path / "empty"), [], [tmp_path / "empty/test.jsonl"]),
        (
            superclevr,
            good,
            str(tmp_path / "geoqa"),
            [],
            [tmp_path / "geoqa/test.jsonl", "geometry", "superclevr", "counting"],
        ),
        (superclevr, good, str(tmp_path / "nothing"), [], [tmp_path / "nothing", "data_tools.clevr"]),
        (superclevr, good, data, ["--split", "train"], ["'train'", "test"]),
        (
            geoqa,
            good,
            str(tmp_path / "geoqa"),
            [],
            [out, "benchmark", "superclevr", "geoqa"],
        ),
        (superclevr, good, data, ["--run.seed", "1"], [out, "sampling.seed", 42, 1]),
    ):
        words = ["--model", model, "--data", rows, "--out", out, *LIMITS, *extra]
        assert run(benchmark.BENCHMARK, words) == 2, named
        assert re.search(naming(*named), last := capsys.readouterr().err.strip().splitlines()[-1]), last
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_options_that_are_missing_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    out = ["--out", str(tmp_path / "out")]
    for benchmark, words, named in (
        (geoqa, ["--model", "x"], ["--out", "--help"]),
        (geoqa, out, ["--model", "--data", "--completions"]),
        (geoqa, [*out, "--completions", "x", "--model", "y"], ["--completions", "--model"]),
        (geoqa, [*out, "--completions", str(tmp_path)], [tmp_path]),
        (geoqa, [*out, "--completions", str(empty)], [empty]),
        (lisa, [*out, "--completions", str(empty)], ["--completions", "--split"]),
    ):
        assert run(benchmark.BENCHMARK, words) == 2
        error = capsys.readouterr().err
        assert lines_naming(error, *named) and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == [empty]
    assert run(geoqa.BENCHMARK, ["--help"]) == 0


def test_table_has_only_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"completion": f"<answer> {n} </answer>", "answer": "3"} for n in (3, 4, 3, 5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--completions", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run")]
    assert run(superclevr.BENCHMARK, words) == 0
    capsys.readouterr()
    assert table.main([f"grpo={tmp_path / 'run'}", "--out", str(tmp_path / "table.md")]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    base, grpo = [line for line in lines if line.startswith("| Accuracy")][-2:]
    assert base == "| Accuracy | base | 48.00 | not run | not run | not run | not run | not run |"
    assert grpo.startswith(
        "| Accuracy | grpo | 82.50 | 50.00 [15.0, 85.0] | other rows | 50.00 [15.0, 85.0] | 4 of 200 | "
    )
    body = [line for line in lines if line.startswith("| ") and not line.startswith(("| figure", "| ---"))]
    assert [line for line in body if "not run" not in line] == [grpo]
    assert table.main([str(tmp_path / "none")]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / "none", "results.json")
