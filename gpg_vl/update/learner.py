"""Collected groups -> gradient -> weights: the policy's side of an optimizer step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives.base import Objective
from gpg_vl.processes.collectives import sum_losses
from gpg_vl.processes.ranks import run_together
from gpg_vl.processes.weights import whole_weights
from gpg_vl.records import CollectedGroups, ScoredGroup, TrainingGroup, UpdateStats
from gpg_vl.update.gradient import accumulate_gradient, take_step
from gpg_vl.update.layouts import build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.packing import plan_micro_batches
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.reference import Reference, sum_kl
from gpg_vl.update.self_check import check_packing


class Learner:
    """Owns the optimizer, and the reference model where the objective needs one."""

    def __init__(self, recipe: Recipe, objective: Objective, adapter: Adapter, accelerator: Accelerator):
        self._recipe = recipe
        self._objective = objective
        self._adapter = adapter
        self._accelerator = accelerator
        forward = PolicyForward(adapter, recipe.rollout.temperature)
        optimizer = build_optimizer(adapter, recipe.update)
        self._reference = Reference(recipe, adapter, accelerator) if objective.needs else None
        self._policy = PolicyForward(adapter, recipe.rollout.temperature)  # not wrapped by the layout
        self.layout = build_layout(accelerator, forward, optimizer, recipe.update.max_grad_norm)
        self.groups: list[TrainingGroup] = []  # this rank's groups of the last gradient
        self._is_checked = False

    @property
    def optimizer(self) -> Any:
        """torch's optimizer, or DeepSpeed's wrapper of it."""
        return self.layout.optimizer

    def accumulate_gradient(self, collected: CollectedGroups) -> UpdateStats | None:
        """Computes the step's gradient, which stays in the layout; None if no group on any rank has signal."""
        if collected.totals.trained_groups == 0:
            return None
        needs_forward = self._reference is not None or not self._is_checked
        with whole_weights(self._accelerator) if needs_forward else nullcontext():
            kl, self.groups = run_together(lambda: self._prepare_groups(collected.trained))
        passes = accumulate_gradient(
            self.layout,
            self.groups,
            self._objective.denominator(collected.totals, self._recipe.rollout.prompts_per_step),
            self._recipe.update,
            self._adapter,
            self._accelerator,
        )
        kl = None if kl is None else sum_losses(self._accelerator, kl) / collected.totals.trained_tokens
        return UpdateStats(**asdict(passes) | {"loss": sum_losses(self._accelerator, passes.loss), "kl": kl})

    def take_step(self, learning_rate: float) -> float:
        """Updates the weights; returns the gradient's norm, see ``update.gradient.take_step``."""
        return take_step(self.layout, learning_rate)

    def _prepare_groups(self, trained: Sequence[ScoredGroup]) -> tuple[float | None, list[TrainingGroup]]:
        """This rank's groups with coefficients, and the sum of their tokens' KL if there is a reference."""
        if self._reference is None:
            kl, groups = None, [self._objective.training_group(group) for group in trained]
        else:
            log_probs = self._reference.compare(self._policy, trained)
            kl, groups = sum_kl(log_probs), list(map(self._objective.training_group, trained, log_probs))
        if not self._is_checked:
            self._check_packing(groups)
            self._is_checked = True
        return kl, groups

    def _check_packing(self, groups: Sequence[TrainingGroup]) -> None:
        """Checks the first micro-batch of this rank's groups that has an image, or else the first one."""
        update = self._recipe.update
        plan = plan_micro_batches(groups, update.tokens_per_micro_batch, update.patches_per_micro_batch)
        with_image = [rows for rows in plan if any(row.encoded.vision is not None for row in rows)]
        for rows in [*with_image, *plan][:1]:
            difference = check_packing(self._adapter, rows, self._recipe.rollout.temperature)
            if self._accelerator.is_main_process:
                print(f"self-check: packed and plain log-probs agree to {difference:.1e}", file=sys.stderr, flush=True)
