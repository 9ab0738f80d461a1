"""Numbers and pictures of a run, to the trackers that ``run.trackers`` names, by accelerate's interface.

None is needed, and none can end a run: what one cannot do is said once. They leave no trace in the random numbers of
the run, which is the same with other trackers or none.
"""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
from PIL.Image import Image

from gpg_vl.files import replace_file
from gpg_vl.processes.interrupts import INSISTING, WARNINGS
from gpg_vl.run.random_state import without_trace
from gpg_vl.run.unwritable import Lacks

PROJECT = "gpg-vl"
NAMES_FILE = "trackers.json"
"""Under which names the trackers know the run, so that it goes on in the same curves when it is resumed."""


class Trackers:
    def __init__(
        self, names: Sequence[str], output_dir: Path, first_step: int, recipe: Mapping[str, Any], lacks: Lacks
    ):
        """
        Args:
            first_step: finished steps of the run
            recipe: as plain values, which the trackers keep with a new run
        """
        self._folder = output_dir
        self._lacks = lacks
        self._open: dict[str, Any] = {}
        known = _read_names(output_dir) if first_step else {}
        label = known.get("run", f"{output_dir.resolve().name}-{secrets.token_hex(4)}")
        for name in names:
            with self._going_on(name), _keeping_signals():
                tracker = _make(name, output_dir, label, known.get(name), first_step)
                tracker.start()
                self._open[name] = tracker
                if not first_step and name != "tensorboard":  # which shows them as runs of their own
                    tracker.store_init_configuration({key: _plain(value) for key, value in flatten(recipe)})
        if self._open.keys() - {"tensorboard"}:
            with self._going_on(NAMES_FILE):
                self._write_names(known, label)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Nested values become ``a/b``."""
        numbers = {name: float(value) for name, value in flatten(metrics) if isinstance(value, int | float)}
        for name, tracker in self._open.items():
            with self._going_on(name):
                tracker.log(numbers, step=step)

    def show(self, step: int, pictures: Mapping[str, Image]) -> None:
        for name, tracker in self._open.items():
            with self._going_on(name):
                _SHOW.get(name, _show_list)(tracker, pictures, step)

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def close(self) -> None:
        for name, tracker in self._open.items():
            with self._going_on(name):
                tracker.finish()

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        with self._lacks.tolerated(name), without_trace():
            yield

    def _write_names(self, known: Mapping[str, str], label: str) -> None:
        mlflow = self._open.get("mlflow")
        own = {} if mlflow is None else {"mlflow": mlflow.tracker.info.run_id}
        replace_file(self._folder / NAMES_FILE, json.dumps({**known, "run": label, **own}))


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """What a signal does is the run's own matter; a tracker may take Ctrl-C for itself."""
    handlers = {each: signal.getsignal(each) for each in (*INSISTING, *WARNINGS)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)


def _read_names(folder: Path) -> dict[str, str]:
    try:
        names = json.loads((folder / NAMES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of a run that had no such tracker
        return {}
    return {key: value for key, value in names.items() if isinstance(value, str)} if isinstance(names, dict) else {}


def _make(name: str, folder: Path, label: str, known: str | None, first_step: int) -> Any:
    """
    Args:
        label: what the run is called
        known: what the tracker itself has called it, if it is resumed
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        return kind("tensorboard", str(folder), purge_step=first_step + 1)
    own: dict[str, dict[str, Any]] = {
        "wandb": {
            "name": label,
            "id": label,
            "resume": "allow",
            "dir": str(folder),
            "settings": {"console": "off"},  # what is painted in place is no log
        },
        "trackio": {"name": label, "resume": "allow"},
        "mlflow": {"run_name": label, "run_id": known},
        "swanlab": {"name": label, "id": label, "resume": "allow", "log_dir": str(folder / "swanlab")},
    }
    return kind(PROJECT, **own[name])


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with their path, ``a/b``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)


def _show_list(tracker: Any, pictures: Mapping[str, Image], step: int) -> None:
    tracker.log_images({name: [picture] for name, picture in pictures.items()}, step=step)


def _show_arrays(tracker: Any, pictures: Mapping[str, Image], step: int) -> None:
    arrays = {name: numpy.asarray(picture)[None] for name, picture in pictures.items()}  # [1, height, width, 3]
    tracker.log_images(arrays, step=step, dataformats="NHWC")


def _show_in_trackio(tracker: Any, pictures: Mapping[str, Image], step: int) -> None:
    import trackio

    tracker.log({name: trackio.Image(picture) for name, picture in pictures.items()}, step=step)


def _show_in_mlflow(tracker: Any, pictures: Mapping[str, Image], step: int) -> None:
    import mlflow

    for name, picture in pictures.items():
        mlflow.log_image(picture, key=name, step=step)


_SHOW: dict[str, Callable[[Any, Mapping[str, Image], int], None]] = {
    "tensorboard": _show_arrays,
    "trackio": _show_in_trackio,
    "mlflow": _show_in_mlflow,
}
"""Those whose way is not that of the others."""
