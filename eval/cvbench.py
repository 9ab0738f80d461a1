"""CV-Bench: 2,638 choices about counts, relations, depths and distances; accuracy of each kind and overall (micro).

python -m eval.cvbench --model PATH --data data/cvbench --out runs/sat/eval
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from eval.benchmark import Benchmark, Figures, figure_of, present
from eval.command import run

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation

CATEGORIES = {"Count": 788, "Relation": 650, "Depth": 600, "Distance": 600}  # published rows


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    predictions = evaluation.counted
    total = figure_of(predictions, "choice", BENCHMARK.num_published)
    of_category = {
        name: figure_of([each for each in predictions if each.category == name], "choice", num)
        for name, num in CATEGORIES.items()
    }
    return present({"Total": total, **of_category})


BENCHMARK = Benchmark(
    name="cvbench",
    task="choice",
    splits={"test": 2638},
    max_new_tokens=1024,
    converter="cvbench",
    category="benchmark_task",
    category_sizes=CATEGORIES,
    figures=make_figures,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
