"""The endless, resumable stream of samples that training draws its prompts from.

Sources are mixed by weight; each is reshuffled every epoch. The next sample depends on the seed, on how many were drawn
before, and on the rows left out, so the state is one counter per source, one overall counter, and those rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence

from gpg_vl.data.sources import Source
from gpg_vl.records import Sample


class SampleStream:
    def __init__(self, sources: Sequence[Source], seed: int):
        self._sources = list(sources)
        self._seed = seed
        self._drawn = 0
        self._cursors = [0] * len(self._sources)
        self._left_out: dict[str, str] = {}
        self._order: dict[int, tuple[int, list[int]]] = {}  # source -> epoch and its order, kept only for speed

    def draw(self, count: int, without_tasks: Collection[str] = ()) -> list[Sample]:
        """The next ``count`` samples, skipping those of ``without_tasks`` and those left out.

        Raises:
            ValueError: no other samples remain
        """
        samples: list[Sample] = []
        patience = 100 * sum(len(source.samples) for source in self._sources)
        while len(samples) < count:
            sample = self._next_of(self._pick_source())
            if sample.task not in without_tasks and sample.id not in self._left_out:
                samples.append(sample)
                continue
            patience -= 1
            if patience < 0:
                other = f" of a task other than {sorted(without_tasks)}" if without_tasks else ""
                left_out = f" besides the {len(self._left_out)} that are left out" if self._left_out else ""
                raise ValueError(f"data.train has no row{other}{left_out}; add one")
        return samples

    def look_ahead(self, count: int, without_tasks: Collection[str] = ()) -> list[Sample]:
        """What ``draw`` would return next; nothing is drawn. Empty where no samples remain."""
        drawn, cursors = self._drawn, list(self._cursors)
        try:
            return self.draw(count, without_tasks)
        except ValueError:
            return []
        finally:
            self._drawn, self._cursors = drawn, cursors

    def leave_out(self, causes: Mapping[str, str]) -> None:
        """Skips samples from now on.

        Args:
            causes: sample id -> why it is left out
        """
        self._left_out |= causes

    @property
    def left_out(self) -> Mapping[str, str]:
        return self._left_out

    def state(self) -> dict[str, object]:
        return {"drawn": self._drawn, "cursors": list(self._cursors), "left_out": dict(self._left_out)}

    def restore(self, state: dict[str, object]) -> None:
        """
        Raises:
            ValueError: it is not the state of a stream over as many sources
        """
        cursors, left_out = state.get("cursors"), state.get("left_out")
        numbers = [state.get("drawn"), *(cursors if isinstance(cursors, list) else [])]
        counts = [number for number in numbers if type(number) is int and number >= 0]
        if len(counts) != len(numbers) or len(counts) != len(self._sources) + 1 or not isinstance(left_out, dict):
            raise ValueError("the checkpoint's position in data.train does not fit its sources; restore the checkpoint")
        self._drawn, *self._cursors = counts
        self._left_out = dict(left_out)

    def _pick_source(self) -> int:
        rng = self._random("source", self._drawn)
        self._drawn += 1
        return rng.choices(range(len(self._sources)), [source.weight for source in self._sources])[0]

    def _next_of(self, source: int) -> Sample:
        samples = self._sources[source].samples
        epoch, position = divmod(self._cursors[source], len(samples))
        self._cursors[source] += 1
        known = self._order.get(source)
        if known is None or known[0] != epoch:
            order = list(range(len(samples)))
            self._random("epoch", source, epoch).shuffle(order)
            self._order[source] = (epoch, order)
        return samples[self._order[source][1][position]]

    def _random(self, *key: object) -> random.Random:
        digest = hashlib.blake2b(repr((self._seed, *key)).encode(), digest_size=8).digest()
        return random.Random(int.from_bytes(digest, "big"))
