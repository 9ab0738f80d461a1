"""Prompt -> RolloutGroup: the engine ``hf``, a decode loop on the transformers model.

Each prompt runs once, its images encoded once; its cache is then expanded to the G completions and all prompts of the
batch are decoded together. A finished row leaves the batch, its part of the cache with it. Every completion has a noise
generator of its own, so what is sampled does not depend on the batch, the ranks or a restart (exactly so in float32).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import DynamicCache

from gpg_vl.log_probs import mask_banned
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.records import Completion, Prompt, RolloutGroup

_NO_HISTORY: Any = torch.empty(0, dtype=torch.long)  # what top-k and top-p are passed as the tokens so far, and ignore
NOISE_PER_DRAW = 2**16
"""Numbers that a completion's generator draws at once, for several tokens of a small vocabulary."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; temperature 0 takes the most likely one."""

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0


class HfEngine:
    """Samples completions with the policy itself."""

    def __init__(self, adapter: QwenVLAdapter, tokens_per_batch: int):
        self._adapter = adapter
        self._tokens_per_batch = tokens_per_batch

    @property
    def model(self) -> nn.Module:
        return self._adapter.model  # type: ignore[no-any-return]

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        on_progress: Callable[[int], None] = lambda num_done: None,
    ) -> list[RolloutGroup]:
        """``group_size`` completions per prompt, in the order of ``prompts``.

        Args:
            seeds: one per prompt; with its index in the group it decides the noise of a completion
            on_progress: called with the number of prompts done
        """
        groups: dict[int, RolloutGroup] = {}
        model = self._adapter.model
        was_training = model.training
        model.eval()
        try:
            for batch in self._batches(prompts, group_size, sampling.max_new_tokens):
                with torch.no_grad(), self._adapter.autocast():
                    token_ids = self._decode(
                        [prompts[i] for i in batch], group_size, sampling, [seeds[i] for i in batch]
                    )
                for n, i in enumerate(batch):
                    rows = token_ids[n * group_size : (n + 1) * group_size]
                    groups[i] = RolloutGroup(prompts[i], tuple(self._completion(row) for row in rows))
                on_progress(len(groups))
        finally:
            model.train(was_training)
        return [groups[i] for i in range(len(prompts))]

    def _batches(self, prompts: Sequence[Prompt], group_size: int, max_new_tokens: int) -> Iterator[list[int]]:
        """Indices of prompts decoded together, those of like length side by side."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids), reverse=True)
        while order:
            tokens_per_prompt = group_size * (len(prompts[order[0]].token_ids) + max_new_tokens)
            count = max(1, self._tokens_per_batch // tokens_per_prompt)
            yield order[:count]
            order = order[count:]

    def _completion(self, token_ids: list[int]) -> Completion:
        finished = token_ids[-1] in self._adapter.end_token_ids
        return Completion(tuple(token_ids), self._adapter.decode(token_ids), finished)

    def _decode(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seeds: Sequence[tuple[object, ...]]
    ) -> list[list[int]]:
        """Token ids of the completions, ``group_size`` rows per prompt."""
        device = self._adapter.device
        logits, cache, visible, positions = self._prefill(prompts, group_size)
        completions: list[list[int]] = [[] for _ in range(len(prompts) * group_size)]
        live = list(range(len(completions)))
        keys = [(*seed, g) for seed in seeds for g in range(group_size)]
        choose = _TokenChooser(sampling, keys, logits.shape[-1], device)
        ends = torch.tensor(self._adapter.end_token_ids, device=device)
        for step in range(sampling.max_new_tokens):
            tokens = choose(mask_banned(logits, self._adapter.banned_token_ids), live, step)
            for row, token in zip(live, tokens.tolist(), strict=True):
                completions[row].append(token)
            if step == sampling.max_new_tokens - 1:
                break
            going_on = (~torch.isin(tokens, ends)).nonzero()[:, 0]
            if len(going_on) < len(live):
                live = [live[i] for i in going_on.tolist()]
                if not live:
                    break
                cache.batch_select_indices(going_on)
                tokens, positions = tokens[going_on], positions[going_on]
                visible = None if visible is None else visible[going_on]
            visible = None if visible is None else F.pad(visible, (0, 1), value=True)
            logits = self._next_logits(tokens, visible, positions, cache)
            positions = positions + 1
        return completions

    def _prefill(
        self, prompts: Sequence[Prompt], group_size: int
    ) -> tuple[Tensor, DynamicCache, Tensor | None, Tensor]:
        """Runs each prompt once, padded on the left, and expands the results to the group.

        Returns:
            next-token logits [R, V], the cache, which of its keys are real [R, P] bool (None where all are), next
            positions [R]
        """
        adapter = self._adapter
        length = max(len(p.token_ids) for p in prompts)
        shape = (len(prompts), length)
        input_ids = torch.full(shape, adapter.pad_token_id)
        token_types = torch.zeros(shape, dtype=torch.long)
        real = torch.zeros(shape, dtype=torch.bool)
        position_ids = torch.zeros((3, *shape), dtype=torch.long)
        for r, prompt in enumerate(prompts):
            start = length - len(prompt.token_ids)
            input_ids[r, start:] = torch.tensor(prompt.token_ids)
            token_types[r, start:] = torch.tensor(prompt.token_types)
            position_ids[:, r, start:] = prompt.position_ids
            real[r, start:] = True
        visible = None if real.all() else _visible_behind_padding(real).to(adapter.device)
        pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
        grids = [p.image_grid_thw for p in prompts if p.image_grid_thw is not None]
        device = adapter.device
        cache = DynamicCache(config=adapter.model.config)
        hidden = adapter.run_body(
            input_ids=input_ids.to(device),
            token_types=token_types.to(device),
            position_ids=position_ids.to(device),
            visible=visible,
            pixel_values=torch.cat(pixels).to(device) if pixels else None,
            image_grid_thw=torch.cat(grids).to(device) if grids else None,
            cache=cache,
        )
        cache.batch_repeat_interleave(group_size)
        logits = self._logits(hidden).repeat_interleave(group_size, dim=0)
        next_positions = torch.tensor([int(p.position_ids.max()) + 1 for p in prompts], device=device)
        repeat = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
        real_keys = None if visible is None else real.to(device)[repeat]
        return logits, cache, real_keys, next_positions[repeat]

    def _next_logits(self, tokens: Tensor, visible: Tensor | None, positions: Tensor, cache: DynamicCache) -> Tensor:
        hidden = self._adapter.run_body(
            input_ids=tokens[:, None],
            token_types=torch.zeros_like(tokens)[:, None],
            position_ids=positions[None, :, None].expand(3, -1, -1),
            visible=None if visible is None else visible[:, None, :],
            cache=cache,
        )
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        """[R, V] float32 logits after the last position."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden[:, -1].float(), self._adapter.head_weight.float())


