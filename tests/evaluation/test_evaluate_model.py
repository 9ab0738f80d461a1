"""``gpg-vl eval`` as processes: two ranks, kill -9 and restart give what one undisturbed process gives."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli, rollout
from gpg_vl.config import ModelConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.evaluation import evaluate_model
from gpg_vl.evaluation.settings import hash_weights
from gpg_vl.models import load_adapter
from gpg_vl.records import Completion, RolloutGroup
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import make_sample
from tests.support.messages import lines_naming, naming

NUM = 72  # more than an evaluation does at once
SAMPLINGS = {
    "greedy": [],
    "sampled": ["--evaluation.num_samples", "2", "--evaluation.temperature", "1.0"],
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the tasks of GEOQA, CV-Bench and SuperCLEVR, with pictures of their own."""
    kinds: list[dict[str, Any]] = [
        {"task": "geometry", "question": "How large is angle A?", "answer": "8√3"},
        {"task": "choice", "question": "Which is nearer? (A) the cat (B) the dog", "answer": "(B)"},
        {"task": "counting", "question": "How many shapes?", "answer": "4"},
    ]
    samples = [make_sample(sizes=((56, 56 + 28 * (n % 2)),), seed=n, **kinds[n % 3]) for n in range(NUM)]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl([replace(sample, id=f"row {n}") for n, sample in enumerate(samples)], path)
    return path


def words(model: Path, rows: Path, out: Path, sampling: str) -> list[str]:
    limits = ["--model.dtype", "float32", "--model.min_pixels", "784", "--model.max_pixels", "50176"]
    limits += ["--rollout.max_new_tokens", "5", "--prompt.template", "{question}"]
    return ["eval", str(model), "--data", str(rows), "--out", str(out), *limits, *SAMPLINGS[sampling]]


