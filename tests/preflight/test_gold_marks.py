"""Gold answers that no completion could repeat end a run before its first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config import PromptConfig
from gpg_vl.data.sources import Source, write_jsonl
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.preflight.gold_marks import GoldMarks
from gpg_vl.preflight.rows import check_rows
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.length import Room
from gpg_vl.tasks import TASKS
from gpg_vl.train import train
from tests.support.builders import make_sample
from tests.support.messages import naming
from tests.support.small_recipes import small_recipe

LoadModel = Callable[..., QwenVLAdapter]

UNREACHABLE = {
    "outside": ("grounding", "[100, 200, 500, 900]", {}),
    "reasoning": ("counting", "3", {"reasoning": "two </think> three"}),
}


@pytest.mark.parametrize("kind", UNREACHABLE)
@pytest.mark.parametrize("imitates", [False, True])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_gold_that_cannot_earn_full_marks(load: LoadModel, kind: str, imitates: bool, family: str) -> None:
    """Reasoning matters only where it is trained."""
    task, answer, meta = UNREACHABLE[kind]
    good = make_sample([(84, 60)], task="grounding", seed=1, answer="[3, 4, 80, 60]")
    bad = replace(make_sample(task=task, answer=answer), meta=meta)
    prompts = PromptBuilder(load(family), TASKS, PromptConfig())
    marks = GoldMarks(TASKS, "tags", with_reasoning=imitates)
    source = Source("rows.jsonl", 1.0, [good, bad])
    room = Room(8, {4000: "raise the other key"})
    assert check_rows([source], prompts, room)[0].left_out == ()
    if kind == "reasoning" and not imitates:
        check_rows([source], prompts, room, marks=marks)
        return
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2")) as caught:
        check_rows([source], prompts, room, ["bad_image", "long_prompt"], marks=marks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scorer", ["strict", "legacy"])
def test_a_run_scores_the_gold_first(tmp_path: Path, model_folders: dict[str, Path], scorer: str) -> None:
    """The published scorers have rules of their own."""
    write_jsonl(
        [make_sample(task="grounding", question="Where?", answer="[10, 20, 500, 600]")], tmp_path / "boxes.jsonl"
    )
    values = {
        "model.path": str(model_folders["qwen2_vl"]),
        "data.train": [str(tmp_path / "boxes.jsonl")],
        "rollout.prompts_per_step": 1,
        "rollout.group_size": 2,
        "rollout.max_new_tokens": 4,
        "rewards.scorer": scorer,
        "run.steps": 1,
        "run.output_dir": str(tmp_path / "run"),
    }
    if scorer == "legacy":
        train(small_recipe(values, {}))
        return
    with pytest.raises(ValueError, match=naming("boxes.jsonl", "row 1", "84 x 84")):
        train(small_recipe(values, {}))
