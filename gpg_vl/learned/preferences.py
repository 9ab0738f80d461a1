"""A reward from pairwise preferences: Bradley-Terry on a linear head, and the pairs that are worth a label.

    P(a before b) = sigmoid(w . (f_a - f_b))

Pairs are chosen a few at a time, greedily, each that adds most to log det(prior I + sum of p (1 - p) x x^T): x is the
difference of a pair's features, p its probability under the w that the labels so far make, and the sum what all labels
tell of w (D-optimal design). At first p is 1/2 everywhere; later, pairs whose answer is known already tell nothing.
After "Provable Reward-Agnostic Preference-Based Reinforcement Learning" (arXiv 2305.18505), whose learner also chooses
what to have compared instead of comparing at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PRIOR = 0.1  # precision of w, in units of the features' spread within a prompt
MAX_DIMENSIONS = 32


@dataclass(frozen=True, slots=True)
class Scale:
    """From hidden states to the coordinates in which the head is fitted: ``(h - mean) @ directions``."""

    mean: Tensor  # [H]
    directions: Tensor  # [H, D], principal directions of what differs within a prompt, over the spread along each

    def apply(self, features: Tensor) -> Tensor:
        """[..., H] -> [..., D] float64."""
        return (features.double() - self.mean) @ self.directions


def fit_scale(groups: Sequence[Tensor], max_dimensions: int = MAX_DIMENSIONS) -> Scale:
    """
    Args:
        groups: features [G, H] of the answers to one prompt each

    Raises:
        ValueError: all answers to a prompt are the same
    """
    mean = torch.cat(list(groups)).double().mean(0)
    within = torch.cat([group.double() - group.double().mean(0) for group in groups])
    _, spreads, directions = torch.linalg.svd(within, full_matrices=False)
    spreads = spreads / math.sqrt(len(within))
    count = min(max_dimensions, int((spreads > 1e-6 * spreads[0]).sum())) if float(spreads[0]) > 0 else 0
    if count == 0:
        raise ValueError("all answers to a prompt are alike; raise rollout.temperature or rollout.group_size")
    return Scale(mean, directions[:count].T / spreads[:count])


def choose_pairs(
    differences: Tensor, labelled: Sequence[int], w: Tensor, count: int, prior: float = PRIOR
) -> list[int]:
    """The most informative pairs to ask for next, in this order.

    Args:
        differences: [N, D] float64, of all pairs that could be asked for; each is asked for once
        labelled: those that have been
        w: [D], what their labels make of the head
        count: how many
    """
    x = differences.double()
    weights = _information(x @ w)
    known = x[list(labelled)]
    information = prior * torch.eye(x.shape[1], dtype=torch.float64)
    information += (known * weights[list(labelled)][:, None]).T @ known
    inverse = torch.linalg.inv(information)
    chosen: list[int] = []
    for _ in range(min(count, len(x) - len(labelled))):
        gains = weights * (x @ inverse * x).sum(1)  # the determinant grows by 1 + gain
        gains[[*labelled, *chosen]] = -math.inf
        best = int(gains.argmax())
        chosen.append(best)
        direction = inverse @ x[best]
        inverse = inverse - torch.outer(direction, direction) / (1 / weights[best] + x[best] @ direction)
    return chosen


def _information(log_odds: Tensor) -> Tensor:
    """p (1 - p), above 0."""
    p = torch.sigmoid(log_odds)
    return (p * (1 - p)).clamp_min(1e-12)


def fit_head(differences: Tensor, labels: Tensor, prior: float = PRIOR, max_steps: int = 100) -> Tensor:
    """The most probable w, [D] float64, by Newton's method.

    Args:
        differences: [N, D] float64, of the first answer minus the second
        labels: [N], 1 where the first is better, 0 where the second is, 0.5 where they are equal
    """
    x, y = differences.double(), labels.double()
    w = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(max_steps):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (p - y) + prior * w
        if float(gradient.abs().max()) < 1e-10:
            break
        hessian = (x * (p * (1 - p))[:, None]).T @ x + prior * torch.eye(len(w), dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient)
        w = w - step * _damping(x, y, w, step, prior)
    return w


def _damping(x: Tensor, y: Tensor, w: Tensor, step: Tensor, prior: float) -> float:
    """The first of 1, 1/2, 1/4, ... at which the loss does not grow."""
    size, start = 1.0, _loss(x, y, w, prior)
    while _loss(x, y, w - size * step, prior) > start + 1e-12 and size > 1e-6:
        size /= 2
    return size


def _loss(x: Tensor, y: Tensor, w: Tensor, prior: float) -> float:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y, reduction="sum")
    return float(losses + prior / 2 * w @ w)


def accuracy(differences: Tensor, labels: Tensor, w: Tensor) -> float:
    """The share of pairs that it puts in the labelled order; pairs that are labelled equal do not count.

    Raises:
        ValueError: all pairs are labelled equal
    """
    decided = labels != 0.5
    if not bool(decided.any()):
        raise ValueError("no held-out pair has a better answer; raise --held-out")
    return float((((differences @ w) > 0) == (labels > 0.5))[decided].double().mean())
