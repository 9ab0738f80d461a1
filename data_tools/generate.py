"""Draws scenes with questions and answers that are known by construction and depend only on the seed.

    python -m data_tools.generate --task counting --num 500 --seed 1 --out data/demo/test.parquet
    python -m data_tools.generate --task counting --num 5000 --seed 2 --out data/demo/train.parquet \\
        --exclude data/demo/test.parquet
    python -m data_tools.generate --task choice --level 3 --num 5000 --seed 3 --out data/relations.parquet
    python -m data_tools.generate --task counting-video --num 500 --seed 4 --out data/passing.jsonl

Without ``--level`` the scenes are the demo's small ones, which a tiny model learns in minutes. Levels 1 to 5 are richer
and increasingly hard: counting by attributes, labelled figures, referring expressions, relations.

No picture occurs twice in a file or also in an excluded file: pictures are compared pixel by pixel.
``--format published`` writes the columns of the published data sets (image, problem, solution) instead of kit rows.
Rows are written as they are drawn; only a 16-byte hash of each picture stays in memory.
"""

from __future__ import annotations

import hashlib
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow.parquet
from PIL import Image

from data_tools.command_line import refuse_inputs, run_command
from data_tools.levels import LEVELLED_DRAWERS, LEVELS, MAX_OBJECTS, MIN_OBJECTS, Knobs
from data_tools.scenes import DRAWERS, Scene
from data_tools.video_scenes import VIDEO_TASK, hash_video, stream_videos
from gpg_vl.data.images import open_image
from gpg_vl.data.sources import load_source, write_jsonl, write_parquet
from gpg_vl.data.videos import read_video_file
from gpg_vl.data.writing import ROWS_PER_GROUP, replace_when_done
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.records import Sample
from gpg_vl.screen import tell

PUBLISHED_COLUMNS = {"images": "image", "question": "problem", "answer": "solution"}
"""Kit field -> column of the published data sets, as in ``columns`` of a recipe's ``data.train`` entry."""

MIN_SIZE = 56  # pixels; in smaller pictures the grid of the geometry scene disappears
MIN_LEVEL_SIZE = 112  # in smaller pictures labels are unreadable
MAX_SIZE = 1024
DEMO_SIZE = 84
LEVEL_SIZE = 224
_MAX_REPEATS = 2000  # rejected pictures in a row before a scene counts as exhausted


def draw_samples(
    task: str,
    num: int,
    seed: int,
    size: int | None = None,
    exclude: Collection[bytes] = frozenset(),
    knobs: Knobs | None = None,
) -> list[Sample]:
    """``num`` kit rows with different pictures, as PNG bytes; see ``stream_samples``."""
    return list(stream_samples(task, num, seed, size, exclude, knobs))


def stream_samples(
    task: str,
    num: int,
    seed: int,
    size: int | None = None,
    exclude: Collection[bytes] = frozenset(),
    knobs: Knobs | None = None,
) -> Iterator[Sample]:
    """``num`` kit rows one by one, with different pictures, as PNG bytes of ``size`` x ``size`` pixels.

    Args:
        task: one of ``scenes.DRAWERS``, or with ``knobs`` one of ``levels.LEVELLED_DRAWERS``
        seed: the same seed gives the same rows; a larger ``num`` only adds rows at the end
        size: None: 84 for the demo's scenes and 224 for the levels
        exclude: ``hash_pixels`` of pictures that must not be drawn
        knobs: level and number of objects; None: the demo's scenes

    Raises:
        ValueError: an argument is invalid, or there are too few different pictures
    """
    size = size or (DEMO_SIZE if knobs is None else LEVEL_SIZE)
    _check(task, num, size, knobs)
    rng = Random(f"{task} {seed}" if knobs is None else f"{task} {seed} level {knobs}")
    name = f"{task}-{seed}" if knobs is None else f"{task}-level{knobs.level}-{seed}"
    seen = set(exclude)
    repeats = number = 0
    while number < num:
        scene = DRAWERS[task](rng, size) if knobs is None else LEVELLED_DRAWERS[task](rng, size, knobs)
        digest = hash_pixels(scene.image)
        repeats = repeats + 1 if digest in seen else 0
        if repeats > _MAX_REPEATS:
            raise ValueError(_explain_exhaustion(task, num, number, len(exclude)))
        if not repeats:
            seen.add(digest)
            yield _make_sample(f"{name}-{number}", task, scene, knobs)
            number += 1


def _check(task: str, num: int, size: int, knobs: Knobs | None) -> None:
    tasks = list(DRAWERS if knobs is None else LEVELLED_DRAWERS)
    if task not in tasks:
        more = "; give it a --level from 1 to 5" if task in LEVELLED_DRAWERS else ""
        raise ValueError(f"there are no demo scenes for task {task!r}, only for {tasks}{more}")
    if num < 1:
        raise ValueError(f"--num is {num}; draw at least one row")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"--size is {size}; a picture needs {MIN_SIZE} to {MAX_SIZE} pixels a side")
    if knobs is None:
        return
    if size < MIN_LEVEL_SIZE:
        raise ValueError(f"--size is {size}; a picture of a level needs at least {MIN_LEVEL_SIZE} pixels a side")
    if knobs.objects is not None and not MIN_OBJECTS <= knobs.objects[0] <= knobs.objects[1] <= MAX_OBJECTS:
        least, most = knobs.objects
        raise ValueError(
            f"--objects is {least} {most}; give two numbers from {MIN_OBJECTS} to {MAX_OBJECTS}, the smaller one first"
        )


