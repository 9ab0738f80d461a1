"""``gpg-vl prefer``: answers to a recipe's prompts, labels of pairs of them, a reward part in a folder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from gpg_vl.commands.prefer_options import PreferOptions
from gpg_vl.commands.preference_labels import (
    VALUES,
    FileLabels,
    KeptLabels,
    Labels,
    Preference,
    ScoreLabels,
    TerminalLabels,
    read_preferences,
)
from gpg_vl.config import Recipe
from gpg_vl.data.stream import SampleStream
from gpg_vl.learned.features import read_completions
from gpg_vl.learned.head import PreferenceHead, save_head
from gpg_vl.learned.preferences import accuracy, choose_pairs, fit_head, fit_scale
from gpg_vl.models import load_adapter
from gpg_vl.models.adapter import Adapter
from gpg_vl.preflight.outputs import refuse_inputs
from gpg_vl.preflight.sources import CheckedSources, load_sources
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.length import build_prompts, training_room
from gpg_vl.records import Completion, Reward, RolloutGroup, Sample, ScoredGroup
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engine, check_engine, check_temperature
from gpg_vl.rollout.engine import Sampling
from gpg_vl.screen import say

LABELS_FILE = "preferences.jsonl"
HELD_OUT_SHARE = 0.2  # of the prompts
PAIRS_AT_ONCE = 8  # labelled before the head is fitted again and the next are chosen


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two different answers to one prompt."""

    group: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Pool:
    """The answers and the pairs that can be asked for."""

    groups: Sequence[ScoredGroup]
    features: Sequence[Tensor]  # [G, H] by group
    pairs: Sequence[AnswerPair]
    labels: Labels


def prefer(recipe: Recipe, options: PreferOptions, out: Path) -> dict[str, Any]:
    """Writes a preference head and its labels to ``out``; labels that are there already are not asked for again.

    Returns:
        number of labels, accuracy on the held-out pairs (None where there are none) and their number

    Raises:
        ValueError: the recipe, a file of preferences or the options cannot be used; too few pairs
    """
    refuse_inputs("--out", out, recipe)
    _check_sampling(recipe, options)
    checked = load_sources(recipe.data.train, recipe, "data.train")
    given = None if options.source in ("score", "ask") else read_preferences(Path(options.source))
    adapter = load_adapter(recipe.model)
    adapter.round_weights()
    adapter.to(PartialState().device)
    out.mkdir(parents=True, exist_ok=True)
    pool = _make_pool(recipe, options, checked, adapter, given, out)
    chooser = random.Random(recipe.run.seed)
    held_out = _hold_out(pool, options, chooser)
    asked = [pair for pair in pool.pairs if pair.group not in {each.group for each in held_out}]
    if not asked:
        raise ValueError("no two answers to a prompt differ; raise --prompts, rollout.group_size or the temperature")
    scale = fit_scale([pool.features[number] for number in sorted({pair.group for pair in asked})])
    coordinates = [scale.apply(each) for each in pool.features]
    w, num_labels = _learn(asked, _differences(asked, coordinates), pool, options, chooser)
    labels = _ask(held_out, pool)
    measured = accuracy(_differences(held_out, coordinates), labels, w) if held_out else None
    info = {"labels": num_labels, "accuracy": measured, "held_out": int((labels != 0.5).sum()), "pairs": options.pairs}
    save_head(PreferenceHead.of(scale, w), out, recipe.model, info)
    return info


def _check_sampling(recipe: Recipe, options: PreferOptions) -> None:
    """
    Raises:
        ValueError: prompts would get one answer each, or the recipe's engine is not known or does not sample like that
    """
    check_engine(recipe.rollout)
    check_temperature(recipe.rollout.engine, "rollout.temperature", recipe.rollout.temperature)
    if options.source in ("score", "ask") and recipe.rollout.group_size < 2:
        raise ValueError("rollout.group_size is 1, but a pair is two answers to a prompt; set it to at least 2")


def _make_pool(
    recipe: Recipe,
    options: PreferOptions,
    checked: CheckedSources,
    adapter: Adapter,
    given: Sequence[Preference] | None,
    out: Path,
) -> Pool:
    prompts = build_prompts(recipe, checked.tasks, adapter, training_room(recipe, adapter))
    if given is not None:
        groups = _read_groups(given, checked, prompts, adapter)
        in_file = FileLabels(list(given))
        pairs = [pair for pair in _pairs(groups) if in_file.get(groups[pair.group], pair.first, pair.second)]
        labels: Labels = in_file
    else:
        groups = _sample_groups(recipe, options, checked, prompts, adapter)
        pairs = _pairs(groups)
        labels = ScoreLabels() if options.source == "score" else TerminalLabels(out)
    features = read_completions(adapter, groups, recipe.update)
    return Pool(groups, features, pairs, KeptLabels(labels, out / LABELS_FILE))


