"""CUDA graphs on a CPU: what a capture records, in torch's own operations, is run again on the same tensors.

As on a device, nothing of the captured function's Python runs in a replay, and a capture computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpg_vl.models.decoding import static_step

WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "is_nonzero",
    "lift_fresh",
    "repeat_interleave",
)
"""Operations that wait for values or copy some from the host: a device captures none of them."""


class RecordedGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.num_replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in WAITING:
            raise RuntimeError(f"{func} is not permitted when a stream is capturing")
        for each in _tensors((args, kwargs)):
            storage = each.untyped_storage()
            self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        found = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, _tensors(found)))
        return found

    def forget_values(self) -> None:
        """What the recording has computed in place is undone."""
        for storage, value in self._before.values():
            storage.copy_(value)

    def replay(self) -> None:
        self.num_replays += 1
        for func, args, kwargs, outputs in self._calls:
            held = {each.untyped_storage().data_ptr() for each in _tensors((args, kwargs))}
            for old, new in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() not in held:  # neither a view nor written in place
                    old.copy_(new)


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


class _NoStream:
    def wait_stream(self, other: Any) -> None: ...


@contextmanager
def _record(graph: RecordedGraph, stream: _NoStream, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local", "what other threads do on the device must not end a capture"
    with graph:
        yield
    graph.forget_values()


def use_recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> Sequence[RecordedGraph]:
    """In place of torch's; returns those that will be captured."""
    graphs: list[RecordedGraph] = []

    def build() -> RecordedGraph:
        graphs.append(RecordedGraph())
        return graphs[-1]

    monkeypatch.setattr(static_step, "_side_stream", _NoStream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", build)
    monkeypatch.setattr(torch.cuda, "graph", _record)
    monkeypatch.setattr(torch.cuda, "current_stream", _NoStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return graphs
