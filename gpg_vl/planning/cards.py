"""Cards by the names that ``gpg-vl plan --gpu`` takes. Their rates are those of ``run.speed``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpg_vl.run.speed import GIB, PEAK_RATES, model_of


@dataclass(frozen=True, slots=True)
class Card:
    """By the vendor's data sheet, and what is reached of it, which is estimated: no GPU has been measured for that."""

    name: str
    rate: float  # FLOP/s of dense bfloat16 products
    total: int  # bytes of memory
    bandwidth: float  # bytes per second of that memory
    free: int | None = None  # bytes that nothing else takes, where they are known
    achieved: float = 0.6  # share of the rate that large products in bfloat16 reach
    in_float32: float = 1 / 8  # share of that in float32
    launch: float = 17e-6  # seconds to start a kernel, where the GPU waits for the host: 30 ms a step of 1,700 kernels
    step_traffic: float = 7.0  # numbers that AdamW reads and writes for each weight
    is_host: bool = False  # an operation starts when the one before has ended
    model: str = ""  # of ``run.speed.PEAK_RATES``
    likened_to: str = ""  # the card whose rates these are, where its own are not known

    @property
    def usable(self) -> int:
        """Bytes for tensors: without CUDA's own, what others take, and a part that fragments."""
        free = self.total - GIB if self.free is None else min(self.free, self.total - GIB)
        return int(free * 0.95)

    def products(self, dtype: str) -> float:
        """FLOP/s of large products in ``model.dtype``."""
        return self.rate * self.achieved * (1.0 if dtype == "bfloat16" else self.in_float32)

    def run(self, kernels: float, seconds: float) -> float:
        """Seconds of kernels that compute for ``seconds``: a GPU computes while the next ones are started."""
        starting = kernels * self.launch
        return starting + seconds if self.is_host else max(starting, seconds)


def _card(name: str, model: str, gib: int, terabytes_per_s: float) -> Card:
    return Card(name, PEAK_RATES[model], gib * GIB, terabytes_per_s * 1e12, model=model)


CARDS = {
    card.name: card
    for card in (
        _card("h100-80", "H100", 79, 3.35),
        _card("h100-pcie-80", "H100 PCIe", 79, 2.0),
        _card("h100-nvl-94", "H100 NVL", 93, 3.9),
        _card("h200-141", "H200", 140, 4.8),
        _card("h200-nvl-141", "H200 NVL", 140, 4.8),
        _card("h20-96", "H20", 95, 4.0),
        _card("a100-80", "A100", 79, 2.0),
        _card("a100-40", "A100", 39, 1.55),
        _card("l40s-48", "L40S", 44, 0.86),
        _card("a10-24", "A10", 22, 0.6),
        _card("l4-24", "L4", 22, 0.3),
    )
}
"""Memory as the driver shows it."""


def find_card(name: str) -> Card:
    """
    Raises:
        ValueError: no card has this name; lists the known ones
    """
    if name not in CARDS:
        raise ValueError(f"--gpu: no card {name!r}; the cards are {', '.join(CARDS)}")
    return CARDS[name]


def card_here(device: torch.device) -> Card:
    """The card of this machine: memory as it is, rates of the known card of its name, or of the nearest in memory."""
    name, total = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    model = model_of(name)
    alike = [card for card in CARDS.values() if card.model == model]
    nearest = min(alike or CARDS.values(), key=lambda card: abs(card.total - total))
    return Card(
        name, nearest.rate, total, nearest.bandwidth, model=model or "", likened_to="" if alike else nearest.name
    )
