from __future__ import annotations

import json
from collections import Counter

import pytest

from gpg_vl.data.sources import Source
from gpg_vl.data.stream import SampleStream
from gpg_vl.records import Sample
from tests.support.messages import naming


def source(task: str, rows: int, weight: float = 1.0) -> Source:
    return Source(task, weight, [Sample(f"{task}-{n}", task, (), "q", "a") for n in range(rows)])


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def test_every_epoch_holds_each_row_once_in_a_new_order() -> None:
    stream = SampleStream([source("a", 20)], seed=1)
    first, second = ids(stream.draw(20)), ids(stream.draw(20))
    assert sorted(first) == sorted(second) == sorted(ids(list(source("a", 20).samples)))
    assert first != second


def test_draws_do_not_depend_on_how_they_are_cut() -> None:
    sources = [source("a", 7), source("b", 5, 2.0)]
    whole = ids(SampleStream(sources, seed=3).draw(60))
    stream = SampleStream(sources, seed=3)
    assert [i for n in (1, 13, 6, 40) for i in ids(stream.draw(n))] == whole
    assert ids(SampleStream(sources, seed=4).draw(60)) != whole


def test_restored_stream_goes_on_with_the_next_samples() -> None:
    sources = [source("a", 7), source("b", 5)]
    stream = SampleStream(sources, seed=3)
    stream.draw(17)
    state = stream.state()
    expected = ids(stream.draw(30))
    other = SampleStream(sources, seed=3)
    other.restore(state)
    assert ids(other.draw(30)) == expected


def test_sources_are_mixed_by_weight() -> None:
    stream = SampleStream([source("a", 9), source("b", 9), source("c", 9, 2.0)], seed=0)
    counts = Counter(sample.task for sample in stream.draw(4000))
    assert counts["a"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert counts["c"] / 4000 == pytest.approx(0.5, abs=0.03)


def test_tasks_left_out_are_passed_over() -> None:
    mixed = Source("mixed", 1.0, [*source("a", 5).samples, *source("b", 5).samples])
    stream = SampleStream([mixed, source("c", 3)], seed=0)
    assert {sample.task for sample in stream.draw(50, {"a", "c"})} == {"b"}
    assert {sample.task for sample in stream.draw(50)} == {"a", "b", "c"}
    with pytest.raises(ValueError, match=naming("'a'", "'b'", "'c'")):
        stream.draw(1, {"a", "b", "c"})


def test_rows_left_out_are_passed_over_and_move_no_other() -> None:
    sources = [source("a", 7), source("b", 5)]
    whole = ids(SampleStream(sources, seed=3).draw(120))
    stream = SampleStream(sources, seed=3)
    first = ids(stream.draw(30))
    gone = set(whole[4:6])
    stream.leave_out(dict.fromkeys(gone, "bad_image"))
    after = ids(stream.draw(40))
    assert first + after == (whole[:30] + [each for each in whole[30:] if each not in gone])[:70]
    other = SampleStream(sources, seed=3)
    other.restore(json.loads(json.dumps(stream.state())))
    assert dict(other.left_out) == dict.fromkeys(gone, "bad_image")
    assert ids(other.draw(20)) == ids(stream.draw(20))
    stream.leave_out(dict.fromkeys(whole, "long_prompt"))
    with pytest.raises(ValueError, match=naming("data.train", 12)):
        stream.draw(1)


def test_looking_ahead_sees_the_next_draw_and_draws_nothing() -> None:
    """Over the ends of epochs, without some tasks, with rows left out."""
    stream = SampleStream([source("a", 7), source("b", 5, 2.0)], seed=3)
    stream.leave_out({"a-3": "bad_image"})
    for count, without in ((4, ()), (9, {"b"}), (1, ()), (30, {"a"})):
        state = stream.state()
        seen = ids(stream.look_ahead(count, without))
        assert stream.state() == state
        assert ids(stream.draw(count, without)) == seen
    assert stream.look_ahead(1, {"a", "b"}) == []
    assert len(stream.draw(3)) == 3
