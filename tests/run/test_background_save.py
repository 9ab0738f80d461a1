"""Checkpoints that are written while the run goes on: what they hold, and how they fail."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from gpg_vl.config import LoraConfig, Recipe, RunConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.manifest import find_damage
from gpg_vl.models.folder.paths import find_checkpoints
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.models.weights.finite import NotFinite
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.start import start_ranks
from gpg_vl.run import background_save, sealing
from gpg_vl.run.background_save import BackgroundSaves
from gpg_vl.run.checkpoint import OwnState, TrainingState, save_checkpoint
from gpg_vl.run.random_state import read_random_state
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.policy import PolicyForward
from tests.support.messages import lines_naming, naming


class Training:
    """A model with moments, a run's folder with checkpoint-1, and what writes the next ones."""

    def __init__(self, adapter: QwenVLAdapter, output_dir: Path, accelerator: Accelerator | None = None):
        output_dir.mkdir()
        self.folder = output_dir
        self.adapter = adapter
        self.recipe = Recipe(model=adapter.config, run=RunConfig(output_dir=str(output_dir), save_total_limit=None))
        self.optimizer = build_optimizer(adapter, self.recipe.update)
        self.accelerator = accelerator or Accelerator()
        self.saves = BackgroundSaves(adapter, self.optimizer, self.accelerator)
        self.take_step()
        assert self.saves.has_to_wait(), "the first one is loaded to check it"
        self.saves.follow(self.save(1))
        assert not self.saves.has_to_wait()

    def take_step(self) -> None:
        for number, (_, weight) in enumerate(self.adapter.trainable_parameters()):
            weight.grad = torch.full_like(weight, 0.1 + number)
        self.optimizer.step()

    def own(self, step: int) -> OwnState:
        return OwnState(TrainingState(step, {}, 0, {}, [], None, {}, []), read_random_state(), {"reward": 0.5})

    def save(self, step: int) -> Path:
        return save_checkpoint(self.recipe, self.adapter, self.optimizer, self.accelerator, self.own(step))

    def begin(self, step: int) -> None:
        self.saves.begin(self.recipe, self.own(step))


