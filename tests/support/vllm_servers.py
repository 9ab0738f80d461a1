"""Servers of ``gpg-vl serve-rollouts`` in the environment of ``make setup-vllm``, each a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm/bin/python"
START_SECONDS = 1500  # on a machine that has much else to do; alone it takes half a minute
CONTEXT = 1024
WITHOUT = """
import sys
from gpg_vl.cli import main
from gpg_vl.rollout.served.vllm_backend import VllmBackend
setattr(VllmBackend, sys.argv[1], lambda self: None)
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    log: Path


def start_server(model: Path, weights: Path, port: int = 0, without: str | None = None) -> Server:
    """
    Args:
        without: a step of ``VllmBackend`` that this server leaves out
    """
    words = ["serve-rollouts", str(model), "--dtype", "float32", "--eager", "--port", str(port), "--weights"]
    head = ["-m", "gpg_vl"] if without is None else ["-c", WITHOUT, without]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    weights.mkdir(parents=True, exist_ok=True)
    log = weights / f"log-{time.monotonic_ns()}.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(PYTHON), *head, *words, str(weights), "--max-model-len", str(CONTEXT)],
            env=environment, stdout=file, stderr=file, text=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"serving rollouts at (\S+),", log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(log.read_text()[-3000:])
        time.sleep(0.5)
    return Server(process, found[1], log)


def stop(server: Server) -> None:
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait(60)
