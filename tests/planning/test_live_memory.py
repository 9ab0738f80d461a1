"""Bytes that live at the worst moment, against sums by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpg_vl.planning.live_memory import ACTIVATIONS, GRADIENTS, LOGITS, VISION, LiveMemory

META = torch.device("meta")
KB = 1024  # of 16 x 16 float32


def test_what_is_gone_counts_no_more() -> None:
    with LiveMemory(7) as memory:
        first = torch.empty(16, 16, device=META)
        second = first + first
        del first
        third = second * 2
        del second, third
    assert memory.peak.parts[ACTIVATIONS] == 2 * KB


def test_views_cost_nothing() -> None:
    with LiveMemory(7) as memory:
        whole = torch.empty(16, 16, device=META)
        parts = [whole[n:].t() for n in range(4)]
        del whole
    assert len(parts) == 4
    assert memory.peak.parts[ACTIVATIONS] == KB


def test_parts_are_told_apart() -> None:
    with LiveMemory(16) as memory:
        with memory.part(VISION):
            image = torch.empty(2, 128, device=META)
        logits = torch.empty(16, 16, device=META)
    del image, logits
    assert {name: memory.peak.parts[name] for name in (VISION, LOGITS)} == {VISION: KB, LOGITS: KB}


def test_gradients_of_a_chain_of_layers() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16, bias=False, device=META) for _ in range(3)))
    memory = LiveMemory(7)
    memory.skip(model.parameters())
    handles = memory.claim_gradients((weight, weight) for weight in model.parameters())
    with memory:
        inputs: Tensor = torch.empty(16, 16, device=META)
        model(inputs).sum().backward()
    for handle in handles:
        handle.remove()
    assert memory._live[GRADIENTS] == 3 * KB
    assert memory.peak.without_gradients[ACTIVATIONS] >= 3 * KB  # the inputs of three layers
    assert GRADIENTS not in memory.peak.without_gradients


def test_tensors_with_values_may_stand_beside_shapes() -> None:
    with LiveMemory(7):
        states = torch.empty(5, 16, device=META)
        mask = torch.tensor([True, False, True, True, False])
        assert states[mask].shape == (3, 16)
        assert (states + torch.ones(5, 16)).is_meta
        assert torch.tensor([2, 3]).tolist() == [2, 3]
