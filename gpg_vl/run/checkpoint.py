"""Checkpoints: a complete model folder and, in ``training_state``, what the run needs to continue from there.

A checkpoint is written under another name, synced to disk, sealed with a manifest of sizes and hashes, and renamed
last; only then are older ones removed. So a folder named ``checkpoint-STEP`` was once complete, and the manifest shows
whether it still is. The state is safetensors and JSON; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from gpg_vl.config import Recipe
from gpg_vl.errors import first_line
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.folder.paths import checkpoint_folder, checkpoint_step, find_checkpoints, is_checkpoint
from gpg_vl.models.folder.saving import save_model
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import run_on_main, run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.whole_weights import weights_to_save
from gpg_vl.run.checkpoint_writing import (
    STATE_FOLDER,
    Contents,
    finish_folder,
    free_space,
    library_versions,
    random_file,
    start_folder,
    write_contents,
)
from gpg_vl.run.kept_checkpoints import removable_checkpoints
from gpg_vl.run.leftovers import partial_folder, remove_folder, remove_leftovers
from gpg_vl.run.moments import SEEN_SECONDS, FilesOfOthers, open_moments, refuse_unseen, write_own
from gpg_vl.run.random_state import restore_random_state
from gpg_vl.run.saved_rollout import pack_rollout
from gpg_vl.run.state_files import build_record, read_json
from gpg_vl.update.optimizer_state import load_entries, read_portions
from gpg_vl.update.rollouts import Rollout

T = TypeVar("T")

STATE_VERSION = 1
"""Incremented when an older kit would misread a checkpoint's state."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What determines the rest of a run besides weights, optimizer and random states.

    The learning rate follows from the step; prompts and sampled tokens from step, stream and seed. It is saved between
    steps, so no groups of a refill are kept: an unfinished step is repeated from the same prompts. A rollout that has
    updates left is kept beside it (``saved_rollout.py``).
    """

    step: int  # finished optimizer steps
    stream: dict[str, Any]  # state of the sample stream after them
    validated_step: int  # last step that was validated
    validation: dict[str, float]  # task -> its score, if that was this step; else empty
    tasks_done: list[str]  # tasks that have reached their run.stop_when score
    all_done_step: int | None  # step at which all of them had
    counters: dict[str, int]
    data: list[str]  # a digest of the rows of each training source
    pins: dict[str, str] = field(default_factory=dict)  # digests of the user's code and of an adapter's model


@dataclass(frozen=True, slots=True)
class OwnState:
    """What a rank brings to a checkpoint beside its part of weights and moments; alike on all but for ``random_state``
    and its groups of the rollout."""

    state: TrainingState
    random_state: Mapping[str, Any]  # at the end of that step
    metrics: Mapping[str, Any]  # the run's latest, for the model card
    rollout: Rollout | None = None  # one that has updates left, if any
    learned: Mapping[str, Tensor] | None = None  # state of the part of the reward that learns on, if any


def save_checkpoint(recipe: Recipe, adapter: Adapter, optimizer: Any, accelerator: Accelerator, own: OwnState) -> Path:
    """Writes ``OUTPUT_DIR/checkpoint-STEP`` atomically and returns it. All ranks call it together.

    Each writes its share of the optimizer's state, the first one everything else.

    Args:
        optimizer: torch's optimizer, or DeepSpeed's wrapper of it

    Raises:
        OSError: it could not be written, e.g. on a full disk; earlier checkpoints are untouched
        NotFinite: a weight is NaN or infinite; with several ranks, RankError on all of them
    """
    final = checkpoint_folder(Path(recipe.run.output_dir), own.state.step)
    partial = partial_folder(final)
    contents = gather_contents(recipe, own, accelerator)
    with naming_failure(final, accelerator.is_main_process):
        with weights_to_save(accelerator):
            on_main(lambda: start_folder(adapter, partial, own.state.step))
            on_main(lambda: save_model(adapter, partial, recipe, own.metrics))
        portions = read_portions(optimizer, adapter.trainable_parameters(), sharding_of(accelerator))
        rank, folder = accelerator.process_index, partial / STATE_FOLDER
        written = run_together(lambda: with_disk_errors(lambda: write_own(portions, folder, rank)))
        others = FilesOfOthers(path for paths in gather_object([written])[1:] for path in paths)
        on_main(lambda: _wait_for(others))
        on_main(lambda: write_contents(contents, partial))
        on_main(lambda: finish_folder(partial, final))
    run_on_main(lambda: remove_old_checkpoints(final.parent, recipe.run.save_total_limit))
    return final


def _wait_for(others: FilesOfOthers) -> None:
    """For what is written already; a folder must not be sealed without it."""
    others.give_up(SEEN_SECONDS)
    if not others.have_come():
        refuse_unseen()


def gather_contents(recipe: Recipe, own: OwnState, accelerator: Accelerator) -> Contents:
    """What the checkpoint holds of all ranks, which call it together."""
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    packed = None if own.rollout is None else pack_rollout(own.rollout, rank, num_ranks)
    plain = {"version": STATE_VERSION, **asdict(own.state)}
    return Contents(recipe, plain, gather_object([own.random_state]), packed, own.learned)


@contextmanager
def naming_failure(final: Path, is_main: bool) -> Iterator[None]:
    """Inside, a checkpoint is written: if the disk fails, the error names it, and what was written is removed."""
    try:
        yield
    except OSError as error:
        if is_main:
            free_space(partial_folder(final))
        raise type(error)(f"{final} could not be written: {error}") from error


def on_main(write: Callable[[], None]) -> None:
    """Writes on the first rank; its failure is that of all."""
    run_on_main(lambda: with_disk_errors(write))


def with_disk_errors(write: Callable[[], T]) -> T:
    try:
        return write()
    except SafetensorError as error:  # safetensors has no other error for a full disk
        raise OSError(str(error)) from error


def remove_old_checkpoints(output_dir: Path, limit: int | None) -> None:
    """Keeps the newest ``limit`` checkpoints, the one with the best validation score, and those saved without limit.

    Removes what earlier removals left.
    """
    remove_leftovers(output_dir)
    if limit is None:
        return
    checkpoints = removable_checkpoints(output_dir)
    best = find_best_checkpoint(output_dir)
    for folder in checkpoints[:-limit]:
        if folder != best:
            remove_folder(folder)


def find_best_checkpoint(output_dir: Path) -> Path | None:
    """The checkpoint with the best validation score (mean over tasks); the oldest of equal ones."""
    scores: dict[Path, float] = {}
    for folder in find_checkpoints(output_dir):
        try:
            validation = load_state(folder).validation
        except (OSError, ValueError, TypeError):  # damaged since: no reason to end a run that has a newer one
            continue
        if validation:
            scores[folder] = sum(validation.values()) / len(validation)
    return max(scores, key=scores.__getitem__, default=None)


def load_state(folder: Path) -> TrainingState:
    """
    Raises:
        ValueError: the folder has no training state, e.g. because it is an exported model, or one that this version
            cannot read
    """
    path = folder / STATE_FOLDER / "state.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {STATE_FOLDER}/state.json: it is a model, not a checkpoint of a run; choose another"
        )
    plain = read_json(path)
    version = plain.pop("version", 1)  # what the first versions wrote has none
    if version != STATE_VERSION:
        raise ValueError(
            f"{path} has version {version!r}, and this kit reads {STATE_VERSION}; use the kit that wrote it"
        )
    state = build_record(TrainingState, plain, path)
    _check_steps(state, path)
    return state


def _check_steps(state: TrainingState, path: Path) -> None:
    """Refuses counts that no run can have."""
    folder = path.parent.parent
    if is_checkpoint(folder) and state.step != checkpoint_step(folder):
        raise ValueError(f"{path} is of step {state.step}, not of {folder.name}; restore the folder")
    so_far = {"validated_step": state.validated_step, "all_done_step": state.all_done_step or 0}
    for name, number in (so_far | state.counters | {"step": state.step}).items():
        if number < 0 or (name in so_far and number > state.step):
            raise ValueError(f"{path}: {name} is {number} after step {state.step}; restore the file")


def load_random_state(folder: Path, rank: int) -> bool:
    """Restores a rank's random states; False if the checkpoint has none because it was saved with fewer ranks.

    Raises:
        ValueError: the file is not one that was written here, or the first rank's is missing
    """
    path = folder / STATE_FOLDER / random_file(rank)
    if rank > 0 and not path.exists():
        return False
    plain = read_json(path)
    try:
        restore_random_state(plain)
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} holds no random states ({first_line(error)}); restore it") from error
    return True


def changed_versions(folder: Path) -> dict[str, tuple[str, str]]:
    """Libraries whose version has changed since the checkpoint was written, with both versions."""
    now, then = library_versions(), read_json(folder / STATE_FOLDER / "versions.json")
    return {name: (then[name], now[name]) for name in now if then.get(name, now[name]) != now[name]}


def load_optimizer(folder: Path, adapter: Adapter, optimizer: Any, accelerator: Accelerator) -> None:
    """Restores the optimizer's state parameter by parameter, whatever layout it was saved with.

    Raises:
        ValueError: its files are missing, not safetensors, or not of these parameters
    """
    try:
        _load_optimizer(folder, adapter, optimizer, accelerator)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder / STATE_FOLDER} holds no state of an optimizer ({first_line(error)}); restore it"
        ) from error


def _load_optimizer(folder: Path, adapter: Adapter, optimizer: Any, accelerator: Accelerator) -> None:
    with open_moments(folder / STATE_FOLDER) as stored:
        _refuse_others(stored.keys(), {name for name, _ in adapter.trainable_parameters()})
        named = adapter.trainable_parameters()
        load_entries(optimizer, named, lambda name: stored.get(name, {}), sharding_of(accelerator))


def _refuse_others(found: Collection[str], trained: Collection[str]) -> None:
    if others := sorted(set(found) - set(trained)):
        raise ValueError(f"{others[0]} is not trained here")
