"""Which models a preference head may be used with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.preflight.preference import INFO_FILE, check_head, describe_reading
from tests.support.messages import naming


def test_a_head_reads_images_in_as_many_tiles_as_it_was_fitted_on(tmp_path: Path) -> None:
    """A head of an earlier version, which did not write the tiles, stands for those of the default."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    usual = ModelConfig(path=str(tmp_path))
    reading = describe_reading(usual)
    for key in ("max_tiles", None):
        (tmp_path / INFO_FILE).write_text(
            json.dumps({"model": {name: reading[name] for name in reading if name != key}})
        )
        check_head(tmp_path, usual)
        with pytest.raises(ValueError, match=naming(tmp_path, "model.max_tiles", 2, "gpg-vl prefer")):
            check_head(tmp_path, replace(usual, max_tiles=2))
