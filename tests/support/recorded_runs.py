"""Run folders as a run leaves them, written by the kit's own log and record, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config import DataConfig, ObjectiveConfig, Recipe, RecordConfig, RunConfig
from gpg_vl.objectives import build_objective
from gpg_vl.records import (
    CollectedGroups,
    Completion,
    Encoded,
    FrameList,
    ImageView,
    Prompt,
    Reward,
    Sample,
    ScoredGroup,
    StepTotals,
)
from gpg_vl.run.record import Record
from gpg_vl.run.run_log import RunLog
from gpg_vl.run.saved_recipe import write_recipe
from tests.support.builders import png

ENCODED = Encoded((1, 2), (0, 0), torch.zeros(1, 2, dtype=torch.long), 2, None)


def scored_group(
    texts: Sequence[str],
    rewards: Sequence[float],
    sample_id: str = "s1",
    answer: str = "4",
    task: str = "counting",
    question: str = "How many shapes?",
    images: tuple[str | bytes, ...] | None = None,
    videos: tuple[str | bytes | FrameList, ...] = (),
) -> ScoredGroup:
    """A group whose model sees its one picture, of 60 x 40 pixels, on a 0-1000 grid."""
    shown = (png(60, 40),) if images is None else images
    sample = Sample(sample_id, task, shown, question, answer, videos=videos)
    views = tuple(ImageView(60, 40, 56, 28, "grid_1000") for _ in shown)
    prompt = Prompt(sample, f"user\n{question}\nassistant\n", ENCODED, views)
    completions = tuple(Completion((5, 6, 2), text, finished=True, log_probs=(-0.5, -0.25, -0.25)) for text in texts)
    return ScoredGroup(prompt, completions, tuple(Reward(r, {"correct": r}, "ok") for r in rewards))


def collected(groups: Sequence[ScoredGroup], dropped: Sequence[ScoredGroup] = ()) -> CollectedGroups:
    trained = [group for group in groups if len({reward.total for reward in group.rewards}) > 1]
    totals = StepTotals(len(groups), 1, 1, len(trained), 1, 1)
    return CollectedGroups(list(groups), list(range(len(groups))), trained, list(dropped), totals, 1, 0.1, 0.1)


def recipe_of(folder: Path, **record: int) -> Recipe:
    run = RunConfig(output_dir=str(folder), steps=40, record=RecordConfig(**record), trackers=[])
    return Recipe(objective=ObjectiveConfig(name="gpg"), run=run, data=DataConfig())


def make_record(folder: Path, first_step: int = 0, **record: int) -> Record:
    recipe = recipe_of(folder, **record)
    return Record(recipe, build_objective(recipe.objective, 26), first_step, is_main=True)


def metrics_of(reward: float, **changes: Any) -> dict[str, Any]:
    return {
        "reward": reward, "reward_by_task": {"counting": reward}, "parts": {"correct": reward}, "groups": 4,
        "trained_groups": 3, "alpha": 4 / 3, "draws": 1, "completion_tokens": 12.0, "finished": 0.9,
        "status": {"ok": 9, "unparsable": 3}, "learning_rate": 1e-4, "update": {"grad_norm": 0.5, "kl": None},
        "seconds": {"rollout": 1.0, "scoring": 0.1, "update": 1.0, "step": 2.2}, **changes,
    }  # fmt: skip


def write_run(folder: Path, rewards: Sequence[float], groups: Sequence[ScoredGroup] = (), every: int = 10) -> Path:
    """A run of one step for each reward, with the groups recorded in every step that is due."""
    folder.mkdir(parents=True, exist_ok=True)
    write_recipe(recipe_of(folder), folder / "recipe.yaml")
    log = RunLog(folder, [], 0, len(rewards))
    record = make_record(folder, every=every)
    for step, reward in enumerate(rewards, start=1):
        log.write(step, metrics_of(reward))
        if groups and record.is_due(step):
            record.write(step, collected(groups))
    log.close()
    return folder
