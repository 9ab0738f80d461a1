"""The groups of one optimizer step: draw prompts, generate, score, and draw again while too few have signal.

Paper, section 3.2 and Algorithm 1: sampling continues until the share of valid groups reaches beta_th. Every group with
signal is kept and trained, except by objectives that cut the surplus. Only with ``rewards.on_error: drop_group`` is a
group removed from the step: it is logged, but not counted anywhere, including in alpha.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import cast

from accelerate import Accelerator

from gpg_vl.config import Recipe
from gpg_vl.data.images import BadImage
from gpg_vl.data.stream import SampleStream
from gpg_vl.learned.part import LearnedPart
from gpg_vl.learned.reward_parts import add_parts
from gpg_vl.objectives.base import Objective, given
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.processes.collectives import gather_object, sum_over_ranks, sum_totals
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import run_together
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.prompts.prefetch import PromptsAhead
from gpg_vl.records import (
    CollectedGroups,
    GroupKind,
    LoggedGroup,
    LoggedStep,
    Prompt,
    Reward,
    RolloutGroup,
    Sample,
    ScoredGroup,
    StepTotals,
)
from gpg_vl.rewards.functions import TrainerState
from gpg_vl.rewards.scorer import RewardError, Scorer
from gpg_vl.rollout.engine import AheadEngine, RolloutEngine, Sampling, TellingEngine
from gpg_vl.screen import say
from gpg_vl.tasks.base import Task, main_part
from gpg_vl.verifiers.answers import find_answer
from gpg_vl.verifiers.reasoning import completion_text

Seed = tuple[object, ...]


class Collector:
    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        stream: SampleStream,
        prompts: PromptsAhead,
        engine: RolloutEngine,
        gold: GoldCompletions,
        scorer: Scorer,
        accelerator: Accelerator,
        parts: Sequence[LearnedPart] = (),
        show_phase: Callable[[str], None] = lambda name: None,
    ):
        self._recipe = recipe
        self._objective = objective
        self._stream = stream
        self._prompts = prompts
        self._engine = engine
        self._gold = gold
        self._scorer = scorer
        self._accelerator = accelerator
        self._parts = parts
        self._begun: list[int] | None = None  # the places of the prompts of a draw that the engine samples already
        self._show_phase = show_phase

    def collect(self, step: int, without_tasks: Collection[str] = (), keep_log_probs: bool = False) -> CollectedGroups:
        """Draws, generates and scores until beta_th of ``prompts_per_step`` groups can be trained, or max_draws.

        Args:
            without_tasks: tasks that are not drawn
            keep_log_probs: keep those under the policy that samples
        """
        config, num_wanted = self._objective.config, self._recipe.rollout.prompts_per_step
        groups: list[ScoredGroup] = []
        numbers: list[int] = []
        dropped: list[ScoredGroup] = []
        rollout_seconds = scoring_seconds = 0.0
        self._scorer.trainer_state = TrainerState(step - 1, self._recipe.run.steps)
        staleness = 0 if self._begun is None else 1
        for draw in range(given(config.max_draws)):
            start = time.perf_counter()
            rolled, places = self._take_begun() or self._sample(step, draw, without_tasks, keep_log_probs)
            generated = time.perf_counter()
            scored = self._score(rolled)
            self._refuse_failed_draw(scored)
            for group, place in zip(scored, places, strict=True):
                if self._is_dropped(group):
                    dropped.append(group)
                    continue
                groups.append(group)
                numbers.append(draw * num_wanted + place)
            rollout_seconds += generated - start
            scoring_seconds += time.perf_counter() - generated
            trained = [group for group in groups if self._objective.trains(group)]
            totals = self._count(groups, trained)
            if totals.trained_groups >= given(config.beta_th) * num_wanted:
                break
        if self._objective.cuts_surplus and totals.trained_groups > num_wanted:
            trained = self._first(num_wanted, groups, trained, numbers)
            totals = self._count(groups, trained)
        seconds = rollout_seconds, scoring_seconds
        return CollectedGroups(groups, numbers, trained, dropped, totals, draw + 1, *seconds, staleness)

    def begin(self, step: int, without_tasks: Collection[str], keep_log_probs: bool) -> None:
        """Has the engine sample a step's first draw while the policy is trained, and ``collect`` begin with it.

        Args: see ``collect``
        """
        engine = cast(AheadEngine, self._engine)  # the recipe admits ``rollout.ahead`` with no other
        prompts, seeds, places = self._draw(step, 0, without_tasks)
        size, sampling = self._recipe.rollout.group_size, self._sampling()
        with engine.sync_weights():
            run_together(lambda: engine.begin(prompts, size, sampling, seeds, keep_log_probs))
        self._begun = places

    def is_answered(self) -> bool:
        """Whether all of what was begun was answered, on all ranks, which call it together."""
        return all(gather_object([run_together(cast(AheadEngine, self._engine).wait)]))

    def drop_begun(self) -> None:
        """Ends what was begun, if it was; ``collect`` draws anew."""
        if self._recipe.rollout.ahead:
            cast(AheadEngine, self._engine).drop()
        self._begun = None

    def _take_begun(self) -> tuple[list[RolloutGroup], list[int]] | None:
        if self._begun is None:
            return None
        places, self._begun = self._begun, None
        return run_together(cast(AheadEngine, self._engine).take), places

    def _sample(
        self, step: int, draw: int, without_tasks: Collection[str], keep_log_probs: bool
    ) -> tuple[list[RolloutGroup], list[int]]:
        """The groups of a draw, by the present policy, and the place of each."""
        prompts, seeds, places = self._draw(step, draw, without_tasks)
        with self._engine.sync_weights():
            return run_together(partial(self._roll_out, prompts, seeds, keep_log_probs)), places

    def _draw(self, step: int, draw: int, without_tasks: Collection[str]) -> tuple[list[Prompt], list[Seed], list[int]]:
        """This rank's share of the next ``prompts_per_step`` prompts, dealt round-robin; the seed and place of each.

        A sample that is drawn twice gets another seed the second time. If an image can no longer be opened on some
        rank, all ranks leave its sample out from now on, and the next sample takes its place.
        """
        self._show_phase("rollout" if draw == 0 else f"rollout, draw {draw + 1}")
        num_ranks, rank = self._accelerator.num_processes, self._accelerator.process_index
        times_drawn: Counter[str] = Counter()
        prompts: list[Prompt] = []
        seeds: list[Seed] = []
        places: list[int] = []
        num_missing = self._recipe.rollout.prompts_per_step
        while num_missing:
            samples = self._stream.draw(num_missing, without_tasks)
            self._prompts.expect(samples[rank::num_ranks])
            built = run_together(partial(self._build, samples[rank::num_ranks]))
            bad = set(gather_object([sample.id for sample in samples[rank::num_ranks] if sample.id not in built]))
            self._stream.leave_out(dict.fromkeys(sorted(bad), "bad_image"))
            for position, sample in enumerate(samples):
                if sample.id not in bad:
                    if position % num_ranks == rank:
                        prompts.append(built[sample.id])
                        seeds.append((self._recipe.run.seed, step, draw, sample.id, times_drawn[sample.id]))
                        places.append(times_drawn.total())
                    times_drawn[sample.id] += 1
            num_missing = sum(sample.id in bad for sample in samples)
        next_samples = self._stream.look_ahead(self._recipe.rollout.prompts_per_step, without_tasks)
        self._prompts.expect(next_samples[rank::num_ranks])
        return prompts, seeds, places

    def _build(self, samples: Sequence[Sample]) -> dict[str, Prompt]:
        """The prompts by sample id, without those that ``data.on_bad_image`` skips."""
        built: dict[str, Prompt] = {}
        with PULSE.beating("opening images"):
            for sample in samples:
                PULSE.beat()
                try:
                    built[sample.id] = self._prompts.build(sample)
                except BadImage as error:
                    if self._recipe.data.on_bad_image == "fail":
                        raise BadImage(f"{error}; replace it, or set data.on_bad_image to skip") from error
                    say(f"left out from now on: {error}")
        return built

    def _roll_out(self, prompts: Sequence[Prompt], seeds: Sequence[Seed], keep_log_probs: bool) -> list[RolloutGroup]:
        if self._objective.imitates_gold:
            written = [self._gold.write(prompt.sample, prompt.text, prompt.views) for prompt in prompts]
            return [RolloutGroup(prompt, (gold,)) for prompt, gold in zip(prompts, written, strict=True)]
        size = self._recipe.rollout.group_size
        if isinstance(self._engine, TellingEngine):
            tell = self._scorer.begin
            return self._engine.generate(prompts, size, self._sampling(), seeds, keep_log_probs, tell)
        return self._engine.generate(prompts, size, self._sampling(), seeds, keep_log_probs)

    def _sampling(self) -> Sampling:
        rollout = self._recipe.rollout
        return Sampling(rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k)

    def _score(self, rolled: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        """
        Raises:
            ValueError: the objective does not take a reward
        """
        self._show_phase("scoring")
        scored = run_together(partial(self._scorer.score, rolled))
        groups = add_parts(self._parts, scored, self._recipe.rewards.weights)
        run_together(partial(self._check_rewards, groups))
        return groups

    def _check_rewards(self, groups: Sequence[ScoredGroup]) -> None:
        for group in groups:
            self._objective.check_rewards(group)

    def _refuse_failed_draw(self, scored: Sequence[ScoredGroup]) -> None:
        """
        Raises:
            RewardError: no completion of the draw could be scored, on no rank: nothing is left to learn from
        """
        rewards = [reward for group in scored for reward in group.rewards]
        failed = [reward for reward in rewards if reward.has_failed]
        num_failed, num = sum_over_ranks(self._accelerator, [len(failed), len(rewards)])
        if num_failed == num > 0:
            first = failed[0].message if failed else "the other ranks say why"
            raise RewardError(f"scoring failed for all {num} completions of a draw: {first}")

    def _is_dropped(self, group: ScoredGroup) -> bool:
        return self._recipe.rewards.on_error == "drop_group" and group.has_failure

    def _first(
        self, count: int, groups: Sequence[ScoredGroup], trained: Sequence[ScoredGroup], numbers: Sequence[int]
    ) -> list[ScoredGroup]:
        """This rank's groups among the first ``count`` trained ones that all ranks drew."""
        number_of = {id(group): number for group, number in zip(groups, numbers, strict=True)}
        kept = set(sorted(gather_object([number_of[id(group)] for group in trained]))[:count])
        return [group for group in trained if number_of[id(group)] in kept]

    def _count(self, groups: Sequence[ScoredGroup], trained: Sequence[ScoredGroup]) -> StepTotals:
        """Counts over all ranks; equal on each, so that all make the same decision."""
        [totals] = sum_totals(self._accelerator, [self._objective.count(groups, trained)])
        return totals


