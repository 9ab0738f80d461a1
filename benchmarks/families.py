"""The packed update of a tiny model of a family, against its own forward on one row for each completion.

    python -m benchmarks.families [--family qwen3_5 ...] [--rounds 5]

A prompt of 404 tokens, 300 of them an image, and 8 completions of 64: forward and backward, the sides in turn, seconds
of CPU time. The plain side is the model's own forward with its own masks and positions, and the head on the tokens of
the completion alone. The log-probs are compared first.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks import timing
from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Completion, Prompt, Sample, TrainingGroup
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import packed_log_probs

BOUNDS = {"qwen3_5": 2.5, "qwen3_vl": 3.0}
"""How many times faster the packed side has to be."""
PROMPT_TOKENS, GROUP_SIZE, COMPLETION_TOKENS = 404, 8, 64
PICTURE = (640, 480)  # 300 tokens of 32 x 32 pixels
TOLERANCE = 1e-4
Side = Callable[[], Tensor]


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=list(BOUNDS), choices=list(BOUNDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = [measure(family, options.rounds) for family in options.family]
    path = timing.write_results("families", rows, options.out)
    timing.print_table("Families, tiny models", rows, ("name", "ratio_vs_plain", "bound", "packed", "plain"))
    print(path)
    slow = [row["name"] for row in rows if row["ratio_vs_plain"] < row["bound"]]
    if slow:
        raise SystemExit(f"less faster than the bound: {', '.join(slow)}")


def measure(family: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        adapter = load_adapter(
            ModelConfig(path=str(write_tiny_model(folder, family)), dtype="float32", max_pixels=10**6)
        )
    group = draw_group(adapter)
    sides = build_sides(adapter, group)
    with torch.no_grad():
        difference = float((sides["packed"]() - sides["plain"]()).abs().max())
    assert difference < TOLERANCE, difference
    seconds = time_gradients(adapter, group, sides, rounds)
    return {
        "name": family,
        "bound": BOUNDS[family],
        "ratio_vs_plain": timing.ratio(seconds, "plain", "packed"),
        "difference": difference,
        **{side: timing.describe(values) for side, values in seconds.items()},
    }


def draw_group(adapter: Adapter) -> TrainingGroup:
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(16, 300, (GROUP_SIZE, COMPLETION_TOKENS), generator=draws).tolist()
    completions = tuple(Completion(tuple(tokens), "", finished=False) for tokens in ids)
    coefficients = torch.randn(GROUP_SIZE, COMPLETION_TOKENS, generator=draws).tolist()
    return TrainingGroup(draw_prompt(adapter), completions, tuple(map(tuple, coefficients)))


def draw_prompt(adapter: Adapter) -> Prompt:
    buffer = io.BytesIO()
    Image.effect_noise(PICTURE, 50).convert("RGB").save(buffer, "PNG")
    build = PromptBuilder(adapter, {}, PromptConfig(template="{question}")).build

    def asked(question: str) -> Prompt:
        return build(Sample("bench", "none", (buffer.getvalue(),), question, "4"))

    missing = PROMPT_TOKENS - len(asked("?").encoded.token_ids)
    prompt = asked("7" * (missing + 1))  # one token a digit
    assert len(prompt.encoded.token_ids) == PROMPT_TOKENS
    return prompt


def build_sides(adapter: Adapter, group: TrainingGroup) -> dict[str, Side]:
    """Log-probs of all completions, one after the other."""
    [rows] = plan_micro_batches([group], 10**9, 10**9)
    return {
        "packed": lambda: packed_log_probs(adapter, build_micro_batch(rows, adapter), 1.0),
        "plain": lambda: torch.cat(
            [plain_log_probs(adapter, group.prompt.encoded, each, 1.0) for each in group.completions]
        ),
    }


def time_gradients(
    adapter: Adapter, group: TrainingGroup, sides: Mapping[str, Side], rounds: int
) -> dict[str, list[float]]:
    """Seconds of CPU time, after a round that does not count."""
    coefficients = torch.tensor(group.coefficients).flatten()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + rounds):
        for name, log_probs in sides.items():
            adapter.model.zero_grad()
            start = time.process_time()
            (log_probs() * coefficients).sum().backward()
            seconds[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in seconds.items()}


if __name__ == "__main__":
    main()
