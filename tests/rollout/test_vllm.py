"""The engine ``vllm`` against the kit's server with a tiny model behind it: prompts, weights, faults.

vLLM itself is run by ``make test-vllm``.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl.config import LoraConfig, RolloutConfig, VllmConfig
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.processes.pulse import PULSE, Beat
from gpg_vl.rollout import build_engine, vllm
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.messages import AnsweredGroup, Request
from gpg_vl.rollout.served.shared_folder import make_token
from gpg_vl.rollout.vllm import NoServer
from tests.support.builders import FAMILIES, make_lively
from tests.support.rank_runs import SECONDS, run_ranks
from tests.support.rollout_servers import SleepingTiny, TinyBackend, perturb, serving
from tests.support.served_rollouts import GREEDY, SAMPLED, make_engine, make_prompts, sample, tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_gives_what_the_policy_gives(load: Any, tmp_path: Path, family: str) -> None:
    """It starts from other weights; two servers share the prompts."""
    adapter = load(family)
    make_lively(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 60)]  # so that some completions end early
    prompts = make_prompts(adapter)
    with ExitStack() as stack:
        backends = [TinyBackend(load(family)) for _ in range(2)]
        for backend in backends:
            backend.adapter.model.generation_config.eos_token_id = [2, *range(40, 60)]
        urls = [stack.enter_context(serving(backend, tmp_path))[0] for backend in backends]
        engine = make_engine(adapter, tmp_path, *urls)
        served, own = (sample(each, prompts, GREEDY) for each in (engine, HfEngine(adapter, 65536)))
        assert served == own
        finished = set()
        for group in sample(engine, prompts, SAMPLED):
            assert len({each.token_ids for each in group.completions}) > 1
            for each in group.completions:
                with torch.no_grad():
                    plain = plain_log_probs(adapter, group.prompt.encoded, each, SAMPLED.temperature)
                assert each.log_probs == pytest.approx(plain.tolist(), abs=1e-4)
                assert (each.token_ids[-1] in adapter.end_token_ids) == each.finished
                finished.add(each.finished)
        assert finished == {True, False}
        assert sample(engine, prompts, SAMPLED, keep=False)[0].completions[0].log_probs is None
    assert [backend.num_loads for backend in backends] == [1, 1], "the weights have not changed since"


def test_new_weights_reach_the_server_before_the_next_completion(load: Any, tmp_path: Path) -> None:
    adapter, backend = load(), TinyBackend(load())
    make_lively(adapter)
    prompts = make_prompts(adapter)
    with serving(backend, tmp_path) as (url, _):
        engine = make_engine(adapter, tmp_path, url)
        before = tokens(sample(engine, prompts, GREEDY))
        perturb(adapter)
        after = sample(engine, prompts, GREEDY)
        assert tokens(after) != before
        assert after == sample(HfEngine(adapter, 65536), prompts, GREEDY)
    assert backend.num_loads == 2


def test_an_adapter_is_served_merged(load: Any, tmp_path: Path) -> None:
    adapter, backend = load(lora=LoraConfig(r=4)), TinyBackend(load())
    perturb(adapter, scale=1.0)
    prompts = make_prompts(adapter)
    with serving(backend, tmp_path) as (url, _):
        served = sample(make_engine(adapter, tmp_path, url), prompts, SAMPLED)
    largest = 0.0
    for group in served:
        for each in group.completions:
            with torch.no_grad():
                plain = plain_log_probs(adapter, group.prompt.encoded, each, SAMPLED.temperature)
                assert each.log_probs == pytest.approx(plain.tolist(), abs=1e-4)
                with adapter.without_lora():
                    other = plain_log_probs(adapter, group.prompt.encoded, each, SAMPLED.temperature)
            largest = max(largest, float((plain - other).abs().max()))
    assert largest > 0.01, "the adapter does something"


def test_a_server_that_was_restarted_gets_the_weights_again(load: Any, tmp_path: Path) -> None:
    """In the middle of a rollout, between two calls of ``generate``."""
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    with serving(TinyBackend(load()), tmp_path) as (url, server):
        engine = make_engine(adapter, tmp_path, url)
        with engine.sync_weights():
            before = engine.generate(prompts, 2, GREEDY, [(n,) for n in range(3)])
            server.service = type(server.service)(TinyBackend(load()), tmp_path)
            assert engine.generate(prompts, 2, GREEDY, [(n,) for n in range(3)]) == before


class FailingBackend(TinyBackend):
    def generate(self, request: Request) -> list[AnsweredGroup]:
        raise RuntimeError("CUDA out of memory")


class ForgetfulBackend(TinyBackend):
    """Gives one completion too few."""

    def generate(self, request: Request) -> list[AnsweredGroup]:
        return [AnsweredGroup(each.num_prompt_tokens, each.completions[1:]) for each in super().generate(request)]


@pytest.mark.parametrize("kind", [FailingBackend, ForgetfulBackend])
def test_on_failure_stop_ends_in_one_line(load: Any, tmp_path: Path, kind: type[TinyBackend]) -> None:
    adapter = load()
    with serving(kind(load()), tmp_path) as (url, _):
        engine = make_engine(adapter, tmp_path, url)
        with pytest.raises(NoServer, match=f"{url}.*rollout.vllm.on_failure") as caught:
            sample(engine, make_prompts(adapter), GREEDY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [FailingBackend, ForgetfulBackend, None])
def test_on_failure_hf_completes_the_step(
    load: Any, tmp_path: Path, kind: type[TinyBackend] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a server, too; whole groups, with log-probs."""
    adapter = load()
    make_token(tmp_path)
    prompts = make_prompts(adapter)
    with ExitStack() as stack:
        url = "http://127.0.0.1:9" if kind is None else stack.enter_context(serving(kind(load()), tmp_path))[0]
        engine = make_engine(adapter, tmp_path, url, on_failure="hf")
        assert sample(engine, prompts, SAMPLED) == sample(HfEngine(adapter, 65536), prompts, SAMPLED)
    assert "hf completes 3 prompts" in capsys.readouterr().err


