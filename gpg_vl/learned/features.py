"""What a frozen model makes of prompts, their images and completions: the features of a learned reward.

The rows are those of the update: a prompt and its images once, its completions behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpg_vl.config import UpdateConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.records import Completion, MicroBatch, RolloutGroup, ScoredGroup, TrainingGroup
from gpg_vl.update.packing import PackedRow, build_micro_batch, place_rows, plan_update, shortest_budget
from gpg_vl.update.policy import move_to, packed_states

Group = RolloutGroup | ScoredGroup


def read_completions(adapter: Adapter, groups: Sequence[Group], config: UpdateConfig) -> list[Tensor]:
    """The mean of the last hidden states over the tokens of each completion: [G, H] float32 on the host, by group.

    Each of these states has read the prompt, its images and the completion up to there.
    """
    extended = [_with_completions(group, [_extend(each, adapter) for each in group.completions]) for group in groups]
    found: dict[int, Tensor] = {}  # by the completion's identity: micro-batches reorder and cut groups
    for rows, _, hidden in _run(adapter, extended, config):
        states = hidden.flatten(0, 1)
        for start, row in zip(place_rows(rows, adapter)[0], rows, strict=True):
            end = start + len(row.encoded.token_ids)
            for completion in row.completions:
                first, end = end, end + len(completion.token_ids) - 1
                found[id(completion)] = states[first:end].float().mean(0).cpu()
    return [torch.stack([found[id(completion)] for completion in group.completions]) for group in extended]


def read_prompts(adapter: Adapter, groups: Sequence[Group], config: UpdateConfig) -> Tensor:
    """The last hidden state of each prompt, which has read its images: [B, H] float32 on the host."""
    nothing = Completion((adapter.end_token_ids[0],), "", finished=True)
    alone = [_with_completions(group, [nothing]) for group in groups]
    found: dict[int, Tensor] = {}
    for rows, batch, hidden in _run(adapter, alone, config):
        states = hidden.flatten(0, 1).index_select(0, batch.source_index).float().cpu()
        found |= {id(row.encoded): state for row, state in zip(rows, states, strict=True)}
    return torch.stack([found[id(group.prompt.encoded)] for group in groups])


def _extend(completion: Completion, adapter: Adapter) -> Completion:
    """With one token more: the last token of a row is predicted but not read."""
    return Completion((*completion.token_ids, adapter.end_token_ids[0]), completion.text, completion.finished)


def _with_completions(group: Group, completions: Sequence[Completion]) -> TrainingGroup:
    zeros = tuple((0.0,) * len(completion.token_ids) for completion in completions)
    return TrainingGroup(group.prompt, tuple(completions), zeros, group.features)


@torch.no_grad()
def _run(
    adapter: Adapter, groups: Sequence[TrainingGroup], config: UpdateConfig
) -> Iterator[tuple[list[PackedRow], MicroBatch, Tensor]]:
    """The hidden states [R, S, H] of each micro-batch."""
    adapter.model.eval()
    budget = max([config.tokens_per_micro_batch, *map(shortest_budget, groups)])  # of a longest row, the token more
    for rows in plan_update(groups, replace(config, tokens_per_micro_batch=budget), adapter):
        batch = move_to(build_micro_batch(rows, adapter), adapter.device)
        with adapter.autocast():
            yield rows, batch, packed_states(adapter, batch)
