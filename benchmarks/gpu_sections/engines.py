"""The engine ``vllm`` beside ``hf``: seconds of a draw and of new weights, and how far log-probs are from the policy's.

It runs where vllm is installed. As a server, vLLM is a process of its own on the same card; colocated, it is in this
process and sleeps between draws, so what is held then is what the update could not have. Prompts, images, weights and
checks are those of a run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.device import MIB, seconds_of
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.rollout import Load, loads
from benchmarks.gpu_sections.trial import NotHere, free_memory, measured, require_seconds
from benchmarks.groups import draw_prompt
from benchmarks.models import QWEN2_VL_2B
from gpg_vl.config import RolloutConfig, VllmConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import Prompt, RolloutGroup
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.served.vllm_backend import NO_DEVICE

PYTHON = sys.executable
"""Of the server's environment."""
GPU_SHARE = 0.4
"""Of the card, for vLLM; the policy and its draws by ``hf`` have the rest."""
START_SECONDS = 120.0
"""That vLLM takes to start on a GPU, with its compilation and CUDA graphs, as a run has it."""


@dataclass(frozen=True, kw_only=True)
class EnginesRow(Row):
    model: str = ""
    engine: str = ""  # hf, vllm server, vllm colocate
    rows: int = 0
    tokens: int | None = None  # of all rows
    start_s: float | None = None  # until the engine can be asked
    sync_s: float | None = None  # that new weights take
    draw_s: float | None = None  # the second one
    tokens_per_s: float | None = None  # of it, prefill included
    mean_gap: float | None = None  # of the log-probs from those of plain rows, in nats, over one group
    largest_gap: float | None = None
    asleep_mib: float | None = None  # held on the card between two draws, beyond the policy


def run(setting: Setting) -> Iterator[EnginesRow]:
    shape = kit.sized(QWEN2_VL_2B, is_tiny=setting.is_tiny)
    dtype = kit.COMPUTE_DTYPE if setting.device == "cuda" else "float32"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        adapter = kit.build(shape, setting.device, dtype)
        adapter.save(folder)
        adapter.config = replace(adapter.config, path=str(folder))
        load = loads(is_tiny=setting.is_tiny)[0]
        draw = Draw(
            setting,
            adapter,
            load,
            [draw_prompt(adapter, load.lengths, n, keep_pictures=True) for n in range(load.prompts)],
        )
        for engine, work in (("hf", draw_hf), ("vllm server", draw_server), ("vllm colocate", draw_colocate)):
            identity = {"name": engine, "model": shape.name, "engine": engine, "rows": load.rows}
            yield measured(EnginesRow, partial(work, draw, Path(place)), **identity)
            free_memory()


@dataclass(frozen=True)
class Draw:
    """What every engine is asked for."""

    setting: Setting
    adapter: Adapter
    load: Load
    prompts: Sequence[Prompt]

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.load.lengths.completion_tokens, 1.0)

    @property
    def context(self) -> int:
        return self.load.lengths.prompt_tokens + self.load.lengths.completion_tokens

    def measure(self, build: Any) -> dict[str, Any]:
        """Builds an engine, draws, changes all weights a little, and draws again."""
        held = held_mib(self.setting.device)
        started = time.perf_counter()
        engine: RolloutEngine = build()
        start_s = time.perf_counter() - started
        self.once(engine)
        asleep = held_mib(self.setting.device) - held
        with torch.no_grad():
            for _, parameter in self.adapter.trainable_parameters():
                parameter.mul_(1.01)
            self.adapter.follow_masters()
        sync_s, draw_s, groups = self.once(engine)
        tokens = sum(len(each.token_ids) for group in groups for each in group.completions)
        values = {"start_s": start_s, "sync_s": sync_s, "draw_s": draw_s, "asleep_mib": asleep}
        return {**values, "tokens": tokens, "tokens_per_s": tokens / draw_s, **self.gaps(groups[0])}

    def once(self, engine: RolloutEngine) -> tuple[float, float, list[RolloutGroup]]:
        """Seconds of the weights and of the completions, and these."""
        seeds = [("benchmark", n) for n in range(len(self.prompts))]
        groups: list[RolloutGroup] = []
        started = time.perf_counter()
        with engine.sync_weights():
            sync_s = time.perf_counter() - started
            ask = partial(engine.generate, self.prompts, self.load.lengths.group_size, self.sampling, seeds)
            draw_s = seconds_of(lambda: groups.extend(ask(keep_log_probs=True)), self.setting.device)
        return sync_s, draw_s, groups

    @torch.no_grad()
    def gaps(self, group: RolloutGroup) -> dict[str, float]:
        plain = [plain_log_probs(self.adapter, group.prompt.encoded, each, 1.0).cpu() for each in group.completions]
        given = [torch.tensor(each.log_probs) for each in group.completions]
        gaps = (torch.cat(plain) - torch.cat(given)).abs()
        return {"mean_gap": float(gaps.mean()), "largest_gap": float(gaps.max())}


def held_mib(device: str) -> float:
    """Memory of the card that is taken, by whomever."""
    if device != "cuda":
        return 0.0
    free_memory()
    free, total = torch.cuda.mem_get_info()
    return (total - free) / MIB


def draw_hf(draw: Draw, place: Path) -> dict[str, Any]:
    return draw.measure(lambda: build_engine(RolloutConfig(), draw.adapter))


def draw_server(draw: Draw, place: Path) -> dict[str, Any]:
    require_seconds(draw.setting, START_SECONDS)
    with ExitStack() as stack:

        def build() -> RolloutEngine:
            url = stack.enter_context(serving(draw, place))
            keys = VllmConfig(servers=[url], weights=str(place / "weights"))
            return build_engine(RolloutConfig(engine="vllm", vllm=keys), draw.adapter)

        return draw.measure(build)


@contextmanager
def serving(draw: Draw, place: Path) -> Iterator[str]:
    """The address of a server of ``gpg-vl serve-rollouts`` on the same card."""
    words = [PYTHON, "-m", "gpg_vl", "serve-rollouts", draw.adapter.config.path, "--port", "0"]
    words += [] if draw.setting.device == "cuda" else ["--eager"]  # to compile for a CPU takes minutes
    words += ["--dtype", draw.adapter.config.dtype, "--weights", str(place / "weights")]
    words += ["--max-model-len", str(draw.context), "--gpu-memory", str(GPU_SHARE)]
    log = place / "server.txt"
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ})
    try:
        while not (found := re.search(r"serving rollouts at (\S+),", log.read_text())):
            if process.poll() is not None:
                said = log.read_text()
                raise NotHere(NO_DEVICE) if NO_DEVICE in said else RuntimeError(f"the server has ended: {said[-2000:]}")
            require_seconds(draw.setting, 1.0)
            time.sleep(0.2)
        yield found[1]
    finally:
        process.kill()
        process.wait(60)


def draw_colocate(draw: Draw, place: Path) -> dict[str, Any]:
    if draw.setting.device != "cuda":
        raise NotHere("vLLM sleeps on a GPU alone")
    require_seconds(draw.setting, START_SECONDS)
    keys = VllmConfig(mode="colocate", gpu_memory=GPU_SHARE, max_model_len=draw.context)
    return draw.measure(lambda: build_engine(RolloutConfig(engine="vllm", vllm=keys), draw.adapter))