@pytest.fixture(scope="module")
def undisturbed(
    rows: Path, model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The folders of one process each."""
    folders = {sampling: tmp_path_factory.mktemp(sampling) for sampling in SAMPLINGS}
    for sampling, out in folders.items():
        assert cli.main(words(model_folders["qwen2_vl"], rows, out, sampling)) == 0
    return folders


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def assert_same(out: Path, expected: Path) -> None:
    assert (out / "predictions.jsonl").read_text() == (expected / "predictions.jsonl").read_text()
    for key in ("tasks", "settings", "rows_without_image"):
        assert results(out)[key] == results(expected)[key], key


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batches_change_nothing(
    sampling: str, undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for batch in (7, 32):
        monkeypatch.setattr(evaluate_model, "PROMPTS_AT_ONCE", batch)
        out = tmp_path / str(batch)
        assert cli.main(words(model_folders["qwen2_vl"], rows, out, sampling)) == 0
        assert_same(out, undisturbed[sampling])


EVALUATE_AND_PART = """
import sys
import torch
from gpg_vl import cli
code = cli.main(sys.argv[1:])
assert not torch.distributed.is_initialized(), "threads of an open connection may abort a process that exits"
sys.exit(code)
"""


@pytest.mark.parametrize(
    "sampling", [pytest.param("greedy", marks=[pytest.mark.faults, pytest.mark.faults_ci]), "sampled"]
)
def test_two_ranks_give_what_one_gives(
    sampling: str, undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = tmp_path / "evaluate.py"
    script.write_text(EVALUATE_AND_PART)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command = [*launch, *words(model_folders["qwen2_vl"], rows, out, sampling)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("counting: accuracy") == 1, "one rank speaks"
    assert results(out)["run"]["ranks"] == 2
    assert_same(out, undisturbed[sampling])


@pytest.mark.faults
@pytest.mark.faults_ci
def test_a_killed_evaluation_goes_on(
    undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = words(model_folders["qwen2_vl"], rows, out, "sampled")
    process = subprocess.Popen([sys.executable, "-m", "gpg_vl", *arguments], stderr=subprocess.PIPE)
    predictions = out / "predictions.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (predictions.is_file() and predictions.stat().st_size):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    num_before = len(predictions.read_text().splitlines())
    assert 0 < num_before < NUM, "killed in the middle"
    assert not (out / "results.json").exists()
    assert cli.main(arguments) == 0
    assert results(out)["run"]["resumed_after"] > 0
    assert_same(out, undisturbed["sampled"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_evaluation_says_what_it_leaves_and_goes_on(
    number: int, undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, generate, calls = tmp_path / "out", HfEngine.generate, iter(range(9))

    def interrupted_generate(*words: Any, **names: Any) -> Any:
        if next(calls) == 1:
            signal.raise_signal(number)
        return generate(*words, **names)

    monkeypatch.setattr(HfEngine, "generate", interrupted_generate)
    assert cli.main(words(model_folders["qwen2_vl"], rows, out, "sampled")) == 128 + number
    assert lines_naming(capsys.readouterr().err, 64, NUM)
    assert cli.main(words(model_folders["qwen2_vl"], rows, out, "sampled")) == 0
    assert lines_naming(capsys.readouterr().err, 64, NUM)
    assert_same(out, undisturbed["sampled"])


def test_any_engine_generates(
    rows: Path, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation knows of an engine what training knows: ``RolloutEngine``."""

    class Silent:
        is_synced = False

        @contextmanager
        def sync_weights(self) -> Iterator[None]:
            self.is_synced = True
            yield
            self.is_synced = False

        def generate(self, prompts: Any, group_size: int, sampling: Sampling, seeds: Any, **names: Any) -> Any:
            assert self.is_synced and len(seeds) == len(prompts)
            return [
                RolloutGroup(prompt, (Completion((7,), "<answer>4</answer>", finished=True),) * group_size)
                for prompt in prompts
            ]

    monkeypatch.setitem(rollout.ENGINES, "hf", lambda *_: Silent())
    assert cli.main(words(model_folders["qwen2_vl"], rows, tmp_path / "out", "greedy")) == 0
    assert results(tmp_path / "out")["tasks"]["counting"]["value"] == 1.0
    assert results(tmp_path / "out")["settings"]["sampling"] == {
        "engine": "hf", "num_samples": 1, "max_new_tokens": 5, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 42,
    }  # fmt: skip


def test_a_prediction_of_another_evaluation_is_refused(
    undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines = (undisturbed["greedy"] / "predictions.jsonl").read_text().splitlines(keepends=True)
    sampled = (undisturbed["sampled"] / "predictions.jsonl").read_text().splitlines(keepends=True)
    for number, line in enumerate(
        (lines[3].replace('"row": 3', '"row": 4'), sampled[3], lines[3].replace('"row": 3', '"row": 99'))
    ):
        out = tmp_path / str(number)
        shutil.copytree(undisturbed["greedy"], out)
        (out / "predictions.jsonl").write_text("".join([*lines[:3], line]))
        before = {path: path.read_bytes() for path in out.iterdir()}
        assert cli.main(words(model_folders["qwen2_vl"], rows, out, "greedy")) == 2
        assert lines_naming(capsys.readouterr().err, out / "predictions.jsonl", "row 3", "--out")
        assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_refused_evaluation_leaves_no_folder(
    rows: Path, tmp_path: Path, model_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = words(model_folders["qwen2_vl"], rows, tmp_path / "a/out", "greedy")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    without_answer = tmp_path / "blank.jsonl"
    without_answer.write_text(rows.read_text().splitlines()[2].replace('"4"', '" "'))
    half = rows.parent / "half.jsonl"  # beside the pictures
    half.write_text(rows.read_text().splitlines()[2].replace("How many", "How\\ud800many"))
    for changed, named in (
        (
            words(model_folders["qwen2_vl"], half, tmp_path / "a/out", "greedy"),
            ["half.jsonl", "line 1"],
        ),
        (words(tmp_path / "none", rows, tmp_path / "a/out", "greedy"), [tmp_path / "none"]),
        (words(model_folders["qwen2_vl"], empty, tmp_path / "a/out", "greedy"), ["empty.jsonl"]),
        (
            words(model_folders["qwen2_vl"], without_answer, tmp_path / "a/out", "greedy"),
            ["blank.jsonl", "row 1", "answer"],
        ),
        ([*good, "--evaluation.num_samples", "4"], ["evaluation.num_samples"]),
        ([*good, "--rewards.weights.none", "1"], ["rewards.weights", "none"]),
    ):
        assert cli.main(changed) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("gpg-vl eval: ") and re.search(naming(*named), error), error
        assert not (tmp_path / "a").exists()


def test_a_line_cut_off_anywhere_is_evaluated_again(
    undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed["greedy"], out)
    content = (out / "predictions.jsonl").read_bytes()
    arguments = words(model_folders["qwen2_vl"], rows, out, "greedy")
    for size in (len(content) - 1, len(content) // 2, 30):
        (out / "predictions.jsonl").write_bytes(content[:size])
        assert cli.main(arguments) == 0
        assert_same(out, undisturbed["greedy"])


def test_a_damaged_line_is_named_and_nothing_is_changed(
    undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(undisturbed["greedy"], out)
    lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    (out / "predictions.jsonl").write_text("".join([*lines[:3], "damaged\n", *lines[4:]]))
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert cli.main(words(model_folders["qwen2_vl"], rows, out, "greedy")) == 2
    assert lines_naming(capsys.readouterr().err, "predictions.jsonl", "line 4")
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--evaluation.temperature", "0.5"], ["sampling.temperature", 0.0, 0.5]),
        (["--rollout.max_new_tokens", "7"], ["sampling.max_new_tokens", 5, 7]),
        (["--run.seed", "7"], ["sampling.seed", 42, 7]),
        (["--model.max_pixels", "40000"], ["model.max_pixels", 50176, 40000]),
        (["--prompt.template", "{question}?"], ["prompt.template"]),
        (["--rewards.timeout_s", "1"], ["rewards.timeout_s", 5.0]),
    ],
)
def test_predictions_of_other_settings_are_refused(
    changes: list[str], named: list[Any], undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = undisturbed["greedy"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert cli.main([*words(model_folders["qwen2_vl"], rows, out, "greedy"), *changes]) == 2
    assert lines_naming(capsys.readouterr().err, out, *named, "--out")
    assert {path: path.read_bytes() for path in out.iterdir()} == before, "nothing is overwritten"


def test_other_weights_and_other_rows_are_refused(
    undisturbed: dict[str, Path], rows: Path, model_folders: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from gpg_vl.models.tiny import write_tiny_model

    out = undisturbed["greedy"]
    other = write_tiny_model(tmp_path / "other", seed=9)
    assert cli.main(words(other, rows, out, "greedy")) == 2
    assert lines_naming(capsys.readouterr().err, "model.weights_sha256", "--out")
    changed = tmp_path / "changed.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    changed.write_text("".join([lines[0].replace("8√3", "9"), *lines[1:]]))
    image_root = ["--data.image_root", str(rows.parent)]
    assert cli.main([*words(model_folders["qwen2_vl"], changed, out, "greedy"), *image_root]) == 2
    assert lines_naming(capsys.readouterr().err, "rows.sha256", "--out")


def test_images_that_are_missing_or_broken_are_said_and_count_as_wrong(
    rows: Path, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rows.parent, tmp_path / "rows")
    copied = tmp_path / "rows/rows.jsonl"
    copied.write_text("".join(copied.read_text().splitlines(keepends=True)[:6]))
    first, second, *others = sorted((tmp_path / "rows/rows_images").glob("[1-6]-0.png"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:60])
    assert cli.main(words(model_folders["qwen2_vl"], copied, tmp_path / "out", "greedy")) == 0
    error = capsys.readouterr().err
    assert lines_naming(error, 2, 6, "image")
    assert lines_naming(error, "row 1", first)
    found = results(tmp_path / "out")
    assert len(found["rows_without_image"]) == 2
    assert found["tasks"]["geometry"]["status"]["no_image"] == 1
    assert sum(score["n"] for score in found["tasks"].values()) == 6
    for path in others:
        path.unlink()
    second.unlink()
    assert cli.main(words(model_folders["qwen2_vl"], copied, tmp_path / "none", "greedy")) == 2
    assert lines_naming(capsys.readouterr().err, "row 1", first)
    assert not (tmp_path / "none/predictions.jsonl").exists()


def test_hash_of_weights_is_that_of_their_values(model_folders: dict[str, Path]) -> None:
    models = [load_adapter(ModelConfig(path=str(model_folders["qwen2_vl"]))).model for _ in range(2)]
    assert hash_weights(models[0]) == hash_weights(models[1])
    next(models[1].parameters()).data.view(-1)[0] += 1e-6
    assert hash_weights(models[0]) != hash_weights(models[1])
