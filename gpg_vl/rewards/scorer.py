"""RolloutGroup -> ScoredGroup: each completion through its task, each group through the reward functions.

All of it runs in the processes of ``rewards.pool``: code that hangs, crashes or raises there costs one completion its
reward (a reward function: those of one group) and never the step. ``rewards.on_error`` says what such a completion
counts. A mistake in the code itself, such as a part out of its range, would repeat with every completion: it always
ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from gpg_vl.config import RewardsConfig
from gpg_vl.records import Reward, RolloutGroup, Rule, ScoredGroup
from gpg_vl.rewards.functions import Call, ChatMessages, TrainerState, function_name, sample_columns
from gpg_vl.rewards.pool import FunctionJob, Job, MetricJob, Outcome, ScoringPool, TaskJob
from gpg_vl.rewards.published import measure_published
from gpg_vl.user_code import absolute_spec
from gpg_vl.verifiers.reasoning import completion_text


class RewardError(ValueError):
    """Scoring cannot go on; names sample and cause."""


@dataclass(frozen=True, slots=True)
class GroupOutcomes:
    """The pool's outcomes for one group. None stands for work not done after a failure ended the batch."""

    group: RolloutGroup
    of_task: Sequence[Outcome | None]  # G, of each completion
    of_functions: Mapping[str, Outcome | None]  # by the function's name, of its one call

    def failures(self) -> Iterator[str]:
        """Each in a line: source, sample and cause."""
        return (f"{source}: {outcome.message}" for source, outcome in self._failed())

    def mistake(self) -> str | None:
        """The first failure caused by the code and not by a completion."""
        return next((f"{source}: {outcome.message}" for source, outcome in self._failed() if outcome.is_mistake), None)

    def _failed(self) -> Iterator[tuple[str, Outcome]]:
        sample = self.group.prompt.sample
        sources = [(f"task {sample.task}", outcome) for outcome in self.of_task]
        sources += [(f"reward function {name}", outcome) for name, outcome in self.of_functions.items()]
        for source, outcome in sources:
            if outcome is not None and outcome.status != "ok":
                yield f"{source} on sample {sample.id}: {outcome.status}", outcome

    def rewards(self, weights: Mapping[str, float]) -> list[Reward]:
        """Task and functions added up, by completion; 0 and no parts where one of them failed.

        Args:
            weights: of the functions' parts; 1 for one that is not named
        """
        return [self._reward(n, of_task, weights) for n, of_task in enumerate(self.of_task)]

    def _reward(self, n: int, of_task: Outcome | None, weights: Mapping[str, float]) -> Reward:
        for outcome in (of_task, *self.of_functions.values()):
            if outcome is not None and outcome.status != "ok":
                return Reward(0.0, {}, outcome.status, outcome.message)
        results = {name: outcome.value for name, outcome in self.of_functions.items() if outcome is not None}
        values = {name: result.rewards[n] for name, result in results.items()}
        parts = {name: value for name, value in values.items() if value is not None}
        extras = {name: column[n] for result in results.values() for name, column in result.extras.items()}
        reward: Reward = of_task.value if of_task is not None else Reward(0.0, {}, "error", "not scored")
        total = reward.total + sum(weights.get(name, 1.0) * value for name, value in parts.items())
        main = None if any(weights.get(name, 1.0) for name in parts) else reward.main
        return Reward(total, {**reward.parts, **parts}, reward.status, reward.message, extras, main)

    def metrics(self) -> dict[str, float]:
        """What the functions logged of the group."""
        results = [each.value for each in self.of_functions.values() if each is not None and each.status == "ok"]
        return {name: value for result in results for name, value in result.metrics.items()}


