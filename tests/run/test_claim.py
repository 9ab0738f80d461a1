"""The lock of a run's folder, also after somebody renamed the folder or removed the lock."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from gpg_vl.run import claim
from gpg_vl.run.claim import LOCK_FILE, LostFolder, _check_owner, check_all_see, check_claim, claim_folder
from gpg_vl.run.run_log import RunLog
from tests.support.messages import naming


def test_a_claim_holds_until_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with claim_folder(folder):
        check_claim(folder)
        check_claim(tmp_path / "another")
    check_claim(folder)


def test_a_rank_that_sees_another_folder_under_the_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node that has a disk of its own there, empty or with what an earlier run left."""
    monkeypatch.setattr(claim, "_SEEN_SECONDS", 0.0)
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with claim_folder(folder):
        check_all_see(folder)
        owner = (folder / LOCK_FILE).read_bytes()
        assert owner
        for left in (None, b"process 1 on another"):
            if left is not None:
                (elsewhere / LOCK_FILE).write_bytes(left)
            with pytest.raises(ValueError, match=naming("run.output_dir", elsewhere, "all nodes")):
                _check_owner(elsewhere, owner)


def test_a_folder_that_is_seen_late_is_no_other_one(tmp_path: Path) -> None:
    folder, late = tmp_path / "run", tmp_path / "late"
    with claim_folder(folder):
        threading.Timer(0.2, folder.rename, (late,)).start()
        _check_owner(late, (folder / LOCK_FILE).read_bytes())


@pytest.mark.parametrize("what", ["folder", "lock", "both", "gone"])
def test_two_writers_are_told_apart(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    with claim_folder(folder):
        log = RunLog(folder, [], 0, 10)
        log.write(1, {"loss": 1.0})
        log.flush()
        if what in ("folder", "gone"):
            folder.rename(tmp_path / "moved")
        if what in ("lock", "both"):
            (folder / LOCK_FILE).unlink()
        if what in ("folder", "both"):
            with claim_folder(tmp_path / "other"):  # another process would claim the same name
                pass
            (tmp_path / "other").rename(folder) if what == "folder" else (folder / LOCK_FILE).write_text("")
        for write in (lambda: check_claim(folder), lambda: log.write(2, {}), lambda: log.write_rollouts(2, [])):
            with pytest.raises(LostFolder, match=naming(folder)) as caught:
                write()
            assert "\n" not in str(caught.value)
    written = list(tmp_path.rglob("metrics.jsonl"))
    assert [json.loads(line)["step"] for path in written for line in path.read_text().splitlines()] == [1]


def test_a_folder_that_is_lost_before_the_log_is_written_ends_the_run(tmp_path: Path) -> None:
    """The writer checks again: what it finds is raised where the run goes on, and nothing is written."""
    folder = tmp_path / "run"
    with claim_folder(folder):
        log = RunLog(folder, [], 0, 10)
        go_on = threading.Event()
        log._writer.give(go_on.wait)
        log.write(1, {"loss": 1.0})
        log.write_rollouts(1, [])
        folder.rename(tmp_path / "moved")
        with claim_folder(tmp_path / "other"):
            pass
        (tmp_path / "other").rename(folder)
        go_on.set()
        with pytest.raises(LostFolder, match=naming(folder)):
            log.flush()
        log.close()
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).symlink_to(victim)
    with pytest.raises(ValueError, match=naming("run.output_dir", tmp_path / "run")), claim_folder(tmp_path / "run"):
        pass
    assert victim.read_text() == "precious"
