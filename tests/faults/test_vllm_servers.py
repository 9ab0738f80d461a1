"""vLLM servers that die, hang, run out of memory or get half of the weights, under a run: ``make test-vllm``."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpg_vl.models.base import BaseAdapter
from gpg_vl.rollout import vllm
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.engine_weights import WEIGHTS_FILE, write_weights
from gpg_vl.rollout.served.parity import MAX_GAP
from gpg_vl.rollout.vllm import NoServer
from gpg_vl.run.run_log import read_metrics
from tests.support.builders import make_lively
from tests.support.rollout_servers import perturb
from tests.support.served_rollouts import sample, tokens
from tests.support.tiny_runs import last_step, start_command, train_words, wait_for, write_recipe_folder
from tests.support.vllm_servers import GREEDY, STARVED, Server, load, make_engine, make_prompts, running

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(5400)]
LONG = Sampling(900, 1.0)


@pytest.fixture
def policy(vllm_model: Path) -> BaseAdapter:
    """With other weights than a server starts with."""
    adapter: BaseAdapter = load(vllm_model)
    make_lively(adapter)
    perturb(adapter)
    return adapter


def of_policy(adapter: BaseAdapter) -> list[list[tuple[int, ...]]]:
    return tokens(sample(HfEngine(adapter, 65536), make_prompts(adapter), GREEDY))


def seconds_of(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def test_a_server_that_hangs_is_waited_for_once(vllm_server: Server, policy: BaseAdapter) -> None:
    """Then the recipe decides; and a server that goes on is used again."""
    prompts, seconds = make_prompts(policy), 4.0
    stopping = make_engine(policy, vllm_server, timeout_s=seconds, retries=3)
    falling_back = make_engine(policy, vllm_server, timeout_s=seconds, retries=3, on_failure="hf")
    vllm_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NoServer):
            sample(stopping, prompts, GREEDY)
        assert tokens(sample(falling_back, prompts, GREEDY)) == of_policy(policy)
        generate = partial(falling_back.generate, prompts, 1, GREEDY, [(n,) for n in range(4)])
        assert seconds < seconds_of(generate) < 2 * seconds + 60
    finally:
        vllm_server.process.send_signal(signal.SIGCONT)
    assert tokens(sample(make_engine(policy, vllm_server), prompts, GREEDY)) == of_policy(policy)


def test_a_sync_that_was_interrupted_is_made_up_for(vllm_server: Server, policy: BaseAdapter) -> None:
    """The server hangs while it is told of new weights, and gets them when it is asked for completions."""
    engine, prompts = make_engine(policy, vllm_server), make_prompts(policy)
    before = tokens(sample(engine, prompts, GREEDY))
    perturb(policy, seed=1)
    for client in engine._servers._clients:
        client._timeout_s = 3.0
    vllm_server.process.send_signal(signal.SIGSTOP)
    try:
        with engine.sync_weights():
            for client in engine._servers._clients:
                client._timeout_s = 900.0
            vllm_server.process.send_signal(signal.SIGCONT)
            seeds = [(n,) for n in range(len(prompts))]
            after = tokens(engine.generate(prompts, 3, GREEDY, seeds))
    finally:
        vllm_server.process.send_signal(signal.SIGCONT)
    assert after == of_policy(policy) != before


def test_a_server_out_of_memory_hands_its_prompts_to_another(
    vllm_model: Path, vllm_server: Server, policy: BaseAdapter, tmp_path: Path
) -> None:
    """Both have the folder of the one that lives."""
    prompts, lack = make_prompts(policy), tmp_path / "lack"
    with running(vllm_model, vllm_server.weights, fault=(STARVED, lack)) as server:
        engine = make_engine(policy, vllm_server, server)
        assert tokens(sample(engine, prompts, GREEDY)) == of_policy(policy)
        lack.touch()
        groups = sample(engine, prompts * 4, Sampling(48, 1.0), size=16)
        assert server.process.wait(300) == 1
        assert tokens(sample(engine, prompts, GREEDY)) == of_policy(policy)
    assert [len(group.completions) for group in groups] == [16] * 4 * len(prompts)


def test_a_server_that_is_killed_and_started_again(
    vllm_model: Path, policy: BaseAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """In the middle of a request and of a run, which waits for the next one and ends with all of its steps.

    The next one has the weights of the folder at first, and ends when it gets half of a file of others.
    """
    prompts, expected = make_prompts(policy), of_policy(policy)
    with running(vllm_model, tmp_path / "weights") as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        folder = write_recipe_folder(tmp_path / "runs", vllm_model, recipe_keys(server))
        run = start_command(folder, train_words("run"))
        engine = make_engine(policy, server, retries=0)
        wait_for(lambda: last_step(folder / "run") >= 2, 1200)
        assert tokens(sample(engine, prompts, GREEDY)) == expected
        threading.Timer(1.0, server.process.kill).start()
        with pytest.raises(NoServer):
            sample(engine, prompts, LONG, size=64)
        assert server.process.wait(60) == -signal.SIGKILL
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with running(vllm_model, tmp_path / "weights", int(server.url.rpartition(":")[2])) as again:
        assert tokens(sample(engine, prompts, GREEDY)) == expected
        assert run.wait(1200) == 0, (folder / "log.txt").read_text()
        assert "cannot be reached" in (folder / "log.txt").read_text()
        check_whole_steps(folder / "run")
        capfd.readouterr()
        check_half_of_the_weights(policy, again, monkeypatch)
    said = capfd.readouterr().err
    assert f"{server.url} says 500" in said and "hf completes 4 prompts" in said
    engine._published.end()
    left = [path for path in (tmp_path / "weights").iterdir() if path.is_dir()]
    assert len(left) == 1, "the run has removed its versions; that of the last engine is left"


def check_half_of_the_weights(policy: BaseAdapter, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No completion comes from them: the server ends, and the recipe decides what follows."""
    monkeypatch.setattr(vllm, "write_weights", cut)
    falling_back = make_engine(policy, server, on_failure="hf", retries=0)
    assert tokens(sample(falling_back, make_prompts(policy), GREEDY)) == of_policy(policy)
    assert server.process.wait(120) == 1


def cut(adapter: BaseAdapter, folder: Path) -> None:
    write_weights(adapter, folder)
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1000])


def recipe_keys(server: Server) -> dict[str, dict[str, Any]]:
    keys = {"servers": [server.url], "weights": str(server.weights), "retries": 10, "retry_s": 2.0, "timeout_s": 900.0}
    return {"rollout": {"engine": "vllm", "vllm": keys}, "run": {"steps": 6}}


def check_whole_steps(run: Path) -> None:
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert max(row["update"]["largest_log_prob_gap"] for row in rows if row["update"]) < MAX_GAP["float32"]
