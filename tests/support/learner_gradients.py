"""``torchrun learner_gradients.py FOLDER``: the learner's gradient of every objective, against the written loss's.

Four groups are sampled, in name, by the model in FOLDER, the weights are moved, and the learner makes an update of the
rollout that is then off-policy. The written loss (``written_losses.py``) takes log-probs of plain rows, one for each
completion, of all groups on one process. Prints a line of JSON for each case, with the worst relative error of a
parameter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe, RolloutConfig, UpdateConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.processes.collectives import gather_object, sum_totals
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.start import start_ranks
from gpg_vl.records import CollectedGroups, Reward, ScoredGroup
from gpg_vl.update import learner as learner_module
from gpg_vl.update.learner import Learner
from tests.support.builders import SMALL_IMAGES, make_prompt, make_sample, random_completions
from tests.support.objective_cases import CASES, ON_POLICY
from tests.support.rank_gradients import KeepGradient
from tests.support.written_losses import WRITTEN, Leaves

MAX_LENGTH = 8
# image sizes, completion lengths, rewards: mixed, right, mixed without an image, wrong
GROUPS: list[tuple[list[tuple[int, int]], list[int], list[float]]] = [
    ([(84, 84)], [4, 7, 2], [1.0, 0.0, 0.3]),
    ([(56, 84)], [3, 1, 5], [1.0, 1.0, 1.0]),
    ([], [2, 6, 4], [0.0, 0.8, 1.0]),
    ([(84, 56)], [5, 2, 3], [0.0, 0.0, 0.0]),
]


@dataclass(frozen=True)
class Case:
    objective: dict[str, Any]
    tokens_per_micro_batch: int = 8192
    groups_per_update: int | None = None
    num_done: int = 1  # updates made before
    expected: tuple[int, ...] = (0, 1, 2, 3)  # the groups that the update is a mean over, of ``GROUPS``
    is_stale: bool = False  # a fault: the weights' move goes unnoticed


def load(folder: str) -> Adapter:
    return load_adapter(ModelConfig(path=folder, **SMALL_IMAGES))  # type: ignore[arg-type]


def make_groups(adapter: Any) -> list[ScoredGroup]:
    groups = []
    for seed, (sizes, lengths, rewards) in enumerate(GROUPS):
        prompt = make_prompt(adapter, make_sample(sizes, seed))
        completions = random_completions(adapter, lengths, seed)
        groups.append(ScoredGroup(prompt, completions, tuple(Reward(r, {}, "ok") for r in rewards)))
    return groups


def move(adapter: Adapter, size: float = 0.05, seed: int = 3) -> None:
    """Every weight, by a share of its matrix's spread: the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += size * parameter.std().nan_to_num() * noise


def plain_rows(adapter: Adapter, group: ScoredGroup) -> list[Tensor]:
    return [plain_log_probs(adapter, group.prompt.encoded, c, 1.0).double() for c in group.completions]


def written_gradients(
    adapter: Adapter, objective: Objective, groups: Sequence[ScoredGroup], old: Sequence[list[Tensor]]
) -> dict[str, Tensor]:
    """By autograd through plain rows. The policy that sampled is the reference."""
    adapter.model.zero_grad()
    leaves = [
        Leaves(
            torch.tensor([reward.total for reward in group.rewards], dtype=torch.float64),
            plain_rows(adapter, group), rows, rows, [c.finished for c in group.completions],
        )
        for group, rows in zip(groups, old, strict=True)
    ]  # fmt: skip
    WRITTEN[objective.config.name](leaves, objective.config).backward()
    return {name: p.grad.clone() for name, p in adapter.model.named_parameters() if p.grad is not None}


def collect(groups: Sequence[ScoredGroup], objective: Objective, accelerator: Accelerator) -> CollectedGroups:
    """This rank's groups: every other one, so that ranks differ in what they train."""
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    mine, numbers = list(groups[rank::num_ranks]), list(range(rank, len(groups), num_ranks))
    trained = [group for group in mine if objective.trains(group)]
    [totals] = sum_totals(accelerator, [objective.count(mine, trained)])
    return CollectedGroups(mine, numbers, trained, [], totals, 1, 0.0, 0.0)


def worst_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    errors = []
    for name, each in found.items():
        wanted = expected.get(name, torch.zeros_like(each))
        errors.append(float((each - wanted).norm() / wanted.norm()) if wanted.norm() > 1e-7 else float(each.norm()))
    return max(errors)


def measure(folder: str, case: Case, accelerator: Accelerator) -> float:
    is_reused = case.num_done > 0
    update = UpdateConfig(
        epochs_per_rollout=2 if is_reused else 1,
        groups_per_update=case.groups_per_update,
        tokens_per_micro_batch=case.tokens_per_micro_batch,
    )
    config = ObjectiveConfig(**case.objective)
    recipe = Recipe(
        model=ModelConfig(path=folder, **SMALL_IMAGES),  # type: ignore[arg-type]
        rollout=RolloutConfig(prompts_per_step=len(GROUPS), group_size=3, max_new_tokens=MAX_LENGTH),
        objective=config,
        update=update,
    )
    objective = build_objective(config, MAX_LENGTH, is_reused)
    plain, adapter = load(folder), load(folder)
    groups = make_groups(adapter)
    with torch.no_grad():
        old = [plain_rows(plain, group) for group in groups]
    with mock.patch.object(learner_module, "build_optimizer", lambda a, _: KeepGradient(a.model.parameters())):
        learner = Learner(recipe, objective, adapter, accelerator)
    learner.layout._max_grad_norm = 1e9  # type: ignore[attr-defined]
    rollout = learner.open_rollout(1, collect(groups, objective, accelerator))
    if is_reused:
        for each in (plain, adapter):
            move(each)
    rollout.num_done = 0 if case.is_stale else case.num_done
    learner.accumulate_gradient(rollout)
    learner.take_step(1.0)
    found = {name: parameter.detach() for name, parameter in adapter.model.named_parameters()}
    used = [(groups[i], old[i]) for i in case.expected]
    return worst_error(found, written_gradients(plain, objective, *zip(*used, strict=True)))  # type: ignore[arg-type]


def cases() -> dict[str, Case]:
    """Every objective off-policy, or on-policy where it has to be; several micro-batches; mini-batches."""
    found = {name: Case(keys, num_done=int(name not in ON_POLICY)) for name, keys in CASES.items()}
    for name in ("grpo with KL", "gvpo", "rebel", "dapo, shaped and masked"):
        found[f"{name}, small micro-batches"] = Case(CASES[name], tokens_per_micro_batch=64)
    grpo, dapo = CASES["grpo"], CASES["dapo"]
    found["first mini-batch"] = Case(grpo, groups_per_update=2, num_done=2, expected=(0, 1))
    found["second mini-batch"] = Case(grpo, groups_per_update=2, num_done=1, expected=(2, 3))
    found["mini-batch of trained groups"] = Case(dapo, groups_per_update=1, num_done=1, expected=(2,))
    found["uneven mini-batch"] = Case(CASES["gvpo"], groups_per_update=3, num_done=1, expected=(3,))
    return found


def main() -> None:
    accelerator = start_ranks()
    for name, case in cases().items():
        errors = gather_object([measure(sys.argv[1], case, accelerator)])
        if accelerator.is_main_process:
            sys.stdout.write(json.dumps({"case": name, "errors": errors}) + "\n")  # in one piece
    end_ranks()


if __name__ == "__main__":
    main()
