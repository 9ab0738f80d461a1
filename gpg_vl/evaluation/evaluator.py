"""Rows -> predictions: scores greedy or sampled completions with the same tasks as training; ranks share the work.

Samples depend only on the seed, the row and the index of the completion (exactly so in float32). Batches and ranks
affect memory and time, but no prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from accelerate import PartialState

from gpg_vl.config import Recipe
from gpg_vl.data.images import BadImage
from gpg_vl.evaluation.predictions import NO_IMAGE, Prediction
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.evaluation.settings import evaluation_sampling
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import run_together
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import AnswerIn, ImageView, Prompt, Reward, RolloutGroup, Sample, ScoredGroup
from gpg_vl.rewards.health import describe_failures
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.screen import printable
from gpg_vl.tasks.base import Task
from gpg_vl.verifiers.answers import find_answer
from gpg_vl.verifiers.reasoning import completion_text

_log = logging.getLogger(__name__)

PROMPTS_AT_ONCE = 64  # per rank; a killed evaluation loses at most this many


class Evaluator:
    """Generates and scores; each rank does its share."""

    def __init__(
        self,
        prompts: PromptBuilder,
        engine: RolloutEngine,
        scorer: Scorer,
        tasks: Mapping[str, Task],
        recipe: Recipe,
        with_legacy: bool = False,
    ):
        """
        Args:
            with_legacy: whether to measure the published metric too; it can be slow, so validation does not
        """
        self._prompts = prompts
        self._engine = engine
        self._scorer = scorer
        self._tasks = tasks
        self._num_samples = recipe.evaluation.num_samples
        self._sampling = evaluation_sampling(recipe)
        self._seed = recipe.run.seed
        self._with_legacy = with_legacy

    def run(self, rows: Sequence[EvaluationRow], prompts_at_once: int = PROMPTS_AT_ONCE) -> Iterator[list[Prediction]]:
        """Predictions in row order, part by part, the same on every rank.

        All ranks process the same parts, so that each may wait for the others in between.

        Raises:
            RewardError: a completion could not be scored and ``rewards.on_error`` is ``abort``; with several ranks,
                RankError on all of them
        """
        state = PartialState()
        step = prompts_at_once * state.num_processes
        with self._engine.sync_weights():
            for start in range(0, len(rows), step):
                mine = list(rows[start : start + step][state.process_index :: state.num_processes])
                yield sorted(self._share(mine), key=lambda prediction: prediction.row)

    def _share(self, rows: Sequence[EvaluationRow]) -> list[Prediction]:
        """The predictions of all ranks."""
        return gather_object(run_together(lambda: self._predict(rows)))

    def _predict(self, rows: Sequence[EvaluationRow]) -> list[Prediction]:
        prompts = {row.number: self._build(row.sample) for row in rows}
        readable = [(row, prompt) for row in rows if (prompt := prompts[row.number]) is not None]
        seeds = [("evaluation", self._seed, row.sample.id) for row, _ in readable]
        rolled = self._engine.generate([prompt for _, prompt in readable], self._num_samples, self._sampling, seeds)
        tasks = self._tasks
        scored = score_groups([row for row, _ in readable], rolled, self._scorer, tasks, self._with_legacy)
        found = {prediction.row: prediction for prediction in scored}
        return [found[row.number] if row.number in found else self._without_image(row) for row in rows]

    def _build(self, sample: Sample) -> Prompt | None:
        """The prompt, or None if an image is missing or broken."""
        try:
            return self._prompts.build(sample)
        except BadImage:
            return None

    def _without_image(self, row: EvaluationRow) -> Prediction:
        k, sample = self._num_samples, row.sample
        return Prediction(
            row=row.number, id=sample.id, task=sample.task, split=row.split, category=row.category,
            question=sample.question, answer=sample.answer, views=(), completions=("",) * k, num_tokens=(0,) * k,
            finished=(False,) * k, answers=(None,) * k, rewards=(0.0,) * k, parts=({},) * k, status=(NO_IMAGE,) * k,
            legacy=(0.0,) * k if self._with_legacy and self._tasks[sample.task].legacy else None,
        )  # fmt: skip


def score_groups(
    rows: Sequence[EvaluationRow],
    groups: Sequence[RolloutGroup],
    scorer: Scorer,
    tasks: Mapping[str, Task],
    with_legacy: bool,
) -> list[Prediction]:
    """The completions of rows, scored strictly and, if requested and available, also by the published metric."""
    scored = scorer.score(groups, "strict")
    if failures := describe_failures(scored):
        _log.warning("%s", printable(failures))
    has_legacy = [with_legacy and tasks[row.sample.task].legacy is not None for row in rows]
    published = [group for group, wanted in zip(scored, has_legacy, strict=True) if wanted]
    values = iter(scorer.measure_published(published) if published else [])
    return [
        make_prediction(row, tasks[row.sample.task], _answers(group, tuple(next(values)) if wanted else None))
        for row, group, wanted in zip(rows, scored, has_legacy, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """The scored completions of a row; each tuple except ``views`` has one entry per completion."""

    views: tuple[ImageView, ...]
    texts: tuple[str, ...]  # with the opening <think> if the prompt ended with it
    num_tokens: tuple[int, ...]
    finished: tuple[bool, ...]
    rewards: tuple[Reward, ...]
    legacy: tuple[float | None, ...] | None  # as in Prediction
    answer_in: AnswerIn = "tags"


def _answers(group: ScoredGroup, legacy: tuple[float | None, ...] | None) -> ScoredAnswers:
    completions = group.completions
    return ScoredAnswers(
        views=group.prompt.views,
        texts=tuple(completion_text(group.prompt, completion.text) for completion in completions),
        num_tokens=tuple(len(completion.token_ids) for completion in completions),
        finished=tuple(completion.finished for completion in completions),
        rewards=group.rewards,
        legacy=legacy,
        answer_in=group.prompt.answer_in,
    )


def make_prediction(row: EvaluationRow, task: Task, answers: ScoredAnswers) -> Prediction:
    sample, status = row.sample, tuple(reward.status for reward in answers.rewards)
    return Prediction(
        row=row.number,
        id=sample.id,
        task=sample.task,
        split=row.split,
        category=row.category,
        question=sample.question,
        answer=sample.answer,
        views=answers.views,
        completions=answers.texts,
        num_tokens=answers.num_tokens,
        finished=answers.finished,
        answers=tuple(
            # Reading may run the user's code; a completion with status ok was already read within the limits.
            _spell(task.read(find_answer(text, answers.answer_in) or "", sample, answers.views))
            if of_text == "ok"
            else None
            for text, of_text in zip(answers.texts, status, strict=True)
        ),
        rewards=tuple(reward.total for reward in answers.rewards),
        parts=tuple(reward.parts for reward in answers.rewards),
        status=status,
        legacy=answers.legacy,
    )


def _spell(value: object) -> str:
    """A value as text, the same for equal values; used to count majority votes."""
    return str(value)
