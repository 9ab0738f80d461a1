"""The command as a user meets it: one line and exit code 2 for each mistake, before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from data_tools.generate import PUBLISHED_COLUMNS, draw_samples, write_published
from gpg_vl import cli
from gpg_vl.data.sources import write_parquet
from tests.support.builders import png
from tests.support.messages import lines_naming, naming

RunCli = Callable[..., tuple[int, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    write_parquet(draw_samples("counting", 8, seed=0), path)
    return path


@pytest.fixture
def recipe(tmp_path: Path, data: Path, model_folders: dict[str, Path]) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
model: {{path: {model_folders["qwen2_vl"]}, dtype: float32, min_pixels: 784, max_pixels: 50176}}
data: {{train: [{data}]}}
prompt: {{template: "{{question}}"}}
rollout: {{prompts_per_step: 2, group_size: 2, max_new_tokens: 4}}
objective: {{beta_th: 0.0}}
run: {{steps: 1, output_dir: {tmp_path / "run"}, eval_every: 0, trackers: []}}
"""
    )
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> RunCli:
    def run_cli(*words: Any) -> tuple[int, str]:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        return code, capfd.readouterr().err

    return run_cli


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def write_rows(path: Path, **changes: Any) -> Path:
    row = {"id": "r1", "task": "counting", "images": [], "question": "How many?", "answer": "4"} | changes
    path.write_text(json.dumps({key: value for key, value in row.items() if value is not ...}) + "\n")
    return path


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--run.stepz", "3"], ["run.stepz", "run.steps"]),
        (["--rollout.group_size", "1"], ["rollout.group_size", 1, "gpg", 2]),
        (["--rollout.group_size", "two"], ["rollout.group_size"]),
        (["--objective.name", "ppo"], ["objective.name", "ppo", "gpg", "grpo", "supervised"]),
        (["--rewards.weights", "{iou: 1}"], ["rewards.weights", "iou", "correct", "format"]),
        (["--rewards.scorer", "lenient"], ["rewards.scorer"]),
        (
            ["--rewards.scorer", "legacy", "--rewards.weights", "{correct: 1}"],
            ["rewards.weights", "correct", "accuracy", "format"],
        ),
        (["--data.train", "[]"], ["data.train"]),
        (["--data.train", "[nowhere.parquet]"], ["nowhere.parquet"]),
        (["--model.path", "./nowhere"], ["model.path", "./nowhere"]),
        (["--task", "countin"], ["countin", "counting"]),
        (["--rollout.max_new_tokens", "5000"], ["rows.parquet", "row 1", 23, 5000, "data.on_long_prompt"]),
        (
            ["--update.tokens_per_micro_batch", "20"],
            ["rows.parquet", "row 1", 20, "update.tokens_per_micro_batch", "data.on_long_prompt"],
        ),
        (
            ["--run.stop_when", "{geometry: 0.3}", "--run.eval_every", "1"],
            ["run.stop_when", "data.train", "geometry", "counting"],
        ),
        (["--prompt.template", "How many?"], ["prompt.template", "{question}"]),
        (["--evaluation.num_samples", "4"], ["evaluation.num_samples"]),
        (["--model.freeze", "[vision, projector, text]"], ["model.freeze"]),
        (["extra"], ["recipe extra"]),
    ],
)
def test_mistakes_in_the_recipe(run: RunCli, recipe: Path, tmp_path: Path, words: list[str], named: list[Any]) -> None:
    code, err = run("train", recipe, *words)
    assert code == 2
    assert "Traceback" not in err
    assert last_line(err).startswith("gpg-vl train: ")
    assert re.search(naming(*named), last_line(err)), err
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"answer": ...}, ["answer", "question", "columns"]),
        ({"answer": "four"}, ["row 1", "answer", "four"]),
        ({"images": ["gone.png"]}, ["row 1", "gone.png"]),
        ({"question": "Look: <|image_pad|>"}, ["row 1", "question", "<|image_pad|>"]),
        ({"images": ["1.png"], "question": "<image> or <image>?"}, ["row 1", "question", "<image>", 2, 1]),
        ({"question": "word " * 5000}, ["row 1", 4, "data.on_long_prompt"]),
    ],
)
def test_mistakes_in_the_rows(
    run: RunCli, recipe: Path, tmp_path: Path, changes: dict[str, Any], named: list[Any]
) -> None:
    (tmp_path / "1.png").write_bytes(png(84, 84))
    rows = write_rows(tmp_path / "bad.jsonl", **changes)
    code, err = run("train", recipe, "--data.train", f"[{rows}]")
    assert code == 2
    assert "Traceback" not in err
    assert re.search(naming("bad.jsonl", *named), last_line(err)), err


