"""GAPO (arXiv 2503.20194), grouped; experimental: a discriminator learns beside the policy and adds to its reward.

    A_i   = r_i - mean(r),   r_i = what the tasks give + weight * sigmoid(D(prompt, images, completion))
    loss  = mean over the completions of all groups of
            mean over the completion's tokens of -min(w A_i, clip(w, 1 - clip_low, 1 + clip_high) A_i)

The published method is PPO with a value model; the group's mean takes its place here, which is this kit's form. D and
its update are in ``learned/``. All groups of a step are scored by the same D. With ``discriminator_gradient: relaxed``
its part leaves the reward and is followed through relaxed samples instead, on policy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives.ratio import RatioObjective
from gpg_vl.records import ScoredGroup


class Gapo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "f_norm", "f_norm_eps", "clip_low", "clip_high",
            "discriminator_width", "discriminator_rate", "spectral_norm",
            "discriminator_gradient", "relaxed_temperature",
        }
    )  # fmt: skip
    defaults: ClassVar[Mapping[str, Any]] = {
        "f_norm": "one",
        "f_norm_eps": 0.0,
        "discriminator_width": 64,
        "discriminator_rate": 1e-3,
        "discriminator_gradient": "score",
        "relaxed_temperature": 1.0,
        "spectral_norm": False,
    }
    has_discriminator: ClassVar[bool] = True

    def __init__(self, config: ObjectiveConfig, is_reused: bool = False):
        """
        Raises:
            ValueError: samples are to be relaxed under a policy that has moved away from the one that drew them
        """
        super().__init__(config, is_reused)
        if is_reused and self.is_relaxed:
            raise ValueError(
                "objective.discriminator_gradient: relaxed samples are those of the policy that drew them; leave out "
                "update.epochs_per_rollout, update.groups_per_update and rollout.refresh, or set it to score"
            )

    @property
    def is_relaxed(self) -> bool:
        return self.config.discriminator_gradient == "relaxed"

    def trains(self, group: ScoredGroup) -> bool:
        """Relaxed samples have a gradient where all rewards are equal, too."""
        return self.is_relaxed or super().trains(group)
