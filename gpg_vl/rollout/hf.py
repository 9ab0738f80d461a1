"""Prompt -> RolloutGroup: the engine ``hf``, a decode loop on the transformers model.

Each prompt runs once and its images are encoded once; its cache is then expanded to the G completions, and all prompts
of the batch are decoded together. A finished row leaves the batch, with its part of the cache. Every completion has its
own noise, so the samples do not depend on the batch, the ranks or a restart (exactly so in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.cache_utils import Cache

from gpg_vl.errors import is_out_of_memory
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.vision_records import move_vision, split_features
from gpg_vl.models.log_probs import banned_places, head_logits
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.whole_weights import whole_weights
from gpg_vl.records import Completion, Encoded, ImageFeatures, Prompt, RolloutGroup, VisionInputs
from gpg_vl.rollout.decoding import Decoding, GrowingDecoding, start_decoding
from gpg_vl.rollout.engine import Sampling, Tell, nobody
from gpg_vl.rollout.sampled_rows import SampledRows, steps_between_looks
from gpg_vl.rollout.token_choice import TokenChooser
from gpg_vl.screen import say


@dataclass(frozen=True, slots=True)
class _Prefilled:
    """Prompts after the prefill, expanded to R rows, ``group_size`` per prompt."""

    logits: Tensor  # [R, V] float32, of the next token
    cache: Cache
    visible: Tensor | None  # [R, P] bool, which keys of the cache are real; None if all are
    positions: Tensor  # [A, R] int64, of the next token
    features: list[ImageFeatures | None]  # by prompt, if the vision tower is fully frozen
    head: Tensor  # [V, H] float32: rounded weights are cast once, not in each step


@dataclass(frozen=True, slots=True)
class _Draw:
    """What is sampled together."""

    places: list[int]  # of the prompts, among those of the rollout
    prompts: list[Prompt]
    seeds: list[tuple[object, ...]]  # one per prompt
    numbers: range  # of the completions, in the group of each prompt

    def num_tokens(self, sampling: Sampling) -> int:
        """Room that it takes, by the longest prompt."""
        longest = max(len(prompt.encoded.token_ids) for prompt in self.prompts)
        return len(self.prompts) * len(self.numbers) * (longest + sampling.max_new_tokens)

    def rows_of(self, prompt: int) -> range:
        """Which rows are a prompt's completions."""
        size = len(self.numbers)
        return range(prompt * size, (prompt + 1) * size)

    def halves(self) -> list[_Draw]:
        """First of the prompts, then of the completions of one.

        Raises:
            ValueError: it is a single completion
        """
        num, size = len(self.prompts) // 2, len(self.numbers) // 2
        if num:
            parts = (slice(num), slice(num, None))
            return [_Draw(self.places[p], self.prompts[p], self.seeds[p], self.numbers) for p in parts]
        if size:
            return [replace(self, numbers=part) for part in (self.numbers[:size], self.numbers[size:])]
        raise ValueError(
            "out of memory in the rollout of a single completion; lower rollout.max_new_tokens or model.max_pixels"
        )

    def join(self, parts: Sequence[list[RolloutGroup]]) -> list[RolloutGroup]:
        """The groups of the halves, as those of the whole."""
        first, second = parts
        if len(self.prompts) > 1:
            return [*first, *second]
        return [replace(first[0], completions=first[0].completions + second[0].completions)]


@dataclass(slots=True)
class _InOrder:
    """Tells of groups in the order of their prompts, in whatever order they end."""

    tell: Tell
    waiting: dict[int, RolloutGroup] = field(default_factory=dict)
    num_told: int = 0

    def add(self, place: int, group: RolloutGroup) -> None:
        self.waiting[place] = group
        while self.num_told in self.waiting:
            self.tell(self.waiting.pop(self.num_told))
            self.num_told += 1


Add = Callable[[int, RolloutGroup], None]
"""Is told of a group by the place of its prompt."""


