"""Are packed rows exact on this device? Each attention code against plain rows, both against float64.

Two errors count. That of the log-probs is the root mean square difference from float64, in nats. That of a parameter's
gradient is the norm of the difference over the norm of the float64 gradient. The floor is what plain rows miss: the
larger error of two ways to run them, one by one and all of a group together, which differ in nothing but rounding. Each
parameter has a floor of its own, so that a bias counts as much as the embedding. Packed rows are exact where the ratio
to the floor is finite and at most 1.2: of the log-probs' error, and of the gradient's (root mean square over the
parameters; a single wrong one is enough to exceed it). A wrong mask must exceed it. FlexAttention must be compiled:
where torch.compile gives up, other code runs, and the row says nothing of the compiled one.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; for the deterministic step

import torch
from torch import Tensor

from benchmarks.flops import Lengths
from benchmarks.gpu_sections import greedy, kit, plain
from benchmarks.gpu_sections.compilation import Compilation, watch_compilation
from benchmarks.gpu_sections.records import Row, Setting
from benchmarks.gpu_sections.trial import free_memory, measured
from benchmarks.gpu_sections.verdicts import find_worst, is_within, largest, ratio_to
from benchmarks.groups import draw_group
from benchmarks.models import QWEN2_5_VL_3B, QWEN2_VL_2B, ModelShape
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import MicroBatch, TrainingGroup

BOUND = 1.2
CODES = {"dense": "sdpa", "grouped": "grouped_sdpa"}
COMPILED_CODES = {"flex": "flex_attention"}
PRECISIONS = ("float32", "bfloat16")
TEXT_LAYERS, TOWER_LAYERS = 4, 8  # the eighth block of a Qwen2.5-VL tower is the first that attends to whole images


@dataclass(frozen=True, kw_only=True)
class ExactnessRow(Row):
    model: str = ""
    precision: str = ""
    weights: str = ""  # the type that they are computed in
    verdict: str = ""  # exact, NOT EXACT, NOT COMPILED, caught, MISSED; same or DIFFERENT for what is done twice
    log_prob_error: float | None = None  # nats
    log_prob_ratio: float | None = None  # of the floor
    gradient_error: float | None = None  # median over the parameters
    gradient_ratio: float | None = None  # of the parameters' errors to their floors, root mean square
    worst_ratio: float | None = None  # of a single parameter
    worst_parameter: str = ""
    share_equal: float | None = None  # of tokens, or of parameters bit by bit
    graphs: int | None = None  # that torch.compile made for the row
    fallback: str = ""  # the warning, where it gave up
    note: str = ""


@dataclass(frozen=True)
class Errors:
    log_prob: float
    by_parameter: Mapping[str, float]  # {} where there was no backward pass


@dataclass(frozen=True)
class Reference:
    log_probs: Tensor
    gradients: Mapping[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """A model in one precision, and what it is compared on."""

    adapter: QwenVLAdapter
    groups: Sequence[TrainingGroup]
    reference: Reference
    model: str
    precision: str

    @property
    def identity(self) -> dict[str, str]:
        return {"model": self.model, "precision": self.precision, "weights": kit.weights_of(self.adapter)}


def run(setting: Setting) -> Iterator[ExactnessRow]:
    kit.trace_only(setting.device)
    for full in (QWEN2_5_VL_3B, QWEN2_VL_2B):
        shape = reduce(full, is_tiny=setting.is_tiny)
        adapter = kit.build(shape, setting.device, "float32")
        groups = draw_groups(adapter, is_tiny=setting.is_tiny)
        floors: dict[str, Errors] = {}
        references: dict[str, Reference] = {}
        for precision in PRECISIONS:
            bench = build_bench(adapter, shape, groups, precision, references)
            yield from find_floor(bench, floors)
            yield from compare(bench, floors, CODES)
        yield from repeat_work(kit.in_dtype(adapter, shape, "float32"), groups, shape.name, setting)
        for precision in PRECISIONS:  # compiles, which takes long: last
            bench = build_bench(adapter, shape, groups, precision, references)
            yield from compare(bench, floors, COMPILED_CODES)
        del adapter, references, bench
        free_memory()


def build_bench(
    adapter: QwenVLAdapter, shape: ModelShape, groups: Sequence[TrainingGroup], precision: str,
    references: dict[str, Reference],
) -> Bench:  # fmt: skip
    """Adds to ``references`` what is not there: rounded weights are others, and have a float64 result of their own."""
    measured_one = kit.in_dtype(adapter, shape, precision)
    if precision not in references:
        references[precision] = compute_reference(measured_one, groups)
    return Bench(measured_one, groups, references[precision], shape.name, precision)


def reduce(full: ModelShape, *, is_tiny: bool) -> ModelShape:
    shape = kit.sized(full, is_tiny=is_tiny)
    return shape if is_tiny else replace(shape, layers=TEXT_LAYERS, vision_depth=TOWER_LAYERS)


def draw_groups(adapter: Adapter, *, is_tiny: bool) -> list[TrainingGroup]:
    """Rows of unequal length, completions of unequal length, one of a single token."""
    large, small = (
        (Lengths(36, 40, 0, 0), Lengths(16, 24, 0, 0)) if is_tiny else (Lengths(256, 88, 0, 0), Lengths(144, 40, 0, 0))
    )
    scale = 4 if is_tiny else 1
    counts = [[64, 1, 37, 50, 64, 22], [20, 64, 9]]
    return [
        draw_group(adapter, lengths, seed, [max(1, count // scale) for count in of_group])
        for seed, (lengths, of_group) in enumerate(zip((large, small), counts, strict=True))
    ]


def compute_reference(adapter: QwenVLAdapter, groups: Sequence[TrainingGroup]) -> Reference:
    """Plain rows one by one, everything in float64."""
    model = copy.deepcopy(adapter.model).double().train()
    with plain.KeepDouble():
        log_probs = plain.run_plain(adapter, groups, len(groups), plain.precise_head, 1, model)
    assert log_probs.dtype == torch.float64
    return Reference(log_probs, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})


def find_floor(bench: Bench, floors: dict[str, Errors]) -> Iterator[ExactnessRow]:
    """Plain rows twice; adds the larger error to ``floors`` where both could be measured."""
    errors: list[Errors] = []
    for name, together in (("plain, row by row", 1), ("plain, rows together", 64)):
        work = partial(plain_values, bench.adapter, bench.groups, bench.reference, together, errors)
        yield measured(ExactnessRow, work, name=name, **bench.identity)
    if len(errors) == 2:
        floors[bench.precision] = join(errors)


def compare(bench: Bench, floors: Mapping[str, Errors], codes: Mapping[str, str]) -> Iterator[ExactnessRow]:
    """Packed rows by each attention code, right and wrong; nothing where there is no floor: its rows say why."""
    adapter, groups = bench.adapter, bench.groups
    identity, floor = bench.identity, floors.get(bench.precision)
    if floor is None:
        return
    for name, attention in codes.items():
        kit.set_attention(adapter, attention)
        batch = kit.pack(adapter, groups)
        right = partial(packed_values, adapter, batch, bench.reference, floor, len(groups))
        yield measured(ExactnessRow, right, name=f"packed, {name}", **identity)
        wrong = partial(mutated_values, adapter, kit.without_borders(batch), bench.reference, floor)
        yield measured(ExactnessRow, wrong, name=f"packed, {name}, wrong mask", **identity)


def plain_values(
    adapter: QwenVLAdapter, groups: Sequence[TrainingGroup], reference: Reference, together: int, kept: list[Errors]
) -> dict[str, Any]:
    """Adds the errors to ``kept``."""
    adapter.model.train()
    kit.clear_gradients(adapter)
    found = plain.run_plain(adapter, groups, len(groups), plain.precise_head, together)
    kept.append(measure_errors(adapter, found, reference, with_gradient=True))
    gradient_error = statistics.median(kept[-1].by_parameter.values())
    return {"log_prob_error": kept[-1].log_prob, "gradient_error": gradient_error}


def packed_values(
    adapter: Adapter, batch: MicroBatch, reference: Reference, floor: Errors, divisor: int
) -> dict[str, Any]:
    """Errors, their ratios to the floor, and the verdict."""
    has_backward = can_go_back(adapter)
    with watch_compilation() as compiled:
        found = kit.packed_pass(adapter, batch, divisor) if has_backward else kit.no_grad_pass(adapter, batch)
    assert kit.attention_that_ran(adapter) == adapter.config.attention
    errors = measure_errors(adapter, found, reference, with_gradient=has_backward)
    values: dict[str, Any] = compare_log_probs(errors, floor)
    values |= compare_gradients(errors, floor) if has_backward else {"note": "no backward pass on a CPU"}
    ratios = [values["log_prob_ratio"], values.get("gradient_ratio", 0.0)]
    verdict = "exact" if is_within(ratios, BOUND) else "NOT EXACT"
    return values | judge_compilation(compiled, verdict)


def can_go_back(adapter: Adapter) -> bool:
    """FlexAttention has no backward pass on a CPU."""
    return not (adapter.device.type == "cpu" and adapter.config.attention == "flex_attention")


def judge_compilation(compiled: Compilation, verdict: str) -> dict[str, Any]:
    """``verdict``, unless code that is not compiled ran in place of the code that the row is about."""
    values = {"graphs": compiled.graphs, "fallback": compiled.fallback}
    return values | {"verdict": "NOT COMPILED" if compiled.fallback else verdict}


def compare_log_probs(errors: Errors, floor: Errors) -> dict[str, Any]:
    return {"log_prob_error": errors.log_prob, "log_prob_ratio": ratio_to(floor.log_prob, errors.log_prob)}


def compare_gradients(errors: Errors, floor: Errors) -> dict[str, Any]:
    """Root mean square of the ratios, of the parameters whose error is not 0; 0 where all are."""
    ratios = {name: ratio_to(floor.by_parameter[name], error) for name, error in errors.by_parameter.items()}
    counted = [ratio**2 for ratio in ratios.values() if ratio]
    worst = find_worst(ratios)
    return {
        "gradient_error": statistics.median(errors.by_parameter.values()),
        "gradient_ratio": math.sqrt(statistics.fmean(counted)) if counted else 0.0,
        "worst_ratio": ratios[worst],
        "worst_parameter": worst.removeprefix("model."),
    }


def mutated_values(adapter: Adapter, batch: MicroBatch, reference: Reference, floor: Errors) -> dict[str, Any]:
    """The forward alone, with grad where there is a backward: the graph is then that of the right rows."""
    with watch_compilation() as compiled:
        go_on = kit.packed_log_probs if can_go_back(adapter) else kit.no_grad_pass
        found = go_on(adapter, batch).detach()
    values = compare_log_probs(measure_errors(adapter, found, reference, with_gradient=False), floor)
    verdict = "caught" if values["log_prob_ratio"] > BOUND else "MISSED"
    return values | judge_compilation(compiled, verdict)


def measure_errors(adapter: Adapter, found: Tensor, reference: Reference, *, with_gradient: bool) -> Errors:
    """One parameter at a time: of a large model there is no room for another whole gradient in float64."""
    log_prob = float((found.double() - reference.log_probs).square().mean().sqrt())
    by_parameter: dict[str, float] = {}
    if with_gradient:
        gradients = kit.gradients_of(adapter)
        assert gradients.keys() == reference.gradients.keys(), "a parameter has a gradient on one side alone"
        for name, expected in reference.gradients.items():
            by_parameter[name] = relative_difference(gradients[name], expected)
    return Errors(log_prob, by_parameter)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of ``expected``; 0 where both are zero."""
    difference, norm = float((found.double() - expected).norm()), float(expected.norm())
    return difference / norm if norm else (math.inf if difference else 0.0)