def test_empty_data_set(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    code, err = run("train", recipe, "--data.train", f"[{tmp_path / 'empty.jsonl'}]")
    assert code == 2
    assert re.search(naming("empty.jsonl"), last_line(err)), err


def test_broken_image_names_its_row(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png(84, 84)[:300])
    rows = write_rows(tmp_path / "bad.jsonl", images=["broken.png"])
    code, err = run("train", recipe, "--data.train", f"[{rows}]")
    assert code == 2
    assert re.search(naming("bad.jsonl", "row 1", "broken.png"), last_line(err)), err


def test_broken_row_in_the_middle_is_found_before_training(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(84, 84, number)[: 300 if number == 4 else None])
        rows.append(
            {"id": f"r{number}", "task": "counting", "images": [f"{number}.png"], "question": "?", "answer": "4"}
        )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, err = run("train", recipe, "--data.train", f"[{tmp_path / 'rows.jsonl'}]", "--run.steps", "9")
    assert code == 2
    assert re.search(naming("rows.jsonl", "row 5", "4.png"), last_line(err)), err
    assert "step 1/" not in err


def test_folder_of_another_kind_of_model(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    code, err = run("train", recipe, "--model.path", folder)
    assert code == 2
    assert re.search(naming(folder, "llama", "qwen2_vl", "qwen2_5_vl"), last_line(err)), err


def test_model_without_processor(run: RunCli, recipe: Path, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_text((model_folders["qwen2_vl"] / "config.json").read_text())
    code, err = run("train", recipe, "--model.path", folder)
    assert code == 2
    assert re.search(naming(folder, "processor"), last_line(err)), err


def test_missing_and_damaged_weights(run: RunCli, recipe: Path, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(model_folders["qwen2_vl"], folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "mlp" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    code, err = run("train", recipe, "--model.path", folder)
    assert (code, bool(re.search(naming(folder, 1, "missing"), last_line(err)))) == (2, True), err
    (folder / "model.safetensors").write_bytes(b"12345")
    code, err = run("train", recipe, "--model.path", folder)
    assert (code, bool(re.search(naming(folder), last_line(err)))) == (2, True), err


def test_output_directory_that_cannot_be_written(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, err = run("train", recipe, "--run.output_dir", tmp_path / "file" / "run")
    assert code == 2
    assert re.search(naming("run.output_dir", tmp_path / "file/run"), last_line(err)), err


def test_unknown_key_and_broken_yaml_in_the_file(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("max_new_tokens", "max_tokens"))
    code, err = run("train", recipe)
    assert (code, bool(re.search(naming("rollout.max_tokens", "rollout.max_new_tokens"), err))) == (2, True), err
    recipe.write_text("model: [")
    for words, named in (
        ([recipe], [recipe, "YAML"]),
        ([tmp_path / "none.yaml"], [tmp_path / "none.yaml"]),
        (["--run.steps", "3"], ["recipe", "first"]),
    ):
        code, err = run("train", *words)
        assert (code, bool(re.search(naming(*named), last_line(err)))) == (2, True), err


def test_debug_shows_the_traceback(recipe: Path) -> None:
    with pytest.raises(ValueError, match=naming("run.stepz")):
        cli.main(["train", str(recipe), "--run.stepz", "3", "--debug"])


def test_every_command_has_a_line_and_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in cli.COMMANDS:
        assert len([line for line in lines if line.split()[:1] == [name]]) == 2, "once each time"
        assert cli.main([name, "--help"]) == 0
        assert f"usage: gpg-vl {name} " in capsys.readouterr().out


def test_an_unknown_command_is_told_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("trian", *cli.COMMANDS))


def test_command_line_trains_and_answers(recipe: Path, tmp_path: Path) -> None:
    """The installed command in processes of its own: train, resume, eval, ask."""

    def gpg_vl(*words: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpg_vl", *(str(word) for word in words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    trained = gpg_vl("train", recipe)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.splitlines()[-1] == f"done: {tmp_path / 'run/checkpoint-1'}"
    refused = gpg_vl("train", recipe, "--update.learning_rate", "1e-3")
    assert refused.returncode == 2
    assert re.search(naming(tmp_path / "run", "update.learning_rate", "1e-06", 0.001), refused.stderr), refused.stderr


def test_eval_writes_results_and_predictions(
    run: RunCli, tmp_path: Path, data: Path, recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("train", recipe)[0] == 0
    out = tmp_path / "out"
    words = ["--evaluation.num_samples", 3, "--evaluation.temperature", 1.0, "--out", out]
    assert cli.main([str(word) for word in ["eval", tmp_path / "run", "--data", data, *words]]) == 0
    assert "counting: accuracy 0.000 [0.000, " in capfd.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"]["counting"]["n"] == 8
    assert results["run"]["recipe"]["prompt"]["template"] == "{question}"
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [len(row["completions"]) for row in predictions] == [3] * 8


def test_eval_of_published_columns_and_its_mistakes(
    run: RunCli, tmp_path: Path, recipe: Path, model_folders: dict[str, Path]
) -> None:
    write_published(draw_samples("counting", 4, seed=1), tmp_path / "published.parquet")
    entry = f"{{path: {tmp_path / 'published.parquet'}, columns: {json.dumps(PUBLISHED_COLUMNS)}}}"
    words = ["eval", model_folders["qwen2_vl"], "--recipe", recipe, "--task", "counting"]
    assert run(*words, "--data", entry, "--out", tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out/results.json").read_text())["tasks"]["counting"]["n"] == 4
    limited = ["--data", entry, "--evaluation.limit", 3, "--out"]
    assert run(*words, *limited, tmp_path / "few")[0] == 0
    assert json.loads((tmp_path / "few/results.json").read_text())["tasks"]["counting"]["n"] == 3
    code, err = run(*words, *limited, tmp_path / "out")
    assert (code, "out holds predictions with rows.num = 4, but this evaluation has 3; choose" in last_line(err)) == (
        2,
        True,
    )
    assert json.loads((tmp_path / "out/results.json").read_text())["tasks"]["counting"]["n"] == 4, "nothing is lost"
    (tmp_path / "file").write_text("")
    code, err = run(*words, "--data", entry, "--out", tmp_path / "file/out")
    assert (code, "prompts" in err) == (2, False)
    assert re.search(naming("--out", tmp_path / "file/out"), last_line(err)), err
    code, err = run(*words, "--data", entry, "--data.eval", "[x]")
    assert code == 2
    assert re.search(naming("--data", "data.eval"), last_line(err)), err


def test_own_task_by_path_trains_and_evaluates(
    run: RunCli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colour.py").write_text(
        """
from letters_answer import read_letters
from gpg_vl.tasks.base import Task

class Letters(Task):
    name = "letters"

    def ask(self, sample, views):
        return sample.question

    def read(self, answer, sample, views):
        return read_letters(answer)

    def score(self, answer, sample, views):
        return {"correct": float(answer == sample.answer.upper())}
"""
    )
    (tmp_path / "letters_answer.py").write_text("def read_letters(text):\n    return text.upper()\n")
    monkeypatch.chdir(tmp_path)
    spec = "colour.py:Letters"
    rows = write_rows(tmp_path / "own.jsonl", task=..., answer="red")
    code, err = run("train", recipe, "--task", spec, "--data.train", f"[{rows}]")
    assert code == 0, err
    assert json.loads((tmp_path / "run/rollouts/000001.jsonl").read_text().splitlines()[0])["task"].endswith(
        "/colour.py:Letters"
    )
    monkeypatch.chdir(tmp_path.parent)
    code, err = run("eval", tmp_path / "run", "--data", rows)
    assert code == 2 and lines_naming(err, "task", "--recipe", "recipe.yaml"), "a model brings no code along"
    own = ["--recipe", tmp_path / "run/recipe.yaml"]
    assert run("eval", tmp_path / "run", "--data", rows, *own)[0] == 0
    (tmp_path / "picture.png").write_bytes(png(84, 84))
    words = ["--image", tmp_path / "picture.png", "--question", "Which?", "--answer", "red"]
    assert run("ask", tmp_path / "run", *words, *own)[0] == 0
    functions = ["--rewards.functions", f"[{tmp_path / 'colour.py'}:Letters]", "--run.output_dir", tmp_path / "other"]
    code, err = run("train", recipe, *functions)
    assert (code, bool(re.search(naming("Letters"), last_line(err)))) == (2, True), err


def test_a_tiny_model_replaces_nothing_else(run: RunCli, tmp_path: Path, data: Path) -> None:
    code, err = run("tiny-model", tmp_path)
    assert code == 2 and lines_naming(err, tmp_path), err
    code, err = run("prefer", recipe_of(tmp_path, data), "--out", tmp_path)
    assert code == 2 and lines_naming(err, "--out", tmp_path, "data.train"), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.yaml", data.name]


def recipe_of(folder: Path, data: Path) -> Path:
    (folder / "own.yaml").write_text(f"{{model: {{path: none}}, data: {{train: {data}}}}}")
    return folder / "own.yaml"
