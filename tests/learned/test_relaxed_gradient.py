"""The learner's gradient with relaxed samples, against autograd of the written loss through plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import get_args
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe, RewardsConfig, RolloutConfig, UpdateConfig
from gpg_vl.learned.discriminator import Discriminator
from gpg_vl.learned.relaxed import relax
from gpg_vl.learned.relaxed_gradient import _seed
from gpg_vl.learned.reward_parts import build_parts
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.log_probs import mask_banned
from gpg_vl.objectives import build_objective
from gpg_vl.processes.sharding import LayoutName, Sharding
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.records import ScoredGroup
from gpg_vl.tasks import load_task
from gpg_vl.update import learner as learner_module
from gpg_vl.update.layouts import refuse_layout
from gpg_vl.update.learner import Learner
from tests.support.builders import SMALL_IMAGES
from tests.support.learner_gradients import GROUPS, collect, load, make_groups, plain_rows, worst_error
from tests.support.messages import naming
from tests.support.rank_gradients import KeepGradient
from tests.support.written_losses import Leaves, gapo

STEP, WEIGHT, TEMPERATURE = 5, 0.7, 0.6


def relaxed_loss(adapter: Adapter, groups: list[ScoredGroup], seed: int) -> Tensor:
    """One completion, one row at a time."""
    table = adapter.model.get_input_embeddings().weight.detach()
    network = Discriminator(table.shape[1], 8, spectral_norm=True, seed=seed).requires_grad_(requires_grad=False)
    values = []
    for group in groups:
        encoded = group.prompt.encoded
        for completion in group.completions:
            states = adapter.run_plain(encoded, completion.token_ids)[len(encoded.token_ids) - 1 : -1]
            logits = mask_banned(states @ adapter.head_weight.T, adapter.banned_token_ids)
            key = (seed, group.prompt.sample.id, STEP, completion.token_ids)
            noise = torch.Generator().manual_seed(_seed(key))
            rows = relax(logits.log_softmax(-1), torch.tensor(completion.token_ids), TEMPERATURE, noise)
            length = torch.tensor([len(completion.token_ids)])
            values.append(torch.sigmoid(network(states[:1].detach(), (rows @ table)[None], length)))
    return -WEIGHT * torch.cat(values).mean()


@pytest.mark.parametrize("budget", [64, 8192])
def test_gradient_equals_autograd_of_both_losses(model_folders: dict[str, Path], budget: int) -> None:
    folder = str(model_folders["qwen2_vl"])
    config = ObjectiveConfig(
        name="gapo", discriminator_gradient="relaxed", relaxed_temperature=TEMPERATURE, discriminator_width=8,
        spectral_norm=True,
    )  # fmt: skip
    recipe = Recipe(
        model=ModelConfig(path=folder, **SMALL_IMAGES),  # type: ignore[arg-type]
        rewards=RewardsConfig(weights={"discriminator": WEIGHT}),
        rollout=RolloutConfig(prompts_per_step=len(GROUPS), group_size=3, max_new_tokens=8),
        objective=config,
        update=UpdateConfig(tokens_per_micro_batch=budget),
    )
    accelerator, adapter, plain = Accelerator(), load(folder), load(folder)
    objective, groups = build_objective(config, 8), make_groups(adapter)
    gold = GoldCompletions(adapter, {"counting": load_task("counting")})
    parts = build_parts(recipe, objective, adapter, gold, accelerator)
    with mock.patch.object(learner_module, "build_optimizer", lambda a, *_: KeepGradient(a.model.parameters())):
        learner = Learner(recipe, objective, adapter, accelerator, parts.gradient)
    learner.layout._max_grad_norm = 1e9  # type: ignore[attr-defined]
    assert parts.gold is not None
    parts.gold.measure(groups)
    stats = learner.accumulate_gradient(learner.open_rollout(STEP, collect(groups, objective, accelerator)))
    learner.take_step(1.0)
    found = {name: parameter.detach() for name, parameter in adapter.model.named_parameters()}

    rows = [plain_rows(plain, group) for group in groups]
    leaves = [
        Leaves(torch.tensor([r.total for r in group.rewards]).double(), now, old, old, [True] * 3)
        for group, now, old in zip(groups, rows, [[each.detach() for each in row] for row in rows], strict=True)
    ]
    of_relaxed = relaxed_loss(plain, groups, recipe.run.seed)
    (gapo(leaves, objective.config) + of_relaxed).backward()
    expected = {name: p.grad for name, p in plain.model.named_parameters() if p.grad is not None}
    assert worst_error(found, expected) < 1e-4
    assert stats is not None
    surrogate = sum(-a * row.sum() / len(row) for g in leaves for a, row in zip(g.rewards - g.rewards.mean(), g.current,
                                                                                strict=True)) / 12  # fmt: skip
    assert stats.loss == pytest.approx(float(surrogate + of_relaxed), abs=1e-5)


def test_layouts_that_share_gradients_are_refused() -> None:
    relaxed = Recipe(objective=ObjectiveConfig(name="gapo", discriminator_gradient="relaxed"))
    for name in get_args(LayoutName):
        if name in ("none", "zero1"):
            refuse_layout(relaxed, Sharding(name))
            continue
        with pytest.raises(ValueError, match=naming("objective.discriminator_gradient", "SHARDING=none", "score")):
            refuse_layout(relaxed, Sharding(name))
        refuse_layout(Recipe(), Sharding(name))


def test_so_they_are_for_an_objective_that_is_relaxed_by_itself(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from gpg_vl.objectives.gapo import Gapo\n\n\n"
        'class Own(Gapo):\n    defaults = {**Gapo.defaults, "discriminator_gradient": "relaxed"}\n'
    )
    recipe = Recipe(objective=ObjectiveConfig(name=f"{own}:Own"))
    refuse_layout(recipe, Sharding("none"))
    with pytest.raises(ValueError, match=naming("objective.discriminator_gradient", "SHARDING=none", "score")):
        refuse_layout(recipe, Sharding("fsdp"))
