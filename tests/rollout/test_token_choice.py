"""Noise of the sampling: seeded per completion, and no more of it than the completion can use."""

from __future__ import annotations

import pytest
import torch

from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.token_choice import NOISE_PER_DRAW, TokenChooser

CPU = torch.device("cpu")


def sample(max_new_tokens: int, vocab_size: int, num_steps: int) -> list[list[int]]:
    """The tokens of each step, of three rows with even odds."""
    choose = TokenChooser(Sampling(max_new_tokens, 1.0), [(row,) for row in range(3)], vocab_size, CPU)
    return [choose(torch.zeros(3, vocab_size), step).tolist() for step in range(num_steps)]


@pytest.mark.parametrize("vocab_size", [50, 5000, NOISE_PER_DRAW + 1])
def test_samples_do_not_depend_on_the_longest_length(vocab_size: int) -> None:
    """A run that allows longer completions begins each of them with the same tokens."""
    short = sample(5, vocab_size, 5)
    assert short == sample(40, vocab_size, 40)[:5]
    assert len({tuple(step) for step in short}) == 5


def test_no_more_noise_is_drawn_than_the_completions_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = torch.Tensor.exponential_

    def counted(noise: torch.Tensor, *args: float, generator: torch.Generator | None = None) -> torch.Tensor:
        drawn.append(noise.numel())
        return draw(noise, *args, generator=generator)

    monkeypatch.setattr(torch.Tensor, "exponential_", counted)
    sample(max_new_tokens=4, vocab_size=50, num_steps=4)
    assert sum(drawn) == 3 * 4 * 50
