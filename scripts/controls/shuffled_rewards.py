"""A control: ``gpg-vl train`` with the rewards of each draw dealt out at random among its completions.

Everything else is as it was, validation too, so what rises here does not come from the rewards. Takes what ``gpg-vl
train`` takes:

    python scripts/controls/shuffled_rewards.py scripts/recipes/quickstart.yaml --run.output_dir runs/control
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from gpg_vl import cli
from gpg_vl.records import RolloutGroup, Rule, ScoredGroup
from gpg_vl.rewards.scorer import Scorer

score = Scorer.score


def score_and_shuffle(scorer: Scorer, groups: Sequence[RolloutGroup], rule: Rule | None = None) -> list[ScoredGroup]:
    """
    Args:
        rule: given by a validation, which tells the truth
    """
    scored = score(scorer, groups, rule)
    if rule is not None:
        return scored
    rewards = [reward for group in scored for reward in group.rewards]
    random.Random(groups[0].prompt.sample.id).shuffle(rewards)
    dealt = iter(rewards)
    return [ScoredGroup(g.prompt, g.completions, tuple(next(dealt) for _ in g.rewards)) for g in scored]


if __name__ == "__main__":
    Scorer.score = score_and_shuffle  # type: ignore[method-assign, assignment]
    sys.exit(cli.main(["train", *sys.argv[1:]]))
