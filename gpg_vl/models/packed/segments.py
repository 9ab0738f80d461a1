"""Segment ids [R, S] of packed rows: which prompt or completion of which group a token belongs to.

Group g of a row, counted from 0, has the ids from ``g * GROUP`` on: its prompt, then its completions in order. Padding
is -1.
"""

from __future__ import annotations

from torch import Tensor

GROUP = 2**20
"""More than a group has completions."""


def prompt_of(segment_ids: Tensor) -> Tensor:
    """The id of the prompt of each token's group; of padding, one that no token has."""
    return segment_ids - segment_ids % GROUP
