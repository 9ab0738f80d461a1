"""The charts of a report as PNG files, for a paper or a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpg_vl.report.run_data import RunData
from gpg_vl.screen import printable

_MAX_LABEL = 60


def write_plots(runs: Sequence[RunData], out: Path) -> list[Path]:
    """A file for each chart, with the curves of all runs; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for title in dict.fromkeys(chart["title"] for run in runs for chart in run.charts):
        figure, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
        for run in runs:
            for curve in _curves(run, title):
                label = f"{run.name}: {curve['name']}" if len(runs) > 1 else curve["name"]
                [line] = axes.plot(curve["steps"], curve["values"], label=brief_label(label), linewidth=1.5)
                axes.fill_between(curve["steps"], curve["low"], curve["high"], color=line.get_color(), alpha=0.15)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        for text in axes.legend(fontsize="small").get_texts():
            text.set_parse_math(False)  # a name may have dollars
        paths.append(out / f"{re.sub(r'[^a-z]+', '-', title.lower())}.png")
        figure.savefig(paths[-1], dpi=150)
        pyplot.close(figure)
    return paths


def _curves(run: RunData, title: str) -> list[dict[str, Any]]:
    return [curve for chart in run.charts if chart["title"] == title for curve in chart["curves"]]


def brief_label(label: str) -> str:
    """A line of at most 60 characters; one that begins with ``_`` would be left out."""
    text = printable(label)
    text = text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 3]}..."
    return f" {text}" if text.startswith("_") else text