def _visible_behind_padding(real: Tensor) -> Tensor:
    """[R, P, P] bool from real keys [R, P]: causal; a padding query sees itself, so that no query sees nothing."""
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & real[:, None, :]) | torch.eye(length, dtype=torch.bool)


class _TokenChooser:
    """Picks tokens by the exponential race, ``argmax p / e`` with e ~ Exp(1): the Gumbel-max trick, in float32."""

    def __init__(self, sampling: Sampling, keys: Sequence[tuple[object, ...]], vocab_size: int, device: torch.device):
        self._sampling = sampling
        self._warpers = LogitsProcessorList()
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        self._block = max(1, NOISE_PER_DRAW // vocab_size)
        self._vocab_size = vocab_size
        self._device = device
        self._generators = [] if sampling.temperature == 0 else [_generator(key, device) for key in keys]
        self._log_noise = torch.empty(0)

    def __call__(self, logits: Tensor, live: Sequence[int], step: int) -> Tensor:
        """Tokens [R] of the rows ``live`` from their logits [R, V]."""
        if self._sampling.temperature == 0:
            return logits.argmax(dim=-1)
        if step % self._block == 0:
            self._draw_noise(live)
        scores = self._warpers(_NO_HISTORY, logits / self._sampling.temperature)
        rows = torch.tensor([self._slot[row] for row in live], device=self._device)
        return (scores - self._log_noise[rows, step % self._block]).argmax(dim=-1)

    def _draw_noise(self, live: Sequence[int]) -> None:
        """Log of the noise of the next steps, [R, block, V]."""
        noise = torch.empty(len(live), self._block, self._vocab_size, device=self._device)
        for slot, row in enumerate(live):
            noise[slot].exponential_(generator=self._generators[row])
        self._log_noise = noise.log_()
        self._slot = {row: slot for slot, row in enumerate(live)}


def _generator(key: tuple[object, ...], device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
