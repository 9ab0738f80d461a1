"""The command ``gpg-vl``: thin wrappers over functions that can be called from Python.

A user's mistake is one line on standard error and exit code 2; ``--debug`` shows the traceback. An interrupted run
exits with 128 plus the signal's number, as shells expect.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import get_args

import yaml

import gpg_vl
from gpg_vl.config import Recipe
from gpg_vl.files import naming
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.processes.exit_codes import run_command
from gpg_vl.processes.text_encoding import use_utf8
from gpg_vl.records import AnswerIn, Rule
from gpg_vl.screen import say, tell


def _train(words: list[str]) -> None:
    from gpg_vl.recipes import describe_keys, load_recipe

    if not words or words[0] in ("-h", "--help"):
        tell("usage: gpg-vl train RECIPE [RECIPE ...] [--section.key VALUE ...] [--print_config] [--debug]\n")
        tell("Keys of a later recipe override those of the earlier ones. --print_config only prints the result.\n")
        tell(describe_keys())
        return
    if words[0].startswith("--"):
        raise ValueError("the recipe comes first: gpg-vl train RECIPE [--section.key VALUE ...]")
    asks_config, words = _take(PRINT_CONFIG, words)
    paths = list(takewhile(lambda word: not word.startswith("--"), words))
    recipe = load_recipe(paths, words[len(paths) :])
    if asks_config:
        _print_config(recipe)
        return
    from gpg_vl.preflight.start import check_run

    checked = check_run(recipe)  # before torch is imported
    from gpg_vl.train import train

    folder = train(recipe, checked)
    from accelerate import PartialState

    if PartialState().is_main_process:
        tell(f"done: {folder}")


def _plan(words: list[str]) -> None:
    from gpg_vl.planning.options import OVERRIDES, read_options

    recipe, options = read_options(_make_parser("plan", epilog=OVERRIDES), words)
    from gpg_vl.planning.command import plan_lines

    tell("\n".join(plan_lines(recipe, options)))


PRINT_CONFIG = "--print_config"


def _take(option: str, words: list[str]) -> tuple[bool, list[str]]:
    """Whether the option is among the words, and the words without it."""
    return option in words, [word for word in words if word != option]


def _print_config(recipe: Recipe) -> None:
    tell(yaml.safe_dump(recipe.to_plain(), sort_keys=False, allow_unicode=True).rstrip("\n"))


def _eval(words: list[str]) -> None:
    parser = _make_parser(
        "eval",
        epilog="Every other --section.key VALUE overrides the recipe, e.g. --evaluation.num_samples 4; --print_config "
        "only prints the result.",
    )
    parser.add_argument("model", help="model folder, run folder, or name on the hub")
    parser.add_argument("--data", nargs="+", required=True, help="files of rows, or '{path: ..., columns: ...}'")
    parser.add_argument(
        "--recipe", help="recipe for prompt, rewards and limits; default: the one saved with the model, if any"
    )
    parser.add_argument("--out", help="output folder; an interrupted evaluation resumes from it; default: print only")
    parser.add_argument(
        "--by", default="category", metavar="COLUMN", help="also report scores by this column (category)"
    )
    asks_config, words = _take(PRINT_CONFIG, words)
    options, overrides = parser.parse_known_args(words)
    from gpg_vl.recipes import as_word, parse_yaml
    from gpg_vl.run.saved_recipe import recipe_of_model

    if any(word.split("=")[0] == "--data.eval" for word in overrides):
        raise ValueError("name the rows with --data, not with --data.eval")
    entries = [parse_yaml(word) if word.startswith("{") else word for word in options.data]
    recipe = recipe_of_model(options.model, options.recipe, [*overrides, "--data.eval", as_word(entries)])
    if asks_config:
        _print_config(recipe)
        return
    from gpg_vl.preflight.start import check_evaluation

    checked = check_evaluation(recipe)  # before torch is imported
    from accelerate import PartialState

    from gpg_vl.evaluation.evaluate_model import evaluate_model
    from gpg_vl.evaluation.scores import describe_score

    scores = evaluate_model(recipe, Path(options.out) if options.out else None, options.by, checked)
    if PartialState().is_main_process:
        for task, score in scores.items():
            tell("\n".join(describe_score(task, score)))


def _score(words: list[str]) -> None:
    parser = _make_parser("score")
    parser.add_argument("--task", required=True, help="name or FILE.py:CLASS")
    parser.add_argument(
        "--predictions", required=True, help="JSON lines with completion and answer, or a published result file"
    )
    parser.add_argument(
        "--scorer", choices=get_args(Rule), default="strict", help="strict: the kit's own; legacy: the published one"
    )
    parser.add_argument(
        "--answer-in",
        choices=get_args(AnswerIn),
        default="tags",
        help="where the answer is: in <answer></answer>, or in the last \\boxed{} after the reasoning",
    )
    parser.add_argument("--out", help="output file for the rows with their rewards")
    options = parser.parse_args(words)
    from gpg_vl.evaluation.score_file import score_file

    out = Path(options.out) if options.out else None
    summary = score_file(options.task, Path(options.predictions), options.scorer, out, options.answer_in)
    tell(json.dumps(summary, ensure_ascii=False))


def _ask(words: list[str]) -> None:
    parser = _make_parser("ask")
    parser.add_argument("model", help="model folder, run folder, or name on the hub")
    parser.add_argument("--image", action="append", default=[], help="image file; repeat the option for several")
    parser.add_argument("--video", action="append", default=[], help="video file; repeat the option for several")
    parser.add_argument("--question", required=True)
    parser.add_argument("--task", help="name or FILE.py:CLASS; decides how to ask and score")
    parser.add_argument("--answer", help="gold answer; shows the reward of each sample")
    parser.add_argument("--n", type=int, default=1, help="number of samples (default 1)")
    parser.add_argument(
        "--temperature", type=float, help="sampling temperature; default: 0 for one sample, the recipe's for several"
    )
    parser.add_argument("--recipe", help="recipe; default: the one saved with the model, if any")
    options, overrides = parser.parse_known_args(words)
    from gpg_vl.rollout import check_temperature
    from gpg_vl.run.saved_recipe import recipe_of_model

    if options.n < 1:
        raise ValueError("--n must be at least 1")
    overrides += [] if options.task is None else ["--task", options.task]
    recipe = recipe_of_model(options.model, options.recipe, overrides)
    temperature = options.temperature
    if temperature is None:
        temperature = recipe.rollout.temperature if options.n > 1 else 0.0
    check_temperature(recipe.rollout.engine, "--temperature", temperature)
    task = options.task or recipe.task
    from gpg_vl.data.videos import FrameSampling
    from gpg_vl.preflight.question import read_question

    sampling = FrameSampling(recipe.data.fps, recipe.data.max_frames)
    sample = read_question(options.image, options.video, sampling, options.question, task, options.answer)
    from gpg_vl.commands.ask import ask, describe_answer  # torch is imported once the question is right

    prompt, answers = ask(recipe, sample, task, options.n, temperature)
    tell(f"prompt ({len(prompt.encoded.token_ids)} tokens): {prompt.text}\n")
    for number, answered in enumerate(answers, start=1):
        tell(f"{number}. {answered.completion.text}\n   {describe_answer(answered)}")


def _new_task(words: list[str]) -> None:
    parser = _make_parser("new-task")
    parser.add_argument("name", help="name in lower case, e.g. fine_print")
    name = parser.parse_args(words).name
    from gpg_vl.commands.new_task import describe_new_task, write_new_task

    tell(describe_new_task(*write_new_task(name, Path())))


def _merge(words: list[str]) -> None:
    parser = _make_parser("merge")
    parser.add_argument("checkpoint", help="folder of the LoRA adapter, or of its run")
    parser.add_argument("out", help="new folder")
    options = parser.parse_args(words)
    from gpg_vl.run.saved_recipe import recipe_of_model

    recipe = recipe_of_model(options.checkpoint)
    from gpg_vl.commands.merge import merge

    merge(recipe, Path(options.out))
    tell(f"wrote {options.out}")


def _prefer(words: list[str]) -> None:
    from gpg_vl.commands.prefer_options import EPILOG, read_options

    recipe, options, out = read_options(_make_parser("prefer", EPILOG), words)
    from gpg_vl.commands.prefer import prefer

    info = prefer(recipe, options, out)
    measured = "" if info["accuracy"] is None else f", accuracy {info['accuracy']:.3f} on {info['held_out']} others"
    tell(f"{info['labels']} labels{measured}: {out}")


def _report(words: list[str]) -> None:
    parser = _make_parser("report")
    parser.add_argument("run", nargs="+", help="output folder of a run; several are compared")
    parser.add_argument("--out", help="the page to write (default: report.html in the first run's folder)")
    parser.add_argument(
        "--eval", nargs="+", default=[], metavar="FOLDER", help="evaluations to show, besides those in the run's folder"
    )
    parser.add_argument("--png", metavar="FOLDER", help="also write each chart as a PNG file")
    parser.add_argument("--serve", action="store_true", help="show the page on this machine while a run goes on")
    parser.add_argument("--port", type=int, default=8321, help="port of the page that --serve shows (default 8321)")
    options = parser.parse_args(words)
    from gpg_vl.commands.report import serve_report, write_pngs, write_report

    runs, evaluations = [Path(run) for run in options.run], [Path(folder) for folder in options.eval]
    if options.png:
        for path in write_pngs(runs, Path(options.png)):
            tell(f"wrote {path}")
    if options.serve:
        serve_report(runs, evaluations, options.port)
    else:
        tell(f"wrote {write_report(runs, evaluations, Path(options.out) if options.out else None)}")


def _train_recipe(recipe: Recipe) -> Path:
    from gpg_vl.train import train

    return train(recipe)


def _serve_rollouts(words: list[str]) -> None:
    from gpg_vl.commands.serve_rollouts import EPILOG, read_options, serve_rollouts

    raise SystemExit(serve_rollouts(*read_options(_make_parser("serve-rollouts", EPILOG), words)))


def _doctor(words: list[str]) -> None:
    parser = _make_parser("doctor")
    parser.add_argument("--checkpoint", help="model folder or run folder")
    folder = parser.parse_args(words).checkpoint
    if folder is not None:
        from gpg_vl.commands.doctor import check_checkpoint
        from gpg_vl.run.saved_recipe import recipe_of_model

        for line in check_checkpoint(recipe_of_model(folder)):
            tell(line)
        return
    from gpg_vl.commands.machine import check_machine

    has_failed = False
    for finding in check_machine(_train_recipe):
        tell(str(finding))
        has_failed |= finding.state == "fails"
    raise SystemExit(int(has_failed))


def _recipes(words: list[str]) -> None:
    parser = _make_parser("recipes")
    parser.add_argument("name", nargs="?", help="the one to write out; without it, all are listed")
    parser.add_argument("--out", default=".", help="folder to write to (default: the current one)")
    options = parser.parse_args(words)
    from gpg_vl.commands.recipes import describe_recipes, write_recipe_files

    if options.name is None:
        tell(describe_recipes())
    else:
        tell("\n".join(f"wrote {path}" for path in write_recipe_files(options.name, Path(options.out))))


def _tiny_model(words: list[str]) -> None:
    from gpg_vl.models.tiny import DEFAULT_FAMILY, TINY_FAMILIES, refuse_other_files, write_tiny_model

    parser = _make_parser("tiny-model")
    parser.add_argument("folder")
    parser.add_argument("--family", choices=list(TINY_FAMILIES), default=DEFAULT_FAMILY)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    refuse_other_files(Path(options.folder))
    with naming(Path(options.folder)):
        write_tiny_model(options.folder, family=options.family, seed=options.seed)
    tell(f"wrote {options.folder}")


@dataclass(frozen=True, slots=True)
class Command:
    summary: str  # at most 65 characters
    run: Callable[[list[str]], None]


COMMANDS = {
    "train": Command("Trains a model with a recipe, or resumes its run.", _train),
    "plan": Command("Says what a recipe will take: memory, time, disk.", _plan),
    "eval": Command("Scores a model, a checkpoint or a run's newest one on rows.", _eval),
    "score": Command("Scores completions you already have; prints one JSON object.", _score),
    "ask": Command("Asks a model one question about images and videos.", _ask),
    "prefer": Command("Learns a reward part from pairs of answers; experimental.", _prefer),
    "report": Command("Shows runs as a page: curves, pictures, answers, rewards.", _report),
    "merge": Command("Writes a LoRA checkpoint and its model as one model folder.", _merge),
    "serve-rollouts": Command("Runs vLLM as a server that training asks for completions.", _serve_rollouts),
    "doctor": Command("Shows what this machine has, or checks a checkpoint.", _doctor),
    "recipes": Command("Lists the recipes that come with the kit, or writes one out.", _recipes),
    "new-task": Command("Writes an example task and its test to the current folder.", _new_task),
    "tiny-model": Command("Writes a tiny random model of a family as a model folder.", _tiny_model),
}


def main(argv: Sequence[str] | None = None) -> int:
    if argv is None:
        use_utf8()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        tell(_describe_commands())
        return 0 if words else 2
    if words[0] == "--version":
        tell(gpg_vl.__version__)
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        say(f"gpg-vl: no command {words[0]!r}; the commands are {', '.join(COMMANDS)}")
        return 2
    return run_command(f"gpg-vl {words[0]}", lambda: command.run(words[1:]), debug)


def _describe_commands() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["usage: gpg-vl COMMAND ...", "", str(gpg_vl.__doc__), "", "commands, each explained by --help:"]
    return "\n".join([*head, *lines, "", "--debug after any command shows tracebacks and all that libraries say."])


def _make_parser(name: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return OneLineParser(prog=f"gpg-vl {name}", description=COMMANDS[name].summary, epilog=epilog)
