"""The sections of ``benchmarks.gpu``, in the order in which they run. See docs/gpu.md."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from benchmarks.gpu_sections.records import Section

SECTIONS: Mapping[str, Section] = {
    "machine": Section("benchmarks.gpu_sections.machine", 20),
    "exactness": Section("benchmarks.gpu_sections.exactness", 70),
    "flex": Section("benchmarks.gpu_sections.flex", 30),
    "rollout": Section("benchmarks.gpu_sections.rollout", 125),
    "update": Section("benchmarks.gpu_sections.update", 135),
    "memory": Section("benchmarks.gpu_sections.memory", 80),
    "plan": Section("benchmarks.gpu_sections.plan", 40),
    "ranks": Section("benchmarks.gpu_sections.ranks", 30),
}
if importlib.util.find_spec("vllm") is not None:
    SECTIONS = {**SECTIONS, "engines": Section("benchmarks.gpu_sections.engines", 150)}
