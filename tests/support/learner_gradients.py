"""``torchrun learner_gradients.py FOLDER``: the learner's gradient of every objective, against the written loss's.

The model in FOLDER is the reference. Its weights are moved; four groups are sampled, in name, by that policy; its
weights are moved again, and the learner makes an update of the rollout that is then off-policy, or makes it before. The
written loss (``written_losses.py``) takes log-probs of plain rows, one for each completion, of all groups on one
process. Prints a line of JSON for each case, with the worst relative error of a parameter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
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
    epochs: int = 2
    groups_per_update: int | None = None
    num_done: int = 1  # updates made before; at 0 the policy is the one that sampled
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


def move_to_sample(adapter: Adapter) -> None:
    """From the reference to the policy that samples."""
    move(adapter, size=0.2, seed=4)


def plain_rows(adapter: Adapter, group: ScoredGroup) -> list[Tensor]:
    return [plain_log_probs(adapter, group.prompt.encoded, c, 1.0).double() for c in group.completions]


@dataclass(frozen=True)
class PlainPolicy:
    """A policy and its plain rows of every group, [groups][G][T], through which each case goes backward again."""

    adapter: Adapter
    rows: list[list[Tensor]]


@cache
def plain_policies(folder: str) -> tuple[PlainPolicy, PlainPolicy, PlainPolicy]:
    """The reference, the policy that sampled, and that which moved since."""
    reference, sampler, moved = (load(folder) for _ in range(3))
    for each in (sampler, moved):
        move_to_sample(each)
    move(moved)
    policies = []
    for each in (reference, sampler, moved):
        policies.append(PlainPolicy(each, [plain_rows(each, group) for group in make_groups(each)]))
    return policies[0], policies[1], policies[2]


def written_gradients(
    folder: str, objective: Objective, groups: Sequence[ScoredGroup], case: Case
) -> dict[str, Tensor]:
    """By autograd through plain rows."""
    reference, sampler, moved = plain_policies(folder)
    policy = moved if case.num_done else sampler
    policy.adapter.model.zero_grad()
    leaves = [
        Leaves(
            torch.tensor([reward.total for reward in groups[n].rewards], dtype=torch.float64),
            policy.rows[n], *([row.detach() for row in each.rows[n]] for each in (sampler, reference)),
            [c.finished for c in groups[n].completions],
        )
        for n in case.expected
    ]  # fmt: skip
    WRITTEN[objective.config.name](leaves, objective.config).backward(retain_graph=True)
    named = policy.adapter.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


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
    update = UpdateConfig(
        epochs_per_rollout=case.epochs,
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
    objective = build_objective(config, MAX_LENGTH, recipe.reuses_rollouts)
    adapter = load(folder)
    move_to_sample(adapter)
    groups = make_groups(adapter)
    with mock.patch.object(learner_module, "build_optimizer", lambda a, *_: KeepGradient(a.model.parameters())):
        learner = Learner(recipe, objective, adapter, accelerator)
    learner.layout._max_grad_norm = 1e9  # type: ignore[attr-defined]
    learner._is_checked = True  # the self-check is none of this
    rollout = learner.open_rollout(1, collect(groups, objective, accelerator))
    if case.num_done:
        move(adapter)
    rollout.num_done = 0 if case.is_stale else case.num_done
    learner.accumulate_gradient(rollout)
    learner.take_step(1.0)
    found = {name: parameter.detach() for name, parameter in adapter.model.named_parameters()}
    return worst_error(found, written_gradients(folder, objective, groups, case))


WITH_KL = ("grpo with KL", "rloo with KL", "rebel with KL")


def cases() -> dict[str, Case]:
    """Every objective in the only update of a rollout, and off-policy; several micro-batches; mini-batches."""
    found = {name: Case(keys) for name, keys in CASES.items() if name not in ON_POLICY}
    found |= {f"{name}, one update": Case(keys, epochs=1, num_done=0) for name, keys in CASES.items()}
    found |= {f"{name}, first update": Case(CASES[name], num_done=0) for name in WITH_KL}
    names = {name: f"{name}, one update" if name in ON_POLICY else name for name in CASES}
    found |= {f"{name}, small micro-batches": in_small_micro_batches(found[case]) for name, case in names.items()}
    grpo, dapo = CASES["grpo"], CASES["dapo"]
    found["first mini-batch"] = Case(grpo, groups_per_update=2, num_done=2, expected=(0, 1))
    found["second mini-batch"] = Case(grpo, groups_per_update=2, num_done=1, expected=(2, 3))
    found["mini-batch of trained groups"] = Case(dapo, groups_per_update=1, num_done=1, expected=(2,))
    found["uneven mini-batch"] = Case(CASES["gvpo"], groups_per_update=3, num_done=1, expected=(3,))
    return found


def in_small_micro_batches(case: Case) -> Case:
    return replace(case, tokens_per_micro_batch=64)


def main() -> None:
    accelerator = start_ranks()
    for name, case in cases().items():
        errors = gather_object([measure(sys.argv[1], case, accelerator)])
        if accelerator.is_main_process:
            sys.stdout.write(json.dumps({"case": name, "errors": errors}) + "\n")  # in one piece
    end_ranks()


if __name__ == "__main__":
    main()
