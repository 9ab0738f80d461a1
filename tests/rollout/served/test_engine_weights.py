"""The weights that a server takes are those that the policy computes with."""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.core_model_loading import revert_weight_conversion

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.models.weights.lora import merged_weights, weight_names
from gpg_vl.rollout.served import engine_weights
from gpg_vl.rollout.served.engine_weights import (
    WEIGHTS_FILE,
    GatheredInTurn,
    HeldWeights,
    fingerprint,
    named_weights,
    write_weights,
)
from tests.support.builders import FAMILIES, SMALL_IMAGES
from tests.support.families import CASES, skip_unless_installed
from tests.support.rollout_servers import load_published, perturb


def load_with_lora(folder: Path) -> Any:
    lora = LoraConfig(r=2, parts=["text", "vision"])
    policy = load_adapter(ModelConfig(path=str(folder), lora=lora, **SMALL_IMAGES))  # type: ignore[arg-type]
    perturb(policy)
    return policy


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


def test_what_no_model_rounds_is_float32(load: Any, tmp_path: Path) -> None:
    """As the bias by which a router chooses: rounded, it would choose other experts."""
    adapter = load(dtype="bfloat16")
    adapter.model._keep_in_fp32_modules_strict = {"input_layernorm"}
    perturb(adapter)
    adapter.round_weights()
    write_weights(adapter, tmp_path)
    state = adapter.model.state_dict()
    for name, tensor in load_file(tmp_path / WEIGHTS_FILE).items():
        assert tensor.dtype == (torch.float32 if "input_layernorm" in name else torch.bfloat16), name
        if tensor.dtype == torch.float32:
            [own] = [each for key, each in state.items() if key.endswith(name.split("layers.")[-1])]
            assert torch.equal(tensor, own) and not torch.equal(own, own.bfloat16().float())


def test_an_adapter_is_added_in_and_the_policy_stays_as_it_was(model_folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_with_lora(model_folders["qwen2_vl"])
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
    for change in (lambda each: each[3:4].add_(1), lambda each: each.copy_(each.flip(0)), step_up_and_down):
        for parameter in (first, last):
            change(parameter.view(-1))
            assert fingerprint(adapter) != found
            found = fingerprint(adapter)


def step_up_and_down(weights: torch.Tensor) -> None:
    """By the smallest step that the type has: a sum of the bits stays as it is."""
    bits = weights.view(torch.int16)
    bits[4] += 1
    bits[7] -= 1


def test_no_more_than_a_block_of_them_is_made_at_a_time(model_folders: dict[str, Path]) -> None:
    """So they are never there twice, not even where an adapter is added in."""
    policy = load_with_lora(model_folders["qwen2_vl"])
    own = {each.untyped_storage().data_ptr() for each in policy.model.state_dict().values()}
    made: list[weakref.ref[torch.Tensor]] = []
    blocks: Counter[str] = Counter()
    most = 0
    for name, tensor in named_weights(policy):
        if tensor.untyped_storage().data_ptr() not in own:
            made.append(weakref.ref(tensor))
            blocks[re.findall(r".*?\.\d+\.", name)[0]] += tensor.nbytes
        most = max(most, sum(each.nbytes for each in [ref() for ref in made] if each is not None))
    assert len(blocks) >= 4
    assert most <= 2 * max(blocks.values()), "the next block is made while the last tensor of one is in use"
    assert most < sum(blocks.values()) / 2


def test_weights_that_ranks_gather_together_are_read_to_their_end() -> None:
    """Unless gathering itself has failed: then the others cannot go on with this process."""
    read: list[str] = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for name in "abcde":
            read.append(name)
            yield name, torch.ones(1)

    weights = GatheredInTurn(gathered())
    assert next(weights)[0] == "a"
    weights.read_on()
    assert read == [*"abcde"]

    def without_memory() -> Iterator[tuple[str, torch.Tensor]]:
        yield from gathered()
        raise torch.OutOfMemoryError("no")

    weights = GatheredInTurn(without_memory())
    with pytest.raises(torch.OutOfMemoryError):
        dict(weights)
    with pytest.raises(torch.OutOfMemoryError):
        weights.read_on()


def test_whatever_becomes_of_weights_that_ranks_gather_they_are_read_to_their_end() -> None:
    read: list[str] = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for name in "abcde":
            read.append(name)
            yield name, torch.ones(1)

    def take_some(weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        next(weights)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        GatheredInTurn(gathered()).give(take_some)
    assert read == [*"abcde"]


def test_what_is_held_of_a_block_outlives_it() -> None:
    """Its memory may be that of the next one."""
    block = torch.zeros(2)

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for number in (1, 2):
            yield str(number), block.fill_(number)

    held, other = HeldWeights(), HeldWeights()
    GatheredInTurn(gathered()).give(held.take)
    assert [each.tolist() for each in held.tensors.values()] == [[1, 1], [2, 2]]
    other.take([("1", torch.ones(2)), ("2", torch.ones(2))])
    assert held.fingerprint != other.fingerprint


class OnDevice:
    """A tensor that is to be moved to the host."""

    def cpu(self) -> torch.Tensor:
        return torch.ones(3)


def test_each_is_moved_to_the_host_as_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device has room for the policy and for a tensor or two."""

    def make(_: object) -> Iterator[tuple[str, OnDevice]]:
        made: list[weakref.ref[OnDevice]] = []
        for number in range(5):
            assert sum(ref() is not None for ref in made) <= 1
            tensor = OnDevice()
            made.append(weakref.ref(tensor))
            yield f"weight.{number}", tensor
            del tensor

    monkeypatch.setattr(engine_weights, "named_weights", make)
    write_weights(None, tmp_path)  # type: ignore[arg-type]
    assert {*load_file(tmp_path / WEIGHTS_FILE)} == {f"weight.{number}" for number in range(5)}


def test_a_fingerprint_is_that_of_its_pieces(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no tensor is copied to int64 as a whole, and a sum is the same."""
    adapter = load(dtype="bfloat16")
    whole = fingerprint(adapter)
    sizes: list[int] = []
    original = torch.Tensor.sum

    def count(tensor: torch.Tensor, **keys: Any) -> torch.Tensor:
        sizes.append(tensor.numel())
        return original(tensor, **keys)

    monkeypatch.setattr(engine_weights, "_PIECE", 100)
    monkeypatch.setattr(torch.Tensor, "sum", count)
    assert fingerprint(adapter) == whole
    assert max(sizes) == 100


@pytest.mark.families
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", CASES)
def test_block_by_block_they_are_those_of_the_whole_model(family: str, dtype: str, tmp_path: Path) -> None:
    """Also where a family's folder stores several tensors of a block as one."""
    skip_unless_installed(CASES[family])
    folder = write_tiny_model(tmp_path / family, family=family, seed=1)
    adapter = load_adapter(ModelConfig(path=str(folder), **(CASES[family].config | {"dtype": dtype})))
    adapter.round_weights()
    found = dict(named_weights(adapter))
    whole = revert_weight_conversion(adapter.model, dict(merged_weights(adapter.model, weight_names(adapter.model))))
    assert set(found) == set(whole)
    assert all(torch.equal(found[name], each) for name, each in whole.items())
