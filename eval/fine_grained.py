"""Fine-grained classification: Flowers102, Pets37, FGVC-Aircraft and Cars196; accuracy of each and their mean.

python -m eval.fine_grained --model PATH --data data/fine_grained --out runs/flowers/eval [--split flowers]
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from eval.benchmark import Benchmark, Figure, Figures, count_rows, figure_of, in_split, present
from eval.command import run
from gpg_vl.evaluation.scores import mean_of

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation

NAMES = {"flowers": "Flower102", "pets": "Pets37", "aircraft": "FGVC", "cars": "Cars196"}


def make_figures(evaluation: Evaluation, options: Namespace) -> Figures:
    of_set = present(
        {
            name: figure_of(in_split(evaluation, split), "classification", BENCHMARK.splits[split])
            for split, name in NAMES.items()
        }
    )
    if len(of_set) < len(NAMES):
        return of_set  # the mean is of all four
    strict = [figure.strict for figure in of_set.values() if figure.strict is not None]
    legacy = [figure.legacy for figure in of_set.values() if figure.legacy is not None]
    rows = count_rows(evaluation.counted, BENCHMARK.num_published)
    return {"Average": Figure(mean_of(strict), mean_of(legacy), rows), **of_set}


BENCHMARK = Benchmark(
    name="fine_grained",
    task="classification",
    splits={"flowers": 2463, "pets": 3669, "aircraft": 3333, "cars": 8041},
    max_new_tokens=1024,
    converter="virft_cls",
    figures=make_figures,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
