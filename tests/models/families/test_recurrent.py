"""Families with recurrent layers: what goes beyond the tests of every family."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.recurrent import RecurrentAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.self_check import check_prefill
from tests.support.builders import whole
from tests.support.families import CASES, Bench, make_bench, worst_gradient
from tests.support.messages import naming

FAMILIES = [name for name, case in CASES.items() if "not regrouped" in case.mutations]


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(request.param, CASES[request.param], tmp_path_factory.mktemp(request.param))


def rollout_error(bench: Bench) -> float:
    """How far the rollout's log-probs are from those of plain rows, in nats; the prompts differ in length."""
    seeds = [(n,) for n in range(len(bench.prompts))]
    groups = HfEngine(bench.adapter, 10**6).generate(bench.prompts, 2, Sampling(4, 1.0), seeds, keep_log_probs=True)
    with torch.no_grad():
        return max(
            float((torch.tensor(c.log_probs) - plain_log_probs(bench.adapter, g.prompt.encoded, c, 1.0)).abs().max())
            for g in groups
            for c in g.completions
        )


@pytest.mark.families
def test_plain_rows_are_held_to_no_more_than_they_hold(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delta rule token by token, or scores in eager attention: plain gradients move by about 1e-5 already."""
    expected = bench.plain_gradients
    layers = [each for each in bench.model.modules() if type(each).__name__.endswith("GatedDeltaNet")]
    assert (bench.case.tolerance > 1e-5) == bool(layers)
    if not layers:
        return
    eager = replace(bench)
    eager.model.set_attn_implementation("eager")
    errors = [worst_gradient(eager.plain_gradients, expected)]
    module = import_module(type(layers[0]).__module__)
    monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", module.torch_recurrent_gated_delta_rule)
    errors.append(worst_gradient(replace(bench).plain_gradients, expected))
    assert 5e-6 < max(errors)[0] < bench.case.tolerance


def test_padding_of_a_prefill_stays_out_of_the_states(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the recurrent layers get no mask of a padded prefill; the pad token's embedding is not zero."""
    rows = whole(*bench.groups)
    assert rollout_error(bench) < bench.case.tolerance
    assert check_prefill(bench.adapter, rows, 0.7) < bench.case.tolerance
    right = RecurrentAdapter._attention_mask

    def without_mask(adapter: RecurrentAdapter, *, real: Any, **more: Any) -> Any:
        return right(adapter, real=None, **more)

    monkeypatch.setattr(RecurrentAdapter, "_attention_mask", without_mask)
    assert rollout_error(bench) > 1e-2
    with pytest.raises(RuntimeError, match=naming("self-check", "rollout of two prompts")):
        check_prefill(bench.adapter, rows, 0.7)


def test_lora_adapts_the_linear_layers(bench: Bench) -> None:
    """All of the layers of text and tower; no router, and nothing before, between and behind the tower's layers."""
    others = ("shared_expert_gate", "patch_embedding", "lm_head")
    config = LoraConfig(r=4, parts=["text", "vision"])
    adapter = load_adapter(ModelConfig(path=str(bench.folder), **{**bench.case.config, "lora": config}))
    linear = {
        name for name, module in bench.model.named_modules()
        if isinstance(module, torch.nn.Linear) and adapter.part_of(name) != "projector"
        and not name.endswith(others) and "vit_merger" not in name
    }  # fmt: skip
    assert {name.split(".lora_A")[0] for name, _ in adapter.trainable_parameters() if "lora_A" in name} == linear
