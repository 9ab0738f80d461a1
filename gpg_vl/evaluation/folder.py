"""The folder of an evaluation: ``settings.json``, ``predictions.jsonl`` as they are made, ``results.json`` at the end.

A folder belongs to one evaluation, and to one process at a time. A killed evaluation is resumed. Predictions with
another model, other rows or other settings are refused, and nothing in the folder is changed.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gpg_vl.evaluation.predictions import Prediction, read_prediction
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.evaluation.settings import with_defaults
from gpg_vl.files import is_still, naming, replace_file
from gpg_vl.recipes import changed_keys

SETTINGS_FILE = "settings.json"
PREDICTIONS_FILE = "predictions.jsonl"
RESULTS_FILE = "results.json"


@contextmanager
def claim_evaluation(folder: Path) -> Iterator[EvaluationFolder]:
    """Inside the context, no other evaluation writes to the folder. Without predictions, nothing is left behind.

    Raises:
        ValueError: another process is using the folder, or it cannot be written
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    with _open_alone(folder / PREDICTIONS_FILE) as file:
        try:
            yield EvaluationFolder(folder, file)
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                (folder / PREDICTIONS_FILE).unlink(missing_ok=True)
                for each in itertools.takewhile(_is_empty, new):
                    each.rmdir()


def _open_alone(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ValueError(f"--out: cannot write to {path.parent} ({error.strerror}); choose another folder") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(
            f"--out: another evaluation is writing to {path.parent}; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        file.close()
        raise ValueError(f"--out: cannot lock a file in {path.parent} ({error.strerror}); choose another") from error
    return file


class EvaluationFolder:
    """The folder as used by one process, the first rank; created by ``claim_evaluation``."""

    def __init__(self, folder: Path, file: IO[str]):
        self._folder = folder
        self._file = file
        self._claimed = os.fstat(file.fileno())
        self._settings: dict[str, Any] = {}

    def resume(self, settings: Mapping[str, Any], rows: Sequence[EvaluationRow], num_samples: int) -> list[Prediction]:
        """Takes the folder for this evaluation; returns the predictions of an earlier process, in row order.

        Args:
            settings: everything that determines a prediction
            num_samples: completions per row

        Raises:
            ValueError: it holds another evaluation, or a damaged line
        """
        self._settings = json.loads(json.dumps(settings))
        self._refuse_other(lambda earlier: changed_keys(earlier, with_defaults(self._settings)))
        predictions = self._read()
        _refuse_strangers(self._folder / PREDICTIONS_FILE, predictions, rows, num_samples)
        return predictions

    def refuse_other(self, settings: Mapping[str, Any]) -> None:
        """
        Args:
            settings: those that are known so far; only what they have is compared

        Raises:
            ValueError: the folder holds another evaluation
        """
        known = json.loads(json.dumps(settings))
        self._refuse_other(lambda earlier: changed_keys(_those_of(known, earlier), known))

    def _refuse_other(self, compare: Callable[[Any], dict[str, tuple[Any, Any]]]) -> None:
        names = (PREDICTIONS_FILE, RESULTS_FILE, SETTINGS_FILE)
        there = [name for name in names if _has_content(self._folder / name)]
        if not there:
            return
        try:
            earlier = json.loads((self._folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            changes = compare(with_defaults(earlier))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"--out: {self._folder} holds {there[0]} without a readable {SETTINGS_FILE}; choose another --out"
            ) from error
        for key, (old, new) in changes.items():
            raise ValueError(
                f"--out: {self._folder} holds predictions with {key} = {_short(old)}, but this evaluation has "
                f"{_short(new)}; choose another --out"
            )

    def _read(self) -> list[Prediction]:
        """The complete predictions, each row once; an unfinished last line of a killed process is removed.

        Raises:
            ValueError: another line is damaged; names it
        """
        path = self._folder / PREDICTIONS_FILE
        content = path.read_bytes()
        whole = content.rpartition(b"\n")[0]
        predictions: dict[int, Prediction] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                prediction = read_prediction(line.decode())
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is damaged; remove it to evaluate its row again") from error
            predictions[prediction.row] = prediction
        if len(whole) + 1 < len(content):
            os.truncate(path, len(whole) + 1 if whole else 0)
        return [predictions[row] for row in sorted(predictions)]

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Adds predictions to the file; they are on disk when this returns. Settings are written before the first."""
        self._check_claim()
        if not (self._folder / SETTINGS_FILE).is_file():
            self._write(SETTINGS_FILE, self._settings)
        with naming(self._folder / PREDICTIONS_FILE):
            self._file.writelines(prediction.to_line() for prediction in predictions)
            self._file.flush()
            os.fsync(self._file.fileno())

    def write_results(self, results: Mapping[str, Any]) -> None:
        self._check_claim()
        self._write(RESULTS_FILE, results)

    def _check_claim(self) -> None:
        """The lock is that of a file: under its name there may be another by now, of another evaluation.

        Raises:
            ValueError: the folder was renamed, or the file removed
        """
        path = self._folder / PREDICTIONS_FILE
        if not is_still(path, self._claimed):
            raise ValueError(f"--out: {path} was renamed or removed meanwhile; nothing more is written, start again")

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        replace_file(self._folder / name, json.dumps(content, indent=1, ensure_ascii=False))


def _those_of(known: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What ``earlier`` has under the keys of ``known``, and of its sections."""
    there = {key: earlier[key] for key in known if key in earlier}
    return {
        key: {name: value[name] for name in known[key] if name in value}
        if isinstance(value, dict) and isinstance(known[key], dict)
        else value
        for key, value in there.items()
    }


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _refuse_strangers(
    path: Path, predictions: Sequence[Prediction], rows: Sequence[EvaluationRow], num_samples: int
) -> None:
    """
    Raises:
        ValueError: a prediction does not belong to the row with its number, or has another number of completions
    """
    for each in predictions:
        sample = rows[each.row].sample if each.row < len(rows) else None
        own = None if sample is None else (sample.id, sample.task, sample.question, sample.answer, num_samples)
        if own != (each.id, each.task, each.question, each.answer, len(each.completions)):
            raise ValueError(
                f"{path}: the prediction of row {each.row} ({each.id}) is from another evaluation; remove it, or "
                "choose another --out"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
