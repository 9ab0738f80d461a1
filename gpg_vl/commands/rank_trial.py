"""Whether ranks can add up a gradient here: processes are started as for a run, and take one step of a tiny layer.

``python -m gpg_vl.launch ... -m gpg_vl.commands.rank_trial KIND`` is what each of them runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import torch

import gpg_vl
from gpg_vl.commands.recipes import shipped_folder
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.start import start_ranks
from gpg_vl.rewards.pool.process_trees import die_with_parent, kill_family
from gpg_vl.update.layouts import build_layout

Kind = Literal["plain", "fsdp2", "deepspeed"]
_SECONDS = 120
_SIZE = 8
_ERROR_MARK = "rank trial: "


def try_ranks(kind: Kind) -> str:
    """A line on the processes that took the step: how many, over what.

    Args:
        kind: plain: each has all weights, as without DeepSpeed; fsdp2: torch's ``fully_shard``; deepspeed: ZeRO-2

    Raises:
        RuntimeError: it failed, took too long, or the gradient is wrong; one line
    """
    num_ranks = min(2, torch.cuda.device_count()) or 2
    words = ["--standalone", "--nproc_per_node", str(num_ranks), "-m", "gpg_vl.commands.rank_trial", kind]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpg_vl.launch", *words], env=_environment(kind), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, said = process.communicate(timeout=_SECONDS)
    except BaseException as error:  # Ctrl-C included: the ranks are in sessions of their own
        kill_family(process.pid)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"no answer within {_SECONDS} s") from error
        raise
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not found:
        raise RuntimeError(_cause(said))
    return describe_trial(**found[0])


def _environment(kind: Kind) -> dict[str, str]:
    """What ``scripts/train.sh`` sets."""
    own = [str(Path(gpg_vl.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(own)}
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        more["DS_ACCELERATOR"] = "cpu"
    if kind == "deepspeed":
        config = shipped_folder() / "deepspeed/zero2.json"
        more |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(config)}
    elif not has_gpu:
        more["ACCELERATE_USE_CPU"] = "true"
    return {**os.environ, **more}


def _cause(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [line.partition(_ERROR_MARK)[2] for line in lines if _ERROR_MARK in line]
    return next(iter(marked or lines[-1:]), "a rank ended without a word")


def describe_trial(ranks: int, backend: str, norm: float, wanted: float) -> str:
    """
    Raises:
        RuntimeError: the gradient is not the sum over the ranks
    """
    if not abs(norm - wanted) < 1e-3 * wanted:
        raise RuntimeError(f"{ranks} ranks over {backend}: the gradient has norm {norm:.4f} instead of {wanted:.4f}")
    return f"{ranks} {'rank' if ranks == 1 else 'ranks'} over {backend} took a step"


def run_rank(kind: Kind) -> None:
    """One of the ranks; the first prints what it found."""
    accelerator = start_ranks()
    ranks, rank = accelerator.num_processes, accelerator.process_index
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(torch.zeros(1, device=accelerator.device))  # a single rank adds nothing up below
    layer = torch.nn.Linear(_SIZE, 1, bias=False).to(accelerator.device)
    inputs = torch.eye(_SIZE, device=accelerator.device)[rank] * (rank + 1)  # the sum over ranks has norm |1, 2, ...|
    if kind == "fsdp2":
        norm = _step_of_fsdp2(layer, inputs, ranks)
    else:
        layout = build_layout(accelerator, layer, torch.optim.AdamW(layer.parameters()), 1e6)
        layout.backward(layout.forward(inputs).sum(), is_last=True)
        norm = layout.step()
    if rank == 0:
        wanted = sum((n + 1) ** 2 for n in range(ranks)) ** 0.5
        backend = torch.distributed.get_backend() if ranks > 1 or torch.distributed.is_initialized() else "one process"
        print(json.dumps({"ranks": ranks, "backend": backend, "norm": norm, "wanted": wanted}), flush=True)
    end_ranks()


def _step_of_fsdp2(layer: torch.nn.Linear, inputs: torch.Tensor, ranks: int) -> float:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    fully_shard(layer)
    optimizer = torch.optim.AdamW(layer.parameters())
    (layer(inputs).sum() * ranks).backward()  # it averages over ranks
    norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1e6)
    optimizer.step()
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


if __name__ == "__main__":
    die_with_parent(os.getppid())
    try:
        run_rank(sys.argv[1])  # type: ignore[arg-type]
    except Exception as error:
        print(f"{_ERROR_MARK}{type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
