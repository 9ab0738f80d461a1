"""vLLM itself behind the engine ``vllm``: ``make test-vllm``, in the environment of ``make setup-vllm``. No mock.

A server is a process of its own, as a user starts it. Models are tiny, in float32, and read images and text.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from gpg_vl.config import ModelConfig, PromptConfig, RolloutConfig, VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.client import Client, Refused
from gpg_vl.rollout.served.shared_folder import read_token
from gpg_vl.rollout.vllm import NoServer
from gpg_vl.update.engine_gap import MAX_GAP
from gpg_vl.update.self_check import plain_log_probs
from tests.support.builders import SMALL_IMAGES, make_lively, make_sample
from tests.support.rollout_servers import perturb
from tests.support.vllm_servers import CONTEXT, Server, start_server, stop

pytestmark = pytest.mark.vllm

GREEDY, SAMPLED = Sampling(24, 0.0), Sampling(24, 1.3)
SIZES = ([(84, 84)], [], [(140, 56), (300, 200), (33, 47)], [(1000, 40)])
"""Sizes that are resized, a row of text alone, and several images."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("vllm") / "tiny", family="qwen2_vl", seed=1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[Server, Path]]:
    """One server for the tests that leave it as it is."""
    weights = tmp_path_factory.mktemp("weights")
    server = start_server(model, weights)
    yield server, weights
    stop(server)


def load(model: Path) -> Any:
    return load_adapter(ModelConfig(path=str(model), **SMALL_IMAGES))  # type: ignore[arg-type]


def make_prompts(adapter: Any, sizes: Sequence[Any] = SIZES, question: str = "How many shapes?") -> list[Prompt]:
    builder = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), keep_pictures=True)
    return [builder.build(make_sample(each, seed, question=question)) for seed, each in enumerate(sizes)]


def make_engine(adapter: Any, weights: Path, url: str, **keys: Any) -> Any:
    options = {"retries": 1, "retry_s": 0.2, "timeout_s": 900.0, **keys}
    config = VllmConfig(servers=[url], weights=str(weights), **options)
    return build_engine(RolloutConfig(engine="vllm", vllm=config), adapter)


def sample(engine: Any, prompts: list[Prompt], sampling: Sampling, size: int = 3) -> Any:
    with engine.sync_weights():
        return engine.generate(prompts, size, sampling, [("test", n) for n in range(len(prompts))], keep_log_probs=True)


def largest_gap(adapter: Any, groups: Any, temperature: float) -> float:
    """Between the log-probs of the engine and those of plain rows of the policy."""
    gaps = [0.0]
    for group in groups:
        for each in group.completions:
            with torch.no_grad():
                plain = plain_log_probs(adapter, group.prompt.encoded, each, temperature)
            gaps.append(float((plain - torch.tensor(each.log_probs)).abs().max()))
    return max(gaps)


def tokens(groups: Any) -> list[list[tuple[int, ...]]]:
    return [[each.token_ids for each in group.completions] for group in groups]


def test_log_probs_are_those_of_the_policy(shared: tuple[Server, Path], model: Path) -> None:
    server, weights = shared
    adapter = load(model)
    make_lively(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 60)]
    engine, prompts = make_engine(adapter, weights, server.url), make_prompts(adapter)
    assert tokens(sample(engine, prompts, GREEDY)) == tokens(sample(HfEngine(adapter, 65536), prompts, GREEDY))
    groups = sample(engine, prompts, SAMPLED, size=8)
    gap = largest_gap(adapter, groups, SAMPLED.temperature)
    print(f"largest gap {gap:.2e} over {sum(len(row) for group in tokens(groups) for row in group)} tokens")
    assert gap < MAX_GAP["float32"]
    completions = [each for group in groups for each in group.completions]
    assert {each.finished for each in completions} == {True, False}
    assert all((each.token_ids[-1] in adapter.end_token_ids) == each.finished for each in completions)
    assert all(len({each.token_ids for each in group.completions}) == 8 for group in groups)
    assert tokens(sample(engine, prompts, SAMPLED, size=8)) == tokens(groups), "noise follows the seed"
    narrow = sample(engine, prompts, Sampling(8, 1.3, top_k=2), size=4)
    for group in narrow:
        assert all(len(set(column)) <= 2 for column in zip(*(each.token_ids[:1] for each in group.completions)))  # noqa: B905


