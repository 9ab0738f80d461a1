"""Mistakes in an objective of the user's own end the start in one line, with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import build_objective
from gpg_vl.preflight.own_objective import try_objective
from gpg_vl.records import Reward, ScoredGroup
from tests.support.hostile_groups import group
from tests.support.messages import naming

OWN = """
from gpg_vl.objectives.grpo import Grpo

class Mine(Grpo):
    def trains(self, group):
        return TRAINS

    def advantages(self, group):
        return ADVANTAGES

    def token_terms(self, group, log_probs):
        return TERMS
"""
SOUND = {
    "TRAINS": "super().trains(group)",
    "ADVANTAGES": "super().advantages(group)",
    "TERMS": "super().token_terms(group, log_probs)",
}


def try_own(folder: Path, **changes: str) -> None:
    text = OWN
    for name, code in {**SOUND, **changes}.items():
        text = text.replace(name, code)
    (folder / "mine.py").write_text(text)
    objective = build_objective(ObjectiveConfig(name=f"{folder}/mine.py:Mine"), 8, is_reused=True)
    rolled = group("a", "b", "c")
    rewards = (Reward(0.0, {"correct": 0.0}, "ok"),) * 3
    try_objective(objective, ScoredGroup(rolled.prompt, rolled.completions, rewards))


def test_a_sound_one_passes(tmp_path: Path) -> None:
    try_own(tmp_path, TRAINS="all('correct' in reward.parts for reward in group.rewards)")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"TRAINS": "group.nothing"}, ("mine.py:6", "AttributeError", "nothing")),
        ({"ADVANTAGES": "[1.0]"}, ("mine.py:8", "advantages", "1", "3")),
        ({"ADVANTAGES": "[None] * 3"}, ("mine.py:8", "advantages", "None")),
        (
            {"ADVANTAGES": "[1 / len(set(r.total for r in group.rewards) - {0})] * 3"},
            ("mine.py:9", "ZeroDivisionError"),
        ),
        ({"TERMS": "[[(0.0, 0.0)]] * 2"}, ("mine.py:11", "token_terms")),
        ({"TERMS": "[[(0.0, float('nan'))]] * 3"}, ("mine.py:11", "token_terms", "nan")),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, changes: dict[str, str], parts: tuple[str, ...]) -> None:
    changes = {"TRAINS": "True"} | changes
    with pytest.raises(ValueError, match=naming("objective.name", *parts)):
        try_own(tmp_path, **changes)
