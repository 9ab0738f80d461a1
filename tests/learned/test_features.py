"""Features of the packed forward against ordinary rows, one for each completion."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gpg_vl.config import UpdateConfig
from gpg_vl.learned.features import read_completions, read_prompts
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import RolloutGroup
from tests.support.builders import FAMILIES, make_prompt, make_sample, random_completions

LoadModel = Callable[..., QwenVLAdapter]


def make_groups(adapter: QwenVLAdapter) -> list[RolloutGroup]:
    """With an image, without, with two; lengths from a single token on."""
    cases = [([(84, 84)], [4, 7, 2]), ([], [1, 3]), ([(56, 84), (84, 56)], [5, 1, 6, 2])]
    return [
        RolloutGroup(make_prompt(adapter, make_sample(sizes, seed)), random_completions(adapter, lengths, seed))
        for seed, (sizes, lengths) in enumerate(cases)
    ]


@torch.no_grad()
def plain(adapter: QwenVLAdapter, group: RolloutGroup) -> Tensor:
    """[G, H], by the model's own masks and positions."""
    rows = []
    for completion in group.completions:
        states = adapter.run_plain(group.prompt.encoded, completion.token_ids)
        rows.append(states[-len(completion.token_ids) :].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("budget", [1, 8192])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_completions_are_the_mean_of_their_states(load: LoadModel, family: str, budget: int) -> None:
    """Also under a budget in which each completion is a row of its own."""
    adapter = load(family)
    groups = make_groups(adapter)
    found = read_completions(adapter, groups, UpdateConfig(tokens_per_micro_batch=budget, patches_per_micro_batch=1))
    assert [tuple(each.shape) for each in found] == [(len(g.completions), found[0].shape[1]) for g in groups]
    for each, group in zip(found, groups, strict=True):
        torch.testing.assert_close(each, plain(adapter, group), rtol=1e-4, atol=1e-5)


def test_the_last_token_counts(load: LoadModel) -> None:
    """The update's rows end before it; here it is read."""
    adapter = load()
    [group, *_] = make_groups(adapter)
    first = group.completions[0]
    other = type(first)((*first.token_ids[:-1], 99), "", first.finished)
    changed = RolloutGroup(group.prompt, (other, *group.completions[1:]))
    [a], [b] = (read_completions(adapter, [each], UpdateConfig()) for each in (group, changed))
    assert float((a[0] - b[0]).norm()) > 1e-3
    torch.testing.assert_close(a[1:], b[1:])


def test_states_of_prompts(load: LoadModel) -> None:
    adapter = load()
    groups = make_groups(adapter)
    found = read_prompts(adapter, groups, UpdateConfig(patches_per_micro_batch=1))
    for state, group in zip(found, groups, strict=True):
        with torch.no_grad():
            expected = adapter.run_plain(group.prompt.encoded, (99,))[-2]
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_the_image_is_in_the_features(load: LoadModel) -> None:
    adapter = load()
    [group, *_] = make_groups(adapter)
    other = RolloutGroup(make_prompt(adapter, make_sample([(84, 84)], seed=9)), group.completions)
    a, b = (read_completions(adapter, [each], UpdateConfig())[0] for each in (group, other))
    assert float((a - b).norm()) > 1e-3
