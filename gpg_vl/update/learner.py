"""Collected groups -> gradient -> weights: the policy's side of an optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from accelerate import Accelerator

from gpg_vl.config import Recipe, UpdateConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives.base import Objective, given
from gpg_vl.processes.collectives import gather_object, in_step, max_over_ranks, sum_losses
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.whole_weights import weights_in_float32, whole_weights
from gpg_vl.records import CollectedGroups, GroupLogProbs, LogProbs, ScoredGroup, TrainingGroup, UpdateStats
from gpg_vl.screen import say
from gpg_vl.update.balance import balance
from gpg_vl.update.engine_gap import check_gap
from gpg_vl.update.flops import count_weights, rollout_flops, update_flops
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.gradient import PassStats, accumulate_gradient, keeps_prompts, take_step
from gpg_vl.update.importance import Importance
from gpg_vl.update.layouts import Layout, build_layout
from gpg_vl.update.measure import halve_until_it_fits, measure_log_probs
from gpg_vl.update.noise_floor import check_rounding
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.packing import plan_update, shortest_budget
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.policy_shift import completion_shifts
from gpg_vl.update.reference import InitialModel, Reference, sum_kl
from gpg_vl.update.rollouts import AnchoredGroup, Rollout, UpdateBatch, deal_updates
from gpg_vl.update.self_check import check_packing, check_prefill
from gpg_vl.update.zero3 import share_out


class FurtherGradient(Protocol):
    def accumulate(self, layout: Layout, groups: Sequence[TrainingGroup], num_sequences: int, step: int) -> float:
        """Adds this rank's part of a gradient to the layout's, which every rank has whole; its part of the loss.

        Args:
            num_sequences: completions that were sampled, over all ranks
        """


class Learner:
    """Owns the optimizer, and the reference model where the objective needs one."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        adapter: Adapter,
        accelerator: Accelerator,
        beside: FurtherGradient | None = None,
        initial: InitialModel | None = None,
        update: UpdateConfig | None = None,
    ):
        """
        Args:
            beside: a loss that is followed together with the objective's; only where ranks keep their own gradients
            initial: where it is loaded already
            update: the recipe's, with the budgets of this machine; None: the recipe's own

        Raises:
            ValueError: the initial model or the optimizer cannot be used; a RankError with several ranks
        """
        self._recipe = recipe
        self._objective = objective
        self._adapter = adapter
        self._accelerator = accelerator
        forward = PolicyForward(adapter, recipe.rollout.temperature)
        has_reference = "reference" in objective.needs
        self._reference = Reference(recipe, adapter, accelerator, initial) if has_reference else None
        self._policy = PolicyForward(adapter, recipe.rollout.temperature)  # not wrapped by the layout
        self._weights = count_weights(adapter)  # before the layout shards them
        shard_policy(accelerator, forward)
        share_out(accelerator, forward)
        optimizer = run_together(lambda: build_optimizer(adapter, recipe.update, sharding_of(accelerator)))
        self.layout = build_layout(accelerator, forward, optimizer, recipe.update.max_grad_norm)
        self.groups: list[TrainingGroup] = []  # this rank's groups of the last gradient
        self._is_checked = False
        self._update = update or recipe.update
        self._tokens = self._update.tokens_per_micro_batch  # of a micro-batch, for which memory has sufficed
        self._beside = beside
        assert beside is None or not self.layout.needs_equal_passes, "ranks share gradients"

    @property
    def _deals_by_cost(self) -> bool:
        """Whether groups move between ranks before they are trained. What is followed beside them stays where it is:
        it reads what a rank has kept of the prompts that it sampled."""
        return self._accelerator.num_processes > 1 and self._beside is None

    @property
    def optimizer(self) -> Any:
        """torch's optimizer, or DeepSpeed's wrapper of it."""
        return self.layout.optimizer

    def open_rollout(self, step: int, collected: CollectedGroups) -> Rollout:
        """The updates made from the groups, with the log-probs that stay the same over all of them.

        Args:
            step: at which the groups were collected
        """
        update = self._recipe.update
        parts = deal_updates(collected, self._objective, update.groups_per_update, self._accelerator)
        if self._deals_by_cost:
            parts = [(balance(groups, self._accelerator.device), totals) for groups, totals in parts]
        with self._whole_weights(bool(self._objective.needs)):
            batches = run_together(lambda: [UpdateBatch(self._anchor(trained), totals) for trained, totals in parts])
        return Rollout(step, batches, len(batches) * update.epochs_per_rollout, staleness=collected.staleness)

    def accumulate_gradient(self, rollout: Rollout) -> UpdateStats | None:
        """Computes the gradient of the rollout's next update, which stays in the layout; None if it trains no group."""
        batch = rollout.next_batch
        if batch.totals.trained_groups == 0:
            return None
        measures = bool(self._objective.needs) and not rollout.is_fresh and rollout.current is None
        with self._whole_weights(measures):
            log_probs, self.groups = run_together(lambda: self._prepare_groups(rollout))
        rollout.current = None
        budget, importance = self._budget(), self._importance()
        self._check_once(budget)
        num_prompts = self._recipe.rollout.prompts_per_step * rollout.share
        denominator = self._objective.denominator(batch.totals, num_prompts)
        with self._watched("the update", is_in_step=self.layout.needs_equal_passes):
            passes = accumulate_gradient(
                self.layout, self.groups, denominator, budget, self._adapter, self._accelerator, importance
            )
        self._tokens = min(self._tokens, passes.tokens_per_micro_batch)
        loss = passes.loss if log_probs is None else self._written_loss(batch, log_probs) / denominator
        if self._beside is not None:
            further = partial(self._beside.accumulate, self.layout, self.groups, batch.totals.sequences, rollout.step)
            loss += run_together(further)
        gaps = self._gaps(passes) if rollout.is_fresh else (None, None, None)
        if not rollout.staleness:  # else the policy has moved on since
            check_gap(self._recipe, *gaps[:2])
        kl = None if log_probs is None or self._reference is None else sum_kl(log_probs)
        return UpdateStats(
            loss=sum_losses(self._accelerator, loss),
            num_micro_batches=passes.num_micro_batches,
            num_split_rows=passes.num_split_rows,
            num_padded_tokens=passes.num_padded_tokens,
            tokens_per_micro_batch=passes.tokens_per_micro_batch,
            kl=None if kl is None else sum_losses(self._accelerator, kl) / batch.totals.trained_tokens,
            entropy=None if self._objective.imitates_gold else self._mean_surprisal(passes),
            log_prob_gap=gaps[0],
            largest_log_prob_gap=gaps[1],
            rollout_kl=gaps[2],
        )

    def _gaps(self, passes: PassStats) -> tuple[float | None, float | None, float | None]:
        """How far the log-probs of rollout and update are apart, on all ranks: mean, largest, KL; None if not kept."""
        sums = (passes.gap, passes.divergence, float(passes.num_compared))
        total, divergence, count = (sum_losses(self._accelerator, each) for each in sums)
        largest = max(gather_object([passes.largest_gap]))
        return (total / count, largest, divergence / count) if count else (None, None, None)

    def _importance(self) -> Importance | None:
        rollout = self._recipe.rollout
        return None if rollout.importance == "none" else Importance(rollout.importance, rollout.importance_cap)

    def _budget(self) -> UpdateConfig:
        """The run's budget, or the one that was left when memory ran out, with room for this step's longest row."""
        full, tokens, own = self._update, self._tokens, self._recipe.update.tokens_per_micro_batch
        if tokens < own:  # which holds every row
            longest = max_over_ranks(self._accelerator, max(map(shortest_budget, self.groups), default=0))
            tokens = min(own, max(tokens, longest))
        part = min(tokens, full.tokens_per_micro_batch)
        patches = full.patches_per_micro_batch * part // full.tokens_per_micro_batch
        return replace(full, tokens_per_micro_batch=tokens, patches_per_micro_batch=max(1, patches))

    def _mean_surprisal(self, passes: PassStats) -> float:
        total, count = (sum_losses(self._accelerator, each) for each in (passes.surprisal, float(passes.num_tokens)))
        return total / count

    def measure_shift(self, rollout: Rollout) -> float:
        """How far the policy has moved from the one that sampled: the mean over the trained completions of all ranks.

        The log-probs are kept for the next update. All ranks together.
        """
        with self._whole_weights(is_needed=True):
            current = run_together(lambda: self._measure([each.group for each in rollout.groups]))
        pairs = list(zip(rollout.groups, current, strict=True))
        rollout.current = {id(each.group): now for each, now in pairs}
        shifts = [shift for each, now in pairs for shift in completion_shifts(given(each.old), now)]
        total, count = (sum_losses(self._accelerator, value) for value in (sum(shifts), float(len(shifts))))
        return total / count

    def useful_flops(self, sampled: Sequence[ScoredGroup], has_updated: bool) -> float | None:
        """Of this rank's part of a step: sampling those groups, and the last gradient. None if it is not known."""
        if self._weights is None:
            return None
        return rollout_flops(self._weights, sampled) + update_flops(self._weights, self.groups if has_updated else [])

    def take_step(self, learning_rate: float) -> float:
        """Updates the weights; returns the gradient's norm, see ``update.gradient.take_step``."""
        with self._watched("the optimizer's step", is_in_step=True):
            return take_step(self.layout, learning_rate)

    @contextmanager
    def _watched(self, work: str, *, is_in_step: bool) -> Iterator[None]:
        """Inside, a rank without progress hangs; where all ranks do the same at the same time, a long wait fails."""
        limit = in_step(self._recipe.run.hang_timeout_s) if is_in_step else nullcontext()
        with PULSE.beating(work), limit:
            yield

    def _whole_weights(self, is_needed: bool) -> AbstractContextManager[None]:
        return whole_weights(self._accelerator) if is_needed else nullcontext()

    def _measure(self, groups: Sequence[ScoredGroup]) -> list[GroupLogProbs]:
        return measure_log_probs(self._policy, groups, self._recipe.update, self._adapter)

    def _anchor(self, groups: Sequence[ScoredGroup]) -> list[AnchoredGroup]:
        """Adds the log-probs of the policy as it is now, which sampled the groups, and of the reference, if needed."""
        unknown: list[GroupLogProbs | None] = [None] * len(groups)
        old = self._measure(groups) if self._objective.needs else unknown
        reference = unknown if self._reference is None else self._reference.measure(groups)
        return [AnchoredGroup(*each) for each in zip(groups, old, reference, strict=True)]

    def _prepare_groups(self, rollout: Rollout) -> tuple[list[LogProbs] | None, list[TrainingGroup]]:
        """This rank's groups with coefficients, and the log-probs that these depend on, if any."""
        batch = rollout.next_batch
        groups = [each.group for each in batch.groups]
        if not self._objective.needs:
            log_probs, training = None, [self._objective.training_group(group) for group in groups]
        else:
            log_probs = [each.beside(now) for each, now in zip(batch.groups, self._current(rollout), strict=True)]
            training = list(map(self._objective.training_group, groups, log_probs))
        return log_probs, training

    def _current(self, rollout: Rollout) -> list[GroupLogProbs]:
        """Log-probs of the next update's groups under the policy as it is now."""
        groups = rollout.next_batch.groups
        if rollout.is_fresh:
            return [given(each.old) for each in groups]
        if rollout.current is not None:
            return [rollout.current[id(each.group)] for each in groups]
        return self._measure([each.group for each in groups])

    def _written_loss(self, batch: UpdateBatch, log_probs: Sequence[LogProbs]) -> float:
        """The objective's loss of this rank's groups, before the division; else it is that of the linear surrogate."""
        pairs = zip(batch.groups, log_probs, strict=True)
        return sum(self._objective.loss(each.group, of_group) for each, of_group in pairs)

    def _check_once(self, budget: UpdateConfig) -> None:
        """Before the run's first gradient, computed in float32.

        Args:
            budget: of the gradient; a few of its rows are enough where it is a large one
        """
        if not self._is_checked:
            config = min(self._recipe.update, budget, key=lambda each: each.tokens_per_micro_batch)
            with weights_in_float32(self._accelerator):
                run_together(lambda: halve_until_it_fits(self._check_rows, config, self.groups))
            self._is_checked = True

    def _check_rows(self, config: UpdateConfig) -> None:
        """Checks the first micro-batch of this rank's groups that has an image, or else the first one."""
        keeps = keeps_prompts(self.layout, self._adapter)
        plan = plan_update(self.groups, config, self._adapter, keeps)
        with_image = [rows for rows in plan if any(row.encoded.vision is not None for row in rows)]
        for rows in [*with_image, *plan][:1]:
            temperature = self._recipe.rollout.temperature
            packed = check_packing(self._adapter, rows, temperature)
            rolled = check_prefill(self._adapter, rows, temperature)
            is_alone, tokens = not self.layout.needs_equal_passes, config.tokens_per_micro_batch
            rounding = check_rounding(self._adapter, rows, temperature, tokens) if is_alone else None
            if self._accelerator.is_main_process:
                kind = "packed" if self._recipe.update.pack else "repeated prompts (update.pack: false)"
                say(f"self-check: {kind} and plain log-probs agree to {packed:.1e}, those of a rollout to {rolled:.1e}")
                if rounding is not None:
                    say(f"self-check: as the update computes, {rounding}")
