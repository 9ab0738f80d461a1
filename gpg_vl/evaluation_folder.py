"""The folder of an evaluation: ``settings.json``, ``predictions.jsonl`` as they come, ``results.json`` at the end.

A folder belongs to one evaluation. What a killed one left is gone on from; predictions of another model, of other rows
or settings are refused, and nothing in the folder is changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpg_vl.checkpoint import changed_keys
from gpg_vl.predictions import Prediction, read_prediction

SETTINGS_FILE = "settings.json"
PREDICTIONS_FILE = "predictions.jsonl"
RESULTS_FILE = "results.json"


def probe_folder(folder: Path) -> None:
    """Refuses, before the work, a folder that could not be written; changes no file in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out: cannot write to {folder} ({error.strerror}); choose another folder") from error


class EvaluationFolder:
    """One process writes: the first rank."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        """Opens the folder for this evaluation; ``predictions`` holds what an earlier process made of it.

        Raises:
            ValueError: it holds predictions of another evaluation, or cannot be written
        """
        probe_folder(folder)
        self._folder = folder
        self._path = folder / PREDICTIONS_FILE
        self._refuse_other(json.loads(json.dumps(settings)))
        self.predictions = self._read()
        (folder / RESULTS_FILE).unlink(missing_ok=True)  # it is written again, at the end
        _replace(folder / SETTINGS_FILE, json.dumps(settings, indent=1, ensure_ascii=False))

    def _refuse_other(self, settings: Mapping[str, Any]) -> None:
        if not self._path.is_file() or not self._path.stat().st_size:
            return
        way_out = "choose another --out"
        try:
            earlier = json.loads((self._folder / SETTINGS_FILE).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--out: {self._folder} holds predictions without a readable {SETTINGS_FILE}; {way_out}"
            ) from error
        for key, (old, new) in changed_keys(earlier, settings).items():
            raise ValueError(
                f"--out: {self._folder} holds predictions with {key} = {_short(old)}, this evaluation has "
                f"{_short(new)}; {way_out}"
            )

    def _read(self) -> list[Prediction]:
        """The whole predictions, each row once; a line that a killed process left unfinished is cut off.

        Raises:
            ValueError: another line is damaged; names it
        """
        if not self._path.is_file():
            return []
        content = self._path.read_bytes()
        whole = content.rpartition(b"\n")[0]
        predictions: dict[int, Prediction] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                prediction = read_prediction(line.decode())
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{self._path}, line {number} is damaged; remove it to evaluate its row again"
                ) from error
            predictions[prediction.row] = prediction
        if len(whole) + 1 < len(content):
            os.truncate(self._path, len(whole) + 1 if whole else 0)
        return [predictions[row] for row in sorted(predictions)]

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Adds predictions to the file; on disk when this returns."""
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(prediction.to_line() for prediction in predictions)
            file.flush()
            os.fsync(file.fileno())

    def write_results(self, results: Mapping[str, Any]) -> None:
        _replace(self._folder / RESULTS_FILE, json.dumps(results, indent=1, ensure_ascii=False))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
