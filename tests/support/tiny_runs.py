"""Small whole runs of the command line in processes of their own, which tests kill, signal and start again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.run.run_log import read_metrics

REPOSITORY = Path(__file__).parents[2]

OWN_CODE = '''
import os
import random
import signal
import time
from pathlib import Path

from gpg_vl.tasks.counting import Counting

class Restless(Counting):
    """Its questions hold what every global random state draws next, as those of a user's own code may."""

    def ask(self, sample, views):
        import numpy
        import torch

        draws = (random.random(), numpy.random.random(), float(torch.rand(())))
        return sample.question + "".join(f" {100 * draw:.0f}" for draw in draws)

def noise(completions, **kwargs):
    """Where there is a file ``signal``, it is removed, and the run is sent SIGTERM while it waits for this."""
    marker = Path(__file__).with_name("signal")
    if marker.exists():
        marker.unlink()
        run = os.getppid()  # the worker that forked this call; above it the supervisor, then the run
        for _ in range(2):
            run = int(Path(f"/proc/{run}/stat").read_text().rsplit(")")[-1].split()[1])
        print(f"SIGTERM at {time.time()}", flush=True)
        os.kill(run, signal.SIGTERM)
        time.sleep(1)
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
'''
"""A random model answers nothing right and would have nothing to learn, so every completion earns some reward."""

SECONDS_OF_RANKS = 200  # of a run on two ranks that ought to take 20, on a busy machine


def write_recipe_folder(folder: Path, model: Path, sections: dict[str, dict[str, Any]] | None = None) -> Path:
    """``recipe.yaml`` of a few small steps in a new folder, with its rows and the code that it names.

    Args:
        sections: keys by section that differ
    """
    folder.mkdir()
    (folder / "own.py").write_text(OWN_CODE)
    write_parquet(draw_samples("counting", 24, seed=0), folder / "rows.parquet")
    recipe: dict[str, Any] = {
        "task": "own.py:Restless",
        "model": {"path": str(model), "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "data": {"train": ["rows.parquet"]},
        "rewards": {"functions": ["own.py:noise"]},
        "rollout": {"prompts_per_step": 3, "group_size": 3, "max_new_tokens": 6},
        "objective": {"beta_th": 0.5},
        "update": {"learning_rate": 1e-3, "schedule": "cosine"},
        "run": {"steps": 10, "save_every": 5, "save_total_limit": None, "eval_every": 0, "trackers": []},
    }
    for section, keys in (sections or {}).items():
        recipe[section] = {**recipe[section], **keys}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def train_words(name: str) -> list[str]:
    return ["train", "recipe.yaml", "--run.output_dir", name]


def start_command(folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """``gpg-vl WORDS`` in ``folder``, as a user starts it; what it says is added to ``log.txt``."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "gpg_vl", *words], cwd=folder, stdout=log, stderr=log)


def fork_command(folder: Path, words: Sequence[str], fault: str | None = None) -> BaseProcess:
    """The same in the fork of a process that has the libraries loaded: it starts in a fraction of the time.

    Args:
        fault: ``MODULE:FUNCTION`` to call first, in that process
    """
    return _fork(folder, words, fault, {})


def fork_ranks(
    folder: Path,
    words: Sequence[str],
    deepspeed: str,
    num: int = 2,
    faults: Mapping[int, str] | None = None,
    more: Mapping[int, Sequence[str]] | None = None,
    nodes: Sequence[int] | None = None,
) -> list[BaseProcess]:
    """The same on several ranks, in the environment that ``scripts/train.sh`` and its launcher make.

    Args:
        deepspeed: a file of ``scripts/deepspeed``, or fsdp, fsdp_offload or hsdp, of two nodes
        faults: by rank
        more: words of single ranks, by rank
        nodes: ranks of each node; None: two nodes with hsdp, else one
    """
    nodes = nodes or ([num // 2, num // 2] if deepspeed == "hsdp" else [num])
    environment = {
        "WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    if deepspeed in ("zero0", "fsdp", "hsdp", "fsdp_offload"):
        environment["ACCELERATE_USE_CPU"] = "true"
        environment["GPG_VL_SHARDING"] = deepspeed.replace("zero0", "none")
    else:
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(REPOSITORY / f"scripts/deepspeed/{deepspeed}.json")
    places = [(str(local), str(of_node)) for of_node in nodes for local in range(of_node)]
    return [
        _fork(
            folder, [*words, *(more or {}).get(rank, ())], (faults or {}).get(rank),
            {**environment, "RANK": str(rank), "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": of_node},
        )
        for rank, (local, of_node) in enumerate(places)
    ]  # fmt: skip


def join_ranks(ranks: Sequence[BaseProcess], seconds: float) -> list[int | None]:
    """Their exit codes; where one is killed, the others are too, as a launcher does it."""
    end = time.monotonic() + seconds
    while any(rank.exitcode is None for rank in ranks) and time.monotonic() < end:
        for rank in ranks:
            rank.join(0.05)
        if any(rank.exitcode == -signal.SIGKILL for rank in ranks):
            break
    kill_ranks(ranks)
    return [rank.exitcode for rank in ranks]


def train_ranks(folder: Path, name: str, layout: str, num: int, words: Sequence[str] = ()) -> None:
    """Trains to the end; the task's questions are the same on any number of ranks."""
    ranks = fork_ranks(folder, [*train_words(name), "--task", "counting", *words], layout, num)
    assert join_ranks(ranks, SECONDS_OF_RANKS) == [0] * num, (folder / "log.txt").read_text()


def kill_ranks(ranks: Sequence[BaseProcess]) -> None:
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fork(folder: Path, words: Sequence[str], fault: str | None, environment: dict[str, str]) -> BaseProcess:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads must not fork
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["data_tools.generate", "gpg_vl.train", "gpg_vl.cli", "deepspeed"])
    process = server.Process(target=_work, args=(str(folder), list(words), fault, environment))
    process.start()
    return process


def _work(folder: str, words: list[str], fault: str | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    log = open("log.txt", "a", buffering=1)  # noqa: SIM115  open as long as the process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    from gpg_vl.cli import main

    if fault is not None:
        module, name = fault.split(":")
        getattr(import_module(module), name)()
    sys.exit(main(words))


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.01)


def last_step(run: Path) -> int:
    """Of the log, which may end in half a line."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def last_saved_step(run: Path) -> int:
    return max((int(folder.name.split("-")[1]) for folder in find_checkpoints(run)), default=0)


def sampled(run: Path) -> list[str]:
    """What each step drew and sampled, step by step."""
    return [path.read_text() for path in sorted((run / "rollouts").glob("*.jsonl"))]


def without_seconds(run: Path) -> list[dict[str, Any]]:
    """The metrics but for those that depend on the machine."""
    return [{key: row[key] for key in row if key not in ("seconds", "speed")} for row in read_metrics(run)]


def assert_equal_tensors(a: Path, b: Path) -> None:
    one, other = load_file(a), load_file(b)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].numpy().tobytes() != other[name].numpy().tobytes()] == []


def assert_equal_checkpoints(a: Path, b: Path) -> None:
    """Weights, optimizer, random states of every rank, and position: bit for bit."""
    names = {str(path.relative_to(a)) for path in a.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(b)) for path in b.rglob("*") if path.is_file()}
    for name in ("model.safetensors", *sorted(n for n in names if n.startswith("training_state/"))):
        if name.endswith(".safetensors"):
            assert_equal_tensors(a / name, b / name)
        else:
            assert (a / name).read_text() == (b / name).read_text(), name


def assert_equal_runs(a: Path, b: Path) -> None:
    """The same last checkpoint, and the same history: each step once, with its prompts, tokens, rewards and losses."""
    assert_equal_checkpoints(find_checkpoints(a)[-1], find_checkpoints(b)[-1])
    assert sampled(a) == sampled(b)
    assert without_seconds(a) == without_seconds(b)
