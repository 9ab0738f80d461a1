"""``torchrun served_ranks.py MODEL FOLDER``: ranks that share their weights by FSDP2 and sample through another engine.

That is one server, a model of its own in a thread of the first rank, or an engine in each rank. Prints a line of JSON
for each engine, value of ``on_failure`` and rank: whether this rank's adapter has whole weights while the engine
samples, and whether the samples are those of one process; then others, after work that failed on the second rank alone.
And how each rank's engine is started (``find_places``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from gpg_vl import rollout
from gpg_vl.config import ModelConfig, PromptConfig, RolloutConfig, VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import RankError, end_ranks, run_on_main, run_together
from gpg_vl.processes.start import start_ranks
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt
from gpg_vl.rollout import build_engines, vllm
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served import local
from gpg_vl.rollout.served.shared_folder import make_token
from gpg_vl.rollout.vllm import VllmEngine
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.handing_out import load_policy
from gpg_vl.update.policy import PolicyForward
from tests.support.builders import SMALL_IMAGES, make_sample
from tests.support.rollout_servers import SleepingTiny, TinyBackend, serving

GREEDY = Sampling(6, 0.0)


def make_prompts(adapter: Any) -> list[Prompt]:
    builder = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=True)
    return [builder.build(make_sample(each, seed)) for seed, each in enumerate(([(84, 84)], []))]


@contextmanager
def served(config: ModelConfig, folder: Path, accelerator: Accelerator) -> Iterator[str]:
    """The address of a server that lives in the first rank."""
    if not accelerator.is_main_process:
        yield gather_object([""])[0]
        gather_object([0])
        return
    with serving(TinyBackend(load_adapter(config)), folder) as (url, _):  # type: ignore[arg-type]
        yield gather_object([url])[0]
        gather_object([0])  # nobody asks any more


def sample(engine: Any, prompts: list[Prompt]) -> list[Any]:
    groups = engine.generate(prompts, 2, GREEDY, [(n,) for n in range(len(prompts))])
    return [[each.token_ids for each in group.completions] for group in groups]


def is_whole(adapter: Any) -> bool:
    return not any(isinstance(each, DTensor) for each in adapter.model.parameters())


def fail_on_the_second(accelerator: Accelerator) -> None:
    if not accelerator.is_main_process:
        raise ValueError("no")


def find_places(plain: Any, config: ModelConfig, folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    """How each rank's engine is started where every rank has all weights, as in ``gpg-vl eval``; and where one lacks
    the memory.
    """
    started: list[int] = []

    def start(adapter: Any, keys: VllmConfig, num_ranks: int) -> SleepingTiny:
        started.append(num_ranks)
        return SleepingTiny(load_adapter(config))  # type: ignore[arg-type]

    vllm.start_local_engine = start
    rollout.check_engine = lambda _: None  # vllm need not be there
    run_on_main(lambda: make_token(folder))
    colocated = RolloutConfig(engine="vllm", vllm=VllmConfig(mode="colocate"))
    engine: Any = build_engines(RolloutConfig(engine="vllm", vllm=VllmConfig(weights=str(folder))), plain)
    build_engines(colocated, plain)
    local.check_free_memory = lambda _: fail_on_the_second(accelerator)
    try:
        build_engines(colocated, plain)
    except RankError as error:
        return {"first_server": engine._servers._first, "started": started, "too_little": str(error)}
    raise AssertionError("they were built")


def main(model: str, folder: Path) -> None:
    accelerator = start_ranks(on_cpu=True)
    config = ModelConfig(path=model, **SMALL_IMAGES)  # type: ignore[arg-type]
    adapter, plain = load_policy(config, accelerator), load_adapter(config)
    shard_policy(accelerator, PolicyForward(adapter, 1.0))
    prompts = make_prompts(plain)
    expected = sample(HfEngine(plain, 65536), prompts)
    places = find_places(plain, config, folder, accelerator)
    vllm.start_local_engine = lambda *_: SleepingTiny(load_adapter(config))  # type: ignore[assignment, arg-type]
    with served(config, folder, accelerator) as url:
        for mode, on_failure in (("server", "stop"), ("server", "hf"), ("colocate", "stop")):
            keys: Any = {"servers": [url], "weights": str(folder), "mode": mode, "on_failure": on_failure}
            engine = VllmEngine(adapter, RolloutConfig(engine="vllm", vllm=VllmConfig(**keys)), accelerator)
            whole = []
            for _ in range(2):
                with engine.sync_weights():
                    found = run_together(lambda: sample(engine, prompts))  # noqa: B023
                    whole.append(is_whole(adapter))
            try:
                with engine.sync_weights():
                    run_together(lambda: fail_on_the_second(accelerator))
            except RankError as error:
                failure = str(error)
            with engine.sync_weights():
                again = run_together(lambda: sample(engine, prompts))  # noqa: B023
            row = {"mode": mode, "on_failure": on_failure, "whole": whole, "is_same": found == again == expected}
            row |= {"failure": failure, "is_sharded": not is_whole(adapter), **places}
            rows = gather_object([row])
            if accelerator.is_main_process:
                sys.stdout.write("".join(json.dumps(each) + "\n" for each in rows))
    end_ranks()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
