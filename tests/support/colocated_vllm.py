"""``python -m tests.support.colocated_vllm MODEL``: vLLM in this process, beside the policy.

That is ``rollout.vllm.mode: colocate``. Draws, changes the policy, draws again, and so on; prints a line of JSON with
what was seen. ``tests/rollout/served/test_local.py`` runs it in the environment of ``make setup-vllm``.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from gpg_vl.config import LoraConfig, RolloutConfig, VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.rollout import build_engine, vllm
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served import local
from gpg_vl.rollout.served.vllm_backend import EngineOptions, VllmBackend
from gpg_vl.rollout.vllm import NoServer
from tests.support.builders import make_lively
from tests.support.rollout_servers import largest_gap, perturb
from tests.support.served_rollouts import sample, tokens
from tests.support.vllm_servers import CONTEXT, GREEDY, LONG, SAMPLED, load, make_prompts


def build(adapter: Any, folder: Path) -> Any:
    keys = VllmConfig(mode="colocate", max_model_len=CONTEXT, weights=str(folder))
    return build_engine(RolloutConfig(engine="vllm", vllm=keys), adapter)


def noise() -> tuple[object, ...]:
    """What comes next from the generators of this process."""
    kept = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    drawn = random.random(), float(numpy.random.random()), float(torch.rand(()))
    random.setstate(kept[0])
    numpy.random.set_state(kept[1])
    torch.set_rng_state(kept[2])
    return drawn


class Trial:
    def __init__(self, engine: Any, adapter: Any):
        self._engine = engine
        self._adapter = adapter
        self._prompts = make_prompts(adapter, question=LONG)

    def gap(self) -> float:
        """The largest distance of a log-prob from the policy's in a draw."""
        return largest_gap(self._adapter, sample(self._engine, self._prompts, SAMPLED, size=2), SAMPLED.temperature)

    def is_as_hf(self) -> bool:
        """Whether greedy completions are those of the engine ``hf``."""
        given = sample(self._engine, self._prompts, GREEDY)
        return tokens(given) == tokens(sample(HfEngine(self._adapter, 65536), self._prompts, GREEDY))

    def keeps_its_own(self) -> bool:
        """Whether a policy that changes behind its back leaves what it samples as it was."""
        ask = partial(self._engine.generate, self._prompts, 2, GREEDY, [(n,) for n in range(len(self._prompts))])
        with self._engine.sync_weights():
            one = ask()
            perturb(self._adapter, seed=1)
            return tokens(ask()) == tokens(one)

    def gap_without(self, step: str) -> float | str:
        """The same when the engine leaves out a step of taking new weights."""
        whole: Callable[..., None] = getattr(VllmBackend, step)
        self.gap()  # fills the caches
        perturb(self._adapter, seed=2)
        setattr(VllmBackend, step, lambda self: None)
        try:
            return self.gap()
        except NoServer:
            return "it died"
        finally:
            setattr(VllmBackend, step, whole)


def main(model: Path) -> None:
    adapter = load(model)
    make_lively(adapter)
    local.EngineOptions = partial(EngineOptions, eager=True)  # type: ignore[misc, assignment]  # to compile takes minutes
    with tempfile.TemporaryDirectory() as place:
        before = noise()
        engine = build(adapter, Path(place))
        seen: dict[str, Any] = {"noise is kept": noise() == before}
        trial = Trial(engine, adapter)
        seen |= {"greedy": trial.is_as_hf(), "gap": trial.gap()}
        perturb(adapter)
        seen |= {"greedy after new weights": trial.is_as_hf(), "gap after new weights": trial.gap()}
        seen |= {"keeps its own": trial.keeps_its_own(), "gap after those": trial.gap()}
        vllm.start_local_engine = lambda *_: engine._servers._backend  # type: ignore[assignment]
        config = replace(adapter.config, lora=LoraConfig(r=4, parts=["text", "vision"]))
        policy: Any = load_adapter(config)
        perturb(policy)
        with_lora = Trial(build(policy, Path(place)), policy)
        seen |= {"greedy with lora": with_lora.is_as_hf(), "gap with lora": with_lora.gap()}
        seen |= {"files": [each.name for each in Path(place).iterdir()]}
        for step in ("_forget_prefixes", "_forget_images"):
            seen |= {step: with_lora.gap_without(step)}
    end_ranks()  # as a run ends
    sys.stdout.write("\n" + json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
