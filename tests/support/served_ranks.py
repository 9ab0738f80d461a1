"""``torchrun served_ranks.py MODEL FOLDER``: ranks that share their weights and sample through another engine.

That is one server, a model of its own in a thread of the first rank, or an engine in each rank. Prints a line of JSON
for each engine, value of ``on_failure`` and rank: whether this rank's adapter has whole weights while the engine
samples, whether an engine in it is given them block by block, and whether the samples are those of one process; then
others, after work that failed on the second rank alone. And how each rank's engine is started (``find_places``), and
what is said of one that fails while it is given weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
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
from gpg_vl.rollout.served import engine_weights, local
from gpg_vl.rollout.served.shared_folder import make_token
from gpg_vl.rollout.vllm import VllmEngine
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.handing_out import load_policy
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.zero3 import share_out
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


def is_there(weight: Tensor) -> bool:
    return not (isinstance(weight, DTensor) or hasattr(weight, "ds_tensor") or weight.is_meta)


def is_whole(adapter: Any) -> bool:
    return all(map(is_there, adapter.model.parameters()))


class Watched(SleepingTiny):
    """An engine in each rank; it sees what the policy has while it is given weights, and can fail then."""

    def __init__(self, config: ModelConfig, policy: Any):
        super().__init__(load_adapter(config))  # type: ignore[arg-type]
        self._policy = policy
        self.sees_whole_ones: list[bool] = []
        self.fails = False

    def take_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        super().take_weights(self._seen(weights))

    def _seen(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        whole = []
        for number, named in enumerate(weights):
            whole.append(is_whole(self._policy))
            if self.fails and number == 3:
                raise RuntimeError("no")
            yield named
        assert len(set(whole)) == 1
        self.sees_whole_ones.append(whole[0])


def share(adapter: Any, accelerator: Accelerator) -> None:
    """After the engines are made, as a run does it."""
    forward = PolicyForward(adapter, 1.0)
    shard_policy(accelerator, forward)
    share_out(accelerator, forward)


@torch.no_grad()
def move(adapter: Any) -> None:
    """What a step does to all weights, or to this rank's shares of them."""
    for weight in adapter.model.parameters():
        share = weight.to_local() if isinstance(weight, DTensor) else getattr(weight, "ds_tensor", weight)
        share.mul_(-1.5 if len(getattr(weight, "ds_shape", weight.shape)) > 1 else 1.1)


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


def watch_publishing(adapter: Any) -> list[bool]:
    """Whether the policy has whole weights, each time that a file of them is written from now on."""
    whole = []

    def watched(write: Any) -> Any:
        return lambda *words: (whole.append(is_whole(adapter)), write(*words))[1]

    vllm.write_weights, vllm.save_weights = watched(engine_weights.write_weights), watched(engine_weights.save_weights)
    return whole


def sample_with_idle_ranks(
    engine: Any, adapter: Any, prompts: list[Prompt], expected: list[Any], accelerator: Accelerator
) -> dict[str, Any]:
    """Two draws with prompts for the first rank alone, and one with prompts for all."""
    mine, whole = prompts if accelerator.is_main_process else [], []
    for _ in range(2):
        with engine.sync_weights():
            run_together(lambda: sample(engine, mine))
            whole.append(is_whole(adapter))
    with engine.sync_weights():
        return {"whole": whole, "is_same": run_together(lambda: sample(engine, prompts)) == expected}


def main(model: str, folder: Path) -> None:
    accelerator = start_ranks(on_cpu=True)
    model_config = ModelConfig(path=model, **SMALL_IMAGES)  # type: ignore[arg-type]
    adapter, plain = load_policy(model_config, accelerator), load_adapter(model_config)
    prompts = make_prompts(plain)
    expected = sample(HfEngine(plain, 65536), prompts)
    places = find_places(plain, model_config, folder, accelerator)
    own = Watched(model_config, adapter)
    vllm.start_local_engine = lambda *_: own  # type: ignore[assignment]
    with served(model_config, folder, accelerator) as url:
        configs = [
            VllmConfig(servers=[url], weights=str(folder), mode=mode, on_failure=on_failure)  # type: ignore[arg-type]
            for mode, on_failure in (("server", "stop"), ("server", "hf"), ("colocate", "stop"))
        ]
        *engines, idle = [
            VllmEngine(adapter, RolloutConfig(engine="vllm", vllm=each), accelerator)
            for each in [*configs, configs[-1]]
        ]
        share(adapter, accelerator)
        for config, engine in zip(configs, engines, strict=True):
            published = watch_publishing(adapter)
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
            move(adapter)
            move(plain)
            expected, before = sample(HfEngine(plain, 65536), prompts), expected
            assert expected != before
            with engine.sync_weights():
                again = run_together(lambda: sample(engine, prompts))  # noqa: B023
            row = {"mode": config.mode, "on_failure": config.on_failure, "whole": whole}
            row |= {"is_same": found == before and again == expected}
            row |= {"failure": failure, "is_sharded": not is_whole(adapter), "given_whole": own.sees_whole_ones}
            rows = gather_object([row | places | {"published_whole": published}])
            if accelerator.is_main_process:
                sys.stdout.write("".join(json.dumps(each) + "\n" for each in rows))
    rows = gather_object([sample_with_idle_ranks(idle, adapter, prompts, expected, accelerator)])
    if accelerator.is_main_process:
        sys.stdout.write(json.dumps({"idle": rows}) + "\n")
    own.fails = not accelerator.is_main_process
    with engine.sync_weights():  # asked for nothing, it is not missed
        pass
    try:
        with engine.sync_weights():
            run_together(lambda: sample(engine, prompts))
    except RankError as error:
        assert not is_whole(adapter)
        if accelerator.is_main_process:
            sys.stdout.write(json.dumps({"failure": str(error)}) + "\n")
    end_ranks()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