def hash_pixels(image: Image.Image) -> bytes:
    """A hash that is equal for two images if and only if their sizes and RGB pixels are equal."""
    rgb = image.convert("RGB")
    content = f"{rgb.width} {rgb.height} ".encode() + rgb.tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()  # short, since a run keeps one per picture


def read_hashes(path: str | Path) -> set[bytes]:
    """``hash_pixels`` of every image of a file that this module wrote, in either format; ``hash_video`` of its videos.

    Raises:
        ValueError: the file or one of its images cannot be read
    """
    columns = {"columns": PUBLISHED_COLUMNS} if _is_published(path) else {}
    source = load_source({"path": str(path), **columns}, task="any")
    videos = {hash_video(read_video_file(each)) for s in source.samples for each in s.videos if isinstance(each, str)}
    return videos | {hash_pixels(open_image(image)) for sample in source.samples for image in sample.images}


def _is_published(path: str | Path) -> bool:
    try:
        return "problem" in pyarrow.parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException):
        return False  # not Parquet; load_source raises the error if it cannot read it either


def write_published(samples: Iterable[Sample], path: str | Path) -> None:
    """Writes Parquet with the columns image, problem and solution; the solution is ``<answer> 4 </answer>``."""
    columns = {"image": datasets.Image(), "problem": datasets.Value("string"), "solution": datasets.Value("string")}
    schema = datasets.Features(columns).arrow_schema
    remaining = iter(samples)
    with replace_when_done(path) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        while rows := [_publish(sample) for sample in islice(remaining, ROWS_PER_GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _publish(sample: Sample) -> dict[str, Any]:
    return {
        "image": {"bytes": sample.images[0], "path": None},
        "problem": sample.question,
        "solution": f"<answer> {sample.answer} </answer>",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    datasets.disable_progress_bars()
    return run_command(lambda: _run(_parse(argv)))


def _run(options: Namespace) -> int:
    write = _choose_writer(options.format if options.task != VIDEO_TASK else "video", options.out)
    refuse_inputs(options, Path(options.out))
    exclude = {digest for path in options.exclude for digest in read_hashes(path)}
    write(_choose_samples(options, exclude), options.out)
    tell(f"{options.out}: {options.num} rows of {options.task}")
    return 0


def _choose_samples(options: Namespace, exclude: Collection[bytes]) -> Iterator[Sample]:
    knobs, size = _read_knobs(options), options.size
    if options.task != VIDEO_TASK:
        return stream_samples(options.task, options.num, options.seed, size, exclude, knobs)
    if knobs is not None or options.format != "kit":
        raise ValueError(f"--task {VIDEO_TASK} has no --level and no --format published; leave it out")
    _check("counting", options.num, size or DEMO_SIZE, None)
    return stream_videos(options.num, options.seed, size or DEMO_SIZE, exclude)


def _read_knobs(options: Namespace) -> Knobs | None:
    if options.level is not None:
        return Knobs(options.level, None if options.objects is None else tuple(options.objects))
    if options.objects is not None:
        raise ValueError("--objects needs a --level from 1 to 5")
    return None


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = OneLineParser(prog="python -m data_tools.generate", description="Draws scenes with questions and answers.")
    parser.add_argument("--task", required=True, choices=[*LEVELLED_DRAWERS, VIDEO_TASK])
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl; an existing file is replaced"
    )
    parser.add_argument("--num", required=True, type=int, help="number of rows")
    parser.add_argument("--seed", required=True, type=int, help="the same seed draws the same rows")
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="FILE", help="do not draw pictures that occur in these files"
    )
    parser.add_argument("--format", default="kit", choices=["kit", "published"], help="columns of the rows")
    parser.add_argument("--level", type=int, choices=LEVELS, help="difficulty; without it, the demo's small scenes")
    parser.add_argument(
        "--objects",
        nargs=2,
        type=int,
        metavar=("LEAST", "MOST"),
        help="number of objects in a picture, overriding the level's",
    )
    parser.add_argument("--size", type=int, help="side of a picture in pixels (84 for the demo, 224 for a level)")
    return parser.parse_args(argv)


def _choose_writer(kind: str, path: str) -> Callable[[Iterable[Sample], str], None]:
    writers = {
        "kit": {".parquet": write_parquet, ".jsonl": write_jsonl},
        "published": {".parquet": write_published},
        "video": {".jsonl": write_jsonl},
    }[kind]
    if Path(path).suffix not in writers:
        raise ValueError(f"--out {path}: the name of a file of {kind} rows must end in {' or '.join(writers)}")
    return writers[Path(path).suffix]


def _make_sample(sample_id: str, task: str, scene: Scene, knobs: Knobs | None) -> Sample:
    file = BytesIO()
    scene.image.save(file, "PNG")
    meta: dict[str, Any] = {} if scene.reasoning is None else {"reasoning": scene.reasoning}
    if knobs is not None:
        meta["level"] = knobs.level
    if scene.options:
        meta["options"] = list(scene.options)
    return Sample(sample_id, task, (file.getvalue(),), scene.question, scene.answer, meta)


def _explain_exhaustion(task: str, num: int, num_drawn: int, num_excluded: int) -> str:
    return (
        f"only {num_drawn} of {num} different {task} pictures could be drawn besides {num_excluded} excluded ones; "
        "lower --num or exclude fewer"
    )


if __name__ == "__main__":
    sys.exit(main())
