"""``model.lora.quantize: nf4``: the frozen linear layers of the text model in 4 bits (QLoRA, arXiv 2305.14314).

A weight is a code of 16 values, and a scale for each block of 64 of them; the scales are in 8 bits themselves, with a
scale for each block of 256. That is 4.13 bits a weight. The products are bitsandbytes', in the type of what comes in.
In bfloat16 its kernel for a few rows rounds a code and its scale one by one, where for many their product is rounded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gpg_vl.config import ModelConfig
from gpg_vl.processes.sharding import WHOLE, Sharding

BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight: its code, and its parts of the two scales."""
_BLOCK, _OUTER_BLOCK = 64, 256


def refuse_sharing(config: ModelConfig, sharding: Sharding) -> None:
    """
    Raises:
        ValueError: 4 bits are requested with a layout that shares weights or moments
    """
    if config.is_quantized and sharding != WHOLE:
        raise ValueError(
            f"model.lora.quantize: nf4 weights cannot be shared over ranks by {sharding.title}; use SHARDING=none, or "
            "remove quantize"
        )


def refuse_without_library(config: ModelConfig) -> None:
    """
    Raises:
        ValueError: 4 bits are requested without their library
    """
    if config.is_quantized and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "model.lora.quantize: nf4 needs the library bitsandbytes; pip install 'gpg-vl[bnb]', or remove quantize"
        )


class FourBitLinear(nn.Module):
    """A frozen linear layer. Copies of a model share it: its numbers never change."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, device: torch.device):
        """
        Args:
            linear: on the meta device, the new layer has no values either
            dtype: that the weight is rounded to before
            device: that it is rounded on; the new layer stays where the old one is
        """
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.bias = linear.bias
        home, weight = linear.weight.device, linear.weight.detach()
        made = _without_values(weight.numel()) if home.type == "meta" else _quantized(weight.to(device, dtype), home)
        self.weight = nn.Parameter(made.pop("weight"), requires_grad=False)
        for name, tensor in made.items():
            self.register_buffer(name, tensor, persistent=False)  # else it would be rounded with the weights

    def __deepcopy__(self, memo: dict[int, object]) -> FourBitLinear:
        return self

    @property
    def num_weights(self) -> int:
        return self.out_features * self.in_features

    def forward(self, states: Tensor) -> Tensor:
        library: Any = importlib.import_module("bitsandbytes")
        # transposed, as bitsandbytes takes it before 0.50; from then on it is all the same
        return library.matmul_4bit(  # type: ignore[no-any-return]
            states, self.weight.t(), quant_state=self._state(states.dtype), bias=self.bias
        )

    def dequantized(self) -> Tensor:
        """The weight [out, in] in float32."""
        functions: Any = importlib.import_module("bitsandbytes.functional")
        return functions.dequantize_4bit(self.weight, self._state(torch.float32))  # type: ignore[no-any-return]

    def _state(self, dtype: torch.dtype) -> Any:
        """What bitsandbytes has beside the codes."""
        functions: Any = importlib.import_module("bitsandbytes.functional")
        outer = functions.QuantState(
            absmax=self.outer_scales, code=self.scale_code, blocksize=_OUTER_BLOCK, dtype=torch.float32
        )
        return functions.QuantState(
            absmax=self.scales, shape=torch.Size((self.out_features, self.in_features)), code=self.code,
            blocksize=_BLOCK, quant_type="nf4", dtype=dtype, offset=self.offset, state2=outer,
        )  # fmt: skip


def quantize_layers(model: nn.Module, layers: list[nn.Linear], dtype: torch.dtype, device: torch.device) -> None:
    """Puts a ``FourBitLinear`` in the place of each layer of a model.

    Args:
        dtype: that the model computes in
        device: that the weights are rounded on, one after the other

    Raises:
        ValueError: there is no layer
    """
    if not layers:
        raise ValueError("model.lora.quantize: no layer of this model can be held in 4 bits; remove quantize")
    wanted = {id(layer) for layer in layers}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in wanted:
                assert isinstance(child, nn.Linear)
                setattr(module, name, FourBitLinear(child, dtype, device))


def four_bit_weights(model: nn.Module) -> Iterator[tuple[str, FourBitLinear]]:
    """Layers in 4 bits, by the names of their weights."""
    yield from ((f"{name}.weight", each) for name, each in model.named_modules() if isinstance(each, FourBitLinear))


def _quantized(weight: Tensor, home: torch.device) -> dict[str, Tensor]:
    functions: Any = importlib.import_module("bitsandbytes.functional")
    codes, state = functions.quantize_4bit(weight, blocksize=_BLOCK, compress_statistics=True, quant_type="nf4")
    made = {
        "weight": codes, "scales": state.absmax, "code": state.code, "offset": state.offset,
        "outer_scales": state.state2.absmax, "scale_code": state.state2.code,
    }  # fmt: skip
    return {name: each.to(home) for name, each in made.items()}


def _without_values(num_weights: int) -> dict[str, Tensor]:
    """The same tensors in the same order, in which they are handed out to the ranks."""
    num_blocks = -(-num_weights // _BLOCK)
    with torch.device("meta"):
        return {
            "weight": torch.empty(-(-num_weights // 2), 1, dtype=torch.uint8),
            "scales": torch.empty(num_blocks, dtype=torch.uint8),
            "code": torch.empty(16),
            "offset": torch.empty(()),
            "outer_scales": torch.empty(-(-num_blocks // _OUTER_BLOCK)),
            "scale_code": torch.empty(256),
        }
