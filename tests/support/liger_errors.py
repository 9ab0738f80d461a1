"""Liger's kernels against transformers' code on a CPU: ``TRITON_INTERPRET=1 python -m tests.support.liger_errors``.

A process of its own, since Triton reads the variable when it is imported. Prints as JSON, by name, the worst relative
error of a gradient; of each family also whether greedy tokens are the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from gpg_vl.config import ModelConfig
from gpg_vl.models import liger, load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Prompt
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import SMALL_IMAGES
from tests.support.groups import make_groups, packed_gradients, worst_relative_error


def with_offset(module: Any, states: Tensor) -> Tensor:
    """As Gemma's weights are meant."""
    from liger_kernel.transformers.functional import liger_rms_norm

    return liger_rms_norm(states, module.weight, module.variance_epsilon, 1.0, in_place=False)  # type: ignore[no-any-return]


def with_gates_changed(module: Any, states: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_swiglu

    return module.down_proj(liger_swiglu(module.up_proj(states), module.gate_proj(states)))  # type: ignore[no-any-return]


WRONG: dict[str, Callable[[Any, Tensor], Tensor]] = {"_norm": with_offset, "_gate": with_gates_changed}
"""By what they stand for in ``gpg_vl.models.liger``."""


def measure(folder: Path, family: str) -> tuple[float, bool]:
    adapter: Any = load_adapter(ModelConfig(path=str(folder / family), **SMALL_IMAGES))  # type: ignore[arg-type]
    groups = make_groups(adapter)[:2]
    prompts = [group.prompt for group in groups]
    expected, tokens = packed_gradients(adapter, groups), greedy(adapter, prompts)
    liger.use_liger(adapter.model)
    error = worst_relative_error(packed_gradients(adapter, groups), expected)
    return error, greedy(adapter, prompts) == tokens


def greedy(adapter: Any, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    seeds = [(n,) for n in range(len(prompts))]
    groups = HfEngine(adapter, 10**6).generate(prompts, 1, Sampling(3, 0.0), seeds)
    return [group.completions[0].token_ids for group in groups]


def complete_interpreter() -> None:
    """Triton's interpreter knows no function of CUDA's library, and passes numbers as Python's, not as float32."""
    interpreter: Any = import_module("triton.runtime.interpreter")
    convert, language = interpreter._implicit_cvt, interpreter.tl

    def convert_numbers(value: Any) -> Any:
        if not isinstance(value, float):
            return convert(value)
        handle = interpreter.TensorHandle(numpy.array([value], numpy.float32), language.float32)
        return language.tensor(handle, language.float32)

    interpreter._implicit_cvt = convert_numbers
    norms: Any = import_module("liger_kernel.ops.rms_norm")
    norms.rsqrt = lambda x: language.math.rsqrt(x)  # which the interpreter replaces while a kernel runs


def main() -> None:
    complete_interpreter()
    found: dict[str, tuple[float, bool]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in liger.FAMILIES:
            write_tiny_model(Path(folder) / family, family=family, seed=1)
            found[family] = measure(Path(folder), family)
        for name, wrong in WRONG.items():
            right = getattr(liger, name)
            setattr(liger, name, wrong)
            found[name] = measure(Path(folder), "qwen2_5_vl")
            setattr(liger, name, right)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
