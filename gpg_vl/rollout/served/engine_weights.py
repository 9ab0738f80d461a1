"""The policy's weights as an engine takes them, in the names and the type of a model's folder.

A server takes one safetensors file. An engine in this process takes tensors as they are made, block by block, so that
the weights are never there twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from gpg_vl.files import naming
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.weights.lora import merged_weights, weight_names
from gpg_vl.models.weights.masters import stays_float32
from gpg_vl.processes.ranks import run_together

WEIGHTS_FILE = "model.safetensors"
_BLOCK = re.compile(r".*?\.\d+\.")
_AS_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_PIECE = 2**22

Fingerprint = tuple[int, ...]
There = Callable[[Collection[str]], AbstractContextManager[None]]
"""Inside the context, the model has the weights of these names."""


@torch.no_grad()
def fingerprint(adapter: Adapter) -> Fingerprint:
    """A sum over the bits of every tensor, each by its place: other weights have another one, whoever changed them."""
    return tuple(_sum_bits(tensor) for tensor in adapter.model.state_dict().values())


def _sum_bits(tensor: Tensor) -> int:
    """In pieces: to add them up, torch copies whole numbers of other types to int64."""
    bits = tensor.contiguous().view(_AS_WHOLE[tensor.element_size()]).flatten()
    total = 0
    for start in range(0, len(bits), _PIECE):
        piece = bits[start : start + _PIECE].long()
        places = torch.arange(2 * start + 1, 2 * (start + len(piece)), 2, device=bits.device)
        total += int((piece * places).sum())  # what is beyond 64 bits is lost, on every machine alike
    return total


@torch.no_grad()
def write_weights(adapter: Adapter, folder: Path) -> None:
    """Writes all weights as ``named_weights`` has them; all of them are in the host's memory, none on the device."""
    save_weights({name: tensor.cpu() for name, tensor in named_weights(adapter)}, folder)


def save_weights(weights: dict[str, Tensor], folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    with naming(path):
        save_file(weights, path, metadata={"format": "pt"})


class HeldWeights:
    """Weights that were there block by block, in the host's memory."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.sums: list[int] = []

    @torch.no_grad()
    def take(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            self.sums.append(_sum_bits(tensor))  # on the device, which is quicker at it
            self.tensors[name] = tensor.to("cpu", copy=True)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of these weights, whatever ``fingerprint`` says of the same policy: a LoRA adapter is added in."""
        return tuple(self.sums)


def _all_there(_: Collection[str]) -> AbstractContextManager[None]:
    return nullcontext()


@torch.no_grad()
def named_weights(adapter: Adapter, there: There = _all_there) -> Iterator[tuple[str, Tensor]]:
    """All weights, those of a LoRA adapter added in, in the type that the model computes in; perhaps its very tensors.
    A few are float32 in every model.

    What is made for them is that of one block of layers at a time, if whoever takes them keeps none.

    Args:
        there: where ranks share the weights and do not hold them all, what gathers some of them
    """
    dtype = torch.bfloat16 if adapter.config.dtype == "bfloat16" else torch.float32
    for names in _blocks(adapter):
        with there(names):
            block = merged_weights(adapter.model, names)
            for name, tensor in revert_weight_conversion(adapter.model, dict(block)).items():
                yield name, _as_stored(tensor, torch.float32 if stays_float32(adapter.model, name) else dtype)


def named_nowhere(adapter: Adapter, there: There) -> Iterator[tuple[str, Tensor]]:
    """What a rank runs beside another one's ``named_weights``: it gathers the same blocks, and takes none of them."""
    for names in _blocks(adapter):
        with there(names):
            pass
    yield from ()


def _blocks(adapter: Adapter) -> list[list[str]]:
    return [list(names) for _, names in groupby(weight_names(adapter.model), _block_of)]


class GatheredInTurn:
    """Weights that other ranks gather together with this one, to their end, whether or not an engine takes them all."""

    def __init__(self, weights: Iterator[tuple[str, Tensor]]):
        self._weights = weights
        self._failure: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Tensor]:
        try:
            return next(self._weights)
        except StopIteration:
            raise
        except Exception as error:
            self._failure = error
            raise

    def give(self, take: Callable[[Self], None]) -> None:
        """Has ``take`` read them. Other ranks, which call it too, wait for this one at every block, whatever becomes of
        that; they raise together.
        """
        failure: Exception | None = None
        try:
            take(self)
        except Exception as error:  # noqa: BLE001  all ranks learn of it below
            failure = error
        self.read_on()
        run_together(partial(raise_if, failure))

    def read_on(self) -> None:
        """To the end.

        Raises:
            Exception: what ended them before. Other ranks wait in the next block then, so this process has to end
        """
        if self._failure is not None:
            raise self._failure
        for _ in self:
            pass


def raise_if(failure: Exception | None) -> None:
    if failure is not None:
        raise failure


def _block_of(name: str) -> str:
    """What a name has up to its first number: tensors that are stored as one are of one block."""
    found = _BLOCK.match(name)
    return found[0] if found else ""


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
