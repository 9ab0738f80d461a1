"""What the adapters of models with recurrent layers share: which mask each kind of layer takes, and their cache."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from gpg_vl.config import ModelConfig
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.decoding.kv_cache import GrowingCache
from gpg_vl.models.packed.recurrent_layers import regroup, regroup_rows
from gpg_vl.records import Frame


class RecurrentAdapter(BaseAdapter):
    """A model some of whose layers read a row from left to right instead of attending to it."""

    recurrent_type: ClassVar[str] = "linear_attention"
    """Their name in ``layer_types``; the others are ``full_attention``."""
    recurrent_module: ClassVar[str] = "linear_attn"
    """Name of the module in a layer."""

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame):
        super().__init__(model, processor, config, frame)
        for layer in self.model.model.language_model.layers:
            if hasattr(layer, self.recurrent_module):
                regroup(getattr(layer, self.recurrent_module))

    @property
    def joins_groups(self) -> bool:
        return False

    @property
    def keeps_prompts(self) -> bool:
        return False

    def new_cache(self) -> Cache:
        return GrowingCache(self.model.config.get_text_config().layer_types)

    def _attention_mask(self, *, segment_ids: Tensor | None, real: Tensor | None, **more: Any) -> Any:
        """One mask for each kind of layer; None where no row is packed or padded."""
        attention = super()._attention_mask(segment_ids=segment_ids, real=real, **more)
        if attention is None:
            return None
        recurrent = real if segment_ids is None else regroup_rows(segment_ids)
        return {"full_attention": attention, self.recurrent_type: recurrent}
