"""Steps of a rollout over small prompts, by the model's own forward or another, and how far their states differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import make_prompt, make_sample

Step = Callable[[Adapter, Tensor, Tensor, Tensor | None, Cache], Tensor]
EQUAL, PADDED = [[(84, 84)], [(84, 84)]], [[(84, 84)], [], [(140, 56), (56, 84)]]
NUM_STEPS = 12


def model_step(adapter: Adapter, tokens: Tensor, positions: Tensor, visible: Tensor | None, cache: Cache) -> Tensor:
    """By the model's own forward."""
    return adapter.run_body(
        input_ids=tokens[:, None],
        token_types=torch.zeros_like(tokens)[:, None],
        position_ids=positions[:, :, None],
        visible=None if visible is None else visible[:, None],
        cache=cache,
    )[:, -1]


@torch.no_grad()
def run_steps(adapter: QwenVLAdapter, pictures: Sequence[Any], step: Step, num: int = NUM_STEPS) -> list[Tensor]:
    """Hidden states of each step, over two completions of each prompt, of which one leaves on the way."""
    adapter.model.eval()
    prompts = [make_prompt(adapter, make_sample(sizes, n)) for n, sizes in enumerate(pictures)]
    with adapter.autocast():
        state = HfEngine(adapter, 10**6)._prefill([prompt.encoded for prompt in prompts], 2)
        visible, positions, found = state.visible, state.positions, []
        assert (visible is None) == (pictures is EQUAL)
        for number in range(num):
            if number == num // 2:
                kept = torch.arange(1, positions.shape[1])
                state.cache.batch_select_indices(kept)
                positions, visible = positions[:, kept], None if visible is None else visible[kept]
            tokens = torch.arange(positions.shape[1]) * 7 + 10 + number
            if visible is not None:
                visible = torch.nn.functional.pad(visible, (0, 1), value=True)
            found.append(step(adapter, tokens, positions, visible, state.cache))
            positions = positions + 1
    return found


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of hidden states, relative to the largest of a step."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
