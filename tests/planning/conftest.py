"""The 40 M model of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.models import SMALL, build_model, write_processor


@pytest.fixture(scope="session")
def forty_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("40M")
    processor = write_processor(folder, SMALL)
    build_model(SMALL, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
