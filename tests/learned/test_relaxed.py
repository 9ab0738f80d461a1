"""Relaxed samples: their noise, their gradient, and on a chain whose gradient is known its bias and its variance."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gpg_vl.learned.discriminator import Discriminator
from gpg_vl.learned.relaxed import _noise_of, relax

VOCABULARY, HIDDEN, WIDTH = 3, 6, 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_log_probs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).log_softmax(-1)


# --- the relaxation ---


def test_the_tokens_stay_those_that_were_sampled() -> None:
    log_probs = draw_log_probs(50, 7)
    tokens = torch.multinomial(log_probs.exp(), 1, generator=generator(1))[:, 0]
    rows = relax(log_probs, tokens, 0.5, generator(2))
    torch.testing.assert_close(rows, torch.nn.functional.one_hot(tokens, 7).double())
    assert bool(((log_probs + _noise_of(log_probs, tokens, generator(2))).argmax(-1) == tokens).all())


def test_the_noise_of_sampled_tokens_is_gumbel_s() -> None:
    """Over tokens that the policy samples, each entry is a standard Gumbel, independent of the others."""
    log_probs = draw_log_probs(1, 4).expand(200_000, 4)
    tokens = torch.multinomial(log_probs.exp(), 1, generator=generator(1))[:, 0]
    noise = _noise_of(log_probs, tokens, generator(2))
    assert noise.mean(0).tolist() == pytest.approx([0.57722] * 4, abs=0.015)
    assert torch.cov(noise.T).flatten().tolist() == pytest.approx(
        (torch.eye(4) * math.pi**2 / 6).flatten().tolist(), abs=0.03
    )
    below = (noise < 0.3).double().mean(0).tolist()
    assert below == pytest.approx([math.exp(-math.exp(-0.3))] * 4, abs=0.005)


def test_the_gradient_is_that_of_the_softmax() -> None:
    logits = torch.randn(3, 5, generator=generator(), dtype=torch.float64).requires_grad_()
    tokens, weights = torch.tensor([4, 0, 2]), draw_log_probs(3, 5, seed=9)
    noise = _noise_of(logits.log_softmax(-1).detach(), tokens, generator(7))
    expected = (torch.softmax((logits.log_softmax(-1) + noise) / 0.7, -1) * weights).sum()
    found = (relax(logits.log_softmax(-1), tokens, 0.7, generator(7)) * weights).sum()
    [a], [b] = (torch.autograd.grad(each, logits) for each in (found, expected))
    torch.testing.assert_close(a, b)


def test_tokens_that_cannot_be_sampled_get_no_gradient() -> None:
    logits = torch.tensor([[0.2, -torch.inf, 0.5]], dtype=torch.float64, requires_grad=True)
    rows = relax(logits.log_softmax(-1), torch.tensor([2]), 0.7, generator())
    (rows * torch.tensor([1.0, 5.0, 2.0])).sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all()) and float(logits.grad[0, 1]) == 0


# --- a chain of tokens, each with logits of its own, judged by a discriminator ---


class Chain:
    """What the policy is rewarded for is the discriminator's logit after the last token."""

    def __init__(self, length: int, spectral_norm: bool, gain: float = 1.0):
        self.network = Discriminator(HIDDEN, WIDTH, spectral_norm, seed=1).double().requires_grad_(requires_grad=False)
        self.network.of_token *= 0.3
        self.network.carry *= gain
        self.embedding = torch.randn(VOCABULARY, HIDDEN, generator=generator(2), dtype=torch.float64)
        self.log_probs = draw_log_probs(length, VOCABULARY, seed=3)
        self.length = length

    def judge(self, one_hot: Tensor) -> Tensor:
        """[N], of rows [N, T, V]."""
        lengths = torch.full((len(one_hot),), self.length)
        return self.network(torch.ones(len(one_hot), HIDDEN).double(), one_hot @ self.embedding, lengths)

    def exact(self) -> Tensor:
        """The gradient [T, V] of the expectation, over all completions."""
        logits = self.log_probs.clone().requires_grad_()
        rows = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=self.length)))
        log_probs = logits.log_softmax(-1)[torch.arange(self.length), rows].sum(1)
        values = self.judge(torch.nn.functional.one_hot(rows, VOCABULARY).double())
        [gradient] = torch.autograd.grad((log_probs.exp() * values).sum(), logits)
        return gradient

    def sample(self, count: int) -> Tensor:
        probabilities = self.log_probs.exp()
        return torch.multinomial(probabilities, count, replacement=True, generator=generator(4)).T

    def by_score(self, count: int) -> Tensor:
        """Estimates [N, T, V] of the score function, with the mean as baseline."""
        one_hot = torch.nn.functional.one_hot(self.sample(count), VOCABULARY).double()
        values = self.judge(one_hot)
        return (values - values.mean())[:, None, None] * (one_hot - self.log_probs.exp())

    def by_relaxation(self, count: int, temperature: float = 1.0) -> Tensor:
        logits = self.log_probs.expand(count, -1, -1).clone().requires_grad_()
        rows = relax(logits.log_softmax(-1), self.sample(count), temperature, generator(5))
        [gradients] = torch.autograd.grad(self.judge(rows).sum(), logits)
        return gradients


def spread(estimates: Tensor) -> float:
    """Variance, summed over the logits."""
    return float(estimates.var(0).sum())


def bias(estimates: Tensor, exact: Tensor) -> float:
    """Of the mean, over the size of the gradient."""
    return float((estimates.mean(0) - exact).norm() / exact.norm())


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / a.norm() / b.norm())


def test_without_spectral_normalisation_the_variance_explodes_with_length() -> None:
    """By the gradient of a relaxed sample; with it, the variance is the same at any length."""
    lengths = (3, 6, 24, 48)
    free, bounded = (
        [spread(Chain(length, spectral_norm, gain=4).by_relaxation(400)) for length in lengths]
        for spectral_norm in (False, True)
    )
    by_score = [spread(Chain(length, spectral_norm=True, gain=4).by_score(400)) for length in lengths]
    print(f"variance at {lengths}: free {free}, bounded {bounded}, score function {by_score}")
    assert free[2] > 100 * free[1] and free[3] > 1e4 * free[2]
    assert max(bounded) < 2 * min(bounded)
    assert by_score[3] > 10 * by_score[0], "the score function's grows with the number of tokens"


def test_what_the_relaxation_is_off_and_what_it_saves() -> None:
    """Against the score function, which is unbiased, on a chain of five tokens whose gradient is computed exactly."""
    chain, count = Chain(5, spectral_norm=True), 20_000
    exact = chain.exact()
    scores = chain.by_score(count)
    error = float(scores.var(0).sum() / count) ** 0.5 / float(exact.norm())
    assert bias(scores, exact) < 3 * error, "unbiased but for the error of the mean"
    relative = float(exact.norm()) ** 2
    print(f"score function: variance {spread(scores) / relative:.3f}")
    found = {}
    for temperature in (0.3, 1.0, 2.0):
        relaxed = chain.by_relaxation(count, temperature)
        found[temperature] = (bias(relaxed, exact), spread(relaxed) / relative)
        angle = cosine(relaxed.mean(0), exact)
        print(f"{temperature}: bias and variance {found[temperature]}, cosine {angle:.3f}")
        assert 0.5 < found[temperature][0] < 1, "the bias is large"
        assert angle > 0.5, "and mostly one of size"
        assert spread(relaxed) < spread(scores) / 5
    assert found[0.3][0] < found[1.0][0] < found[2.0][0] and found[0.3][1] > found[1.0][1] > found[2.0][1]
