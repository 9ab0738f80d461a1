"""CV-Bench, GEOQA and counting: one rank or two, batches of 1, 7 and 32, and kill -9 give the same predictions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eval import cvbench, geoqa, superclevr
from eval.command import run
from gpg_vl.evaluation import evaluate_model
from tests.support.benchmark_rows import write_rows
from tests.support.messages import lines_naming

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

NUM = 140  # more than two ranks do at once
ROWS: dict[ModuleType, tuple[list[dict[str, Any]], dict[str, str]]] = {
    geoqa: ([{}], {"task": "geometry", "question": "How large is angle A?", "answer": "65°"}),
    cvbench: (
        [{"benchmark_task": name, "choices": ["the cat", "the dog"]} for name in cvbench.CATEGORIES],
        {"task": "choice", "question": "Which is nearer? (A) the cat (B) the dog", "answer": "(B)"},
    ),
    superclevr: ([{}], {"task": "counting"}),
}
SAMPLINGS = {"greedy": [], "sampled": ["--evaluation.num_samples", "2", "--evaluation.temperature", "1.0"]}
LIMITS = ["--model.dtype", "float32", "--model.min_pixels", "784", "--model.max_pixels", "50176"]
LIMITS += ["--evaluation.max_new_tokens", "6", "--prompt.template", "{question}"]


def words_for(model: Path, data: Path, out: Path, sampling: str) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--out", str(out), *LIMITS, *SAMPLINGS[sampling]]


def on_two_ranks(module: ModuleType, words: list[str]) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*launch, "-m", module.__name__, *words]


def assert_same(out: Path, expected: Path) -> None:
    assert (out / "predictions.jsonl").read_text() == (expected / "predictions.jsonl").read_text()
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (out, expected))
    for key in ("figures", "num_rows", "tasks", "settings"):
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("module", ROWS, ids=lambda module: module.__name__)
def test_batches_ranks_and_kills_change_no_prediction(
    module: ModuleType, sampling: str, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = model_folders["qwen2_5_vl" if module is geoqa else "qwen2_vl"], tmp_path / "data"
    metas, values = ROWS[module]
    write_rows(data / "test.jsonl", NUM, metas, **values)
    whole = tmp_path / "whole"
    assert run(module.BENCHMARK, words_for(model, data, whole, sampling)) == 0
    for batch in (1, 7, 32):
        monkeypatch.setattr(evaluate_model, "PROMPTS_AT_ONCE", batch)
        out = tmp_path / f"batch-{batch}"
        tokens = ["--rollout.tokens_per_batch", "200"] if batch == 7 else []  # fewer prompts at once than 7
        assert run(module.BENCHMARK, [*words_for(model, data, out, sampling), *tokens]) == 0
        assert_same(out, whole)
    out = tmp_path / "ranks"
    command = on_two_ranks(module, words_for(model, data, out, sampling))
    kill_in_the_middle(command, out / "predictions.jsonl")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    assert lines_naming(ended.stderr, NUM, "predictions") and ended.stdout.count("strict") == ended.stdout.count("\n")
    assert json.loads((out / "results.json").read_text())["run"]["ranks"] == 2
    assert_same(out, whole)


def test_sigterm_to_one_rank_ends_both_and_the_same_command_goes_on(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_rows(data / "test.jsonl", NUM, *ROWS[superclevr][:1], **ROWS[superclevr][1])
    words = words_for(model_folders["qwen2_vl"], data, out, "sampled")
    command = [sys.executable, "-m", "gpg_vl.launch", *on_two_ranks(superclevr, words)[3:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_predictions(out / "predictions.jsonl")
    os.kill(children_of(process.pid)[-1], signal.SIGTERM)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in error
    num_before = len((out / "predictions.jsonl").read_text().splitlines())
    assert 0 < num_before < NUM
    assert len(lines_naming(error, num_before, NUM, "interrupted")) == 1, "one rank speaks"
    assert run(superclevr.BENCHMARK, words) == 0
    assert run(superclevr.BENCHMARK, words_for(model_folders["qwen2_vl"], data, tmp_path / "whole", "sampled")) == 0
    assert_same(out, tmp_path / "whole")


def wait_for_predictions(predictions: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and not (predictions.is_file() and predictions.stat().st_size):
        time.sleep(0.002)


def kill_in_the_middle(command: list[str], predictions: Path) -> None:
    """kill -9 of both ranks after the first predictions are on disk."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for_predictions(predictions)
    pids = [process.pid, *children_of(process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(predictions.read_text().splitlines()) < NUM, "killed in the middle"


def children_of(pid: int) -> list[int]:
    """The ranks that the launcher started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
