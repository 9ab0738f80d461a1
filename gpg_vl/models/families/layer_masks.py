"""Masks of families whose layers see more or less than all earlier tokens: windows, whole images, whole prompts.

``Sight`` says what can be said of a key and a query in the plain row of the query's completion, where the model's own
masks are defined. A family composes it into one mask by type of layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from gpg_vl.config import PACKED_ATTENTION, ModelConfig
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.packed.attention import visible_keys
from gpg_vl.records import Frame


@dataclass(frozen=True, slots=True)
class Sight:
    """The keys of the queries of one forward."""

    earlier: Tensor  # [R, S, keys] bool: the key is an earlier token of the query's plain row, or the query itself
    place: Tensor  # [1 or R, S] int64: where the query stands in that row
    key_place: Tensor  # [1 or R, keys] int64: where the key stands there
    is_prompt: Tensor  # [R, S] bool; False in a decode step
    image: Tensor  # [R, S] int64: number of the run of image tokens, -1 at other tokens

    def within(self, window: int) -> Tensor:
        """Whether the key is among the last ``window`` tokens up to the query."""
        return self.key_place[:, None] > self.place[:, :, None] - window

    def same_image(self) -> Tensor:
        """Whether both are tokens of one image."""
        return (self.image[:, :, None] == self.image[:, None]) & (self.image >= 0)[:, :, None]

    def any_images(self) -> Tensor:
        """Whether both are tokens of images."""
        is_image = self.image >= 0
        return is_image[:, :, None] & is_image[:, None]

    def same_prompt(self) -> Tensor:
        """Whether both are tokens of the prompt."""
        return self.is_prompt[:, :, None] & self.is_prompt[:, None]


def packed_sight(token_types: Tensor, position_ids: Tensor, segment_ids: Tensor) -> Sight:
    """Of rows with segments, packed or ordinary; positions [A, R, S] count the tokens of the plain row."""
    place = position_ids[0]
    return Sight(visible_keys(segment_ids), place, place, segment_ids == 0, _number_images(token_types))


def row_sight(token_types: Tensor, visible: Tensor | None, real: Tensor | None, num_earlier: int) -> Sight:
    """Of ordinary rows, padded on the left.

    Args:
        token_types: [R, S], of the tokens that are not in the cache
        visible: [R, S, keys] bool; None: all earlier keys
        real: [R, S] bool, which tokens of a padded prefill are real; None: all
        num_earlier: number of tokens in the cache; 0 in a prefill
    """
    key_place = torch.arange(num_earlier + token_types.shape[1], device=token_types.device)[None]
    place = key_place[:, num_earlier:]
    in_prefill = torch.full_like(token_types, num_earlier == 0, dtype=torch.bool)
    return Sight(
        earlier=key_place[:, None] <= place[:, :, None] if visible is None else visible,
        place=place,
        key_place=key_place,
        is_prompt=in_prefill if real is None else in_prefill & real,
        image=_number_images(token_types),
    )


def _number_images(token_types: Tensor) -> Tensor:
    """[R, S]: a number for each run of image tokens of a row, -1 at other tokens."""
    is_image = token_types == 1
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    return torch.where(is_image, starts.long().cumsum(1), -1)


class LayerMasksAdapter(BaseAdapter):
    """A family whose text model takes masks of its own: one, or one for each type of layer. They are dense."""

    knows_windows = True

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame | None):
        """
        Raises:
            ValueError: ``model.attention`` is one that knows a single rule for all layers
        """
        attention = config.attention_of("text")
        if attention in PACKED_ATTENTION:
            raise ValueError(
                f"model.attention: {attention} lets every layer see all earlier tokens and no others; the layers of "
                "this model see others: use auto, sdpa or eager"
            )
        super().__init__(model, processor, config, frame)

    @property
    def joins_groups(self) -> bool:
        return False

    @property
    def keeps_prompts(self) -> bool:
        return False

    @abstractmethod
    def layer_masks(self, sight: Sight) -> Tensor | Mapping[str, Tensor]:
        """Which keys each query sees, [R, S, keys] bool, for all layers or by type of layer."""

    def _attention_mask(
        self,
        *,
        token_types: Tensor,
        position_ids: Tensor,
        visible: Tensor | None,
        segment_ids: Tensor | None,
        real: Tensor | None,
        cache: Cache | None,
    ) -> Any:
        if segment_ids is not None:
            sight = packed_sight(token_types, position_ids, segment_ids)
        else:
            sight = row_sight(token_types, visible, real, 0 if cache is None else cache.get_seq_length())
        return self._attention.dense(self.layer_masks(sight), self.autocast_dtype or self.model.dtype)
