"""What cannot fit is refused before the weights are loaded, in one line with the key; and budgets are what fits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from gpg_vl.config import DataConfig, Recipe, RolloutConfig, UpdateConfig, VllmConfig
from gpg_vl.data.sources import write_parquet
from gpg_vl.planning import check, shapes
from gpg_vl.planning.cards import CARDS, Card
from gpg_vl.planning.check import SHARE, Fit, fit_run, machine_here, with_budgets
from gpg_vl.planning.memory import Budgets, Memory, memory_of, run_phases, run_smallest, size_of, smallest_budgets
from gpg_vl.planning.plan import Machine, read_rows
from gpg_vl.planning.shapes import NotOnShapes
from gpg_vl.planning.without_weights import load_shapes
from gpg_vl.preflight.sources import load_all_sources
from gpg_vl.run.speed import GIB
from tests.support.builders import make_sample
from tests.support.messages import naming
from tests.support.plans import variant_of


def card(usable: float) -> Card:
    """Of a large card, what is free: the least of which so many bytes are usable."""
    free = int(usable / 0.95)
    while int(free * 0.95) < usable:
        free += 1
    return Card("card", 1e12, 2**40, 1e11, free)


def fit(recipe: Recipe, usable: float, layout: Any = "none") -> Fit:
    return fit_run(recipe, recipe.model.path, load_all_sources(recipe), Machine(card(usable), 1, layout))


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Recipe:
    write_parquet([make_sample(((200, 200),), seed) for seed in range(3)], tmp_path / "rows.parquet")
    data = DataConfig(train=[str(tmp_path / "rows.parquet")])
    rollout = RolloutConfig(prompts_per_step=16, group_size=8, max_new_tokens=16)
    return replace(variant_of(model_folders["qwen2_vl"], "full"), data=data, rollout=rollout)


class Planned:
    """What budgets take of a card, by the plan."""

    def __init__(self, recipe: Recipe):
        self._recipe, self._adapter = recipe, load_shapes(recipe.model)
        self._rows = read_rows(recipe, load_all_sources(recipe), self._adapter)
        self.smallest = smallest_budgets(recipe, self._adapter, self._rows, 1)
        self.least = self._memory(run_smallest(recipe, self._adapter, self._rows, 1))

    def _memory(self, runs: Any) -> Memory:
        return memory_of(self._recipe, size_of(self._adapter), runs, "none", 1)

    def of(self, budgets: Budgets) -> Memory:
        return self._memory(run_phases(with_budgets(self._recipe, budgets), self._adapter, self._rows, 1))


MIB = 2**20


def test_a_run_that_fits_starts_and_one_that_cannot_is_refused(recipe: Recipe) -> None:
    assert "of 1.0 GiB" in fit(recipe, GIB).text
    with pytest.raises(ValueError, match=r"(?s)model\.path.*needs.*lora") as error:
        fit(recipe, 8 * MIB)
    assert "\n" not in str(error.value)
    assert "zero" not in str(error.value), "nothing is shared on one card, and its smallest budget does not fit there"


@pytest.mark.parametrize(("layout", "way_out"), [("none", "more memory"), ("fsdp_offload", "use the layout none")])
def test_a_run_that_its_machine_cannot_hold_is_refused(recipe: Recipe, layout: Any, way_out: str) -> None:
    """Weights that are read, or shards that stay there: down to the last byte."""
    weights = size_of(load_shapes(recipe.model)).weights
    needed = {"none": 4, "fsdp_offload": 16}[layout] * weights

    def start(host: int) -> Fit:
        machine = Machine(card(GIB), 1, layout, host=host)
        return fit_run(recipe, recipe.model.path, load_all_sources(recipe), machine)

    assert "of 1.0 GiB" in start(needed).text
    with pytest.raises(ValueError, match=naming("model.path", layout, "GB")) as error:
        start(needed - 1)
    assert way_out in str(error.value) and "\n" not in str(error.value)


def test_hsdp_is_planned_with_the_cards_that_a_node_has(recipe: Recipe) -> None:
    """Each node keeps a whole set of shards: eight cards on four nodes hold four times what eight on one do."""
    checked = load_all_sources(recipe)

    def planned(of_machine: int) -> str:
        machine = Machine(card(64 * MIB), 8, "hsdp", of_machine)
        return fit_run(recipe, recipe.model.path, checked, machine).text

    budgets = {planned(of_machine) for of_machine in (2, 8)}
    assert len(budgets) == 2


def test_a_colocated_engine_takes_its_share_of_the_card(recipe: Recipe) -> None:
    """It is there beside weights and moments from the second rollout on."""
    small = Card("card", 1e12, 10 * GIB, 1e11, 3 * GIB)

    def start(gpu_memory: float) -> None:
        vllm = VllmConfig(mode="colocate", gpu_memory=gpu_memory)
        chosen = replace(recipe, rollout=replace(recipe.rollout, engine="vllm", vllm=vllm))
        fit_run(chosen, chosen.model.path, load_all_sources(chosen), Machine(small, 1, "none"))

    start(0.2)
    with pytest.raises(ValueError, match=naming("card", "rollout", "rollout.vllm.gpu_memory")):
        start(0.4)


def test_a_model_that_looks_at_values_says_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "packed_log_probs", lambda *given: torch.zeros(1, device="meta").numpy())
    with pytest.raises(NotOnShapes, match=naming("model.path", "gpg-vl plan --measure")):
        fit(recipe, GIB)


# --- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["update", "rollout"])
def test_budgets_are_the_largest_that_fit(recipe: Recipe, phase: str) -> None:
    """With room for what a plan may be off. A third more would not fit."""
    planned = Planned(recipe)
    least, most = (memory.bytes_of(phase) for memory in (planned.least, planned.of(Budgets(10**6, 10**6))))
    assert most > 1.2 * least, "there is something to choose"
    usable = (least + most) / 2 / SHARE
    found = fit(recipe, usable)
    assert found.budgets.update is not None and found.budgets.rollout is not None
    more = planned.of(Budgets(4 * found.budgets.update // 3, 4 * found.budgets.rollout // 3))
    assert planned.of(found.budgets).bytes_of(phase) <= SHARE * usable < more.bytes_of(phase)
    assert f"update.tokens_per_micro_batch {found.budgets.update}" in found.text
    assert f"rollout.tokens_per_batch {found.budgets.rollout}" in found.text


def test_with_plenty_of_memory_a_step_is_one_micro_batch_and_a_draw_one_batch(recipe: Recipe) -> None:
    found, planned = fit(recipe, 100 * GIB).budgets, Planned(recipe)
    least = planned.smallest
    assert found.rollout == 16 * (least.rollout or 0)
    prompt = (least.rollout or 0) // 8 - 16
    assert found.update == 16 * (prompt + 8 * 15)


def test_down_to_the_last_byte_the_smallest_budgets_are_taken(recipe: Recipe) -> None:
    """Without room for what a plan may be off; with a byte less the run is refused."""
    planned = Planned(recipe)
    usable = planned.least.peak
    found = fit(recipe, usable).budgets
    tight = [name for name in ("update", "rollout") if planned.least.bytes_of(name) > SHARE * usable]
    assert tight and all(getattr(found, name) == getattr(planned.smallest, name) for name in tight)
    assert planned.of(found).peak <= usable
    with pytest.raises(ValueError, match=naming("model.path", "card")):
        fit(recipe, usable - 1)


def test_a_budget_set_by_hand_stays(recipe: Recipe) -> None:
    """The other one is chosen."""
    update = replace(recipe, update=UpdateConfig(tokens_per_micro_batch=500))
    rollout = replace(recipe, rollout=replace(recipe.rollout, tokens_per_batch=3000))
    usable = 100 * GIB
    free = fit(recipe, usable, "fsdp").budgets
    assert fit(update, usable, "fsdp").budgets == Budgets(500, free.rollout)
    assert fit(rollout, usable, "fsdp").budgets == Budgets(free.update, 3000)


def test_a_deterministic_run_keeps_the_defaults(recipe: Recipe) -> None:
    """Or says what would fit."""
    fixed = replace(recipe, run=replace(recipe.run, deterministic=True))
    assert fit(fixed, 100 * GIB).budgets == Budgets(8192, 65536)
    with pytest.raises(ValueError, match=r"tokens_per_\w+.*card.*lower it to \d+$"):
        fit(fixed, Planned(recipe).least.peak)


def test_another_engine_has_no_such_budget(recipe: Recipe) -> None:
    rollout = replace(recipe.rollout, engine="vllm", vllm=VllmConfig(servers=["http://127.0.0.1:1"]))
    found = fit(replace(recipe, rollout=rollout), 100 * MIB)
    assert found.budgets.rollout is None and "tokens_per_batch" not in found.text


@pytest.mark.parametrize(
    ("budget", "key"),
    [
        ({"update": UpdateConfig(tokens_per_micro_batch=8000)}, "update.tokens_per_micro_batch"),
        ({"rollout": RolloutConfig(prompts_per_step=16, group_size=64, max_new_tokens=16, tokens_per_batch=65_000)},
         "rollout.tokens_per_batch"),
    ],
    ids=["update", "rollout"],
)  # fmt: skip
def test_a_budget_set_by_hand_that_cannot_fit_is_refused(recipe: Recipe, budget: dict[str, Any], key: str) -> None:
    """With the largest that fits."""
    recipe = replace(recipe, rollout=RolloutConfig(prompts_per_step=16, group_size=64, max_new_tokens=16))
    chosen = replace(recipe, **budget)
    section, name = key.split(".")
    usable = 60 * MIB
    with pytest.raises(ValueError, match=naming(key, "card")) as error:
        fit(chosen, usable)
    assert "\n" not in str(error.value)
    [fitting] = re.findall(r"lower it to (\d+)", str(error.value))
    fit(replace(chosen, **{section: replace(getattr(chosen, section), **{name: int(fitting)})}), usable)


def test_what_is_free_on_the_fullest_rank_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a card of 80 GB of which other processes hold some."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=79 * GIB))
    accelerator: Any = SimpleNamespace(
        device=torch.device("cuda"), num_processes=2, state=SimpleNamespace(deepspeed_plugin=None)
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    for free, usable in ((78.9, 78.0), (40.0, 40.0), (12.5, 12.5)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free * GIB), 79 * GIB))
        machine = machine_here(accelerator)
        assert machine.card.usable == pytest.approx(0.95 * usable * GIB)
        assert (machine.num_gpus, machine.layout, machine.card.rate) == (2, "none", CARDS["h100-80"].rate)
        assert (machine.of_machine, machine.host) == (2, 64 * GIB)
    monkeypatch.setattr(check, "gather_object", lambda mine: [*mine, (3 * GIB, 32 * GIB, 1)])
    machine = machine_here(accelerator)
    assert machine.card.usable == pytest.approx(0.95 * 3 * GIB)
    assert (machine.of_machine, machine.host, machine.fullest) == (2, 64 * GIB, 32 * GIB)
