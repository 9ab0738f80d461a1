"""Weights that the first rank hands out; on several ranks: ``faults/test_rank_loading.py`` and others there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.processes.ranks import RankError
from gpg_vl.update import handing_out
from gpg_vl.update.handing_out import follow_first_rank


def follow(model: nn.Module, first: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another rank than that of ``first``."""
    of_first = [{name for name, _ in first.named_parameters()}, handing_out.digest_of(first)]
    monkeypatch.setattr(handing_out, "gather_object", lambda mine: [of_first.pop(0), *mine])
    follow_first_rank(model)


def test_a_head_that_the_folder_has_apart_is_apart_on_all_ranks(
    load: Callable[..., QwenVLAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config ties it; transformers keeps what it finds in the files, and only the first rank reads them."""
    first, other = load().model, load().model.to("meta")
    first.lm_head.weight = nn.Parameter(first.lm_head.weight + 1)
    follow(other, first, monkeypatch)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in first.named_parameters()]
    assert other.lm_head.weight is not other.get_input_embeddings().weight
    assert other.lm_head.weight.shape == first.lm_head.weight.shape


def test_other_models_are_refused(load: Callable[..., QwenVLAdapter], monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = load().model, load().model
    first.register_parameter("stray", nn.Parameter(torch.zeros(3)))
    with pytest.raises(RankError, match="different models"):
        follow(other, first, monkeypatch)
