"""Bradley-Terry heads and the pairs that they are learned from, on oracles whose preferences are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpg_vl.learned.preferences import accuracy, choose_pairs, fit_head, fit_scale


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


def log_det(x: Tensor, w: Tensor, prior: float) -> float:
    p = torch.sigmoid(x @ w)
    return float(torch.logdet(prior * torch.eye(x.shape[1], dtype=torch.float64) + (x * (p * (1 - p))[:, None]).T @ x))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(3, 12), st.integers(1, 5), st.floats(0, 2))
def test_each_choice_adds_most_to_the_determinant(seed: int, count: int, dimensions: int, size: float) -> None:
    """Against determinants that are computed afresh for every pair that is left."""
    x, w = randn(count, dimensions, seed=seed), size * randn(dimensions, seed=seed + 1)
    taken = [0, 2]
    for best in choose_pairs(x, [0, 2], w, count, prior=0.3):
        gains = {n: log_det(x[[*taken, n]], w, 0.3) for n in range(count) if n not in taken}
        assert gains[best] == pytest.approx(max(gains.values()), abs=1e-9)
        taken.append(best)
    assert sorted(taken) == list(range(count)), "no pair is asked for twice"


# --- what the choice is for: fewer labels ---

PROMPTS, HELD_OUT, ANSWERS, DIMENSIONS, SEEDS = 45, 15, 6, 24, 10


def draw_answers(kind: str, seed: int) -> tuple[list[Tensor], Tensor]:
    """Features of the answers by prompt, and the oracle's direction, in which all directions matter alike.

    spread: answers differ in all directions, less in each further one, as hidden states do; modes: most answers to a
    prompt are near copies of one.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spreads = 1 / torch.arange(1, DIMENSIONS + 1).double()
    turn = torch.linalg.qr(normal(DIMENSIONS, DIMENSIONS))[0]
    answers = []
    for _ in range(PROMPTS + HELD_OUT):
        here, own = 3 * normal(1, DIMENSIONS), normal(ANSWERS, DIMENSIONS)
        is_copy = torch.rand(ANSWERS, 1, generator=generator) < (0.8 if kind == "modes" else 0)
        own = torch.where(is_copy, own[:1] + 0.1 * own, own)
        answers.append(here + (own * spreads) @ turn)
    return answers, turn.T @ (normal(DIMENSIONS) / spreads)


def all_differences(answers: list[Tensor]) -> Tensor:
    return torch.stack([each[i] - each[j] for each in answers for i in range(ANSWERS) for j in range(i)])


def learning_curves(kind: str, seed: int, num_labels: int) -> dict[str, list[float]]:
    """Held-out accuracy after each eight labels of an oracle that always prefers the better answer."""
    answers, direction = draw_answers(kind, seed)
    scale = fit_scale(answers[:PROMPTS])
    x, held_out = (all_differences([scale.apply(each) for each in part])
                   for part in (answers[:PROMPTS], answers[PROMPTS:]))  # fmt: skip
    labels, truth = (
        (all_differences(part) @ direction > 0).double() for part in (answers[:PROMPTS], answers[PROMPTS:])
    )
    at_random = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).tolist()
    curves: dict[str, list[float]] = {"information": [], "random": []}
    labelled: list[int] = []
    w = torch.zeros(x.shape[1], dtype=torch.float64)
    for count in range(8, num_labels + 1, 8):
        labelled += choose_pairs(x, labelled, w, 8)
        w = fit_head(x[labelled], labels[labelled])
        others = fit_head(x[at_random[:count]], labels[at_random[:count]])
        curves["information"].append(accuracy(held_out, truth, w))
        curves["random"].append(accuracy(held_out, truth, others))
    return curves


def mean_curve(curves: list[dict[str, list[float]]], how: str) -> list[float]:
    return [sum(values) / len(values) for values in zip(*(each[how] for each in curves), strict=True)]


@pytest.mark.parametrize(("kind", "num_random"), [("spread", 96), ("spread", 160), ("modes", 160)])
def test_chosen_pairs_need_at_most_07_of_the_labels(kind: str, num_random: int) -> None:
    """Of those that random pairs need for the same held-out accuracy, in the mean over ten oracles."""
    curves = [learning_curves(kind, seed, num_random) for seed in range(SEEDS)]
    target = mean_curve(curves, "random")[-1]
    assert target > 0.87
    num_chosen = next(8 * (n + 1) for n, value in enumerate(mean_curve(curves, "information")) if value >= target)
    print(f"{kind}: {num_chosen} chosen and {num_random} random pairs reach {target:.3f}")
    assert num_chosen <= 0.7 * num_random
