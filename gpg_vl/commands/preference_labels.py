"""Where ``gpg-vl prefer`` gets the label of a pair: a file, the task's own score, or somebody at the terminal."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from gpg_vl.data.images import open_image
from gpg_vl.data.json_text import read_object
from gpg_vl.records import ScoredGroup
from gpg_vl.screen import tell

Preferred = Literal["first", "second", "same"]
VALUES: dict[Preferred, float] = {"first": 1.0, "second": 0.0, "same": 0.5}
_SWAPPED: dict[Preferred, Preferred] = {"first": "second", "second": "first", "same": "same"}


@dataclass(frozen=True, slots=True)
class Preference:
    """One line of a file of preferences."""

    id: str  # of the row
    first: str  # the two answers
    second: str
    preferred: Preferred


class Labels(Protocol):
    def ask(self, group: ScoredGroup, first: int, second: int) -> Preferred:
        """Which of two completions of a group is better."""


class ScoreLabels:
    """The task's own reward."""

    def ask(self, group: ScoredGroup, first: int, second: int) -> Preferred:
        a, b = group.rewards[first].total, group.rewards[second].total
        return "same" if a == b else "first" if a > b else "second"


class FileLabels:
    """Preferences that are there already."""

    def __init__(self, preferences: list[Preference]):
        self._found: dict[tuple[str, str, str], Preferred] = {}
        for each in preferences:  # the last word counts, in whichever order it names the two
            self._found[each.id, each.first, each.second] = each.preferred
            self._found[each.id, each.second, each.first] = _SWAPPED[each.preferred]

    def get(self, group: ScoredGroup, first: int, second: int) -> Preferred | None:
        texts = group.completions[first].text, group.completions[second].text
        return self._found.get((group.prompt.sample.id, *texts))

    def ask(self, group: ScoredGroup, first: int, second: int) -> Preferred:
        found = self.get(group, first, second)
        assert found is not None, "only pairs of the file are asked for"
        return found


class TerminalLabels:
    """Somebody who reads the question and two answers, and types 1, 2 or 0."""

    def __init__(self, out: Path):
        self._images = out / "images"

    def ask(self, group: ScoredGroup, first: int, second: int) -> Preferred:
        """
        Raises:
            ValueError: the input has ended; what was answered before is kept
        """
        sample = group.prompt.sample
        tell(f"\nquestion: {sample.question}")
        for number, image in enumerate(sample.images):
            tell(f"image: {image if isinstance(image, str) else self._write(sample.id, number, image)}")
        tell(f"1: {group.completions[first].text}\n2: {group.completions[second].text}")
        while True:
            tell("better: 1, 2, or 0 for the same: ", end="")
            line = sys.stdin.readline()
            if not line:
                raise ValueError("the input has ended before all pairs were labelled; run the same command to continue")
            if line.strip() in ("1", "2", "0"):
                return {"1": "first", "2": "second", "0": "same"}[line.strip()]  # type: ignore[return-value]

    def _write(self, sample_id: str, number: int, image: bytes) -> Path:
        """An image that is a column of the rows, as a file to look at."""
        self._images.mkdir(exist_ok=True)
        path = self._images / f"{hashlib.blake2b(sample_id.encode(), digest_size=6).hexdigest()}-{number}.png"
        open_image(image).save(path)
        return path


class KeptLabels:
    """Labels that are written down as they come, and not asked for again."""

    def __init__(self, labels: Labels, path: Path):
        self._labels = labels
        self._path = path
        self._kept = FileLabels(read_preferences(path) if path.is_file() else [])

    def ask(self, group: ScoredGroup, first: int, second: int) -> Preferred:
        kept = self._kept.get(group, first, second)
        if kept is not None:
            return kept
        preferred = self._labels.ask(group, first, second)
        texts = group.completions[first].text, group.completions[second].text
        line = Preference(group.prompt.sample.id, *texts, preferred)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")
        return preferred


def read_preferences(path: Path) -> list[Preference]:
    """
    Raises:
        ValueError: no such file, or a line that is no preference; names file and line
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--from: {path} cannot be read: {error}") from error
    return [_read_line(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _read_line(where: str, line: str) -> Preference:
    try:
        plain: Mapping[str, object] = read_object(line)
    except ValueError as error:
        raise ValueError(f"{where} is {error}") from error
    for key in ("id", "first", "second", "preferred"):
        if not isinstance(plain.get(key), str):
            raise ValueError(f"{where} has no text {key!r}; a preference has id, first, second and preferred")
    if plain["preferred"] not in get_args(Preferred):
        raise ValueError(f"{where}: preferred is {plain['preferred']!r}; write first, second or same")
    return Preference(*(plain[key] for key in ("id", "first", "second", "preferred")))  # type: ignore[arg-type]
