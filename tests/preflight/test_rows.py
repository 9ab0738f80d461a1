"""Bad images and long prompts under every policy, on rows alone and in whole runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest

from gpg_vl import assemble as assemble_module
from gpg_vl.config import PromptConfig, Recipe
from gpg_vl.data.sources import Source, write_jsonl
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.preflight.rows import SourceReport, check_rows, few_videos_at_once, show_rows
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.length import Room
from gpg_vl.records import Sample
from gpg_vl.run.run_log import read_metrics
from gpg_vl.tasks import TASKS
from gpg_vl.train import train
from tests.support.builders import make_sample
from tests.support.messages import lines_naming, naming
from tests.support.small_recipes import MakeRecipe, small_recipe

LoadModel = Callable[..., QwenVLAdapter]

GOOD = [make_sample(seed=number) for number in range(3)]
BROKEN = Sample("broken", "counting", (make_sample().images[0][:300],), "How many shapes?", "4")
MISSING = Sample("missing", "counting", ("/nowhere/1.png",), "How many shapes?", "4")
WIDE = make_sample([(400, 100), (60, 60)], seed=90)
LONG = make_sample(seed=91, question="How many? " * 200)


def check(adapter: QwenVLAdapter, rows: list[Sample], limit: int, *causes: Any, shrinks: bool = False) -> SourceReport:
    room = Room(8, {4000: "raise the other key", limit: "raise some.key"})
    shrink_to = room.longest_prompt if shrinks else None
    prompts = PromptBuilder(adapter, TASKS, PromptConfig(template="{question}"), shrink_to=shrink_to)
    [report] = check_rows([Source("rows.jsonl", 1.0, rows)], prompts, room, causes)
    return report


@pytest.mark.parametrize(("row", "image"), [(BROKEN, "300 bytes"), (MISSING, "/nowhere/1.png")])
def test_bad_images(load: LoadModel, row: Sample, image: str) -> None:
    rows = [GOOD[0], row, GOOD[1]]
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", image, "data.on_bad_image", "skip")):
        check(load(), rows, 4000, "long_prompt")
    report = check(load(), rows, 4000, "bad_image")
    [left_out] = report.left_out
    assert (left_out.id, left_out.cause) == (row.id, "bad_image")
    assert re.search(naming("rows.jsonl", "row 2", image), left_out.text)
    assert (report.num_rows, report.num_shrunk) == (3, 0)


def test_long_prompts(load: LoadModel) -> None:
    adapter = load()
    rows = [*GOOD, WIDE, LONG]
    build = PromptBuilder(adapter, TASKS, PromptConfig(template="{question}")).build
    num_tokens = {row.id: len(build(row).encoded.token_ids) for row in rows}
    limit = num_tokens[WIDE.id] + 7
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 4", num_tokens[WIDE.id], 8, limit, "some.key")):
        check(adapter, rows, limit, "bad_image")
    assert not check(adapter, rows[:4], limit + 1).left_out, "one token more is room enough"
    report = check(adapter, rows, limit, "long_prompt")
    assert [(row.id, row.cause) for row in report.left_out] == [(WIDE.id, "long_prompt"), (LONG.id, "long_prompt")]
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 5", limit, "some.key")):
        check(adapter, rows, limit, shrinks=True)
    report = check(adapter, rows[:4], limit, shrinks=True)
    assert (report.left_out, report.num_shrunk) == ((), 1)


def test_other_mistakes_end_the_run_under_every_policy(load: LoadModel) -> None:
    rows = [GOOD[0], make_sample(seed=5, question="How <image> and <image>?")]
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", "question", "<image>", 2, 1)):
        check(load(), rows, 4000, "bad_image", "long_prompt")


def test_the_table_and_the_list(load: LoadModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*GOOD, *(replace(BROKEN, id=f"broken-{number}") for number in range(22)), LONG]
    show_rows([check(load(), rows, 200, "bad_image", "long_prompt")], tmp_path)
    text = capsys.readouterr().err
    lines = text[text.index("rows  ") :].splitlines()
    assert lines[0].split("  ")[-1] == "scaled down"
    assert len(lines[0]) == len(lines[1]) <= 80
    assert lines[1].split() == ["rows.jsonl", "26", "3", "22", "1", "0"]
    assert re.search(naming("rows.jsonl", "row 4"), lines[2])
    assert re.search(naming(3, "rows_left_out.txt"), lines[-1])
    assert len((tmp_path / "rows_left_out.txt").read_text().splitlines()) == 23


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve rows: the images of two are broken, and the prompts of two too long for a row of 100 tokens."""
    samples = [make_sample(seed=number) for number in range(8)]
    samples += [BROKEN, replace(BROKEN, id="empty", images=(b"",))]
    samples += [make_sample([(300, 200)], seed=20 + number) for number in range(2)]
    write_jsonl(samples, tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


@pytest.fixture
def make_recipe(rows: Path, model_folders: dict[str, Path]) -> MakeRecipe:
    values = {
        "model.path": str(model_folders["qwen2_vl"]),
        "model.max_pixels": 784 * 100,
        "data.train": [str(rows)],
        "rollout.prompts_per_step": 3,
        "rollout.group_size": 2,
        "rollout.max_new_tokens": 4,
        "update.tokens_per_micro_batch": 80,
        "run.steps": 6,
        "run.output_dir": str(rows.parent / "run"),
    }

    def make(**overrides: Any) -> Recipe:
        return small_recipe(values, overrides)

    return make


def sampled(run: Path) -> list[list[str]]:
    """The ids of each step's samples."""
    files = sorted((run / "rollouts").glob("*.jsonl"))
    return [[json.loads(line)["id"] for line in file.read_text().splitlines()] for file in files]


def test_the_default_refuses_before_the_first_step(make_recipe: MakeRecipe, rows: Path) -> None:
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 9", "data.on_bad_image", "skip")):
        train(make_recipe())
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 11", "data.on_long_prompt", "drop", "shrink")):
        train(make_recipe(data__on_bad_image="skip"))
    assert not (rows.parent / "run/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("reasoning", "named"),
    [
        ("2 and 2. " * 30, ["gold", 150, "update.tokens_per_micro_batch"]),
        ("so <|im_end|>", ["gold", "<|im_end|>"]),
    ],
)
def test_gold_completions_that_cannot_be_imitated_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, reasoning: str, named: list[Any]
) -> None:
    write_jsonl([make_sample(), replace(make_sample(seed=1), meta={"reasoning": reasoning})], tmp_path / "gold.jsonl")
    words = {"data__train": [str(tmp_path / "gold.jsonl")], "run__steps": 1}
    with pytest.raises(ValueError, match=naming("gold.jsonl", "row 2", *named)):
        train(make_recipe(**words, objective__name="supervised", update__tokens_per_micro_batch=150))
    assert not (tmp_path / "run/metrics.jsonl").exists()
    train(make_recipe(**words, update__tokens_per_micro_batch=150))  # it is in no one's way where it is not imitated


