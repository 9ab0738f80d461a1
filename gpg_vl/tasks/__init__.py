"""The kit's tasks by name, and the user's own tasks by path."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

from gpg_vl.tasks.base import Task
from gpg_vl.tasks.choice import Choice
from gpg_vl.tasks.classification import Classification
from gpg_vl.tasks.counting import Counting
from gpg_vl.tasks.detection import Detection
from gpg_vl.tasks.geometry import Geometry
from gpg_vl.tasks.grounding import Grounding
from gpg_vl.user_code import describe_error, load_own_class

TASKS: dict[str, Task] = {
    "choice": Choice(),
    "classification": Classification(),
    "counting": Counting(),
    "detection": Detection(),
    "geometry": Geometry(),
    "grounding": Grounding(),
}


def load_task(spec: str) -> Task:
    """The task with a name, or of ``path/to/file.py:ClassName``. A file is run only once per process.

    Raises:
        ValueError: no such task, file or class, the file does not import, or the class is not a complete task
    """
    if spec in TASKS:
        return TASKS[spec]
    path, _, class_name = spec.rpartition(":")
    if path.endswith(".py"):
        return _load_own_task(Path(path).resolve(), class_name)
    if spec.endswith(".py"):
        raise ValueError(f"task {spec!r} names no class in the file; write it as {spec}:ClassName")
    nearest = difflib.get_close_matches(spec, TASKS, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"no task {spec[:80]!r}; {hint}the tasks are {list(TASKS)}, or path/to/file.py:ClassName")


@functools.cache
def _load_own_task(path: Path, class_name: str) -> Task:
    task_class = load_own_class(path, class_name, Task, "task")  # type: ignore[type-abstract]
    if not task_class.name:
        raise ValueError(f"{class_name} in {path} has no name; add a line such as name = 'my_task' to the class")
    if task_class.main_part not in task_class.weights:
        raise ValueError(
            f"{class_name} in {path}: main_part is {task_class.main_part!r}, which its weights do not contain; "
            f"set main_part to one of {sorted(task_class.weights)}"
        )
    try:
        return task_class()
    except Exception as error:  # the constructor is the user's code
        raise ValueError(f"{class_name} in {path} cannot be created: {describe_error(error)}") from error
