"""Rows -> how many tokens their prompts take, and the longest as the model would read it, with a blank image.

Images are opened for their sizes; a picture of the same size and no content stands for each in the longest prompt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gpg_vl.data.images import BadImage
from gpg_vl.data.sources import Source
from gpg_vl.prompts.builder import PromptBuilder, PromptLayout
from gpg_vl.prompts.length import LongPrompt, Room
from gpg_vl.records import Prompt, Sample


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Tokens of the prompts of all rows that a run would use, from the shortest to the longest."""

    tokens: tuple[int, ...]
    num_left_out: int  # images that cannot be opened, prompts that are too long
    num_images: float  # of a row, on average
    worst: Prompt  # the longest

    def share(self, part: float) -> int:
        """Tokens that ``part`` of the rows do not exceed."""
        return self.tokens[min(len(self.tokens) - 1, int(part * len(self.tokens)))]


def measure_rows(
    sources: Sequence[Source], prompts: PromptBuilder, room: Room, most: int | None = None
) -> PromptLengths:
    """
    Args:
        most: rows to look at, spread over all; None: all

    Raises:
        ValueError: no row can be used, or a row cannot become a prompt
    """
    samples = [sample for source in sources for sample in source.samples]
    samples = samples[:: -(-len(samples) // most)] if most else samples
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(lambda sample: _measure(sample, prompts, room), samples))
    used = [(sample, layout) for sample, layout in zip(samples, found, strict=True) if layout is not None]
    if not used:
        raise ValueError("data.train: no row can be used; gpg-vl train says why of the first one")
    sample, layout = max(used, key=lambda pair: pair[1].num_tokens)
    tokens = tuple(sorted(layout.num_tokens for _, layout in used))
    images = sum(len(layout.views) for _, layout in used) / len(used)
    return PromptLengths(tokens, len(found) - len(used), images, prompts.build_blank(sample, layout))


def _measure(sample: Sample, prompts: PromptBuilder, room: Room) -> PromptLayout | None:
    try:
        layout = prompts.measure(sample)
        room.check(layout.num_tokens)
    except (BadImage, LongPrompt):
        return None
    return layout
