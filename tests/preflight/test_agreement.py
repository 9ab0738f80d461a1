"""Ranks with another recipe, other rows or another model than the first one are refused, on all ranks alike."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from data_tools.generate import draw_samples
from gpg_vl.config import Recipe
from gpg_vl.data.sources import write_parquet
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.preflight import agreement
from gpg_vl.preflight.agreement import OF_A_NODE, check_same_content, check_same_recipe, find_model
from gpg_vl.preflight.pins import take_pins
from gpg_vl.preflight.sources import load_sources
from gpg_vl.processes.ranks import RankError
from gpg_vl.recipes import load_recipe
from tests.support.messages import lines_naming
from tests.support.tiny_runs import fork_ranks, join_ranks, train_words, write_recipe_folder

SECONDS = 200  # of a start that ought to take 10, on a busy machine


def of_all(checks: Sequence[Callable[[], None]]) -> list[str | None]:
    """What each rank raises; the ranks are threads, which exchange as processes do."""
    given: list[Any] = [None] * len(checks)
    found: list[str | None] = [None] * len(checks)
    barrier = threading.Barrier(len(checks))
    mine = threading.local()

    def gather(values: list[Any]) -> list[Any]:
        given[mine.rank] = values
        barrier.wait(20)
        return [each for values in given for each in values]

    def run(rank: int) -> None:
        mine.rank = rank
        try:
            checks[rank]()
        except RankError as error:
            found[rank] = str(error)

    with mock.patch.object(agreement, "gather_object", gather):
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(checks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def check_recipes(*recipes: Recipe) -> str | None:
    checks = [lambda recipe=recipe: check_same_recipe(recipe) for recipe in recipes]
    said, *others = of_all(checks)
    assert others == [said] * len(others), "all ranks say the same"
    return said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.seed", 43),
        ("update.learning_rate", 2e-6),
        ("model.lora", '{"r": 4}'),
        ("data.train", '[{"path": "rows.parquet", "weight": 2.0}]'),
        ("data.train", "[rows.parquet, rows.parquet]"),
        ("rewards.functions", "[/a/own.py:silence]"),
        ("run.output_dir", "runs/other"),
        ("task", "counting"),
    ],
)
def test_the_key_that_differs_is_named_with_both_values(key: str, value: object) -> None:
    words = ["--data.train=[rows.parquet]", "--rewards.functions=[/a/own.py:noise]"]
    one, other = load_recipe(None, words), load_recipe(None, [*words, f"--{key}={value}"])
    said = check_recipes(one, one, other)
    section, _, name = key.partition(".")
    values = [getattr(getattr(each, section), name) if name else each.task for each in (one, other)]
    plain = [json.loads(json.dumps(each, default=vars)) for each in values]
    assert said is not None and said.startswith(f"{key} is {plain[0]!r} on rank 0")
    assert f"{plain[1]!r} on rank 2" in said


def test_a_node_may_have_folders_and_processors_of_its_own() -> None:
    words = ["--data.train=[/b/others.parquet]", "--rewards.functions=[/b/own.py:noise]", "--data.workers=3"]
    words += ["--model.path=/b/model"]
    one = load_recipe(
        None, ["--data.train=[/a/rows.parquet]", "--rewards.functions=[/a/own.py:noise]", "--model.path=/a"]
    )
    other = load_recipe(None, [*words, "--model.device=cpu", "--run.trackers=[]"])
    assert check_recipes(one, other) is None
    assert check_recipes(one) is None, "one process"
    plain = one.to_plain()
    assert all(key.partition(".")[2] in plain[key.partition(".")[0]] for key in OF_A_NODE)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two with the same rows, code and model."""
    found = [tmp_path / "a", tmp_path / "b"]
    for folder in found:
        folder.mkdir()
        write_parquet(draw_samples("counting", 4, seed=0), folder / "rows.parquet")
        (folder / "own.py").write_text("def noise(completions, **kwargs):\n    return [1.0 for _ in completions]\n")
        (folder / "model").mkdir()
        (folder / "model/config.json").write_text("{}")
        (folder / "model/model.safetensors").write_bytes(b"weights")
    return found


