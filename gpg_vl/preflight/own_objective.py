"""Tries an objective of the user's own on made-up rewards before the weights are loaded: its mistakes, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gpg_vl.objectives.base import Objective
from gpg_vl.records import LogProbs, ScoredGroup
from gpg_vl.user_code import CodeMistake, as_number, describe_failure, own_file


def try_objective(objective: Objective, group: ScoredGroup) -> None:
    """With signal in the totals of the group and without.

    Args:
        group: whose rewards have the parts that a run's have

    Raises:
        ValueError: it fails or returns something wrong; names its file and line
    """
    file = own_file(objective.config.name)
    low, high = objective.reward_range or (0.0, 1.0)
    low, high = max(low, -1.0), min(high, 1.0)
    for pair in ((low, high), (low, low), (high, high)):
        rewards = tuple(replace(each, total=pair[n % 2], main=None) for n, each in enumerate(group.rewards))
        try:
            _try(objective, replace(group, rewards=rewards))
        except Exception as error:  # the code is the user's
            cause = describe_failure(error, file, 160)
            name = objective.config.name
            raise ValueError(f"objective.name: {name} was tried on made-up rewards: {cause}") from error


def _try(objective: Objective, group: ScoredGroup) -> None:
    """Every method that a run calls for a group."""
    objective.check_rewards(group)
    if not objective.trains(group):
        return
    lengths = [len(completion.token_ids) for completion in group.completions]
    _check_numbers("advantages", objective.advantages(group), len(lengths), objective)
    current, old, reference = (tuple((level,) * length for length in lengths) for level in (-1.0, -1.1, -0.9))
    log_probs = LogProbs(current, old, reference)
    terms = objective.token_terms(group, log_probs)
    if [len(row) for row in terms] != lengths:
        raise CodeMistake("token_terms returns rows of other lengths than the completions", objective.token_terms)
    for row in terms:
        _check_numbers("token_terms", [value for term in row for value in term], 2 * len(row), objective)
    _check_numbers("token_weights", objective.token_weights(group), len(lengths), objective)
    objective.training_group(group, log_probs)


def _check_numbers(method: str, values: Sequence[object], count: int, objective: Objective) -> None:
    """
    Raises:
        CodeMistake: they are not as many, or not finite numbers
    """
    if len(values) != count:
        raise CodeMistake(f"{method} returns {len(values)} numbers, not {count}", getattr(objective, method))
    for value in values:
        number = as_number(value)
        if number is None or not math.isfinite(number):
            raise CodeMistake(f"{method} returns {value!r}, not a finite number", getattr(objective, method))
