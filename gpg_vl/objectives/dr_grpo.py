"""Dr. GRPO (arXiv 2503.20783): GRPO without the std and without the length of a completion.

    A_i   = r_i - mean(r)
    loss  = mean over the completions of all groups of  1 / max_length * sum over tokens of -min(w A_i, clip(w) A_i)

Source: oat, ppo.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpg_vl.objectives.ratio import RatioObjective


class DrGrpo(RatioObjective):
    keys: ClassVar[frozenset[str]] = frozenset({"clip_low", "clip_high", "max_length"})
    defaults: ClassVar[Mapping[str, Any]] = {"f_norm": "one", "reduction": "constant"}
