"""From the recipe to the gradient: what a step of a run computes against the plain formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from data_tools.generate import draw_samples
from gpg_vl.assemble import assemble
from gpg_vl.data.sources import write_parquet
from gpg_vl.models import load_adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.objectives.valid_groups import has_signal
from gpg_vl.records import ScoredGroup
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import Loop, train
from gpg_vl.update import layouts
from gpg_vl.update.gradient import UpdateError
from tests.support.messages import naming
from tests.support.scripted_rewards import noise, score_by
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import sampled


@pytest.mark.parametrize("reduction", ["group", "sequence", "token", "token_official"])
def test_logged_loss_and_gradient_are_the_recipes(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduction: str
) -> None:
    """One step of a run against the plain formulas: refill, alpha, temperature, denominator, all by the recipe."""
    score_by(monkeypatch, lambda sample, text: noise(text) if int(sample.id.split("-")[-1]) % 3 == 0 else 0.0)
    recipe = make_recipe(
        run__steps=1, objective__beta_th=1.0, objective__reduction=reduction, rollout__temperature=0.7,
        objective__f_norm="std", update__learning_rate=3e-4, update__betas=[0.5, 0.6], update__weight_decay=0.3,
        update__warmup_steps=2,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    stages = assemble(recipe, Scorer(recipe.rewards), Accelerator())
    kept: list[Any] = []
    original = stages.collector.collect
    monkeypatch.setattr(stages.collector, "collect", lambda *words: kept.append(original(*words)) or kept[-1])
    for group in stages.learner.optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (3e-4, (0.5, 0.6), 0.3)
    reference = load_adapter(recipe.model)
    Loop(recipe, stages, Accelerator()).run()
    [row] = read_metrics(tmp_path / "run")
    loss = plain_loss(reference, kept[0].groups, reduction, temperature=0.7)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in reference.model.parameters() if p.grad is not None]).norm()
    assert row["draws"] > 1
    assert row["update"]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["update"]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert row["learning_rate"] == pytest.approx(1.5e-4)
    assert [group["lr"] for group in stages.learner.optimizer.param_groups] == pytest.approx([1.5e-4] * 3)


def plain_loss(adapter: Any, groups: list[ScoredGroup], reduction: str, temperature: float) -> torch.Tensor:
    """GPG as the paper and the published codes write it, on plain rows, over all sampled groups."""
    per_group, per_sequence, trained_tokens, all_tokens = [], [], [], []
    for group in groups:
        rewards = torch.tensor([reward.total for reward in group.rewards])
        valid = bool(rewards.max() - rewards.min() > 1e-5)
        advantages = (rewards - rewards.mean()) / rewards.std() if valid else torch.zeros_like(rewards)
        terms = [
            -advantage * plain_log_probs(adapter, group.prompt.encoded, completion, temperature)
            for advantage, completion in zip(advantages, group.completions, strict=True)
        ]
        per_group.append(torch.cat(terms).mean())
        per_sequence += [term.mean() for term in terms]
        all_tokens += terms
        trained_tokens += terms if valid else []
    alpha = len(groups) / sum(has_signal(group) for group in groups)
    return {
        "group": torch.stack(per_group).mean() * alpha,
        "sequence": torch.stack(per_sequence).mean() * alpha,
        "token": torch.cat(trained_tokens or [torch.zeros(1)]).mean(),
        "token_official": torch.cat(all_tokens).mean() * alpha,
    }[reduction]


def test_a_sample_drawn_twice_is_sampled_anew(make_recipe: MakeRecipe, tmp_path: Path, noisy_rewards: None) -> None:
    """Two rows, four prompts a step, two draws: every group has completions of its own."""
    path = tmp_path / "two.parquet"
    write_parquet(draw_samples("counting", 2, seed=3), path)
    recipe = make_recipe(data__train=[str(path)], run__steps=2, objective__beta_th=1.0, objective__max_draws=2)
    (tmp_path / "run").mkdir()
    stages = assemble(recipe, Scorer(recipe.rewards), Accelerator())
    stages.learner._objective.trains = lambda group: False  # type: ignore[method-assign]
    collected = stages.collector.collect(1)
    assert collected.num_draws == 2
    texts = [tuple(c.token_ids for c in group.completions) for group in collected.groups]
    assert len(set(texts)) == len(texts) == 8


def test_truncated_sampling_reaches_the_engine(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(run__steps=1, rollout__top_k=1))
    groups = [json.loads(line) for line in sampled(tmp_path / "run")[0].splitlines()]
    assert all(len({c["text"] for c in group["completions"]}) == 1 for group in groups)


def test_gold_of_a_base_prompt_continues_behind_think(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(objective__name="supervised", prompt__style="base", run__steps=1))
    [row, *_] = [json.loads(line) for line in sampled(tmp_path / "run")[0].splitlines()]
    assert row["prompt"].endswith("Assistant: <think>")
    assert row["completions"][0]["text"] == f"</think><answer>{row['answer']}</answer>"
    assert row["completions"][0]["reward"] == pytest.approx(1.2)


@pytest.mark.parametrize("objective", ["gpg", "grpo"])
def test_a_skipped_step_leaves_its_groups(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy_rewards: None, objective: str
) -> None:
    """With the coefficients that the update used, those of the KL too; the weights stay as they were."""
    backward = layouts.Replicated.backward
    monkeypatch.setattr(
        layouts.Replicated, "backward", lambda self, loss, is_last: backward(self, loss * math.nan, is_last)
    )
    kl = {"objective__alpha": False, "objective__kl_coefficient": 0.5} if objective == "grpo" else {}
    recipe = make_recipe(objective__name=objective, **kl, update__max_skips=2)
    with pytest.raises(UpdateError, match=naming("2 steps", "gradient")):
        train(recipe)
    run = tmp_path / "run"
    assert [row["skipped_steps"] for row in read_metrics(run)] == [1, 2]
    assert [row["update"]["grad_norm"] for row in read_metrics(run)] == [None, None]
    for step in (1, 2):
        groups = [json.loads(line) for line in (run / f"skipped/{step:06d}-rank-0.jsonl").read_text().splitlines()]
        assert len(groups) == 4
        for group in groups:
            assert list(map(len, group["coefficients"])) == list(map(len, group["completion_tokens"]))
    before = load_file(Path(recipe.model.path) / "model.safetensors")
    after = load_file(run / "checkpoint-2/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after)
