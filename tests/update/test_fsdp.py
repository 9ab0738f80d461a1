"""FSDP2 in one process, which has all shards: the same numbers as without it, to the last bit.

Several ranks: ``test_layouts.py``, ``faults/test_rank_checkpoints.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from gpg_vl.config import LoraConfig, UpdateConfig
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.sharding import Sharding, sharding_of
from gpg_vl.processes.start import start_ranks
from gpg_vl.processes.whole_weights import weights_in_float32, weights_to_save, whole_weights
from gpg_vl.records import Completion
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.run.moments import copy_portion
from gpg_vl.update import packing
from gpg_vl.update.fsdp import find_blocks, shard_policy
from gpg_vl.update.gradient import accumulate_gradient, take_step
from gpg_vl.update.layouts import build_layout
from gpg_vl.update.optimizer import build_optimizer
from gpg_vl.update.optimizer_state import Slice, load_entries, read_portions
from gpg_vl.update.packing import split_into_rows
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.self_check import check_packing, check_prefill
from tests.support.builders import FAMILIES, make_prompt, make_sample, make_training_group, whole
from tests.support.families import CASES, load_case, skip_unless_installed
from tests.support.groups import make_groups
from tests.support.messages import naming
from tests.support.moments import as_stored, whole_tensors

PARTS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze": ["vision", "projector"]},
    "lora": {"lora": LoraConfig(r=4, parts=["text", "vision"])},
}
MODELS = {**PARTS, "checkpointing": {"gradient_checkpointing": True}}
LoadModel = Callable[..., BaseAdapter]
ROUNDING = 5e-4
"""Of the norm of a weight, or of a moment; two steps change a bias, which was 0, by all of it."""


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    monkeypatch.setenv("GPG_VL_SHARDING", "fsdp")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield start_ranks(on_cpu=True)
    end_ranks()
    AcceleratorState._reset_state(reset_partial_state=True)


class Trained:
    """An adapter under a layout, with groups that all have an image: none needs a row that levels the passes."""

    def __init__(self, adapter: BaseAdapter, accelerator: Accelerator, **update: Any):
        self.adapter, self.accelerator = adapter, accelerator
        forward = PolicyForward(adapter, 1.0)
        sharding = sharding_of(accelerator)
        if sharding.keeps_whole_weights:
            adapter.round_weights()
        shard_policy(accelerator, forward)
        self.optimizer = build_optimizer(adapter, UpdateConfig(**update), sharding)
        self.layout = build_layout(accelerator, forward, self.optimizer, max_grad_norm=1e9)

    def step(self) -> None:
        groups = [group for group in make_groups(self.adapter) if group.prompt.encoded.vision is not None]
        whole = max(row.num_tokens for group in groups for row in split_into_rows(group, 10**6))
        config = UpdateConfig(tokens_per_micro_batch=whole)  # split groups keep their prompts under some layouts
        stats = accumulate_gradient(self.layout, groups, 3.0, config, self.adapter, self.accelerator)
        assert stats.num_micro_batches > 1
        assert take_step(self.layout, 1e-3) > 0

    def masters(self) -> dict[str, Tensor]:
        return {name: _whole(each) for name, each in self.adapter.trainable_parameters()}

    def moments(self) -> dict[str, Tensor]:
        return whole_tensors(self.portion())

    def portion(self) -> dict[str, Slice]:
        """What the only rank saves of the optimizer's state."""
        sharding = sharding_of(self.accelerator)
        [portion] = read_portions(self.optimizer, self.adapter.trainable_parameters(), sharding)
        return portion


def _whole(tensor: Any) -> Tensor:
    return (tensor.detach().full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()).clone()


