"""Finds the rows that a run can use: each is opened and rendered once before the first step, as the model will read it.

If a row's image cannot be opened or its prompt is too long, the recipe says whether to end the run or leave it out
(``data.on_bad_image``, ``data.on_long_prompt``). Nothing is truncated. The ranks share the work and the results.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Literal

from accelerate import PartialState

from gpg_vl.config import Recipe
from gpg_vl.data.images import BadImage
from gpg_vl.data.sources import Source
from gpg_vl.errors import ModelMistake
from gpg_vl.files import replace_file
from gpg_vl.objectives import find_objective
from gpg_vl.preflight.gold_marks import GoldMarks
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import RankError, run_together
from gpg_vl.prompts.builder import PromptBuilder, PromptLayout
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.prompts.length import LongPrompt, Room
from gpg_vl.records import Sample
from gpg_vl.rollout.limits import RowLimits
from gpg_vl.screen import say

Cause = Literal["bad_image", "long_prompt"]
"""Why a row is left out."""

LEFT_OUT_FILE = "rows_left_out.txt"
_AHEAD = 64  # number of rows opened ahead of time
_VIDEOS_AT_ONCE = 4  # of which each is held whole, as a file, while it is read
_LISTED = 20  # maximum number of left-out rows that are printed


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that the run leaves out."""

    id: str
    cause: Cause
    text: str  # file, row and reason


@dataclass(frozen=True, slots=True)
class SourceReport:
    """Result of checking the rows of a source."""

    name: str
    num_rows: int
    left_out: tuple[LeftOut, ...]  # in row order
    num_shrunk: int  # rows whose images are scaled down

    def line(self) -> str:
        causes = Counter(row.cause for row in self.left_out)
        used = self.num_rows - len(self.left_out)
        return (
            f"{self.name[-22:]:<22} {self.num_rows:>8,} {used:>8,} {causes['bad_image']:>10,} "
            f"{causes['long_prompt']:>12,} {self.num_shrunk:>12,}"
        )


def check_rows(
    sources: Sequence[Source],
    prompts: PromptBuilder,
    room: Room,
    leave_out: Collection[Cause] = (),
    gold: GoldCompletions | None = None,
    marks: GoldMarks | None = None,
    is_sampled: bool = False,
    limits: RowLimits | None = None,
) -> list[SourceReport]:
    """Opens and renders every row. Each rank does its share, and all get the same result.

    Args:
        leave_out: causes for which a row is left out; any other problem ends the run
        gold: writes the gold completions, if something learns from those
        marks: refuses gold answers that cannot earn full marks; None: they are not scored
        is_sampled: whether completions are sampled too, and need their room, where there is ``gold``
        limits: of what samples completions; None: there are none

    Raises:
        ValueError: names the file, the row and what is wrong with it
    """
    check = _Check(prompts, room, leave_out, gold, marks, is_sampled, limits)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding an image releases the GIL
        return [_check_source(pool, source, check) for source in sources]


@dataclass(frozen=True, slots=True)
class _Check:
    """The check that every row goes through."""

    prompts: PromptBuilder
    room: Room
    leave_out: Collection[Cause]
    gold: GoldCompletions | None
    marks: GoldMarks | None
    is_sampled: bool
    limits: RowLimits | None

    def accept(self, sample: Sample, layout: PromptLayout) -> None:
        if self.marks is not None:
            self.marks.check(sample, layout.views)
        gold = None if self.gold is None else self.gold.write(sample, layout.text, layout.views)
        gold_tokens = None if gold is None or self.is_sampled else len(gold.token_ids)
        self.room.check(layout.num_tokens, gold_tokens)
        if self.limits is not None and gold_tokens is None:
            self.limits.check(sample.id, layout.views)


def _check_source(pool: ThreadPoolExecutor, source: Source, check: _Check) -> SourceReport:
    ranks = PartialState()
    share = range(ranks.process_index, len(source.samples), ranks.num_processes)
    found, num_shrunk = run_together(partial(_check_share, pool, source, share, check))
    left_out = sorted(gather_object(list(found.items())))
    return SourceReport(
        source.name, len(source.samples), tuple(row for _, row in left_out), sum(gather_object([num_shrunk]))
    )


