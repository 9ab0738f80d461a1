"""The kit from Python, as in a notebook (docs/python.md): rows, scores, a run, an evaluation, and what they left.

These functions do what the commands do, from the same recipes, and leave the same files. They work in any thread, one
run at a time. A mistake of the caller raises ``ValueError`` with one line that names the key, row or file and the fix.
What ``__all__`` names is public; everything else in ``gpg_vl`` may change with any version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpg_vl.config import Recipe
from gpg_vl.recipes import as_word, load_recipe
from gpg_vl.records import AnswerIn, Reward, Rule, Sample

if TYPE_CHECKING:
    import datasets

    from gpg_vl.data.sources import Source
    from gpg_vl.evaluation.scores import TaskScore
    from gpg_vl.report.groups import RunGroup

__all__ = ["build_rows", "score", "train", "evaluate", "read_run", "report", "Report", "Reward", "Run"]


def build_rows(
    rows: Sequence[Mapping[str, Any]] | datasets.Dataset,
    out: str | Path,
    task: str | None = None,
    columns: Mapping[str, str | Sequence[str] | None] | None = None,
    image_root: str | Path | None = None,
) -> Path:
    """Checks rows and writes them as a file of kit rows, which a run can find again when it resumes.

    Args:
        rows: dicts, or a ``datasets.Dataset``, with the columns of docs/data.md or of a format named there; pictures
            are PIL images, bytes of image files, or paths; videos are bytes, paths, or lists of pictures
        out: the file, which appears once all rows are in it: ``.parquet``, with the pictures in it, or ``.jsonl``, with
            pictures and videos in a folder beside it; rows with videos need the latter
        task: the task of every row: a name, or FILE.py:CLASS
        columns: kit field -> column, where the rows' columns have other names
        image_root: folder that paths of images and videos are relative to and must stay inside; None: the working
            directory

    Returns:
        ``out``, for ``data.train`` and ``data.eval`` of a recipe

    Raises:
        ValueError: a row cannot be used; names its number
    """
    from gpg_vl.data.memory_rows import read_memory_rows
    from gpg_vl.data.writing import write_jsonl, write_parquet

    path = Path(out)
    write = {".parquet": write_parquet, ".jsonl": write_jsonl}.get(path.suffix)
    if write is None:
        raise ValueError(f"out is {path}; name a .parquet file, or a .jsonl file")
    write(_checked(read_memory_rows(rows, task, columns, None if image_root is None else Path(image_root))), path)
    return path


def _checked(source: Source) -> Iterator[Sample]:
    from gpg_vl.data.images import BadImage, read_size
    from gpg_vl.data.videos import FrameSampling, measure_video
    from gpg_vl.preflight.sources import check_sample

    tasks: dict[str, Any] = {}
    for number, sample in enumerate(source.samples, start=1):
        where = f"{source.name}, row {number}"
        check_sample(sample, tasks, needs_images=True, where=where)
        try:
            for image in sample.images:
                read_size(image)
            for video in sample.videos:
                measure_video(video, FrameSampling(max_frames=1))
        except BadImage as error:
            raise ValueError(f"{where}: {error}") from error
        yield sample


def score(
    rows: Iterable[Mapping[str, Any]], task: str, scorer: Rule = "strict", answer_in: AnswerIn = "tags"
) -> list[Reward]:
    """The reward of completions that you already have, in processes with the limits that training has.

    Args:
        rows: dicts with ``completion`` and ``answer``, and what else ``gpg-vl score`` reads (docs/rewards.md)
        task: a name, or FILE.py:CLASS
        scorer: strict, or legacy: the published one
        answer_in: where a completion has its answer

    Returns:
        for each row the total, the parts by name, and the status

    Raises:
        ValueError: no such task, or a row that cannot be scored; names its number
    """
    from gpg_vl.evaluation.score_file import score_rows

    return score_rows(task, rows, scorer, answer_in)


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    keys: Mapping[str, Any] | None = None,
    *,
    on_step: Callable[[int, dict[str, Any]], object] | None = None,
    on_validation: Callable[[int, dict[str, TaskScore]], object] | None = None,
    on_save: Callable[[int, Path], object] | None = None,
) -> Path:
    """Trains to the end of the recipe; the same call resumes a run that ended early.

    A callback is called between two steps, on the first rank alone. What it raises ends the run, which saves its last
    step first and leaves this function with the same error: so a callback can also stop a run.

    Args:
        recipe: a file, or its sections as a dict: ``{"model": {"path": ...}, "data": {...}, "run": {...}}``
        keys: keys that differ, as ``{"run.steps": 6}``
        on_step: gets the step and its numbers, those of its line in ``metrics.jsonl``
        on_validation: gets the step and the score of each task on ``data.eval``
        on_save: gets the step and the folder of its checkpoint

    Returns:
        the folder of the last checkpoint, a complete model folder

    Raises:
        ValueError: recipe, rows or model cannot be used
        OSError: the disk is full or gone; the last checkpoint is intact
        Interrupted: in the main thread, a signal that asks the run to stop (Ctrl-C); it is no ``Exception``
    """
    from gpg_vl.preflight.start import check_run

    read = _read_recipe(recipe, keys)
    checked = check_run(read)  # before torch is imported
    from gpg_vl.callbacks import Callbacks
    from gpg_vl.train import train as train_recipe

    return train_recipe(read, checked, Callbacks(on_step, on_validation, on_save))


def evaluate(
    model: str | Path,
    data: str | Path | Sequence[str | Path | Mapping[str, Any]],
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    keys: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    by: str = "category",
) -> dict[str, TaskScore]:
    """Scores a model on rows, with the prompts, the limits and the rewards of training.

    Args:
        model: a model folder, a run's folder (its newest checkpoint), or a name on the hub
        data: files of rows, as ``data.eval`` of a recipe has them
        recipe: for prompts, rewards and limits; None: the one saved with the model, without what names code in it
        keys: keys that differ, as ``{"evaluation.num_samples": 4, "evaluation.temperature": 1.0}``
        out: folder for predictions and results, from which the same call resumes; None: nothing is kept
        by: column by which scores are also given

    Returns:
        by task: the metric with its 95 % interval over rows, the mean reward, and more

    Raises:
        ValueError: model, rows, recipe or folder cannot be used
    """
    from gpg_vl.models.folder.paths import resolve_model_path
    from gpg_vl.preflight.start import check_evaluation
    from gpg_vl.run.saved_recipe import recipe_of_model

    entries = [data] if isinstance(data, str | Path) else list(data)
    more = {**(keys or {}), "data.eval": entries}
    if recipe is None:
        read = recipe_of_model(str(model), None, _as_words(more))
    else:
        read = _read_recipe(recipe, {**more, "model.path": resolve_model_path(str(model))})
    checked = check_evaluation(read)  # before torch is imported
    from gpg_vl.evaluation.evaluate_model import evaluate_model

    return evaluate_model(read, None if out is None else Path(out), by, checked)


def _read_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, keys: Mapping[str, Any] | None) -> Recipe:
    words = _as_words(keys or {})
    if isinstance(recipe, str | Path):
        return load_recipe(str(recipe), words)
    sections = recipe.to_plain() if isinstance(recipe, Recipe) else recipe
    return load_recipe(None, [*_as_words(_with_dots(sections)), *words])


def _with_dots(sections: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for section, value in sections.items():
        keys |= (
            {f"{section}.{key}": each for key, each in value.items()}
            if isinstance(value, Mapping)
            else {section: value}
        )
    return keys


def _as_words(keys: Mapping[str, Any]) -> list[str]:
    """As the command line has them: ``--run.steps=6``."""
    return [f"--{key}={_as_text(_plain(value))}" for key, value in keys.items()]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else as_word(value).removesuffix("\n...")


def _plain(value: Any) -> Any:
    """With texts for paths, which YAML does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True)
