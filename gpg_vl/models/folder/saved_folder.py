"""The model folder that an adapter writes, at once or from a copy that is written later."""

from __future__ import annotations

import copy
from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from gpg_vl.models.folder.carried_weights import CarriedWeights
from gpg_vl.models.weights.snapshot import WeightsSnapshot, copy_model
from gpg_vl.models.weights.trained_weights import TrainedWeights


class SavedFolder(TrainedWeights):
    """The part of an ``Adapter`` that is about its folder."""

    processor: Any
    _carried: CarriedWeights | None

    @property
    @abstractmethod
    def end_token_ids(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def pad_token_id(self) -> int: ...

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``. The end tokens are those of the run, for whoever only has the folder."""
        self.save_processor(folder)
        with self._as_stored():
            self._with_body(self.model).write(folder)

    def save_processor(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    def take_snapshot(self, *, is_copy: bool = False) -> WeightsSnapshot:
        """See ``Adapter.take_snapshot``."""
        with self._as_stored():
            return self._with_body(copy_model(self.model, only_trained=self._is_adapter, is_copy=is_copy))

    @property
    def _is_adapter(self) -> bool:
        """Whether the folder holds a LoRA adapter and no other weights."""
        return self.config.lora is not None

    def _as_stored(self) -> AbstractContextManager[None]:
        return self.in_float32(only_trained=self._is_adapter)

    def _with_body(self, body: PreTrainedModel) -> WeightsSnapshot:
        generation = copy.deepcopy(self.model.generation_config)
        generation.eos_token_id, generation.pad_token_id = list(self.end_token_ids), self.pad_token_id
        return WeightsSnapshot(body, generation, None if self._is_adapter else self._carried)
