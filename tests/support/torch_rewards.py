"""Reward functions that return tensors, with torch imported where it is used."""

from __future__ import annotations

from typing import Any


def tensor(completions: list[str], **kwargs: Any) -> Any:
    import torch

    return torch.ones(len(completions))


def tensors(completions: list[str], **kwargs: Any) -> Any:
    return list(tensor(completions))
