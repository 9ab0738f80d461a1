"""A plan's peak against a measured one, on a CPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from gpg_vl.config import RolloutConfig, VllmConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.weights.compute_types import bytes_computed_in
from gpg_vl.models.weights.four_bit import BYTES
from gpg_vl.planning import measure
from gpg_vl.planning.cards import CARDS
from gpg_vl.planning.engines import engine_bytes
from gpg_vl.planning.live_memory import ACTIVATIONS, GRADIENTS
from gpg_vl.planning.memory import INITIAL, Budgets, size_of
from gpg_vl.planning.plan import Machine, describe_lack
from gpg_vl.planning.without_weights import load_shapes
from gpg_vl.processes.sharding import LayoutName
from tests.support.messages import naming
from tests.support.plans import VARIANTS, compare, planned_for, variant_of

WITHIN = 0.15


def assert_near(folder: Path, name: str) -> None:
    if name == "quantized":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    found = compare(variant_of(folder, name))
    planned = {phase: sum(parts.values()) for phase, parts in found.planned.phases.items()}
    sizes = {phase: (planned[phase], taken) for phase, taken in found.measured.bytes.items()}
    assert abs(found.ratio - 1) <= WITHIN, sizes


@pytest.mark.parametrize("name", ["full", "lora", "checkpointing", "bfloat16", "quantized"])
def test_planned_peaks_are_those_measured(model_folders: dict[str, Path], name: str) -> None:
    assert_near(model_folders["qwen2_vl"], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "small budget", "ordinary rows", "bfloat16 lora"])
def test_planned_peaks_are_those_measured_of_more_recipes(model_folders: dict[str, Path], name: str) -> None:
    assert_near(model_folders["qwen2_vl"], name)


@pytest.mark.parametrize(
    "name",
    [
        "discriminator",
        pytest.param("reference", marks=pytest.mark.slow),
        pytest.param("preference", marks=pytest.mark.slow),
        pytest.param("preference of an adapter", marks=pytest.mark.slow),
    ],
)
def test_planned_peaks_with_an_initial_model(model_folders: dict[str, Path], name: str) -> None:
    assert_near(model_folders["qwen2_vl"], name)


def test_an_initial_model_waits_on_the_host_where_weights_are_shared(model_folders: dict[str, Path]) -> None:
    """It is on the card while it runs, beside the gathered weights."""
    plain, learned = (variant_of(model_folders["qwen2_vl"], name) for name in ("full", "discriminator"))
    without, found = planned_for(plain, "zero3", 4), planned_for(learned, "zero3", 4)
    size = found.phases["rollout"][INITIAL]
    assert size == planned_for(learned).phases["update"][INITIAL] > 0
    assert INITIAL not in found.phases["update"]
    assert found.host == 4 * size and without.host == without.phases["rollout"]["gathered weights"] == size


class Elsewhere:
    """An engine whose samples take no memory of this process."""

    def __init__(self, *_: object):
        pass

    def generate(self, prompts: Sequence[object], *_: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(completions=(), features=None) for _ in prompts]


def test_another_engine_takes_nothing_here_but_what_it_is_given(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each phase by itself. The update runs the frozen tower, whose features no rollout has computed."""
    monkeypatch.setattr(measure, "HfEngine", Elsewhere)
    recipe = variant_of(model_folders["qwen2_vl"], "vllm")
    found = compare(recipe)
    for phase in measure.PHASES:
        assert sum(found.planned.phases[phase].values()) == pytest.approx(found.measured.bytes[phase], rel=WITHIN)
    assert found.planned.phases["rollout"].keys() == {"weights", "optimizer"}
    needs_hf = replace(recipe, rollout=replace(recipe.rollout, vllm=VllmConfig(on_failure="hf")))
    assert planned_for(needs_hf).phases["rollout"].keys() > {"weights", "optimizer"}, "the kit's own may step in"


def test_an_engine_on_the_same_card_has_its_share_of_it() -> None:
    card = CARDS["h100-80"]
    here, there = (RolloutConfig(engine="vllm", vllm=VllmConfig(mode=mode)) for mode in ("colocate", "server"))
    assert engine_bytes(here, card) == pytest.approx(0.3 * card.total)
    assert engine_bytes(there, card) == engine_bytes(RolloutConfig(), card) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_planned_peaks_of_a_larger_model(forty_million: Path, name: str) -> None:
    assert_near(forty_million, name)


def test_parts_follow_the_recipe(model_folders: dict[str, Path]) -> None:
    """Checkpointing keeps less, a frozen tower keeps nothing, sharding shares."""
    folder = model_folders["qwen2_vl"]
    full, checkpointing, frozen = (
        planned_for(variant_of(folder, name)).phases["update"] for name in ("full", "checkpointing", "frozen")
    )
    assert checkpointing[ACTIVATIONS] < full[ACTIVATIONS]
    assert frozen.get("vision", 0) < full["vision"] / 4
    sharded = planned_for(variant_of(folder, "full"), "zero3", 4)
    assert sharded.phases["update"][GRADIENTS] == pytest.approx(full["weights"] / 4, rel=0.01)
    assert sharded.phases["rollout"]["gathered weights"] == full["weights"]


