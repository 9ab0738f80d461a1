"""Exchanges with a real vLLM server, in tests/rollout/served/recorded_exchanges.json, and what repeats them.

``python -m tests.support.record_exchanges`` records them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gpg_vl.config import ModelConfig, PromptConfig, RolloutConfig, VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.base import BaseAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt, RolloutGroup
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served import shared_folder
from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import AnsweredGroup, Request, read_answer, write_request
from tests.support.builders import SMALL_IMAGES, make_lively, make_sample
from tests.support.rollout_servers import Canned, canned_server, perturb

FILE = Path(__file__).parents[1] / "rollout/served/recorded_exchanges.json"
RUN, STALE, AGAIN = "a run", "a server with the weights before", "the same request after others were refused"
GREEDY, SAMPLED, NARROW = Sampling(6, 0.0), Sampling(6, 1.3), Sampling(6, 1.3, top_p=0.9, top_k=40)
SIZES = ([(56, 28)], [], [(28, 28), (28, 56)])
"""None is resized, so that the pixels do not depend on the library that resizes."""
_GIVEN = (200, 400)  # what the engine answers, not the server before it
ENDS = [2, *range(40, 60)]  # so that some completions end early


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and what the real server made of it."""

    what: str
    method: str
    path: str
    has_token: bool
    request: str
    status: int | None  # None: the connection ended without an answer
    answer: str

    @property
    def error(self) -> str:
        return str(json.loads(self.answer)["error"])


def read_exchanges() -> dict[str, list[Exchange]]:
    """By what they show, in order."""
    found: dict[str, list[Exchange]] = {}
    for plain in json.loads(FILE.read_text(encoding="utf-8"))["exchanges"]:
        exchange = Exchange(**plain)
        found.setdefault(exchange.what, []).append(exchange)
    return found


# --- a run -----------------------------------------------------------------------------------------------------------


@contextmanager
def same_versions() -> Iterator[None]:
    """Weights are published under the names that they have in the recorded exchanges."""
    with patch.object(shared_folder.secrets, "token_hex", lambda num: ("0123456789abcdef" * num)[: 2 * num]):
        yield


def make_policy(model: Path) -> BaseAdapter:
    adapter = load_adapter(ModelConfig(path=str(model), **SMALL_IMAGES))  # type: ignore[arg-type]
    assert isinstance(adapter, BaseAdapter)
    make_lively(adapter)
    adapter.model.generation_config.eos_token_id = ENDS
    return adapter


def make_prompts(adapter: BaseAdapter) -> list[Prompt]:
    builder = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=True)
    return [builder.build(make_sample(each, seed, question="How many?")) for seed, each in enumerate(SIZES)]


def play_run(adapter: BaseAdapter, url: str, weights: Path) -> Iterator[tuple[Sampling, list[RolloutGroup]]]:
    """Sampling and groups of each draw of a run; the policy gets new weights after each."""
    config = VllmConfig(servers=[url], weights=str(weights), retries=0, timeout_s=900.0)
    prompts = make_prompts(adapter)
    seeds = [("recorded", n) for n in range(len(prompts))]
    with same_versions():
        engine: Any = build_engine(RolloutConfig(engine="vllm", vllm=config), adapter)
        engine._comparison.is_new = lambda url: False  # none is compared
        for seed, (sampling, size) in enumerate(((GREEDY, 2), (SAMPLED, 4), (NARROW, 2))):
            with engine.sync_weights():
                groups = engine.generate(prompts, size, sampling, seeds, keep_log_probs=True)
            yield sampling, groups
            perturb(adapter, seed, scale=0.2)


# --- servers that repeat ---------------------------------------------------------------------------------------------


@contextmanager
def repeating_server(exchanges: Sequence[Exchange]) -> Iterator[tuple[str, Canned]]:
    """Gives the recorded answers in order, whatever it is asked."""
    canned = Canned([(each.status or 0, None if each.status is None else each.answer.encode()) for each in exchanges])
    with canned_server(canned) as url:
        yield url, canned


class RecordedBackend:
    """Gives for each recorded request what vLLM gave, and refuses what it refused."""

    def __init__(self, exchanges: Sequence[Exchange], status: Mapping[str, Any], vocab_size: int):
        self._status = status
        self._vocab_size = vocab_size
        self._answers = {each.request: each for each in exchanges if each.path == "/generate" and each.status in _GIVEN}

    def describe(self) -> Mapping[str, str | int]:
        return {name: self._status[name] for name in ("engine", "dtype", "context_length", "max_images")}

    def load_weights(self, folder: Path) -> None:
        """Its answers are those of the weights that are asked for."""

    def generate(self, request: Request) -> list[AnsweredGroup]:
        found = self._answers[write_request(request).decode()]
        if found.status == 400:
            raise BadMessage(found.error)
        return read_answer(found.answer.encode(), request, self._vocab_size)
