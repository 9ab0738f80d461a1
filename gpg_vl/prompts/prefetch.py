"""The prompts of a run, whose images are opened, resized and encoded ahead of time by workers, while the model works.

The workers are threads: what takes long in an image runs outside of Python's lock. They do only what depends on images
and videos alone. Words, order and errors stay with the thread that builds, and so does what no worker could prepare.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue

import torch

from gpg_vl.data.images import BadImage
from gpg_vl.errors import first_line
from gpg_vl.models.inputs.vision_records import pin_vision
from gpg_vl.prompts.builder import PreparedMedia, PromptBuilder
from gpg_vl.records import Prompt, Sample
from gpg_vl.screen import say_once

WORKERS_BESIDE_A_GPU = 2
_END_SECONDS = 5.0  # that the end of a run waits for an image in work, which may be on its way over a slow network

_Preparation = tuple[Sample, "Future[PreparedMedia | None]"]


def choose_workers(wanted: int | None, device: torch.device) -> int:
    """``data.workers``; on its own, workers only beside a GPU: a model on the CPU takes all of it already."""
    if wanted is None:
        return WORKERS_BESIDE_A_GPU if device.type == "cuda" else 0
    return wanted


class PromptsAhead:
    """Builds the same prompts as ``PromptBuilder``, in the same order, with the same errors."""

    def __init__(self, prompts: PromptBuilder, num_workers: int, device: torch.device):
        """
        Args:
            num_workers: threads; 0: nothing is done ahead
            device: of the model
        """
        self._prompts = prompts
        self._num_workers = num_workers
        self._device = device
        self._jobs: SimpleQueue[_Preparation | None] = SimpleQueue()
        self._expected: dict[str, Future[PreparedMedia | None]] = {}
        self._threads: list[threading.Thread] = []

    def expect(self, samples: Sequence[Sample]) -> None:
        """Has the workers prepare these samples, and forgets what was prepared of others."""
        wanted = {sample.id: sample for sample in samples if sample.images or sample.videos}
        self._forget(self._expected.keys() - wanted.keys())
        if wanted and not self._start():
            return
        for name, sample in wanted.items():
            if name not in self._expected:
                self._expected[name] = Future()
                self._jobs.put((sample, self._expected[name]))

    def build(self, sample: Sample) -> Prompt:
        """See ``PromptBuilder.build``."""
        prepared = self._take(sample)
        return self._prompts.build(sample) if prepared is None else self._prompts.finish(sample, prepared)

    def close(self) -> None:
        """Ends the workers, after the images that they have begun."""
        self._forget(list(self._expected))
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_END_SECONDS)
        self._threads = []

    def _forget(self, names: Collection[str]) -> None:
        for name in names:
            self._expected.pop(name).cancel()

    def _take(self, sample: Sample) -> PreparedMedia | None:
        """What a worker has prepared, or is preparing; None for what is left to do."""
        future = self._expected.pop(sample.id, None)
        if future is None or future.cancel():  # no worker has begun: waiting would take longer
            return None
        try:
            return future.result()
        except BadImage:
            return None  # who builds it finds the same, and says so
        except (Exception, SystemExit) as error:  # noqa: BLE001  libraries that decode raise nearly anything
            what = f"{type(error).__name__}: {first_line(error)}"
            say_once(f"a worker of data.workers failed ({what}); the run does its work itself")
            return None

    def _start(self) -> bool:
        """Whether there are workers."""
        while len(self._threads) < self._num_workers:
            thread = threading.Thread(target=self._serve, daemon=True, name="data.workers")
            try:
                thread.start()
            except RuntimeError as error:
                say_once(f"data.workers: {first_line(error)}; the run continues with {len(self._threads)}")
                break
            self._threads.append(thread)
        return bool(self._threads)

    def _serve(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # else a thread has its own context, on the first GPU
        while (job := self._jobs.get()) is not None:
            sample, future = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._prepare(sample))
                except BaseException as error:  # noqa: BLE001  it is raised where the result is taken
                    future.set_exception(error)
            del job, sample, future  # the next one may be long in coming

    def _prepare(self, sample: Sample) -> PreparedMedia | None:
        prepared = self._prompts.prepare(sample)
        if prepared is None or self._device.type != "cuda":
            return prepared
        return replace(prepared, vision=pin_vision(prepared.vision))
