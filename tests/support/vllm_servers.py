"""Servers of ``gpg-vl serve-rollouts`` in the environment of ``make setup-vllm``, each a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config import ModelConfig, RolloutConfig, VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.records import Prompt
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from tests.support import served_rollouts
from tests.support.builders import SMALL_IMAGES

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm/bin/python"
START_SECONDS = 1500  # on a machine that has much else to do; alone it takes half a minute
CONTEXT = 1024
GREEDY, SAMPLED = Sampling(24, 0.0), Sampling(24, 1.3)
SIZES = ([(84, 84)], [], [(140, 56), (300, 200), (33, 47)], [(1000, 40)])
"""Sizes that are resized, a row of text alone, and several images."""
LONG = "How many shapes are there? " * 30
"""A question whose keys and values vLLM keeps."""
FORGETFUL = """
import sys
from pathlib import Path
from gpg_vl.cli import main
from gpg_vl.rollout.served.vllm_backend import VllmBackend

def unless_left_out(step, name):
    def run(self):
        if Path(sys.argv[1]).read_text() != name:
            step(self)
    return run

for name in ("_forget_prefixes", "_forget_images"):
    setattr(VllmBackend, name, unless_left_out(getattr(VllmBackend, name), name))
sys.exit(main(sys.argv[2:]))
"""
"""A server that leaves out the step of ``VllmBackend`` that a file names."""
STARVED = """
import sys
from pathlib import Path
import torch
from gpg_vl.cli import main
from gpg_vl.rollout.served.vllm_backend import VllmBackend

generate = VllmBackend.generate

def run_out_of_memory(self, request):
    if Path(sys.argv[1]).exists():
        torch.empty(2**50)
    return generate(self, request)

VllmBackend.generate = run_out_of_memory
sys.exit(main(sys.argv[2:]))
"""
"""A server whose engine asks for more memory than there is once a file exists."""


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    weights: Path
    log: Path


def start_server(model: Path, weights: Path, port: int = 0, fault: tuple[str, Path] | None = None) -> Server:
    """
    Args:
        fault: what the server runs, with the file that it looks at: ``FORGETFUL`` or ``STARVED``
    """
    words = ["serve-rollouts", str(model), "--dtype", "float32", "--eager", "--port", str(port), "--weights"]
    head = ["-m", "gpg_vl"] if fault is None else ["-c", fault[0], str(fault[1])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    weights.mkdir(parents=True, exist_ok=True)
    log = weights / f"log-{time.monotonic_ns()}.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(PYTHON), *head, *words, str(weights), "--max-model-len", str(CONTEXT)],
            env=environment, stdout=file, stderr=file, text=True,
        )  # fmt: skip
    try:
        return Server(process, _wait_for_address(process, log), weights, log)
    except BaseException:
        process.kill()
        raise


def _wait_for_address(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"serving rollouts at (\S+),", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)
    return found[1]


def stop(server: Server) -> None:
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait(60)


@contextmanager
def running(model: Path, weights: Path, port: int = 0, fault: tuple[str, Path] | None = None) -> Iterator[Server]:
    """See ``start_server``."""
    server = start_server(model, weights, port, fault)
    try:
        yield server
    finally:
        stop(server)


# --- a run that asks them --------------------------------------------------------------------------------------------


def load(model: Path) -> Any:
    return load_adapter(ModelConfig(path=str(model), **SMALL_IMAGES))  # type: ignore[arg-type]


def make_prompts(adapter: Any, sizes: Sequence[Any] = SIZES, question: str = "How many shapes?") -> list[Prompt]:
    return served_rollouts.make_prompts(adapter, sizes, question)


def make_engine(adapter: Any, *servers: Server, **keys: Any) -> Any:
    options = {"retries": 1, "retry_s": 0.2, "timeout_s": 900.0, **keys}
    config = VllmConfig(servers=[each.url for each in servers], weights=str(servers[0].weights), **options)
    return build_engine(RolloutConfig(engine="vllm", vllm=config), adapter)
