"""The model folder that an adapter writes, at once or from a copy that is written later."""

from __future__ import annotations

import copy
from abc import abstractmethod
from pathlib import Path
from typing import Any

from gpg_vl.config import ModelConfig
from gpg_vl.files import follow_umask
from gpg_vl.models.carried_weights import CarriedWeights
from gpg_vl.models.snapshot import WeightsSnapshot, copy_model
from gpg_vl.models.trained_weights import TrainedWeights


class SavedFolder(TrainedWeights):
    """The part of an ``Adapter`` that is about its folder."""

    config: ModelConfig
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
        with self.in_float32(only_trained=self.config.lora is not None):  # of an adapter, that is all that is saved
            self.model.save_pretrained(folder)
        self.save_processor(folder)
        self._generation_config().save_pretrained(folder)
        if self._carried is not None and self.config.lora is None:
            self._carried.write(folder)
        follow_umask(folder)

    def save_processor(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    def take_snapshot(self, *, is_copy: bool = False) -> WeightsSnapshot:
        """See ``Adapter.take_snapshot``."""
        is_adapter = self.config.lora is not None
        with self.in_float32(only_trained=is_adapter):
            body = copy_model(self.model, only_trained=is_adapter, is_copy=is_copy)
        body.generation_config = self._generation_config()
        return WeightsSnapshot(body, None if is_adapter else self._carried)

    def _generation_config(self) -> Any:
        generation = copy.deepcopy(self.model.generation_config)
        generation.eos_token_id, generation.pad_token_id = list(self.end_token_ids), self.pad_token_id
        return generation
