"""A recipe's model without weights and groups of the longest row -> what a rollout and an update take, by running them.

Everything runs on the meta device: the kit's own forward, head, backward and cache, without a number computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from transformers.cache_utils import Cache

from gpg_vl.config import Recipe
from gpg_vl.errors import first_line
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.vision_records import select_features
from gpg_vl.models.log_probs import head_logits, mask_banned
from gpg_vl.planning.compute_type import ComputeType
from gpg_vl.planning.live_memory import CACHE, LOGITS, VISION, LiveMemory, Peak
from gpg_vl.records import Encoded, MicroBatch, TrainingGroup, VisionInputs
from gpg_vl.rollout.token_choice import pick
from gpg_vl.update.packing import build_micro_batch, plan_update
from gpg_vl.update.policy import packed_log_probs


@dataclass(frozen=True, slots=True)
class Pass:
    """A phase at its largest."""

    peak: Peak
    tokens: int  # padded, of a micro-batch or of a rollout batch
    kernels: int  # of one micro-batch, or of one decode step
    count: int  # micro-batches, or rollout batches


class NotOnShapes(ValueError):
    """The model's code looks at values."""


class Shapes:
    """Runs phases of a recipe on shapes."""

    def __init__(self, recipe: Recipe, adapter: Adapter, *, on_gpu: bool = True):
        """
        Args:
            on_gpu: packed rows are attended to in one kernel, and not in batches as on a CPU
        """
        self._recipe = recipe
        self._has_one_kernel = on_gpu and recipe.model.attention_of("text") in ("auto", "flex_attention")
        self._adapter = adapter
        self._compute = ComputeType()

    def update(self, groups: Sequence[TrainingGroup], tokens: int | None = None) -> Pass:
        """Forward and backward of the largest micro-batch, twice where there are several: the second finds gradients.

        Args:
            tokens: the budget; None: the recipe's
        """
        config = self._recipe.update
        config = config if tokens is None else replace(config, tokens_per_micro_batch=tokens)
        plan = plan_update(groups, config, self._adapter)
        batch = build_micro_batch(plan[0], self._adapter)
        if self._has_one_kernel:  # without values they are no plan for batches
            batch = replace(batch, segment_ids=batch.segment_ids.to("meta"))
        model = self._adapter.model
        model.train()
        self._clear_gradients()
        named = dict(model.named_parameters())
        with self._watch() as memory:
            handles = memory.claim_gradients((named[name], kept) for name, kept in self._adapter.trainable_parameters())
            batch = self._without_tower(batch)
            memory.restart()
            for _ in plan[:2]:
                memory.num_kernels = 0
                self._run_pass(memory, batch)
            for handle in handles:
                handle.remove()
        self._clear_gradients()
        return Pass(memory.peak, batch.input_ids.numel(), memory.num_kernels, len(plan))

    def _clear_gradients(self) -> None:
        for _, parameter in self._adapter.trainable_parameters():
            parameter.grad = None

    def _run_pass(self, memory: LiveMemory, batch: MicroBatch) -> None:
        with self._autocast():
            if batch.vision is not None:
                with memory.part(VISION):
                    features = self._adapter.encode_images(_on_meta(batch.vision))
                    if batch.feature_index is not None:
                        features = select_features(features, batch.feature_index)
                batch = replace(batch, vision=None, features=features, feature_index=None)
            log_probs = packed_log_probs(self._adapter, batch, self._recipe.rollout.temperature)
        self._compute.end_pass()
        if log_probs.requires_grad:
            _run_backward((log_probs * torch.empty_like(log_probs)).sum())

    def _without_tower(self, batch: MicroBatch) -> MicroBatch:
        """With features where the rollout has computed them."""
        is_computed = self._adapter.has_frozen_tower() and not self._recipe.rollout.samples_elsewhere
        if batch.vision is None or not is_computed:
            return batch
        with torch.no_grad():
            features = self._adapter.encode_images(_on_meta(batch.vision))
            if batch.feature_index is not None:
                features = select_features(features, batch.feature_index)
        return replace(batch, vision=None, features=features, feature_index=None)

    def rollout(self, prompt: Encoded, num_prompts: int, num_batches: int) -> Pass:
        """Prefill of a full batch of the prompt, and a decode step behind the longest completions.

        Args:
            num_batches: in which a draw is decoded
        """
        config, adapter = self._recipe.rollout, self._adapter
        adapter.model.eval()
        with self._watch() as memory, torch.no_grad(), self._autocast():
            cache, head = adapter.new_cache(), adapter.head_weight.float()
            hidden = self._prefill(memory, prompt, num_prompts, cache)
            cache.batch_repeat_interleave(config.group_size)
            memory.claim(_tensors(cache), CACHE)
            logits = head_logits(hidden[:, -1], head, adapter.logit_cap)
            del hidden
            before = memory.peak
            rows = num_prompts * config.group_size
            length = self._grow(cache, prompt, rows)
            memory.claim(_tensors(cache), CACHE)
            logits = logits.repeat_interleave(config.group_size, dim=0)
            memory.restart()
            memory.num_kernels = 0
            with memory.part(LOGITS):
                self._choose(logits)
            del logits
            hidden = adapter.run_body(cache=cache, **_tokens(prompt, rows, 1, length))
            logits = head_logits(hidden[:, -1], head, adapter.logit_cap)
            kernels, after = memory.num_kernels, memory.peak
            del logits, hidden, cache, head
        peak = max(before, after, key=lambda each: sum(each.parts.values()))
        tokens = rows * (len(prompt.token_ids) + config.max_new_tokens)
        return Pass(peak, tokens, kernels, num_batches)

    def _prefill(self, memory: LiveMemory, prompt: Encoded, num: int, cache: Cache) -> Tensor:
        features = None
        if prompt.vision is not None:
            with memory.part(VISION):
                features = self._adapter.encode_images(self._adapter.join_vision([_on_meta(prompt.vision)] * num))
        types = torch.tensor([prompt.token_types] * num)
        return self._adapter.run_body(
            input_ids=torch.tensor([prompt.token_ids] * num),
            token_types=types,
            position_ids=prompt.position_ids[:, None].expand(-1, num, -1).to("meta"),
            features=features,
            cache=cache,
        )

    def _grow(self, cache: Cache, prompt: Encoded, rows: int) -> int:
        """Fills the cache with all but the last token of the longest completions; returns its length."""
        start, more = len(prompt.token_ids), max(1, self._recipe.rollout.max_new_tokens - 2)
        self._adapter.run_body(cache=cache, **_tokens(prompt, rows, more, start))
        return start + more

    def _choose(self, logits: Tensor) -> None:
        config = self._recipe.rollout
        scores = mask_banned(logits, self._adapter.banned_token_ids) / config.temperature
        if config.top_p < 1 or config.top_k:
            scores = F.softmax(scores.sort(dim=-1).values, dim=-1).cumsum(dim=-1)
        pick(scores, scores.new_empty(len(scores), dtype=torch.float64))

    @contextmanager
    def _watch(self) -> Iterator[LiveMemory]:
        model = self._adapter.model
        memory = LiveMemory(len(self._adapter.head_weight))
        memory.skip(chain(model.parameters(), model.buffers()))
        self._compute.end_pass()
        try:
            with memory, self._compute:
                yield memory
        except (NotImplementedError, RuntimeError, TypeError) as error:  # the last by what turns tensors into numpy's
            raise NotOnShapes(
                f"model.path: a {model.config.model_type} model does not run on shapes alone ({first_line(error)}); "
                "gpg-vl plan --measure runs a step of it"
            ) from error

    def _autocast(self) -> AbstractContextManager[object]:
        if self._adapter.autocast_dtype is None:
            return nullcontext()
        return torch.autocast("cpu", dtype=self._adapter.autocast_dtype)


