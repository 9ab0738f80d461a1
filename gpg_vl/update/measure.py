"""Log-probs of whole groups as they stand, by the packed forward without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import torch
from torch import nn

from gpg_vl.config import UpdateConfig
from gpg_vl.errors import is_out_of_memory
from gpg_vl.models.adapter import Adapter
from gpg_vl.processes.pulse import PULSE
from gpg_vl.records import GroupLogProbs, ScoredGroup, TrainingGroup
from gpg_vl.update.packing import build_micro_batch, plan_update, shortest_budget
from gpg_vl.update.policy import move_to

T = TypeVar("T")


@torch.no_grad()
def measure_log_probs(
    forward: nn.Module, groups: Sequence[ScoredGroup], config: UpdateConfig, adapter: Adapter
) -> list[GroupLogProbs]:
    """Of every completion token, by group, in the same micro-batches as the update, or smaller where memory runs out.

    Args:
        forward: a ``PolicyForward``, on the adapter's device
        adapter: whose tokens the groups are made of
    """
    forward.eval()
    unweighted = [_without_weights(group) for group in groups]
    with PULSE.beating("measuring log-probs"):
        return halve_until_it_fits(
            lambda config: _measure(forward, groups, unweighted, config, adapter), config, unweighted
        )


def halve_until_it_fits(work: Callable[[UpdateConfig], T], config: UpdateConfig, groups: Sequence[TrainingGroup]) -> T:
    """The result of ``work``, with half the budget whenever memory runs out.

    Args:
        groups: whose rows have to fit into it

    Raises:
        RuntimeError: of ``work``; out of memory, where the smallest budget is too large
    """
    shortest = max(map(shortest_budget, groups), default=0)
    while True:
        try:
            return work(config)
        except RuntimeError as error:
            tokens = config.tokens_per_micro_batch // 2
            if not is_out_of_memory(error) or tokens < shortest:
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        config = replace(config, tokens_per_micro_batch=tokens)


def _measure(
    forward: nn.Module,
    groups: Sequence[ScoredGroup],
    unweighted: Sequence[TrainingGroup],
    config: UpdateConfig,
    adapter: Adapter,
) -> list[GroupLogProbs]:
    found: dict[int, tuple[float, ...]] = {}  # by the completion's identity: micro-batches reorder and cut groups
    for rows in plan_update(unweighted, config, adapter):
        PULSE.beat()
        batch = move_to(build_micro_batch(rows, adapter), adapter.device)
        log_probs = iter(forward(batch).tolist())
        for completion in (completion for row in rows for completion in row.completions):
            found[id(completion)] = tuple(islice(log_probs, len(completion.token_ids)))
    return [tuple(found[id(completion)] for completion in group.completions) for group in groups]


def _without_weights(group: ScoredGroup) -> TrainingGroup:
    zeros = tuple((0.0,) * len(completion.token_ids) for completion in group.completions)
    return TrainingGroup(group.prompt, group.completions, zeros, group.features)
