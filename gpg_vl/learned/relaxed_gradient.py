"""The discriminator's part, followed through relaxed samples of the policy beside the objective's loss; experimental.

    loss = -weight * mean over all sampled completions of  sigmoid(D(prompt, images, relaxed completion))

Rows are those of the update; the relaxation needs the whole distribution of each token, of one completion at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gpg_vl.config import Recipe
from gpg_vl.learned.gold_part import GoldLikeness
from gpg_vl.learned.relaxed import relax
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.log_probs import head_logits, mask_banned
from gpg_vl.records import Completion, MicroBatch, TrainingGroup
from gpg_vl.update.layouts import Layout
from gpg_vl.update.packing import PackedRow, build_micro_batch, plan_update
from gpg_vl.update.policy import move_to, source_states


class RelaxedGradient:
    """Where every rank has the whole gradient: it is added to what the layout holds, before the ranks sum it."""

    def __init__(self, recipe: Recipe, gold: GoldLikeness, adapter: Adapter, temperature: float):
        """
        Args:
            temperature: of the relaxation
        """
        self._recipe = recipe
        self._gold = gold
        self._adapter = adapter
        self._temperature = temperature
        self._weight = recipe.rewards.weights.get(gold.name, 1.0)

    def accumulate(self, layout: Layout, groups: Sequence[TrainingGroup], num_sequences: int, step: int) -> float:
        """Adds this rank's part of the gradient; returns its part of the loss.

        Args:
            num_sequences: completions that were sampled, over all ranks
            step: decides the noise, with the completion
        """
        update, loss = self._recipe.update, 0.0
        states = {id(group.prompt.encoded): self._gold.prompt_state(group.prompt) for group in groups}
        layout.forward.train()
        for rows in plan_update(groups, update, self._adapter):
            values = self._values(rows, states, step)
            part = -self._weight / num_sequences * values.sum()
            layout.backward(part, is_last=False)
            loss += float(part.detach())
        return loss

    def _values(self, rows: Sequence[PackedRow], states: dict[int, Tensor], step: int) -> Tensor:
        """sigmoid(D), [N] of the completions of the rows."""
        device = self._adapter.device
        hidden = iter(self._run(move_to(build_micro_batch(rows, self._adapter), device), rows))
        found = []
        with self._gold.judging(device) as (network, embedding):
            for row in rows:
                prompt = states[id(row.encoded)].to(device)[None]
                for completion in row.completions:
                    tokens = self._embed(next(hidden), completion, embedding, (row.sample_id, step))
                    length = torch.tensor([len(tokens)], device=device)
                    found.append(torch.sigmoid(network(prompt, tokens[None], length)))
        return torch.cat(found)

    def _run(self, batch: MicroBatch, rows: Sequence[PackedRow]) -> tuple[Tensor, ...]:
        """The states [T, H] from which the tokens of each completion are predicted."""
        with self._adapter.autocast():
            sources = source_states(self._adapter, batch)
        return sources.split([len(completion.token_ids) for row in rows for completion in row.completions])

    def _embed(self, hidden: Tensor, completion: Completion, embedding: Tensor, key: tuple[object, ...]) -> Tensor:
        """Embeddings [T, H] of the relaxed tokens; the distributions are computed again in the backward pass."""
        seed = _seed((self._recipe.run.seed, *key, completion.token_ids))
        targets = torch.tensor(completion.token_ids, device=hidden.device)

        def embed(states: Tensor) -> Tensor:
            with torch.autocast(states.device.type, enabled=False):
                logits = head_logits(states, self._adapter.head_weight, self._adapter.logit_cap)
                logits = logits / self._recipe.rollout.temperature
                log_probs = mask_banned(logits, self._adapter.banned_token_ids).log_softmax(-1)
                generator = torch.Generator(states.device).manual_seed(seed)
                return relax(log_probs, targets, self._temperature, generator) @ embedding

        embedded: Tensor = checkpoint(embed, hidden, use_reentrant=False, preserve_rng_state=False)
        return embedded


def _seed(key: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "big")
