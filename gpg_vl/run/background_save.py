"""Checkpoints that the first rank writes in a thread while the run goes on.

Weights and moments are copied to the host's memory; a thread writes and seals the copies. It enters no collective,
draws no random number and loads no model, all of which are the training's. What the disk refuses is told between two
steps, on all ranks. The next save, and the end of the run, wait for the thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial as partial_call
from pathlib import Path
from typing import Any

import psutil
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.paths import checkpoint_folder
from gpg_vl.models.saving import Headers, begin_model, read_headers, write_weights
from gpg_vl.models.snapshot import WeightsSnapshot
from gpg_vl.processes.ranks import run_on_main
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.weights import weights_to_save
from gpg_vl.run.checkpoint import (
    OwnState,
    gather_contents,
    naming_failure,
    on_main,
    remove_old_checkpoints,
    with_disk_errors,
)
from gpg_vl.run.checkpoint_files import Contents, finish_folder, start_folder, write_contents, write_moments
from gpg_vl.run.leftovers import partial_folder
from gpg_vl.screen import say_once
from gpg_vl.update.optimizer_state import read_shards


class BackgroundSaves:
    """All ranks call it together, but for ``close``. At most one checkpoint is being written."""

    def __init__(self, adapter: Adapter, optimizer: Any, accelerator: Accelerator):
        """
        Args:
            optimizer: torch's optimizer, or DeepSpeed's wrapper of it
        """
        self._adapter = adapter
        self._optimizer = optimizer
        self._accelerator = accelerator
        self._sharding = sharding_of(accelerator)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._begun: Path | None = None  # what is being written
        self._work: Future[None] | None = None  # on the first rank
        self._has_checked = False
        self._headers: Headers = {}  # on the first rank, of the checkpoint that was checked

    @property
    def is_writing(self) -> bool:
        return self._begun is not None

    def follow(self, checkpoint: Path) -> None:
        """From now on, checkpoints have to hold the same tensors as this one, which was loaded to check it."""
        self._has_checked = True
        run_on_main(lambda: self._headers.update(read_headers(checkpoint)))

    def has_to_wait(self) -> bool:
        """Whether the run has to wait while the next checkpoint is written (``checkpoint.save_checkpoint``).

        DeepSpeed's modules cannot be copied, the first checkpoint has to be loaded to check it, and the copies have to
        fit in the host's memory.
        """
        if self._sharding.zero_stage or not self._has_checked:
            return True
        return not run_on_main(self._has_room)

    def _has_room(self) -> bool:
        num_weights, num_trained = self._adapter.num_parameters()
        is_adapter = self._adapter.config.lora is not None
        needed = 4 * (num_trained if is_adapter else num_weights) + 8 * num_trained
        free: int = psutil.virtual_memory().available
        if needed <= free / 2:
            return True
        size = f"{needed / 1e9:.1f} GB"
        say_once(
            f"note: the run waits for its checkpoints: the host has no memory for a copy of what they hold, {size}"
        )
        return False

    def begin(self, recipe: Recipe, own: OwnState) -> None:
        """Begins to write ``OUTPUT_DIR/checkpoint-STEP``; for the words and errors, see ``save_checkpoint``."""
        assert not self.is_writing
        final = checkpoint_folder(Path(recipe.run.output_dir), own.state.step)
        partial = partial_folder(final)
        contents = gather_contents(recipe, own, self._accelerator)
        weights: list[WeightsSnapshot] = []  # one, on the first rank
        with naming_failure(final, self._accelerator.is_main_process), weights_to_save(self._accelerator):
            on_main(lambda: start_folder(self._adapter, partial, own.state.step))
            on_main(lambda: begin_model(self._adapter, partial, recipe, own.metrics))
            on_main(lambda: weights.append(self._adapter.take_snapshot(is_copy=self._sharding.is_fsdp)))
        moments = list(self._copy_moments())
        self._begun = final
        for each in weights:
            self._work = self._pool.submit(_write, final, each, moments, contents, dict(self._headers))

    def _copy_moments(self) -> Iterator[dict[str, Tensor]]:
        """In portions, on the first rank."""
        for shard in read_shards(self._optimizer, self._adapter.trainable_parameters(), self._sharding):
            if self._accelerator.is_main_process:
                yield {name: each.clone() for name, each in shard.items()}

    def is_done(self) -> bool:
        """Whether what is being written is complete, or has failed."""
        return run_on_main(lambda: self._work is not None and self._work.done())

    def finish(self) -> Path | None:
        """The folder that is being written, once it is complete; None if there is none.

        Raises:
            OSError: it could not be written; earlier checkpoints are untouched
        """
        final, self._begun = self._begun, None
        if final is not None:
            run_on_main(self._take_result)
        return final

    def _take_result(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> Path | None:
        """The same on one rank alone, whatever the others do, at the end of a run that has failed already."""
        final, self._begun = self._begun, None
        with suppress(Exception):  # one failure ends the run
            self._take_result()
            self._pool.shutdown()
            return final
        return None


def _write(
    final: Path, weights: WeightsSnapshot, moments: list[dict[str, Tensor]], contents: Contents, headers: Headers
) -> None:
    """
    Args:
        moments: emptied, so that their memory is free as soon as they are written
    """
    partial = partial_folder(final)
    with naming_failure(final, is_main=True):
        with_disk_errors(partial_call(write_weights, weights, partial, headers))
        for number in range(1, len(moments) + 1):
            with_disk_errors(partial_call(write_moments, moments.pop(0), partial, number))
        with_disk_errors(partial_call(write_contents, contents, partial))
        finish_folder(partial, final)
    remove_old_checkpoints(final.parent, contents.recipe.run.save_total_limit)