def join(errors: Sequence[Errors]) -> Errors:
    """The larger error of each."""
    names = errors[0].by_parameter
    return Errors(
        largest(each.log_prob for each in errors), {n: largest(each.by_parameter[n] for each in errors) for n in names}
    )


def repeat_work(
    adapter: QwenVLAdapter, groups: Sequence[TrainingGroup], model: str, setting: Setting
) -> Iterator[ExactnessRow]:
    """What should come out the same: greedy completions alone and in a batch, and the same step twice."""
    kit.set_attention(adapter, "auto")
    identity = {"model": model, "precision": "float32", "weights": kit.weights_of(adapter)}
    alone = partial(greedy.compare_alone, adapter, is_tiny=setting.is_tiny)
    yield measured(ExactnessRow, alone, name="greedy rollout, alone and in a batch", **identity)
    plain = partial(greedy.compare_graphs, adapter, is_tiny=setting.is_tiny)
    yield measured(ExactnessRow, plain, name="rollout, with CUDA graphs and without", **identity)
    twice = partial(compare_twice, adapter, groups)
    yield measured(ExactnessRow, twice, name="the same step twice", **identity)
    fixed = partial(compare_deterministic, adapter, groups)
    yield measured(ExactnessRow, fixed, name="the same step twice, deterministic algorithms", **identity)


