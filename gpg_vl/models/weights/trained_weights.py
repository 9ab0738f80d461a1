"""Which weights of an adapter's model are trained, and in which type it has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from gpg_vl.config import PARTS, ModelConfig
from gpg_vl.models.device import choose_device
from gpg_vl.models.routers import find_routers
from gpg_vl.models.weights.four_bit import four_bit_weights, quantize_layers
from gpg_vl.models.weights.masters import Masters


class TrainedWeights:
    """The part of an ``Adapter`` that is about weights."""

    part_prefixes: ClassVar[tuple[tuple[str, str], ...]]
    """Prefixes of parameter names and their part; the first match counts, every other parameter is ``text``."""
    model: Any
    config: ModelConfig

    def _choose_weights(self, config: ModelConfig) -> None:
        """Lets those be trained that the recipe does not freeze; LoRA has done so itself."""
        if config.lora is None:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self.part_of(name) not in config.freeze)
        self.autocast_dtype = torch.bfloat16 if config.dtype == "bfloat16" else None
        self._masters = Masters()

    def part_of(self, parameter_name: str) -> str:
        for prefix, part in self.part_prefixes:
            if parameter_name.startswith(prefix):
                return part
        return "text"

    def has_frozen_tower(self) -> bool:
        return not any(p.requires_grad for name, p in self.model.named_parameters() if self.part_of(name) != "text")

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, self._masters.get(name, p)) for name, p in self.model.named_parameters() if p.requires_grad)

    def quantize(self) -> None:
        """See ``Adapter.quantize``."""
        if self.config.is_quantized:
            dtype = torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32
            quantize_layers(self.model, self.quantized_layers(), dtype, choose_device(self.config))

    def quantized_layers(self) -> list[nn.Linear]:
        """See ``Adapter.quantized_layers``."""
        routing = {id(module) for router in find_routers(self.model) for module in router.modules()}
        return [layer for layer in self.lent_layers() if id(layer) not in routing and layer.out_features > 1]

    def round_weights(self) -> None:
        """See ``Adapter.round_weights``."""
        if self.autocast_dtype is not None:
            self._masters, self.autocast_dtype = Masters(self.model, self.autocast_dtype), None

    def leave_rounding(self) -> torch.dtype | None:
        """See ``Adapter.leave_rounding``."""
        dtype, self.autocast_dtype = self.autocast_dtype, None
        return dtype

    def follow_masters(self) -> None:
        self._masters.follow()

    def in_float32(self, *, only_trained: bool = False) -> AbstractContextManager[None]:
        return self._masters.in_float32(only_trained=only_trained)

    def running_in_float32(self) -> AbstractContextManager[None]:
        """See ``Adapter.running_in_float32``."""
        return self._masters.running_in_float32(self.lent_layers())

    def lent_layers(self, *, with_trained: bool = False) -> list[nn.Linear]:
        """See ``Adapter.lent_layers``."""
        head = self.model.get_output_embeddings()  # whose product is computed without it
        with_trained &= self.config.lora is None  # peft asks for the type of an adapter's weights before it calls them
        return [
            module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and module is not head and self.part_of(f"{name}.weight") == "text"
            and (with_trained or not any(each.requires_grad for each in module.parameters(recurse=False)))
        ]  # fmt: skip

    def num_parameters(self) -> tuple[int, int]:
        counts = self.num_by_part().values()
        return sum(each for each, _ in counts), sum(trained for _, trained in counts)

    def num_by_part(self) -> dict[str, tuple[int, int]]:
        """See ``Adapter.num_by_part``."""
        counts = {part: [0, 0] for part in PARTS}
        coded = {name: each.num_weights for name, each in four_bit_weights(self.model)}
        for name, weight in self.model.named_parameters():
            count, num = counts[self.part_of(name)], coded.get(name, weight.numel())
            count[0] += num
            count[1] += num if weight.requires_grad else 0
        return {part: (total, trained) for part, (total, trained) in counts.items()}

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        self.model.disable_adapters()
        try:
            yield
        finally:
            self.model.enable_adapters()

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)
        self._masters.to(device)
