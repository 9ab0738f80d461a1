"""A plan's seconds: what they follow from, and against a measured step on this machine's processors."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.models import load_adapter
from gpg_vl.planning import measure
from gpg_vl.planning.cards import CARDS
from gpg_vl.planning.measure import measure_step
from gpg_vl.planning.memory import run_phases, size_of
from gpg_vl.planning.plan import flops_of
from gpg_vl.planning.rows import PromptLengths
from gpg_vl.planning.seconds import seconds_of, work_of
from gpg_vl.planning.this_cpu import measure_cpu
from gpg_vl.planning.trial_groups import longest_groups
from gpg_vl.planning.without_weights import load_shapes
from tests.support.builders import make_prompt, make_sample
from tests.support.plans import variant_of

WITHIN = 1.5
OF_THE_PLAN = ("full", "lora", "frozen", "checkpointing", "small budget", "ordinary rows")


def estimated(folder: Path, name: str) -> dict[str, float]:
    """For this machine's processors, in the time that this process has of them."""
    recipe = variant_of(folder, name)
    shapes = load_shapes(recipe.model)
    prompt = make_prompt(shapes, make_sample(((200, 200),)))
    rows = PromptLengths((len(prompt.encoded.token_ids),), 0, 1.0, prompt)
    runs = run_phases(recipe, shapes, rows, 1, on_gpu=False)
    flops = flops_of(shapes, longest_groups(prompt, recipe.rollout, shapes, 1)[0], recipe.update.pack)
    card = measure_cpu(torch.float32, time.process_time)
    return seconds_of(recipe, size_of(shapes), runs, work_of(flops, recipe, 1, 1.0), card, "none", 1)


def measured(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The faster of two, without what else runs on the machine."""
    monkeypatch.setattr(measure.time, "perf_counter", time.process_time)
    recipe = variant_of(folder, name)
    adapter = load_adapter(replace(recipe.model, device="cpu"))
    prompt = make_prompt(adapter, make_sample(((200, 200),)))
    found = [measure_step(recipe, adapter, prompt, Accelerator(cpu=True)).seconds for _ in range(2)]
    return {phase: min(each[phase] for each in found) for phase in measure.PHASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_PLAN)
def test_estimates_are_near_what_is_measured(forty_million: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and one thread. In bfloat16 a CPU is no GPU: its small operations count for more than its products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        guess, found = estimated(forty_million, name), measured(forty_million, name, monkeypatch)
    finally:
        torch.set_num_threads(threads)
    ratios = {phase: guess[phase] / found[phase] for phase in ("rollout", "update")}
    ratios["together"] = sum(guess[phase] for phase in measure.PHASES) / sum(found.values())
    print(name, {phase: round(ratio, 2) for phase, ratio in ratios.items()})
    assert all(1 / WITHIN < ratio < WITHIN for ratio in ratios.values()), ratios


def test_ordinary_rows_run_their_prompt_once_for_each_completion(model_folders: dict[str, Path]) -> None:
    recipe = variant_of(model_folders["qwen2_vl"], "ordinary rows")
    shapes = load_shapes(recipe.model)
    group = longest_groups(make_prompt(shapes, make_sample(())), recipe.rollout, shapes, 1)[0]
    packed, ordinary = flops_of(shapes, group), flops_of(shapes, group, is_packed=False)
    assert packed is not None and ordinary is not None
    assert ordinary[0] == packed[0]
    prompt, completion, num = len(group.prompt.encoded.token_ids), len(group.completions[0].token_ids), 4
    grows = (prompt + completion) * num / (prompt + completion * num)
    assert 1.2 < ordinary[1] / packed[1] < grows


def test_a_gpu_starts_kernels_while_it_computes() -> None:
    card = CARDS["h100-80"]
    assert card.run(1000, 1.0) == 1.0 and card.run(10**6, 1.0) == 10**6 * card.launch
    assert replace(card, is_host=True).run(1000, 1.0) == 1.0 + 1000 * card.launch


def test_products_in_float32_are_slower() -> None:
    card = CARDS["a100-80"]
    assert card.products("float32") < card.products("bfloat16") < card.rate
