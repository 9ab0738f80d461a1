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
from gpg_vl.recipes import KNOWN_KEYS, describe_keys, load_recipe
from support.builders import png

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
    ("words", "message"),
    [
        (["--run.stepz", "3"], r"unknown key run.stepz; did you mean run.steps\?"),
        (["--rollout.group_size", "1"], "rollout.group_size is 1, but objective gpg compares .*; set it to 2 or more"),
        (["--rollout.group_size", "two"], 'Parser key "rollout.group_size"'),
        (["--objective.name", "ppo"], r"objective.name: 'ppo' is not known; the objectives are"),
        (["--rewards.weights", "{iou: 1}"], r"rewards.weights: no task here has a part 'iou'; the parts are"),
        (["--rewards.scorer", "lenient"], 'Parser key "rewards.scorer"'),
        (
            ["--rewards.scorer", "legacy", "--rewards.weights", "{correct: 1}"],
            r"no task here has a part 'correct'; the parts are \['accuracy', 'format'\]",
        ),
        (["--data.train", "[]"], "data.train is empty; give at least one file"),
        (["--data.train", "[nowhere.parquet]"], "no such file: nowhere.parquet"),
        (["--model.path", "./nowhere"], r"model.path: no folder './nowhere'"),
        (["--task", "countin"], r"no task 'countin'; did you mean 'counting'\?"),
        (
            ["--rollout.max_new_tokens", "5000"],
            "rows.parquet, row 1: the prompt has 23 tokens and its completion up to 5000.*lower",
        ),
        (["--update.tokens_per_micro_batch", "20"], "together more than 20; raise update.tokens_per_micro_batch"),
        (
            ["--run.stop_when", "{geometry: 0.3}", "--run.eval_every", "1"],
            "no row of data.train has the task 'geometry'",
        ),
        (["--prompt.template", "How many?"], r"prompt.template has no \{question\}"),
        (["--evaluation.num_samples", "4"], "evaluation.num_samples above 1 needs a temperature above 0"),
        (["--model.freeze", "[vision, projector, text]"], "model.freeze freezes every part"),
        (["extra"], "recipe extra: No such file or directory"),
    ],
)
def test_mistakes_in_the_recipe(run: RunCli, recipe: Path, tmp_path: Path, words: list[str], message: str) -> None:
    code, err = run("train", recipe, *words)
    assert code == 2
    assert "Traceback" not in err
    assert last_line(err).startswith("gpg-vl train: ")
    assert re.search(message, last_line(err)), err
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": ...}, "has no column answer; it has"),
        ({"answer": "four"}, "row 1: the answer 'four' is no count"),
        ({"images": ["gone.png"]}, "row 1: cannot open image .*/gone.png: no such file"),
        ({"question": "Look: <|image_pad|>"}, r"row 1: the question contains the control token <\|image_pad\|>"),
        ({"question": "<image> or <image>?"}, "row 1: the question has 2 <image> markers for 0 images; write one"),
        ({"question": "word " * 5000}, "row 1: the prompt has .* tokens and its completion up to 4, together more"),
    ],
)
def test_mistakes_in_the_rows(run: RunCli, recipe: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = write_rows(tmp_path / "bad.jsonl", **changes)
    code, err = run("train", recipe, "--data.train", f"[{rows}]")
    assert code == 2
    assert "Traceback" not in err
    assert re.search(message, last_line(err)), err


def test_empty_data_set(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    code, err = run("train", recipe, "--data.train", f"[{tmp_path / 'empty.jsonl'}]")
    assert (code, last_line(err).endswith("empty.jsonl has no rows; fill it or leave it out")) == (2, True)


def test_broken_image_names_its_row(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png(84, 84)[:300])
    rows = write_rows(tmp_path / "bad.jsonl", images=["broken.png"])
    code, err = run("train", recipe, "--data.train", f"[{rows}]")
    assert code == 2
    assert "bad.jsonl, row 1: cannot open image" in last_line(err)
    assert "broken.png" in last_line(err)


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
    assert re.search("rows.jsonl, row 5: cannot open image .*4.png", last_line(err)), err
    assert "step 1/" not in err


def test_folder_of_another_kind_of_model(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    code, err = run("train", recipe, "--model.path", folder)
    assert code == 2
    assert "is a 'llama' model; the kit knows qwen2_vl, qwen2_5_vl" in last_line(err)


def test_model_without_processor(run: RunCli, recipe: Path, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_text((model_folders["qwen2_vl"] / "config.json").read_text())
    code, err = run("train", recipe, "--model.path", folder)
    assert code == 2
    assert "has no complete processor" in last_line(err)


def test_missing_and_damaged_weights(run: RunCli, recipe: Path, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(model_folders["qwen2_vl"], folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "mlp" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    assert "1 weights are missing in" in last_line(run("train", recipe, "--model.path", folder)[1])
    (folder / "model.safetensors").write_bytes(b"12345")
    assert "cannot be loaded" in last_line(run("train", recipe, "--model.path", folder)[1])


def test_output_directory_that_cannot_be_written(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, err = run("train", recipe, "--run.output_dir", tmp_path / "file" / "run")
    assert code == 2
    assert "run.output_dir: cannot write to" in last_line(err)


def test_unknown_key_and_broken_yaml_in_the_file(run: RunCli, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("max_new_tokens", "max_tokens"))
    code, err = run("train", recipe)
    assert (code, "unknown key rollout.max_tokens; did you mean rollout.max_new_tokens?" in err) == (2, True)
    recipe.write_text("model: [")
    assert "is no YAML" in run("train", recipe)[1]
    assert "No such file" in run("train", tmp_path / "none.yaml")[1]
    assert "the recipe comes first" in run("train", "--run.steps", "3")[1]


def test_debug_shows_the_traceback(recipe: Path) -> None:
    with pytest.raises(ValueError, match="unknown key"):
        cli.main(["train", str(recipe), "--run.stepz", "3", "--debug"])


def test_help_explains_every_key_in_a_line() -> None:
    text = describe_keys()
    for key in KNOWN_KEYS:
        _, _, after = text.partition(f"--{key} ")
        assert after, key
        explanation = " ".join(after.split("(type:")[0].split())
        assert len(explanation) > 15, key


def test_unknown_command() -> None:
    assert cli.main(["trian"]) == 2
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert cli.main(["eval", "--help"]) == 0


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
    assert "holds a run with update.learning_rate=1e-06, the recipe has 0.001" in refused.stderr


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
    assert (code, "out holds predictions with rows.num = 4, this evaluation has 3; choose" in last_line(err)) == (
        2,
        True,
    )
    assert json.loads((tmp_path / "out/results.json").read_text())["tasks"]["counting"]["n"] == 4, "nothing is lost"
    (tmp_path / "file").write_text("")
    code, err = run(*words, "--data", entry, "--out", tmp_path / "file/out")
    assert (code, "--out: cannot write to" in last_line(err), "prompts" in err) == (2, True, False)
    assert "name the rows by --data" in run(*words, "--data", entry, "--data.eval", "[x]")[1]


def test_ask(tmp_path: Path, model_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.png").write_bytes(png(84, 84))
    words = ["ask", model_folders["qwen2_vl"], "--image", tmp_path / "picture.png", "--question", "How many shapes?"]
    limits = ["--rollout.max_new_tokens", 5, "--model.dtype", "float32"]
    scored = ["--task", "counting", "--answer", "4", "--n", 3]
    assert cli.main([str(word) for word in [*words, *limits, *scored]]) == 0
    out = capfd.readouterr().out
    assert out.count("   answer: None   reward 0.000 (correct 0.000, format 0.000) unparsable") == 3
    assert cli.main([str(word) for word in [*words, *limits]]) == 0
    out = capfd.readouterr().out
    assert "reward" not in out
    assert out.startswith("prompt (")
    for extra, message in (
        (["--answer", "4"], "--answer needs --task"),
        (["--task", "counting", "--answer", "many"], "the answer 'many' is no count"),
        (["--n", "0"], "--n must be at least 1"),
        (["--temperature", "-1"], "--temperature must not be negative"),
        (["--task", "grounding"], "the row has no image to find a box in"),
        (["--image", "gone.png"], "--image: no file gone.png"),
    ):
        asked = ["ask", words[1], *words[4:]] if "grounding" in extra else words
        assert cli.main([str(word) for word in [*asked, *limits, *extra]]) == 2
        assert message in capfd.readouterr().err


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
    assert run("eval", tmp_path / "run", "--data", rows)[0] == 0
    (tmp_path / "picture.png").write_bytes(png(84, 84))
    words = ["--image", tmp_path / "picture.png", "--question", "Which?", "--answer", "red"]
    assert run("ask", tmp_path / "run", *words)[0] == 0
    functions = ["--rewards.functions", f"[{tmp_path / 'colour.py'}:Letters]", "--run.output_dir", tmp_path / "other"]
    code, err = run("train", recipe, *functions)
    assert (code, "has no function 'Letters'" in err) == (2, True)


def test_a_later_recipe_holds_the_keys_in_which_it_differs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("rollout: {group_size: 4, max_new_tokens: 9}\nrun: {steps: 5, seed: 3}\n")
    other.write_text("rollout: {max_new_tokens: 7}\nrun: {steps: 6}\n")
    recipe = load_recipe([str(one), str(other)], ["--run.seed", "8"])
    assert (recipe.rollout.group_size, recipe.rollout.max_new_tokens) == (4, 7)
    assert (recipe.run.steps, recipe.run.seed) == (6, 8)


def test_train_names_the_recipe_with_the_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("run: {steps: 5}\n")
    other.write_text("run: {step: 6}\n")
    assert cli.main(["train", str(one), str(other)]) == 2
    assert f"recipe {other}: unknown key run.step; did you mean run.steps?" in capsys.readouterr().err
