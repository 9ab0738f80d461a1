"""Whether the first completion that an engine samples is the policy's."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl import cli
from gpg_vl.config import VllmConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import Completion
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served.client import Refused
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, Request
from gpg_vl.rollout.served.parity import MAX_GAP, OtherPolicy, check_parity
from tests.support.builders import make_lively, make_sample, png
from tests.support.messages import naming
from tests.support.rollout_servers import TinyBackend, perturb, serving
from tests.support.served_rollouts import GREEDY, make_engine, make_prompts, sample

NARROW = Sampling(40, 1.5, top_p=0.9, top_k=5)


class KeepingBackend(TinyBackend):
    """Says that it took the weights, and keeps its own."""

    def __init__(self, adapter: Any):
        super().__init__(adapter)
        self.requests: list[Request] = []

    def load_weights(self, folder: Path) -> None:
        self.num_loads += 1

    def generate(self, request: Request) -> list[AnsweredGroup]:
        self.requests.append(request)
        return super().generate(request)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("what", ["another type", "other weights", "the policy"])
def test_a_server_that_comes_late_is_checked_and_compared_before_it_is_used(
    load: Any, tmp_path: Path, what: str
) -> None:
    """It was not there when the others were."""
    adapter, other, port = load(), load(), free_port()
    perturb(other, scale=0.1)
    make = {"another type": lambda: TinyBackend(load(dtype="bfloat16")), "other weights": lambda: KeepingBackend(other)}
    backend = make.get(what, lambda: TinyBackend(load()))()
    with serving(TinyBackend(load()), tmp_path) as (good, _):
        engine = make_engine(adapter, tmp_path, good, f"http://127.0.0.1:{port}")
        prompts = make_prompts(adapter)
        before = sample(engine, prompts, GREEDY)
        with serving(backend, tmp_path, port) as (late, _):
            if what == "the policy":
                assert sample(engine, prompts, GREEDY) == before
                assert backend.num_loads == 1, "it was asked"
                return
            named = naming(late, "--dtype float32" if what == "another type" else "rollout.vllm.max_gap")
            with pytest.raises(Refused if what == "another type" else OtherPolicy, match=named):
                sample(engine, prompts, GREEDY)


def test_one_completion_is_compared_once(load: Any, tmp_path: Path) -> None:
    """Of the first prompt with an image, from the full distribution, by every server."""
    adapter = load()
    prompts = make_prompts(adapter, [[], [(84, 84)], [(56, 84)]])
    backends = KeepingBackend(load()), KeepingBackend(load())
    with serving(backends[0], tmp_path) as (one, _), serving(backends[1], tmp_path) as (two, _):
        engine = make_engine(adapter, tmp_path, one, two)
        for _ in range(2):
            sample(engine, prompts, NARROW)
            assert engine._comparison.num_known == 2
    for backend in backends:
        asked = [each for each in backend.requests if each.sampling != NARROW]
        assert len(asked) == 1 and len(backend.requests) == 3
        assert (asked[0].sampling, asked[0].group_size) == (Sampling(32, 1.0), 1)
        [prompt] = asked[0].prompts
        assert prompt.token_ids == prompts[1].encoded.token_ids and len(prompt.pictures) == 1


@pytest.mark.parametrize("sampling", [GREEDY, NARROW])
def test_an_engine_with_other_weights_is_refused(load: Any, tmp_path: Path, sampling: Sampling) -> None:
    """Whichever server has them, and though hf could take over."""
    adapter, other = load(), load()
    perturb(other, scale=0.1)
    backends = TinyBackend(load()), KeepingBackend(other)
    with serving(backends[0], tmp_path) as (good, _), serving(backends[1], tmp_path) as (bad, _):
        engine = make_engine(adapter, tmp_path, good, bad, on_failure="hf")
        with pytest.raises(OtherPolicy, match=naming(bad, "rollout.engine to hf", "rollout.vllm.max_gap")) as caught:
            sample(engine, make_prompts(adapter), sampling)
        assert good not in str(caught.value) and "\n" not in str(caught.value)
        sample(make_engine(adapter, tmp_path, good, bad, max_gap=1e3), make_prompts(adapter), sampling)


@pytest.mark.parametrize("dtype", MAX_GAP)
def test_bounds_are_those_of_a_step(load: Any, dtype: str) -> None:
    """In float32 no token may be far, in bfloat16 they may not be on average; both are named."""
    adapter = load(dtype=dtype)
    make_lively(adapter)
    adapter.round_weights()
    [prompt] = make_prompts(adapter, [[(84, 84)]])
    tokens = tuple(range(100, 120))
    with torch.no_grad():
        plain = plain_log_probs(adapter, prompt.encoded, Completion(tokens, "", finished=True), 1.0).tolist()

    def check(*offsets: float, max_gap: float | None = None) -> None:
        far = [*offsets, *[0.0] * (len(tokens) - len(offsets))]
        given = AnsweredCompletion(tokens, tuple(one - other for one, other in zip(plain, far, strict=True)))
        check_parity(adapter, VllmConfig(max_gap=max_gap), "it", prompt, given, Sampling(20, 1.0))

    bound = MAX_GAP[dtype] * (1 if dtype == "float32" else len(tokens))  # of one token, where all others are the same
    check(0.9 * bound)
    check(2.0, max_gap=2.1)
    for offset in (1.1 * bound, float("nan")):
        with pytest.raises(OtherPolicy, match=naming(f"{sum(plain) / len(plain):.4f} here")):
            check(offset)


@pytest.fixture
def stale(load: Any, tmp_path: Path) -> Any:
    """The address of a server with other weights, whatever it is told, and how a run names it."""
    adapter = load()
    perturb(adapter)
    with serving(KeepingBackend(adapter), tmp_path / "shared") as (url, _):
        yield ["--rollout.engine", "vllm", "--rollout.vllm.servers", json.dumps([url]), "--rollout.vllm.weights",
               str(tmp_path / "shared"), "--rollout.max_new_tokens", "8", "--model.dtype", "float32",
               "--model.min_pixels", "784", "--model.max_pixels", "50176"]  # fmt: skip


def test_no_command_uses_an_engine_with_other_weights(
    stale: list[str], model_folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run ends before its first validation."""
    for name, first in (("rows", 0), ("held-out", 4)):
        numbers = range(first, first + 4)
        samples = [replace(make_sample([(84, 84)], n), id=f"{n}", task="counting", answer="4") for n in numbers]
        write_jsonl(samples, tmp_path / f"{name}.jsonl")
    image = tmp_path / "image.png"
    image.write_bytes(png(100, 60))
    model, rows = str(model_folders["qwen2_vl"]), str(tmp_path / "rows.jsonl")
    held_out = str(tmp_path / "held-out.jsonl")
    (tmp_path / "recipe.yaml").write_text("run: {eval_every: 1, steps: 2, trackers: []}")
    run = ["train", str(tmp_path / "recipe.yaml"), "--model.path", model, "--data.train", json.dumps([rows]),
           "--data.eval", json.dumps([held_out]), "--run.output_dir", str(tmp_path / "run"),
           "--rollout.prompts_per_step", "2", "--rollout.group_size", "2"]  # fmt: skip
    for words in (
        run,
        ["eval", model, "--data", rows, "--out", str(tmp_path / "eval")],
        ["ask", model, "--image", str(image), "--question", "How many?", "--temperature", "0"],
    ):
        assert cli.main([*words, *stale]) == 2, capfd.readouterr().err
        said = capfd.readouterr().err.strip().splitlines()[-1]
        assert "rollout.vllm.max_gap" in said and "is not the policy" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not list((tmp_path / "eval").glob("predictions.jsonl"))
