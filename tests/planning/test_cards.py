"""The card of a machine: by its name, else by its memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpg_vl.planning.cards import CARDS, Card, card_here
from gpg_vl.run.speed import GIB, PEAK_RATES


def found(monkeypatch: pytest.MonkeyPatch, name: str, gib: float) -> Card:
    """What is made of a stand-in for a card."""
    total = int(gib * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
    card = card_here(torch.device("cuda"))
    assert (card.name, card.total) == (name, total)
    return card


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.3, "a100-80"),
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-80"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80"),
        ("NVIDIA H100 PCIe", 79.2, "h100-pcie-80"),
        ("NVIDIA H20", 95.1, "h20-96"),
        ("NVIDIA H200 NVL", 139.8, "h200-nvl-141"),
        ("NVIDIA L4", 22.0, "l4-24"),
    ],
)
def test_a_known_card_has_its_own_rates(monkeypatch: pytest.MonkeyPatch, name: str, gib: float, known: str) -> None:
    """Others may have as much memory."""
    card = found(monkeypatch, name, gib)
    assert (card.rate, card.bandwidth) == (CARDS[known].rate, CARDS[known].bandwidth)
    assert card.likened_to == ""


def test_another_card_has_the_rates_of_the_nearest_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = found(monkeypatch, "NVIDIA RTX 6000 Ada Generation", 47.5)
    assert (card.rate, card.likened_to) == (CARDS["l40s-48"].rate, "l40s-48")


def test_every_card_whose_rate_is_known_can_be_planned_with() -> None:
    assert {card.model for card in CARDS.values()} == PEAK_RATES.keys()
