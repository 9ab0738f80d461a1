from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpg_vl.models import log_probs
from gpg_vl.models.log_probs import token_log_probs

BANNED = (3, 17)


@pytest.mark.parametrize("logits_per_chunk", [1, 7 * 50, 2**24])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_equal_one_softmax(monkeypatch: pytest.MonkeyPatch, logits_per_chunk: int, temperature: float) -> None:
    monkeypatch.setitem(log_probs.LOGITS_PER_CHUNK, "cpu", logits_per_chunk)
    torch.manual_seed(0)
    hidden = torch.randn(23, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(18, 50, (23,))
    coefficients = torch.randn(23)

    found = token_log_probs(hidden, weight, targets, temperature, BANNED)
    found_grads = torch.autograd.grad((found * coefficients).sum(), (hidden, weight))

    logits = (hidden @ weight.T) / temperature
    logits[:, list(BANNED)] = -torch.inf
    expected = torch.log_softmax(logits, -1)[torch.arange(23), targets]
    expected_grads = torch.autograd.grad((expected * coefficients).sum(), (hidden, weight))

    torch.testing.assert_close(found, expected)
    for a, b in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b)
    assert not found_grads[1][list(BANNED)].any()


def test_a_cap_comes_before_temperature_and_bans() -> None:
    hidden, weight = 3 * torch.randn(5, 16), torch.randn(50, 16)
    targets = torch.arange(20, 25)
    logits = 4 * torch.tanh(hidden @ weight.T / 4) / 0.7
    logits[:, list(BANNED)] = -torch.inf
    expected = logits.log_softmax(-1)[torch.arange(5), targets]
    torch.testing.assert_close(token_log_probs(hidden, weight, targets, 0.7, BANNED, logit_cap=4.0), expected)
    assert not torch.allclose(token_log_probs(hidden, weight, targets, 0.7, BANNED), expected, atol=0.1)


def test_banned_tokens_above_the_rows_of_the_head_are_none_of_its() -> None:
    """A model may have fewer rows in its head than tokens: those above cannot be sampled anyway."""
    hidden, weight, targets = torch.randn(5, 16), torch.randn(50, 16), torch.arange(5, 10)
    expected = token_log_probs(hidden, weight, targets, 1.0, BANNED)
    assert torch.equal(token_log_probs(hidden, weight, targets, 1.0, (*BANNED, 50, 99)), expected)
    assert torch.equal(
        token_log_probs(hidden, weight, targets, 1.0, (50,)), token_log_probs(hidden, weight, targets, 1.0, ())
    )


def test_bfloat16_input_is_scored_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16), torch.randn(50, 16)
    targets = torch.arange(5)
    low = hidden.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_log_probs(low, weight, targets, 1.0, ())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_log_probs(low.float(), weight, targets, 1.0, ()))


@pytest.mark.parametrize(("temperature", "cap"), [(1.0, None), (0.7, None), (0.7, 4.0)])
def test_gradients_through_the_cap_and_of_one_side_alone(temperature: float, cap: float | None) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets, coefficients = torch.randint(18, 50, (9,)), torch.randn(9)
    product = hidden @ weight.T
    logits = (product if cap is None else cap * torch.tanh(product / cap)) / temperature
    logits = logits.index_fill(-1, torch.tensor(BANNED), -torch.inf)
    expected = torch.autograd.grad(
        (logits.log_softmax(-1)[torch.arange(9), targets] * coefficients).sum(), (hidden, weight)
    )
    for ours in ((True, True), (True, False), (False, True)):
        sides = [side.detach().requires_grad_(needs) for side, needs in zip((hidden, weight), ours, strict=True)]
        (token_log_probs(sides[0], sides[1], targets, temperature, BANNED, cap) * coefficients).sum().backward()
        for side, other, needs in zip(sides, expected, ours, strict=True):
            assert (side.grad is not None) == needs
            if side.grad is not None:
                torch.testing.assert_close(side.grad, other)


class _HeadSized(TorchDispatchMode):
    """Counts the matrices as large as the head that are made."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self._shape = shape
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.shape == self._shape and not func.is_view:
            self.count += all(found is not arg for arg in args)
        return found


def test_the_heads_gradient_is_one_matrix_whatever_the_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(log_probs.LOGITS_PER_CHUNK, "cpu", 50)
    hidden, weight = torch.randn(23, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    with _HeadSized(weight.shape) as made:
        token_log_probs(hidden, weight, torch.arange(23), 1.0, BANNED).sum().backward()
    assert made.count <= 2, "the gradient, and the copy that becomes the weight's"


def test_a_chunk_that_takes_the_place_of_those_before_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the head's gradient is that of the last chunk."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(23, 16), torch.randn(50, 16, requires_grad=True), torch.arange(20, 43)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(token_log_probs(hidden, weight, targets, 1.0, BANNED).sum(), weight)[0]

    whole = gradient()
    monkeypatch.setitem(log_probs.LOGITS_PER_CHUNK, "cpu", 7 * 50)
    torch.testing.assert_close(gradient(), whole)
    monkeypatch.setattr(torch, "addmm", lambda _, one, other, out: out.copy_(one @ other))
    assert float((gradient() - whole).norm() / whole.norm()) > 0.1
