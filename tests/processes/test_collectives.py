"""Objects and counts go over gloo, whatever the default group is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import distributed

from gpg_vl.processes import collectives
from gpg_vl.processes.collectives import (
    LONGEST_WAIT,
    count_collectives,
    forget_groups,
    gather_object,
    host_group,
    in_step,
    max_over_ranks,
    sum_losses,
    sum_over_ranks,
)
from gpg_vl.processes.ranks import end_ranks, run_on_main, run_together
from gpg_vl.update import balance

ACCELERATOR: Any = SimpleNamespace(num_processes=2, device=torch.device("cuda"), process_index=0)


class Ranks:
    """Two ranks of which this is the first, over ``backend``; the other has the same to say."""

    def __init__(self, backend: str):
        self.backend = backend
        self.world, self.others = mock.Mock(name="default group"), []
        self.used: list[Any] = []  # the group of each collective

    def new_group(self, **words: Any) -> Any:
        assert words == {"backend": "gloo", "timeout": LONGEST_WAIT}
        self.others.append(mock.Mock(name="gloo"))
        return self.others[-1]

    def all_gather_object(self, lists: list[Any], mine: Any, group: Any = None) -> None:
        self.used.append(group)
        lists[:] = [mine, mine]

    def all_reduce(self, tensor: torch.Tensor, op: Any = None, group: Any = None) -> None:
        assert tensor.device.type == "cpu"
        self.used.append(group)

    def scatter_object_list(self, received: list[Any], parcels: Any, src: int = 0, group: Any = None) -> None:
        self.used.append(group)
        received[0] = []


@contextmanager
def two_ranks(backend: str) -> Iterator[Ranks]:
    ranks = Ranks(backend)
    with mock.patch.multiple(
        distributed, is_initialized=lambda: True, get_world_size=lambda: 2, get_rank=lambda: 0,
        get_backend=lambda group=None: ranks.backend, new_group=ranks.new_group,
        all_gather_object=ranks.all_gather_object, all_reduce=ranks.all_reduce,
        scatter_object_list=ranks.scatter_object_list, destroy_process_group=lambda: None,
    ), mock.patch.object(type(distributed.group), "WORLD", property(lambda _: ranks.world)):  # fmt: skip
        yield ranks
    forget_groups()


EXCHANGES: dict[str, Callable[[], object]] = {
    "gather": lambda: gather_object([1]),
    "run together": lambda: run_together(lambda: 1),
    "run on main": lambda: run_on_main(lambda: 1),
    "sum": lambda: sum_over_ranks(ACCELERATOR, [1, 2]),
    "maximum": lambda: max_over_ranks(ACCELERATOR, 1),
    "loss": lambda: sum_losses(ACCELERATOR, 0.5),
    "move": lambda: balance._exchange([], [balance.Move(1, 0, 0)], torch.device("cpu")),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_no_exchange_uses_a_group_of_gpus(name: str) -> None:
    with two_ranks("nccl") as ranks:
        EXCHANGES[name]()
        EXCHANGES[name]()
        [of_host] = ranks.others
        assert set(ranks.used) == {of_host}, "one group, made once"


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_default_group_over_gloo_is_used_itself(name: str) -> None:
    with two_ranks("gloo") as ranks:
        EXCHANGES[name]()
        assert not ranks.others and set(ranks.used) == {None}


def test_the_group_ends_with_the_ranks() -> None:
    with two_ranks("nccl") as ranks:
        first = host_group()
        assert host_group() is first
        end_ranks()
        assert host_group() is not first
        ranks.world = mock.Mock()
        assert host_group() is ranks.others[-1]
        assert len(ranks.others) == 3, "of another default group"


def test_both_groups_wait_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside of ``in_step`` the passes agree by objects, and so a short wait has to hold for these too."""
    with two_ranks("nccl") as ranks:
        monkeypatch.setattr(collectives, "_groups", lambda: [ranks.world, *ranks.others])
        with in_step(30.0):
            pass
        wanted = [mock.call(timedelta(seconds=30 + collectives._MARGIN_SECONDS)), mock.call(LONGEST_WAIT)]
        for group in (ranks.world, *ranks.others):
            assert group.set_timeout.call_args_list == wanted
        assert len(ranks.others) == 1


def test_a_real_group_counts_and_waits() -> None:
    """What the mocks above stand for: a second gloo group of this process has our limit, and its collectives count."""
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        with mock.patch.object(distributed, "get_backend", return_value="nccl"):
            group = host_group()
        before = count_collectives()
        distributed.all_reduce(torch.zeros(1), group=group)
        distributed.all_reduce(torch.zeros(1))
        assert count_collectives() == before + 2
        assert group._get_backend(torch.device("cpu")).options._timeout == LONGEST_WAIT
        group.set_timeout(timedelta(seconds=90))
    finally:
        end_ranks()
    assert collectives._host_group.cache_info().currsize == 0