@pytest.mark.parametrize("on_long_prompt", ["drop", "shrink"])
def test_a_run_on_what_is_left(
    make_recipe: MakeRecipe, rows: Path, capsys: pytest.CaptureFixture[str], on_long_prompt: str
) -> None:
    """Every usable row is drawn, no other is; counted on screen and in the log."""
    train(make_recipe(data__on_bad_image="skip", data__on_long_prompt=on_long_prompt))
    run = rows.parent / "run"
    usable = {f"counting-{number}" for number in range(8)}
    usable |= {"counting-20", "counting-21"} if on_long_prompt == "shrink" else set()
    ids = sampled(run)
    assert {sample_id for step in ids for sample_id in step} == usable
    assert [len(step) for step in ids] == [3] * 6
    long = {"long_prompt": 2} if on_long_prompt == "drop" else {}
    assert [row["left_out"] for row in read_metrics(run)] == [{"bad_image": 2, **long}] * 6
    assert [row["shrunk_rows"] for row in read_metrics(run)] == [2 - len(long) * 2] * 6
    [table] = [line for line in capsys.readouterr().err.splitlines() if line.startswith(str(rows)[-22:] + " ")]
    counts = ["12", "8", "2", "2", "0"] if on_long_prompt == "drop" else ["12", "10", "2", "0", "2"]
    assert table.split()[-5:] == counts
    assert len((run / "rows_left_out.txt").read_text().splitlines()) == (4 if on_long_prompt == "drop" else 2)


def test_rows_that_were_scaled_down_are_counted_after_a_resume(
    make_recipe: MakeRecipe, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = {"data__on_bad_image": "skip", "data__on_long_prompt": "shrink"}
    train(make_recipe(**policies, run__steps=1, update__schedule="constant"))
    train(make_recipe(**policies, run__steps=2, update__schedule="constant"))
    assert lines_naming(capsys.readouterr().err, "run", "step 1", "2 rows", "2 scaled")
    assert [row["shrunk_rows"] for row in read_metrics(rows.parent / "run")] == [2, 2]


def test_rows_that_break_during_the_run_are_replaced_and_stay_out_after_a_resume(
    make_recipe: MakeRecipe, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image is whole at the start-up check, gone in the first epoch, back again for the second process."""
    from gpg_vl.data.images import BadImage, open_image
    from gpg_vl.prompts import builder as prompting

    policies = {"data__on_bad_image": "skip", "data__on_long_prompt": "drop"}
    victim = (rows.parent / "rows_images/3-0.png").read_bytes()

    def opens(source: str | bytes, *hosts: Any) -> Any:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        if is_training and content == victim:
            raise BadImage("cannot open image 3-0.png: no such file")
        return open_image(source, *hosts)

    is_training = False
    monkeypatch.setattr(prompting, "open_image", opens)
    original = assemble_module.show_rows

    def start(*words: Any) -> None:
        nonlocal is_training
        is_training = True
        original(*words)

    monkeypatch.setattr(assemble_module, "show_rows", start)
    run = rows.parent / "run"
    train(make_recipe(**policies, run__steps=3, update__schedule="constant", data__workers=2))
    is_training = False
    assert lines_naming(capsys.readouterr().err, "left out", "counting-2", "3-0.png")
    assert read_metrics(run)[-1]["left_out"] == {"bad_image": 3, "long_prompt": 2}
    train(make_recipe(**policies, run__steps=6, update__schedule="constant"))
    assert lines_naming(capsys.readouterr().err, "run", "step 3", "5 rows")
    ids = sampled(run)
    assert [len(step) for step in ids] == [3] * 6
    assert {sample_id for step in ids for sample_id in step} == {f"counting-{n}" for n in range(8) if n != 2}
    is_training = True
    train(
        make_recipe(**policies, run__steps=6, update__schedule="constant", run__output_dir=str(rows.parent / "whole"))
    )
    assert sampled(rows.parent / "whole") == ids, "as without the interruption"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_during_the_run_ends_it_by_default(
    make_recipe: MakeRecipe, rows: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The message has the way out, and that way goes on from the same place; a worker that finds it says the same."""
    original = assemble_module.show_rows

    def start(*words: Any) -> None:
        (rows.parent / "rows_images/4-0.png").unlink()
        original(*words)

    good = rows.parent / "good.jsonl"
    good.write_text("".join(rows.read_text().splitlines(keepends=True)[:4]))
    recipe = {"data__train": [str(good)], "rollout__prompts_per_step": 1, "data__workers": workers}
    with monkeypatch.context() as patch:
        patch.setattr(assemble_module, "show_rows", start)
        with pytest.raises(ValueError, match=naming("counting-3", "4-0.png", "data.on_bad_image", "skip")):
            train(make_recipe(**recipe))
    train(make_recipe(**recipe, data__on_bad_image="skip"))
    ids = sampled(rows.parent / "run")
    assert (len(ids), "counting-3" in str(ids)) == (6, False)


def test_no_row_is_left(make_recipe: MakeRecipe, rows: Path) -> None:
    bad = rows.parent / "bad.jsonl"
    bad.write_text("".join(rows.read_text().splitlines(keepends=True)[8:10]))
    with pytest.raises(ValueError, match=naming("data.train", "bad.jsonl", "row 1")):
        train(make_recipe(data__train=[str(bad)], data__on_bad_image="skip"))


def test_validation_leaves_no_row_out(make_recipe: MakeRecipe, rows: Path) -> None:
    """A bad image counts as wrong there; the training limit does not scale a validation image down."""
    lines = rows.read_text().splitlines(keepends=True)
    (rows.parent / "train.jsonl").write_text("".join(lines[:4]))
    (rows.parent / "eval.jsonl").write_text("".join(lines[7:]))
    data = {"data__train": [str(rows.parent / "train.jsonl")], "data__eval": [str(rows.parent / "eval.jsonl")]}
    with pytest.raises(ValueError, match=naming("eval.jsonl", "row 2", "image")):
        train(make_recipe(**data, run__eval_every=1, run__steps=1))
    train(
        make_recipe(**data, run__eval_every=1, run__steps=1, data__on_bad_image="skip", data__on_long_prompt="shrink")
    )
    [score] = [row["eval"]["counting"] for row in read_metrics(rows.parent / "run") if "eval" in row]
    assert (score["n"], score["status"]["no_image"]) == (5, 2)


def test_a_few_rows_with_videos_are_read_at_a_time() -> None:
    """Ten threads: four of them hold a video, and a row without one passes them."""
    gate, at_once = Barrier(4, timeout=20), []
    running = 0
    lock = Lock()

    def measure(sample: Any) -> Any:
        nonlocal running
        if not sample.videos:
            return sample
        with lock:
            running += 1
            at_once.append(running)
        gate.wait()
        with lock:
            running -= 1
        return sample

    rows = [Sample(str(n), "counting", (), "?", "4", videos=(b"",)) for n in range(8)]
    measured = few_videos_at_once(measure)
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(measured, [*rows, Sample("none", "counting", (), "?", "4")]))
    assert len(found) == 9 and max(at_once) == 4


# --- two ranks -------------------------------------------------------------------------------------------------------


def train_on_two_ranks(recipe: Recipe, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(json.dumps(recipe.to_plain()))
    script = Path(__file__).parents[1] / "support/lost_image.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(script.parents[2])}
    return subprocess.run(
        [*command, "train", str(folder / "recipe.yaml")],
        env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.mark.faults
def test_what_one_rank_cannot_open_all_leave_out(make_recipe: MakeRecipe, rows: Path) -> None:
    """At the start each rank opens half of the rows; later one rank loses an image that the other never opens."""
    policies = {"data__on_bad_image": "skip", "data__on_long_prompt": "drop"}
    done = train_on_two_ranks(make_recipe(**policies, rollout__prompts_per_step=4), rows.parent)
    assert done.returncode == 0, done.stderr
    run = rows.parent / "run"
    assert [row["left_out"] for row in read_metrics(run)][-1] == {"bad_image": 3, "long_prompt": 2}
    assert len((run / "rows_left_out.txt").read_text().splitlines()) == 4
    [lost] = {re.findall(r"counting-\d+", line)[0] for line in lines_naming(done.stderr, "left out", "image", "lost")}
    ids = sampled(run)
    assert [len(step) for step in ids] == [4] * 6
    drawn = {sample_id for step in ids for sample_id in step}
    assert drawn == {f"counting-{number}" for number in range(8)} - {lost}


@pytest.mark.faults
def test_what_one_rank_cannot_open_ends_all_by_default(make_recipe: MakeRecipe, rows: Path) -> None:
    good = rows.parent / "good.jsonl"
    good.write_text("".join(rows.read_text().splitlines(keepends=True)[:8]))
    done = train_on_two_ranks(make_recipe(data__train=[str(good)]), rows.parent)
    assert done.returncode != 0
    assert re.search(r"rank 1\b.*counting-\d", done.stderr)
