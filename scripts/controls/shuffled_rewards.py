"""A control: ``gpg-vl train`` with the rewards of each draw dealt out at random among its completions.

Everything else is as it was, so what rises here does not come from the rewards. Takes what ``gpg-vl train`` takes:

    python scripts/controls/shuffled_rewards.py scripts/recipes/quickstart.yaml --run.output_dir runs/control
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence

from gpg_vl import cli, collect
from gpg_vl.config import RewardsConfig
from gpg_vl.records import RolloutGroup, ScoredGroup
from gpg_vl.scoring import score_groups
from gpg_vl.tasks.base import Task


def score_and_shuffle(
    groups: Sequence[RolloutGroup], tasks: Mapping[str, Task], config: RewardsConfig
) -> list[ScoredGroup]:
    scored = score_groups(groups, tasks, config)
    rewards = [reward for group in scored for reward in group.rewards]
    random.Random(groups[0].prompt.sample.id).shuffle(rewards)
    dealt = iter(rewards)
    return [ScoredGroup(g.prompt, g.completions, tuple(next(dealt) for _ in g.rewards)) for g in scored]


if __name__ == "__main__":
    collect.score_groups = score_and_shuffle
    sys.exit(cli.main(["train", *sys.argv[1:]]))
