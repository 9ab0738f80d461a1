"""Numbers that depend on the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gpg_vl.records import LoggedStep, StepTotals
from gpg_vl.run.speed import GIB, describe_speed, peak_memory, peak_rate, rate_of

STEP = LoggedStep([], [], StepTotals(4, 12, 600, 3, 9, 450), 1, 2.0, 0.5)


def test_rates_are_over_the_step_and_over_the_rollout() -> None:
    speed = describe_speed(STEP, 6.0, 3 * GIB)
    assert speed == {"peak_memory_gib": 3.0, "tokens_per_second": 100.0, "rollout_tokens_per_second": 300.0}
    assert describe_speed(None, 6.0, GIB) == {"peak_memory_gib": 1.0}, "a step that samples nothing"
    assert "rollout_tokens_per_second" not in describe_speed(replace(STEP, rollout_seconds=0.0), 6.0, GIB)


def test_the_mfu_is_a_share_of_all_cards() -> None:
    speed = describe_speed(STEP, 10.0, GIB, useful_flops=4e15, total_rate=2 * 989e12)
    assert speed["useful_flops"] == 4e15 and speed["mfu"] == pytest.approx(4e15 / 10 / (2 * 989e12))
    assert "mfu" not in describe_speed(STEP, 10.0, GIB, useful_flops=4e15), "a card without a known rate"


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_cards_are_told_apart(name: str, rate: float | None) -> None:
    assert rate_of(name) == rate


def test_memory_of_a_process_on_a_cpu() -> None:
    device = torch.device("cpu")
    before = peak_memory(device)
    held = torch.ones(2**25)  # 128 MiB
    assert before > 2**26 and peak_memory(device) >= held.numel() * 4
    assert peak_rate(device) is None
