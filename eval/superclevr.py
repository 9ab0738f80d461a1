"""SuperCLEVR: counting objects in 200 pictures; accuracy.

python -m eval.superclevr --model PATH --data data/superclevr --out runs/clevr/eval
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
    return present({"Accuracy": figure_of(evaluation.counted, "counting", BENCHMARK.num_published)})


BENCHMARK = Benchmark(
    name="superclevr",
    task="counting",
    splits={"test": 200},
    max_new_tokens=256,
    converter="clevr",
    figures=make_figures,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
