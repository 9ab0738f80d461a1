"""The kit from Python: rows from memory, scores, a run in a thread that is not the main one, what it left."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

import gpg_vl.api
from data_tools.generate import draw_samples
from gpg_vl.api import build_rows, evaluate, read_run, report, score, train
from gpg_vl.data.sources import load_source
from gpg_vl.data.videos import FrameSampling, measure_video
from gpg_vl.evaluation.evaluate_model import evaluate_model
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.recipes import load_recipe
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train as train_recipe
from tests.support.messages import naming
from tests.support.tiny_runs import OWN_CODE, sampled, without_seconds
from tests.support.videos import Clip, mp4


def picture(colour: str = "blue", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def row(**changes: Any) -> dict[str, Any]:
    return {"images": [picture()], "question": "How many shapes?", "answer": 4, "colour": "blue"} | changes


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_of_dicts_become_a_file_of_kit_rows(tmp_path: Path) -> None:
    path = build_rows([row(), row(images=picture("red"), answer="3")], tmp_path / "rows.parquet", task="counting")
    assert path == tmp_path / "rows.parquet"
    one, two = load_source(str(path)).samples
    assert (one.question, one.answer, one.task, one.meta["colour"]) == ("How many shapes?", "4", "counting", "blue")
    assert (one.id, two.id, two.answer) == ("rows:1", "rows:2", "3")


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    sizes = [(60, 40), (30, 80)]
    pictures = [Image.effect_noise(size, 60).convert("RGB") for size in sizes]
    build_rows([row(images=pictures)], tmp_path / "rows.parquet", task="counting")
    data = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(data, datasets.Dataset)
    assert [each.tobytes() for each in data[0]["images"]] == [each.tobytes() for each in pictures]


def test_rows_of_a_data_set(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "problem": datasets.Value("string"), "solution": datasets.Value("string")}
    )
    columns = {
        "image": [picture(), picture("red")],
        "problem": ["How many?"] * 2,
        "solution": ["<answer>4</answer>"] * 2,
    }
    data = datasets.Dataset.from_dict(columns, features=features)
    named = {"images": "image", "question": "problem", "answer": "solution"}
    path = build_rows(data, tmp_path / "rows.parquet", task="counting", columns=named)
    assert [(each.question, each.answer) for each in load_source(str(path)).samples] == [("How many?", "4")] * 2


def test_paths_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "img").mkdir()
    picture().save(tmp_path / "img/1.png")
    build_rows([row(images=["1.png"])], tmp_path / "a.parquet", "counting", image_root=tmp_path / "img")
    monkeypatch.chdir(tmp_path)
    build_rows([row(images=[Path("img/1.png")])], "b.parquet", "counting")
    one, other = (load_source(name).samples[0].images for name in ("a.parquet", "b.parquet"))
    assert one == other and one[0] == (tmp_path / "img/1.png").read_bytes()


@pytest.mark.parametrize(
    ("rows", "task", "named"),
    [
        ([], "counting", ["rows"]),
        (["a"], "counting", ["row 1", "str", "dict"]),
        ([row(), row(answer="many")], "counting", ["row 2", "many"]),
        ([row(), row(images=["nowhere.png"])], "counting", ["row 2", "nowhere.png"]),
        ([row(images=[b"no picture"])], "counting", ["row 1"]),
        ([row(images=[Image.new("F", (8, 8))])], "counting", ["row 1", "floating-point"]),
        ([row(id="a"), row(id="b"), row(id="a")], "counting", ["row 3", "row 1"]),
        ([row()], "countin", ["row 1", "countin", "counting"]),
        ([row()], None, ["rows", "task"]),
        ([{"images": [], "answer": 1}], "counting", ["rows", "question"]),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, rows: list[Any], task: str | None, named: list[str]) -> None:
    with pytest.raises(ValueError, match=naming(*named)) as caught:
        build_rows(rows, tmp_path / "rows.parquet", task=task)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_rows_go_to_a_file_of_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming("rows.csv", ".parquet", ".jsonl")):
        build_rows([row()], tmp_path / "rows.csv", task="counting")


def test_rows_with_videos_go_into_json_lines(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films/1.mp4").write_bytes(mp4())
    rows = [row(videos=["1.mp4"]), row(videos=[mp4(Clip(28, 28, 4))]), row(videos=[[picture(), picture("red")]])]
    with pytest.raises(ValueError, match=naming("rows:1", "video", ".jsonl")):
        build_rows(rows, tmp_path / "rows.parquet", "counting", image_root=tmp_path / "films")
    path = build_rows(rows, tmp_path / "rows.jsonl", "counting", image_root=tmp_path / "films")
    samples = load_source(str(path)).samples
    shapes = [measure_video(sample.videos[0], FrameSampling()) for sample in samples]
    assert [(shape.width, shape.height, shape.times.num_frames) for shape in shapes] == [
        (56, 56, 6), (28, 28, 4), (60, 40, 2),
    ]  # fmt: skip
    assert all(len(sample.images) == 1 for sample in samples)


def test_a_video_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming("row 2", "cannot open video", "MP4")):
        build_rows([row(), row(videos=[b"no video"])], tmp_path / "rows.jsonl", task="counting")
    assert list(tmp_path.iterdir()) == []


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_of_completions() -> None:
    texts = ["<think>2+2</think><answer>4</answer>", "<think></think><answer>5</answer>", "4"]
    rewards = score([{"completion": text, "answer": 4} for text in texts], "counting")
    assert [reward.parts["correct"] for reward in rewards] == [1, 0, 0]
    assert [reward.status for reward in rewards] == ["ok", "ok", "unparsable"]
    assert rewards[0].total == pytest.approx(1.2)
    boxed = score([{"completion": r"<think></think>\boxed{4}", "answer": "4"}], "counting", answer_in="boxed")
    assert boxed[0].parts["correct"] == 1


def test_completions_that_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match=naming("row 2", "completion")):
        score([{"completion": "a", "answer": "4"}, {"answer": "4"}], "counting")
    for words, named in (({"scorer": "legcy"}, "legcy"), ({"answer_in": "tag"}, "tag")):
        with pytest.raises(ValueError, match=naming(*words, named)):
            score([{"completion": "4", "answer": "4"}], task="counting", **words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=naming("answer_in", "boxed", "scorer")):
        score([], "counting", scorer="legacy", answer_in="boxed")


# --- a run ------------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """A run, and what its callbacks were told."""

    recipe: dict[str, Any]
    folder: Path
    checkpoint: Path = Path()
    thread: str = ""
    steps: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    validations: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    saves: list[tuple[int, Path]] = field(default_factory=list)

    def train(self) -> None:
        self.thread = threading.current_thread().name
        self.checkpoint = train(
            self.recipe,
            {"run.output_dir": self.folder, "run.record": {"every": 2}},
            on_step=lambda *told: self.steps.append(told),
            on_validation=lambda *told: self.validations.append(told),
            on_save=lambda *told: self.saves.append(told),
        )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path]) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "own.py").write_text(OWN_CODE)
    rows = [
        {"images": [each.images[0]], "question": each.question, "answer": each.answer}
        for each in draw_samples("counting", 12, seed=0)
    ]
    path = build_rows(rows, folder / "rows.parquet", task="counting")
    return {
        "model": {"path": model_folders["qwen2_vl"], "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "data": {"train": [path], "eval": [path]},
        "prompt": {"template": "{question}"},
        "rewards": {"functions": [f"{folder / 'own.py'}:noise"]},
        "rollout": {"prompts_per_step": 3, "group_size": 3, "max_new_tokens": 6},
        "objective": {"beta_th": 0.0},
        "update": {"learning_rate": 1e-3},
        "run": {"steps": 4, "save_every": 2, "eval_every": 2, "trackers": [], "save_total_limit": None},
        "evaluation": {"limit": 4},
    }


@pytest.fixture(scope="module")
def seen(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A run in a thread that is not the main one, as that of a notebook's widget."""
    found = Seen(recipe, tmp_path_factory.mktemp("runs") / "run")
    thread = threading.Thread(target=found.train, name="not the main one")
    thread.start()
    thread.join()
    return found


