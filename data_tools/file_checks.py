"""Files of rows -> a report of what is wrong in them. Rows are checked in worker processes and compared here.

Only ids and fingerprints of all rows are kept in memory; images are in the workers, one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

from data_tools.duplicates import KnownRow, find_duplicates, find_leaks, find_repeated_ids
from data_tools.likeness import Album
from data_tools.row_checks import CheckedRow, DataFile, Finding, check_range, open_file
from gpg_vl.evaluation.progress_line import ProgressLine

if TYPE_CHECKING:
    from data_tools.prompt_reader import Lengths, PromptMeter

ROWS_AT_ONCE = 16
SECONDS_BETWEEN_LINES = 5.0


@dataclass
class Report:
    """The result of a check."""

    num_rows: dict[str, int]  # by file, in the order of the command line
    findings: dict[str, list[Finding]]  # by file
    lengths: Lengths | None  # None if no model was given
    readings: list[str]  # how files are read that are in another shape than the kit's
    marker_rows: dict[str, list[int]]  # by file: rows without images in whose text an image marker stays text

    def bad_rows(self, path: str) -> set[int]:
        return {finding.row for finding in self.findings[path]}

    @property
    def num_bad(self) -> int:
        return sum(len(self.bad_rows(path)) for path in self.findings)


def check_files(
    train: Sequence[DataFile], test: Sequence[DataFile], meter: PromptMeter | None, num_workers: int
) -> Report:
    """Checks every row by itself, then compares all rows with each other.

    Args:
        test: files whose images must not occur in ``train``
        meter: measures whether prompts fit the model's context; None: they are not measured

    Raises:
        ValueError: a file cannot be read at all, or is given twice; names it
    """
    files = [*train, *test]
    report = _start_report(files, None if meter is None else meter.lengths)
    known: dict[str, list[KnownRow]] = {file.path: [] for file in files}
    with Album() as album:
        for file, row in _check_in_workers(files, num_workers):
            finding = row.finding or (None if meter is None else meter.find_fault(file, row))
            if finding is not None:
                report.findings[file.path].append(finding)
            if row.has_marker_text:
                report.marker_rows[file.path].append(row.number)
            question = row.question if finding is None else b""  # a good row is not a duplicate of a bad one
            pictures = tuple(map(album.add, row.pictures))
            known[file.path].append(KnownRow(file.path, row.number, row.id, question, pictures))
        training, held_out = ([row for file in role for row in known[file.path]] for role in (train, test))
        for known_row, finding in _compare(training, held_out, album):
            report.findings[known_row.file].append(finding)
    return report


def _start_report(files: Sequence[DataFile], lengths: Lengths | None) -> Report:
    open_file.cache_clear()  # a file may have changed since an earlier call
    num_rows: dict[str, int] = {}
    for file in files:
        if file.path in num_rows:
            raise ValueError(f"{file.path} is given twice; give each file once")
        num_rows[file.path] = len(open_file(file).samples)
    readings = [reading for file in files if (reading := open_file(file).reading)]
    return Report(num_rows, {path: [] for path in num_rows}, lengths, readings, {path: [] for path in num_rows})


def _compare(
    training: Sequence[KnownRow], held_out: Sequence[KnownRow], album: Album
) -> Iterator[tuple[KnownRow, Finding]]:
    for rows in (training, held_out):
        yield from find_repeated_ids(rows)
        yield from find_duplicates(rows, album)
    yield from find_leaks(training, held_out, album)


_Checking = tuple[DataFile, int, "Future[list[CheckedRow]]"]  # file, number of its first row, result


def _check_in_workers(files: Sequence[DataFile], num_workers: int) -> Iterator[tuple[DataFile, CheckedRow]]:
    """Every row after its check, in order, a bounded number of rows ahead; shows progress."""
    context = get_context("forkserver")
    context.set_forkserver_preload([check_range.__module__])  # imported once, not once per worker
    num_rows, num_done = sum(len(open_file(file).samples) for file in files), 0
    progress = ProgressLine("checked", "rows", num_rows, seconds_between_lines=SECONDS_BETWEEN_LINES)
    with ProcessPoolExecutor(num_workers, context) as pool, progress:
        started = _start_checks(pool, files)
        pending = deque(islice(started, 2 * num_workers))
        while pending:
            file, first, future = pending.popleft()
            try:
                rows = future.result()
            except BrokenProcessPool as error:
                place = f"{file.path}, near row {first}"
                raise ValueError(f"{place}: a worker process died, out of memory or in a task's code") from error
            pending.extend(islice(started, 1))
            for row in rows:
                yield file, row
            num_done += len(rows)
            progress.show(num_done)


def _start_checks(pool: ProcessPoolExecutor, files: Sequence[DataFile]) -> Iterator[_Checking]:
    for file in files:
        num_rows = len(open_file(file).samples)
        for start in range(0, num_rows, ROWS_AT_ONCE):
            yield file, start + 1, pool.submit(check_range, file, start, min(start + ROWS_AT_ONCE, num_rows))
