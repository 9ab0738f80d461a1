"""``gpg-vl prefer``: from a recipe to a reward part, with labels from each source."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.generate import draw_samples
from gpg_vl import cli
from gpg_vl.commands import prefer as prefer_module
from gpg_vl.commands.prefer import HELD_OUT_SHARE, AnswerPair
from gpg_vl.commands.preference_labels import Preference
from gpg_vl.config import ModelConfig
from gpg_vl.data.sources import load_source, write_parquet
from gpg_vl.learned.features import read_completions
from gpg_vl.learned.head import load_head
from gpg_vl.models import load_adapter
from gpg_vl.preflight.sources import load_sources
from gpg_vl.prompts.length import build_prompts, training_room
from gpg_vl.records import Completion, Reward, ScoredGroup
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.builders import SMALL_IMAGES
from tests.support.hostile_groups import group as make_group
from tests.support.messages import lines_naming, naming
from tests.support.small_recipes import small_recipe

LONGER = """
def longer(completions, **kwargs):
    return [len(messages[0]["content"]) / 100 for messages in completions]
"""


@pytest.fixture
def keys(tmp_path: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe whose score is the length of the text, which a linear head on states can learn."""
    monkeypatch.chdir(tmp_path)
    Path("longer.py").write_text(LONGER)
    write_parquet(draw_samples("counting", 12, seed=0), "rows.parquet")
    return {
        "model.path": str(model_folders["qwen2_vl"]),
        "data.train": ["rows.parquet"],
        "rewards.functions": ["longer.py:longer"],
        "rollout.prompts_per_step": 3,
        "rollout.group_size": 5,
        "rollout.max_new_tokens": 8,
        "run.steps": 2,
        "run.output_dir": "run",
    }


def write_recipe(keys: dict[str, Any]) -> str:
    recipe = small_recipe(keys, {})
    Path("recipe.json").write_text(json.dumps(recipe.to_plain()))
    return "recipe.json"


def prefer(keys: dict[str, Any], *words: Any) -> int:
    return cli.main(["prefer", write_recipe(keys), "--out", "out", "--prompts", "10", *map(str, words)])


def labels_in(folder: str = "out") -> list[dict[str, str]]:
    return [json.loads(line) for line in (Path(folder) / "preferences.jsonl").read_text().splitlines()]


