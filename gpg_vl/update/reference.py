"""The frozen initial policy, and the log-probs of whole groups under it.

An objective that does not need them never uses this: no second model, no additional forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from gpg_vl.config import ModelConfig, Recipe
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.weights.compute_types import types_under_autocast
from gpg_vl.models.weights.lora import find_base
from gpg_vl.processes.ranks import run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.records import GroupLogProbs, LogProbs, ScoredGroup
from gpg_vl.update.handing_out import hand_out_whole
from gpg_vl.update.measure import measure_log_probs
from gpg_vl.update.policy import PolicyForward


def needs_copy(config: ModelConfig) -> bool:
    """Whether the initial model is a second one, and not the policy without a fresh adapter."""
    return config.lora is None or find_base(resolve_model_path(config.path)) is not None


class InitialModel:
    """The model that the run started from, also in a resumed run.

    It is a second, frozen copy of ``recipe.model``, in the compute type as far as that changes no log-prob from the
    policy's. Where ranks share the weights, the copy stays on the host between uses. If the policy is that model with a
    fresh LoRA adapter, it is the policy with the adapter switched off, and takes no memory.
    """

    def __init__(self, recipe: Recipe, adapter: Adapter, accelerator: Accelerator):
        """Reads it on the first rank, and hands it out. All ranks together.

        Raises:
            ValueError: it cannot be read; a RankError with several ranks
        """
        self._policy = adapter
        self._copy: Adapter | None = None
        sharding = sharding_of(accelerator)
        self._home = accelerator.device if sharding.keeps_whole_weights else torch.device("cpu")
        if needs_copy(recipe.model):
            reads = accelerator.is_main_process
            self._copy = run_together(lambda: load_adapter(recipe.model, with_values=reads))
            self._copy.model.requires_grad_(requires_grad=False)
            hand_out_whole(self._copy, accelerator, self._home)
            if sharding.computes_rounded:
                self._copy.round_weights()
            keep_in_compute_type(self._copy)
            self._copy.to(self._home)

    @property
    def hidden_size(self) -> int:
        return self._policy.head_weight.shape[1]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Those that it has besides the policy's."""
        if self._copy is not None:
            yield from self._copy.model.parameters()
            yield from self._copy.model.buffers()

    @contextmanager
    def running(self) -> Iterator[Adapter]:
        """Within, it is on the policy's device; where it is the policy itself, this rank must have all weights."""
        if self._copy is None:
            with self._policy.without_lora():
                yield self._policy
            return
        self._copy.to(self._policy.device)
        try:
            yield self._copy
        finally:
            self._copy.to(self._home)


class Reference:
    """Log-probs under the initial model."""

    def __init__(self, recipe: Recipe, adapter: Adapter, accelerator: Accelerator, initial: InitialModel | None = None):
        """All ranks together.

        Args:
            initial: where it is loaded already

        Raises:
            ValueError: see ``InitialModel``
        """
        self._recipe = recipe
        self._adapter = adapter
        self._initial = initial or InitialModel(recipe, adapter, accelerator)

    def measure(self, groups: Sequence[ScoredGroup]) -> list[GroupLogProbs]:
        """Of each group."""
        with self._initial.running() as initial:
            forward = PolicyForward(initial, self._recipe.rollout.temperature)
            return measure_log_probs(forward, groups, self._recipe.update, self._adapter)


def keep_in_compute_type(adapter: Adapter) -> None:
    """Where the policy runs under autocast: rounds the weights that this would round in each forward."""
    weights = dict(adapter.model.named_parameters())
    for name, dtype in types_under_autocast(adapter).items():
        weights[name].data = weights[name].data.to(dtype)


def sum_kl(log_probs: Sequence[LogProbs]) -> float:
    """Sum over all tokens of k3 = exp(l_ref - l) - (l_ref - l) - 1, an estimate of KL(policy || reference) in nats."""
    gaps = [
        ref - now
        for each in log_probs
        for pair in zip(each.current, each.reference, strict=True)
        for now, ref in zip(*pair, strict=True)
    ]
    return sum(math.expm1(gap) - gap for gap in gaps)
