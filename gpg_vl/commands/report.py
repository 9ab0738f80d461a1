"""``gpg-vl report``: one or several runs as a page, as plots, or served while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpg_vl.files import replace_file, same_place
from gpg_vl.report.page import render_page
from gpg_vl.report.plots import write_plots
from gpg_vl.report.run_data import RunData, read_run
from gpg_vl.report.serve import HOST, make_server
from gpg_vl.screen import say

PAGE = "report.html"


def make_page(folders: Sequence[Path], evaluations: Sequence[Path]) -> str:
    """
    Raises:
        ValueError: a folder holds no run, or no evaluation
    """
    runs = _read(folders, evaluations)
    return render_page(runs, "GPG-VL: " + ", ".join(run.name for run in runs))


def _read(folders: Sequence[Path], evaluations: Sequence[Path]) -> list[RunData]:
    if any(same_place(a, b) for n, a in enumerate(folders) for b in folders[:n]):
        raise ValueError("a run is named twice; name each once")
    return [read_run(folder, evaluations if n == 0 else ()) for n, folder in enumerate(folders)]


def write_report(folders: Sequence[Path], evaluations: Sequence[Path], out: Path | None) -> Path:
    """Writes the page; returns its path: ``out``, or ``report.html`` in the first run's folder.

    Raises:
        ValueError: a folder holds no run, or ``out`` is no HTML file
    """
    path = out or folders[0] / PAGE
    if path.suffix != ".html" or path.is_dir():  # nothing else in a run's folder is replaced
        raise ValueError(f"--out: {path} is not the name of an HTML file; write one, as report.html")
    page = make_page(folders, evaluations)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page)
    return path


def write_pngs(folders: Sequence[Path], out: Path) -> list[Path]:
    """Writes the curves as one PNG a chart; returns their paths."""
    return write_plots(_read(folders, ()), out)


def serve_report(folders: Sequence[Path], evaluations: Sequence[Path], port: int) -> None:
    """Shows the page on this machine, made anew while a run goes on, until a signal ends it.

    Raises:
        ValueError: what is wrong with a folder, before anything is served
    """
    make_page(folders, evaluations)
    server = make_server(lambda: make_page(folders, evaluations), port)
    say(f"http://{HOST}:{server.server_port}/  (Ctrl-C ends it)")
    server.serve_forever()
