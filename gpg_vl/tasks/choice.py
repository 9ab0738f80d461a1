"""One of several choices, answered by its letter or by its text (SAT, CV-Bench).

The options are the row's column ``options`` or ``choices``, or those that the question letters, as ``(A) left``; a row
without either is answered by text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.choices import CHOICE
from gpg_vl.verifiers.choices import Chosen, choice_reader, read_gold
from gpg_vl.verifiers.options import row_options


@dataclass(frozen=True, slots=True)
class _PreparedChoice:
    """What the completions of a row share, prepared once: how to read an answer, and the gold answer."""

    sample: Sample
    read: Callable[[str], Chosen | str | None]
    gold: Chosen | str | None


class Choice(Task):
    name = "choice"
    legacy = CHOICE
    _last: _PreparedChoice | None = None

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is one of the choices."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Chosen | str | None:
        return self._prepared_for(sample).read(answer)

    def score(self, answer: Chosen | str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        return {"correct": float(is_same_choice(answer, self._prepared_for(sample).gold))}

    def check(self, sample: Sample) -> None:
        options = row_options(sample.meta, sample.question)
        gold = read_gold(sample.answer, options)
        shown = str([option[:40] for option in options[:8]])
        texts = [" ".join(option.split()) for option in options]
        named = texts[gold.index] if isinstance(gold, Chosen) else " ".join(sample.answer.split())
        if texts.count(named) > 1:
            raise ValueError(
                f"the answer {sample.answer[:40]!r} matches several of the choices {shown}, "
                f"which hold {named[:40]!r} more than once; write each choice once"
            )
        if gold is None:
            raise ValueError(
                f"the answer {sample.answer[:40]!r} is not one of the choices {shown}; write its letter or text"
            )

    def _prepared_for(self, sample: Sample) -> _PreparedChoice:
        """Completions of one row come one after the other: the last row is kept."""
        last = self._last
        if last is None or last.sample is not sample:
            options = row_options(sample.meta, sample.question)
            reader, gold = choice_reader(tuple(options)), read_gold(sample.answer, options)
            last = self._last = _PreparedChoice(sample, reader, gold)
        return last


def is_same_choice(answer: Chosen | str, gold: Chosen | str | None) -> bool:
    """Whether both are the same option, or the same letter said alone, or without options the same text.

    Without options a letter with a text is not the letter: the text may be that of another option.
    """
    if isinstance(answer, Chosen) and isinstance(gold, Chosen):
        return answer.index == gold.index or bool(answer.letter and answer.letter == gold.letter)
    if isinstance(answer, str) and isinstance(gold, str):
        return answer == gold
    return False
