"""A LoRA adapter beside the truth: its folder and that of its base, opened by plain transformers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from packaging.version import Version

from gpg_vl.config import LoraConfig
from tests.support.families import Bench, FamilyCase, load_case


def lora_of(case: FamilyCase) -> LoraConfig:
    """Skips the test where the installed peft cannot adapt the family."""
    if Version(peft.__version__) < Version(case.adapted_since):
        pytest.skip(f"needs peft {case.adapted_since}")
    return LoraConfig(r=4, parts=["text", "vision"], target_modules=case.adapted and list(case.adapted))


def with_lora(bench: Bench, root: Path) -> Bench:
    """A random adapter on text and vision; the truth is its folder, opened by plain transformers."""
    adapter = load_case(bench.case, _as_it_came(bench, root / "base"), lora=lora_of(bench.case))
    draws = torch.Generator().manual_seed(3)
    for _, parameter in adapter.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=draws)
    adapter.save(root / "lora")
    bench = replace(bench, adapter=adapter, folder=root / "lora")
    for name, parameter in bench.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return bench


def _as_it_came(bench: Bench, folder: Path) -> Path:
    """The bench's weights in a folder without the limits of a run, as models are published."""
    shutil.copytree(bench.folder, folder)
    for file in (bench.folder.parent / "tiny").iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder
