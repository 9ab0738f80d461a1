"""docs/metrics.md against what runs write: every key has a meaning there, and every key there is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_jsonl
from gpg_vl.records import LoggedStep, StepTotals
from gpg_vl.run.run_log import read_metrics
from gpg_vl.run.speed import describe_speed
from gpg_vl.train import train
from tests.support.small_recipes import small_recipe

PAGE = Path(__file__).parents[1] / "docs/metrics.md"
Path_ = tuple[str, ...]

NOISE = """
def noise(completions, log_metric, **kwargs):
    log_metric("groups", 1.0)
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
"""


def documented() -> dict[Path_, str]:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 40
    return {tuple(key.split(".")): meaning for key, meaning in rows}


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where numbers, words and nulls stand; nothing for an empty dict."""
    if not isinstance(value, dict):
        yield path
        return
    for name, each in value.items():
        yield from leaves(each, (*path, name))


def is_of(path: Path_, key: Path_) -> bool:
    """Whether a key of the page, with words in capitals for names, stands for a path."""
    pairs = list(zip(path, key, strict=False))
    return len(path) == len(key) and all(word.isupper() or name == word for name, word in pairs)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path]) -> set[Path_]:
    """The paths in the metrics of a run that uses all that writes any."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "functions.py").write_text(NOISE)
    samples = draw_samples("counting", 12, seed=0)
    write_jsonl(samples, folder / "rows.jsonl")
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    broken = {**lines[0], "id": "broken", "images": ["no-image.png"]}
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*lines, broken]))
    (folder / "eval.jsonl").write_text("".join(f"{json.dumps({**row, 'category': 'a'})}\n" for row in lines[:2]))
    keys = {
        "model.path": str(model_folders["qwen2_vl"]), "data.train": [str(folder / "rows.jsonl")],
        "data.on_bad_image": "skip", "rewards.functions": [f"{folder}/functions.py:noise"],
        "rollout.prompts_per_step": 2, "rollout.group_size": 2, "rollout.max_new_tokens": 3,
        "objective.name": "grpo", "objective.kl_coefficient": 0.01, "update.learning_rate": 1e-7,
        "rollout.refresh": {"trigger": "shift", "threshold": 0.05, "max_uses": 2},
        "data.eval": [str(folder / "eval.jsonl")], "evaluation.num_samples": 2, "evaluation.temperature": 1.0,
        "run.steps": 2, "run.eval_every": 1, "run.save_every": 1, "run.output_dir": str(folder / "run"),
    }  # fmt: skip
    train(small_recipe(keys, {}))
    return {path for row in read_metrics(folder / "run") for path in leaves(row)}


def on_cuda() -> set[Path_]:
    """What a step writes there alone."""
    step = LoggedStep([], [], StepTotals(1, 1, 8, 1, 1, 8), 1, 0.5, 0.1)
    return set(leaves({"speed": describe_speed(step, 1.0, 2**30, useful_flops=1e12, total_rate=1e15)}))


def test_every_number_has_a_meaning(written: set[Path_]) -> None:
    page = documented()
    unexplained = {path for path in written | on_cuda() if sum(is_of(path, key) for key in page) != 1}
    assert unexplained == set()


def test_every_meaning_is_of_a_number(written: set[Path_]) -> None:
    found = written | on_cuda()
    assert [key for key in documented() if not any(is_of(path, key) for path in found)] == []
    assert {"useful_flops", "mfu"} == {path[-1] for path in on_cuda() - written}, "on CUDA alone"


def test_an_unknown_key_would_be_noticed() -> None:
    assert is_of(("parts", "correct"), ("parts", "PART"))
    assert not is_of(("part", "correct"), ("parts", "PART"))
    assert not is_of(("seconds", "waiting"), ("seconds", "step")) and not is_of(("speed",), ("speed", "mfu"))
