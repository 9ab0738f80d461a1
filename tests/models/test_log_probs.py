from __future__ import annotations

import pytest
import torch

from gpg_vl.models import log_probs
from gpg_vl.models.log_probs import token_log_probs

BANNED = (3, 17)


@pytest.mark.parametrize("logits_per_chunk", [1, 7 * 50, 2**24])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_equal_one_softmax(monkeypatch: pytest.MonkeyPatch, logits_per_chunk: int, temperature: float) -> None:
    monkeypatch.setattr(log_probs, "LOGITS_PER_CHUNK", logits_per_chunk)
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
