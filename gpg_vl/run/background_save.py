"""Checkpoints that are written in threads while the run goes on.

Each rank copies its share of the optimizer's state to the host's memory, and the first one the weights too; a thread of
each writes the copies. That of the first rank seals the folder when the files of all others are in it. The threads
enter no collective, draw no random number and load no model, all of which are the training's. What the disk refuses is
told between two steps, on all ranks. The next save, and the end of the run, wait for the threads.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial as partial_call
from pathlib import Path
from typing import Any, Literal

import psutil
from accelerate import Accelerator

from gpg_vl.config import Recipe
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.folder.paths import checkpoint_folder
from gpg_vl.models.folder.saving import Headers, begin_model, read_headers, write_weights
from gpg_vl.models.weights.snapshot import WeightsSnapshot
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import run_on_main, run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.start import ranks_of_node
from gpg_vl.processes.whole_weights import weights_to_save
from gpg_vl.run.checkpoint import (
    OwnState,
    gather_contents,
    naming_failure,
    on_main,
    remove_old_checkpoints,
    with_disk_errors,
)
from gpg_vl.run.checkpoint_writing import (
    STATE_FOLDER,
    Contents,
    finish_folder,
    free_space,
    start_folder,
    write_contents,
)
from gpg_vl.run.leftovers import partial_folder
from gpg_vl.run.moments import SEEN_SECONDS, FilesOfOthers, copy_portion, moments_file, refuse_unseen, write_own
from gpg_vl.screen import say_once
from gpg_vl.update.optimizer_state import Slice, read_portions

_NICENESS = 10  # of the thread: a tenth of a processor on a host that has none to spare
_LAST_WAIT_SECONDS = 30.0
"""For the other ranks' files, once the run has failed; a rank may have been killed."""


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
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=_let_training_go_first)
        self._begun: Path | None = None  # what is being written
        self._work: Future[bool] | None = None  # whether it is complete, as far as this rank knows
        self._others = FilesOfOthers()
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
        lacks = [each for each in gather_object([self._lacks_room()]) if each]
        if lacks:
            say_once(f"note: the run waits for its checkpoints: {lacks[0]}")
        return bool(lacks)

    def _lacks_room(self) -> str:
        """What this rank's host has no memory for; "" if it has."""
        needed, free = self._bytes_on_host(), psutil.virtual_memory().available
        if needed <= free / 2:
            return ""
        return f"{socket.gethostname()} has no memory for a copy of what they hold there, {needed / 1e9:.1f} GB"

    def _bytes_on_host(self) -> float:
        """Of the copies that this host's ranks make: each of its share of the moments, the first one of the weights."""
        num_weights, num_trained = self._adapter.num_parameters()
        of_host, num_ranks = ranks_of_node(), self._accelerator.num_processes
        is_first = self._accelerator.process_index == self._accelerator.local_process_index
        weights = 4 * (num_weights if self._adapter.config.lora is None else num_trained) if is_first else 0
        share = of_host / num_ranks if self._sharding.spreads_moments else float(is_first)
        return weights + 8 * num_trained * share

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
        moments = run_together(lambda: _Moments(self._copy_moments(), partial, self._accelerator.process_index))
        self._begun = final
        [_, *others] = gather_object([moments.paths()])
        self._others = FilesOfOthers(path for paths in others for path in paths)
        if weights:
            copies = _Copies(weights.pop(), dict(self._headers), moments, contents)
            self._work = self._pool.submit(_write, final, copies, self._others)
        else:
            self._work = self._pool.submit(_write_moments, final, moments)

    def _copy_moments(self) -> list[dict[str, Slice]]:
        read = read_portions(self._optimizer, self._adapter.trainable_parameters(), self._sharding)
        return [copy_portion(portion) for portion in read]

    def is_done(self) -> bool:
        """Whether what is being written is complete, or a rank has failed."""
        of_ranks = gather_object([self._state()])
        return "failed" in of_ranks or "writing" not in of_ranks

    def _state(self) -> Literal["writing", "written", "failed"]:
        if self._work is None or not self._work.done():
            return "written" if self._work is None else "writing"
        return "written" if self._work.exception() is None else "failed"

    def finish(self) -> Path | None:
        """The folder that is being written, once it is complete; None if there is none.

        Raises:
            OSError: it could not be written; earlier checkpoints are untouched
        """
        final, self._begun = self._begun, None
        if final is not None:
            is_written = all(gather_object([run_together(self._has_written_share)]))
            self._others.give_up(SEEN_SECONDS if is_written else 0.0)
            try:
                run_together(lambda: self._take_result(final, is_written))
            except OSError:
                if self._accelerator.is_main_process:
                    free_space(partial_folder(final))  # again: other ranks may have written meanwhile
                raise
        return final

    def _has_written_share(self) -> bool:
        """Waits for the thread, but for that of the first rank, which waits for the others."""
        return self._accelerator.is_main_process or self._work is None or self._work.exception() is None

    def _take_result(self, final: Path, is_written: bool) -> None:
        """
        Args:
            is_written: by all other ranks; else what is raised is theirs
        """
        work, self._work = self._work, None
        if work is not None and not work.result() and is_written:
            with naming_failure(final, is_main=True):
                refuse_unseen()

    def close(self) -> Path | None:
        """The same on one rank alone, whatever the others do, at the end of a run that has failed already."""
        final, self._begun = self._begun, None
        work, self._work = self._work, None
        self._others.give_up(_LAST_WAIT_SECONDS)
        with suppress(Exception):  # one failure ends the run
            is_complete = work is not None and work.result()
            self._pool.shutdown()
            return final if is_complete else None
        return None


def _let_training_go_first() -> None:
    """This thread, and those that it starts, take what the run leaves of the processors."""
    with suppress(OSError):  # not every container lets a thread have a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


@dataclass(frozen=True, slots=True)
class _Moments:
    """Copies of this rank's share of the optimizer's state."""

    portions: list[dict[str, Slice]]
    partial: Path  # the folder that is being written
    rank: int

    def paths(self) -> list[Path]:
        names = (moments_file(self.rank, number) for number in range(1, len(self.portions) + 1))
        return [self.partial / STATE_FOLDER / name for name in names]

    def write(self) -> None:
        """What is written is free again."""
        with_disk_errors(lambda: write_own(self._taken(), self.partial / STATE_FOLDER, self.rank))

    def _taken(self) -> Iterator[dict[str, Slice]]:
        while self.portions:
            yield self.portions.pop(0)


@dataclass(frozen=True, slots=True)
class _Copies:
    """All that the first rank writes."""

    weights: WeightsSnapshot
    headers: Headers  # that the written weights must have
    moments: _Moments
    contents: Contents


def _write_moments(final: Path, moments: _Moments) -> bool:
    """On other ranks than the first."""
    with naming_failure(final, is_main=False):
        moments.write()
    return True


def _write(final: Path, copies: _Copies, others: FilesOfOthers) -> bool:
    """On the first rank; whether the checkpoint is complete. If not, another rank has failed."""
    partial = partial_folder(final)
    with naming_failure(final, is_main=True):
        with_disk_errors(partial_call(write_weights, copies.weights, partial, copies.headers))
        copies.moments.write()
        with_disk_errors(partial_call(write_contents, copies.contents, partial))
        if not others.have_come():
            free_space(partial)
            return False
        finish_folder(partial, final)
    remove_old_checkpoints(final.parent, copies.contents.recipe.run.save_total_limit)
    return True
