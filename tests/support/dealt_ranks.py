"""``torchrun dealt_ranks.py MODEL``: groups that the first rank alone has sampled, and an update of a learner of each.

Prints a line of JSON: what each rank's groups cost, as sampled and as trained, and trained where a further gradient
reads what a rank has kept of its prompts; and the worst relative error of a parameter's gradient against the written
loss's.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

from accelerate import Accelerator

from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe, RolloutConfig, UpdateConfig
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import Objective
from gpg_vl.processes.collectives import gather_object, sum_totals
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.start import start_ranks
from gpg_vl.processes.whole_weights import whole_weights
from gpg_vl.records import CollectedGroups, ScoredGroup
from gpg_vl.update import learner as learner_module
from gpg_vl.update.balance import cost_of
from gpg_vl.update.learner import Learner
from tests.support.builders import SMALL_IMAGES
from tests.support.learner_gradients import (
    GROUPS,
    MAX_LENGTH,
    Case,
    load,
    make_groups,
    move_to_sample,
    worst_error,
    written_gradients,
)
from tests.support.objective_cases import CASES
from tests.support.rank_gradients import KeepGradient

CASE = Case(CASES["reinforce"], epochs=1, num_done=0)


def collect(mine: list[ScoredGroup], objective: Objective, accelerator: Accelerator) -> CollectedGroups:
    [totals] = sum_totals(accelerator, [objective.count(mine, mine)])
    return CollectedGroups(mine, list(range(len(mine))), mine, [], totals, 1, 0.0, 0.0)


def loads(groups: list[ScoredGroup]) -> list[int]:
    return gather_object([sum(map(cost_of, groups))])


def measure(folder: str, accelerator: Accelerator) -> dict[str, Any]:
    config, adapter = ObjectiveConfig(**CASE.objective), load(folder)
    recipe = Recipe(
        model=ModelConfig(path=folder, **SMALL_IMAGES),  # type: ignore[arg-type]
        rollout=RolloutConfig(prompts_per_step=len(GROUPS), group_size=3, max_new_tokens=MAX_LENGTH),
        objective=config,
        update=UpdateConfig(max_grad_norm=1e9),
    )
    objective = build_objective(config, MAX_LENGTH, recipe.reuses_rollouts)
    move_to_sample(adapter)
    groups = make_groups(adapter)
    with mock.patch.object(learner_module, "build_optimizer", lambda a, *_: KeepGradient(a.model.parameters())):
        learner = Learner(recipe, objective, adapter, accelerator)
    learner._is_checked = True  # the self-check is none of this
    mine = groups if accelerator.is_main_process else []
    collected = collect(mine, objective, accelerator)
    with mock.patch.object(learner, "_beside", object()):
        stays = learner.open_rollout(1, collected)
    rollout = learner.open_rollout(1, collected)
    learner.accumulate_gradient(rollout)
    learner.take_step(1.0)
    with whole_weights(accelerator):
        found = {name: each.detach().clone() for name, each in adapter.model.named_parameters()}
    error = worst_error(found, written_gradients(folder, objective, groups, CASE))
    return {
        "sampled": loads(mine),
        "beside": loads([each.group for each in stays.groups]),
        "trained": loads([each.group for each in rollout.groups]),
        "errors": gather_object([error]),
    }


if __name__ == "__main__":
    ACCELERATOR = start_ranks(on_cpu=True)
    row = measure(sys.argv[1], ACCELERATOR)
    if ACCELERATOR.is_main_process:
        sys.stdout.write(json.dumps(row) + "\n")
    end_ranks()
