"""Prompts whose images workers prepare ahead of time, against those that are built on the spot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from gpg_vl.config import PromptConfig
from gpg_vl.data.images import BadImage
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.prompts import prefetch
from gpg_vl.prompts.builder import PreparedMedia, PromptBuilder
from gpg_vl.prompts.prefetch import PromptsAhead, choose_workers
from gpg_vl.records import ImageView, Prompt, Sample
from gpg_vl.screen import say_once
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.counting import Counting
from tests.support.builders import FAMILIES, make_sample
from tests.support.messages import lines_naming

LoadModel = Callable[..., QwenVLAdapter]
CPU = torch.device("cpu")
SAMPLES = [make_sample(sizes, n) for n, sizes in enumerate(([(90, 60)], [], [(200, 110), (84, 84)], [(56, 56)]))]


class Numbering(Counting):
    """Its words depend on how often it was asked before, as a user's may."""

    def __init__(self) -> None:
        self._num_asked = 0

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        self._num_asked += 1
        return f"{self._num_asked}. {sample.question} Within {[view.model_width for view in views]}."


def builder(adapter: QwenVLAdapter, shrink_to: int | None = None) -> PromptBuilder:
    return PromptBuilder(adapter, {**TASKS, "counting": Numbering()}, PromptConfig(), shrink_to=shrink_to)


@contextmanager
def workers(prompts: PromptBuilder, num: int = 2) -> Iterator[PromptsAhead]:
    made = PromptsAhead(prompts, num, CPU)
    try:
        yield made
    finally:
        made.close()
        assert not running()


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "data.workers"]


def wait_until_prepared(prompts: PromptsAhead) -> None:
    end = time.monotonic() + 20
    while not all(future.done() for future in prompts._expected.values()):
        assert time.monotonic() < end
        time.sleep(0.001)


def assert_equal(one: Prompt, other: Prompt) -> None:
    """All of it, the tensors bit for bit."""
    for name in ("sample", "text", "views", "messages", "answer_in"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("token_ids", "token_types", "next_position"):
        assert getattr(one.encoded, name) == getattr(other.encoded, name), name
    assert torch.equal(one.encoded.position_ids, other.encoded.position_ids)
    mine, theirs = one.encoded.vision, other.encoded.vision
    assert (mine is None) == (theirs is None)
    if mine is not None and theirs is not None:
        assert replace(mine, tensors={}) == replace(theirs, tensors={})
        assert mine.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in mine.tensors.items())


@pytest.mark.parametrize("is_waited_for", [True, False])
@pytest.mark.parametrize("shrink_to", [None, 60])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_those_of_the_builder(
    load: LoadModel, family: str, shrink_to: int | None, is_waited_for: bool
) -> None:
    """Built in another order than they were expected in, by a task whose words depend on the order of building."""
    adapter = load(family)
    plain = builder(adapter, shrink_to)
    expected = [plain.build(sample) for sample in SAMPLES]
    if shrink_to is not None:
        assert any(plain.read(each, [(200, 110), (84, 84)]).is_shrunk for each in SAMPLES if len(each.images) == 2)
    with workers(builder(adapter, shrink_to)) as prompts:
        prompts.expect(SAMPLES[::-1])
        if is_waited_for:
            wait_until_prepared(prompts)
        for sample, prompt in zip(SAMPLES, expected, strict=True):
            assert_equal(prompts.build(sample), prompt)