def test_a_run_outside_the_main_thread_tells_of_steps_validations_and_checkpoints(seen: Seen) -> None:
    assert seen.thread == "not the main one"
    assert seen.checkpoint == seen.folder / "checkpoint-4"
    logged = read_metrics(seen.folder)
    steps = [line for line in logged if "reward" in line]
    assert [{"step": step, **metrics} for step, metrics in seen.steps] == steps and len(steps) == 4
    scores = [(line["step"], line["eval"]["counting"]["value"]) for line in logged if "eval" in line]
    assert [(step, told["counting"].value) for step, told in seen.validations] == scores and len(scores) == 2
    assert seen.saves == [(2, seen.folder / "checkpoint-2"), (4, seen.folder / "checkpoint-4")]


def test_it_is_the_run_of_the_command(seen: Seen, tmp_path: Path) -> None:
    train_recipe(load_recipe(str(seen.folder / "recipe.yaml"), ["--run.output_dir", str(tmp_path / "run")]))
    assert sampled(tmp_path / "run") == sampled(seen.folder)
    assert without_seconds(tmp_path / "run") == without_seconds(seen.folder)


def test_what_a_callback_raises_ends_the_run_which_the_same_call_resumes(seen: Seen, tmp_path: Path) -> None:
    keys = {"run.output_dir": tmp_path / "run", "run.eval_every": 0}

    def stop(step: int, metrics: dict[str, Any]) -> None:
        if step == 3:
            raise ConnectionError("a server of the caller's")  # an OSError, as a disk that is full

    with pytest.raises(ConnectionError):
        train(seen.recipe, keys, on_step=stop)
    assert [path.name for path in find_checkpoints(tmp_path / "run")] == ["checkpoint-2", "checkpoint-3"]
    steps: list[int] = []
    train(seen.recipe, keys, on_step=lambda step, _: steps.append(step))
    assert steps == [4]
    assert sampled(tmp_path / "run") == sampled(seen.folder)


