"""Whether a row's gold answer, written as a completion, earns full marks in its own task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpg_vl.records import AnswerIn, ImageView, Sample
from gpg_vl.tasks.base import Task, gold_completion, score_completion

FULL_MARKS = 0.99
"""What a gold answer must earn of the most: 1, minus what rounding costs a tiny box."""


def find_lost_marks(
    task: Task, sample: Sample, views: Sequence[ImageView], answer_in: AnswerIn = "tags", with_reasoning: bool = True
) -> str | None:
    """Why the gold completion earns less than full marks; None if it earns them.

    Args:
        with_reasoning: whether the row's reasoning is part of the completion, as in supervised training

    Raises:
        ValueError: the gold answer is not valid for its task
    """
    given = sample if with_reasoning else replace(sample, meta={**sample.meta, "reasoning": ""})
    reward = score_completion(task, sample, gold_completion(task, given, views, answer_in), views, answer_in=answer_in)
    most = task.ranges.get(task.main_part, (0.0, 1.0))[1]
    if reward.parts[task.main_part] < FULL_MARKS * most:
        why = "" if reward.status == "ok" else ": it cannot be read, or a box is outside the image"
        return f"the answer {sample.answer[:60]!r} earns {reward.parts} in its own task{why}"
    if with_reasoning and reward.parts["format"] < 1 and sample.meta.get("reasoning"):
        return "meta.reasoning has a tag of its own, as </think> or <answer>: imitating it earns no format part"
    return None
