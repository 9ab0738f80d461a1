"""Files that are complete or not there, and names that stay where they belong."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from gpg_vl.files import (
    follow_umask,
    is_inside,
    may_be_on_hub,
    naming,
    replace_file,
    stays_inside,
    unfinished,
)


@pytest.fixture
def umask() -> Iterator[None]:
    """One that gives the group what it may read, and others nothing."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("umask")
def test_a_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    replace_file(tmp_path / "a.json", "1")
    assert mode(tmp_path / "a.json") == 0o640
    assert (tmp_path / "a.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.usefixtures("umask")
def test_files_of_a_folder_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "m/sub").mkdir(parents=True)
    outside = tmp_path / "outside"
    for path in (tmp_path / "m/weights", tmp_path / "m/sub/weights", outside):
        path.touch(0o600)
    (tmp_path / "m/link").symlink_to(outside)
    follow_umask(tmp_path / "m")
    assert (mode(tmp_path / "m/weights"), mode(tmp_path / "m/sub/weights"), mode(outside)) == (0o640, 0o640, 0o600)


def test_no_link_is_written_through(tmp_path: Path) -> None:
    """Neither one at the target nor at any name that could be foreseen."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a.json", ".a.json.partial", "a.json.partial", ".a.json.00000000.partial"):
        (tmp_path / name).symlink_to(victim)
    replace_file(tmp_path / "a.json", "1")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "a.json").is_symlink() and (tmp_path / "a.json").read_text() == "1"
    assert (tmp_path / ".a.json.00000000.partial").is_symlink(), "no file of ours"


def test_a_second_writer_is_refused_and_an_abandoned_file_removed(tmp_path: Path) -> None:
    path = tmp_path / "rows [1].jsonl"
    abandoned = tmp_path / f".{path.name}.0123abcd.partial"
    abandoned.write_text("half")
    others = [tmp_path / name for name in (".rows [1].jsonl.notes.partial", ".rows.0123abcd.partial")]
    for other in others:
        other.write_text("mine")
    with unfinished(path, alone=True) as partial:
        assert not abandoned.exists()
        partial.write_text("first")
        caught: list[BaseException] = []

        def write() -> None:
            try:
                with unfinished(path, alone=True):
                    pass
            except ValueError as error:
                caught.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(20)
        assert len(caught) == 1 and str(path) in str(caught[0])
        os.replace(partial, path)
    assert path.read_text() == "first"
    assert [other.read_text() for other in others] == ["mine", "mine"]
    replace_file(path, "third")
    assert path.read_text() == "third"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mid-way"), unfinished(tmp_path / "a"):
        raise RuntimeError("mid-way")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=re.escape(str(path))), unfinished(path):
        Path("/dev/full").write_text("x")
    with pytest.raises(OSError, match=re.escape(f"{path} could not be written: ")), naming(path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), naming(path):
        raise SafetensorError("Error while deserializing header: header too large")


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    replace_file(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "1"


def test_names_inside_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/out").symlink_to(tmp_path)
    (tmp_path / "in/here").symlink_to(tmp_path / "in")
    for name in ("a", "sub/a", "./a", "here/a"):
        assert stays_inside(name) and is_inside(tmp_path / "in", name), name
    for other in ("../a", "/a", "sub/../../a", "", "a\0b", None, 3, ["a"]):
        assert not stays_inside(other) and not is_inside(tmp_path / "in", other), other
    assert stays_inside("out/a") and not is_inside(tmp_path / "in", "out/a")


def test_a_missing_folder_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("Qwen/Qwen2-VL-2B-Instruct", "gpt2", "some-one/data_set.v2"):
        assert may_be_on_hub(name), name
    missing = ["models/tiny", "data/train", "runs/a", "mine/model", "./m", "../m", "/m/n", "~/m", "a/b/c", "", "a/"]
    for name in [*missing, "a b", "rows.parquet", "me/rows.jsonl", "a/../b", ".hidden/x"]:
        assert not may_be_on_hub(name), name


def test_two_writers_each_have_a_file_of_their_own(tmp_path: Path) -> None:
    """Whichever ends last stays, whole."""
    path = tmp_path / "a.json"
    with unfinished(path) as first:
        first.write_text("fir")
        with unfinished(path) as second:
            second.write_text("second")
            assert first.exists()
            os.replace(second, path)
        assert path.read_text() == "second"
        first.write_text("first")
        os.replace(first, path)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_names_itself_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write does, which knows no name

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        replace_file(tmp_path / "settings.json", "{}")
    assert caught.value.filename == str(tmp_path / "settings.json")
    assert list(tmp_path.iterdir()) == []
