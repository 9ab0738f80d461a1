"""Charts as files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from gpg_vl.report.plots import write_plots
from gpg_vl.report.run_data import read_run
from tests.support.recorded_runs import write_run


def test_a_file_for_each_chart(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, [0.1, 0.4, 0.9])) for name in ("one", "two")]
    paths = write_plots(runs, tmp_path / "png")
    assert len(paths) == len(set(paths)) == len(runs[0].charts)
    assert {path.name for path in paths} >= {"reward.png", "groups-with-signal.png", "seconds-by-phase.png"}
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (900, 510) and len(set(image.convert("RGB").get_flattened_data())) > 50
