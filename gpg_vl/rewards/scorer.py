"""RolloutGroup -> ScoredGroup: each completion through its task, each group through the reward functions.

All of it runs in the processes of ``scoring_pool``: what hangs, crashes or raises there costs one completion its reward
(a reward function: those of one group) and never the step. ``rewards.on_error`` says what it counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from gpg_vl.config import RewardsConfig
from gpg_vl.own_code import absolute_spec
from gpg_vl.records import Reward, RolloutGroup, ScoredGroup, completion_text
from gpg_vl.rewards.functions import Conversation, function_name, sample_columns
from gpg_vl.rewards.pool import FunctionJob, Job, MetricJob, Outcome, ScoringPool, TaskJob
from gpg_vl.rewards.published import measure_published

Rule = Literal["strict", "legacy"]

_log = logging.getLogger(__name__)


class RewardError(ValueError):
    """A completion could not be scored and ``rewards.on_error`` is ``abort``; names sample and cause."""


class Scorer:
    """Scores groups, in order, with the rewards of a recipe.

    Its processes start with ``start`` (early, so that it costs no time) or the first groups, and end with ``close``.
    """

    def __init__(self, config: RewardsConfig):
        self._config = config
        self._functions = {function_name(spec): absolute_spec(spec) for spec in config.functions}
        self._pool = ScoringPool(config.timeout_s, config.memory_mb)

    def start(self) -> None:
        self._pool.start()

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def score(self, groups: Sequence[RolloutGroup], rule: Rule | None = None) -> list[ScoredGroup]:
        """The groups with their rewards. A completion that could not be scored has the total 0 and no parts.

        Args:
            rule: which of a task's scorers, instead of the recipe's

        Raises:
            RewardError: there is one, and ``rewards.on_error`` is ``abort``
        """
        jobs: list[Job] = []
        for group in groups:
            jobs += [self._task_job(group, rule or self._config.scorer), *self._function_jobs(group)]
        outcomes = iter(self._pool.run(jobs, stops_on_failure=self._config.on_error == "abort"))
        by_group = [[next(outcomes) for _ in range(1 + len(self._functions))] for _ in groups]
        self._report(groups, by_group)
        return [
            ScoredGroup(group.prompt, group.completions, tuple(self._rewards(group, *of_group)), group.features)
            for group, of_group in zip(groups, by_group, strict=True)
        ]

    def measure_published(self, groups: Sequence[ScoredGroup]) -> list[list[float | None]]:
        """What the published metric of their task gives the completions; None for one that times out or fails there."""
        jobs = [
            MetricJob(absolute_spec(g.prompt.sample.task), g.prompt.sample, g.prompt.views, _texts(g)) for g in groups
        ]
        return measure_published(self._pool, jobs)

    def _task_job(self, group: RolloutGroup, rule: Rule) -> TaskJob:
        prompt = group.prompt
        task = absolute_spec(prompt.sample.task)
        return TaskJob(task, prompt.sample, prompt.views, _texts(group), self._config.weights, rule)

    def _function_jobs(self, group: RolloutGroup) -> list[FunctionJob]:
        texts = tuple(completion.text for completion in group.completions)
        token_ids = tuple(completion.token_ids for completion in group.completions)
        prompt = _as_trl_prompt(group)
        columns = sample_columns(group.prompt.sample)
        return [FunctionJob(spec, prompt, texts, token_ids, columns) for spec in self._functions.values()]

    def _rewards(
        self, group: RolloutGroup, of_task: list[Outcome | None], *of_functions: list[Outcome | None]
    ) -> list[Reward]:
        rewards = []
        for n, outcome in enumerate(of_task):
            outcomes = [outcome, *(each[0] for each in of_functions)]
            failure = next((each for each in outcomes if each is not None and each.status != "ok"), None)
            if failure is not None:
                rewards.append(Reward(0.0, {}, "timeout" if failure.status == "timeout" else "error"))
                continue
            values = [each.value for each in outcomes if each is not None]
            rewards.append(self._add_up(values[0], [value[n] for value in values[1:]]))
        return rewards

    def _add_up(self, reward: Reward, values: Sequence[float | None]) -> Reward:
        """The task's reward plus those of the functions; a None is no part and adds nothing."""
        parts = {name: value for name, value in zip(self._functions, values, strict=True) if value is not None}
        total = sum(self._config.weights.get(name, 1.0) * value for name, value in parts.items())
        return Reward(reward.total + total, {**reward.parts, **parts}, reward.status)

    def _report(self, groups: Sequence[RolloutGroup], by_group: Sequence[Sequence[Sequence[Outcome | None]]]) -> None:
        """A line about the failures of a batch; an error instead, where the policy is to stop."""
        failures = [
            f"{source} on sample {group.prompt.sample.id}: {outcome.status}: {outcome.message}"
            for group, of_group in zip(groups, by_group, strict=True)
            for source, outcomes in zip(self._sources(group), of_group, strict=True)
            for outcome in outcomes
            if outcome is not None and outcome.status != "ok"
        ]
        if failures and self._config.on_error == "abort":
            raise RewardError(f"rewards.on_error is abort, and scoring failed: {failures[0]}")
        if failures:
            _log.warning("%d times scoring failed; first: %s", len(failures), failures[0])

    def _sources(self, group: RolloutGroup) -> list[str]:
        return [f"task {group.prompt.sample.task}", *(f"reward function {name}" for name in self._functions)]


def _texts(group: RolloutGroup | ScoredGroup) -> tuple[str, ...]:
    """The completions with the opening ``<think>`` where the prompt ended in one."""
    return tuple(completion_text(group.prompt, completion.text) for completion in group.completions)


def _as_trl_prompt(group: RolloutGroup) -> str | Conversation:
    """Messages for a chat prompt, the text that the model read for a base prompt."""
    messages = group.prompt.messages
    return [{"role": role, "content": text} for role, text in messages] if messages else group.prompt.text