def _sample_groups(
    recipe: Recipe, options: PreferOptions, checked: CheckedSources, prompts: PromptBuilder, adapter: Adapter
) -> list[ScoredGroup]:
    """The recipe's policy answers prompts as in a rollout."""
    count = min(options.num_prompts, sum(len(source.samples) for source in checked.sources))
    drawn = SampleStream(checked.sources, recipe.run.seed).draw(count)
    built = [prompts.build(sample) for sample in {sample.id: sample for sample in drawn}.values()]
    rollout = recipe.rollout
    sampling = Sampling(rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k)
    engine = build_engine(rollout, adapter)
    with engine.sync_weights():
        seeds = [("prefer", recipe.run.seed, prompt.sample.id) for prompt in built]
        groups = engine.generate(built, rollout.group_size, sampling, seeds)
    if options.source != "score":
        return [_unscored(group) for group in groups]
    with Scorer(recipe.rewards) as scorer:
        return scorer.score(groups)


def _unscored(group: RolloutGroup) -> ScoredGroup:
    rewards = tuple(Reward(0.0, {}, "ok") for _ in group.completions)
    return ScoredGroup(group.prompt, group.completions, rewards, group.features)


def _read_groups(
    given: Sequence[Preference], checked: CheckedSources, prompts: PromptBuilder, adapter: Adapter
) -> list[ScoredGroup]:
    """The answers of a file, by row.

    Raises:
        ValueError: there is no such row
    """
    texts: dict[str, dict[str, None]] = {}
    for each in given:
        texts.setdefault(each.id, {}).update({each.first: None, each.second: None})
    samples: dict[str, Sample] = {sample.id: sample for source in checked.sources for sample in source.samples}
    if missing := sorted(set(texts) - set(samples)):
        raise ValueError(f"--from: data.train has no row {missing[0]!r}, of which the preferences speak")
    groups = []
    for name, answers in texts.items():
        completions = tuple(Completion(adapter.encode_completion(text), text, finished=True) for text in answers)
        groups.append(_unscored(RolloutGroup(prompts.build(samples[name]), completions)))
    return groups


def _pairs(groups: Sequence[ScoredGroup]) -> list[AnswerPair]:
    """Every two different texts of a group."""
    found = []
    for number, group in enumerate(groups):
        first_of = {completion.text: index for index, completion in reversed(list(enumerate(group.completions)))}
        found += [AnswerPair(number, *sorted(pair)) for pair in combinations(first_of.values(), 2)]
    return found


def _hold_out(pool: Pool, options: PreferOptions, chooser: random.Random) -> list[AnswerPair]:
    """Random pairs of prompts that nothing is learned from.

    Raises:
        ValueError: a single prompt has pairs
    """
    if options.num_held_out == 0:
        return []
    with_pairs = sorted({pair.group for pair in pool.pairs})
    if len(with_pairs) < 2:
        raise ValueError(
            "--held-out: pairs of two prompts are needed to hold some out; raise --prompts, or set it to 0"
        )
    kept = set(chooser.sample(with_pairs, max(1, round(HELD_OUT_SHARE * len(with_pairs)))))
    candidates = [pair for pair in pool.pairs if pair.group in kept]
    return chooser.sample(candidates, min(options.num_held_out, len(candidates)))


def _learn(
    asked: Sequence[AnswerPair], differences: Tensor, pool: Pool, options: PreferOptions, chooser: random.Random
) -> tuple[Tensor, int]:
    """The head and the number of labels that it was learned from."""
    count = min(options.num_labels, len(asked))
    if count < options.num_labels:
        say(f"note: there are {count} pairs to label, not {options.num_labels}")
    at_random = chooser.sample(range(len(asked)), count)
    w = torch.zeros(differences.shape[1], dtype=torch.float64)
    labelled: list[int] = []
    labels = torch.zeros(0, dtype=torch.float64)
    while len(labelled) < count:
        size = min(PAIRS_AT_ONCE, count - len(labelled))
        if options.pairs == "information":
            chosen = choose_pairs(differences, labelled, w, size)
        else:
            chosen = at_random[len(labelled) : len(labelled) + size]
        labels = torch.cat([labels, _ask([asked[number] for number in chosen], pool)])
        labelled += chosen
        w = fit_head(differences[labelled], labels)
    return w, count


def _differences(pairs: Sequence[AnswerPair], coordinates: Sequence[Tensor]) -> Tensor:
    """[N, D]."""
    rows = [coordinates[pair.group][pair.first] - coordinates[pair.group][pair.second] for pair in pairs]
    return torch.stack(rows) if rows else torch.zeros(0, coordinates[0].shape[1], dtype=torch.float64)


def _ask(pairs: Sequence[AnswerPair], pool: Pool) -> Tensor:
    """[N]."""
    answers = [pool.labels.ask(pool.groups[pair.group], pair.first, pair.second) for pair in pairs]
    return torch.tensor([VALUES[answer] for answer in answers], dtype=torch.float64)
