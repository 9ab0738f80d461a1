"""The optimizer's state in files of several ranks."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gpg_vl.run.moments import FilesOfOthers, copy_portion, moments_file, open_moments, write_own
from gpg_vl.update.optimizer_state import Slice
from tests.support.messages import naming

WHOLE = torch.arange(24.0).view(4, 3, 2)


def write(folder: Path, cuts: list[int]) -> None:
    """A tensor cut into slices, each of another rank; the last rank is the first one to write."""
    ends = [*cuts, 24]
    for rank, (start, end) in reversed(list(enumerate(zip([0, *cuts], ends, strict=True)))):
        values = WHOLE.flatten()[start:end]
        portion = {"some.weight/exp_avg": Slice(WHOLE.shape, start, values)} if end > start else {}
        step = {"some.weight/step": Slice(torch.Size(), 0, torch.ones(1))} if rank == 0 else {}
        write_own([portion | step], folder, rank)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 23), max_size=4, unique=True), st.integers(0, 24), st.integers(0, 24))
def test_any_part_is_read_from_any_slices(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], one: int, other: int
) -> None:
    folder = tmp_path_factory.mktemp("state")
    write(folder, sorted(cuts))
    start, end = sorted((one, other))
    with open_moments(folder) as stored:
        [(name, entries)] = stored.items()
        assert (name, set(entries)) == ("some.weight", {"exp_avg", "step"})
        assert entries["exp_avg"].shape == WHOLE.shape
        assert torch.equal(entries["exp_avg"].read(start, end - start), WHOLE.flatten()[start:end])
        assert torch.equal(entries["step"].read(0, 1), torch.ones(1))


def test_what_is_whole_has_its_own_shape_in_the_file(tmp_path: Path) -> None:
    """As the files of earlier versions have it."""
    write(tmp_path, [])
    [path] = tmp_path.iterdir()
    assert path.name == "optimizer-1.safetensors"
    found = load_file(path)
    assert torch.equal(found["some.weight/exp_avg"], WHOLE)
    assert found["some.weight/step"].shape == ()


def test_portions_of_ranks_have_files_of_their_own() -> None:
    names = {moments_file(rank, number) for rank in (0, 1, 11) for number in (1, 2, 11)}
    assert len(names) == 9


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_whose_file_is_missing_is_noticed(tmp_path: Path, rank: int) -> None:
    write(tmp_path, [6, 10])
    (tmp_path / moments_file(rank, 1)).unlink()
    with pytest.raises(ValueError, match=naming("some.weight/exp_avg", "missing")), open_moments(tmp_path):
        pass


def test_a_file_that_is_there_twice_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, [6])
    (tmp_path / moments_file(2, 1)).write_bytes((tmp_path / moments_file(1, 1)).read_bytes())
    with pytest.raises(ValueError, match=naming("some.weight/exp_avg", "twice")), open_moments(tmp_path):
        pass


@pytest.mark.parametrize("text", ["[]", "{", '{"a/step": 3}', '{"a/step": {"start": "x", "shape": []}}',
                                  '{"a/step": {"start": 0, "shape": ["y"]}}', '{"a/step": {"start": 0}}'])  # fmt: skip
def test_metadata_that_say_something_else_are_refused(tmp_path: Path, text: str) -> None:
    save_file({"a/step": torch.ones(2)}, tmp_path / moments_file(0, 1), {"slices": text})
    with pytest.raises(ValueError, match="slices"), open_moments(tmp_path):
        pass


def test_slices_beyond_their_tensor_are_refused(tmp_path: Path) -> None:
    text = json.dumps({"a/step": {"start": 5, "shape": [6]}})
    save_file({"a/step": torch.ones(2)}, tmp_path / moments_file(0, 1), {"slices": text})
    with pytest.raises(ValueError, match="a/step"), open_moments(tmp_path):
        pass


def test_files_of_others_are_waited_for(tmp_path: Path) -> None:
    one, late = tmp_path / "one", tmp_path / "late"
    one.touch()
    threading.Timer(0.2, late.touch).start()
    assert FilesOfOthers([one, late]).have_come()
    missing = FilesOfOthers([one, tmp_path / "missing"])
    missing.give_up(0.0)
    assert not missing.have_come()
    there = FilesOfOthers([one])
    there.give_up(0.0)
    assert there.have_come(), "however late it is"


def test_a_copy_does_not_follow_the_optimizer() -> None:
    values = torch.ones(3)
    copy = copy_portion({"a/step": Slice(torch.Size([6]), 3, values)})
    values.zero_()
    assert torch.equal(copy["a/step"].values, torch.ones(3))
    assert (copy["a/step"].shape, copy["a/step"].start) == (torch.Size([6]), 3)
