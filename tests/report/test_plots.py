"""Charts as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gpg_vl.report.plots import brief_label, write_plots
from gpg_vl.report.run_data import RunData, read_run
from tests.support.recorded_runs import write_run


def test_a_file_for_each_chart(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, [0.1, 0.4, 0.9])) for name in ("one", "two")]
    paths = write_plots(runs, tmp_path / "png")
    assert len(paths) == len(set(paths)) == len(runs[0].charts)
    assert {path.name for path in paths} >= {"reward.png", "groups-with-signal.png", "seconds-by-phase.png"}
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (900, 510) and len(set(image.convert("RGB").get_flattened_data())) > 50


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    curve = {"name": "$\\frac{$", "steps": [1, 2], "values": [0, 1], "low": [0, 1], "high": [0, 1]}
    run = RunData("run", "gpg", 2, [{"title": "Reward", "curves": [curve]}], [], [], [], [], "")
    [path] = write_plots([run], tmp_path)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["_hidden", "a\x1b[31m\nb", "n" * 9000])
def test_names_can_be_anything(name: str) -> None:
    """A legend leaves out what begins with ``_``."""
    brief = brief_label(name)
    assert brief.isprintable() and 1 < len(brief) <= 60 and not brief.startswith("_")
