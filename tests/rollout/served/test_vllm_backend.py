"""vLLM itself behind the engine ``vllm``: ``make test-vllm``, in the environment of ``make setup-vllm``. No mock.

A server is a process of its own, as a user starts it. Models are tiny, in float32, and read images and text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl import cli
from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.models import load_adapter
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.client import Refused
from gpg_vl.rollout.served.parity import MAX_GAP
from gpg_vl.rollout.vllm import NoServer
from tests.support.builders import SMALL_IMAGES, make_lively, make_sample, png
from tests.support.rollout_servers import largest_gap, perturb
from tests.support.served_rollouts import sample, tokens
from tests.support.vllm_servers import (
    CONTEXT,
    FORGETFUL,
    GREEDY,
    LONG,
    SAMPLED,
    SIZES,
    Server,
    load,
    make_engine,
    make_prompts,
    running,
)

pytestmark = pytest.mark.vllm
BLOCK = 128
"""Tokens whose keys and values vLLM keeps together on a CPU; of shorter prompts it keeps none."""


def test_log_probs_are_those_of_the_policy(vllm_server: Server, vllm_model: Path) -> None:
    adapter = load(vllm_model)
    make_lively(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 60)]
    engine, prompts = make_engine(adapter, vllm_server), make_prompts(adapter)
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


def test_an_adapter_is_added_in(vllm_server: Server, vllm_model: Path) -> None:
    """A LoRA adapter of text and tower that changes what is sampled: the server samples as the policy does with it."""
    lora = LoraConfig(r=4, parts=["text", "vision"])
    policy: Any = load_adapter(ModelConfig(path=str(vllm_model), lora=lora, **SMALL_IMAGES))  # type: ignore[arg-type]
    perturb_adapter(policy)
    engine, prompts = make_engine(policy, vllm_server), make_prompts(policy)
    assert tokens(sample(engine, prompts, GREEDY)) == tokens(sample(HfEngine(policy, 65536), prompts, GREEDY))
    groups = sample(engine, prompts, SAMPLED)
    gap = largest_gap(policy, groups, SAMPLED.temperature)
    with policy.without_lora():
        gap_without = largest_gap(policy, groups, SAMPLED.temperature)
    print(f"largest gap {gap:.2e}, from the policy without its adapter {gap_without:.2e}")
    assert gap < MAX_GAP["float32"] < gap_without / 10


def perturb_adapter(policy: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_prompts_near_the_limit(vllm_server: Server, vllm_model: Path) -> None:
    adapter = load(vllm_model)
    engine = make_engine(adapter, vllm_server)
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


def test_banned_tokens_have_no_probability(vllm_server: Server, vllm_model: Path) -> None:
    """10,000 tokens of a model that would sample little else."""
    adapter = load(vllm_model)
    one, other = adapter.banned_token_ids[:2]
    with torch.no_grad():
        direction = 1000 * torch.randn(adapter.head_weight.shape[1], generator=torch.Generator().manual_seed(0))
        adapter.head_weight[one], adapter.head_weight[other] = direction, -direction
        prompts = make_prompts(adapter, SIZES[:2])
        likely = adapter.run_plain(prompts[1].encoded, ())[-1] @ adapter.head_weight.T
    assert int(likely.argmax()) in (one, other)
    groups = sample(make_engine(adapter, vllm_server), prompts, Sampling(100, 1.0), size=80)
    sampled = [token for group in tokens(groups) for row in group for token in row]
    assert len(sampled) >= 10_000 and not set(sampled) & set(adapter.banned_token_ids)
    assert largest_gap(adapter, groups[:1], 1.0) < MAX_GAP["float32"]


def stays_in_step(model: Path, server: Server) -> bool:
    """Whether the server's log-probs are the policy's after all weights, the tower's too, changed under the prompts."""
    adapter = load(model)
    make_lively(adapter)
    prompts, heat = make_prompts(adapter, question=LONG), SAMPLED.temperature
    assert min(len(prompt.encoded.token_ids) for prompt in prompts) > 2 * BLOCK
    engine = make_engine(adapter, server, retries=0, max_gap=1e3)  # the gaps of all tokens tell, not the comparison
    gaps, drawn = [], []
    try:
        for _ in range(2):
            groups = sample(engine, prompts, SAMPLED, size=2)
            gaps.append(largest_gap(adapter, groups, heat))
            drawn.append(tokens(groups))
            perturb(adapter)
    except NoServer:  # the engine died of a cache that was half emptied
        return False
    print(f"largest gaps before and after new weights {gaps}")
    assert drawn[0] != drawn[1]
    return max(gaps) < MAX_GAP["float32"]


def test_new_weights_take_effect(vllm_server: Server, vllm_model: Path) -> None:
    assert stays_in_step(vllm_model, vllm_server)


def test_without_either_reset_they_do_not(vllm_model: Path, tmp_path: Path) -> None:
    """Of what was computed with the old weights: keys and values, then image features."""
    left_out = tmp_path / "left-out"
    for step in ("_forget_prefixes", "_forget_images"):
        left_out.write_text("")
        with running(vllm_model, tmp_path, fault=(FORGETFUL, left_out)) as server:
            assert stays_in_step(vllm_model, server)
            left_out.write_text(step)
            assert not stays_in_step(vllm_model, server), step


def test_evaluation_and_ask_use_the_servers(
    vllm_server: Server, vllm_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Greedy answers are those of the engine ``hf``, with images and without."""
    samples = [make_sample(sizes, seed) for seed, sizes in enumerate(SIZES)]
    write_jsonl(samples, tmp_path / "rows.jsonl")
    image = tmp_path / "image.png"
    image.write_bytes(png(100, 60))
    served = ["--rollout.engine", "vllm", "--rollout.vllm.servers", f'["{vllm_server.url}"]']
    served += ["--rollout.vllm.weights", str(vllm_server.weights)]
    limits = ["--model.dtype", "float32", "--model.min_pixels", "784", "--model.max_pixels", "50176"]
    answers = {}
    for name, words in (("hf", []), ("vllm", served)):
        words = [*limits, "--rollout.max_new_tokens", "12", "--prompt.template", "{question}", *words]
        data = ["--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / name)]
        assert cli.main(["eval", str(vllm_model), *data, *words]) == 0
        predictions = (tmp_path / name / "predictions.jsonl").read_text().splitlines()
        capfd.readouterr()
        asked = ["--image", str(image), "--question", "How many?", "--temperature", "0"]
        assert cli.main(["ask", str(vllm_model), *asked, *words]) == 0
        answers[name] = ([json.loads(line)["completions"] for line in predictions], capfd.readouterr().out)
    assert answers["vllm"] == answers["hf"]
    assert len(answers["hf"][0]) == len(SIZES)
