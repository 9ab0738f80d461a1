"""The command line of every benchmark: its rows, their evaluation, and ``results.json``.

A benchmark evaluates kit rows, written by its converter in ``data_tools``. The model's own recipe decides prompt and
pixels, so that evaluation asks as training did; the benchmark decides rows and length. A score covers all rows: those
without an image and those that the conversion dropped are listed and count as wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.benchmark import Benchmark, Figures, in_split
from eval.dropped import Dropped, read_dropped, say_dropped, wrong_predictions
from eval.rows import check_splits, check_task, find_rows, name_splits
from gpg_vl.evaluation.predictions import Prediction
from gpg_vl.evaluation.scores import Estimate, TaskScore, summarise_scores
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.processes.exit_codes import run_command
from gpg_vl.processes.text_encoding import use_utf8
from gpg_vl.recipes import as_word
from gpg_vl.run.saved_recipe import recipe_of_model
from gpg_vl.screen import say, tell

if TYPE_CHECKING:
    from gpg_vl.evaluation.evaluate_model import Evaluation


def run(benchmark: Benchmark, argv: Sequence[str] | None = None) -> int:
    """The command of a benchmark; returns the exit code. A mistake prints one line to stderr and returns 2."""
    if argv is None:
        use_utf8()
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(f"eval.{benchmark.name}", lambda: _run(benchmark, words))


def _run(benchmark: Benchmark, words: Sequence[str]) -> None:
    options, overrides = _parser(benchmark).parse_known_args(words)
    evaluation, files = _evaluate(benchmark, options, overrides)
    from accelerate import PartialState

    if PartialState().is_main_process:  # every rank has all predictions
        dropped = {split: read_dropped(path, _count_rows(evaluation, split)) for split, path in files.items()}
        _report(benchmark, evaluation, dropped, options)


def _parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"python -m eval.{benchmark.name}",
        description=f"Scores a model on {benchmark.name}: rows of data_tools.{benchmark.converter}.",
        epilog="Every other --section.key VALUE overrides the recipe, e.g. --model.max_pixels 200704.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="model folder, run folder, or name on the hub")
    parser.add_argument("--data", type=Path, help=f"folder with SPLIT.parquet or SPLIT.jsonl: {name_splits(benchmark)}")
    parser.add_argument(
        "--out", type=Path, required=True, help="output folder; an interrupted evaluation resumes from it"
    )
    parser.add_argument("--split", nargs="+", help="splits to evaluate; default: those found in --data")
    parser.add_argument(
        "--recipe", help="recipe for prompt, pixels and rewards; default: the one saved with the model, if any"
    )
    parser.add_argument(
        "--completions", type=Path, help="score this file of completions instead; same format as for gpg-vl score"
    )
    parser.add_argument("--note", default="", help="note that the table shows with these figures, e.g. 'a trial'")
    benchmark.add_options(parser)
    return parser


def _evaluate(
    benchmark: Benchmark, options: argparse.Namespace, overrides: Sequence[str]
) -> tuple[Evaluation, dict[str, Path]]:
    """The evaluation, and the file of each split's rows; {} if completions are scored."""
    splits = check_splits(benchmark, options.split)
    if options.completions is not None:
        if options.model or options.data or overrides:
            raise ValueError("--completions replaces --model, --data and the recipe; remove them")
        if len(splits) != 1:
            raise ValueError(f"--completions are those of one split; name it by --split: {name_splits(benchmark)}")
        from eval.stored import evaluate_stored

        named = (benchmark.name, benchmark.task, splits[0])
        return evaluate_stored(options.completions, *named, options.out, benchmark.category), {}
    if not options.model or not options.data:
        raise ValueError("give --model and --data, or --completions")
    files = find_rows(benchmark, options.data, splits if options.split else None)
    for path in files.values():
        check_task(benchmark, path)
    words = ["--task", benchmark.task, "--data.eval", as_word([str(path) for path in files.values()])]
    words += ["--evaluation.max_new_tokens", str(benchmark.max_new_tokens), *overrides]
    recipe = recipe_of_model(options.model, options.recipe, words)
    from gpg_vl.preflight.start import check_evaluation

    checked = check_evaluation(recipe)  # before torch is imported
    from gpg_vl.evaluation.evaluate_model import run_evaluation

    return run_evaluation(recipe, options.out, benchmark.name, list(files), benchmark.category, checked), files


def _count_rows(evaluation: Evaluation, split: str) -> int:
    return sum(row.split == split for row in evaluation.rows)


def _wrong_predictions(
    benchmark: Benchmark, evaluation: Evaluation, dropped: Mapping[str, Dropped]
) -> list[Prediction]:
    """Predictions of the rows that the conversion dropped, split by split."""
    wrong = []
    for split, of_split in dropped.items():
        there = in_split(evaluation, split)
        present = Counter(each.category for each in there)
        wrong += wrong_predictions(of_split.num, there[0], present, benchmark.category_sizes)
    return wrong


def _report(
    benchmark: Benchmark, evaluation: Evaluation, dropped: Mapping[str, Dropped], options: argparse.Namespace
) -> None:
    """Writes ``results.json`` and prints the figures; prints to standard error how they differ from published ones."""
    for split, of_split in dropped.items():
        say_dropped(split, of_split)
    evaluation = replace(evaluation, dropped=_wrong_predictions(benchmark, evaluation, dropped))
    figures = benchmark.figures(evaluation, options)
    counts = {
        split: {"num": _count_rows(evaluation, split), "dropped": dropped.get(split, Dropped()).num, "published": size}
        for split, size in benchmark.splits.items()
        if _count_rows(evaluation, split)
    }
    scores = summarise_scores(evaluation.counted, evaluation.tasks)
    say("".join(f"note: {line}\n" for line in _notes(counts, scores)), end="")
    evaluation.write(
        {
            "benchmark": benchmark.name,
            "note": options.note,
            "figures": {name: asdict(figure) for name, figure in figures.items()},
            "num_rows": counts,
            "tasks": {task: score.to_dict() for task, score in scores.items()},
            "rows_dropped": [line for of_split in dropped.values() for line in of_split.listed],
        }
    )
    tell("\n".join(_describe(figures)))


def _notes(counts: Mapping[str, Mapping[str, int]], scores: Mapping[str, TaskScore]) -> list[str]:
    notes = [
        f"{split} has {each['num']} rows{_and_dropped(each['dropped'])}, the published one {each['published']}: "
        "not the same benchmark"
        for split, each in counts.items()
        if each["num"] + each["dropped"] != each["published"]
    ]
    num_failures = sum(score.num_legacy_failures for score in scores.values())
    if num_failures:
        notes.append(f"the published metric failed on {num_failures} completions, which count 0 in the legacy figures")
    return notes


def _and_dropped(num: int) -> str:
    return f" and {num} dropped ones" if num else ""


def _describe(figures: Figures) -> list[str]:
    width = max(map(len, figures), default=0)
    return [
        f"{name:{width}}  strict {_percent(figure.strict)}   legacy {_percent(figure.legacy)}"
        for name, figure in figures.items()
    ]


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f" [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]"
    return f"{100 * estimate.value:.2f}{interval} n {estimate.n}"
