"""10,000 images of 640 x 480 in under three minutes on two cores, in memory that does not grow with their number."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from PIL import Image

from gpg_vl.data.sources import write_parquet
from gpg_vl.records import Sample
from tests.support.messages import lines_naming

LIMIT_S = 180
NUM_TEXTURES = 40


def photos(num: int, kind: str) -> Iterator[Sample]:
    """Rows with a picture of its own each: textures of colour on every scale, moved, turned over and toned."""
    rng = numpy.random.default_rng(1)
    textures = []
    for _ in range(NUM_TEXTURES):
        texture = numpy.zeros((480, 640, 3))
        for cells in (4, 8, 16, 32, 64, 128):
            noise = Image.fromarray((255 * rng.random((cells * 3 // 4, cells, 3))).astype(numpy.uint8))
            texture += numpy.asarray(noise.resize((640, 480), Image.Resampling.BICUBIC)) / cells**0.7
        textures.append((255 * (texture - texture.min()) / numpy.ptp(texture)).astype(numpy.uint8))
    for number in range(num):
        pixels = numpy.roll(textures[number % NUM_TEXTURES], rng.integers(0, 480, 2), (0, 1))
        if number % 3 == 0:
            pixels = pixels[::-1]
        stream = io.BytesIO()
        Image.fromarray(pixels[..., rng.permutation(3)]).save(stream, kind, quality=90, compress_level=1)
        yield Sample(f"r{number}", "counting", (stream.getvalue(),), f"How many spots in {number}?", "4")


def tree_memory(pid: int) -> int:
    """Bytes of the process and those below it that no file backs: what it takes of the machine's memory."""
    total = 0
    for process in [pid, *children(pid)]:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def children(pid: int) -> list[int]:
    try:
        text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []
    below = [int(word) for word in text.split()]
    return [*below, *(process for child in below for process in children(child))]


def run_check(words: list[str]) -> tuple[float, int, str]:
    """Seconds, the most memory at once, and what was printed."""
    start = time.monotonic()
    command = [sys.executable, "-m", "data_tools.check", *words, "--workers", "2"]
    env = {**os.environ, "MIMALLOC_PURGE_DELAY": "0"}  # freed memory goes back at once: what is left is in use
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most = 0
    while process.poll() is None:
        most = max(most, tree_memory(process.pid))
        time.sleep(0.1)
    seconds = time.monotonic() - start
    assert process.stdout is not None
    printed = process.stdout.read()
    assert process.returncode == 0, printed
    return seconds, most, printed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_ten_thousand_images(tmp_path: Path, model_folders: dict[str, Path], kind: str) -> None:
    memory = {}
    for num in (2_500, 10_000):
        write_parquet(photos(num, kind), tmp_path / "train.parquet")
        words = [str(tmp_path / "train.parquet"), "--model", str(model_folders["qwen2_5_vl"])]
        seconds, memory[num], printed = run_check(words)
        print(f"{kind}: {num} rows in {seconds:.1f} s, {memory[num] >> 20} MB at most; {printed.splitlines()[-1]}")
        assert lines_naming(printed, tmp_path / "train.parquet", f"{num} rows")
    assert seconds < LIMIT_S
    assert memory[10_000] < 1.15 * memory[2_500]
