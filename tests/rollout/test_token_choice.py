"""Sampling of tokens: exactly by their probabilities, with noise that is seeded per completion."""

from __future__ import annotations

import numpy
import pytest
import torch

from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.token_choice import TokenChooser, pick

CPU = torch.device("cpu")
ALMOST_ONE = 1 - 2.0**-53
"""The highest noise that there is."""


def chooser(num_rows: int, max_new_tokens: int = 40) -> TokenChooser:
    return TokenChooser(Sampling(max_new_tokens, 1.0), [(row,) for row in range(num_rows)], CPU)


def sample(max_new_tokens: int, vocab_size: int, num_steps: int) -> list[list[int]]:
    """The tokens of each step, of three rows with even odds."""
    choose = chooser(3, max_new_tokens)
    return [choose(torch.zeros(3, vocab_size), step).tolist() for step in range(num_steps)]


@pytest.mark.parametrize("vocab_size", [50, 5000, 70_000])
def test_samples_do_not_depend_on_the_longest_length(vocab_size: int) -> None:
    """A run that allows longer completions begins each of them with the same tokens."""
    short = sample(5, vocab_size, 5)
    assert short == sample(40, vocab_size, 40)[:5]
    assert len({tuple(step) for step in short}) == 5


def test_tokens_are_as_frequent_as_they_are_likely() -> None:
    scores = torch.tensor([[0.0, 2.0, -torch.inf, 1.0, -3.0, 0.5]])
    num = 40_000
    choose = chooser(1, num)
    counts = torch.bincount(torch.tensor([int(choose(scores, step)) for step in range(num)]), minlength=6)
    likely = scores[0].double().softmax(dim=-1)
    deviation = (likely * (1 - likely) / num).sqrt()
    assert counts[2] == 0
    assert ((counts / num - likely).abs() <= 4 * deviation).all()


def test_each_token_has_its_part_of_the_noise() -> None:
    """The parts are as long as the tokens are likely, to rounding, one after the other."""
    scores = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 4
    ends = scores[0].double().softmax(dim=-1).cumsum(dim=-1)
    starts = torch.nn.functional.pad(ends[:-1], (1, 0))
    rounding = 1e-6
    for token in torch.nonzero(ends - starts > 4 * rounding)[:, 0].tolist():
        for noise in (starts[token] + rounding, (starts[token] + ends[token]) / 2, ends[token] - rounding):
            assert pick(scores, noise[None]).tolist() == [token]


@pytest.mark.parametrize("vocab_size", [7, 4096, 151_936])
def test_as_the_plain_sum_has_it(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(40, vocab_size, generator=generator) * 3
    noise = torch.rand(40, dtype=torch.float64, generator=generator)
    sums = scores.softmax(dim=-1).double().numpy().cumsum(axis=-1)
    expected = [
        int(numpy.searchsorted(row, at * row[-1], side="right")) for row, at in zip(sums, noise.tolist(), strict=True)
    ]
    assert pick(scores, noise).tolist() == expected


def test_what_is_banned_is_never_picked() -> None:
    """Also by the lowest and the highest noise, in front of all other tokens and behind them."""
    scores = torch.full((3, 1000), -torch.inf)
    scores[0, 500] = scores[1, 0] = scores[2, 999] = 0.0
    for noise in (0.0, 0.5, ALMOST_ONE):
        assert pick(scores, torch.full((3,), noise, dtype=torch.float64)).tolist() == [500, 0, 999]
    scores = torch.zeros(1, 1000)
    scores[0, :3] = scores[0, 990:] = -torch.inf
    picked = [int(pick(scores, torch.tensor([noise], dtype=torch.float64))) for noise in (0.0, ALMOST_ONE)]
    assert picked == [3, 989]


def test_a_row_does_not_depend_on_the_others() -> None:
    scores = torch.randn(9, 4096, generator=torch.Generator().manual_seed(2))
    together, left = chooser(9), chooser(9)
    kept = torch.tensor([0, 4, 8])
    left.keep(torch.tensor([0, 2, 4, 8]))
    left.keep(torch.tensor([0, 2, 3]))
    for step in range(5):
        tokens = together(scores, step)
        assert left(scores[kept], step).tolist() == tokens[kept].tolist()
        alone = TokenChooser(Sampling(40, 1.0), [(4,)], CPU)
        assert alone(scores[4:5], step).tolist() == tokens[4:5].tolist()


def test_other_completions_have_other_noise() -> None:
    choose = TokenChooser(Sampling(4, 1.0), [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)], CPU)
    drawn = [choose(torch.zeros(4, 10_000), step) for step in range(4)]
    assert len(torch.stack(drawn).unique()) == 16