def test_what_was_prepared_is_used_and_images_are_opened_once(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = record_opening(monkeypatch)
    with workers(builder(load())) as prompts:
        prompts.expect(SAMPLES)
        wait_until_prepared(prompts)
        for sample in SAMPLES:
            prompts.build(sample)
        assert threads == ["data.workers"] * 3
        prompts.build(SAMPLES[0])  # drawn a second time
        assert threads[3:] == ["MainThread"]


def test_an_image_that_has_to_shrink_is_opened_again(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = record_opening(monkeypatch)
    with workers(builder(load(), shrink_to=60)) as prompts:
        prompts.expect(SAMPLES[2:3])
        wait_until_prepared(prompts)
        prompts.build(SAMPLES[2])
    assert threads == ["data.workers", "MainThread"]


def record_opening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that open a row's images, as they do."""
    threads: list[str] = []
    original = PromptBuilder._open

    def open_and_record(self: PromptBuilder, sample: Sample) -> Any:
        if sample.images:
            threads.append(threading.current_thread().name)
        return original(self, sample)

    monkeypatch.setattr(PromptBuilder, "_open", open_and_record)
    return threads


def test_without_workers_nothing_starts(load: LoadModel) -> None:
    with workers(builder(load()), num=0) as prompts:
        prompts.expect(SAMPLES)
        assert not running()
        assert_equal(prompts.build(SAMPLES[0]), builder(load()).build(SAMPLES[0]))


def test_a_damaged_image_fails_with_the_words_of_the_builder(load: LoadModel) -> None:
    broken = replace(SAMPLES[0], id="broken", images=(SAMPLES[0].images[0][:200],))
    with pytest.raises(BadImage) as expected:
        builder(load()).build(broken)
    with workers(builder(load())) as prompts:
        prompts.expect([broken, SAMPLES[3]])
        wait_until_prepared(prompts)
        with pytest.raises(BadImage) as found:
            prompts.build(broken)
        assert str(found.value) == str(expected.value)
        assert "broken" in str(found.value)
        prompts.build(SAMPLES[3])


@pytest.mark.parametrize("error", [MemoryError("no room"), SystemExit("gone"), RuntimeError("odd")])
def test_a_worker_that_fails_is_said_and_the_run_does_its_work(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def fail(self: PromptBuilder, sample: Sample) -> PreparedMedia:
        raise error

    say_once.cache_clear()
    monkeypatch.setattr(PromptBuilder, "prepare", fail)
    plain = builder(load())
    with workers(builder(load())) as prompts:
        prompts.expect(SAMPLES)
        wait_until_prepared(prompts)
        for sample in SAMPLES:
            assert_equal(prompts.build(sample), plain.build(sample))
        assert len(running()) == 2
    assert len(lines_naming(capsys.readouterr().err, "data.workers", type(error).__name__, str(error))) == 1


def test_threads_that_cannot_start_are_said(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    say_once.cache_clear()
    plain = builder(load())
    with workers(builder(load())) as prompts:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        prompts.expect(SAMPLES)
        monkeypatch.undo()
        assert_equal(prompts.build(SAMPLES[0]), plain.build(SAMPLES[0]))
    assert lines_naming(capsys.readouterr().err, "data.workers", "can't start new thread")


def test_what_is_no_longer_expected_is_forgotten(load: LoadModel) -> None:
    with workers(builder(load())) as prompts:
        prompts.expect(SAMPLES[:3])
        prompts.expect(SAMPLES[2:])
        assert set(prompts._expected) == {SAMPLES[2].id, SAMPLES[3].id}


def test_the_end_waits_for_no_image_that_hangs(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a server that does not answer: the process ends all the same, since its workers are daemons."""
    hangs, begun = threading.Event(), threading.Event()

    def hang(self: PromptBuilder, sample: Sample) -> None:
        begun.set()
        hangs.wait(60)

    monkeypatch.setattr(PromptBuilder, "prepare", hang)
    monkeypatch.setattr(prefetch, "_END_SECONDS", 0.05)
    prompts = PromptsAhead(builder(load()), 1, CPU)
    prompts.expect(SAMPLES)
    begun.wait(20)
    [thread] = running()
    prompts.close()
    assert thread.is_alive() and thread.daemon
    hangs.set()
    thread.join(20)
    assert not thread.is_alive()


def test_workers_of_their_own_accord_only_beside_a_gpu() -> None:
    assert [choose_workers(None, torch.device(kind)) for kind in ("cpu", "cuda")] == [0, 2]
    assert [choose_workers(num, CPU) for num in (0, 3)] == [0, 3]
