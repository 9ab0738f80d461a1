"""FlexAttention over the row shapes of a run: how often it compiles, how long that takes, does it ever fall back?

Shapes are groups x tokens as micro-batches have them in their row: no two steps have the same. A graph is what
torch.compile makes anew. Past its limit the kit stops with an error; where torch has another reason to run code that
holds all scores, which is slow and large, it says so in a warning.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.flops import Lengths
from benchmarks.gpu_sections import kit
from benchmarks.gpu_sections.compilation import watch_compilation
from benchmarks.gpu_sections.device import read_peak, seconds_of, start_peak
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.trial import measured, require_seconds
from benchmarks.groups import draw_group
from benchmarks.models import QWEN2_5_VL_3B
from gpg_vl.models.adapter import Adapter
from gpg_vl.records import TrainingGroup

SHAPES = ((3, 2640), (3, 2592), (2, 2640), (1, 2640), (3, 2211), (4, 2044), (3, 2300), (5, 1630), (1, 5400), (2, 3333),
          (3, 2471), (4, 2048))  # fmt: skip
"""Groups and tokens of the longest: a full micro-batch, its like of other steps, its last rows, long and short ones."""
TINY_SHAPES = ((3, 110), (3, 108), (2, 90), (3, 100), (4, 85))


@dataclass(frozen=True, kw_only=True)
class FlexRow(Row):
    rows: int = 0  # groups, one behind the other
    tokens: int = 0  # of the longest
    graphs: int | None = None  # compiled for this shape
    first_s: float | None = None  # compilation included
    again_s: float | None = None
    peak_mib: float | None = None
    fallback: str = ""  # the warning
    note: str = ""


def run(setting: Setting) -> Iterator[FlexRow]:
    """One layer of the 3B model: each layer calls the same compiled code."""
    kit.trace_only(setting.device)
    shape = replace(kit.sized(QWEN2_5_VL_3B, is_tiny=setting.is_tiny), layers=1)
    adapter = kit.build(shape, setting.device, attention="flex_attention")
    adapter.model.train()
    if not setting.is_tiny:  # cold, as a run finds it: other sections have compiled already
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="inductor-")
    for number, (rows, tokens) in enumerate(TINY_SHAPES if setting.is_tiny else SHAPES):
        work = partial(measure, setting, adapter, rows, tokens)
        yield measured(FlexRow, work, name=f"shape {number + 1}", rows=rows, tokens=tokens)


def measure(setting: Setting, adapter: Adapter, rows: int, tokens: int) -> dict[str, Any]:
    """Forward and backward, twice; on a CPU the forward alone."""
    require_seconds(setting, 2.0)
    batch = kit.pack(adapter, draw_rows(adapter, rows, tokens))
    assert len(batch.input_ids) == 1 and (rows - 1) * tokens < batch.input_ids.numel() <= rows * tokens
    is_cpu = setting.device == "cpu"

    def work() -> Tensor:
        return kit.no_grad_pass(adapter, batch) if is_cpu else kit.packed_pass(adapter, batch, rows)

    start_peak(setting.device)
    with watch_compilation() as compiled:
        first, again = (seconds_of(work, setting.device) for _ in range(2))
    return {
        "graphs": compiled.graphs,
        "first_s": first,
        "again_s": again,
        "peak_mib": read_peak(setting.device).allocated,
        "fallback": compiled.fallback,
        "note": "on a CPU no backward pass, no machine code" if is_cpu else "",
    }


def draw_rows(adapter: Adapter, rows: int, tokens: int) -> list[TrainingGroup]:
    """Groups of four completions, the first as long as asked for, the others a little shorter."""
    prompt = Lengths(4, 24, 0, 0)
    groups = []
    for number in range(rows):
        inputs = tokens - prompt.prompt_tokens - 3 * number
        counts = [inputs // 4 + 1] * 3 + [inputs - 3 * (inputs // 4) + 1]  # the last token of each is not an input
        groups.append(draw_group(adapter, prompt, number, counts))
    return groups