def gather_collected(collected: CollectedGroups, tasks: Mapping[str, Task]) -> LoggedStep:
    """The groups of all ranks in the form that is logged. All ranks call it together.

    Args:
        tasks: by the name that the rows use
    """
    trained = {id(group) for group in collected.trained}
    groups = [_logged(group, tasks, id(group) in trained) for group in collected.groups]
    dropped = [_logged(group, tasks, is_trained=False) for group in collected.dropped]
    return LoggedStep(
        gather_object(groups),
        gather_object(dropped),
        collected.totals,
        collected.num_draws,
        collected.rollout_seconds,
        collected.scoring_seconds,
        collected.staleness,
    )


def _logged(group: ScoredGroup, tasks: Mapping[str, Task], is_trained: bool) -> LoggedGroup:
    prompt = group.prompt
    return LoggedGroup(
        prompt.sample.id,
        prompt.sample.task,
        prompt.sample.answer,
        prompt.text,
        group.completions,
        group.rewards,
        is_trained,
        _kind_of(group, tasks[prompt.sample.task]),
        len({find_answer(completion_text(prompt, each.text), prompt.answer_in) for each in group.completions}),
        group.metrics,
    )


def _kind_of(group: ScoredGroup, task: Task) -> GroupKind:
    if has_signal(group):
        return "signal"
    marks = [_marks(reward, task) for reward in group.rewards]
    return "easy" if sum(marks) >= len(marks) / 2 else "hard"


def _marks(reward: Reward, task: Task) -> float:
    """The share of the marks that a completion earned, its format left out."""
    main = main_part(task, reward.parts)
    low, high = task.ranges.get(main, (0.0, 1.0))
    return (reward.parts.get(main, low) - low) / (high - low) if high > low else 0.0
