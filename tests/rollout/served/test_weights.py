"""The weights that a server takes are those that the policy computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.rollout.served.weights import WEIGHTS_FILE, fingerprint, write_weights
from tests.support.builders import FAMILIES, SMALL_IMAGES
from tests.support.rollout_servers import load_published, perturb


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_have_the_names_and_the_type_of_a_model_folder(
    load: Any, model_folders: dict[str, Path], tmp_path: Path, family: str, dtype: str
) -> None:
    adapter = load(family, dtype=dtype)
    adapter.round_weights()
    write_weights(adapter, tmp_path)
    written, folder = load_file(tmp_path / WEIGHTS_FILE), load_file(model_folders[family] / WEIGHTS_FILE)
    assert set(written) == set(folder)
    for name, tensor in folder.items():
        assert torch.equal(written[name], tensor.to(getattr(torch, dtype)))


def test_an_adapter_is_added_in_and_the_policy_stays_as_it_was(model_folders: dict[str, Path], tmp_path: Path) -> None:
    lora = LoraConfig(r=2, parts=["text", "vision"])
    policy = load_adapter(ModelConfig(path=str(model_folders["qwen2_vl"]), lora=lora, **SMALL_IMAGES))  # type: ignore[arg-type]
    perturb(policy)
    before = {name: each.clone() for name, each in policy.model.state_dict().items()}
    write_weights(policy, tmp_path)
    assert all(torch.equal(each, before[name]) for name, each in policy.model.state_dict().items())
    base = load_published(tmp_path, policy.config)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        one, other = (each.model(input_ids=ids).logits for each in (policy, base))
    assert torch.allclose(one, other, atol=1e-4)
    with policy.without_lora(), torch.no_grad():
        assert not torch.allclose(policy.model(input_ids=ids).logits, other, atol=1e-2), "the adapter does something"


@torch.no_grad()
def test_a_fingerprint_changes_with_any_weight(load: Any) -> None:
    adapter = load(dtype="bfloat16")
    adapter.round_weights()
    found = fingerprint(adapter)
    assert fingerprint(adapter) == found
    first, *_, last = adapter.model.parameters()
    for parameter in (first, last):
        parameter.view(-1)[3] += 1
        assert fingerprint(adapter) != found
        found = fingerprint(adapter)
