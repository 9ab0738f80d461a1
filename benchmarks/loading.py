"""Host memory and time of a run's rows: opened, checked before the first step, and drawn as prompts for an epoch.

    python -m benchmarks.loading --num-rows 100000

Rows are small pictures in three Parquet files, mixed by weight. Anonymous memory is what the process holds; the system
can reclaim the pages of mapped files.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy
from PIL import Image

from gpg_vl.config import DataConfig, ModelConfig, PromptConfig, Recipe
from gpg_vl.data.sources import write_parquet
from gpg_vl.data.stream import SampleStream
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.preflight.rows import check_rows
from gpg_vl.preflight.sources import load_sources
from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.length import training_room
from gpg_vl.records import Sample

SHARES = {"first": (0.5, 3.0), "second": (0.3, 2.0), "third": (0.2, 1.0)}  # share of the rows, and weight
_AT_ONCE = 16  # prompts per step


def memory_mb() -> tuple[int, int]:
    """Anonymous and file-backed memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return values["RssAnon"] // 1024, values["RssFile"] // 1024


def make_rows(name: str, num: int) -> Iterator[Sample]:
    noise = numpy.random.default_rng(0).integers(0, 255, (256, 64, 3), dtype=numpy.uint8)
    for number in range(num):
        file = BytesIO()
        Image.fromarray(numpy.roll(noise, number, axis=0)[:64]).save(file, "JPEG")
        yield Sample(f"{name}-{number}", "counting", (file.getvalue(),), "How many shapes?", str(number % 9))


def measure(folder: Path, num_rows: int) -> list[int]:
    """Prints what each stage takes.

    Returns:
        anonymous memory in MiB after each 5 % of the epoch
    """
    start = time.perf_counter()

    def show(what: str) -> int:
        nonlocal start
        anonymous, mapped = memory_mb()
        print(f"{what:<28} {time.perf_counter() - start:>8.1f} s {anonymous:>6} MiB {mapped:>6} MiB mapped", flush=True)
        start = time.perf_counter()
        return anonymous

    for name, (share, _) in SHARES.items():
        write_parquet(make_rows(name, int(share * num_rows)), folder / f"{name}.parquet")
    show(f"{num_rows} rows written")
    model = ModelConfig(path=str(write_tiny_model(folder / "model")), min_pixels=784, max_pixels=50176)
    train: list[str | dict[str, object]] = [
        {"path": str(folder / f"{name}.parquet"), "weight": weight} for name, (_, weight) in SHARES.items()
    ]
    recipe = Recipe(model=model, data=DataConfig(train=train), prompt=PromptConfig(template="{question}"))
    adapter = load_adapter(model)
    show("model loaded")
    checked = load_sources(train, recipe, "data.train")
    show("rows read once")
    prompts = PromptBuilder(adapter, checked.tasks, recipe.prompt)
    check_rows(checked.sources, prompts, training_room(recipe, adapter))
    show("images and prompts checked")
    stream = SampleStream(checked.sources, seed=0)
    held = []
    for part in range(20):
        for _ in range(num_rows // 20 // _AT_ONCE):
            step = [prompts.build(sample) for sample in stream.draw(_AT_ONCE)]
            assert len(step) == _AT_ONCE
        held.append(show(f"{5 * (part + 1)} % of an epoch drawn"))
    return held


def main(argv: Sequence[str] | None = None) -> int:
    parser = ScriptParser(prog="python -m benchmarks.loading", description=str(__doc__).splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=100_000)
    with tempfile.TemporaryDirectory() as folder:
        held = measure(Path(folder), parser.parse_args(argv).num_rows)
    print(f"grown by {held[-1] - held[0]} MiB between 5 and 100 % of the epoch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
