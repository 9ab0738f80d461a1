"""A rollout with updates still to make, as a checkpoint keeps it: weights that have moved would sample another.

``rollout.json`` holds the groups of all ranks, ``rollout.safetensors`` their image features where the vision tower is
frozen. Prompts are made again from their rows, with the text that they had.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpg_vl.data.sources import Source
from gpg_vl.models.inputs.vision_records import features_to_tensors, tensors_to_features
from gpg_vl.processes.collectives import gather_object
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.saved_views import read_view
from gpg_vl.records import (
    Completion,
    GroupLogProbs,
    ImageFeatures,
    Prompt,
    Reward,
    Sample,
    ScoredGroup,
    StepTotals,
)
from gpg_vl.run.state_files import build_record, read_json
from gpg_vl.update.rollouts import AnchoredGroup, Rollout, UpdateBatch
from gpg_vl.user_code import describe_error

ROLLOUT_FILE = "rollout.json"
FEATURES_FILE = "rollout.safetensors"

Plain = dict[str, Any]
Packed = tuple[Plain, dict[str, Tensor]]
"""A rollout as JSON holds it, and its features by name."""


def pack_rollout(rollout: Rollout, rank: int, num_ranks: int) -> Packed:
    """The rollout with the groups of all ranks. All ranks together."""
    mine = [
        (_pack_group(each, number, rank), _tensors(each.group.features))
        for number, batch in enumerate(rollout.batches)
        for each in batch.groups
    ]
    groups = gather_object(mine)
    plain = {
        "step": rollout.step,
        "num_updates": rollout.num_updates,
        "num_done": rollout.num_done,
        "num_ranks": num_ranks,
        "totals": [astuple(batch.totals) for batch in rollout.batches],
        "groups": [each for each, _ in groups],
    }
    features = {
        f"{number}/{place}": tensor
        for number, (_, tensors) in enumerate(groups)
        for place, tensor in enumerate(tensors)
    }
    return plain, features


def write_rollout(packed: Packed, folder: Path) -> None:
    plain, features = packed
    (folder / ROLLOUT_FILE).write_text(json.dumps(plain), encoding="utf-8")
    if features:
        save_file(features, folder / FEATURES_FILE)


def read_rollout(
    folder: Path, sources: Sequence[Source], prompts: PromptBuilder, rank: int, num_ranks: int
) -> Rollout | None:
    """This rank's part of the rollout; None where the checkpoint has none.

    On the same number of ranks, each gets its own groups.

    Raises:
        ValueError: a row or an image is gone, or the file is not one that was written here
    """
    if not (folder / ROLLOUT_FILE).is_file():
        return None
    plain = read_json(folder / ROLLOUT_FILE)
    check_rollout(plain, folder / ROLLOUT_FILE)
    try:
        return _unpack_rollout(folder, plain, sources, prompts, rank, num_ranks)
    except (KeyError, TypeError, IndexError, AttributeError, SafetensorError, OverflowError) as error:
        cause = describe_error(error)
        raise ValueError(f"{folder / ROLLOUT_FILE} holds no rollout of this kit ({cause}); restore it") from error


@dataclass(frozen=True, slots=True)
class _SavedRollout:
    step: int
    num_updates: int
    num_done: int
    num_ranks: int
    totals: list[list[int]]
    groups: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _SavedGroup:
    rank: int
    batch: int
    prompt: dict[str, Any]
    completions: list[dict[str, Any]]
    rewards: list[dict[str, Any]]
    old: list[list[float]] | None
    reference: list[list[float]] | None


@dataclass(frozen=True, slots=True)
class _SavedCompletion:
    token_ids: list[int]
    text: str
    finished: bool
    log_probs: list[float] | None


def check_rollout(plain: Plain, path: Path) -> None:
    """
    Raises:
        ValueError: a value is of another type, or of a batch, rank or token that there is not; names it
    """
    rollout = build_record(_SavedRollout, plain, path)
    if not 0 <= rollout.num_done <= rollout.num_updates or not rollout.totals:
        raise ValueError(
            f"{path}: num_done is {rollout.num_done}, of {rollout.num_updates} updates in {len(rollout.totals)} "
            "batches; restore the file"
        )
    for number, each in enumerate(rollout.groups, start=1):
        group = build_record(_SavedGroup, each, path)
        lengths = [len(build_record(_SavedCompletion, one, path).token_ids) for one in group.completions]
        counts = [[len(row) for row in rows] for rows in (group.old, group.reference) if rows is not None]
        is_there = 0 <= group.rank < rollout.num_ranks and 0 <= group.batch < len(rollout.totals)
        if not is_there or len(group.rewards) != len(lengths) or any(found != lengths for found in counts):
            raise ValueError(f"{path}: group {number} does not fit its rank, batch or tokens; restore the file")


def _unpack_rollout(
    folder: Path, plain: Plain, sources: Sequence[Source], prompts: PromptBuilder, rank: int, num_ranks: int
) -> Rollout:
    features = load_file(folder / FEATURES_FILE) if (folder / FEATURES_FILE).is_file() else {}
    samples = _find_samples({each["prompt"]["id"] for each in plain["groups"]}, sources)
    batches = [UpdateBatch([], StepTotals(*totals)) for totals in plain["totals"]]
    for number, each in enumerate(plain["groups"]):
        owner = each["rank"] if plain["num_ranks"] == num_ranks else number % num_ranks
        if owner == rank:
            prompt = _unpack_prompt(each["prompt"], samples, prompts)
            batches[each["batch"]].groups.append(_unpack_group(each, prompt, _features(features, number)))
    return Rollout(plain["step"], batches, plain["num_updates"], plain["num_done"])


def _tensors(features: ImageFeatures | None) -> tuple[Tensor, ...]:
    return () if features is None else features_to_tensors(features)


def _features(saved: Mapping[str, Tensor], number: int) -> ImageFeatures | None:
    tensors: list[Tensor] = []
    while f"{number}/{len(tensors)}" in saved:
        tensors.append(saved[f"{number}/{len(tensors)}"])
    return tensors_to_features(tensors) if tensors else None


def _pack_group(each: AnchoredGroup, batch: int, rank: int) -> Plain:
    prompt = each.group.prompt
    views = [asdict(view) for view in prompt.views]
    return {
        "rank": rank,
        "batch": batch,
        "prompt": {"id": prompt.sample.id, "text": prompt.text, "messages": prompt.messages, "views": views},
        "completions": [asdict(completion) for completion in each.group.completions],
        "rewards": [asdict(reward) for reward in each.group.rewards],
        "old": each.old,
        "reference": each.reference,
    }


def _unpack_prompt(plain: Plain, samples: Mapping[str, Sample], prompts: PromptBuilder) -> Prompt:
    messages = tuple((role, text) for role, text in plain["messages"])
    views = tuple(map(read_view, plain["views"]))
    return prompts.rebuild(samples[plain["id"]], plain["text"], views, messages)


def _unpack_group(plain: Plain, prompt: Prompt, features: ImageFeatures | None) -> AnchoredGroup:
    completions = tuple(
        Completion(tuple(c["token_ids"]), c["text"], c["finished"], c["log_probs"] and tuple(c["log_probs"]))
        for c in plain["completions"]
    )
    rewards = tuple(Reward(**reward) for reward in plain["rewards"])
    group = ScoredGroup(prompt, completions, rewards, features)
    return AnchoredGroup(group, _rows(plain["old"]), _rows(plain["reference"]))


def _rows(rows: Iterable[Iterable[float]] | None) -> GroupLogProbs | None:
    return None if rows is None else tuple(tuple(row) for row in rows)


def _find_samples(ids: set[str], sources: Sequence[Source]) -> dict[str, Sample]:
    found = {sample.id: sample for source in sources for sample in source.samples if sample.id in ids}
    if missing := sorted(ids - set(found)):
        raise ValueError(f"data.train: the run in run.output_dir was sampled from a row {missing[0]!r}; restore it")
    return found
