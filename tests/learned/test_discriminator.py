"""GAPO's discriminator: its formula, and what spectral normalisation bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gpg_vl.learned.discriminator import Discriminator, discriminator_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_it_is_the_written_formula(spectral_norm: bool) -> None:
    """Loops over completions and tokens; padding counts nothing."""
    network = Discriminator(5, 4, spectral_norm, seed=1)
    prompts, tokens, lengths = draw(3, 5), draw(3, 6, 5, seed=2), [6, 2, 1]

    def matrix(weight: Tensor) -> Tensor:
        return weight / torch.linalg.svdvals(weight)[0] if spectral_norm else weight

    expected = []
    for prompt, row, length in zip(prompts, tokens, lengths, strict=True):
        state = torch.tanh(matrix(network.of_prompt) @ (prompt / prompt.norm()))
        for token in row[:length]:
            state = torch.tanh(matrix(network.carry) @ state + matrix(network.of_token) @ (token / token.norm()))
        expected.append((matrix(network.judge) @ state + network.bias).item())
    assert network(prompts, tokens, torch.tensor(lengths)).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_seed_makes_a_network_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (Discriminator(5, 4, spectral_norm=False, seed=seed).carry for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns_to_tell_two_kinds_apart() -> None:
    """Which token comes first decides: a mean over tokens could not tell."""
    network = Discriminator(6, 16, spectral_norm=False, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    one, other = draw(6, seed=5), draw(6, seed=6)
    gold, sampled = torch.stack([one, other]), torch.stack([other, one])
    tokens, lengths = torch.stack([gold, sampled]), torch.tensor([2, 2])
    labels = torch.tensor([1.0, 0.0])
    losses = []
    for _ in range(150):
        loss = discriminator_loss(network(torch.ones(2, 6), tokens, lengths), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 0.2 and losses[-1] < 0.05


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_spectral_normalisation_bounds_what_a_token_changes(spectral_norm: bool) -> None:
    """By 1 for a unit embedding at any place; without it, more."""
    network = Discriminator(8, 8, spectral_norm, seed=3)
    with torch.no_grad():
        network.carry *= 4
    tokens = torch.nn.functional.normalize(draw(64, 12, 8), dim=-1).requires_grad_()
    network(draw(64, 8, seed=1), tokens, torch.full((64,), 12)).sum().backward()
    assert tokens.grad is not None
    largest = float(tokens.grad.norm(dim=-1).max())
    assert (largest <= 1 + 1e-5) == spectral_norm
    assert math.isfinite(largest)
