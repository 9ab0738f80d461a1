"""A decode step on tensors that stay where they are, against the model's own forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gpg_vl.config import LoraConfig
from gpg_vl.models.decoding import static_step
from gpg_vl.models.decoding.decode_step import own_text
from gpg_vl.models.decoding.static_step import StaticStep
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import FAMILIES, make_lively, make_prompt, make_sample
from tests.support.decode_steps import EQUAL, NUM_STEPS, PADDED, largest_difference, model_step, run_steps
from tests.support.recorded_graph import use_recorded_graphs

LoadModel = Callable[..., QwenVLAdapter]
LIMIT = 1e-5
"""Of the relative error: a mask adds up the same numbers in other blocks."""


def start(adapter: QwenVLAdapter, pictures: Sequence[Any], num: int = NUM_STEPS) -> StaticStep:
    """After the prefill of two completions of each prompt."""
    prompts = [make_prompt(adapter, make_sample(sizes, n)) for n, sizes in enumerate(pictures)]
    state = HfEngine(adapter, 10**6)._prefill([prompt.encoded for prompt in prompts], 2)
    return StaticStep(own_text(adapter), state.cache, state.visible, state.positions[0], num)


@torch.no_grad()
def run_static(
    adapter: QwenVLAdapter, pictures: Sequence[Any], num: int = NUM_STEPS, *, captures: bool = False
) -> list[Tensor]:
    """As ``run_steps``: one row leaves on the way."""
    adapter.model.eval()
    with adapter.autocast():
        step, found = start(adapter, pictures, num), []
        assert not captures or step.capture() is None
        for number in range(num):
            if number == num // 2:
                step.keep(torch.arange(1, step.num_rows))
                assert not captures or step.capture() is None
            found.append(step(torch.arange(step.num_rows) * 7 + 10 + number).clone())
    return found


@pytest.mark.parametrize("pictures", [EQUAL, PADDED], ids=["equal", "padded"])
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_vl"])
def test_a_step_is_that_of_the_models_forward(load: LoadModel, family: str, pictures: Sequence[Any]) -> None:
    adapter = load(family)
    make_lively(adapter)
    assert largest_difference(run_static(adapter, pictures), run_steps(adapter, pictures, model_step)) <= LIMIT


def test_the_same_with_adapters_on_the_layers(load: LoadModel) -> None:
    adapter = load(lora=LoraConfig(r=4))
    make_lively(adapter)
    assert largest_difference(run_static(adapter, PADDED), run_steps(adapter, PADDED, model_step)) <= LIMIT


@pytest.mark.parametrize("pictures", [EQUAL, PADDED], ids=["equal", "padded"])
def test_a_graph_replays_it_bit_for_bit(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, pictures: Sequence[Any]
) -> None:
    """What is replayed are operations on the same tensors, without the Python between them."""
    adapter = load()
    make_lively(adapter)
    expected = run_static(adapter, pictures)
    graphs = use_recorded_graphs(monkeypatch)
    found = run_static(adapter, pictures, captures=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [graph.num_replays for graph in graphs] == [NUM_STEPS // 2, NUM_STEPS // 2]


def test_what_cannot_be_captured_runs_operation_by_operation(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    make_lively(adapter)
    expected = run_static(adapter, PADDED)
    graphs = use_recorded_graphs(monkeypatch)

    class Fails:
        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")  # as it ends the capture

    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: Fails())
    with torch.no_grad():
        step = start(adapter, PADDED)
        before = [each.clone() for each in (step._place, step._positions)]
        assert step.capture() == "operation not permitted when stream is capturing"
        assert graphs[0].num_replays == 0
        for each, value in zip((step._place, step._positions), before, strict=True):
            each.copy_(value)
        assert torch.equal(step(torch.arange(step.num_rows) * 7 + 10), expected[0])


def test_memory_that_runs_out_is_no_reason_to_go_on(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rollout tries again with half of the rows; torch's own error at the end of the capture does not hide it."""
    use_recorded_graphs(monkeypatch)
    run = StaticStep._run
    steps: list[int] = []

    def full(self: StaticStep) -> Tensor:
        steps.append(1)
        if len(steps) == 2:  # the first one warms up
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self)

    class Ends:
        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(StaticStep, "_run", full)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: Ends())
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        start(load(), EQUAL).capture()


def test_a_step_that_waits_for_the_device_cannot_be_captured(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    use_recorded_graphs(monkeypatch)
    run = StaticStep._run

    def waits(self: StaticStep) -> Tensor:
        hidden = run(self)
        return hidden if float(hidden[0, 0]) < 1e9 else hidden * 0

    with torch.no_grad():
        step = start(load(), EQUAL)
        assert step.capture() is None
        monkeypatch.setattr(StaticStep, "_run", waits)
        assert "_local_scalar_dense" in str(step.capture())


def test_no_step_moves_a_tensor(load: LoadModel) -> None:
    """A graph knows addresses."""
    with torch.no_grad():
        step = start(load(), PADDED)

        def places() -> list[int]:
            tensors = [step._place, step._positions, step._tokens, step._mask, *(layer.keys for layer in step.layers)]
            return [each.data_ptr() for each in tensors]

        before = places()
        for number in range(4):
            step(torch.arange(step.num_rows) + number)
        assert places() == before


def key_in_another_place(patch: pytest.MonkeyPatch) -> None:
    append = static_step.StaticLayer.append

    def behind(self: Any, states: Tensor) -> Any:
        self._place = self._place + 1
        return append(self, states)

    patch.setattr(static_step.StaticLayer, "append", behind)


def room_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        static_step, "added_mask", lambda visible, dtype: torch.zeros_like(visible, dtype=dtype)[:, None, None]
    )


def positions_stand_still(patch: pytest.MonkeyPatch) -> None:
    run = static_step.StaticStep._run

    def still(self: Any) -> Tensor:
        hidden = run(self)
        self._positions.sub_(1)
        return hidden

    patch.setattr(static_step.StaticStep, "_run", still)


@pytest.mark.parametrize("mutation", [key_in_another_place, room_is_seen, positions_stand_still])
def test_mutations_are_caught(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None]
) -> None:
    adapter = load()
    make_lively(adapter)
    expected = run_steps(adapter, PADDED, model_step, num=4)
    mutation(monkeypatch)
    assert largest_difference(run_static(adapter, PADDED, num=4), expected) > 1e-3
