"""What autocast casts in each call, cast once: every family computes and samples the same, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.weights.compute_types import types_under_autocast
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.families import CASES, Bench, make_bench, reload
from tests.support.family_lora import with_lora


@pytest.fixture(scope="module", params=CASES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(request.param, CASES[request.param], tmp_path_factory.mktemp(request.param))


def log_probs(bench: Bench) -> Tensor:
    with torch.no_grad(), bench.adapter.autocast():
        return bench.packed()


def sample(bench: Bench) -> list[tuple[tuple[int, ...], tuple[float, ...] | None]]:
    seeds = [(number,) for number in range(len(bench.prompts))]
    groups = HfEngine(bench.adapter, 10**6).generate(
        bench.prompts, 2, Sampling(6, temperature=1.0), seeds, keep_log_probs=True
    )
    return [(each.token_ids, each.log_probs) for group in groups for each in group.completions]


def cast(adapter: BaseAdapter, types: dict[str, torch.dtype]) -> None:
    for name, weight in adapter.model.named_parameters():
        weight.data = weight.data.to(types.get(name, weight.dtype))


@pytest.mark.parametrize("adapts", [False, True], ids=["full", "LoRA"])
def test_results_are_the_same_to_the_last_bit(bench: Bench, tmp_path: Path, adapts: bool) -> None:
    bench = with_lora(bench, tmp_path) if adapts else bench
    bench = reload(bench, dtype="bfloat16")
    types = types_under_autocast(bench.adapter)
    expected = log_probs(bench), sample(bench)
    cast(bench.adapter, types)
    found = log_probs(bench), sample(bench)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    of_text = [name for name in types if bench.adapter.part_of(name) == "text"]
    assert len(of_text) >= 4 and bench.adapter.head_weight.dtype == torch.float32


def test_other_weights_are_computed_in_float32(bench: Bench) -> None:
    """Cast too, they change what comes out: nothing less is float32 than has to be."""
    bench = reload(bench, dtype="bfloat16")
    expected = log_probs(bench)
    cast(bench.adapter, dict.fromkeys(dict(bench.adapter.model.named_parameters()), torch.bfloat16))
    assert not torch.equal(log_probs(bench), expected)


def test_a_float32_model_casts_nothing(bench: Bench) -> None:
    assert types_under_autocast(bench.adapter) == {}
