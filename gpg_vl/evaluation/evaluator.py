"""Rows -> predictions: the tasks that train also evaluate, on greedy or sampled completions, shared among the ranks.

What is sampled depends on seed, row and index of the completion alone (exactly so in float32): batches bound the
memory, ranks the time, and neither changes a prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from accelerate import PartialState

from gpg_vl.config import EvaluationConfig
from gpg_vl.data.images import BadImage
from gpg_vl.evaluation.predictions import NO_IMAGE, Prediction
from gpg_vl.evaluation.rows import Row
from gpg_vl.processes.ranks import gather_object, run_together
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt, RolloutGroup, Sample, ScoredGroup, completion_text
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.tasks.base import Task
from gpg_vl.verifiers.answers import find_answer

PROMPTS_AT_ONCE = 64  # of a rank; what a killed evaluation loses at most


def refuse_strangers(predictions: Iterable[Prediction], rows: Sequence[Row], num_samples: int) -> None:
    """
    Raises:
        ValueError: a prediction is not of the row whose number it has, or has another number of completions
    """
    for each in predictions:
        sample = rows[each.row].sample if each.row < len(rows) else None
        own = None if sample is None else (sample.id, sample.task, sample.question, sample.answer, num_samples)
        if own != (each.id, each.task, each.question, each.answer, len(each.completions)):
            raise ValueError(
                f"--out: the prediction of row {each.row} there ({each.id}) is of another evaluation; remove it, or "
                "choose another --out"
            )


class Evaluator:
    """Generates and scores, on every rank its share."""

    def __init__(
        self,
        prompts: PromptBuilder,
        engine: RolloutEngine,
        scorer: Scorer,
        tasks: Mapping[str, Task],
        evaluation: EvaluationConfig,
        max_new_tokens: int,
        seed: int,
        with_legacy: bool = False,
    ):
        """
        Args:
            with_legacy: whether the published metric is measured too; it can be slow, so validation goes without
        """
        self._prompts = prompts
        self._engine = engine
        self._scorer = scorer
        self._tasks = tasks
        self._num_samples = evaluation.num_samples
        self.sampling = Sampling(evaluation.max_new_tokens or max_new_tokens, evaluation.temperature)
        self._seed = seed
        self._with_legacy = with_legacy

    def run(self, rows: Sequence[Row], prompts_at_once: int = PROMPTS_AT_ONCE) -> Iterator[list[Prediction]]:
        """Predictions in the order of the rows, part by part, the same on every rank.

        All ranks go through the same parts, so that each may wait for the others in between.

        Raises:
            RewardError: a completion could not be scored and ``rewards.on_error`` is ``abort``; on several ranks, where
                that is so on one of them, RankError
        """
        state = PartialState()
        step = prompts_at_once * state.num_processes
        for start in range(0, len(rows), step):
            mine = list(rows[start : start + step][state.process_index :: state.num_processes])
            yield sorted(self._share(mine), key=lambda prediction: prediction.row)

    def _share(self, rows: Sequence[Row]) -> list[Prediction]:
        """The predictions of all ranks."""
        return gather_object(run_together(lambda: self._predict(rows)))

    def _predict(self, rows: Sequence[Row]) -> list[Prediction]:
        prompts = {row.number: self._build(row.sample) for row in rows}
        readable = [(row, prompt) for row in rows if (prompt := prompts[row.number]) is not None]
        seeds = [("evaluation", self._seed, row.sample.id) for row, _ in readable]
        rolled = self._engine.generate([prompt for _, prompt in readable], self._num_samples, self.sampling, seeds)
        tasks = self._tasks
        scored = score_groups([row for row, _ in readable], rolled, self._scorer, tasks, self._with_legacy)
        found = {prediction.row: prediction for prediction in scored}
        return [found[row.number] if row.number in found else self._without_image(row) for row in rows]

    def _build(self, sample: Sample) -> Prompt | None:
        """The prompt, or None where an image is missing or broken."""
        try:
            return self._prompts.build(sample)
        except BadImage:
            return None

    def _without_image(self, row: Row) -> Prediction:
        k, sample = self._num_samples, row.sample
        return Prediction(
            row=row.number, id=sample.id, task=sample.task, split=row.split, category=row.category,
            question=sample.question, answer=sample.answer, views=(), completions=("",) * k, num_tokens=(0,) * k,
            finished=(False,) * k, answers=(None,) * k, rewards=(0.0,) * k, parts=({},) * k, status=(NO_IMAGE,) * k,
            legacy=(0.0,) * k if self._with_legacy and self._tasks[sample.task].legacy else None,
        )  # fmt: skip


def score_groups(
    rows: Sequence[Row], groups: Sequence[RolloutGroup], scorer: Scorer, tasks: Mapping[str, Task], with_legacy: bool
) -> list[Prediction]:
    """The completions of rows, scored strictly and, where asked for and published, by the published metric too."""
    scored = scorer.score(groups, "strict")
    has_legacy = [with_legacy and tasks[row.sample.task].legacy is not None for row in rows]
    published = [group for group, wanted in zip(scored, has_legacy, strict=True) if wanted]
    values = iter(scorer.measure_published(published) if published else [])
    return [
        _prediction(row, group, tasks[row.sample.task], tuple(next(values)) if wanted else None)
        for row, group, wanted in zip(rows, scored, has_legacy, strict=True)
    ]


def _prediction(row: Row, group: ScoredGroup, task: Task, legacy: tuple[float | None, ...] | None) -> Prediction:
    sample, views = row.sample, group.prompt.image_views
    texts = tuple(completion_text(group.prompt, completion.text) for completion in group.completions)
    status = tuple(reward.status for reward in group.rewards)
    return Prediction(
        row=row.number,
        id=sample.id,
        task=sample.task,
        split=row.split,
        category=row.category,
        question=sample.question,
        answer=sample.answer,
        views=views,
        completions=texts,
        num_tokens=tuple(len(completion.token_ids) for completion in group.completions),
        finished=tuple(completion.finished for completion in group.completions),
        answers=tuple(
            # Reading is the user's code; a completion of status ok was read within the limits before.
            _spell(task.read(find_answer(text) or "", sample, views)) if of_text == "ok" else None
            for text, of_text in zip(texts, status, strict=True)
        ),
        rewards=tuple(reward.total for reward in group.rewards),
        parts=tuple(reward.parts for reward in group.rewards),
        status=status,
        legacy=legacy,
    )


def _spell(value: object) -> str:
    """A value as text, the same for equal values: the way that majority votes are counted."""
    return str(value)
