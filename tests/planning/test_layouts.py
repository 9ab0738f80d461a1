"""What a rank holds in each layout: the numbers of weights, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.planning.layouts import LAYOUTS, Size, StateBytes, rounds_weights, state_of
from gpg_vl.processes.sharding import LayoutName

BLOCKS = {"block": 230_000_000, "outside": 1_200_000_000}
SEVEN_B = Size(weights=8_000_000_000, trained=8_000_000_000, largest=544_000_000, **BLOCKS)
ADAPTER = Size(weights=8_000_000_000, trained=40_000_000, largest=1_000_000, **BLOCKS)


def held(state: StateBytes) -> float:
    """GB of weights, gradients and optimizer."""
    return (state.weights + state.gradients + state.optimizer) / 1e9


@pytest.mark.parametrize(
    ("layout", "bytes_per_weight"),
    # weights, gradients, a rank's float32 copy, two moments; eight ranks
    [
        ("none", 16),
        ("fsdp", 16 / 8),
        ("hsdp", 16 / 8),
        ("zero1", 4 + 4 + 12 / 8),
        ("zero2", 4 + 16 / 8),
        ("zero3", 20 / 8),
        ("zero3_offload", 8 / 8),
        ("fsdp_offload", 0),
    ],
)
def test_state_of_eight_ranks(layout: LayoutName, bytes_per_weight: float) -> None:
    assert held(state_of(layout, SEVEN_B, 8)) == pytest.approx(8 * bytes_per_weight)


def test_an_offloaded_optimizer_is_in_the_hosts_memory() -> None:
    state = state_of("zero3_offload", SEVEN_B, 8)
    assert state.optimizer == 0
    assert state.host == 12 * SEVEN_B.trained / 8


def test_offloaded_shards_are_in_the_hosts_memory() -> None:
    """What is gathered for a pass and for a rollout stays on the card, with one block's share on its way there."""
    here, there = (state_of(layout, SEVEN_B, 8, is_rounded=True) for layout in ("fsdp", "fsdp_offload"))
    assert there.host == 16 * SEVEN_B.weights / 8
    assert there.gathered == here.gathered
    assert here.buffers < there.buffers < 1.1 * here.buffers


def test_zero3_gathers_all_weights_in_a_rollout() -> None:
    assert state_of("zero3", SEVEN_B, 8).gathered == 4 * SEVEN_B.weights
    assert state_of("zero2", SEVEN_B, 8).gathered == 0
    cast = replace(SEVEN_B, cast=6_000_000_000)
    assert state_of("zero3", cast, 8).gathered == 2 * cast.cast + 4 * 2_000_000_000
    assert state_of("fsdp", cast, 8, is_rounded=True).gathered == 2 * cast.weights


def test_fsdp_gathers_the_compute_type() -> None:
    """All of it in a rollout; in the update what is outside of the blocks, and two blocks, with their gradients."""
    for is_rounded, width in ((False, 4), (True, 2)):
        state = state_of("fsdp", SEVEN_B, 8, is_rounded=is_rounded)
        assert state.gathered == width * SEVEN_B.weights
        assert state.buffers == 2 * width * 1_660_000_000 + 4 * 1_200_000_000
    assert state_of("fsdp", ADAPTER, 8, is_rounded=True).buffers < 1.01 * 2 * 1_660_000_000 + 4 * 10_000_000


def test_hsdp_shares_within_a_machine() -> None:
    one, many = (held(state_of("hsdp", SEVEN_B, num)) for num in (8, 64))
    assert one == many == held(state_of("fsdp", SEVEN_B, 8)) > held(state_of("fsdp", SEVEN_B, 64))
    of_four = state_of("hsdp", SEVEN_B, 8, of_machine=4)
    assert held(of_four) == held(state_of("fsdp", SEVEN_B, 4)) == 2 * one


def test_an_adapter_needs_little_beside_its_weights() -> None:
    state = state_of("none", ADAPTER, 1)
    assert state.weights == 4 * ADAPTER.weights
    assert state.gradients + state.optimizer == 12 * ADAPTER.trained


def test_rounded_weights_are_two_bytes_and_a_master_of_what_is_trained() -> None:
    full, adapter = (state_of("none", size, 1, is_rounded=True) for size in (SEVEN_B, ADAPTER))
    assert full.weights == 6 * SEVEN_B.weights
    assert adapter.weights == 2 * ADAPTER.weights + 4 * ADAPTER.trained
    assert adapter.weights < 0.51 * state_of("none", ADAPTER, 1).weights
    assert full.gradients + full.optimizer == 12 * SEVEN_B.trained


def test_deepspeed_keeps_float32_weights() -> None:
    bfloat16, float32 = ModelConfig(dtype="bfloat16"), ModelConfig(dtype="float32")
    assert [layout for layout in LAYOUTS if rounds_weights(layout, bfloat16)] == [
        "none", "hsdp", "fsdp", "fsdp_offload",
    ]  # fmt: skip
    assert not any(rounds_weights(layout, float32) for layout in LAYOUTS)


def test_the_optimizer_steps_in_place() -> None:
    assert state_of("none", SEVEN_B, 1).step == state_of("zero3", SEVEN_B, 1).step == 8 * SEVEN_B.largest
    assert state_of("none", SEVEN_B, 1, "adamw_8bit").optimizer == 2 * SEVEN_B.trained


def test_a_base_in_four_bits_takes_half_a_byte_a_weight() -> None:
    """And what is not of it two, or four with its master."""
    quantized = replace(SEVEN_B, trained=10**7, quantized=6 * 10**9)
    found = state_of("none", quantized, 1, is_rounded=True)
    rest = 2 * (SEVEN_B.weights - 6 * 10**9) + 4 * 10**7
    assert found.weights - rest == pytest.approx(6 * 10**9 * 0.516, rel=1e-3)


def test_more_ranks_never_need_more() -> None:
    for layout in LAYOUTS:
        sizes = [held(state_of(layout, SEVEN_B, num)) for num in (1, 2, 8, 64, 512)]
        assert sizes == sorted(sizes, reverse=True)
