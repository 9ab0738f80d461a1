"""The tokens that a rollout has sampled, and which of its rows go on.

A look copies what was sampled since the last one from the device, once. What a row sampled after its end is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from gpg_vl.models.weights.finite import NotFinite

_STEPS_ON_A_DEVICE = 8
"""Between two looks: what a row samples in vain after its end costs less than waiting in every step."""


SampledRow = tuple[tuple[int, ...], tuple[float, ...] | None]
"""Tokens and log-probs; None where they are not kept."""


def steps_between_looks(device: torch.device) -> int:
    """1 on a CPU, where nothing has to be waited for, and a row that has ended makes the next step shorter."""
    return 1 if device.type == "cpu" else _STEPS_ON_A_DEVICE


class SampledRows:
    def __init__(self, num_rows: int, end_token_ids: Collection[int]):
        self._ends = frozenset(end_token_ids)
        self._tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self._log_probs: list[list[float]] = [[] for _ in range(num_rows)]
        self._batch = list(range(num_rows))  # the rows that are decoded, some of which may have ended
        self._live = set(self._batch)
        self._added: list[tuple[Tensor, ...]] = []

    def add(self, tokens: Tensor, highest: Tensor, log_probs: Tensor | None) -> None:
        """
        Args:
            tokens: [R], one of each row that is decoded
            highest: [R], the highest logit of each row, which is not finite if one of them is NaN or infinite
            log_probs: [R], where they are kept
        """
        self._added.append((tokens, highest) if log_probs is None else (tokens, highest, log_probs))

    def look(self) -> list[int]:
        """The rows that go on, counted among those that are decoded.

        Raises:
            NotFinite: the highest logit of a row that goes on is NaN or infinite
        """
        columns = [torch.stack(column).tolist() for column in zip(*self._added, strict=True)]  # [steps][R] each
        self._added = []
        going_on = [
            place for place, row in enumerate(self._batch) if row in self._live and not self._take(row, place, *columns)
        ]
        self._live = {self._batch[place] for place in going_on}
        return going_on

    def keep(self, places: Sequence[int]) -> None:
        """Leaves out all rows but these, counted among those that are decoded."""
        self._batch = [self._batch[place] for place in places]

    def have_ended(self, rows: Collection[int]) -> bool:
        """Whether none of these rows, counted among all, goes on."""
        return self._live.isdisjoint(rows)

    def _take(
        self,
        row: int,
        place: int,
        tokens: list[list[int]],
        highest: list[list[float]],
        log_probs: list[list[float]] | None = None,
    ) -> bool:
        """Whether the row has ended in these steps."""
        for step, of_step in enumerate(tokens):
            if not math.isfinite(highest[step][place]):
                raise NotFinite(
                    "the model's logits are not finite (NaN or infinite): its weights or activations are too large; "
                    "take an earlier checkpoint, set model.dtype to float32, or lower update.learning_rate"
                )
            self._tokens[row].append(of_step[place])
            if log_probs is not None:
                self._log_probs[row].append(log_probs[step][place])
            if of_step[place] in self._ends:
                return True
        return False

    def finish(self) -> Iterator[SampledRow]:
        """Each row."""
        return map(self.row, range(len(self._tokens)))

    def row(self, number: int) -> SampledRow:
        """What a row, counted among all, has sampled."""
        return tuple(self._tokens[number]), tuple(self._log_probs[number]) or None
