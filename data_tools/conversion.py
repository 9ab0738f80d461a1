"""Rows of a published source -> a file of kit rows, and a JSON file next to it that counts what was dropped and why.

All converters keep only rows whose images open and whose gold answer scores 1 under its own task. Memory is bounded,
progress is shown, and the file appears once it is complete. The same source gives the same file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

from data_tools.faults import USUAL_FRAMES, Fault, find_fault
from data_tools.sources import SourceRow
from gpg_vl.data.images import BadImage, fetch_image
from gpg_vl.data.schema import SCHEMA_VERSION
from gpg_vl.data.sources import write_jsonl, write_parquet
from gpg_vl.data.videos import BadVideo, FrameSampling, fetch_video
from gpg_vl.data.writing import replace_when_done
from gpg_vl.records import Sample
from gpg_vl.screen import say

SAMPLES_AT_ONCE = 64
EXAMPLES = 3  # examples of each reason in the counts
LISTED = 10_000  # maximum number of dropped rows that are listed
SECONDS_BETWEEN_LINES = 5.0
_WRITERS = {".parquet": write_parquet, ".jsonl": write_jsonl}


class DropRow(Exception):
    """This row cannot become a sample; the text says why, and it is counted under ``reason``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


@dataclass
class Counts:
    """What a conversion did."""

    source: str
    schema_version: int = SCHEMA_VERSION
    rows_read: int = 0
    rows_written: int = 0  # may exceed the rows read if a source row makes several
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    examples: dict[str, list[str]] = field(default_factory=dict)  # the first few of each reason, with their place
    dropped_rows: list[str] = field(default_factory=list)  # place and reason of the first LISTED ones

    def drop(self, place: str, fault: Fault) -> None:
        self.dropped[fault.reason] = self.dropped.get(fault.reason, 0) + 1
        examples = self.examples.setdefault(fault.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{place}: {fault.detail[:200]}")
        if len(self.dropped_rows) < LISTED:
            self.dropped_rows.append(f"{place}: {fault.reason} ({fault.detail[:200]})")

    def total(self) -> str:
        return f"{self.rows_written} rows written from {self.rows_read} read"

    def reasons(self) -> list[str]:
        """One line per reason, with its first row."""
        return [f"  {count} dropped: {name} ({self.examples[name][0]})" for name, count in self.dropped.items()]


MakeSamples = Callable[[SourceRow], Iterable[Sample]]
"""The samples of a source row; raises ``DropRow``, or ``ValueError`` if the row is not in the published format."""


def convert(
    source: str,
    rows: Iterable[SourceRow],
    make_samples: MakeSamples,
    out: str | Path,
    limit: int | None = None,
    image_hosts: Collection[str] = (),
    shrinks_large: bool = False,
    sampling: FrameSampling = USUAL_FRAMES,
) -> Counts:
    """Writes ``out`` and, next to it, ``NAME.counts.json``.

    Args:
        rows: rows of the source, read lazily
        limit: read only the first N rows of the source, including dropped ones; None: all
        image_hosts: hosts that images may be fetched from; each image is fetched once and its bytes are written
        shrinks_large: whether a run opens large images at a part of their size; they are written as they are
        sampling: which frames of a video a run sees; it is written whole

    Raises:
        ValueError: the file name has a wrong ending, the file is the source or inside it, the source breaks off, or no
            row is left; then no file is written
    """
    target = Path(out)
    if target.suffix not in _WRITERS:
        raise ValueError(f"--out {out}: the name must end in {' or '.join(_WRITERS)}")
    if target.resolve() == Path(source).resolve():
        raise ValueError(f"--out {out}: this would replace the source; give another name")
    if target.resolve().is_relative_to(Path(source).resolve()):  # replaced, or read as a part of it the next time
        raise ValueError(f"--out {out}: it is inside the source, {source}; give another folder")
    counts = Counts(source)
    made = _make_all(islice(rows, limit), make_samples, counts)
    good = _keep_good(made, counts, image_hosts, partial(find_fault, shrinks_large=shrinks_large, sampling=sampling))
    _WRITERS[target.suffix](_refuse_nothing(good, counts), target)
    with replace_when_done(target.with_suffix(".counts.json")) as counts_file:
        text = json.dumps(asdict(counts), indent=1, ensure_ascii=False) + "\n"
        counts_file.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may be any bytes
    return counts


FindFault = Callable[[Sample], Fault | None]
_Placed = tuple[str, Sample]  # with the place of its row in the source


def _make_all(rows: Iterable[SourceRow], make_samples: MakeSamples, counts: Counts) -> Iterator[_Placed]:
    start = last = time.monotonic()
    for row in rows:
        counts.rows_read += 1
        try:
            samples = list(make_samples(row))
        except DropRow as error:
            counts.drop(row.place, Fault(error.reason, str(error)))
        except ValueError as error:
            counts.drop(row.place, Fault("a field cannot be read", str(error)))
        else:
            yield from ((row.place, sample) for sample in samples)
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            _show(counts, last - start)


def _show(counts: Counts, seconds: float) -> None:
    rate = f"{counts.rows_read / seconds:.0f} rows/s"
    say(f"{counts.rows_read} rows read, {sum(counts.dropped.values())} dropped, {rate}")


def _keep_good(made: Iterator[_Placed], counts: Counts, hosts: Collection[str], find: FindFault) -> Iterator[Sample]:
    """The samples without faults and with unique ids, in order; images are opened in threads."""
    seen: set[str] = set()
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(made, SAMPLES_AT_ONCE)):
            looked_at = pool.map(lambda placed: _fetch_and_check(placed[1], hosts, find), batch)
            for (place, _), (sample, found) in zip(batch, looked_at, strict=True):
                fault = found or (Fault("the id is repeated", repr(sample.id)) if sample.id in seen else None)
                if fault is not None:
                    counts.drop(place, fault)
                    continue
                seen.add(sample.id)
                counts.rows_written += 1
                yield sample


def _fetch_and_check(sample: Sample, hosts: Collection[str], find: FindFault) -> tuple[Sample, Fault | None]:
    """The sample with the bytes of its URLs, and what is wrong with it."""
    try:
        images = tuple(fetch_image(source, hosts) for source in sample.images)
        fetched = replace(sample, images=images, videos=tuple(fetch_video(source, hosts) for source in sample.videos))
    except BadVideo as error:
        return sample, Fault("a video cannot be opened", str(error))
    except BadImage as error:
        return sample, Fault("an image cannot be opened", str(error))
    return fetched, find(fetched)


def _refuse_nothing(samples: Iterable[Sample], counts: Counts) -> Iterator[Sample]:
    yield from samples
    if counts.rows_written == 0:
        raise ValueError("; ".join([counts.total(), *map(str.strip, counts.reasons())]))
