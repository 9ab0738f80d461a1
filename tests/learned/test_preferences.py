"""Bradley-Terry heads and the pairs that they are learned from, on oracles whose preferences are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpg_vl.learned.preferences import accuracy, choose_pairs, fit_head, fit_scale

NUM_LABELS = 160


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the fit ---


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0.1, 10))
def test_the_head_is_the_minimum_of_the_written_loss(seed: int, count: int, prior: float) -> None:
    x = randn(count, 3, seed=seed)
    y = torch.tensor([(1.0, 0.0, 0.5)[n % 3] for n in range(count)], dtype=torch.float64)
    w = fit_head(x, y, prior).requires_grad_()
    p = torch.sigmoid(x @ w)
    loss = -(y * p.log() + (1 - y) * (1 - p).log()).sum() + prior / 2 * (w**2).sum()
    [gradient] = torch.autograd.grad(loss, w)
    assert float(gradient.abs().max()) < 1e-8


def test_separable_labels_do_not_run_away() -> None:
    x = 50 * randn(40, 4, seed=0)
    w = fit_head(x, (x[:, 0] > 0).double())
    assert bool(torch.isfinite(w).all())
    assert accuracy(x, (x[:, 0] > 0).double(), w) == 1


def test_equal_answers_are_scored_alike() -> None:
    """Pairs that differ in the second coordinate alone are all the same; the first coordinate decides."""
    x = torch.tensor([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20, dtype=torch.float64)
    w = fit_head(x, torch.tensor([1.0] * 20 + [0.5] * 20))
    assert float(w[0]) > 1 and abs(float(w[1])) < 1e-9


def test_accuracy_leaves_equal_pairs_out() -> None:
    x = torch.tensor([[1.0], [-1.0], [3.0]], dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, 0.5])
    assert accuracy(x, labels, torch.ones(1, dtype=torch.float64)) == 0.5
    with pytest.raises(ValueError, match="--held-out"):
        accuracy(x, torch.tensor([0.5] * 3), torch.ones(1, dtype=torch.float64))


# --- the coordinates ---


def test_the_scale_is_that_of_what_differs_within_a_prompt() -> None:
    """Prompts that lie far apart say nothing about their answers."""
    answers = [100 * randn(1, 6, seed=n) + randn(5, 6, seed=50 + n) @ torch.diag(torch.arange(1.0, 7.0).double())
               for n in range(40)]  # fmt: skip
    scale = fit_scale(answers)
    within = torch.cat([scale.apply(each) - scale.apply(each).mean(0) for each in answers])
    torch.testing.assert_close(within.T @ within / len(within), torch.eye(6, dtype=torch.float64))
    assert fit_scale(answers, max_dimensions=2).directions.shape == (6, 2)


def test_answers_that_are_all_alike_have_no_scale() -> None:
    with pytest.raises(ValueError, match="temperature"):
        fit_scale([torch.ones(3, 4), torch.zeros(3, 4)])


# --- the choice of pairs ---


def log_det(x: Tensor) -> float:
    return float(torch.logdet(torch.eye(x.shape[1], dtype=torch.float64) + x.T @ x / 4))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 5))
def test_each_choice_adds_most_to_the_determinant(seed: int, count: int, dimensions: int) -> None:
    """Against determinants that are computed afresh for every pair that is left."""
    x = randn(count, dimensions, seed=seed)
    chosen: list[int] = []
    for best in choose_pairs(x, count):
        gains = {n: log_det(x[[*chosen, n]]) for n in range(count) if n not in chosen}
        assert gains[best] == pytest.approx(max(gains.values()), abs=1e-9)
        chosen.append(best)
    assert sorted(chosen) == list(range(count))


def test_no_pair_is_asked_for_twice() -> None:
    assert choose_pairs(torch.zeros(3, 2), 10) in ([0, 1, 2], [0, 2, 1], [1, 0, 2])
