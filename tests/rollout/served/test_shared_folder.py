"""The folder that a run and its servers share."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from gpg_vl.rollout.served.messages import VERSION
from gpg_vl.rollout.served.shared_folder import TOKEN_FILE, Published, make_token, read_token


def test_a_token_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    token = make_token(tmp_path / "a")
    assert len(token) == 64 and token == make_token(tmp_path / "a") == read_token(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a" / TOKEN_FILE).stat().st_mode) == 0o600
    assert token != make_token(tmp_path / "b")


def test_a_token_that_others_read_is_refused(tmp_path: Path) -> None:
    make_token(tmp_path)
    (tmp_path / TOKEN_FILE).chmod(0o640)
    with pytest.raises(ValueError, match=TOKEN_FILE):
        read_token(tmp_path)


def test_servers_that_start_together_have_one_token(tmp_path: Path) -> None:
    """One has made the file, and has not written into it."""
    path = tmp_path / TOKEN_FILE
    path.touch(0o600)
    threading.Timer(0.3, path.write_text, ["t" * 64]).start()
    assert make_token(tmp_path) == "t" * 64


@pytest.mark.parametrize("text", ["", "short", "x" * 31, "é" * 40, "a b" * 20])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / TOKEN_FILE).write_text(text)
    (tmp_path / TOKEN_FILE).chmod(0o600)
    with pytest.raises(ValueError, match=TOKEN_FILE):
        read_token(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    make_token(tmp_path / "other")
    (tmp_path / TOKEN_FILE).symlink_to(tmp_path / "other" / TOKEN_FILE)
    with pytest.raises(ValueError, match=TOKEN_FILE):
        read_token(tmp_path)
    with pytest.raises(ValueError, match=TOKEN_FILE):
        make_token(tmp_path)


def test_a_missing_token_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="serve-rollouts"):
        read_token(tmp_path)


def versions_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_versions_appear_whole_and_the_last_two_are_kept(tmp_path: Path) -> None:
    published, another = Published(tmp_path), Published(tmp_path)
    other = another.publish(lambda folder: (folder / "w").touch())

    def write(folder: Path) -> None:
        assert not VERSION.fullmatch(folder.name), "a server could take it now"
        (folder / "w").touch()

    versions = [published.publish(write) for _ in range(4)]
    assert len({*versions, other}) == 5 and all(map(VERSION.fullmatch, versions))
    assert versions_in(tmp_path) == {*versions[-2:], other}
    published.end()
    assert versions_in(tmp_path) == {other}
    another.end()
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_written_are_no_version(tmp_path: Path) -> None:
    published = Published(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        published.publish(fail)
    assert [name for name in versions_in(tmp_path) if VERSION.fullmatch(name)] == []
    [kept] = [published.publish(lambda folder: None)]
    assert versions_in(tmp_path) == {kept}
