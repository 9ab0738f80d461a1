from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpg_vl.preflight.trackers import check_trackers
from tests.support.messages import naming


def test_a_tracker_that_is_not_installed_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", None)  # as where there is no such package
    with pytest.raises(ValueError, match=naming("run.trackers", "swanlab", "pip install swanlab")):
        check_trackers(["tensorboard", "swanlab"])
    check_trackers(["tensorboard"])
    check_trackers([])


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swanlab").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "swanlab", raising=False)
    with pytest.raises(ValueError, match=naming("pip install swanlab")):
        check_trackers(["swanlab"])
