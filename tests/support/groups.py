"""Groups of every kind for the update's tests, and their gradients, packed and by plain rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import TrainingGroup
from gpg_vl.update.kept_prompts import KeptPrompts, build_part
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches, shortest_budget
from gpg_vl.update.policy import PolicyForward
from tests.support.builders import make_sample, make_training_group


def make_groups(adapter: BaseAdapter) -> list[TrainingGroup]:
    return [
        make_training_group(adapter, make_sample(sizes, seed), lengths, seed)
        for seed, (sizes, lengths) in enumerate(CASES.values())
    ]


def plain_gradients(adapter: BaseAdapter, groups: Sequence[TrainingGroup]) -> dict[str, Tensor]:
    """One completion, one row, one backward: images and prompt run again for each."""
    adapter.model.zero_grad()
    for group in groups:
        for completion, coefficients in zip(group.completions, group.coefficients, strict=True):
            log_probs = plain_log_probs(adapter, group.prompt.encoded, completion, 1.0)
            if log_probs.requires_grad:  # else only the tower is trained, and the row has no image
                (log_probs * torch.tensor(coefficients)).sum().backward()
    return gradients(adapter)


def packed_gradients(
    adapter: BaseAdapter, groups: Sequence[TrainingGroup], max_tokens: int = 8192, pack: bool = True
) -> dict[str, Tensor]:
    adapter.model.zero_grad()
    adapter.model.train()
    forward = PolicyForward(adapter, 1.0)
    for rows in plan_micro_batches(groups, max_tokens, 10_000, pack):
        batch = build_micro_batch(rows, adapter)
        (batch.coefficients * forward(batch)).sum().backward()
    return gradients(adapter)


def kept_gradients(adapter: BaseAdapter, groups: Sequence[TrainingGroup], max_tokens: int) -> dict[str, Tensor]:
    """As ``packed_gradients``, with the prompts of split groups kept for their parts."""
    adapter.model.zero_grad()
    adapter.model.train()
    forward, prompts = PolicyForward(adapter, 1.0), KeptPrompts(adapter)
    for rows in plan_micro_batches(groups, max_tokens, 10_000, keeps_prompts=adapter.keeps_prompts):
        prompt = prompts.before(rows)
        batch = build_micro_batch(rows, adapter) if prompt is None else build_part(rows[0], adapter)
        (batch.coefficients * forward(batch, prompt)).sum().backward()
        prompts.after(rows)
    return gradients(adapter)


def least_budget(groups: Sequence[TrainingGroup]) -> int:
    """For which every group with completions of two lengths is split."""
    return max(map(shortest_budget, groups))


def worst_relative_error(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    errors = [float((a[n] - b[n]).norm() / b[n].norm()) for n in b if float(b[n].norm()) > 1e-8]
    assert len(errors) > 0.8 * len(b)
    return max(errors)


# image sizes of the prompt, completion lengths: mixed sizes, several images, none, G = 1; a completion of length 1 in
# an even place is an end token alone (builders.random_completions)
CASES = {
    "one image": ([(84, 84)], [5, 1, 9, 3]),
    "end token first": ([(84, 84)], [1, 4, 1, 1]),
    "two images of one size": ([(56, 56), (56, 56)], [3, 8]),
    "three images of different sizes": ([(84, 56), (140, 84), (30, 200)], [4, 7]),
    "no image": ([], [6, 2, 1]),
    "one completion": ([(56, 56)], [5]),
    "one token": ([(56, 84)], [1]),
}


def gradients(adapter: BaseAdapter) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in adapter.model.named_parameters() if p.grad is not None}
