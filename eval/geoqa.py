"""GEOQA: 754 questions about geometric figures; accuracy.

python -m eval.geoqa --model PATH --data data/geoqa --out runs/geoqa/eval
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from eval.benchmark import Benchmark, Figures, figure_of, present
from eval.command import run

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    return present({"Accuracy": figure_of(evaluation.counted, "geometry", BENCHMARK.num_published)})


BENCHMARK = Benchmark(
    name="geoqa",
    task="geometry",
    splits={"test": 754},
    max_new_tokens=1024,
    converter="geoqa",
    figures=make_figures,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