def test_a_server_that_dies_hands_its_prompts_to_another(load: Any, tmp_path: Path) -> None:
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    with serving(FailingBackend(load()), tmp_path) as (one, _), serving(TinyBackend(load()), tmp_path) as (two, _):
        served = sample(make_engine(adapter, tmp_path, one, two), prompts, GREEDY)
    assert served == sample(HfEngine(adapter, 65536), prompts, GREEDY)


def make_colocated(
    adapter: Any, backend: TinyBackend, folder: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any
) -> Any:
    monkeypatch.setattr(vllm, "start_local_engine", lambda *_: backend)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return make_engine(adapter, folder, "http://127.0.0.1:9", mode="colocate", **keys)


def test_an_engine_in_this_process_sleeps_between_rollouts(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, backend = load(), SleepingTiny(load())
    make_lively(adapter)
    prompts = make_prompts(adapter)
    engine = make_colocated(adapter, backend, tmp_path, monkeypatch)
    for _ in range(2):
        assert sample(engine, prompts, GREEDY) == sample(HfEngine(adapter, 65536), prompts, GREEDY)
        assert not backend.is_awake
        perturb(adapter)
    with engine.sync_weights():
        assert backend.is_awake
        one = engine.generate(prompts, 3, SAMPLED, [("a", n) for n in range(3)])
    with engine.sync_weights():  # a second draw of one step: it has lost the weights since
        assert engine.generate(prompts, 3, SAMPLED, [("a", n) for n in range(3)]) == one
    assert backend.num_loads == 4 and list(tmp_path.iterdir()) == [], "the weights go from memory to memory"
    with pytest.raises(KeyError), engine.sync_weights():
        raise KeyError
    assert not backend.is_awake


@pytest.mark.parametrize("on_failure", ["stop", "hf"])
@pytest.mark.parametrize("place", ["wake", "take_weights", "generate"])
def test_an_engine_in_this_process_that_fails_gives_its_memory_back(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str, place: str
) -> None:
    """Before ``hf`` takes over, and it is not asked again."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    adapter, backend = load(), SleepingTiny(load())
    monkeypatch.setattr(backend, place, fail)
    prompts = make_prompts(adapter)
    engine = make_colocated(adapter, backend, tmp_path, monkeypatch, on_failure=on_failure)
    monkeypatch.setattr(HfEngine, "generate", while_shut_down(backend, HfEngine.generate))
    for _ in range(2):
        if on_failure == "hf":
            assert sample(engine, prompts, GREEDY) == sample(HfEngine(adapter, 65536), prompts, GREEDY)
        else:
            with pytest.raises(NoServer, match=r"rollout.vllm.gpu_memory"):
                sample(engine, prompts, GREEDY)
    assert backend.num_shut_down == 1


def test_an_engine_in_this_process_that_answers_nonsense_has_failed(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a server that does: ``hf`` takes over."""
    adapter, backend = load(), SleepingTiny(load())
    generate = backend.generate

    def without_numbers(request: Any) -> Any:
        group, *others = generate(request)
        rows = [replace(row, log_probs=(math.nan,) * len(row.log_probs)) for row in group.completions]
        return [replace(group, completions=tuple(rows)), *others]

    monkeypatch.setattr(backend, "generate", without_numbers)
    prompts = make_prompts(adapter)
    engine = make_colocated(adapter, backend, tmp_path, monkeypatch, on_failure="hf")
    assert sample(engine, prompts, GREEDY) == sample(HfEngine(adapter, 65536), prompts, GREEDY)
    assert backend.num_shut_down == 1 and "a bad answer" in capfd.readouterr().err


def test_a_prompt_that_an_engine_in_this_process_cannot_hold_names_the_key(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, backend = load(), SleepingTiny(load())
    engine = make_colocated(adapter, backend, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"rollout\.vllm\.max_model_len"):
        sample(engine, make_prompts(adapter), Sampling(510, 0.0))


@pytest.mark.parametrize("place", ["wake", "take_weights", "generate", "sleep"])
def test_whoever_watches_the_process_knows_what_it_does(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """An engine in it that hangs is found as a rollout by ``hf`` is."""
    adapter, backend = load(), SleepingTiny(load())
    monkeypatch.setattr(PULSE, "last", Beat(None, 0))
    work, seen = getattr(backend, place), []
    monkeypatch.setattr(backend, place, lambda *words: (seen.append(what_is_watched()), work(*words))[1])
    sample(make_colocated(adapter, backend, tmp_path, monkeypatch), make_prompts(adapter), GREEDY)
    assert {*seen} == {("the rollout", True)} and what_is_watched() == (None, False)


def what_is_watched() -> tuple[str | None, bool]:
    """What is being done, and whether a thread ends the process if it does not go on."""
    return PULSE.last.work, "hangs" in [thread.name for thread in threading.enumerate()]


def while_shut_down(backend: SleepingTiny, generate: Any) -> Any:
    def checked(*words: Any, **keys: Any) -> Any:
        assert backend.num_shut_down == 1
        return generate(*words, **keys)

    return checked


def test_colocate_without_vllm_is_refused(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"rollout.vllm.mode.*server"):
        build_engine(RolloutConfig(engine="vllm", vllm=VllmConfig(mode="colocate")), load())


def test_without_the_servers_folder_the_mistake_is_told(load: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="serve-rollouts"):
        make_engine(load(), tmp_path / "other", "http://127.0.0.1:9")


def test_no_prompts_ask_nobody(load: Any, tmp_path: Path) -> None:
    make_token(tmp_path)
    assert make_engine(load(), tmp_path, "http://127.0.0.1:9").generate([], 3, GREEDY, []) == []


# --- ranks that share the weights ------------------------------------------------------------------------------------


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("layout", ["fsdp", pytest.param("zero3", marks=pytest.mark.faults)])
def test_ranks_hold_whole_weights_no_longer_than_they_may_be_needed(
    model_folders: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    """While engines sample, each has its shards alone, unless ``hf`` may have to take over.

    The first time, whole ones are compared with what an engine samples; from then on an engine in the process is given
    one block after the other, also by ranks whose own engine fails meanwhile, and what a server gets is published so. A
    rank without prompts compares its engine by another's.
    """
    *rows, idle, broken = run_ranks("served_ranks.py", layout, [model_folders["qwen2_vl"], tmp_path])
    assert broken["failure"].startswith("rank 1: the vllm of this process has failed")
    settings = [(row["mode"], row["on_failure"]) for row in rows[::2]]
    assert settings == [("server", "stop"), ("server", "hf"), ("colocate", "stop")] and len(rows) == 6
    assert [row["first_server"] for row in rows] == [0, 1] * 3
    assert idle["idle"] == [{"whole": [True, False], "is_same": True}] * 2
    # the first time in turn, nothing says that it is what was published as a whole
    published = [[True, False, False], [], [True, True], [], [], []]
    for row in rows:
        assert row["started"] == [2] and row["too_little"] == "rank 1: no", "each knows of the other"
        assert row["whole"] == [True, row["on_failure"] == "hf"]
        assert row["is_same"] and row["is_sharded"] and row["failure"] == "rank 1: no"
        assert row["published_whole"] == published.pop(0)
        assert row["given_whole"] == ([True, False, False, False] if row["mode"] == "colocate" else [])
