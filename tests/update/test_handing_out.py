"""Weights that the first rank hands out; on several ranks: ``faults/test_rank_loading.py`` and others there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.processes.ranks import RankError
from gpg_vl.update import handing_out
from gpg_vl.update.handing_out import follow_first_rank
from gpg_vl.update.packing import build_micro_batch
from gpg_vl.update.policy import packed_log_probs
from tests.support.builders import SMALL_IMAGES, make_sample, make_training_group, whole


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_in_four_bits_is_handed_out(
    load: Callable[..., QwenVLAdapter], monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], dtype: Any
) -> None:
    """Codes and scales; each rank then computes what the first one does."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    config = ModelConfig(
        path=str(model_folders["qwen2_vl"]), **{**SMALL_IMAGES, "dtype": dtype}, lora=LoraConfig(quantize="nf4")
    )
    first, other = load_adapter(config), load_adapter(config, with_values=False)
    ranks: Any = SimpleNamespace(
        num_processes=2, device=torch.device("cpu"), state=SimpleNamespace(deepspeed_plugin=None)
    )
    sent: list[Tensor] = []

    def send(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        sent.append(tensor.detach().to(dtype or tensor.dtype))
        return sent[-1]

    def receive(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        found = sent.pop(0)
        assert (found.shape, found.dtype) == (tensor.shape, dtype or tensor.dtype)
        return found.clone()

    monkeypatch.setattr(handing_out, "follow_first_rank", lambda model: None)
    for adapter, exchange in ((first, send), (other, receive)):
        monkeypatch.setattr(handing_out, "from_first_rank", exchange)
        handing_out.hand_out(adapter, ranks)
        adapter.round_weights()
    assert sent == []
    group = make_training_group(first, make_sample([(84, 84)]), [4, 7])
    with torch.no_grad():
        one, two = (packed_log_probs(each, build_micro_batch(whole(group), each), 1.0) for each in (first, other))
    assert torch.equal(one, two)