def test_under_zero3_a_rollout_has_linear_layers_in_the_compute_type(model_folders: dict[str, Path]) -> None:
    """So has the self-check those of the text model that no adapter trains, and widens one at a time."""
    recipe = variant_of(model_folders["qwen2_vl"], "bfloat16 lora")
    phases = planned_for(recipe, "zero3", 4).phases
    adapter = load_adapter(replace(recipe.model, device="cpu"))
    num, _ = adapter.num_parameters()
    layers = [each for each in adapter.model.modules() if isinstance(each, nn.Linear)]
    linear = {id(each) for layer in layers for each in (layer.weight, layer.bias)} - {id(adapter.head_weight)}
    cast = sum(each.numel() for each in adapter.model.parameters() if id(each) in linear)
    assert phases["rollout"]["gathered weights"] == 4 * num - 2 * cast == bytes_computed_in(adapter, is_rounded=False)
    lent = [sum(each.numel() for each in layer.parameters()) for layer in adapter.lent_layers(with_trained=True)]
    assert phases["check"]["weights"] == 4 * num - 2 * sum(lent) + 4 * max(lent) + phases["update"]["weights"]


@pytest.mark.parametrize("layout", ["fsdp", "zero3"])
def test_where_weights_are_shared_the_check_gathers_little_more_than_a_rollout(
    model_folders: dict[str, Path], layout: LayoutName
) -> None:
    """Trained layers too are widened one at a time; embeddings, head and tower are there in float32."""
    recipe = variant_of(model_folders["qwen2_vl"], "bfloat16")
    phases = planned_for(recipe, layout, 4).phases
    adapter = load_adapter(replace(recipe.model, device="cpu"))
    num, _ = adapter.num_parameters()
    layers = [sum(each.numel() for each in layer.parameters()) for layer in adapter.lent_layers(with_trained=True)]
    assert adapter.lent_layers() == [] and sum(layers) > 0.4 * num
    gathered = phases["check"]["weights"] - phases["update"]["weights"]
    assert gathered == 4 * num - 2 * sum(layers) + 4 * max(layers)


def test_rounded_weights_are_widened_for_the_check_and_for_nothing_else(model_folders: dict[str, Path]) -> None:
    recipe = variant_of(model_folders["qwen2_vl"], "bfloat16 lora")
    phases = planned_for(recipe).phases
    exact = planned_for(variant_of(model_folders["qwen2_vl"], "lora")).phases
    layers = load_adapter(replace(recipe.model, device="cpu")).lent_layers()
    lent = [sum(each.numel() for each in layer.parameters()) for layer in layers]
    one_at_a_time = exact["rollout"]["weights"] - 2 * sum(lent) + 4 * max(lent)
    assert phases["check"]["weights"] == one_at_a_time < exact["rollout"]["weights"]
    for phase in ("rollout", "update", "step"):
        assert phases[phase]["weights"] < 0.6 * exact[phase]["weights"]
    assert sum(phases["update"].values()) < 0.8 * sum(exact["update"].values())


def test_a_base_in_four_bits_is_counted_as_such(model_folders: dict[str, Path]) -> None:
    """In every phase; for the self-check it is not widened, but for the layer that runs."""
    names = ("bfloat16 lora", "quantized")
    recipes = [variant_of(model_folders["qwen2_vl"], name) for name in names]
    plain, quantized = (planned_for(recipe).phases for recipe in recipes)
    size = size_of(load_shapes(recipes[1].model, is_rounded=True))
    assert size.quantized > 0.3 * size.weights and size.lent == 0
    saved = 2 * size.quantized - round(BYTES * size.quantized)
    for phase in ("rollout", "update", "step"):
        assert plain[phase]["weights"] - quantized[phase]["weights"] == pytest.approx(saved, abs=1)
    for phase in ("rollout", "update"):
        assert quantized[phase]["dequantized layer"] == 2 * size.largest_quantized
    rest = 4 * (size.weights - size.quantized + size.largest_quantized)
    assert quantized["check"]["weights"] == pytest.approx(rest + BYTES * size.quantized, abs=1)


def test_a_lack_of_memory_names_four_bits(model_folders: dict[str, Path]) -> None:
    adapter, quantized = (variant_of(model_folders["qwen2_vl"], name) for name in ("bfloat16 lora", "quantized"))
    machine = Machine(CARDS["l4-24"], 1, "none")
    said = [describe_lack(each, planned_for(each), machine, None, Budgets(None, None)) for each in (adapter, quantized)]
    assert re.search(naming("model.lora.quantize"), said[0]) and not re.search(naming("model.lora.quantize"), said[1])
