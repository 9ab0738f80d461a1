"""The frozen initial policy, and the log-probs of whole groups under it and under the policy, for objectives with a KL.

An objective that needs no log-probs never uses this: no second model, no additional forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from accelerate import Accelerator
from torch import nn

from gpg_vl.config import Recipe
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.lora import find_base
from gpg_vl.models.paths import resolve_model_path
from gpg_vl.records import LogProbs, ScoredGroup, TrainingGroup
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import PolicyForward, move_to

GroupLogProbs = tuple[tuple[float, ...], ...]  # [G][T]


class Reference:
    """The model that the run started from, also in a resumed run.

    It is a second, frozen copy of ``recipe.model``. If the policy is that model with a fresh LoRA adapter, it is the
    policy with the adapter switched off, and takes no memory.
    """

    def __init__(self, recipe: Recipe, adapter: Adapter, accelerator: Accelerator):
        self._recipe = recipe
        self._adapter = adapter
        self._accelerator = accelerator
        self._copy: nn.Module | None = None
        if recipe.model.lora is None or find_base(resolve_model_path(recipe.model.path)) is not None:
            initial = load_adapter(recipe.model)
            initial.model.requires_grad_(requires_grad=False).to(accelerator.device)
            self._copy = PolicyForward(initial, recipe.rollout.temperature)

    def compare(self, policy: nn.Module, groups: Sequence[ScoredGroup]) -> list[LogProbs]:
        """Log-probs of each group under ``policy``, a ``PolicyForward``, as it is now, and under the reference.

        The policy as it is now is also the one that sampled: each rollout is followed by one update.
        """
        current = self._measure(policy, groups)
        with self._initial_policy(policy) as initial:
            reference = self._measure(initial, groups)
        return [LogProbs(now, old=now, reference=ref) for now, ref in zip(current, reference, strict=True)]

    @contextmanager
    def _initial_policy(self, policy: nn.Module) -> Iterator[nn.Module]:
        if self._copy is not None:
            yield self._copy
            return
        with self._adapter.without_lora():
            yield policy

    @torch.no_grad()
    def _measure(self, forward: nn.Module, groups: Sequence[ScoredGroup]) -> list[GroupLogProbs]:
        """Uses the packed forward, in the same micro-batches as the update."""
        forward.eval()
        budget = self._recipe.update
        unweighted = [_without_weights(group) for group in groups]
        found: dict[int, tuple[float, ...]] = {}  # by id() of the completion: micro-batches reorder and split groups
        for rows in plan_micro_batches(unweighted, budget.tokens_per_micro_batch, budget.patches_per_micro_batch):
            batch = move_to(build_micro_batch(rows, self._adapter), self._accelerator.device)
            log_probs = iter(forward(batch).tolist())
            for completion in (completion for row in rows for completion in row.completions):
                found[id(completion)] = tuple(islice(log_probs, len(completion.token_ids)))
        return [tuple(found[id(completion)] for completion in group.completions) for group in groups]


def _without_weights(group: ScoredGroup) -> TrainingGroup:
    zeros = tuple((0.0,) * len(completion.token_ids) for completion in group.completions)
    return TrainingGroup(group.prompt, group.completions, zeros, group.features)


def sum_kl(log_probs: Sequence[LogProbs]) -> float:
    """Sum over all tokens of k3 = exp(l_ref - l) - (l_ref - l) - 1, an estimate of KL(policy || reference) in nats."""
    gaps = [
        ref - now
        for each in log_probs
        for pair in zip(each.current, each.reference, strict=True)
        for now, ref in zip(*pair, strict=True)
    ]
    return sum(math.expm1(gap) - gap for gap in gaps)
