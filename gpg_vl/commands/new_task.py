"""``gpg-vl new-task NAME``: writes a working task, ``NAME.py``, and its test, ``test_NAME.py``."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

_TASK = Template('''\
"""$class_name: a word, right or wrong. Change ask, read and score to what you want to train."""

from gpg_vl.tasks.base import FORMAT_REQUEST, Task


class $class_name(Task):
    name = "$name"

    def ask(self, sample, views):
        return f"{sample.question} {FORMAT_REQUEST} The final answer is one word."

    def read(self, answer, sample, views):
        """What the model wrote between the answer tags, as a value; None if it cannot be read."""
        words = answer.lower().split()
        return words[0] if len(words) == 1 else None

    def score(self, answer, sample, views):
        """The reward parts, each in [0, 1]; ``sample`` has every column of the row, other ones in ``sample.meta``."""
        return {"correct": float(answer == sample.answer.lower())}
''')

_TEST = Template('''\
"""What $class_name rewards, and what it must not reward."""

from pathlib import Path

import pytest

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import gold_completion, score_completion

TASK = load_task(f"{Path(__file__).with_name('$name.py')}:$class_name")
SAMPLE = Sample("row-1", TASK.name, ("image.png",), "What is it?", "red")
VIEWS = [ImageView(640, 480, 644, 476, "grid_1000")]


def test_gold_answer_is_readable_and_earns_full_marks():
    TASK.check(SAMPLE)
    reward = score_completion(TASK, SAMPLE, gold_completion(TASK, SAMPLE, VIEWS), VIEWS)
    assert reward.status == "ok"
    assert reward.total == pytest.approx(sum(TASK.weights.values()))


@pytest.mark.parametrize("answer", ["", "blue", "red blue green", "red " * 1000, "not red"])
def test_other_answers_earn_nothing_but_their_format(answer):
    reward = score_completion(TASK, SAMPLE, f"<think>red</think><answer>{answer}</answer>", VIEWS)
    assert reward.parts[TASK.main_part] == 0.0


def test_question_is_asked():
    assert SAMPLE.question in TASK.ask(SAMPLE, VIEWS)
''')


def write_new_task(name: str, folder: Path) -> tuple[Path, str]:
    """Writes both files into ``folder``.

    Returns:
        the task's file, and the name of its class

    Raises:
        ValueError: ``name`` is not a lower-case Python name or is the name of a module, or one of the files exists
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} cannot name a task; use lower-case letters, digits and _, as in fine_print")
    class_name = "".join(word.capitalize() for word in name.split("_"))
    texts = {folder / f"{name}.py": _TASK, folder / f"test_{name}.py": _TEST}
    taken = [path.name for path in texts if path.exists()]
    if taken:
        raise ValueError(f"{taken[0]} already exists; choose another name or move it away")
    if importlib.util.find_spec(name) is not None:
        raise ValueError(f"{name!r} is already a Python module, and {name}.py would hide it; choose another name")
    for path, template in texts.items():
        with path.open("x", encoding="utf-8") as file:  # a link that leads nowhere yet does not count as existing
            file.write(template.substitute(name=name, class_name=class_name))
    return folder / f"{name}.py", class_name


def describe_new_task(path: Path, class_name: str) -> str:
    """What was written, and the commands that use it."""
    spec = f"{path}:{class_name}"
    return (
        f"wrote {path} and test_{path}\n\n"
        f"test it:   python -m pytest test_{path}\n"
        f"ask it:    gpg-vl ask MODEL --task {spec} --image FILE --question TEXT --answer GOLD --n 4\n"
        f"train it:  gpg-vl train RECIPE --task {spec} --data.train '[ROWS]'\n"
        f"score it:  gpg-vl eval MODEL --task {spec} --data ROWS"
    )