@pytest.fixture
def training(load: Callable[..., QwenVLAdapter], tmp_path: Path) -> Iterator[Training]:
    made = Training(load(), tmp_path / "run")
    yield made
    made.saves.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What is begun is written once this is set."""
    gate, write = threading.Event(), background_save.write_weights

    def wait_and_write(*words: Any) -> None:
        assert gate.wait(60)
        write(*words)

    monkeypatch.setattr(background_save, "write_weights", wait_and_write)
    return gate


def files_of(checkpoint: Path) -> dict[str, Any]:
    """Tensors, or the text without the step; the manifest follows from them."""
    paths = [
        path for path in checkpoint.rglob("*") if path.is_file() and path.name not in ("manifest.json", "state.json")
    ]
    return {
        str(path.relative_to(checkpoint)): {name: each.numpy().tobytes() for name, each in load_file(path).items()}
        if path.suffix == ".safetensors"
        else path.read_text()
        for path in paths
    }


@pytest.mark.parametrize(
    ("config", "is_rounded"),
    [({}, False), ({"dtype": "bfloat16", "freeze": ["vision"]}, True), ({"lora": LoraConfig(r=4)}, False)],
    ids=["whole", "rounded", "lora"],
)
def test_it_holds_what_was_there_when_it_was_begun(
    load: Callable[..., QwenVLAdapter], tmp_path: Path, gate: threading.Event, config: dict[str, Any], is_rounded: bool
) -> None:
    """The same files as of a save that waits, although all that is trained moves before they are written."""
    adapter = load(**config)
    if is_rounded:
        adapter.round_weights()
    training = Training(adapter, tmp_path / "run")
    before = {name: each.clone() for name, each in adapter.model.state_dict().items()}
    check_that_it_holds_what_was_there(training, gate)
    assert adapter.model.dtype == (torch.bfloat16 if is_rounded else torch.float32)
    frozen = [name for name, each in adapter.model.named_parameters() if not each.requires_grad]
    assert all(torch.equal(adapter.model.get_parameter(name), before[name]) for name in frozen)


@pytest.mark.parametrize("config", [{}, {"lora": LoraConfig(r=4)}], ids=["whole", "lora"])
def test_under_fsdp2_it_holds_what_was_there(
    load: Callable[..., QwenVLAdapter],
    tmp_path: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
) -> None:
    """Also with one process, where what is gathered may be the shard itself; and of an adapter alone."""
    monkeypatch.setenv("GPG_VL_SHARDING", "fsdp")
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = start_ranks(on_cpu=True)
    adapter = load(**config)
    shard_policy(accelerator, PolicyForward(adapter, 1.0))
    check_that_it_holds_what_was_there(Training(adapter, tmp_path / "run", accelerator), gate)
    end_ranks()
    AcceleratorState._reset_state(reset_partial_state=True)


def check_that_it_holds_what_was_there(training: Training, gate: threading.Event) -> None:
    expected = files_of(training.save(2))
    training.begin(3)
    training.take_step()
    with torch.no_grad():
        for _, weight in training.adapter.trainable_parameters():
            weight.zero_()
    training.adapter.follow_masters()
    assert training.saves.is_writing and not training.saves.is_done()
    assert (training.folder / "checkpoint-3.partial").is_dir()
    gate.set()
    folder = training.saves.finish()
    assert folder == training.folder / "checkpoint-3"
    assert not training.saves.is_writing
    assert find_damage(folder) is None
    check_model_folder(folder)
    assert files_of(folder) == expected


def test_a_full_disk_is_told_where_the_run_asks(
    training: Training, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk(*words: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(background_save, "write_own", fill_disk)
    training.begin(2)
    gate.set()
    with pytest.raises(OSError, match=naming("checkpoint-2", "No space left")):
        training.saves.finish()
    assert [path.name for path in training.folder.iterdir()] == ["checkpoint-1"]
    assert find_damage(training.folder / "checkpoint-1") is None
    assert training.saves.finish() is None, "it is told once"


def test_other_tensors_than_before_are_refused(training: Training, gate: threading.Event) -> None:
    training.adapter.model.register_parameter("stray", torch.nn.Parameter(torch.zeros(3)))
    training.begin(2)
    gate.set()
    with pytest.raises(ValueError, match=naming("checkpoint-2.partial", "stray")):
        training.saves.finish()
    assert find_checkpoints(training.folder) == [training.folder / "checkpoint-1"]


def test_weights_that_are_not_finite_are_refused_at_once(training: Training) -> None:
    next(iter(training.adapter.model.parameters())).data[0] = torch.nan
    with pytest.raises(NotFinite, match=naming("step 2")):
        training.begin(2)
    assert not training.saves.is_writing


def test_a_run_waits_where_the_host_has_no_memory_for_copies(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    num_weights, num_trained = training.adapter.num_parameters()
    needed = 4 * num_weights + 8 * num_trained
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * needed))
    assert not training.saves.has_to_wait()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * needed - 2))
    assert training.saves.has_to_wait() and training.saves.has_to_wait()
    assert len(lines_naming(capsys.readouterr().err, "memory", f"{needed / 1e9:.1f} GB")) == 1


def test_a_run_that_fails_completes_what_it_has_begun(training: Training, gate: threading.Event) -> None:
    training.begin(2)
    threading.Timer(0.2, gate.set).start()
    assert training.saves.close() == training.folder / "checkpoint-2"
    assert find_damage(training.folder / "checkpoint-2") is None
    assert training.saves.close() is None


def test_training_goes_first(training: Training, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes and what hashes take the processors that the run leaves."""
    found: dict[str, int] = {}

    def look(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def look_and_work(*words: Any) -> Any:
            found[name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            return work(*words)

        return look_and_work

    monkeypatch.setattr(background_save, "write_weights", look("writes", background_save.write_weights))
    monkeypatch.setattr(sealing, "hash_file", look("hashes", sealing.hash_file))
    training.begin(2)
    gate.set()
    assert training.saves.finish() == training.folder / "checkpoint-2"
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert found == dict.fromkeys(("writes", "hashes"), max(own, 10))