def _run_backward(loss: Tensor) -> None:
    """``loss.backward()``, which torch would call outside of ``ComputeType``, as all that a mode is asked about."""
    _engine_run_backward(
        (loss,), (torch.empty_like(loss),), keep_graph=False, create_graph=False, inputs=(), allow_unreachable=True,
        accumulate_grad=True,
    )  # fmt: skip


def _tokens(prompt: Encoded, rows: int, num: int, start: int) -> dict[str, Any]:
    """``num`` tokens of every row, from position ``start`` on."""
    axes = len(prompt.position_ids)
    return {
        "input_ids": torch.zeros(rows, num, dtype=torch.long),
        "token_types": torch.zeros(rows, num, dtype=torch.long),
        "position_ids": torch.arange(start, start + num, device="meta").expand(axes, rows, -1),
    }


def _on_meta(vision: VisionInputs) -> VisionInputs:
    """Pixels without values; grids and counts keep theirs, which Python reads."""
    tensors = {name: t.to("meta") if t.is_floating_point() else t for name, t in vision.tensors.items()}
    return replace(vision, tensors=tensors)


def _tensors(cache: Cache) -> list[Tensor]:
    found = [value for layer in cache.layers for value in vars(layer).values()]
    lists = [each for value in found for each in (value if isinstance(value, list) else [value])]
    return [each for each in lists if isinstance(each, Tensor)]
