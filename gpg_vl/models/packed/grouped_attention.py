"""Attention of packed rows without a pair that the rule forbids: prompts first, then their completions, as batches.

The tokens of all groups are moved so that prompts of about the same length lie in one batch, and so do completions;
what comes out is moved back. Where each token goes depends on the segment ids alone, and is worked out once for all
layers of a forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from gpg_vl.models.packed.segments import GROUP


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The prompt attends to itself; then the completions, as a batch, attend to the prompt and to themselves.

    Rows that are not packed have no mask or a real one; they use transformers' own attention.

    Args:
        query: [R, heads, S, d]; where the keys of the prompts come from a cache, of the completions alone
        key: [R, key heads, keys, d], like ``value``
        attention_mask: [R, 1, 1, keys] segment ids, passed where transformers passes a mask
        scaling: factor of the scores

    Returns:
        [R, S, heads, d], 0 at padding
    """
    if attention_mask is None or attention_mask.dtype != torch.long:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    moves, num_earlier = _moves_of(attention_mask), key.shape[2] - query.shape[2]
    if num_earlier:
        query = F.pad(query, (0, 0, num_earlier, 0))  # a place for each token, as the keys have
    repeats = query.shape[1] // key.shape[1]
    heads = (query, key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1))
    rows = [tensor.transpose(1, 2).flatten(0, 1) for tensor in heads]  # [R * S, heads, d]
    q, k, v = (_TokenMove.apply(tensor, moves.there, moves.back).split(moves.sizes) for tensor in rows)
    attend = partial(_attend, scaling=scaling, has_prompts=num_earlier == 0)
    parts = [part for n, batch in enumerate(moves.batches) for part in attend(batch, q[n], k[n], v[n])]
    output = _TokenMove.apply(torch.cat(parts), moves.back, moves.there)
    return output.unflatten(0, (len(query), -1))[:, num_earlier:], None


@dataclass(frozen=True, slots=True)
class _RowBatch:
    """B groups of about the same lengths, with N completions in all."""

    num_groups: int
    longest_prompt: int  # P
    longest: int  # L, of the completions
    group_of: Tensor  # [N], the group of a completion within the batch
    sees: Tensor  # [N, 1, L, P + L] bool


@dataclass(frozen=True, slots=True)
class _Moves:
    """Where the tokens of rows [R, S] go, and back; -1 is a place that no token fills."""

    batches: list[_RowBatch]
    sizes: list[int]  # places of each batch: its prompts, then its completions
    there: Tensor  # [sum of sizes], the token at each place
    back: Tensor  # [R * S], the place of each token


def _attend(
    batch: _RowBatch, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, has_prompts: bool
) -> Iterator[Tensor]:
    """What the prompts of a batch attend to, then what its completions do, each as [places, heads, d].

    Args:
        has_prompts: False: prompts have keys alone, and 0 for their queries
    """
    num_prompt = batch.num_groups * batch.longest_prompt

    def prompts(tensor: Tensor) -> Tensor:  # [B, heads, P, d]
        return tensor[:num_prompt].unflatten(0, (batch.num_groups, batch.longest_prompt)).transpose(1, 2)

    def completions(tensor: Tensor) -> Tensor:  # [N, heads, L, d]
        return tensor[num_prompt:].unflatten(0, (len(batch.group_of), batch.longest)).transpose(1, 2)

    def keys(tensor: Tensor) -> Tensor:  # [N, heads, P + L, d]
        return torch.cat([prompts(tensor).index_select(0, batch.group_of), completions(tensor)], dim=2)

    def flat(attended: Tensor) -> Tensor:  # [places, heads, d]
        return attended.transpose(1, 2).flatten(0, 1)

    attend = partial(F.scaled_dot_product_attention, scale=scaling)
    if has_prompts:
        yield flat(attend(prompts(query), prompts(key), prompts(value), is_causal=True))
    else:
        yield query[:num_prompt].detach()
    if len(batch.group_of):
        # without prompts, a copy: the graph would keep their empty places
        own = completions(query) if has_prompts else completions(query).clone()
        yield flat(attend(own, keys(key), keys(value), attn_mask=batch.sees))