def test_recipes_in_every_form_are_the_same(recipe: dict[str, Any], seen: Seen) -> None:
    keys = {"run.output_dir": seen.folder, "run.record": {"every": 2}}
    of_dict = gpg_vl.api._read_recipe(recipe, keys)
    of_file = gpg_vl.api._read_recipe(seen.folder / "recipe.yaml", None)
    assert of_dict == of_file == gpg_vl.api._read_recipe(of_dict, {}) == load_recipe(str(seen.folder / "recipe.yaml"))


@pytest.mark.parametrize(
    "values",
    [{"model.lora": {"r": 4}}, {"model.lora": None}, {"run.seed": "7"}, {"update.learning_rate": 1e-6},
     {"prompt.template": "--{question}: é 'a'\n\"b\""}, {"data.train": [{"path": Path("a"), "weight": 2}]},
     {"data.train": "a.parquet"}, {"rewards.weights": {"format": 0.5}}, {"objective.alpha": False}],
)  # fmt: skip
def test_keys_take_values_of_python(values: dict[str, Any]) -> None:
    [(key, value)] = values.items()
    section, name = key.split(".")
    read = getattr(getattr(gpg_vl.api._read_recipe({}, values), section), name)
    wanted: Any = {"model.lora": value and 4, "run.seed": 7, "data.train": [{"path": "a", "weight": 2}]}.get(key, value)
    if value == "a.parquet":
        wanted = ["a.parquet"]
    assert getattr(read, "r", read) == wanted


def test_a_wrong_key_is_named(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=naming("run.stpes", "run.steps")):
        train(recipe, {"run.stpes": 3})
    with pytest.raises(ValueError, match=naming("rollout.group_size", "many")):
        train({**recipe, "rollout": {"group_size": "many"}})


def test_evaluations_are_those_of_the_command(recipe: dict[str, Any], seen: Seen, tmp_path: Path) -> None:
    rows = recipe["data"]["eval"][0]
    scores = evaluate(seen.folder, rows, keys={"evaluation.num_samples": 2, "evaluation.temperature": 1.0})
    assert scores["counting"].n == 4 and scores["counting"].num_samples == 2
    given = evaluate(seen.folder, [rows], recipe=recipe, keys={"rewards.functions": []}, out=tmp_path / "scores")
    words = ["--model.path", str(seen.checkpoint), "--rewards.functions", "[]"]
    assert given == evaluate_model(load_recipe(str(seen.folder / "recipe.yaml"), words), None)
    assert (tmp_path / "scores/results.json").is_file()


def test_what_a_run_left(seen: Seen) -> None:
    run = read_run(seen.folder)
    assert run.metrics == read_metrics(seen.folder)
    assert run.recipe["rollout"]["group_size"] == 3
    assert run.checkpoints == find_checkpoints(seen.folder)
    assert sorted({group.step for group in run.groups}) == [1, 2, 4]
    group = run.groups[0]
    assert len(group.completions) == 3 and group.completions[0].parts.keys() == {"correct", "format", "noise"}
    assert [image.size for image in group.pictures()] == [Image.open(group.picture_files[0]).size]
    with pytest.raises(ValueError, match=naming(seen.folder.parent, "metrics.jsonl")):
        read_run(seen.folder.parent)


def test_the_report_is_shown_inline(seen: Seen, tmp_path: Path) -> None:
    made = report(seen.folder, out=tmp_path / "page.html")
    assert made.path == tmp_path / "page.html"
    shown = made._repr_html_()
    assert shown.startswith("<iframe") and "allow-same-origin" not in shown
    page = shown.partition('srcdoc="')[2].removesuffix('"></iframe>')
    assert '"' not in page and "<" not in page
    assert unescape(page) == made.path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=naming("run.output_dir")):
        report()


# --- what is public ---------------------------------------------------------------------------------------------------


def test_public_names_are_on_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs/python.md").read_text()
    assert [name for name in gpg_vl.api.__all__ if f"`{name}" not in page and f"{name}(" not in page] == []
    assert [name for name in gpg_vl.api.__all__ if getattr(gpg_vl.api, name).__doc__ is None] == []


def test_arguments_on_the_page_are_those_of_the_functions() -> None:
    page = (Path(__file__).parents[1] / "docs/python.md").read_text()
    written = {name: words.split(", ") for name, words in re.findall(r"^\| `(\w+)\(([^)]*)\)`", page, re.MULTILINE)}
    functions = {name: getattr(gpg_vl.api, name) for name in gpg_vl.api.__all__ if name.islower()}
    assert {name: [word.strip("*") for word in words] for name, words in written.items()} == {
        name: list(inspect.signature(function).parameters) for name, function in functions.items()
    }
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                keywords = {word.arg: None for word in node.keywords if word.arg}
                inspect.signature(functions[node.func.id]).bind(*node.args, **keywords)


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, gpg_vl.api; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
