"""Tries the rewards on made-up completions before the first step: mistakes of the user's code, in one line.

For the first rows each task scores its gold completion and a wrong one, which is another row's answer. Each reward
function is called once per source with what training passes. Whatever fails here ends the start.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gpg_vl.config import Recipe
from gpg_vl.data.images import BadImage
from gpg_vl.data.sources import Source
from gpg_vl.errors import ModelMistake
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives.base import Objective
from gpg_vl.preflight.own_objective import try_objective
from gpg_vl.preflight.rewards import learned_names
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.ranks import note
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.prompts.length import build_prompts, training_room
from gpg_vl.records import Completion, Prompt, RolloutGroup, Sample, ScoredGroup
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.user_code import absolute_spec, describe_failure, own_file
from gpg_vl.verifiers.answers import write_answer
from gpg_vl.verifiers.reasoning import continue_prompt

_LOOKED_AT = 32  # rows of a source
_TRIED = 2  # rows of each task of a source
_WRONG = "none of these"


def try_model(
    recipe: Recipe, path: str, checked: Sequence[CheckedSources], scorer: Scorer, objective: Objective | None = None
) -> None:
    """Tries template, rewards and objective with the model's processor alone: its weights can take minutes to load.

    Args:
        path: of the model, or of the checkpoint that the run goes on from
        objective: of a training run

    Raises:
        ValueError: the model's folder, a task, a reward function or an objective of the user's own is wrong, or a
            reward is outside of what the objective takes
    """
    adapter = load_adapter(replace(recipe.model, path=path), with_weights=False)
    try_rewards(recipe, checked, adapter, scorer)
    if objective is not None:
        _try_on_objective(recipe, checked, adapter, scorer, objective)
    if adapter.has_chat_template() and not adapter.opens_answer():
        note(f"note: the chat template of {path} ignores add_generation_prompt: the model is not told to answer")


def _try_on_objective(
    recipe: Recipe, checked: Sequence[CheckedSources], adapter: Adapter, scorer: Scorer, objective: Objective
) -> None:
    """An objective of the user's own is tried on one group; one that bounds rewards on those of each source."""
    trial = _Trial(recipe, checked, adapter)
    if own_file(objective.config.name):
        for group in scorer.score(list(itertools.islice(trial.groups(checked[0].sources[0]), 1))):
            try_objective(objective, _with_parts(group, learned_names(recipe)))
    if objective.reward_range is not None:
        tried = [group for each in checked for source in each.sources for group in trial.groups(source)]
        for group in scorer.score(tried):
            objective.check_rewards(group)


def _with_parts(group: ScoredGroup, names: Sequence[str]) -> ScoredGroup:
    """With the parts that a model gives, which is not loaded yet."""
    parts = dict.fromkeys(names, 0.5)
    return replace(group, rewards=tuple(replace(each, parts={**each.parts, **parts}) for each in group.rewards))


def try_rewards(recipe: Recipe, checked: Sequence[CheckedSources], adapter: Adapter, scorer: Scorer) -> None:
    """
    Args:
        adapter: one without weights is enough

    Raises:
        ValueError: a task or a reward function fails or returns something wrong; names it, its file and line
    """
    trial = _Trial(recipe, checked, adapter)
    tried = [list(trial.groups(source)) for each in checked for source in each.sources]
    calls = [groups[0] for groups in tried if groups]
    scorer.try_out(calls, [group for groups in tried for group in groups[1:]])


class _Trial:
    def __init__(self, recipe: Recipe, checked: Sequence[CheckedSources], adapter: Adapter):
        self._adapter = adapter
        self._tasks = {name: task for each in checked for name, task in each.tasks.items()}
        self._prompts = build_prompts(recipe, self._tasks, adapter, training_room(recipe, adapter))
        self._gold = GoldCompletions(adapter, self._tasks, recipe.prompt.answer_in)
        self._group_size = max(2, recipe.rollout.group_size)

    def groups(self, source: Source) -> Iterator[RolloutGroup]:
        """Groups of gold and wrong completions, in turn, for the first rows of the source."""
        samples = source.samples[:_LOOKED_AT]
        num_tried: Counter[str] = Counter()
        for number, sample in enumerate(samples, start=1):
            if num_tried[sample.task] == _TRIED:
                continue
            try:
                prompt = self._prompts.build(sample)
            except ModelMistake:
                raise
            except BadImage:  # the check of all rows says what that means
                continue
            except ValueError as error:
                raise ValueError(f"{source.name}, row {number}: {error}") from error
            num_tried[sample.task] += 1
            made_up = [*self._write_gold(prompt), self._write_wrong(prompt, samples)]
            yield RolloutGroup(prompt, tuple(itertools.islice(itertools.cycle(made_up), self._group_size)))

    def _write_gold(self, prompt: Prompt) -> list[Completion]:
        """The gold completion; none where the row has none, which the check of all rows judges."""
        sample = prompt.sample
        try:
            return [self._gold.write(sample, prompt.text, prompt.views)]
        except (Exception, SystemExit) as error:  # the code may be the user's
            file = own_file(absolute_spec(sample.task))
            if isinstance(error, ValueError) and not file:
                return []
            cause = describe_failure(error, file, 160)
            raise ValueError(f"task {sample.task} cannot write the gold of sample {sample.id}: {cause}") from error

    def _write_wrong(self, prompt: Prompt, samples: Sequence[Sample]) -> Completion:
        own = prompt.sample
        others = (each.answer for each in samples if each.task == own.task and each.answer != own.answer)
        written = self._write(next(others, _WRONG), prompt) or self._write(_WRONG, prompt)
        text = continue_prompt(prompt.text, written)
        return Completion(self._adapter.encode_completion(text), text, finished=True)

    @staticmethod
    def _write(answer: str, prompt: Prompt) -> str:
        try:
            return write_answer("", answer, prompt.answer_in)
        except ValueError:  # an answer that no box can hold
            return ""