class HfEngine:
    """Samples completions with the policy itself."""

    tells_early: ClassVar[Literal[True]] = True

    def __init__(self, adapter: Adapter, tokens_per_batch: int, accelerator: Accelerator | None = None):
        """
        Args:
            accelerator: of the ranks that may share the weights; None where this process has them all
        """
        self._adapter = adapter
        self._tokens_per_batch = tokens_per_batch
        self._accelerator = accelerator

    def sync_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self._accelerator is None else whole_weights(self._accelerator)

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
        tell: Tell = nobody,
    ) -> list[RolloutGroup]:
        """As ``TellingEngine.generate`` has it."""
        groups: dict[int, RolloutGroup] = {}
        add = _InOrder(tell).add
        model = self._adapter.model
        was_training = model.training
        model.eval()
        try:
            for batch in self._batches(prompts, group_size, sampling.max_new_tokens):
                for place, group in groups.items():  # of the batches before
                    add(place, group)
                draw = _Draw(batch, [prompts[i] for i in batch], [seeds[i] for i in batch], range(group_size))
                with PULSE.beating("the rollout"):
                    groups |= zip(batch, self._sample(draw, sampling, keep_log_probs, add), strict=True)
        finally:
            model.train(was_training)
        return [groups[i] for i in range(len(prompts))]

    def two_steps(self, prompts: Sequence[Encoded], tokens: Tensor) -> Tensor:
        """Logits [2, R, V] of R prompts that are prefilled together, and after one more token of each; on no autocast.

        Args:
            tokens: [R], one for each prompt
        """
        state = self._prefill(prompts, 1)
        decoding = GrowingDecoding(self._adapter, state.cache, state.visible, state.positions, 1)
        return torch.stack([state.logits, self._next_logits(decoding, tokens, state.head)])

    def _sample(self, draw: _Draw, sampling: Sampling, keep_log_probs: bool, add: Add) -> list[RolloutGroup]:
        """The groups of a draw; where memory runs out, in halves, which changes none: each has noise of its own.

        Nobody is told of half a group.

        Raises:
            ValueError: it runs out for a single completion
        """
        try:
            return self._sample_at_once(draw, sampling, keep_log_probs, add)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        halves = draw.halves()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._tokens_per_batch = max(1, min(self._tokens_per_batch, draw.num_tokens(sampling)) // 2)
        say(f"out of memory in the rollout: going on with rollout.tokens_per_batch {self._tokens_per_batch}")
        add = add if len(draw.prompts) > 1 else lambda place, group: None
        return draw.join([self._sample(half, sampling, keep_log_probs, add) for half in halves])

    def _sample_at_once(self, draw: _Draw, sampling: Sampling, keep_log_probs: bool, add: Add) -> list[RolloutGroup]:
        keys = [(*seed, g) for seed in draw.seeds for g in draw.numbers]
        groups: dict[int, RolloutGroup] = {}
        with torch.no_grad(), self._adapter.autocast():
            state = self._prefill([prompt.encoded for prompt in draw.prompts], len(draw.numbers))
            rows = SampledRows(len(keys), self._adapter.end_token_ids)
            for _ in self._decode(rows, state, sampling, keys, keep_log_probs):
                for n in range(len(draw.prompts)):
                    if n not in groups and rows.have_ended(draw.rows_of(n)):
                        groups[n] = self._group(n, draw, rows, state)
                        add(draw.places[n], groups[n])
        return [groups.get(n) or self._group(n, draw, rows, state) for n in range(len(draw.prompts))]

    def _group(self, prompt: int, draw: _Draw, rows: SampledRows, state: _Prefilled) -> RolloutGroup:
        completions = tuple(self._completion(*rows.row(row)) for row in draw.rows_of(prompt))
        return RolloutGroup(draw.prompts[prompt], completions, state.features[prompt])

    def _batches(self, prompts: Sequence[Prompt], group_size: int, max_new_tokens: int) -> Iterator[list[int]]:
        """Indices of the prompts to decode together; prompts of similar length share a batch."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].encoded.token_ids), reverse=True)
        while order:
            tokens_per_prompt = group_size * (len(prompts[order[0]].encoded.token_ids) + max_new_tokens)
            count = max(1, self._tokens_per_batch // tokens_per_prompt)
            yield order[:count]
            order = order[count:]

    def _decode(
        self,
        rows: SampledRows,
        state: _Prefilled,
        sampling: Sampling,
        keys: Sequence[tuple[object, ...]],
        keep_log_probs: bool,
    ) -> Iterator[None]:
        """Fills the rows, ``group_size`` per prompt, and yields whenever some have ended and others go on.

        ``keys`` determine the noise of each.
        Ends are looked for once in some steps. Until then nothing waits for the device, and rows that have ended go on.
        """
        logits = state.logits
        choose = TokenChooser(sampling, keys, logits.device)
        banned = banned_places(self._adapter.banned_token_ids, logits.shape[-1], logits.device)
        decoding = start_decoding(self._adapter, state.cache, state.visible, state.positions, sampling.max_new_tokens)
        pause = steps_between_looks(logits.device)
        for step in range(sampling.max_new_tokens):
            scores = choose.warp(logits if banned is None else logits.index_fill(-1, banned, -torch.inf))
            tokens = choose(scores, step)
            log_probs = choose.log_probs(scores, tokens) if keep_log_probs else None
            rows.add(tokens, scores.amax(dim=-1), log_probs)
            is_last = step == sampling.max_new_tokens - 1
            if is_last or (step + 1) % pause == 0:
                going_on = rows.look()
                if is_last or not going_on:
                    return
                if len(going_on) < len(tokens):
                    yield
                if decoding.is_smaller(len(going_on)):
                    kept = torch.tensor(going_on, device=tokens.device)
                    decoding.keep(kept)
                    choose.keep(kept)
                    rows.keep(going_on)
                    tokens = tokens[kept]
            logits = self._next_logits(decoding, tokens, state.head)

    def _completion(self, token_ids: tuple[int, ...], log_probs: tuple[float, ...] | None) -> Completion:
        finished = token_ids[-1] in self._adapter.end_token_ids
        return Completion(token_ids, self._adapter.decode(token_ids), finished, log_probs)

    def _prefill(self, encoded: Sequence[Encoded], group_size: int) -> _Prefilled:
        """Runs each prompt once, padded on the left, and expands the results to the group."""
        adapter, device = self._adapter, self._adapter.device
        length = max(len(each.token_ids) for each in encoded)
        shape = (len(encoded), length)
        input_ids = torch.full(shape, adapter.pad_token_id)
        token_types = torch.zeros(shape, dtype=torch.long)
        real = torch.zeros(shape, dtype=torch.bool)
        position_ids = torch.zeros((len(encoded[0].position_ids), *shape), dtype=torch.long)
        for r, each in enumerate(encoded):
            start = length - len(each.token_ids)
            input_ids[r, start:] = torch.tensor(each.token_ids)
            token_types[r, start:] = torch.tensor(each.token_types)
            position_ids[:, r, start:] = each.position_ids
            real[r, start:] = True
        padded = not real.all()
        cache = adapter.new_cache()
        vision, features = self._images(encoded)
        hidden = adapter.run_body(
            input_ids=input_ids.to(device),
            token_types=token_types.to(device),
            position_ids=position_ids.to(device),
            vision=vision,
            features=features,
            visible=_visible_behind_padding(real).to(device) if padded else None,
            real=real.to(device) if padded else None,
            cache=cache,
        )
        cache.batch_repeat_interleave(group_size)
        next_positions = torch.tensor([each.next_position for each in encoded], device=device)
        repeat = torch.arange(len(encoded), device=device).repeat_interleave(group_size)
        head = adapter.head_weight.float()
        return _Prefilled(
            logits=self._logits(hidden, head)[repeat],
            cache=cache,
            visible=real.to(device)[repeat] if padded else None,
            positions=next_positions[repeat].expand(len(position_ids), -1),
            features=_by_prompt(encoded, features),
            head=head,
        )

    def _images(self, prompts: Sequence[Encoded]) -> tuple[VisionInputs | None, ImageFeatures | None]:
        """The images of all prompts as inputs of the body: as features if the vision tower is fully frozen.

        Those are the same in the update, so they are computed here and stored with the group.
        """
        parts = [prompt.vision for prompt in prompts if prompt.vision is not None]
        if not parts:
            return None, None
        # moved before they are joined: what is joined would no longer be in pinned memory
        vision = self._adapter.join_vision([move_vision(part, self._adapter.device) for part in parts])
        return (None, self._adapter.encode_images(vision)) if self._adapter.has_frozen_tower() else (vision, None)

    def _next_logits(self, decoding: Decoding, tokens: Tensor, head: Tensor) -> Tensor:
        """[R, V] float32 logits of the token after ``tokens``."""
        PULSE.beat()
        return head_logits(decoding.step(tokens), head, self._adapter.logit_cap)

    def _logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        """[R, V] float32 logits at the last position."""
        return head_logits(hidden[:, -1], head, self._adapter.logit_cap)


def _by_prompt(prompts: Sequence[Encoded], features: ImageFeatures | None) -> list[ImageFeatures | None]:
    """The features of each prompt's images."""
    if features is None:
        return [None] * len(prompts)
    counts = [prompt.vision.num_tokens for prompt in prompts if prompt.vision is not None]
    parts = iter(split_features(features, counts))
    return [None if prompt.vision is None else next(parts) for prompt in prompts]


def _visible_behind_padding(real: Tensor) -> Tensor:
    """[R, P, P] bool from real keys [R, P]: causal; a padding query sees itself, so that every query sees a key."""
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & real[:, None, :]) | torch.eye(length, dtype=torch.bool)
