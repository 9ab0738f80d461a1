"""What ``gpg-vl doctor`` tries with the libraries: devices, attention, ranks, and a step of training."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from PIL import Image

from gpg_vl.commands.finding import Finding, FindingState
from gpg_vl.commands.rank_trial import try_ranks
from gpg_vl.config import (
    Attention,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    PromptConfig,
    Recipe,
    RecordConfig,
    RewardsConfig,
    RolloutConfig,
    RunConfig,
    UpdateConfig,
)
from gpg_vl.data.writing import write_parquet
from gpg_vl.errors import first_line
from gpg_vl.models import load_adapter
from gpg_vl.models.device import choose_device
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Completion, Sample
from gpg_vl.run.run_log import read_metrics
from gpg_vl.update.packing import PackedRow, build_micro_batch
from gpg_vl.update.policy import move_to, packed_log_probs
from gpg_vl.update.self_check import check_packing

_SPREAD = "def spread(completions, **kwargs):\n    return [len(each[0]['content']) % 7 / 7 for each in completions]\n"
"""A random model answers nothing right, and would have nothing to learn."""


def try_machine(train: Callable[[Recipe], Path]) -> Iterator[Finding]:
    """
    Args:
        train: runs a recipe
    """
    yield check_device()
    yield check_8bit()
    with TemporaryDirectory(prefix="gpg-vl-doctor-") as folder:
        model = write_tiny_model(Path(folder) / "model")
        yield from check_attention(model)
        yield check_ranks()
        yield check_fsdp2()
        yield check_deepspeed()
        yield run_self_test(train, model, Path(folder))


def check_device() -> Finding:
    if not torch.cuda.is_available():
        text = f"device cpu, {torch.get_num_threads()} threads; no CUDA device: only suitable for tiny models"
        return Finding("missing", "GPU", text)
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    free = [torch.cuda.mem_get_info(index)[0] for index in range(len(devices))]
    lines = [
        f"device cuda:{n} {each.name}, {each.total_memory / 2**30:.0f} GiB, {free[n] / 2**30:.0f} GiB free"
        for n, each in enumerate(devices)
    ]
    return Finding("ok", "GPU", "; ".join(lines))


def check_8bit() -> Finding:
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding(
            "missing",
            "bitsandbytes",
            "no update.optimizer adamw_8bit, no model.lora.quantize (pip install 'gpg-vl[bnb]')",
        )
    return Finding("ok", "bitsandbytes", importlib.metadata.version("bitsandbytes"))


def check_attention(model: Path) -> Iterator[Finding]:
    """Each implementation: log-probs of a packed row against those of plain rows, and a backward pass.

    Args:
        model: folder of a tiny model
    """
    on_gpu = torch.cuda.is_available()
    kinds: dict[Attention, bool] = {  # whether ``auto`` uses it here
        "sdpa": on_gpu, "grouped_sdpa": not on_gpu, "eager": False, **({"flex_attention": True} if on_gpu else {}),
    }  # fmt: skip
    for attention, is_needed in kinds.items():
        what = f"model.attention {attention}"
        try:
            difference = _try_attention(model, attention)
        except Exception as error:  # noqa: BLE001  whatever a library raises is what the line says
            yield Finding("fails" if is_needed else "missing", "attention", f"{what}: {first_line(error)}")
        else:
            yield Finding("ok", "attention", f"{what}: log-probs agree with plain rows to {difference:.0e}")
    if not on_gpu:
        yield Finding("missing", "attention", "model.attention flex_attention: only on CUDA")


def _try_attention(model: Path, attention: Attention) -> float:
    config = ModelConfig(str(model), dtype="float32", min_pixels=784, max_pixels=50176, attention=attention)
    adapter = load_adapter(config)
    adapter.to(choose_device(config))
    prompt = PromptBuilder(adapter, {}, PromptConfig(template="{question}")).build(_sample(0))
    tokens = [token for token in range(8, 300) if token not in adapter.banned_token_ids]
    completions = tuple(Completion(tuple(tokens[n : n + 5 + n]), "", finished=False) for n in range(3))
    row = PackedRow("doctor", prompt.encoded, completions, tuple((1.0,) * len(c.token_ids) for c in completions))
    difference = check_packing(adapter, [row], 1.0)
    batch = move_to(build_micro_batch([row], adapter), adapter.device)
    packed_log_probs(adapter, batch, 1.0).sum().backward()
    return difference


def _sample(number: int) -> Sample:
    buffer = BytesIO()
    Image.new("RGB", (84, 84), (60 * number, 90, 120)).save(buffer, "PNG")
    return Sample(f"doctor-{number}", "counting", (buffer.getvalue(),), "How many shapes?", "1")


def check_ranks() -> Finding:
    """A gradient added up by two processes, or on a machine with one GPU by one, with NCCL on GPUs and else gloo."""
    needs_them = torch.cuda.device_count() > 1
    return _finding("missing" if not needs_them else "fails", "ranks", "no run on several GPUs", "plain")


def check_fsdp2() -> Finding:
    return _finding("missing", "FSDP2", "torch's fully_shard cannot be used", "fsdp2")


def check_deepspeed() -> Finding:
    return _finding("missing", "DeepSpeed", "no ZeRO-1 to ZeRO-3", "deepspeed")


def _finding(if_not: FindingState, what: str, lack: str, kind: Literal["plain", "fsdp2", "deepspeed"]) -> Finding:
    try:
        return Finding("ok", what, try_ranks(kind))
    except (RuntimeError, OSError) as error:
        return Finding(if_not, what, f"{lack}: {first_line(error)}")


def run_self_test(train: Callable[[Recipe], Path], model: Path, folder: Path) -> Finding:
    """One step of GPG on a tiny model, with all that a run does: rollout, rewards, self-check, update, checkpoint.

    Args:
        folder: to write to
    """
    start = time.perf_counter()
    said = StringIO()
    try:
        with redirect_stderr(said):
            train(_recipe(model, folder))
        [metrics] = read_metrics(folder / "run")
    except Exception as error:  # noqa: BLE001  whatever a library raises is what the line says
        return Finding("fails", "self-test", f"a step on a tiny model: {first_line(error)}")
    norm = metrics["update"]["grad_norm"]
    if not 0 < norm < math.inf:
        return Finding(
            "fails", "self-test", f"a step on a tiny model had a gradient of norm {norm}; report the versions"
        )
    seconds = time.perf_counter() - start
    return Finding("ok", "self-test", f"one step on a tiny model, from rows to checkpoint, in {seconds:.1f} s")


def _recipe(model: Path, folder: Path) -> Recipe:
    rows, rewards = folder / "rows.parquet", folder / "rewards.py"
    write_parquet(map(_sample, range(4)), rows)
    rewards.write_text(_SPREAD, encoding="utf-8")
    return Recipe(
        model=ModelConfig(str(model), dtype="float32", min_pixels=784, max_pixels=50176),
        data=DataConfig(train=[str(rows)]),
        prompt=PromptConfig(template="{question}"),
        rewards=RewardsConfig(functions=[f"{rewards}:spread"]),
        rollout=RolloutConfig(prompts_per_step=2, group_size=4, max_new_tokens=8),
        objective=ObjectiveConfig(beta_th=0.0),
        update=UpdateConfig(learning_rate=1e-3),
        run=RunConfig(
            steps=1, output_dir=str(folder / "run"), eval_every=0, trackers=[], record=RecordConfig(every=0),
        ),
    )  # fmt: skip