def test_prompts_near_the_limit(shared: tuple[Server, Path], model: Path) -> None:
    server, weights = shared
    adapter = load(model)
    engine = make_engine(adapter, weights, server.url)
    [short] = make_prompts(adapter, [[(84, 84)]], "a")
    room = CONTEXT - 24 - len(short.encoded.token_ids)
    long = next(
        prompt
        for count in range(room, 0, -1)
        for prompt in make_prompts(adapter, [[(84, 84)]], "a" * count)
        if len(prompt.encoded.token_ids) <= CONTEXT - 24
    )
    groups = sample(engine, [long], SAMPLED)
    assert largest_gap(adapter, groups, SAMPLED.temperature) < MAX_GAP["float32"]
    with pytest.raises(Refused, match="--max-model-len"):
        sample(engine, [long], Sampling(25 + CONTEXT - 24 - len(long.encoded.token_ids), 1.0))


def test_banned_tokens_have_no_probability(shared: tuple[Server, Path], model: Path) -> None:
    """10,000 tokens of a model that would sample little else."""
    server, weights = shared
    adapter = load(model)
    one, other = adapter.banned_token_ids[:2]
    with torch.no_grad():
        direction = 1000 * torch.randn(adapter.head_weight.shape[1], generator=torch.Generator().manual_seed(0))
        adapter.head_weight[one], adapter.head_weight[other] = direction, -direction
        prompts = make_prompts(adapter, SIZES[:2])
        likely = adapter.run_plain(prompts[1].encoded, ())[-1] @ adapter.head_weight.T
    assert int(likely.argmax()) in (one, other)
    groups = sample(make_engine(adapter, weights, server.url), prompts, Sampling(80, 1.0), size=64)
    sampled = [token for group in tokens(groups) for row in group for token in row]
    assert len(sampled) > 8000 and not set(sampled) & set(adapter.banned_token_ids)
    assert largest_gap(adapter, groups[:1], 1.0) < MAX_GAP["float32"]


def stays_in_step(model: Path, weights: Path, server: Server) -> bool:
    """Whether the server gives what the policy gives after all weights, the tower's too, changed under the prompts."""
    adapter = load(model)
    make_lively(adapter)
    prompts = make_prompts(adapter) * 2
    engine, own = make_engine(adapter, weights, server.url, retries=0), HfEngine(adapter, 65536)
    before = tokens(sample(engine, prompts, GREEDY))
    assert before == tokens(sample(own, prompts, GREEDY))
    perturb(adapter)
    try:
        after = sample(engine, prompts, GREEDY)
    except NoServer:  # the engine died of a cache that was half emptied
        return False
    assert tokens(after) != before
    return tokens(after) == tokens(sample(own, prompts, GREEDY))


def test_new_weights_take_effect(shared: tuple[Server, Path], model: Path) -> None:
    server, weights = shared
    assert stays_in_step(model, weights, server)


@pytest.mark.parametrize("without", ["_forget_prefixes", "_forget_images"])
def test_without_either_reset_they_do_not(model: Path, tmp_path: Path, without: str) -> None:
    server = start_server(model, tmp_path, without=without)
    try:
        assert not stays_in_step(model, tmp_path, server)
    finally:
        stop(server)


def test_a_server_that_is_killed_and_started_again(model: Path, tmp_path: Path) -> None:
    """In the middle of a request; the new one begins with the weights of the folder. Nothing of either is left."""
    adapter = load(model)
    make_lively(adapter)
    perturb(adapter)
    prompts = make_prompts(adapter)
    server = start_server(model, tmp_path)
    children = psutil.Process(server.process.pid).children(recursive=True)
    engine = make_engine(adapter, tmp_path, server.url, retries=0)
    expected = tokens(sample(HfEngine(adapter, 65536), prompts, GREEDY))
    assert tokens(sample(engine, prompts, GREEDY)) == expected
    threading.Timer(0.3, server.process.kill).start()
    with pytest.raises(NoServer):
        sample(engine, prompts, Sampling(900, 1.0), size=64)
    server.process.wait(60)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    again = start_server(model, tmp_path, port=int(server.url.rpartition(":")[2]))
    try:
        assert again.url == server.url
        assert tokens(sample(engine, prompts, GREEDY)) == expected
        client = Client(again.url, read_token(tmp_path), 60.0, 10)
        assert client.status()["dtype"] == "float32"
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(120) == 0
    finally:
        stop(again)
