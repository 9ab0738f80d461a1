"""What every benchmark shares: its command line, its rows, and ``results.json``.

A benchmark evaluates rows of the kit, as its converter in ``data_tools`` writes them. The model's own recipe decides
prompt and pixels, so that evaluation asks as training asked; the benchmark decides rows and length.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

from eval.stored import evaluate_stored
from gpg_vl.checkpoint import recipe_of_model
from gpg_vl.evaluate_model import Evaluation, run_evaluation
from gpg_vl.predictions import Prediction
from gpg_vl.scores import Estimate, estimate_legacy, estimate_strict, summarise_scores
from gpg_vl.tasks import load_task

Figures = dict[str, "Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a benchmark under both scorers; None where it was not measured."""

    strict: Estimate | None
    legacy: Estimate | None


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    task: str
    splits: Mapping[str, int]  # name to the number of rows that was published
    max_new_tokens: int  # of the published evaluation
    converter: str  # that writes the rows
    figures: Callable[[Evaluation, argparse.Namespace], Figures]  # by the names of paper_results.yaml
    category: str = "category"  # the column, or key of meta, that scores are reported by
    add_options: Callable[[argparse.ArgumentParser], None] = field(default=lambda parser: None)


def figure_of(predictions: Sequence[Prediction], task: str) -> Figure | None:
    """The mean of the task's metric; None where there are no predictions."""
    if not predictions:
        return None
    return Figure(estimate_strict(predictions, load_task(task)), estimate_legacy(predictions))


def in_split(evaluation: Evaluation, split: str) -> list[Prediction]:
    return [prediction for prediction in evaluation.predictions if prediction.split == split]


def present(figures: Mapping[str, Figure | None]) -> Figures:
    """The figures that there are."""
    return {name: figure for name, figure in figures.items() if figure is not None}


def run(benchmark: Benchmark, argv: Sequence[str] | None = None) -> int:
    """The command of a benchmark; returns the exit code, 2 after a mistake that one line on stderr explains."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = _parser(benchmark).parse_known_args(words)
        evaluation = _evaluate(benchmark, options, overrides)
        figures = benchmark.figures(evaluation, options)
        _write(benchmark, evaluation, figures)
    except ValueError as error:
        print(f"eval.{benchmark.name}: {error}", file=sys.stderr)
        return 2
    except SystemExit as error:  # argparse: help, or an option that is missing
        return int(error.code or 0)
    if PartialState().is_main_process:
        print("\n".join(_describe(figures)))
    return 0


def _parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m eval.{benchmark.name}",
        description=f"Scores a model on {benchmark.name}: rows of data_tools.{benchmark.converter}.",
        epilog="Every other --section.key VALUE overrides the recipe, as --model.max_pixels 200704.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="model folder, run folder, or name on the hub")
    parser.add_argument("--data", type=Path, help=f"folder with SPLIT.parquet or SPLIT.jsonl: {_names(benchmark)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions and results; gone on with")
    parser.add_argument("--split", nargs="+", help="default: those that --data holds")
    parser.add_argument("--recipe", help="prompt, pixels, rewards; default: the one saved with the model, if any")
    parser.add_argument("--completions", type=Path, help="score these instead, as gpg-vl score reads them")
    benchmark.add_options(parser)
    return parser


def _names(benchmark: Benchmark) -> str:
    return ", ".join(benchmark.splits)


def _evaluate(benchmark: Benchmark, options: argparse.Namespace, overrides: Sequence[str]) -> Evaluation:
    splits = _check_splits(benchmark, options.split)
    if options.completions is not None:
        if options.model or options.data or overrides:
            raise ValueError("--completions takes the place of --model, --data and the recipe; leave them out")
        if len(splits) != 1:
            raise ValueError(f"--completions are those of one split; name it by --split: {_names(benchmark)}")
        named = (benchmark.name, benchmark.task, splits[0])
        return evaluate_stored(options.completions, *named, options.out, benchmark.category)
    if not options.model or not options.data:
        raise ValueError("--model and --data are needed, or --completions")
    files = find_rows(benchmark, options.data, splits if options.split else None)
    words = ["--task", benchmark.task, "--data.eval", json.dumps([str(path) for path in files.values()])]
    words += ["--evaluation.max_new_tokens", str(benchmark.max_new_tokens), *overrides]
    recipe = recipe_of_model(options.model, options.recipe, words)
    return run_evaluation(recipe, options.out, benchmark.name, list(files), benchmark.category)


def _check_splits(benchmark: Benchmark, given: Sequence[str] | None) -> list[str]:
    for split in given or ():
        if split not in benchmark.splits:
            raise ValueError(f"--split: {benchmark.name} has no split {split!r}; its splits are {_names(benchmark)}")
    return list(dict.fromkeys(given or benchmark.splits))


def find_rows(benchmark: Benchmark, data: Path, wanted: Sequence[str] | None) -> dict[str, Path]:
    """The file of each split; all that are there where none are named.

    Raises:
        ValueError: there is none, or a named one is missing; says how to make it
    """
    if data.is_file():
        splits = list(wanted or benchmark.splits)
        if len(splits) != 1:
            raise ValueError(f"--data: {data} is one file; name its split by --split: {_names(benchmark)}")
        return {splits[0]: data}
    found = {
        split: path
        for split in wanted or benchmark.splits
        for name in (f"{split}/test", split)
        for path in (data / f"{name}.jsonl", data / f"{name}.parquet")
        if path.is_file()
    }
    missing = [split for split in wanted or () if split not in found]
    if missing or not found:
        names = " or ".join(f"{split}.parquet" for split in missing or benchmark.splits)
        raise ValueError(
            f"--data: {data} has no {names} (nor .jsonl); make it by python -m data_tools.{benchmark.converter}"
        )
    return found


def _write(benchmark: Benchmark, evaluation: Evaluation, figures: Figures) -> None:
    rows = {}
    for split in dict.fromkeys(row.split for row in evaluation.rows):
        num, published = len(in_split(evaluation, split)), benchmark.splits[split]
        rows[split] = {"num": num, "published": published}
        if num != published and PartialState().is_main_process:
            print(f"note: {split} has {num} rows, the published one {published}: another benchmark", file=sys.stderr)
    scores = summarise_scores(evaluation.predictions, evaluation.tasks)
    evaluation.write(
        {
            "benchmark": benchmark.name,
            "figures": {name: asdict(figure) for name, figure in figures.items()},
            "num_rows": rows,
            "tasks": {task: score.to_dict() for task, score in scores.items()},
        }
    )


def _describe(figures: Figures) -> list[str]:
    width = max(map(len, figures), default=0)
    return [
        f"{name:{width}}  strict {_percent(figure.strict)}   legacy {_percent(figure.legacy)}"
        for name, figure in figures.items()
    ]


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}] n {estimate.n}"
