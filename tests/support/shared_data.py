"""Files of the published experiments: beside the repository or where GPG_VL_SHARED_DATA says; else the test skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("GPG_VL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def shared_file(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"no {path}; set GPG_VL_SHARED_DATA to the folder with the data of the published experiments")
    return path