def test_a_head_of_the_score_is_a_part_of_the_reward(keys: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert prefer(keys, "--labels", 40, "--held-out", 15) == 0
    assert lines_naming(capfd.readouterr().out, "40 labels", "accuracy", "out")
    info = json.loads(Path("out/preference.json").read_text())
    assert info["labels"] == 40 and 0 <= info["accuracy"] <= 1 and info["pairs"] == "information"
    found = labels_in()
    assert len(found) == 55
    asked, held_out = {each["id"] for each in found[:40]}, {each["id"] for each in found[40:]}
    assert len(held_out) == round(10 * HELD_OUT_SHARE) and not asked & held_out, "measured on prompts of their own"
    for each in found:
        assert (each["preferred"] == "first") == (len(each["first"]) > len(each["second"]))
    train(small_recipe(keys, {"rewards.preference": "out", "rewards.weights": {"preference": 2.0}}))
    assert all(0 < row["parts"]["preference"] < 1 for row in read_metrics(Path("run")))
    rows = [json.loads(line) for line in Path("run/rollouts/000001.jsonl").read_text().splitlines()]
    for each in (each for row in rows for each in row["completions"]):
        parts = each["parts"]
        expected = parts["correct"] + 0.2 * parts["format"] + parts["longer"] + 2 * parts["preference"]
        assert each["reward"] == pytest.approx(expected)


def test_a_second_start_asks_for_what_is_missing(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Somebody labels three pairs, leaves, and comes back for the other two."""
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n1\n"))
    assert prefer(keys, "--labels", 5, "--held-out", 0, "--from", "ask") == 2
    assert lines_naming(capfd.readouterr().err, "input", "same command")
    first = labels_in()
    assert [each["preferred"] for each in first] == ["first", "second", "first"]
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n1\n"))
    assert prefer(keys, "--labels", 5, "--held-out", 0, "--from", "ask") == 0
    assert labels_in()[:3] == first and [each["preferred"] for each in labels_in()[3:]] == ["same", "first"]
    assert json.loads(Path("out/preference.json").read_text())["accuracy"] is None


def count_right(keys: dict[str, Any], lines: list[dict[str, str]]) -> int:
    """How many preferences the head in ``out`` has in their order."""
    recipe = small_recipe(keys, {})
    checked, adapter = load_sources(recipe.data.train, recipe, "data.train"), load_adapter(recipe.model)
    head = load_head(Path("out"), recipe.model)
    builder = build_prompts(recipe, checked.tasks, adapter, training_room(recipe, adapter))
    groups = prefer_module._read_groups([Preference(**line) for line in lines], checked, builder, adapter)  # type: ignore[arg-type]
    values = {
        (group.prompt.sample.id, completion.text): value
        for group, features in zip(groups, read_completions(adapter, groups, recipe.update), strict=True)
        for completion, value in zip(group.completions, head.values(features), strict=True)
    }
    return sum(
        (values[line["id"], line["first"]] > values[line["id"], line["second"]]) == (line["preferred"] == "first")
        for line in lines
    )


def test_preferences_from_a_file(keys: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    """Only its own pairs are asked for; the head is that of its texts."""
    ids = [sample.id for sample in load_source("rows.parquet", None, None).samples]
    texts = [f"<answer>{number}</answer>" for number in range(6)]
    lines = [
        {"id": name, "first": texts[a], "second": texts[b], "preferred": "first" if a > b else "second"}
        for name in ids[:6]
        for a, b in ((0, 1), (3, 2), (4, 5))
    ]
    Path("labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert prefer(keys, "--from", "labels.jsonl", "--labels", 50, "--held-out", 3) == 0
    assert lines_naming(capfd.readouterr().err, "15 pairs", "50")
    known = {(line["id"], frozenset((line["first"], line["second"]))) for line in lines}
    assert {(each["id"], frozenset((each["first"], each["second"]))) for each in labels_in()} == known
    assert count_right(keys, lines) >= 16, "of 18, three of which were held out"
    Path("labels.jsonl").write_text(json.dumps(lines[0] | {"id": "gone"}))
    assert prefer(keys, "--from", "labels.jsonl") == 2
    assert lines_naming(capfd.readouterr().err, "--from", "'gone'")


def test_chosen_pairs_are_others_than_random_ones(keys: dict[str, Any]) -> None:
    for pairs in ("information", "random"):
        assert cli.main(["prefer", write_recipe(keys), "--out", pairs, "--prompts", "8", "--labels", "6",
                         "--pairs", pairs]) == 0  # fmt: skip
    model = ModelConfig(path=keys["model.path"], **SMALL_IMAGES)  # type: ignore[arg-type]
    heads = [load_head(Path(folder), model) for folder in ("information", "random")]
    assert not torch.equal(heads[0].weight, heads[1].weight)
    assert labels_in("information")[:6] != labels_in("random")[:6]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--labels", 0], ("--labels", "1")),
        (["--held-out", -1], ("--held-out", "0")),
        (["--from", "gone.jsonl"], ("--from", "gone.jsonl")),
        (["--prompts", 1, "--held-out", 2], ("--held-out", "--prompts")),
        (["--rollout.group_size", 1], ("rollout.group_size", "2")),
    ],
)
def test_mistakes_are_one_line(
    keys: dict[str, Any], capfd: pytest.CaptureFixture[str], words: list[Any], parts: tuple[str, ...]
) -> None:
    assert prefer(keys, "--held-out", 0, *words) == 2
    assert lines_naming(capfd.readouterr().err, "gpg-vl prefer", *parts)


def test_a_run_refuses_a_head_of_another_model(keys: dict[str, Any], model_folders: dict[str, Path]) -> None:
    assert prefer(keys, "--labels", 4, "--held-out", 0) == 0
    other = {"rewards.preference": "out", "model.path": str(model_folders["qwen2_5_vl"])}
    with pytest.raises(ValueError, match=naming("rewards.preference")):
        train(small_recipe(keys, other))
    assert not Path("run/metrics.jsonl").exists()
    with pytest.raises(ValueError, match=naming("rewards.weights", "preference")):
        train(small_recipe(keys, {"rewards.weights": {"preference": 2.0}, "run.output_dir": "other"}))


def test_pairs_are_of_different_texts() -> None:
    completions = tuple(Completion((1,), text, finished=True) for text in ("a", "b", "a", "c", "b"))
    group = ScoredGroup(make_group("").prompt, completions, (Reward(0.0, {}, "ok"),) * 5)
    assert sorted(map(repr, prefer_module._pairs([group]))) == sorted(
        map(repr, (AnswerPair(0, 0, 1), AnswerPair(0, 0, 3), AnswerPair(0, 1, 3)))
    )