def compare_twice(adapter: Adapter, groups: Sequence[TrainingGroup]) -> dict[str, Any]:
    batch = kit.pack(adapter, groups)
    kit.packed_pass(adapter, batch, len(groups))
    first = kit.gradients_of(adapter)
    kit.packed_pass(adapter, batch, len(groups))
    second = kit.gradients_of(adapter)
    same = sum(torch.equal(first[name], second[name]) for name in first)
    error = largest(relative_difference(second[name], first[name].double()) for name in first)
    verdict = "same" if same == len(first) else "DIFFERENT"
    return {"share_equal": same / len(first), "verdict": verdict, "gradient_error": error}


def compare_deterministic(adapter: Adapter, groups: Sequence[TrainingGroup]) -> dict[str, Any]:
    """Where an operation has no deterministic form, torch stops at it; then once more, with all such named.

    Merely warned, torch keeps the backward of its attention as it is, though that has a deterministic form.
    """
    try:
        with deterministic(warn_only=False):
            return compare_twice(adapter, groups)
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        stopped = name_operations([str(error)])
    with warnings.catch_warnings(record=True) as caught, deterministic(warn_only=True):
        warnings.simplefilter("always")
        values = compare_twice(adapter, groups)
    said = name_operations([str(each.message) for each in caught])
    return values | {"note": "; ".join(sorted(stopped | said))}


@contextmanager
def deterministic(*, warn_only: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=warn_only)  # noqa: FBT003  torch takes it so
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)  # noqa: FBT003


def name_operations(messages: Sequence[str]) -> set[str]:
    """Those without a deterministic form, in torch's words."""
    return {text.split(" does not have")[0].splitlines()[0] for text in messages if "determinis" in text}
