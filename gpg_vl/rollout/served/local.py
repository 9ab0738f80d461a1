"""vLLM in the training processes (``rollout.vllm.mode: colocate``), asked as a server is, with the same checks.

Each rank has an engine of its own on its GPU. It sleeps while the update runs: its weights and its keys and values are
freed. When it wakes, it takes the policy's weights from this process's memory. One that has failed is shut down. It is
called from the thread that trains, whose GPU is the rank's, and another one ends the process if it does not come back.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import numpy
import torch
from torch import Tensor

from gpg_vl.config import VllmConfig
from gpg_vl.errors import first_line
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.weights.lora import find_base
from gpg_vl.processes.hangs import beating_watched
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import run_together
from gpg_vl.rollout.served.client import Refused
from gpg_vl.rollout.served.engine_weights import GatheredInTurn, There, named_weights, raise_if
from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import AnsweredGroup, Request, read_answer, write_answer
from gpg_vl.rollout.served.parity import Comparison
from gpg_vl.rollout.served.service import Backend, EngineFailed, Service
from gpg_vl.rollout.served.shared_folder import Versions
from gpg_vl.rollout.served.vllm_backend import EngineOptions, start_backend
from gpg_vl.screen import say

T = TypeVar("T")

_NAME = "the vllm of this process"
_MEMORY_KEYS = "rollout.vllm.gpu_memory or rollout.vllm.max_model_len"


class SleepingBackend(Backend, Protocol):
    def sleep(self) -> None:
        """Frees what the engine holds of the GPU; its weights are lost."""

    def wake(self) -> None:
        """Takes the memory again, for weights that are taken next."""

    def take_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Takes weights in the names of the model's folder, and forgets what it cached.

        Args:
            weights: perhaps the policy's own tensors, which change later; each is made when it is asked for
        """

    def shut_down(self) -> None:
        """Frees all of it, for good, after it has failed."""


class LocalEngine:
    """What ``ServerPool`` is for servers."""

    def __init__(self, backend: SleepingBackend, adapter: Adapter, comparison: Comparison):
        """
        Args:
            adapter: the policy
        """
        self._backend = backend
        self._comparison = comparison
        self._adapter = adapter
        self._vocab_size = adapter.head_weight.shape[0]
        self._service = Service(backend, length_key="rollout.vllm.max_model_len")
        self._versions = Versions()

    def __len__(self) -> int:
        return 1

    def check(self) -> None:
        """It was made with the run's type."""

    def name_version(self) -> str:
        """The name of new weights."""
        return self._versions.next()

    @contextmanager
    def ready(self, version: str, there: There | None = None) -> Iterator[None]:
        """Within, the engine is awake and has the policy's weights as they are now: the version.

        All ranks enter it together, with weights that the engine no longer needs once it has entered, and leave it
        together.

        Args:
            there: what gathers some of the weights, on all ranks together; None: all of them are there
        """
        if there is None:
            run_together(lambda: self._wake(version, named_weights(self._adapter)))
        else:
            GatheredInTurn(named_weights(self._adapter, there)).give(partial(self._wake, version))
        try:
            yield
        except BaseException:  # of all ranks; whatever comes on top must not hide it
            if (failure := self._sleep()) is not None:
                say(f"rollout: {_NAME} does not shut down: {first_line(failure)}")
            raise
        run_together(partial(raise_if, self._sleep()))

    def _sleep(self) -> Exception | None:
        """What went wrong, where an engine that could not sleep could not be shut down either."""
        try:
            if not self._service.has_failed:
                self._service.forget()
                self._try(lambda: self._service.run(self._backend.sleep))
        except Exception as error:  # noqa: BLE001  all ranks learn of it
            return error
        return None

    def _wake(self, version: str, weights: Iterator[tuple[str, Tensor]]) -> None:
        if not self._service.has_failed:
            self._try(lambda: self._take_up(version, weights))

    def _take_up(self, version: str, weights: Iterator[tuple[str, Tensor]]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what torch keeps of the update, the engine cannot take
        self._service.run(self._backend.wake)
        self._service.take(version, lambda: self._backend.take_weights(weights))

    def generate(self, requests: Sequence[Request]) -> list[list[AnsweredGroup] | None]:
        """See ``ServerPool.generate``."""
        first = self._comparison.request
        if first is not None and self._comparison.is_new(_NAME) and (answer := self._ask(first)) is not None:
            self._comparison.keep(_NAME, answer)
        return [self._ask(request) for request in requests]

    def _ask(self, request: Request) -> list[AnsweredGroup] | None:
        return None if self._service.has_failed else self._try(lambda: self._answer(request))

    def _answer(self, request: Request) -> list[AnsweredGroup]:
        """
        Raises:
            Refused: it cannot be asked
            EngineFailed: also for an answer that cannot be used
        """
        try:
            body = write_answer(request.version, self._service.generate(request))
        except BadMessage as error:
            raise Refused(f"rollout.vllm: {error}") from error
        try:
            return read_answer(body, request, self._vocab_size)
        except BadMessage as error:
            self._service.has_failed = True
            raise EngineFailed(f"a bad answer: {first_line(error)}") from error

    def _try(self, work: Callable[[], T]) -> T | None:
        """An engine that fails gives its memory back; the run continues without it."""
        try:
            with beating_watched("the rollout"):
                return work()
        except EngineFailed as error:
            say(f"rollout: {error}")
        self._backend.shut_down()  # after the exception, whose frames hold parts of it
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def check_free_memory(config: VllmConfig) -> None:
    """
    Raises:
        ValueError: this rank's GPU has too little memory free for an engine; vLLM would refuse it where others wait
    """
    if not torch.cuda.is_available():
        return
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    if free < (wanted := config.gpu_memory * total):
        raise ValueError(
            f"vllm takes {wanted / 2**30:.1f} GiB of a GPU that has {free / 2**30:.1f} GiB free; lower "
            "rollout.vllm.gpu_memory"
        )


def start_local_engine(adapter: Adapter, config: VllmConfig, num_ranks: int) -> SleepingBackend:
    """The engine of a rank, asleep.

    Raises:
        ValueError: as ``start_backend``
    """
    path = resolve_model_path(adapter.config.path, adapter.config.revision)
    options = EngineOptions(
        dtype=adapter.config.dtype,
        max_model_len=config.max_model_len,
        max_images=config.max_images,
        gpu_memory=config.gpu_memory,
        sleeps=True,
        joins_ranks=num_ranks > 1,
        ranks_timeout_s=PULSE.hang_seconds,
    )
    with _process_as_it_was():
        return start_backend(find_base(path) or path, options, _MEMORY_KEYS)


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """vLLM seeds the generators of its process, sets its precision of products, and has no object of it collected."""
    of_python, of_numpy = random.getstate(), numpy.random.get_state()
    precision, has_tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with torch.random.fork_rng():
        yield
    random.setstate(of_python)
    numpy.random.set_state(of_numpy)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = has_tf32
    gc.unfreeze()
