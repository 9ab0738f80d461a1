"""Faults that a forked run brings upon itself: each function is called at its start, to strike in its second step."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpg_vl import assemble
from gpg_vl.processes import rank_watch
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.run import background_save, checkpoint, checkpoint_writing, claim, moments
from gpg_vl.update import optimizer_state, policy
from tests.support.faulty_rank import in_call

_TOKENS_THAT_FIT = 128  # in the runs of ``soak``: at least three of their groups


def send_sigterm() -> None:
    print(f"SIGTERM at {time.time()}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def sigterm_in_rollout() -> None:
    """Between two tokens: a step of six tokens reads its own five times."""
    in_call(8, HfEngine, "_next_logits", send_sigterm)


def sigterm_in_backward() -> None:
    """From within autograd, on its way from the log-probs to the weights."""
    _in_second_backward(send_sigterm)


def _in_second_backward(fault: Callable[[], None]) -> None:
    original = policy.packed_log_probs
    calls = 0

    def log_probs(*words: Any) -> Tensor:
        nonlocal calls
        result = original(*words)
        calls += result.requires_grad
        if calls == 2 and result.requires_grad:
            result.register_hook(lambda gradient: fault())
        return result

    policy.packed_log_probs = log_probs


def hang() -> None:
    print(f"hanging at {time.time()}", flush=True)
    while True:
        time.sleep(1)


def hang_in_backward() -> None:
    """From within autograd, on its way from the log-probs to the weights."""
    _in_second_backward(hang)


def hang_in_rollout() -> None:
    """Between two tokens: a step of six tokens reads its own five times."""
    in_call(8, HfEngine, "_next_logits", hang)


def hang_in_save() -> None:
    """Half-way through the optimizer's state of the second save."""
    _in_second_reading(hang)


def sigterm_in_save() -> None:
    """When all files are written, before they are sealed."""
    in_call(1, checkpoint_writing, "seal_folder", send_sigterm)


def sigterm_in_writing() -> None:
    """Before the weights of the second save are written, in its thread, while the third step goes on."""
    in_call(1, background_save, "write_weights", send_sigterm)


def lose_patience() -> None:
    """No fault: ranks that have been signalled wait six seconds for each other, not twenty."""
    rank_watch.PATIENCE_SECONDS = 6.0


def sigterm_in_slow_share() -> None:
    """A rank's share of the second save takes longer, in its thread; the signal comes while the third save waits."""

    def strike() -> None:
        time.sleep(8)
        send_sigterm()
        time.sleep(12)

    lose_patience()
    in_call(1, background_save, "write_own", strike)


def wait_for_saves() -> None:
    """No fault: the run waits for each of its checkpoints."""
    background_save.BackgroundSaves.has_to_wait = lambda self: True  # type: ignore[method-assign]


def die() -> None:
    """As SIGKILL from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die_in_second_save() -> None:
    """Between what the rank writes of the optimizer's state, and the rest."""
    in_call(2, moments, "sync", die)


def die_in_second_reading() -> None:
    """Half-way through the optimizer's state of the second save."""
    _in_second_reading(die)


def _in_second_reading(fault: Callable[[], None]) -> None:
    original = optimizer_state.read_portions
    saves = 0

    def read_portions(*words: Any) -> Any:
        nonlocal saves
        saves += 1
        if saves == 2:
            in_call(5, optimizer_state, "_without_empty", fault)  # of FSDP2 and ZeRO
            in_call(5, optimizer_state, "_read_all", fault)
        return original(*words)

    checkpoint.read_portions = background_save.read_portions = read_portions


def full_disk_in_second_save() -> None:
    in_call(2, moments, "save_file", fill_disk)


def soak() -> None:
    """One forward pass in a hundred gives a loss that is not a number, and one runs out of memory, to the end.

    But memory holds some tokens: a budget that was halved is kept, and one that holds less than a completion ends the
    run.
    """
    original = policy.PolicyForward.forward
    fates = random.Random(0)

    def forward(module: Any, batch: Any, *prompt: Any) -> Tensor:
        fate = fates.random()
        if fate < 0.01 and batch.input_ids.numel() > _TOKENS_THAT_FIT:
            raise torch.OutOfMemoryError("injected")
        return original(module, batch, *prompt) * (torch.nan if fate < 0.02 else 1.0)

    policy.PolicyForward.forward = forward  # type: ignore[method-assign]


def save_moments_again() -> None:
    """No fault: each rank writes what it has just restored, as the next save would, into a folder ``again``."""
    original = assemble.load_optimizer

    def load_optimizer(folder: Any, adapter: Any, optimizer: Any, accelerator: Any) -> None:
        original(folder, adapter, optimizer, accelerator)
        portions = optimizer_state.read_portions(optimizer, adapter.trainable_parameters(), sharding_of(accelerator))
        os.makedirs("again", exist_ok=True)
        moments.write_own(portions, Path("again"), int(os.environ["RANK"]))

    assemble.load_optimizer = load_optimizer


def share_everything() -> None:
    """Another layout than that of a rank that was started without one."""
    os.environ["GPG_VL_SHARDING"] = "fsdp"


def share_in_no_known_way() -> None:
    os.environ["GPG_VL_SHARDING"] = "some"


def see_another_folder() -> None:
    """As on a node that has a disk of its own where the first one has the run's folder."""
    claim._read_owner = lambda folder: b""
    claim._SEEN_SECONDS = 0.0