def check_folders(folders: Sequence[Path], *, reads_weights: bool = True) -> str | None:
    checks = []
    for folder in folders:
        words = [f"--data.train=[{folder}/rows.parquet]", f"--rewards.functions=[{folder}/own.py:noise]"]
        recipe = load_recipe(None, [*words, f"--model.path={folder}/model"])
        checked = load_sources(recipe.data.train, recipe, "data.train")
        found = take_pins(recipe, [], None)
        model = find_model(recipe.model.path, None)
        check = partial(check_same_content, [checked], found, model, reads_weights=reads_weights)
        checks.append(check)
    said, *others = of_all(checks)
    assert others == [said] * len(others), "all ranks say the same"
    return said


def test_the_same_content_in_other_folders_is_the_same(folders: list[Path]) -> None:
    assert check_folders(folders) is None


def test_other_rows_are_named_with_both_files(folders: list[Path]) -> None:
    write_parquet(draw_samples("counting", 3, seed=1), folders[1] / "rows.parquet")
    said = check_folders([folders[0], *folders])
    assert said is not None
    files = [folder / "rows.parquet" for folder in folders]
    assert lines_naming(said, "data.train", "rank 0", "rank 2", *files, "4 rows", "3 rows")


def test_other_code_and_another_model_are_named(folders: list[Path]) -> None:
    (folders[1] / "model/model.safetensors").write_bytes(b"others")
    said = check_folders(folders)
    assert said is not None and lines_naming(said, "model.path", *(folder / "model" for folder in folders), "rank 1")
    (folders[1] / "own.py").write_text("def noise(completions, **kwargs):\n    return [0.0 for _ in completions]\n")
    said = check_folders(folders)
    assert said is not None and lines_naming(said, "rewards.functions", "own.py", "rank 1")


def test_a_rank_that_is_handed_the_weights_needs_config_and_processor(folders: list[Path]) -> None:
    for folder in folders:
        (folder / "model/tokenizer.json").write_text("{}")
    (folders[1] / "model/model.safetensors").unlink()
    (folders[1] / "model/README.md").write_text("a copy")
    assert check_folders(folders, reads_weights=False) is None
    (folders[1] / "model/tokenizer.json").write_text("[]")
    said = check_folders(folders, reads_weights=False)
    assert said is not None and lines_naming(said, "model.path", "processor", folders[1] / "model", "rank 1")


@pytest.mark.faults
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize(
    ("layout", "words"),
    [
        pytest.param("zero0", [], marks=pytest.mark.faults_ci),
        ("zero0", ["--model.lora", '{"r": 2}']),
        ("zero1", []),
        ("zero3", []),
        ("fsdp", ["--objective.name", "grpo", "--objective.kl_coefficient", "0.1"]),
    ],
)
def test_a_node_without_weights_starts_and_resumes(
    tmp_path: Path, model_folders: dict[str, Path], layout: str, words: list[str]
) -> None:
    """In every layout, also where the run goes back to the model that it started from."""
    folder = write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], {"run": {"save_every": 1}})
    bare = tmp_path / "bare"
    shutil.copytree(model_folders["qwen2_vl"], bare, ignore=shutil.ignore_patterns("*.safetensors*"))
    for steps in ("1", "2"):
        given = [*train_words("run"), "--task", "counting", "--run.steps", steps, *words]
        ranks = fork_ranks(folder, given, layout, more={1: ["--model.path", str(bare)]})
        assert join_ranks(ranks, SECONDS) == [0, 0], (folder / "log.txt").read_text()
    assert find_checkpoints(folder / "run")[-1].name == "checkpoint-2"


@pytest.mark.faults
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--update.learning_rate", "0.002"], ["update.learning_rate", "0.001", "0.002"]),
        pytest.param(["--data.train", "[others.parquet]"], ["data.train", "24 rows", "5 rows"],
                     marks=pytest.mark.faults_ci),
    ],
)  # fmt: skip
def test_all_ranks_end_with_one_line(
    tmp_path: Path, model_folders: dict[str, Path], words: list[str], named: list[str]
) -> None:
    folder = write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"])
    write_parquet(draw_samples("counting", 5, seed=1), folder / "others.parquet")
    ranks = fork_ranks(folder, train_words("run"), "zero0", 3, more={2: words})
    log = folder / "log.txt"
    assert join_ranks(ranks, SECONDS) == [2, 2, 2], log.read_text()
    said = log.read_text()
    assert len(lines_naming(said, "gpg-vl train", "rank 0", "rank 2", *named)) == 1
    assert said.count("gpg-vl train:") == 1 and "Traceback" not in said
    assert not find_checkpoints(folder / "run")
