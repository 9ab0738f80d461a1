"""GAPO (arXiv 2503.20194), grouped; experimental: a discriminator learns beside the policy and adds to its reward.

    A_i   = r_i - mean(r),   r_i = what the tasks give + weight * sigmoid(D(prompt, images, completion))
    loss  = mean over the completions of all groups of
            mean over the completion's tokens of -min(w A_i, clip(w, 1 - clip_low, 1 + clip_high) A_i)

The published method is PPO with a value model; the group's mean takes its place here, which is this kit's form. D and
its update are in ``learned/``. All groups of a step are scored by the same D.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.ratio import RatioObjective


class Gapo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset(
        {
            "f_norm", "f_norm_eps", "clip_low", "clip_high",
            "discriminator_width", "discriminator_rate", "spectral_norm",
        }
    )  # fmt: skip
    defaults: ClassVar[Mapping[str, Any]] = {
        "f_norm": "one",
        "f_norm_eps": 0.0,
        "discriminator_width": 64,
        "discriminator_rate": 1e-3,
        "spectral_norm": False,
    }
    has_discriminator: ClassVar[bool] = True
