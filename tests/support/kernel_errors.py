"""Kernels against transformers' code on a CPU: ``TRITON_INTERPRET=1 python -m tests.support.kernel_errors liger``.

Or ``compiled``. A process of its own, since Triton reads the variable when it is imported. Prints as JSON, by the class
of a module, the worst relative error of what it gives and of its gradients; and the same with a norm and with a gate by
another formula.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from gpg_vl.models import kernels

WIDTH = 24  # no power of two: kernels mask the rest


def with_offset(module: Any, states: Tensor) -> Tensor:
    """As Gemma's weights are meant."""
    from liger_kernel.transformers.functional import liger_rms_norm

    return liger_rms_norm(states, module.weight, module.variance_epsilon, 1.0, in_place=False)  # type: ignore[no-any-return]


def with_gates_changed(module: Any, states: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_swiglu

    return module.down_proj(liger_swiglu(module.up_proj(states), module.gate_proj(states)))  # type: ignore[no-any-return]


def compiled_without_weight(module: Any, states: Tensor) -> Tensor:
    compiled = import_module("gpg_vl.models.kernels.compiled")
    return compiled._compiled(compiled._norm)(states, torch.ones(WIDTH), module.variance_epsilon) * module.weight.mean()  # type: ignore[no-any-return]


def compiled_with_gates_changed(module: Any, states: Tensor) -> Tensor:
    compiled = import_module("gpg_vl.models.kernels.compiled")
    return module.down_proj(compiled._compiled(compiled._gate)(module.up_proj(states), module.gate_proj(states)))  # type: ignore[no-any-return]


Forward = Callable[[Any, Tensor], Tensor]
WRONG: dict[str, dict[str, Forward]] = {
    "liger": {"norm": with_offset, "gate": with_gates_changed},
    "compiled": {"norm": compiled_without_weight, "gate": compiled_with_gates_changed},
}
"""By what they stand for in ``gpg_vl.models.kernels.liger`` and ``compiled``."""


def make_modules() -> Iterator[nn.Module]:
    """One of each class that is replaced, with random weights."""
    sizes = SimpleNamespace(hidden_size=WIDTH, intermediate_size=2 * WIDTH, hidden_act="silu")
    torch.manual_seed(0)
    for norm in kernels._NORMS:
        yield norm(WIDTH, eps=1e-6)
    for gated in kernels._GATED:
        yield gated(sizes)


def run(module: nn.Module) -> list[Tensor]:
    """What it gives, and the gradients of its input and weights."""
    generator = torch.Generator().manual_seed(1)
    states, weights = (torch.randn(2, 3, WIDTH, generator=generator) for _ in range(2))
    states.requires_grad_()
    given = module(states)
    (given * weights).sum().backward()
    return [given.detach(), states.grad, *(each.grad for each in module.parameters())]  # type: ignore[list-item]


def measure(module: nn.Module, kind: str) -> float:
    with torch.no_grad():
        for each in module.parameters():
            each.add_(0.3 * torch.randn_like(each))
    other = copy.deepcopy(module)
    kernels.use_kernels(other, kind)  # type: ignore[arg-type]
    assert "forward" in vars(other) and "forward" not in vars(module)
    pairs = zip(run(other), run(module), strict=True)
    return max(float((one - two).norm() / two.norm()) for one, two in pairs)


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
    [kind] = sys.argv[1:]
    if kind == "liger":
        complete_interpreter()
    forwards = import_module(f"gpg_vl.models.kernels.{kind}")
    found = {
        type(module).__qualname__ + f" of {type(module).__module__}": measure(module, kind) for module in make_modules()
    }
    for name, wrong in WRONG[kind].items():
        right = getattr(forwards, name)
        setattr(forwards, name, wrong)
        found[name] = max(measure(module, kind) for module in make_modules())  # the others are right
        setattr(forwards, name, right)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
