"""The discriminator as a part of the reward: what it scores, how it learns, how it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe
from gpg_vl.learned.discriminator import Discriminator
from gpg_vl.learned.gold_part import GoldLikeness, refuse_others
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.records import Reward, ScoredGroup
from gpg_vl.tasks import load_task
from gpg_vl.update.reference import InitialModel
from tests.support.builders import SMALL_IMAGES, make_prompt, make_sample, random_completions

LoadModel = Callable[..., QwenVLAdapter]
MakePart = Callable[..., GoldLikeness]


@pytest.fixture
def adapter(load: LoadModel) -> QwenVLAdapter:
    return load()


@pytest.fixture
def make_part(adapter: QwenVLAdapter, model_folders: dict[str, Path]) -> MakePart:
    def make(**keys: Any) -> GoldLikeness:
        objective = ObjectiveConfig(name="gapo", discriminator_width=8, discriminator_rate=0.02, **keys)
        model = ModelConfig(path=str(model_folders["qwen2_vl"]), **SMALL_IMAGES)  # type: ignore[arg-type]
        recipe = Recipe(model=model, objective=objective)
        initial = InitialModel(recipe, adapter, Accelerator())
        gold = GoldCompletions(adapter, {"counting": load_task("counting")})
        return GoldLikeness(recipe, build_objective(objective, 8), initial, gold, Accelerator())

    return make


def make_groups(adapter: QwenVLAdapter, count: int = 4) -> list[ScoredGroup]:
    groups = []
    for seed in range(count):
        prompt = make_prompt(adapter, make_sample([(84, 84)], seed))
        completions = random_completions(adapter, [4, 7, 2], seed)
        groups.append(ScoredGroup(prompt, completions, (Reward(0.0, {}, "ok"),) * 3))
    return groups


def test_it_is_the_discriminator_on_the_prompt_s_state_and_the_embeddings(
    adapter: QwenVLAdapter, make_part: MakePart
) -> None:
    part, groups = make_part(), make_groups(adapter)
    network = Discriminator(adapter.head_weight.shape[1], 8, spectral_norm=False, seed=42)
    embedding = adapter.model.get_input_embeddings()
    for group, found in zip(groups, part.measure(groups), strict=True):
        with torch.no_grad():
            state = adapter.run_plain(group.prompt.encoded, (9,))[-2:-1]
            for completion, value in zip(group.completions, found, strict=True):
                tokens = embedding(torch.tensor([completion.token_ids]))
                logit = network(state, tokens, torch.tensor([len(completion.token_ids)]))
                assert value == pytest.approx(float(torch.sigmoid(logit)), abs=1e-4)


def test_it_learns_what_is_gold_and_only_when_it_is_told(adapter: QwenVLAdapter, make_part: MakePart) -> None:
    part, groups = make_part(), make_groups(adapter)
    first = part.measure(groups)
    lesson = part.learn(1, groups)
    assert part.measure(groups) == first, "the groups of a step are all scored by one discriminator"
    part.commit(lesson)
    assert part.measure(groups) != first
    for step in range(2, 60):
        part.measure(groups)
        part.commit(part.learn(step, groups))
    assert all(value < 0.2 for group in part.measure(groups) for value in group)
    written = [part._gold.write(g.prompt.sample, g.prompt.text, g.prompt.views) for g in groups]
    gold = [ScoredGroup(g.prompt, (each,), g.rewards[:1]) for g, each in zip(groups, written, strict=True)]
    assert all(value > 0.8 for group in part.measure(gold) for value in group)


def test_it_goes_on_from_its_state(adapter: QwenVLAdapter, make_part: MakePart) -> None:
    """Weights and moments, bit for bit."""
    groups = make_groups(adapter)
    part, other = make_part(), make_part()
    part.measure(groups)
    part.commit(part.learn(1, groups))
    other.restore(part.state())
    for each in (part, other):
        each.measure(groups)
        each.commit(each.learn(2, groups))
    found, expected = other.state(), part.state()
    assert found.keys() == expected.keys() and any(name.startswith("optimizer/") for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    fresh = make_part()
    fresh.restore({name: each for name, each in part.state().items() if name.startswith("network/")})
    fresh.measure(groups)
    without_moments = fresh.learn(3, groups)
    part.measure(groups)
    assert not torch.equal(without_moments["network/carry"], part.learn(3, groups)["network/carry"])


def test_each_step_takes_another_sampled_completion(adapter: QwenVLAdapter, make_part: MakePart) -> None:
    part, groups = make_part(), make_groups(adapter, 1)
    found = []
    for step in range(4):
        part.measure(groups)
        found.append(part._example(step, groups[0]).sampled)
    completions = [completion.token_ids for completion in groups[0].completions]
    assert found == [*completions, completions[0]]


def test_without_groups_nothing_is_learned(make_part: MakePart) -> None:
    part = make_part()
    before = part.state()
    assert part.measure([]) == []
    after = part.learn(1, [])
    assert all(torch.equal(after[name], before[name]) for name in before)


State = dict[str, torch.Tensor]


def states(network: Discriminator) -> tuple[State, State]:
    """Before the first step, and after one."""
    before = {f"network/{name}": each.detach() for name, each in network.named_parameters()}
    after = dict(before)
    for number, each in enumerate(network.parameters()):
        after |= {f"optimizer/{number}/{entry}": torch.zeros_like(each) for entry in ("exp_avg", "exp_avg_sq")}
        after[f"optimizer/{number}/step"] = torch.tensor(1.0)
    return before, after


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {},
        lambda state: dict(list(state.items())[1:]),
        lambda state: {name: each[:1] for name, each in state.items() if each.dim()},
        lambda state: {name: each for name, each in state.items() if "exp_avg_sq" not in name},
        lambda state: state | {"network/another": torch.ones(1)},
        lambda state: state | {"optimizer/99/exp_avg": torch.ones(1)},
    ],
)
def test_the_state_of_another_network_is_refused(change: Callable[[State], State]) -> None:
    network = Discriminator(6, 4, spectral_norm=True, seed=0)
    before, after = states(network)
    refuse_others(network, before)
    refuse_others(network, after)
    with pytest.raises(ValueError, match="another network"):
        refuse_others(network, change(after))
