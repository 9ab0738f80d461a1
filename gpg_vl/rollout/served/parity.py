"""How far an engine's log-probs may be from the policy's, and whether they are so far at the start.

Every trained step compares them again (``update.engine_gap``). But validation comes before the first one, ``gpg-vl
eval`` and ``ask`` have none, and with top-p or top-k the update's are of another distribution. So before anything that
an engine samples is used, one short completion of the full distribution is compared with a plain row of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from gpg_vl.config import VllmConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import Completion, Prompt
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, Request

MAX_GAP = {"float32": 1e-3, "bfloat16": 0.05}
"""Bounds by ``model.dtype``, in nats: in float32 of any token; in bfloat16, where rounding alone moves single tokens
far apart, of the mean."""
_MOST_TOKENS = 32


class OtherPolicy(ValueError):
    """The engine is not the policy; one line that says how far it is from it."""


class Comparison:
    """The engines that a rank has found to be the policy. One that is new completes ``request`` before it is used."""

    def __init__(self, adapter: Adapter, config: VllmConfig):
        """
        Args:
            adapter: the policy
        """
        self._adapter = adapter
        self._config = config
        self._known: set[str] = set()
        self._given: dict[str, AnsweredCompletion] = {}  # by engines that are new; not compared yet
        self._prompt: Prompt | None = None
        self.request: Request | None = None
        """What one that is new completes first; None: it is not asked."""
        self.last: tuple[Request, Prompt] | None = None
        """What was last compared, in case another rank has no prompts to compare."""

    @property
    def num_known(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """All engines are new again."""
        self._known.clear()

    def begin(self, parts: Sequence[Request], prompts: Sequence[Prompt]) -> None:
        """Admits engines that are new: they complete the first of the prompts with an image, or the first one of all.

        Args:
            parts: the requests for the prompts, which are at least one
        """
        asked = [each for part in parts for each in part.prompts]
        place = next((n for n, prompt in enumerate(prompts) if prompt.views), 0)
        self._prompt = prompts[place]
        self._given = {}
        sampling = _first_sampling(parts[0].sampling)
        self.request = replace(parts[0], prompts=(asked[place],), group_size=1, sampling=sampling)
        self.last = self.request, self._prompt

    def is_new(self, engine: str) -> bool:
        return engine not in self._known and engine not in self._given

    def admits(self, engine: str) -> bool:
        """Whether it may be asked."""
        return self.request is not None or engine in self._known

    def keep(self, engine: str, answer: Sequence[AnsweredGroup]) -> None:
        """
        Args:
            engine: what messages call it
            answer: to ``request``
        """
        [group] = answer
        [self._given[engine]] = group.completions

    def end(self) -> None:
        """Compares those that were new with the policy, and admits no others.

        Raises:
            OtherPolicy: one is not the policy
        """
        request, prompt = self.request, self._prompt
        assert request is not None and prompt is not None
        for engine, given in self._given.items():
            check_parity(self._adapter, self._config, engine, prompt, given, request.sampling)
            self._known.add(engine)
        self.request = self._prompt = None


def _first_sampling(sampling: Sampling) -> Sampling:
    """That of the completion that is compared; it fits wherever the run's own do."""
    return Sampling(min(_MOST_TOKENS, sampling.max_new_tokens), 1.0)


def check_parity(
    adapter: Adapter, config: VllmConfig, engine: str, prompt: Prompt, given: AnsweredCompletion, sampling: Sampling
) -> None:
    """
    Args:
        engine: what messages call it
        given: a completion of the prompt, as the engine sampled it

    Raises:
        OtherPolicy: its log-probs are not the policy's
    """
    plain = _plain(adapter, prompt, given.token_ids, sampling.temperature)
    gaps = [abs(one - other) for one, other in zip(given.log_probs, plain, strict=True)]
    what, found = ("largest", max(gaps)) if adapter.config.dtype == "float32" else ("mean", _mean(gaps))
    bound = config.max_gap or MAX_GAP[adapter.config.dtype]
    if not found <= bound:
        raise OtherPolicy(
            f"rollout.vllm: {engine} is not the policy: mean log-prob {_mean(given.log_probs):.4f} there, "
            f"{_mean(plain):.4f} here, {what} distance {found:.2g} nats, more than {bound:g}; serve "
            f"{adapter.config.path}, set rollout.engine to hf, or raise rollout.vllm.max_gap"
        )


@torch.no_grad()
def _plain(adapter: Adapter, prompt: Prompt, token_ids: tuple[int, ...], temperature: float) -> list[float]:
    was_training = adapter.model.training
    adapter.model.eval()
    try:
        with adapter.autocast():
            row = plain_log_probs(adapter, prompt.encoded, Completion(token_ids, "", finished=True), temperature)
    finally:
        adapter.model.train(was_training)
    return row.tolist()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