class _TokenMove(torch.autograd.Function):
    """Moves tokens to other places. No token goes to two, so the gradient moves back in the same way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _pick(tensor, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        _, back = ctx.saved_tensors
        return _pick(gradient, back), None, None


def _pick(tensor: Tensor, places: Tensor) -> Tensor:
    """The tensor's entries at the places, 0 at -1."""
    if not len(tensor):
        return tensor.new_zeros(len(places), *tensor.shape[1:])
    return tensor.index_select(0, places.clamp(min=0)).masked_fill_((places < 0)[:, None, None], 0)


_moves: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By the segment ids of a forward, for as long as they live."""


def _moves_of(segment_ids: Tensor) -> _Moves:
    """
    Args:
        segment_ids: [R, 1, 1, S]
    """
    found: _Moves | None = _moves.get(segment_ids)
    if found is None:
        found = _moves[segment_ids] = _plan_moves(segment_ids[:, 0, 0])
    return found


@dataclass(frozen=True, slots=True)
class _GroupedRows:
    start: int  # of its first token among those of all rows
    prompt: int  # tokens
    completions: list[int]  # tokens of each that has any


def _plan_moves(segment_ids: Tensor) -> _Moves:
    """For segment ids [R, S]."""
    num_tokens, device = segment_ids.numel(), segment_ids.device
    alike: defaultdict[tuple[int, int], list[_GroupedRows]] = defaultdict(list)
    for group in _find_groups(segment_ids):
        alike[_about(group.prompt, 4), _about(max(group.completions, default=0), 2)].append(group)
    planned = [_plan_batch(groups, device) for groups in alike.values()]
    there = torch.cat([places for _, places in planned])
    is_filled = there >= 0
    back = torch.full((num_tokens,), -1, device=device)
    back[there[is_filled]] = is_filled.nonzero()[:, 0]
    return _Moves([batch for batch, _ in planned], [len(places) for _, places in planned], there, back)


def _find_groups(segment_ids: Tensor) -> Iterator[_GroupedRows]:
    """Those of rows [R, S]; a row of padding alone counts as a group without tokens."""
    start = 0
    for row in segment_ids:
        ids, counts = (each.tolist() for each in row.unique_consecutive(return_counts=True))
        for number, segments in groupby(zip(ids, counts, strict=True), key=lambda each: each[0] // GROUP):
            lengths = dict(segments)
            is_padding = number < 0
            prompt = 0 if is_padding else lengths.pop(number * GROUP, 0)
            if not is_padding or len(ids) == 1:
                yield _GroupedRows(start, prompt, [] if is_padding else list(lengths.values()))
            start += prompt + sum(lengths.values())


def _about(length: int, steps: int) -> int:
    """The same for lengths within a factor of 2 ** (1 / steps) or so; 0 for nothing."""
    return 1 + int(steps * log2(length)) if length else 0


def _plan_batch(groups: Sequence[_GroupedRows], device: torch.device) -> tuple[_RowBatch, Tensor]:
    """A batch of the groups, and the token at each of its places."""
    longest_prompt = max(group.prompt for group in groups)
    longest = max((length for group in groups for length in group.completions), default=0)
    group_of = [number for number, group in enumerate(groups) for _ in group.completions]
    lengths = [length for group in groups for length in group.completions]
    starts = [g.start + g.prompt + sum(g.completions[:n]) for g in groups for n in range(len(g.completions))]
    of_prompts = _places([g.start for g in groups], [g.prompt for g in groups], longest_prompt, device)
    of_completions = _places(starts, lengths, longest, device)
    index = torch.tensor(group_of, dtype=torch.long, device=device)
    own = torch.ones(longest, longest, dtype=torch.bool, device=device).tril().expand(len(lengths), -1, -1)
    prompt = (of_prompts >= 0).index_select(0, index)[:, None].expand(-1, longest, -1)
    batch = _RowBatch(len(groups), longest_prompt, longest, index, torch.cat([prompt, own], dim=2)[:, None])
    return batch, torch.cat([of_prompts.flatten(), of_completions.flatten()])


def _places(starts: list[int], lengths: list[int], longest: int, device: torch.device) -> Tensor:
    """[pieces, longest]: each piece's tokens from its start on, then -1."""
    offsets = torch.arange(longest, device=device)
    start, length = (torch.tensor(values, dtype=torch.long, device=device)[:, None] for values in (starts, lengths))
    return torch.where(offsets < length, start + offsets, -1)