class Scorer:
    """Scores groups, in order, with the rewards of a recipe.

    Its processes start with ``start`` (called early, so that nothing waits for them) or with the first groups;
    ``close`` ends them.
    """

    def __init__(self, config: RewardsConfig):
        self._config = config
        self._functions = {function_name(spec): absolute_spec(spec) for spec in config.functions}
        self._pool = ScoringPool(config.timeout_s, config.memory_mb)
        self._waiting: list[RolloutGroup] = []  # that are begun; the pool has others
        self._sent: list[RolloutGroup] = []  # that the pool has
        self._early: list[GroupOutcomes] = []  # of what was begun and is scored
        self.trainer_state = TrainerState()
        """Progress of the run, for reward functions that ask for it."""

    def start(self) -> None:
        self._pool.start()

    def close(self) -> None:
        self._sent, self._waiting, self._early = [], [], []
        self._pool.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, group: RolloutGroup) -> None:
        """Has a group scored while others are sampled: ``score`` does not do it again, if it is given this very one.

        Groups are begun in the order in which ``score`` is given them, and under the recipe's rule.

        Raises:
            RewardError: see ``score``, of a group that was begun before
        """
        self._waiting.append(group)
        if not self._sent or self._pool.is_answered():
            self._take_sent()
            jobs = self._jobs(self._waiting, self._config.scorer, self._functions)
            self._pool.begin(jobs, stops_on_failure=self._config.on_error == "abort")
            self._sent, self._waiting = self._waiting, []

    def _take_sent(self) -> None:
        """Waits for what the pool has of the groups that were begun."""
        if not self._sent:
            return
        sent, self._sent = self._sent, []
        outcomes = iter(self._pool.take())
        early = [self._outcomes(group, outcomes, self._functions) for group in sent]
        self._early += early
        self._refuse(early)

    def score(self, groups: Sequence[RolloutGroup], rule: Rule | None = None) -> list[ScoredGroup]:
        """The groups with their rewards. A completion that could not be scored has the total 0 and no parts.

        What was begun is forgotten: a rollout that was begun again has other groups.

        Args:
            rule: which of a task's scorers, instead of the recipe's

        Raises:
            RewardError: the code has a mistake; or a completion could not be scored and ``rewards.on_error`` is
                ``abort``
        """
        self._take_sent()
        early = {id(each.group): each for each in self._early}
        rest = [group for group in groups if id(group) not in early]
        late = iter(self._run(rest, rule or self._config.scorer, self._functions))
        scored = [early[id(group)] if id(group) in early else next(late) for group in groups]
        self._early, self._waiting = [], []
        self._refuse(scored)
        return [
            ScoredGroup(
                each.group.prompt,
                each.group.completions,
                tuple(each.rewards(self._config.weights)),
                each.group.features,
                each.metrics(),
            )
            for each in scored
        ]

    def try_out(self, calls: Sequence[RolloutGroup], others: Sequence[RolloutGroup]) -> None:
        """Scores made-up completions to see whether the code works.

        Args:
            calls: groups that the reward functions are called for
            others: groups that only their task scores

        Raises:
            RewardError: one failed, whatever ``rewards.on_error`` says of failures in a run
        """
        rule = self._config.scorer
        scored = [*self._run(calls, rule, self._functions), *self._run(others, rule, {})]
        failures = (failure for each in scored for failure in each.failures())
        if (failure := next(failures, None)) is not None:
            raise RewardError(f"rewards were tried on made-up completions: {failure}")

    def _run(self, groups: Sequence[RolloutGroup], rule: Rule, functions: Mapping[str, str]) -> list[GroupOutcomes]:
        jobs = self._jobs(groups, rule, functions)
        outcomes = iter(self._pool.run(jobs, stops_on_failure=self._config.on_error == "abort"))
        return [self._outcomes(group, outcomes, functions) for group in groups]

    def _jobs(self, groups: Sequence[RolloutGroup], rule: Rule, functions: Mapping[str, str]) -> list[Job]:
        """The task's of each group, and one of each function."""
        jobs: list[Job] = []
        for group in groups:
            jobs += [self._task_job(group, rule), *self._function_jobs(group, functions)]
        return jobs

    def measure_published(self, groups: Sequence[ScoredGroup]) -> list[list[float | None]]:
        """What the published metric of their task gives the completions; None for one that times out or fails there."""
        jobs = [
            MetricJob(absolute_spec(g.prompt.sample.task), g.prompt.sample, g.prompt.views, _texts(g)) for g in groups
        ]
        return measure_published(self._pool, jobs)

    def _task_job(self, group: RolloutGroup, rule: Rule) -> TaskJob:
        prompt = group.prompt
        task = absolute_spec(prompt.sample.task)
        texts, weights = _texts(group), self._config.weights
        return TaskJob(task, prompt.sample, prompt.views, texts, weights, rule, prompt.answer_in)

    def _function_jobs(self, group: RolloutGroup, functions: Mapping[str, str]) -> list[FunctionJob]:
        call = Call(
            _as_trl_prompt(group),
            tuple(completion.text for completion in group.completions),
            tuple(completion.token_ids for completion in group.completions),
            sample_columns(group.prompt.sample),
            self.trainer_state,
        )
        return [FunctionJob(spec, call) for spec in functions.values()]

    @staticmethod
    def _outcomes(
        group: RolloutGroup, outcomes: Iterator[list[Outcome | None]], functions: Mapping[str, str]
    ) -> GroupOutcomes:
        """The next ones, as ``_jobs`` has the jobs: the task's, then one of each function."""
        of_task = next(outcomes)
        return GroupOutcomes(group, of_task, {name: next(outcomes)[0] for name in functions})

    def _refuse(self, scored: Sequence[GroupOutcomes]) -> None:
        mistakes = (each.mistake() for each in scored)
        if mistake := next((mistake for mistake in mistakes if mistake is not None), None):
            raise RewardError(mistake)
        failures = (failure for each in scored for failure in each.failures())
        if self._config.on_error == "abort" and (failure := next(failures, None)):
            raise RewardError(f"rewards.on_error is abort, and scoring failed: {failure}")


def _texts(group: RolloutGroup | ScoredGroup) -> tuple[str, ...]:
    """The completions with the opening ``<think>`` where the prompt ended in one."""
    return tuple(completion_text(group.prompt, completion.text) for completion in group.completions)


def _as_trl_prompt(group: RolloutGroup) -> str | ChatMessages:
    """Messages for a chat prompt, the text that the model read for a base prompt."""
    messages = group.prompt.messages
    return [{"role": role, "content": text} for role, text in messages] if messages else group.prompt.text