def _check_share(
    pool: ThreadPoolExecutor, source: Source, share: range, check: _Check
) -> tuple[dict[int, LeftOut], int]:
    """The share's left-out rows by position, and the number of rows whose images are scaled down."""
    left_out: dict[int, LeftOut] = {}
    num_shrunk = 0
    samples = (source.samples[position] for position in share)
    for done, (sample, layout) in enumerate(_in_order(pool, few_videos_at_once(check.prompts.measure), samples)):
        position = share[done]
        try:
            found = layout()
            check.accept(sample, found)
            num_shrunk += found.is_shrunk
        except ModelMistake:
            raise
        except ValueError as error:
            text = f"{source.name}, row {position + 1}: {error}"
            cause = _cause(error)
            if cause is None or cause not in check.leave_out:
                raise ValueError(text + _hint(error)) from error
            left_out[position] = LeftOut(sample.id, cause, text)
        if (done + 1) % 5000 == 0 and share.start == 0:
            say(f"{source.name}: checked {position + 1}/{len(source.samples)} rows")
    return left_out, num_shrunk


def _cause(error: ValueError) -> Cause | None:
    if isinstance(error, BadImage):
        return "bad_image"
    return "long_prompt" if isinstance(error, LongPrompt) else None


def _hint(error: ValueError) -> str:
    return "; replace it, or set data.on_bad_image to skip" if isinstance(error, BadImage) else ""


def few_videos_at_once(measure: Callable[[Sample], PromptLayout]) -> Callable[[Sample], PromptLayout]:
    """``measure`` for threads, of which a few at a time have a row with videos."""
    turns = BoundedSemaphore(_VIDEOS_AT_ONCE)

    def measure_in_turn(sample: Sample) -> PromptLayout:
        with turns if sample.videos else nullcontext():
            return measure(sample)

    return measure_in_turn


def _in_order(
    pool: ThreadPoolExecutor, measure: Callable[[Sample], PromptLayout], samples: Iterable[Sample]
) -> Iterator[tuple[Sample, Callable[[], PromptLayout]]]:
    """Each sample with a function that waits for its layout. Layouts are computed a bounded number of rows ahead."""
    pending: deque[tuple[Sample, Callable[[], PromptLayout]]] = deque()
    for sample in samples:
        pending.append((sample, pool.submit(measure, sample).result))
        if len(pending) > _AHEAD:
            yield pending.popleft()
    yield from pending


def show_rows(reports: Sequence[SourceReport], output_dir: Path) -> None:
    """Prints a line per source and the first left-out rows to standard error; writes all left-out rows to a file."""
    left_out = [row.text for report in reports for row in report.left_out]
    if left_out:
        replace_file(output_dir / LEFT_OUT_FILE, "".join(f"{text}\n" for text in left_out))
    lines = [
        f"{'rows':<22} {'all':>8} {'used':>8} {'bad image':>10} {'long prompt':>12} {'scaled down':>12}",
        *(report.line() for report in reports),
        *list_rows(left_out, LEFT_OUT_FILE),
    ]
    say("\n".join(lines))


def list_rows(texts: Sequence[str], rest: str) -> list[str]:
    """The first rows, one line each; ``rest`` is the file that lists all of them."""
    more = [f"  and {len(texts) - _LISTED} more, all in {rest}"] if len(texts) > _LISTED else []
    return [f"  {text}" for text in texts[:_LISTED]] + more


def check_all_rows(
    recipe: Recipe,
    checked: Sequence[CheckedSources],
    train: tuple[PromptBuilder, Room],
    validate: tuple[PromptBuilder, Room],
    gold: GoldCompletions | None,
    limits: RowLimits | None,
) -> list[SourceReport]:
    """Checks every row against the model; returns the reports on the training sources.

    Args:
        gold: writes the gold completions, if the objective or its discriminator learns from them
        limits: of what samples completions, beside those of the rooms

    With ``data.on_bad_image: skip``, a training row without a readable image is left out; a validation row counts as
    wrong.

    Raises:
        ValueError: a row cannot be used, or none can; names it and the way out
    """
    skipped: set[Cause] = {"bad_image"} if recipe.data.on_bad_image == "skip" else set()
    dropped: set[Cause] = {"long_prompt"} if recipe.data.on_long_prompt == "drop" else set()
    marks = GoldMarks(checked[0].tasks, recipe.prompt.answer_in, with_reasoning=gold is not None)
    strict = marks if recipe.rewards.scorer == "strict" else None
    is_sampled = not find_objective(recipe.objective.name).imitates_gold
    reports = check_rows(checked[0].sources, *train, skipped | dropped, gold, strict, is_sampled, limits)
    left_out = [row for report in reports for row in report.left_out]
    if len(left_out) == sum(report.num_rows for report in reports):
        raise RankError(f"no row of data.train can be used; the first: {left_out[0].text}")
    for each in checked[1:]:
        check_rows(each.sources, *validate, skipped, limits=limits)
    return reports