class Run:
    """What a run left in its folder."""

    folder: Path
    recipe: dict[str, Any]  # every key with its value, by section
    metrics: list[dict[str, Any]]  # the lines of metrics.jsonl
    groups: list[RunGroup]  # those that ``run.record`` kept, by step; a notebook shows each with its pictures
    checkpoints: list[Path]  # oldest first


def read_run(folder: str | Path) -> Run:
    """Reads a run, also one that goes on.

    Raises:
        ValueError: the folder holds no run, or a file in it is damaged; names it
    """
    from gpg_vl.models.folder.paths import find_checkpoints
    from gpg_vl.report.groups import read_groups
    from gpg_vl.report.run_data import read_run_metrics
    from gpg_vl.run.saved_recipe import RECIPE_FILE, read_recipe

    path = Path(folder)
    metrics = read_run_metrics(path)
    return Run(path, read_recipe(path / RECIPE_FILE), metrics, read_groups(path), find_checkpoints(path))


@dataclass(frozen=True, slots=True)
class Report:
    """A report on disk, which a notebook shows inline."""

    path: Path

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        frame = "width: 100%; height: 45em; border: 1px solid"
        return f'<iframe title="report" sandbox="allow-scripts" style="{frame}" srcdoc="{page}"></iframe>'


def report(*runs: str | Path, evaluations: Sequence[str | Path] = (), out: str | Path | None = None) -> Report:
    """Writes ``gpg-vl report`` of one run, or of several compared: one page that opens offline (docs/report.md).

    Args:
        runs: their folders
        evaluations: folders of ``evaluate``, besides those in the first run's folder
        out: the page; None: ``report.html`` in the first run's folder

    Raises:
        ValueError: a folder holds no run, or no evaluation
    """
    from gpg_vl.commands.report import write_report

    if not runs:
        raise ValueError("report: name the folder of a run (run.output_dir)")
    return Report(write_report([*map(Path, runs)], [*map(Path, evaluations)], None if out is None else Path(out)))
