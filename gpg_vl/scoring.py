"""RolloutGroup -> ScoredGroup: each completion through its task. An exception in a task never stops the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from gpg_vl.config import RewardsConfig
from gpg_vl.prompting import completion_text
from gpg_vl.records import Completion, Prompt, Reward, RolloutGroup, ScoredGroup
from gpg_vl.tasks.base import Task, score_completion

_log = logging.getLogger(__name__)


def score_groups(groups: Sequence[RolloutGroup], tasks: Mapping[str, Task], config: RewardsConfig) -> list[ScoredGroup]:
    return [
        ScoredGroup(
            group.prompt,
            group.completions,
            tuple(_score(group.prompt, completion, tasks, config) for completion in group.completions),
        )
        for group in groups
    ]


def _score(prompt: Prompt, completion: Completion, tasks: Mapping[str, Task], config: RewardsConfig) -> Reward:
    """The reward; 0 with the status ``error`` where the task raised. The status is counted in the log."""
    sample = prompt.sample
    text = completion_text(prompt, completion.text)
    try:
        return score_completion(tasks[sample.task], sample, text, prompt.image_views, config.weights, config.scorer)
    except Exception as error:  # noqa: BLE001  a task is the user's code: what it raises is one completion's fault
        _log.warning("task %s raised on sample %s: %.200r", sample.task, sample.id, error)
        return Reward(0.0, {}, "error")
