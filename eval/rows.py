"""The files of rows for a benchmark: found by split, and refused if they belong to another benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.benchmark import Benchmark
from gpg_vl.data.tables import open_table


def name_splits(benchmark: Benchmark) -> str:
    return ", ".join(benchmark.splits)


def check_splits(benchmark: Benchmark, given: Sequence[str] | None) -> list[str]:
    """The requested splits; all if none are named.

    Raises:
        ValueError: the benchmark has no such split
    """
    for split in given or ():
        if split not in benchmark.splits:
            raise ValueError(
                f"--split: {benchmark.name} has no split {split!r}; its splits are {name_splits(benchmark)}"
            )
    return list(dict.fromkeys(given or benchmark.splits))


def find_rows(benchmark: Benchmark, data: Path, wanted: Sequence[str] | None) -> dict[str, Path]:
    """The file of each split; all that exist if none are named.

    Raises:
        ValueError: there is none, or a named one is missing; says how to create it
    """
    if data.is_file():
        splits = list(wanted or benchmark.splits)
        if len(splits) != 1:
            raise ValueError(f"--data: {data} is one file; name its split by --split: {name_splits(benchmark)}")
        return {splits[0]: data}
    found = {
        split: path
        for split in wanted or benchmark.splits
        for name in (f"{split}/test", split)
        for path in (data / f"{name}.jsonl", data / f"{name}.parquet")
        if path.is_file()
    }
    missing = [split for split in wanted or () if split not in found]
    if missing or not found:
        names = " or ".join(f"{split}.parquet" for split in missing or benchmark.splits)
        raise ValueError(
            f"--data: {data} has no {names} (nor .jsonl); create it with python -m data_tools.{benchmark.converter}"
        )
    return found


def check_task(benchmark: Benchmark, rows: Path) -> None:
    """Refuses rows of another task, i.e. of another benchmark.

    Raises:
        ValueError: the first row names another task
    """
    table = open_table(str(rows), 1)
    task = table.column("task")[0] if len(table) and "task" in table.column_names else None
    if task not in (None, benchmark.task):
        raise ValueError(
            f"{rows} has rows of task {task}, but those of {benchmark.name} are of {benchmark.task}; create them with "
            f"python -m data_tools.{benchmark.converter}"
        )
