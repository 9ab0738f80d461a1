"""DeepSpeed files that a run cannot use. What ranks do at their start: ``faults/test_rank_starts.py``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch.distributed import TCPStore

from gpg_vl.processes import start
from gpg_vl.processes.sharding import offloads_optimizer
from gpg_vl.processes.start import _check_deepspeed
from tests.support.messages import naming
from tests.support.tiny_runs import REPOSITORY

LAYOUTS = sorted((REPOSITORY / "scripts/deepspeed").glob("*.json"))
OFFLOADED = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_shipped_files_are_taken(path: Any) -> None:
    config = json.loads(path.read_text())
    _check_deepspeed(config)
    assert offloads_optimizer(config) == path.stem.endswith("_offload")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"bf16": {"enabled": True}}, ["bf16", "model.dtype"]),
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps", "update.tokens_per_micro_batch"]),
        (OFFLOADED, ["zero_force_ds_cpu_optimizer", "false"]),
        ({**OFFLOADED, "zero_force_ds_cpu_optimizer": True}, ["zero_force_ds_cpu_optimizer", "false"]),
    ],
    ids=["bf16", "accumulation", "offload", "offload, said"],
)
def test_files_that_change_the_step_or_cannot_be_saved_are_refused(config: dict[str, Any], words: list[str]) -> None:
    """DeepSpeed's own AdamW, which it takes for an offloaded optimizer by itself, keeps no state that can be saved."""
    with pytest.raises(ValueError, match=naming(*words)) as error:
        _check_deepspeed(config)
    assert "\n" not in str(error.value)


def test_an_optimizer_is_offloaded_where_the_file_names_a_place() -> None:
    assert offloads_optimizer(OFFLOADED)
    for place in ({"device": "none"}, {}, None):
        assert not offloads_optimizer({"zero_optimization": {"stage": 3, "offload_optimizer": place}})
    assert not offloads_optimizer({})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The launcher's, of three ranks; this process is the second of them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
        "WORLD_SIZE": 3, "RANK": 1,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(start, "JOIN_SECONDS", 0.5)
    return store


def test_ranks_that_all_started_meet(store: TCPStore) -> None:
    store.set("gpg_vl/start/0", "gloo here")
    store.set("gpg_vl/start/2", "gloo there")
    start._meet("gloo")
    assert store.get("gpg_vl/start/1").startswith(b"gloo ")


def test_a_rank_that_did_not_start_is_not_waited_for_all_day(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that is there says so, and the others end with the same code."""
    store.set("gpg_vl/start/2", "gloo there")
    with pytest.raises(ValueError, match=naming("1 of 3", "rank 0")):
        start._meet("gloo")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(SystemExit) as ended:
        start._meet("gloo")
    assert ended.value.code == 2


def test_a_rank_that_comes_late_does_not_wait_for_one_that_left(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("gpg_vl/start/2", "gloo there")
    with pytest.raises(ValueError, match=naming("rank 0")):
        start._meet("gloo")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=naming("rank 1", "has ended")):
        start._meet("gloo")


def test_a_rank_that_sees_no_gpu_is_named(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.set("gpg_vl/start/2", "gloo there")
    store.set("gpg_vl/start/1", "nccl here")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=naming("rank 2", "there", "GPU")):
        start._meet("nccl")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        start._meet("nccl")