def trained_by(layout: str, adapter: BaseAdapter, accelerator: Accelerator, **update: Any) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPG_VL_SHARDING", layout)
        trained = Trained(adapter, accelerator, **update)
        for _ in range(2):
            trained.step()
    return trained


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_are_those_of_one_process(
    load: LoadModel, accelerator: Accelerator, family: str, model: str, dtype: str
) -> None:
    """Two of AdamW: weights and moments. In bfloat16, the shards are what the masters are."""
    found, expected = (
        trained_by(layout, seeded(partial(load, family, dtype=dtype, **MODELS[model])), accelerator)
        for layout in ("fsdp", "none")
    )
    assert_same_steps(found.masters(), expected.masters(), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPG_VL_SHARDING", "none")
        moments = expected.moments()
    assert len(moments) == 3 * len(expected.masters())
    assert_same_steps(found.moments(), moments, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_in_the_hosts_memory_make_the_same_steps(load: LoadModel, accelerator: Accelerator, dtype: str) -> None:
    """As those of the same kernel of AdamW without shards, which differ from plain AdamW's by rounding."""
    found = trained_by("fsdp_offload", load(dtype=dtype), accelerator)
    expected = trained_by("none", load(dtype=dtype), accelerator, optimizer="adamw_fused")
    assert found.optimizer.defaults["fused"]
    assert_same_steps(found.masters(), expected.masters(), dtype)
    assert sample(found.adapter, accelerator) == sample(expected.adapter, None)


@pytest.mark.families
@pytest.mark.parametrize("family", CASES)
def test_steps_and_samples_of_every_family_are_those_of_one_process(
    tmp_path: Path, accelerator: Accelerator, family: str
) -> None:
    case = CASES[family]
    skip_unless_installed(case)
    folder = write_tiny_model(tmp_path / family, family, seed=1)
    found, expected = (trained_by(layout, load_case(case, folder), accelerator) for layout in ("fsdp", "none"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPG_VL_SHARDING", "none")
        moments = expected.moments()
    assert_near_steps(*(without_rounding(each.masters(), moments) for each in (found, expected)))
    assert sample(found.adapter, accelerator) == sample(expected.adapter, None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_weights_are_those_of_the_compute_type(load: LoadModel, accelerator: Accelerator, dtype: str) -> None:
    """They sample what the unsharded model samples; outside of the context the adapter has its shards alone."""
    found, expected = (trained_by(layout, load(dtype=dtype), accelerator) for layout in ("fsdp", "none"))
    assert sample(found.adapter, accelerator) == sample(expected.adapter, None)
    sharded = found.adapter.model
    with whole_weights(accelerator):
        assert {each.dtype for each in found.adapter.model.parameters()} == {getattr(torch, dtype)}
        assert found.adapter.head_weight is found.adapter.model.get_input_embeddings().weight, "tied as ever"
    assert found.adapter.model is sharded
    assert not [name for name, each in sharded.named_parameters() if not hasattr(each, "full_tensor")]


@pytest.mark.parametrize("parts", PARTS)
def test_what_is_compared_is_computed_in_float32(
    load: LoadModel, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, parts: str
) -> None:
    """Layers of the text model are gathered rounded, as for a rollout, and widened as they run; a fault still shows."""
    adapter = load(dtype="bfloat16", **PARTS[parts])
    stored = {name: each.detach().clone() for name, each in adapter.model.named_parameters()}
    shard_policy(accelerator, PolicyForward(adapter, 1.0))
    rows = whole(make_training_group(adapter, make_sample([(84, 84), (56, 56)]), [5, 4]))
    with weights_in_float32(accelerator):
        layers = adapter.lent_layers(with_trained=True)
        lent = {id(each) for layer in layers for each in layer.parameters(recurse=False)}
        found = dict(adapter.model.named_parameters())
        for name, each in found.items():
            assert torch.equal(each, stored[name].to(torch.bfloat16 if id(each) in lent else torch.float32)), name
        num = sum(each.numel() for each in found.values())
        assert sum(each.numel() for each in found.values() if id(each) in lent) > 0.4 * num
        assert check_packing(adapter, rows, 1.0) < 1e-5
        assert check_prefill(adapter, rows, 1.0) < 1e-5
        original = packing._lay_out
        monkeypatch.setattr(packing, "_lay_out", lambda row: (original(row)[0], [min(s, 1) for s in original(row)[1]]))
        with pytest.raises(RuntimeError, match=naming("self-check", "counting-0")):
            check_packing(adapter, rows, 1.0)
    with weights_in_float32(accelerator):
        assert {each.dtype for each in adapter.model.parameters()} == {torch.bfloat16, torch.float32}, "as before"


@pytest.mark.parametrize("parts", PARTS)
def test_what_is_saved_is_what_one_process_saves(
    load: LoadModel, accelerator: Accelerator, tmp_path: Path, parts: str
) -> None:
    found, expected = (
        trained_by(layout, seeded(partial(load, **PARTS[parts])), accelerator) for layout in ("fsdp", "none")
    )
    with weights_to_save(accelerator):
        found.adapter.save(tmp_path / "fsdp")
    expected.adapter.save(tmp_path / "none")
    names = sorted(path.name for path in (tmp_path / "none").iterdir())
    assert sorted(path.name for path in (tmp_path / "fsdp").iterdir()) == names
    for name in names:
        one, other = (tmp_path / folder / name for folder in ("fsdp", "none"))
        if name.endswith(".safetensors"):
            assert_same_steps(load_file(one), load_file(other))
        else:
            assert one.read_bytes() == other.read_bytes(), name


def test_moments_are_taken_up_to_the_last_bit(load: LoadModel, accelerator: Accelerator) -> None:
    start, again = trained_by("fsdp", load(), accelerator), Trained(load(), accelerator)
    stored = as_stored(copy_portion(start.portion()))
    load_entries(again.optimizer, again.adapter.trainable_parameters(), stored, Sharding("fsdp"))
    assert_equal(again.moments(), start.moments())


def test_each_weight_and_moment_is_a_beat(load: LoadModel, accelerator: Accelerator) -> None:
    """For the watch of a rank, which else could not tell a long gathering from a hang."""
    adapter = load()
    num = len(list(adapter.model.parameters()))

    def beats(work: Callable[[], object]) -> int:
        before = PULSE.last
        work()
        assert PULSE.last.work == before.work
        return PULSE.last.number - before.number

    def enter(gathering: AbstractContextManager[None]) -> None:
        with gathering:
            pass

    made: list[Trained] = []
    assert beats(lambda: made.append(Trained(adapter, accelerator))) >= num
    with PULSE.beating("the update"):
        made[0].step()
    assert beats(lambda: enter(whole_weights(accelerator))) >= num
    assert beats(lambda: enter(weights_to_save(accelerator))) >= num
    named = adapter.trainable_parameters()
    assert beats(lambda: list(read_portions(made[0].optimizer, named, sharding_of(accelerator)))) >= num


def test_blocks_hold_most_of_a_model(load: LoadModel) -> None:
    adapter = load()
    inside = {id(each) for block in find_blocks(adapter.model) for each in block.parameters()}
    outside = {name for name, each in adapter.model.named_parameters() if id(each) not in inside}
    assert inside and not [name for name in outside if ".layers." in name or ".blocks." in name]


def test_unknown_layouts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPG_VL_SHARDING", "zero3")
    with pytest.raises(ValueError, match=naming("GPG_VL_SHARDING=zero3", "fsdp", "hsdp", "SHARDING=zero3")):
        start_ranks(on_cpu=True)


def seeded(load: Callable[[], BaseAdapter]) -> BaseAdapter:
    """A new LoRA adapter draws its weights."""
    torch.manual_seed(0)
    return load()


def sample(adapter: BaseAdapter, accelerator: Accelerator | None) -> list[tuple[Completion, ...]]:
    prompts = [make_prompt(adapter, make_sample(sizes, seed)) for seed, sizes in enumerate([[(84, 84)], [(56, 84)]])]
    engine = HfEngine(adapter, 10**6, accelerator)
    with engine.sync_weights():
        groups = engine.generate(prompts, 2, Sampling(5, 1.0), [(0, number) for number in range(2)])
    return [group.completions for group in groups]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def assert_same_steps(found: dict[str, Tensor], expected: dict[str, Tensor], dtype: str = "float32") -> None:
    """Bit for bit, but where MKL adds up in another order for gathered weights, which lie elsewhere in memory."""
    if dtype == "bfloat16" or adds_up_alike():
        assert_equal(found, expected)
        return
    assert_near_steps(found, expected)


def assert_near_steps(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    errors = {name: float((found[name] - each).norm()) for name, each in expected.items()}
    assert {name: error for name, error in errors.items() if error > ROUNDING * expected[name].norm()} == {}


def without_rounding(weights: dict[str, Tensor], moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what a key's bias has where nothing turns the keys: it moves all scores of a query alike, so its gradient
    is rounding, of which AdamW makes whole steps. All other weights whole.
    """
    largest = max(float(each.abs().max()) for name, each in moments.items() if name.endswith("/exp_avg"))
    told = {name: moments[f"{name}/exp_avg"].abs() > 1e-6 * largest for name in weights if name.endswith("k_proj.bias")}
    return {name: each[told[name]] if name in told else each for name, each in weights.items()}


@cache
def adds_up_alike() -> bool:
    """Whether float32 products are the same wherever their operands lie, as with MKL_CBWR=AVX512,STRICT."""
    draws = torch.Generator().manual_seed(0)
    for rows, inner, outer in ((1, 64, 64), (24, 64, 192), (56, 128, 64), (120, 96, 256)):
        states, weight = (torch.randn(num, inner, generator=draws) for num in (rows, outer))
        expected = states @ weight.T
        for offset in range(1, 16):
            moved = torch.empty(weight.numel() + offset)[offset:].view_as(weight).copy_(weight)
            if not torch.equal(states @ moved.T, expected):
                return False
    return True
