"""Gradients of the sides of a benchmark, compared before anything is timed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gpg_vl.models.adapter import Adapter


def compare_gradients(adapter: Adapter, sides: dict[str, Callable[[], None]], right: str = "plain") -> dict[str, float]:
    """Relative difference of each side's whole gradient from that of the right one; bans are off for it.

    The right gradient waits in the memory of the host and comes back a parameter at a time.
    """
    banned = type(adapter).banned_token_ids
    type(adapter).banned_token_ids = property(lambda self: ())  # type: ignore[assignment]
    try:
        sides[right]()
        expected = {name: p.grad.cpu() for name, p in adapter.model.named_parameters() if p.grad is not None}
        differences = {}
        for name in [name for name in sides if name != right]:
            sides[name]()
            differences[name] = _relative_difference(adapter, expected)
    finally:
        type(adapter).banned_token_ids = banned  # type: ignore[method-assign]
    return differences


def _relative_difference(adapter: Adapter, right: dict[str, Tensor]) -> float:
    """Norm of the model's gradient less the right one, over the norm of that."""
    parameters = dict(adapter.model.named_parameters())
    found = {name for name, p in parameters.items() if p.grad is not None}
    assert found == right.keys(), f"gradients on one side alone: {sorted(found ^ right.keys())[:3]}"
    difference = norm = 0.0
    for name, expected in right.items():
        gradient = parameters[name].grad
        assert gradient is not None
        difference += float((gradient - expected.to(gradient.device)).double().square().sum())
        norm += float(expected.double().square().sum())
    return (difference / norm) ** 0.5
